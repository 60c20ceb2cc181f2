"""What auto-tuning judges by and keeps: criteria of how good answers are, and the operating points found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array, as_tensor
from tsscompat.devices import CPU
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.attributes import Stated, int64, real, text, vector
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector, Int64Vector, ObjectVector


class AutoTuneCriterion(Stated):
    """How good the answers of a search are, between 0 and 1."""

    nq = int64(0, "queries")
    nnn = int64(0, "neighbours to search for")
    gt_nnn = int64(0, "true neighbours known of each query")
    gt_D = vector(Float32Vector, "their distances")
    gt_I = vector(Int64Vector, "their ids")

    def __init__(self, nq: int, nnn: int) -> None:
        super().__init__()
        self.nq, self.nnn = nq, nnn

    def set_groundtruth(self, D: Array | None, I: Array) -> None:
        """Say what the true neighbours are: distances (or None) and ids, a row for each query."""
        expect(D is None or tuple(D.shape) == tuple(I.shape), "distances and ids have different shapes")
        self.nq, self.gt_nnn = I.shape
        if D is not None:
            self.gt_D.tensor = as_tensor(D, torch.float32, CPU)[0].clone()
        self.gt_I.tensor = as_tensor(I, torch.int64, CPU)[0].clone()

    def set_groundtruth_c(self, gt_nnn: int, gt_D_in: Any, gt_I_in: Any) -> None:
        """The same from pointers, for the nq that is set."""
        check(gt_I_in is not None, "set_groundtruth: gt_I must be non-null")
        distances = None if gt_D_in is None else behind(gt_D_in, self.nq, gt_nnn)
        self.set_groundtruth(distances, behind(gt_I_in, self.nq, gt_nnn))

    def evaluate(self, D: Array, I: Array) -> float:
        """How good the answer of a search is."""
        shape = (self.nq, self.nnn)
        expect(tuple(I.shape) == shape and tuple(D.shape) == shape, "expected answers of shape {}, got {}", shape, tuple(I.shape))
        return self._evaluate(as_tensor(I, torch.int64, CPU)[0])

    def evaluate_c(self, D: Any, I: Any) -> float:
        """The same from pointers."""
        return self._evaluate(behind(I, self.nq, self.nnn))

    def _evaluate(self, labels: Tensor) -> float:
        check(False, "{} says nothing of how answers are judged", type(self).__name__)
        raise AssertionError

    def _truth(self, needed: int, R: int) -> Tensor:
        """The first `needed` true ids of each query."""
        ready = self.gt_I.size() == self.gt_nnn * self.nq and self.gt_nnn >= needed and self.nnn >= R
        check(ready, "ground truth not initialized")
        return self.gt_I.tensor.view(self.nq, self.gt_nnn)[:, :needed]


class OneRecallAtRCriterion(AutoTuneCriterion):
    """The share of queries whose nearest neighbour is among the first R results."""

    R = int64(0)

    def __init__(self, nq: int, R: int) -> None:
        super().__init__(nq, R)
        self.R = R

    def _evaluate(self, labels: Tensor) -> float:
        truth = self._truth(1, self.R)
        return int((labels[:, : self.R] == truth).any(1).sum()) / self.nq


class IntersectionCriterion(AutoTuneCriterion):
    """The share of the R true neighbours that is among the first R results."""

    R = int64(0)

    def __init__(self, nq: int, R: int) -> None:
        super().__init__(nq, R)
        self.R = R

    def _evaluate(self, labels: Tensor) -> float:
        truth = self._truth(self.R, self.R).sort(1).values
        found = labels[:, : self.R].contiguous().sort(1).values
        # Each distinct id counts once, padding never.
        new = torch.ones_like(truth, dtype=torch.bool)
        new[:, 1:] = truth[:, 1:] != truth[:, :-1]
        place = torch.searchsorted(found, truth.contiguous()).clamp(max=self.R - 1)
        hits = new & (truth >= 0) & (found.gather(1, place) == truth)
        return int(hits.sum()) / (self.nq * self.R)


class OperatingPoint(Stated):
    """One setting: how good its answers are and what they cost."""

    perf = real(0.0, "what the criterion said")
    t = real(0.0, "seconds")
    key = text("", "the setting in words")
    cno = int64(0, "the setting's number")

    def __init__(self, perf: float = 0.0, t: float = 0.0, key: str = "", cno: int = 0) -> None:
        super().__init__()
        self.perf, self.t, self.key, self.cno = perf, t, key, cno


class OperatingPointVector(ObjectVector):
    """std::vector of operating points."""


class OperatingPoints(Stated):
    """Settings that were tried, and those of them that no other beats in both quality and time."""

    all_pts = vector(OperatingPointVector, "in the order in which they were added")
    optimal_pts = vector(OperatingPointVector, "by rising quality; the first is doing nothing")

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Forget all but doing nothing."""
        self.all_pts.clear()
        self.optimal_pts.assign([OperatingPoint(0.0, 0.0, "", -1)])

    def add(self, perf: float, t: float, key: str, cno: int = 0) -> bool:
        """Note a setting; whether it is, for now, one of the best."""
        point = OperatingPoint(perf, t, key, cno)
        self.all_pts.push_back(point)
        best = self.optimal_pts.items
        # Nothing of quality 0 is faster than doing nothing.
        if perf == 0 or any(other.perf >= perf and other.t <= t for other in best):
            return False
        best[:] = sorted([other for other in best if other.perf > perf or other.t < t] + [point], key=lambda p: p.perf)
        return True

    def merge_with(self, other: OperatingPoints, prefix: str = "") -> int:
        """Note another's settings, their keys prefixed; how many of them were among the best."""
        return sum(self.add(point.perf, point.t, prefix + point.key, point.cno) for point in other.all_pts)

    def t_for_perf(self, perf: float) -> float:
        """The time that a quality takes at least, as far as known."""
        return next((float(point.t) for point in self.optimal_pts if point.perf >= perf), 1e50)

    def display(self, only_optimal: bool = True) -> None:
        """Print the settings."""
        print(f"Tested {len(self.all_pts)} operating points, {len(self.optimal_pts)} ones are Pareto-optimal:")
        best = {point.cno for point in self.optimal_pts}
        for point in self.optimal_pts if only_optimal else self.all_pts:
            star = "*" if not only_optimal and point.cno in best else ""
            print(f"cno={point.cno} key={point.key} perf={point.perf:.4f} t={point.t:.3f} {star}")

    def all_to_gnuplot(self, fname: str) -> None:
        """Write quality, time and key of all settings."""
        Path(fname).write_text("".join(f"{p.perf:g} {p.t:g} {p.key}\n" for p in self.all_pts))

    def optimal_to_gnuplot(self, fname: str) -> None:
        """Write the best settings as a staircase."""
        lines, before = [], 0.0
        for point in self.optimal_pts:
            lines.append(f"{before:g} {point.t:g}\n{point.perf:g} {point.t:g} {point.key}\n")
            before = point.perf
        Path(fname).write_text("".join(lines))


__all__ = [
    "AutoTuneCriterion",
    "IntersectionCriterion",
    "OneRecallAtRCriterion",
    "OperatingPoint",
    "OperatingPointVector",
    "OperatingPoints",
]
