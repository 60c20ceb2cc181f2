"""Judging search results: overlap, precision and recall, comparison up to ties, operating points, timing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tsscompat.kernels import threads

Table = np.ndarray[Any, Any]

# -- how good results are -----------------------------------------------------------------------------------------------------------


def knn_intersection_measure(I1: Table, I2: Table) -> float:
    """The share of results that two tables of neighbours have in common, row by row."""
    if I1.shape != I2.shape:
        raise AssertionError(f"tables of shape {I1.shape} and {I2.shape}")
    return sum(np.intersect1d(a, b).size for a, b in zip(I1, I2)) / I1.size


def filter_range_results(lims: Table, D: Table, I: Table, thresh: float) -> tuple[Table, Table, Table]:
    """The results of a range search below a threshold."""
    mask = thresh > D
    before = np.concatenate([[0], np.cumsum(mask)])
    return before[lims.astype(np.int64)].astype(lims.dtype), D[mask], I[mask]


def _owners(lims: Table) -> Table:
    """The query of each result."""
    return np.repeat(np.arange(len(lims) - 1), np.diff(lims).astype(np.int64))


def range_PR(lims_ref: Table, Iref: Table, lims_new: Table, Inew: Table, mode: str = "overall") -> Any:
    """Precision and recall of range search results, by ids."""
    nq = len(lims_ref) - 1
    if len(lims_new) - 1 != nq:
        raise AssertionError(f"results of {nq} and {len(lims_new) - 1} queries")
    common = [
        np.intersect1d(Iref[int(lims_ref[i]) : int(lims_ref[i + 1])], Inew[int(lims_new[i]) : int(lims_new[i + 1])]).size
        for i in range(nq)
    ]
    found = np.array(common, dtype=np.int64)
    return counts_to_PR(np.diff(lims_ref.astype(np.int64)), np.diff(lims_new.astype(np.int64)), found, mode=mode)


def counts_to_PR(ngt: Table, nres: Table, ninter: Table, mode: str = "overall") -> Any:
    """Precision and recall from the numbers of true, found and rightly found results of each query.

    "overall": of all results together; "average": the mean over queries, one without results counting as precise, one without truth as
    fully recalled when nothing was found.
    """
    if mode == "overall":
        truths, results, hits = ngt.sum(), nres.sum(), ninter.sum()
        precision = hits / results if results else 1.0
        recall = hits / truths if truths else float(results == 0)
        return precision, recall
    if mode != "average":
        raise AssertionError(f"mode is overall or average, not {mode!r}")
    precisions = np.where(nres > 0, ninter / np.maximum(nres, 1), 1.0)
    recalls = np.where(ngt > 0, ninter / np.maximum(ngt, 1), (nres == 0).astype(float))
    return precisions.mean(), recalls.mean()


def sort_range_res_2(lims: Table, D: Table, I: Table) -> tuple[Table, Table]:
    """Ids and distances of range search results, each query's in order of distance."""
    order = np.lexsort((D, _owners(lims)))
    return I[order], D[order]


def sort_range_res_1(lims: Table, I: Table) -> Table:
    """Ids of range search results, each query's in order."""
    return I[np.lexsort((I, _owners(lims)))]


def range_PR_multiple_thresholds(
    lims_ref: Table,
    Iref: Table,
    lims_new: Table,
    Dnew: Table,
    Inew: Table,
    thresholds: Any,
    mode: str = "overall",
    do_sort: str = "ref,new",
) -> tuple[Table, Table]:
    """Precision and recall of range search results cut at each of several thresholds."""
    if "ref" in do_sort:
        Iref = sort_range_res_1(lims_ref, Iref)
    if "new" in do_sort:
        Inew, Dnew = sort_range_res_2(lims_new, Dnew, Inew)
    nq, nt = len(lims_ref) - 1, len(thresholds)
    counts = np.zeros((3, nt, nq), dtype=np.int64)
    for q in range(nq):
        truth = Iref[int(lims_ref[q]) : int(lims_ref[q + 1])]
        ids, distances = (a[int(lims_new[q]) : int(lims_new[q + 1])] for a in (Inew, Dnew))
        kept = np.searchsorted(distances, thresholds)
        right = np.concatenate([[0], np.cumsum(np.isin(ids, truth))])
        counts[0, :, q], counts[1, :, q], counts[2, :, q] = len(truth), kept, right[kept]
    pairs = [counts_to_PR(counts[0, t], counts[1, t], counts[2, t], mode=mode) for t in range(nt)]
    return np.array([p for p, _ in pairs], dtype=float), np.array([r for _, r in pairs], dtype=float)


# -- comparison with a reference ----------------------------------------------------------------------------------------------------


def _levels(first: Table, second: Table, gap: float) -> Table:
    """For each of the first distances the number of its cluster among both rows', values closer than `gap` being one."""
    values = np.sort(np.concatenate([first, second]))
    starts = values[np.concatenate([[True], np.diff(values) > gap])]
    return np.searchsorted(starts, first, side="right") - 1


def check_ref_knn_with_draws(Dref: Table, Iref: Table, Dnew: Table, Inew: Table, rtol: float = 1e-5, atol: float = 0) -> None:
    """Raise unless two answers are the same up to the order of ids whose distances are equal."""
    np.testing.assert_allclose(Dref, Dnew, rtol=rtol, atol=atol)
    for row in np.flatnonzero((Iref != Inew).any(1)):
        mine = _levels(Dref[row], Dnew[row], rtol * Dref[row].max() + atol)
        for level in np.unique(mine):
            # Which of the ids at the last distance made it into the k is a matter of chance.
            if level != mine[-1] and set(Iref[row, mine == level]) != set(Inew[row, mine == level]):
                raise AssertionError(f"row {row}: {set(Iref[row, mine == level])} against {set(Inew[row, mine == level])}")


def check_ref_range_results(Lref: Table, Dref: Table, Iref: Table, Lnew: Table, Dnew: Table, Inew: Table) -> None:
    """Raise unless two answers of a range search are the same up to order."""
    np.testing.assert_array_equal(Lref, Lnew)
    owners = _owners(Lref)
    mine, theirs = np.lexsort((Iref, owners)), np.lexsort((Inew, owners))
    np.testing.assert_array_equal(Iref[mine], Inew[theirs])
    np.testing.assert_array_almost_equal(Dref[mine], Dnew[theirs], decimal=5)


# -- operating points ---------------------------------------------------------------------------------------------------------------


class OperatingPoints:
    """Settings by key with what they reach and cost; those that none beats in both are `operating_points`."""

    def __init__(self) -> None:
        self.operating_points: list[tuple[Any, float, float]] = []
        self.suboptimal_points: list[tuple[Any, float, float]] = []

    def compare_keys(self, k1: Any, k2: Any) -> int:
        """1 if k1 costs at least as much as k2, -1 if at most, 0 if that cannot be told."""
        raise NotImplementedError("a subclass says how keys compare")

    def do_nothing_key(self) -> Any:
        """The key of the cheapest setting."""
        raise NotImplementedError("a subclass says which key is cheapest")

    def is_pareto_optimal(self, perf_new: float, t_new: float) -> bool:
        """Whether no setting so far is at least as good and as fast."""
        return not any(perf >= perf_new and t <= t_new for _, perf, t in self.operating_points)

    def predict_bounds(self, key: Any) -> tuple[float, float]:
        """The most that a setting can reach and the least that it can cost, going by the others."""
        best, fastest = 1.0, 0.0
        for other, perf, t in self.operating_points + self.suboptimal_points:
            relation = self.compare_keys(key, other)
            if relation > 0:
                fastest = max(fastest, t)
            elif relation < 0:
                best = min(best, perf)
        return best, fastest

    def should_run_experiment(self, key: Any) -> bool:
        """Whether a setting may turn out to be one of the best."""
        return self.is_pareto_optimal(*self.predict_bounds(key))

    def add_operating_point(self, key: Any, perf: float, t: float) -> bool:
        """Note a setting; whether it is one of the best."""
        if not self.is_pareto_optimal(perf, t):
            self.suboptimal_points.append((key, perf, t))
            return False
        beaten = [point for point in self.operating_points if perf >= point[1] and t <= point[2]]
        self.suboptimal_points += beaten
        self.operating_points = [p for p in self.operating_points if not (perf >= p[1] and t <= p[2])] + [(key, perf, t)]
        return True


class OperatingPointsWithRanges(OperatingPoints):
    """Settings of several parameters, each from a list of values by rising cost; a key holds a position in each list."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[str, list[Any]]] = []

    def add_range(self, name: str, values: list[Any]) -> None:
        self.ranges.append((name, values))

    def compare_keys(self, k1: Any, k2: Any) -> int:
        if np.all(k1 >= k2):
            return 1
        return -1 if np.all(k2 >= k1) else 0

    def do_nothing_key(self) -> Table:
        return np.zeros(len(self.ranges), dtype=int)

    def num_experiments(self) -> int:
        """How many settings there are."""
        return math.prod(len(values) for _, values in self.ranges)

    def sample_experiments(self, n_autotune: int, rs: Any = None) -> list[int]:
        """Numbers of at most n_autotune settings (0: all), the cheapest and the dearest first, the others at random."""
        if n_autotune == 1:
            raise AssertionError("the first and the last setting are always among the experiments")
        total = self.num_experiments()
        draw = np.random.RandomState(123)
        if n_autotune == 0 or total < n_autotune:
            others = draw.permutation(total - 2)
        else:
            others = draw.choice(total - 2, size=n_autotune - 2, replace=False)
        return [0, total - 1, *(int(number) + 1 for number in others)]

    def cno_to_key(self, cno: int) -> Table:
        """The key of a setting's number."""
        key = self.do_nothing_key()
        for i, (_, values) in enumerate(self.ranges):
            cno, key[i] = divmod(cno, len(values))
        if cno:
            raise AssertionError("there are fewer settings than that")
        return key

    def get_parameters(self, k: Any) -> dict[str, Any]:
        """A key as values by name."""
        return {name: values[k[i]] for i, (name, values) in enumerate(self.ranges)}

    def restrict_range(self, name: str, max_val: Any) -> None:
        """Keep only the values of a parameter below a bound."""
        for known, values in self.ranges:
            if known == name:
                values[:] = [value for value in values if value < max_val]
                return
        raise RuntimeError(f"parameter {name} not found")


# -- timing -------------------------------------------------------------------------------------------------------------------------


class RepeatTimer:
    """Times the body of a loop over it: `runs` times, the first `warmup` of them not counted, on `nt` threads (-1: as they are)."""

    def __init__(self, warmup: int = 0, nt: int = -1, runs: int = 1, max_secs: float = math.inf) -> None:
        if warmup >= runs:
            raise AssertionError(f"{warmup} of {runs} runs would not be counted")
        self.warmup, self.nt, self.runs, self.max_secs = warmup, nt, runs, max_secs
        self.remember_nt = threads.max_threads()
        self.times = np.empty(0)

    def __iter__(self) -> Iterator[None]:
        if self.nt >= 0:
            threads.set_max_threads(self.nt)
        try:
            marks = [time.time()]
            for _ in range(self.runs):
                yield None
                marks.append(time.time())
                if marks[-1] - marks[0] > self.max_secs:
                    break
            spent = np.diff(marks)
            # All runs count when time ran out.
            self.times = spent[self.warmup :] if len(spent) == self.runs else spent
        finally:
            if self.nt >= 0:
                threads.set_max_threads(self.remember_nt)

    def ms(self) -> float:
        """Mean milliseconds of a run."""
        return float(np.mean(self.times) * 1000)

    def ms_std(self) -> float:
        """Standard deviation of a run's milliseconds."""
        return float(np.std(self.times) * 1000) if len(self.times) > 1 else 0.0

    def nruns(self) -> int:
        """How many runs were counted."""
        return len(self.times)
