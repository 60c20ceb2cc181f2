"""Compiled twins of kernels/ivf.py: the arrays of each scan, its division among threads, and its answer.

A batch is divided by queries. Where the queries of a block share most lists, lists of vectors are scanned list by list instead of query
by query. A single query is divided by lists. A small search is bound by the Python around it, so what is not needed is not made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import FORMULAS, INNER_PRODUCT, L2, is_similarity
from tsscompat.kernels.numba import ivf_affine, ivf_flat, ivf_tables
from tsscompat.kernels.numba.ivf_heap import merge
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import max_threads, run_blocks

Array = np.ndarray[Any, Any]
Head = tuple[Any, ...]
NO_MASK = np.zeros(0, np.bool_)
NO_LIMITS = np.zeros((0, 0), np.int64)
NO_FLOATS = np.zeros(0, np.float32)
NO_TABLE = np.zeros((0, 0), np.float32)
NO_HALVES = np.zeros((0, 0), np.uint16)
NO_BOUND = np.float32(0)
F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
# Work worth a thread of its own, in nanoseconds.
GRAIN = 150_000
# One query is dealt out late: the hand-over costs it 100 us and more on a busy machine (370 us in one hand were 550 in two).
ALONE = 4 * GRAIN
# From this many queries per list on, scanning list by list pays (d = 128, 195 rows a list).
_SHARED = 2.0


def average_work(nprobe: int, arena: tuple[Array, Array, Array], row_ns: float) -> float:
    """About how many nanoseconds a query takes, from the ids, offsets and sizes of the lists (the arena's room counts too)."""
    return nprobe * (arena[0].shape[0] / (arena[1].shape[0] or 1) * row_ns + 20.0) + 1.0


def work(keys: Array, arena: tuple[Array, Array, Array], row_ns: float) -> float:
    """The same for the lists that are probed: of a single query what is really there, as lists near the data are longer."""
    nq, nprobe = keys.shape
    return float(arena[2][keys[0]].sum()) * row_ns + 1.0 if nq == 1 else average_work(nprobe, arena, row_ns)


def counts_of(done: list[Any]) -> tuple[int, int, int]:
    if len(done) == 1:
        visited, scored, entered = done[0][:3]
        return visited, scored, entered
    return tuple(sum(part[i] for part in done) for i in range(3))  # type: ignore[return-value]


def rest_of(ip: bool, bound: Any, allowed: Tensor | None, limits: Tensor | None, pairs: bool) -> Head:
    """The arguments that every scan has after its keys."""
    mask = NO_MASK if allowed is None else allowed.numpy()
    return ip, bound, mask, NO_LIMITS if limits is None else limits.numpy(), pairs


def top(scan: Callable[..., Any], head: Head, keys: Array, rest: Head, k: int, per_query: float) -> Any:
    """Heaps for all queries: scan(*head, keys, *rest, costs, labels, hits, first, last) fills those of some."""
    nq, nprobe = keys.shape
    if nq == 1 and per_query > ALONE:
        parts = min(max_threads(), int(per_query / (2 * GRAIN)), nprobe)
        if parts > 1:
            return _top_of_one(scan, head, keys, rest, k, parts)
    costs, labels, hits = np.empty((nq, k), F32), np.empty((nq, k), I64), np.empty(nq, I64)
    if nq * per_query < 2 * GRAIN:
        visited, scored, entered, _, _ = scan(*head, keys, *rest, costs, labels, hits, 0, nq)
        return torch.from_numpy(costs), torch.from_numpy(labels), (visited, scored, entered)
    done: list[Any] = []
    run_blocks(lambda a, b: done.append(scan(*head, keys, *rest, costs, labels, hits, a, b)), nq, max(1, int(GRAIN / per_query)))
    return torch.from_numpy(costs), torch.from_numpy(labels), counts_of(done)


def _top_of_one(scan: Callable[..., Any], head: Head, keys: Array, rest: Head, k: int, parts: int) -> Any:
    """A single query, its lists dealt out to threads like cards."""
    costs, labels, hits = np.empty((parts, 1, k), F32), np.empty((parts, 1, k), I64), np.empty(1, I64)
    hands = [np.full_like(keys, -1) for _ in range(parts)]
    for i in range(parts):
        hands[i][0, i::parts] = keys[0, i::parts]
    done: list[Any] = []

    def some(a: int, b: int) -> None:
        for i in range(a, b):
            done.append(scan(*head, hands[i], *rest, costs[i], labels[i], hits, 0, 1))

    run_blocks(some, parts, 1)
    best, names = merge(costs[:, 0], labels[:, 0], rest[0])
    return torch.from_numpy(best), torch.from_numpy(names), counts_of(done)


def within(scan: Callable[..., Any], head: Head, keys: Array, rest: Head, per_query: float) -> Any:
    """Everything within the radius for all queries."""
    nq = keys.shape[0]
    costs, labels, hits = np.empty((nq, 0), F32), np.empty((nq, 0), I64), np.zeros(nq, I64)
    done: list[tuple[int, Any]] = []

    def block(a: int, b: int) -> None:
        done.append((a, scan(*head, keys, *rest, costs, labels, hits, a, b)))

    run_blocks(block, nq, max(1, int(GRAIN / per_query)))
    parts = [part for _, part in sorted(done, key=lambda item: item[0])]
    lims = np.zeros(nq + 1, I64)
    np.cumsum(hits, out=lims[1:])
    values = np.concatenate([NO_FLOATS, *(part[3][: part[2]] for part in parts)])
    names = np.concatenate([np.zeros(0, I64), *(part[4][: part[2]] for part in parts)])
    return torch.from_numpy(lims), torch.from_numpy(values), torch.from_numpy(names), counts_of(parts)


def nearest_lists(x: Tensor, centers: Tensor, nprobe: int, metric: int) -> Any:
    queries, table = x.numpy(), centers.numpy()
    nq, d = queries.shape
    per_query = table.shape[0] * d * 0.12
    if nq * d > 32 * 128 or metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    costs, labels = np.empty((nq, nprobe), F32), np.empty((nq, nprobe), I64)
    if nq * per_query < 2 * GRAIN:
        ivf_flat.nearest(queries, table, metric == INNER_PRODUCT, costs, labels, 0, nq)
    else:
        given = (queries, table, metric == INNER_PRODUCT, costs, labels)
        run_blocks(lambda a, b: ivf_flat.nearest(*given, a, b), nq, max(1, int(GRAIN / per_query)))
    return torch.from_numpy(costs), torch.from_numpy(labels)


@jit
def _residuals(x, centers, list_nos, out, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        l = list_nos[i]
        if l < 0:
            out[i] = np.float32(0)
        else:
            for j in range(x.shape[1]):
                out[i, j] = x[i, j] - centers[l, j]


def residuals(x: Tensor, centers: Tensor, list_nos: Tensor) -> Any:
    if x.dtype != torch.float32 or centers.dtype != torch.float32:
        return NotImplemented
    given = x.contiguous().numpy(), centers.contiguous().numpy(), list_nos.contiguous().numpy()
    out = np.empty(x.shape, F32)
    if out.size < 1 << 16:
        _residuals(*given, out, 0, out.shape[0])
    else:
        run_blocks(lambda a, b: _residuals(*given, out, a, b), out.shape[0], max(1, (1 << 16) // out.shape[1]))
    return torch.from_numpy(out)


def scan_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    if metric not in FORMULAS:
        return NotImplemented
    _, ids, offsets, sizes = views(lists)
    probed, ip, plain = keys.numpy(), is_similarity(metric), metric in (L2, INNER_PRODUCT)
    vectors = (rows.numpy(), ids, offsets, sizes)
    head = (x.numpy(), metric, np.float32(metric_arg), *vectors)
    nq, nprobe = probed.shape
    per_query = work(probed, vectors[1:], head[0].shape[1] * 0.3)
    threads = max_threads() if nq * per_query > 2 * GRAIN else 1
    if limits is not None or not plain or nq * nprobe < _SHARED * offsets.shape[0] * threads:
        return top(ivf_flat.by_query, head, probed, rest_of(ip, NO_BOUND, allowed, limits, pairs), k, per_query)
    costs, labels = np.empty((nq, k), F32), np.empty((nq, k), I64)
    rest = (probed, ip, NO_MASK if allowed is None else allowed.numpy(), pairs, costs, labels)
    done: list[Any] = []
    # A block for each thread: the more queries in a block, the more share a list.
    run_blocks(lambda a, b: done.append(ivf_flat.by_list(head[0], *vectors, *rest, a, b)), nq, -(-nq // threads))
    return torch.from_numpy(costs), torch.from_numpy(labels), counts_of(done)


def within_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    if metric not in FORMULAS:
        return NotImplemented
    _, ids, offsets, sizes = views(lists)
    ip = is_similarity(metric)
    rest = rest_of(ip, np.float32(-radius if ip else radius), allowed, limits, pairs)
    head = (x.numpy(), metric, np.float32(metric_arg), rows.numpy(), ids, offsets, sizes)
    return within(ivf_flat.by_query, head, keys.numpy(), rest, work(keys.numpy(), head[4:], x.shape[1] * 0.3))


@jit
def _pair(tables, out):  # type: ignore[no-untyped-def]
    n, m, _ = tables.shape
    for q in range(n):
        for p in range(out.shape[1]):
            for high in range(16):
                for low in range(16):
                    out[q, p, 16 * high + low] = (tables[q, 2 * p + 1, high] if 2 * p + 1 < m else np.float32(0)) + tables[
                        q, 2 * p, low
                    ]


def _paired(tables: Tensor) -> Array:
    """Tables of 4-bit parts as tables of bytes: the sums of two neighbours, for every pair of codes."""
    out = np.empty((tables.shape[0], (tables.shape[1] + 1) // 2, 256), F32)
    _pair(tables.numpy(), out)
    return out.reshape(out.shape[0], 256 * out.shape[1])


def _tables(tables: Tensor, base: Tensor, terms: Tensor | None, nbits: int, lists: Ragged) -> Head:
    codes, ids, offsets, sizes = views(lists)
    flat = _paired(tables) if nbits == 4 else tables.flatten(1).numpy()
    extra = NO_FLOATS if terms is None else terms.numpy()
    parts, bits = ((tables.shape[1] + 1) // 2, 8) if nbits == 4 else (tables.shape[1], nbits)
    return flat, base.numpy(), extra, parts, bits, codes, ids, offsets, sizes


def scan_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    k: int,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    head, probed = _tables(tables, base, terms, nbits, lists), keys.numpy()
    per_query = work(probed, head[6:], tables.shape[1] * 0.6)
    return top(ivf_tables.by_query, head, probed, rest_of(largest, NO_BOUND, allowed, limits, pairs), k, per_query)


def within_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    head = _tables(tables, base, terms, nbits, lists)
    rest = rest_of(largest, np.float32(-radius if largest else radius), allowed, limits, pairs)
    return within(ivf_tables.by_query, head, keys.numpy(), rest, work(keys.numpy(), head[6:], tables.shape[1] * 0.6))


def steps(affine: Affine) -> tuple[Array, Array]:
    """lo and step; for 4 bits the steps of the even dimensions, then of the odd ones, as many as there are nibbles."""
    lo, step = affine.lo.numpy(), affine.step.numpy()
    if affine.bits != 4:
        return lo, step
    half = (step.shape[0] + 1) // 2
    parted = np.zeros(2 * half, F32)
    parted[:half], parted[half : half + step.shape[0] // 2] = step[0::2], step[1::2]
    return lo, parted


def _affine(x: Tensor, affine: Affine, centers: Tensor | None, base: Tensor | None, lists: Ragged) -> Head:
    codes, ids, offsets, sizes = views(lists)
    halves = codes.view(np.uint16) if affine.bits >= 16 else NO_HALVES
    middle, start = NO_TABLE if centers is None else centers.numpy(), NO_TABLE if base is None else base.numpy()
    return x.numpy(), affine.bits, *steps(affine), middle, start, codes, halves, ids, offsets, sizes


def scan_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    head, probed = _affine(x, affine, centers, base, lists), keys.numpy()
    per_query = work(probed, head[8:], head[0].shape[1] * 0.15)
    return top(
        ivf_affine.by_query, head, probed, rest_of(metric == INNER_PRODUCT, NO_BOUND, allowed, limits, pairs), k, per_query
    )


def within_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    head, ip = _affine(x, affine, centers, base, lists), metric == INNER_PRODUCT
    rest = rest_of(ip, np.float32(-radius if ip else radius), allowed, limits, pairs)
    return within(ivf_affine.by_query, head, keys.numpy(), rest, work(keys.numpy(), head[8:], x.shape[1] * 0.15))
