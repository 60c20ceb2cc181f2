"""Which index to build: candidates ranked by what they are known for or, with a sample of the data, by what they measure."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import tsscompat
from tsscompat.advice.estimate import POINTS, estimate_memory
from tsscompat.advice.memory import Memory
from tsscompat.errors import FaissError, expect

METRICS = {"l2": tsscompat.METRIC_L2, "ip": tsscompat.METRIC_INNER_PRODUCT, "cosine": tsscompat.METRIC_INNER_PRODUCT}
# Queries and neighbours of measurements, and rows of a sample that is measured.
QUERIES, K, ROWS = 200, 10, 50_000
Progress = Callable[[str], None]


@dataclass
class Candidate:
    """An index worth building. `recall` and `speed` (vectors' bytes read for a query, or with a sample queries a second) are expected."""

    key: str
    parameters: str
    memory: int
    recall: float
    cost: float
    why: str
    warnings: list[str] = field(default_factory=list)
    measured: bool = False
    queries_per_second: float | None = None


@dataclass
class Recommendation:
    """Candidates, best first."""

    candidates: list[Candidate]
    n: int
    d: int
    recall: float
    frontier: list[tuple[str, str, float, float]] = field(default_factory=list)  # key, parameters, recall, queries a second
    complete: bool = True

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __getitem__(self, i: int) -> Candidate:
        return self.candidates[i]

    def __len__(self) -> int:
        return len(self.candidates)

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(asdict(self), indent=1)

    def table(self) -> str:
        """A line for each candidate."""
        lines = [f"{'index':<28}{'parameters':<22}{'MiB':>10}{'recall':>8}{'speed':>18}  why"]
        for c in self.candidates:
            speed = f"{c.queries_per_second:,.0f} q/s" if c.queries_per_second else f"{c.cost / 1e3:,.0f} kB/query"
            lines.append(f"{c.key:<28}{c.parameters:<22}{c.memory / 2**20:>10,.1f}{c.recall:>8.3f}{speed:>18}  {c.why}")
            lines += [f"{'':<30}warning: {w}" for w in c.warnings]
        return "\n".join(lines)

    __str__ = table

    def plot(self, path: str) -> None:
        """A picture of queries a second against recall, or without a sample of memory against recall."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 5))
        if self.frontier:
            for key in dict.fromkeys(point[0] for point in self.frontier):
                points = sorted((r, q) for name, _, r, q in self.frontier if name == key)
                axes.plot([r for r, _ in points], [q for _, q in points], marker="o", label=key)
            axes.set(xlabel=f"recall of {K} neighbours", ylabel="queries per second", yscale="log")
            axes.legend(fontsize=7)
        else:
            for c in self.candidates:
                axes.plot(c.recall, c.memory / 2**20, "o")
                axes.annotate(c.key, (c.recall, c.memory / 2**20), fontsize=7)
            axes.set(xlabel="expected recall", ylabel="MiB", yscale="log")
        axes.axvline(self.recall, color="grey", linewidth=0.8)
        figure.tight_layout()
        figure.savefig(path)
        pyplot.close(figure)


def _nlist(n: int) -> int:
    """A number of lists: about 4 sqrt(n), a power of 2, with enough points for each."""
    wanted = 2 ** round(math.log2(max(4.0, 4 * math.sqrt(n))))
    return int(max(4, min(wanted, 2 ** int(math.log2(max(4, n / POINTS))))))


def _pq(d: int, bytes_: int) -> str:
    """A product code of about so many bytes: the nearest number of parts that divides d, or a rotation to a dimension that does."""
    divisors = [m for m in range(1, d + 1) if d % m == 0 and m <= bytes_]
    m = max(divisors)
    return f"PQ{m}np" if 2 * m >= bytes_ else f"OPQ{bytes_}_{-(-d // bytes_) * bytes_},PQ{bytes_}np"


def _with_lists(coarse: str, code: str) -> str:
    rotation, _, last = code.rpartition(",")
    return f"{rotation},{coarse},{last}" if rotation else f"{coarse},{last}"


def _typical(n: int, d: int) -> Iterator[tuple[str, str, float, float, str]]:
    """(key, parameters, recall to expect, bytes read for a query, why) of what suits n vectors of d dimensions."""
    raw = 4.0 * d
    yield "Flat", "", 1.0, n * raw, "exact; nothing to train"
    yield "SQ8", "", 0.99, n * raw / 4, "nearly exact at a quarter of the memory"
    if n < 1000:
        return
    yield "HNSW32", "efSearch=64", 0.97, 64 * 32 * raw, "the fastest at high recall where memory is no matter"
    yield "HNSW32,SQ8", "efSearch=64", 0.95, 64 * 32 * raw, "a graph over codes of a byte a dimension"
    nlist = _nlist(n)
    if n < 2 * POINTS * 4:
        return
    probe = max(1, nlist // 32)
    scanned, coarse = n * probe / nlist, nlist * raw
    ivf = f"IVF{nlist}" if nlist < 16384 else f"IVF{nlist}_HNSW32"
    coarse = coarse if nlist < 16384 else 64 * 32 * raw
    yield f"{ivf},Flat", f"nprobe={probe}", 0.95, scanned * raw + coarse, "exact distances within the lists probed"
    yield f"{ivf},SQ8", f"nprobe={probe}", 0.94, scanned * raw / 4 + coarse, "lists of a byte a dimension"
    for bytes_, found, refined in ((max(4, d // 4), 0.80, 0.94), (max(2, d // 8), 0.60, 0.85)):
        code = _pq(d, bytes_)
        if n < 256 * POINTS // 8:
            continue
        read = scanned * bytes_ + coarse
        yield _with_lists(ivf, code), f"nprobe={probe}", found, read, "codes of a few bytes"
        key = f"{_with_lists(ivf, code)},RFlat"
        yield key, f"nprobe={probe},k_factor_rf=8", refined, read + 8 * K * raw, "codes propose, vectors decide"


def recommend(
    n: int,
    d: int,
    metric: str | int = "l2",
    memory: int | None = None,
    recall: float = 0.95,
    device: Any = None,
    sample: Any = None,
    queries: Any = None,
    seconds: float | None = None,
    progress: Progress | None = print,
) -> Recommendation:
    """The indexes to consider for n vectors of d dimensions: those that reach the recall within the memory (bytes) first, fastest first.

    With a `sample` of the vectors (and perhaps `queries` like those to come) the candidates are built on it and tuned to the recall, for as
    many `seconds` as are given; what was measured then ranks before what is only expected. "cosine" is the inner product of vectors that
    the caller makes of length 1; those of the sample are made so here.
    """
    expect(n > 0, "n must be positive, got {}", n)
    expect(d > 0, "d must be positive, got {}", d)
    expect(0 < recall <= 1, "recall must be above 0 and at most 1, got {}", recall)
    expect(metric in METRICS or metric in METRICS.values(), "metric must be one of {}, got {!r}", sorted(METRICS), metric)
    number, found = METRICS.get(str(metric), metric), []
    for key, parameters, reached, cost, why in _typical(n, d):
        size = estimate_memory(key, d, n, int(number), device)
        if memory is None or size.total <= memory:
            found.append(Candidate(key, parameters, size.total, reached, cost, why, size.warnings))
    if not found:
        least = min(_sizes(n, d, int(number)), key=lambda one: one[1].total)
        raise FaissError(f"no index fits {memory:,} bytes: the smallest considered is {least[0]}, {least[1].total:,} bytes")
    answer = Recommendation(found, n, d, recall)
    if sample is not None:
        if metric == "cosine":
            sample, queries = (None if x is None else normalize(torch.as_tensor(x).float(), dim=1) for x in (sample, queries))
        _measure(answer, sample, queries, int(number), device, seconds, progress or (lambda text: None))
    found.sort(
        key=lambda c: (
            c.recall < recall,
            not c.measured,
            -(c.queries_per_second or 0.0),
            c.cost if c.recall >= recall else -c.recall,
        )
    )
    return answer


def _sizes(n: int, d: int, metric: int) -> Iterator[tuple[str, Memory]]:
    for key, *_ in _typical(n, d):
        yield key, estimate_memory(key, d, n, metric)


# -- with a sample --------------------------------------------------------------------------------------------------------------------


def _measure(
    answer: Recommendation, sample: Any, queries: Any, metric: int, device: Any, seconds: float | None, progress: Progress
) -> None:
    """Build each candidate on the sample, and find its fastest setting of enough recall."""
    base = torch.as_tensor(sample).float()
    expect(
        base.ndim == 2 and base.shape[1] == answer.d, "expected a sample of shape (n, {}), got {}", answer.d, tuple(base.shape)
    )
    asked = base[-QUERIES:] if queries is None else torch.as_tensor(queries).float()[:QUERIES]
    base = (base[:-QUERIES] if queries is None else base)[:ROWS]
    expect(base.shape[0] >= 2 * QUERIES, "a sample of at least {} vectors is needed, got {}", 3 * QUERIES, base.shape[0])
    where = device or tsscompat.default_device()
    base, asked = base.to(where), asked.to(where)
    truth = tsscompat.knn(asked, base, K, metric)[1]
    end = time.perf_counter() + (seconds if seconds is not None else math.inf)
    for i, candidate in enumerate(sorted(answer.candidates, key=lambda c: (c.recall < answer.recall, c.cost))):
        if time.perf_counter() > end:
            answer.complete = False
            progress(f"time is up: {len(answer) - i} of {len(answer)} candidates were not measured")
            return
        progress(f"[{i + 1}/{len(answer)}] {candidate.key}")
        points = list(_points(_scaled(candidate.key, answer.n, base.shape[0]), base, asked, truth, metric, end))
        answer.frontier += [(candidate.key, parameters, reached, rate) for parameters, reached, rate in points]
        enough = [p for p in points if p[1] >= answer.recall] or [max(points, key=lambda p: p[1])]
        candidate.parameters, candidate.recall, candidate.queries_per_second = max(enough, key=lambda p: p[2])
        candidate.measured = True
        progress(
            f"    {candidate.parameters or 'as it is'}: recall {candidate.recall:.3f}, {candidate.queries_per_second:,.0f} queries/s"
        )


def _scaled(key: str, n: int, rows: int) -> str:
    """The same index for fewer vectors: with lists as they would be chosen for so many."""
    return key.replace(f"IVF{_nlist(n)}", f"IVF{_nlist(rows)}") if rows < n else key


def _points(key: str, base: Tensor, asked: Tensor, truth: Tensor, metric: int, end: float) -> Iterator[tuple[str, float, float]]:
    """(parameters, recall, queries a second) over the settings that ParameterSpace offers, cheapest first, until all is found."""
    index = tsscompat.index_factory(base.shape[1], key, metric)
    index.train(base)
    index.add(base)
    space = tsscompat.ParameterSpace()
    settings = list(_settings(key, index))
    for i, setting in enumerate(settings):
        if setting:
            space.set_index_parameters(index, setting)
        index.search(asked[:4], K)
        best = math.inf
        for _ in range(2):
            started = time.perf_counter()
            found = index.search(asked, K)[1]
            best = min(best, time.perf_counter() - started)
        reached = float((truth[:, :, None] == found[:, None, :]).any(2).float().mean())
        yield setting, reached, asked.shape[0] / best
        if reached > 0.999 or (time.perf_counter() > end and i):
            return


def _settings(key: str, index: Any) -> Iterator[str]:
    """Settings of an index, as ParameterSpace takes them."""
    if "HNSW" in key and "IVF" not in key:
        yield from (f"efSearch={ef}" for ef in (16, 32, 64, 128, 256))
    elif "IVF" in key:
        refined = key.endswith("RFlat")
        lists = tsscompat.extract_index_ivf(index).nlist
        for probe in (*(p for p in (1, 4, 16, 64, 256) if p < lists), min(lists, 1024)):
            yield from (f"nprobe={probe}{more}" for more in ((",k_factor_rf=4", ",k_factor_rf=16") if refined else ("",)))
    else:
        yield ""
