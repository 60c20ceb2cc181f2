"""Timing in pairs: both sides run in turn in one process, and the median of each is compared. Answers are compared first."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Disagreement(Exception):
    """The two sides do not give the same answer, so their times mean nothing."""


@dataclass
class Timing:
    """One cell of the table."""

    case: str
    step: str
    faiss_s: float
    ours_s: float
    runs: int
    nq: int = 0
    k: int = 0
    agreement: float = 1.0
    note: str = ""
    ratio: float = field(init=False)

    def __post_init__(self) -> None:
        self.ratio = self.faiss_s / self.ours_s


def once(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turn(
    theirs: Callable[[], Any], ours: Callable[[], Any], seconds: float, least: int = 3, most: int = 200
) -> tuple[float, float, int]:
    """The median time of each, run alternately until `seconds` are used; calls are timed in bundles of up to 10 ms."""
    once(theirs), once(ours)  # caches are warm and kernels compiled
    bundle = max(1, int(0.01 / max(once(theirs), once(ours), 1e-6)))

    def bundled(call: Callable[[], Any]) -> float:
        # FAISS's OpenMP threads spin for a moment after their work; what runs next should not pay for that.
        time.sleep(0.003)
        started = time.perf_counter()
        for _ in range(bundle):
            call()
        return (time.perf_counter() - started) / bundle

    pairs: list[tuple[float, float]] = []
    deadline = time.perf_counter() + seconds
    while len(pairs) < least or (len(pairs) < most and time.perf_counter() < deadline):
        if len(pairs) % 2:
            second, first = bundled(ours), bundled(theirs)
        else:
            first, second = bundled(theirs), bundled(ours)
        pairs.append((first, second))
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs), len(pairs)


def agree(expected: tuple[Any, Any], got: tuple[Any, Any], needed: float) -> float:
    """The share of neighbours that both sides name, a tie at the same distance counted as named; raise when too small."""
    (d_expected, i_expected), (d_got, i_got) = expected, got
    if d_got.shape != d_expected.shape:
        raise Disagreement(f"shapes {d_got.shape} and {d_expected.shape}")
    same = np.array([[i in row for i in found] for row, found in zip(map(set, i_expected.tolist()), i_got.tolist())])
    tied = np.isclose(d_got, d_expected, rtol=1e-3, atol=1e-3)
    share = float((same | tied).mean())
    if share < needed:
        raise Disagreement(f"{share:.4f} of the neighbours agree, {needed} needed")
    return share


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")
