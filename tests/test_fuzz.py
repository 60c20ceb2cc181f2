"""Hostile files, a few of those that `nox -s fuzz` tries at length (tests/fuzzing.py)."""

from __future__ import annotations

import contextlib
import io
import random

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


def test_nesting_has_an_end():
    inner = fuzzing.files()["IDMap,Flat"]
    data = inner[:37] * 500 + inner[37:]
    with pytest.raises(RuntimeError, match="deep"):
        tsscompat.deserialize_index(np.frombuffer(data, np.uint8))
