"""Compiled twins of kernels/ivf.py: the arrays of each scan, its division among threads, and its answer.

A batch is divided by queries. Where the queries of a block share most lists, lists of vectors are scanned list by list instead of query
by query. A single query is divided by lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba import ivf_affine, ivf_flat, ivf_tables
from tsscompat.kernels.numba.ivf_heap import merge
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.threads import max_threads, run_blocks

Array = np.ndarray[Any, Any]
NO_MASK = np.zeros(0, np.bool_)
NO_LIMITS = np.zeros((0, 0), np.int64)
NO_FLOATS = np.zeros(0, np.float32)
NO_TABLE = np.zeros((0, 0), np.float32)
NO_HALVES = np.zeros((0, 0), np.uint16)
# Work worth a thread of its own, in nanoseconds.
_GRAIN = 150_000
# From this many queries per list on, scanning list by list pays (d = 128, 195 rows a list).
_SHARED = 2.0


def _mask(allowed: Tensor | None) -> Array:
    return NO_MASK if allowed is None else allowed.numpy()


def _limits(limits: Tensor | None) -> Array:
    return NO_LIMITS if limits is None else limits.numpy()


def _work(keys: Array, lists: Ragged, row_ns: float) -> float:
    """About how many nanoseconds one query takes (the arena's room counts too)."""
    return keys.shape[1] * (lists.ids.shape[0] / max(1, lists.nlist) * row_ns + 20.0) + 1.0


def _counts(done: list[Any]) -> tuple[int, int, int]:
    if len(done) == 1:
        visited, scored, entered = done[0][:3]
        return visited, scored, entered
    return tuple(sum(part[i] for part in done) for i in range(3))  # type: ignore[return-value]


def _top(scan: Callable[..., Any], keys: Array, k: int, per_query: float, ip: bool) -> Any:
    """Heaps for all queries: `scan(keys, costs, labels, hits, first, last)` fills those of some."""
    nq, nprobe = keys.shape
    parts = min(max_threads(), int(per_query / _GRAIN), nprobe) if nq == 1 else 1
    if parts > 1:
        return _top_of_one(scan, keys, k, parts, ip)
    costs, labels, hits = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64), np.empty(nq, np.int64)
    if nq * per_query < 2 * _GRAIN:
        done = [scan(keys, costs, labels, hits, 0, nq)]
    else:
        done = []
        run_blocks(lambda a, b: done.append(scan(keys, costs, labels, hits, a, b)), nq, max(1, int(_GRAIN / per_query)))
    return torch.from_numpy(costs), torch.from_numpy(labels), _counts(done)


def _top_of_one(scan: Callable[..., Any], keys: Array, k: int, parts: int, ip: bool) -> Any:
    """A single query, its lists dealt out to threads like cards."""
    nprobe = keys.shape[1]
    costs, labels, hits = np.empty((parts, 1, k), np.float32), np.empty((parts, 1, k), np.int64), np.empty(1, np.int64)
    hands = []
    for i in range(parts):
        hand = np.full_like(keys, -1)
        hand[0, i:nprobe:parts] = keys[0, i:nprobe:parts]
        hands.append(hand)
    done: list[Any] = []

    def some(a: int, b: int) -> None:
        for i in range(a, b):
            done.append(scan(hands[i], costs[i], labels[i], hits, 0, 1))

    run_blocks(some, parts, 1)
    best, names = merge(costs[:, 0], labels[:, 0], ip)
    return torch.from_numpy(best), torch.from_numpy(names), _counts(done)


def _within(scan: Callable[..., Any], keys: Array, per_query: float) -> Any:
    """Everything within the radius for all queries."""
    nq = keys.shape[0]
    costs, labels, hits = np.empty((nq, 0), np.float32), np.empty((nq, 0), np.int64), np.zeros(nq, np.int64)
    done: list[tuple[int, Any]] = []
    run_blocks(lambda a, b: done.append((a, scan(keys, costs, labels, hits, a, b))), nq, max(1, int(_GRAIN / per_query)))
    parts = [part for _, part in sorted(done, key=lambda item: item[0])]
    lims = np.zeros(nq + 1, np.int64)
    np.cumsum(hits, out=lims[1:])
    values = np.concatenate([NO_FLOATS, *(part[3][: part[2]] for part in parts)])
    names = np.concatenate([np.zeros(0, np.int64), *(part[4][: part[2]] for part in parts)])
    return torch.from_numpy(lims), torch.from_numpy(values), torch.from_numpy(names), _counts(parts)


def _flat(
    x: Tensor, rows: Tensor, lists: Ragged, metric: int, radius: float, allowed: Tensor | None, limits: Tensor | None, pairs: bool
) -> Any:
    _, ids, offsets, sizes = views(lists)
    mask, cap, ip, queries, vectors = _mask(allowed), _limits(limits), metric == INNER_PRODUCT, x.numpy(), rows.numpy()
    bound = np.float32(-radius if ip else radius)

    def scan(keys: Array, costs: Array, labels: Array, hits: Array, first: int, last: int) -> Any:
        return ivf_flat.by_query(
            queries, vectors, ids, offsets, sizes, keys, ip, bound, mask, cap, pairs, costs, labels, hits, first, last
        )

    return scan


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
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    nq, nprobe = keys.shape
    probed = keys.numpy()
    per_query = _work(probed, lists, x.shape[1] * 0.3)
    threads = max_threads() if nq * per_query > 2 * _GRAIN else 1
    if limits is not None or nq * nprobe < _SHARED * lists.nlist * threads:
        return _top(_flat(x, rows, lists, metric, 0.0, allowed, limits, pairs), probed, k, per_query, metric == INNER_PRODUCT)
    costs, labels = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    given = (x.numpy(), rows.numpy(), *views(lists)[1:], probed, metric == INNER_PRODUCT, _mask(allowed), pairs, costs, labels)
    done: list[Any] = []
    # A block for each thread: the more queries in a block, the more share a list.
    run_blocks(lambda a, b: done.append(ivf_flat.by_list(*given, a, b)), nq, -(-nq // threads))
    return torch.from_numpy(costs), torch.from_numpy(labels), _counts(done)


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
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    scan = _flat(x, rows, lists, metric, radius, allowed, limits, pairs)
    return _within(scan, keys.numpy(), _work(keys.numpy(), lists, x.shape[1] * 0.3))


def _paired(tables: Tensor) -> Tensor:
    """Tables of 4-bit parts as tables of bytes: the sums of two neighbours, for every pair of codes."""
    n, m, _ = tables.shape
    if m % 2:
        tables = torch.cat([tables, tables.new_zeros(n, 1, 16)], 1)
    return (tables[:, 1::2, :, None] + tables[:, 0::2, None, :]).reshape(n, -1)


def _tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    ip: bool,
    radius: float,
    options: tuple[Tensor | None, Tensor | None, bool],
) -> Any:
    codes, ids, offsets, sizes = views(lists)
    parts = tables.shape[1]
    flat = (_paired(tables) if nbits == 4 else tables.reshape(tables.shape[0], -1)).numpy()
    nbits = 8 if nbits == 4 else nbits
    start, extra = base.numpy(), NO_FLOATS if terms is None else terms.numpy()
    mask, cap, pairs = _mask(options[0]), _limits(options[1]), options[2]
    bound = np.float32(-radius if ip else radius)

    def scan(keys: Array, costs: Array, labels: Array, hits: Array, first: int, last: int) -> Any:
        return ivf_tables.by_query(
            flat,
            start,
            extra,
            parts,
            nbits,
            codes,
            ids,
            offsets,
            sizes,
            keys,
            ip,
            bound,
            mask,
            cap,
            pairs,
            costs,
            labels,
            hits,
            first,
            last,
        )

    return scan


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
    scan = _tables(tables, base, terms, nbits, lists, largest, 0.0, (allowed, limits, pairs))
    return _top(scan, keys.numpy(), k, _work(keys.numpy(), lists, tables.shape[1] * 0.6), largest)


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
    scan = _tables(tables, base, terms, nbits, lists, largest, radius, (allowed, limits, pairs))
    return _within(scan, keys.numpy(), _work(keys.numpy(), lists, tables.shape[1] * 0.6))


def _steps(affine: Affine) -> tuple[Array, Array]:
    """lo and step; for 4 bits the steps of the even dimensions, then of the odd ones, as many as there are nibbles."""
    lo, step = affine.lo.numpy(), affine.step.numpy()
    if affine.bits != 4:
        return lo, step
    half = (step.shape[0] + 1) // 2
    parted = np.zeros(2 * half, np.float32)
    parted[:half], parted[half : half + step.shape[0] // 2] = step[0::2], step[1::2]
    return lo, parted


def _affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    metric: int,
    radius: float,
    options: tuple[Tensor | None, Tensor | None, bool],
) -> Any:
    codes, ids, offsets, sizes = views(lists)
    halves = codes.view(np.uint16) if affine.bits >= 16 else NO_HALVES
    ip, (lo, step) = metric == INNER_PRODUCT, _steps(affine)
    middle, start = NO_TABLE if centers is None else centers.numpy(), NO_TABLE if base is None else base.numpy()
    mask, cap, pairs, queries, bits = _mask(options[0]), _limits(options[1]), options[2], x.numpy(), affine.bits
    bound = np.float32(-radius if ip else radius)

    def scan(keys: Array, costs: Array, labels: Array, hits: Array, first: int, last: int) -> Any:
        return ivf_affine.by_query(
            queries,
            bits,
            lo,
            step,
            middle,
            start,
            codes,
            halves,
            ids,
            offsets,
            sizes,
            keys,
            ip,
            bound,
            mask,
            cap,
            pairs,
            costs,
            labels,
            hits,
            first,
            last,
        )

    return scan


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
    scan = _affine(x, affine, centers, base, lists, metric, 0.0, (allowed, limits, pairs))
    return _top(scan, keys.numpy(), k, _work(keys.numpy(), lists, x.shape[1] * 0.15), metric == INNER_PRODUCT)


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
    scan = _affine(x, affine, centers, base, lists, metric, radius, (allowed, limits, pairs))
    return _within(scan, keys.numpy(), _work(keys.numpy(), lists, x.shape[1] * 0.15))
