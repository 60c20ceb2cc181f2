"""Auto-tuning: the parameters that an index offers, what each setting costs, and which settings are worth having."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.random import rand_perm
from tsscompat.arrays import Array, as_tensor
from tsscompat.devices import CPU
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.attributes import Stated, boolean, integer, real, size_t, text, vector
from tsscompat.faiss_compat.downcast import kinds
from tsscompat.faiss_compat.operating_points import AutoTuneCriterion, OperatingPoint, OperatingPoints
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float64Vector, ObjectVector

# A name and a number as C reads numbers, which may be hexadecimal.
_NUMBER = r"[-+]?(?:infinity|inf|nan|0x[0-9a-f]+\.?[0-9a-f]*(?:p[-+]?\d+)?|(?!0x)\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?)"
_SETTING = re.compile(rf"([^=]{{1,99}})=\s*({_NUMBER})", re.IGNORECASE)


class ParameterRange(Stated):
    """A parameter and its possible values, cheapest first."""

    name = text("")
    values = vector(Float64Vector)

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name


class ParameterRangeVector(ObjectVector):
    """std::vector of parameter ranges."""


def _powers(first: int, beyond: int) -> list[int]:
    return [1 << i for i in range(first, beyond)]


def _thresholds(pq: Any) -> list[int]:
    """Hamming thresholds worth trying; polysemous codes are of 4 bytes or multiples."""
    bits = pq.code_size * 8
    return [*(range(2, bits // 2 + 1, 2) if pq.code_size % 4 == 0 else ()), bits]


def _offers(index: Any) -> Iterator[tuple[str, list[float]]]:
    """The parameters of an index behind its wrappers, and their values."""
    what = kinds(index)
    if "IndexIVFInterface" in what:
        yield "nprobe", [n for n in _powers(0, 13) if n < index.nlist]
        inner = ParameterSpace()
        inner.initialize(index.quantizer)
        for range_ in inner.parameter_ranges:
            yield f"quantizer_{range_.name}", list(range_.values)
    if what & {"IndexPQ", "IndexIVFPQ"}:
        yield "ht", [float(t) for t in _thresholds(index.pq)]
    if "IndexIVF" in what and "MultiIndexQuantizer" in kinds(index.quantizer):
        yield "max_codes", [*_powers(8, 20), math.inf]
    if "IndexIVFPQR" in what:
        yield "k_factor", [float(f) for f in _powers(0, 7)]
    if "IndexHNSW" in what:
        yield "efSearch", [float(f) for f in _powers(2, 10)]


class ParameterSpace(Stated):
    """The settings of an index that can be tried."""

    parameter_ranges = vector(ParameterRangeVector)
    verbose = integer(1)
    n_experiments = integer(500, "settings to try at most (0: all)")
    batchsize = size_t(1 << 30, "queries in a search at most")
    thread_over_batches = boolean(False, "search batches in parallel")
    min_test_duration = real(0.0, "seconds; a setting is tried again until they are over")

    def n_combinations(self) -> int:
        """How many settings there are."""
        return math.prod(range_.values.size() for range_ in self.parameter_ranges)

    def _setting(self, cno: int) -> Iterator[tuple[str, int, float]]:
        """Name, position and value of each parameter in setting number cno."""
        for range_ in self.parameter_ranges:
            cno, position = divmod(int(cno), range_.values.size())
            yield range_.name, position, range_.values.at(position)

    def combination_ge(self, c1: int, c2: int) -> bool:
        """Whether no parameter is lower in setting c1 than in c2."""
        return all(a[1] >= b[1] for a, b in zip(self._setting(c1), self._setting(c2)))

    def combination_name(self, cno: int) -> str:
        """A setting in words."""
        return ",".join(f"{name}={value:g}" for name, _, value in self._setting(cno))

    def display(self) -> None:
        """Print the parameters and their values."""
        print(f"ParameterSpace, {len(self.parameter_ranges)} parameters, {self.n_combinations()} combinations:")
        for range_ in self.parameter_ranges:
            print(f"   {range_.name}: [ " + ", ".join(f"{value:g}" for value in range_.values) + "]")

    def add_range(self, name: str) -> ParameterRange:
        """A parameter by name, new or known."""
        for range_ in self.parameter_ranges:
            if range_.name == name:
                return range_
        self.parameter_ranges.push_back(ParameterRange(name))
        return self.parameter_ranges[-1]

    def initialize(self, index: Any) -> None:
        """Find the parameters that an index offers."""
        if "IndexPreTransform" in kinds(index):
            index = index.index
        if "IndexRefine" in kinds(index):
            self._add_values("k_factor_rf", [float(f) for f in _powers(0, 7)])
            index = index.base_index
        if "IndexPreTransform" in kinds(index):
            index = index.index
        for name, values in _offers(index):
            self._add_values(name, values)

    def _add_values(self, name: str, values: list[float]) -> None:
        self.add_range(name).values.append(torch.tensor(values, dtype=torch.float64))

    def set_index_parameters(self, index: Any, setting: int | str) -> None:
        """Set an index to a setting: its number, or words such as "nprobe=4,ht=40"."""
        if not isinstance(setting, str):
            for name, _, value in self._setting(setting):
                self.set_index_parameter(index, name, value)
            return
        for word in re.split(r"[ ,]+", setting.strip(" ,")):
            match = _SETTING.match(word)
            check(match is not None or not word, "could not interpret parameters {}", word)
            if match is not None:
                value = float.fromhex(match[2]) if "x" in match[2].lower() else float(match[2])
                self.set_index_parameter(index, match[1], value)

    def set_index_parameter(self, index: Any, name: str, val: float) -> None:
        """Set one parameter, on the index inside that has it."""
        if self.verbose > 1:
            print(f"    set_index_parameter {name}={val:g}")
        what = kinds(index)
        if name == "verbose":
            index.verbose = bool(val)
        if "IndexShardsIVF" in what and name.startswith("quantizer_") and name != "quantizer_nprobe":
            self.set_index_parameter(index.quantizer, name[len("quantizer_") :], val)
        elif "ThreadedIndex" in what:
            index.runOnIndex(lambda no, part: self.set_index_parameter(part, name, val))
        elif what & {"IndexIDMap", "IndexBinaryIDMap", "IndexPreTransform"}:
            self.set_index_parameter(index.index, name, val)
        elif "IndexRefine" in what and name == "k_factor_rf":
            index.k_factor = int(val)
        elif "IndexRefine" in what:
            self.set_index_parameter(index.base_index, name, val)
        elif name != "verbose" and not _set_own(index, what, name, val):
            lists = bool(what & {"IndexIVF", "IndexBinaryIVF"})
            check(
                lists and name.startswith("quantizer_"), "ParameterSpace::set_index_parameter: could not set parameter {}", name
            )
            self.set_index_parameter(index.quantizer, name[len("quantizer_") :], val)

    def update_bounds(self, cno: int, op: OperatingPoint, upper_bound_perf: float, lower_bound_t: float) -> tuple[float, float]:
        """What a setting can reach at best, knowing that of another one."""
        if self.combination_ge(cno, op.cno):
            lower_bound_t = max(lower_bound_t, op.t)
        if self.combination_ge(op.cno, cno):
            upper_bound_perf = min(upper_bound_perf, op.perf)
        return upper_bound_perf, lower_bound_t

    def explore(self, index: Any, xq: Array, crit: AutoTuneCriterion) -> OperatingPoints:
        """Try settings of an index on queries."""
        expect(tuple(xq.shape) == (crit.nq, index.d), "expected queries of shape {}, got {}", (crit.nq, index.d), tuple(xq.shape))
        ops = OperatingPoints()
        self._explore(index, as_tensor(xq, torch.float32, CPU)[0], crit, ops)
        return ops

    def explore_c(self, index: Any, nq: int, xq: Any, crit: AutoTuneCriterion, ops: OperatingPoints) -> None:
        """The same from pointers, into operating points of the caller's."""
        check(nq == crit.nq, "criterion does not have the same nb of queries")
        self._explore(index, behind(xq, nq, index.d), crit, ops)

    def _order(self) -> list[int]:
        """Settings in the order in which they are tried: the fastest, the best, then at random."""
        n = self.n_combinations()
        if self.n_experiments == 0:
            return list(range(n))
        wanted = min(self.n_experiments, n)
        check(n == 1 or wanted > 2, "{} experiments are too few for {} settings", wanted, n)
        return [0] if n == 1 else [0, n - 1, *(rand_perm(n - 2, 1234) + 1).tolist()][:wanted]

    def _explore(self, index: Any, queries: Tensor, crit: AutoTuneCriterion, ops: OperatingPoints) -> None:
        order = self._order()
        for cno in order[:2]:  # compiles what these settings run, before anything is timed
            self.set_index_parameters(index, cno)
            index.search(queries, int(crit.nnn))
        for cno in order:
            name = self.combination_name(cno)
            # What is tried with n_experiments = 0 is tried whatever the bounds say.
            if self.n_experiments and self._hopeless(cno, ops):
                continue
            self.set_index_parameters(index, cno)
            seconds, runs, distances, labels = self._timed(index, queries, int(crit.nnn))
            perf = crit.evaluate(distances, labels)
            kept = ops.add(perf, seconds, name, cno)
            if self.verbose:
                print(f"  cno={cno} {name} perf {perf:.3f} t {seconds:.3f} ({runs} runs) {'*' if kept else ''}")

    def _hopeless(self, cno: int, ops: OperatingPoints) -> bool:
        """Whether a setting cannot be among the best, going by those tried."""
        perf, t = 1.0, 0.0
        for point in ops.all_pts:
            perf, t = self.update_bounds(cno, point, perf, t)
        skip = bool(ops.t_for_perf(perf) <= t)
        if self.verbose:
            words = f"cno={cno} {self.combination_name(cno)} bounds [perf<={perf:.3f} t>={t:.3f}]"
            print(f"  {words}{' skip' if skip else ''}")
        return skip

    def _timed(self, index: Any, queries: Tensor, k: int) -> tuple[float, int, Tensor, Tensor]:
        """Seconds of a search, how often it ran, and its answers."""
        batches = queries.split(max(1, min(int(self.batchsize), max(1, queries.shape[0]))))
        start, runs = time.perf_counter(), 0
        while True:
            if self.thread_over_batches:
                with ThreadPoolExecutor() as pool:
                    parts = list(pool.map(lambda batch: index.search(batch, k), batches))
            else:
                parts = [index.search(batch, k) for batch in batches]
            runs += 1
            seconds = time.perf_counter() - start
            if seconds >= self.min_test_duration:
                break
        return seconds / runs, runs, torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _set_own(index: Any, what: frozenset[str], name: str, val: float) -> bool:
    """Set a parameter that an index itself has; whether it has it."""
    lists = bool(what & {"IndexIVF", "IndexBinaryIVF"})
    graph = index if what & {"IndexHNSW", "IndexBinaryHNSW"} else index.quantizer if lists else None
    if name == "nprobe" and lists:
        index.nprobe = int(val)
    elif name == "max_codes" and lists:
        index.max_codes = int(val) if math.isfinite(val) else 0
    elif name == "ht" and "IndexPQ" in what:
        # A threshold as long as the code lets everything pass.
        plain = val >= index.pq.code_size * 8
        index.search_type = index.ST_PQ if plain else index.ST_polysemous
        if not plain:
            index.polysemous_ht = int(val)
    elif name == "ht" and "IndexIVFPQ" in what:
        index.polysemous_ht = 0 if val >= index.pq.code_size * 8 else int(val)
    elif name == "k_factor" and "IndexIVFPQR" in what:
        index.k_factor = val
    elif name == "prune_headroom" and "IndexHNSW" in what:
        index.hnsw.prune_headroom = val
    elif name in ("efSearch", "efConstruction") and graph is not None and kinds(graph) & {"IndexHNSW", "IndexBinaryHNSW"}:
        setattr(graph.hnsw, name, int(val))
    else:
        return False
    return True


__all__ = ["ParameterRange", "ParameterRangeVector", "ParameterSpace"]
