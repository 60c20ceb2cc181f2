"""Hostile files, a few of those that `nox -s fuzz` tries at length (tests/fuzzing.py)."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import time

import fuzzing
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tsscompat

NAMES = sorted(fuzzing.files())


def quietly(data: bytes) -> str:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return fuzzing.outcome(data)


@settings(max_examples=700, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NAMES), st.integers(0, 2**32 - 1))
def test_a_changed_file_is_refused_or_searched(name, seed):
    assert quietly(fuzzing.changed(name, random.Random(seed))) in fuzzing.SOUND


def test_a_turned_bit_is_refused_or_searched():
    for name, bit in fuzzing.sweep()[::113]:  # every file, not always the same bits
        assert quietly(fuzzing.turned(name, bit)) in fuzzing.SOUND, (name, bit)


@pytest.mark.parametrize("name", NAMES)
def test_sound_files_are_sound(name):
    assert quietly(fuzzing.files()[name]) in ("searched", "unsearchable")


def test_a_wrong_id_would_be_seen(monkeypatch):
    monkeypatch.setattr(tsscompat.IndexFlat, "_search", lambda self, x, k, params: (x[:, :k], (x[:, :k] * 0 + 99).long()))
    assert fuzzing.outcome(fuzzing.files()["Flat"]).startswith("wrong ids")


def test_a_distance_of_nan_would_be_seen(monkeypatch):
    monkeypatch.setattr(tsscompat.IndexFlat, "_search", lambda self, x, k, params: (x[:, :k] * np.nan, (x[:, :k] * 0).long()))
    assert fuzzing.outcome(fuzzing.files()["Flat"]) == "NaN"


def _misbehave(number):
    """What a file could make of its reader, by number."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    elif number == 5:
        while True:
            pass
    elif number == 7:
        time.sleep(60)
    elif number == 11:
        np.empty(2 * fuzzing.MEMORY, dtype=np.uint8)
    elif number == 12:
        raise ZeroDivisionError("of a kernel")
    return "refused"


def test_whatever_a_file_does_is_an_outcome(monkeypatch, capsys):
    monkeypatch.setattr(fuzzing, "BATCH", 8)
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    monkeypatch.setattr(fuzzing, "WAITING", 2)
    monkeypatch.setattr(fuzzing, "warm", lambda: None)
    monkeypatch.setattr(fuzzing, "hostile", lambda seed, number, swept: number)
    monkeypatch.setattr(fuzzing, "outcome", _misbehave)
    assert fuzzing.run(1, range(16), 2, swept=False) == {"refused": 11, "fault": 5}
    told = {int(line.split()[1][:-1]): line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()}
    assert sorted(told) == [3, 5, 7, 11, 12]
    assert told[3] == "died with -9" and told[5] == told[7] == "took too long"
    assert "MemoryError" in told[11] and told[12] == "ZeroDivisionError: of a kernel"


def test_nesting_has_an_end():
    inner = fuzzing.files()["IDMap,Flat"]
    data = inner[:37] * 500 + inner[37:]
    with pytest.raises(RuntimeError, match="deep"):
        tsscompat.deserialize_index(np.frombuffer(data, np.uint8))
