"""Compiled twins of kernels/ivf_few.py: each block of queries goes through coarse search and scan in one call of compiled code.

A single query takes 100 to 200 us, of which every call into compiled code and every array made in Python takes some.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba import ivf_affine, ivf_flat, ivf_tables
from tsscompat.kernels.numba.door import array_of, like
from tsscompat.kernels.numba.intrinsics import ticks
from tsscompat.kernels.numba.ivf import (
    ALONE,
    F32,
    GRAIN,
    I64,
    NO_FLOATS,
    NO_HALVES,
    average_work,
    counts_of,
    steps,
)
from tsscompat.kernels.numba.ivf_flat import nearest
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.ivf_terms import fill_tables
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks

_NS_OF_CENTER = 0.12  # for each dimension
# How much longer than the average the lists near a query may be: where data is dense, lists are long, and queries are there too.
_DENSER = 2.0
Scan = Callable[..., Any]


@inline
def coarse_of(x, table, nprobe, ip):  # type: ignore[no-untyped-def]
    """The nearest lists of all queries, and their distances."""
    coarse, keys = np.empty((x.shape[0], nprobe), np.float32), np.empty((x.shape[0], nprobe), np.int64)
    nearest(x, table, ip, coarse, keys, 0, x.shape[0])
    return coarse, keys


@inline
def unlimited():  # type: ignore[no-untyped-def]
    """A bound, a mask, limits and pairs that a plain search does without."""
    return np.float32(0), np.empty(0, np.bool_), np.empty((0, 0), np.int64), False


@jit
def flat_block(x, table, nprobe, ip, metric, rows, ids, offsets, sizes, costs, labels, first, last):  # type: ignore[no-untyped-def]
    begun, x = ticks(), x[first:last]
    _, keys = coarse_of(x, table, nprobe, ip)
    scanning = ticks()
    bound, mask, limits, pairs = unlimited()
    some, names, hits = costs[first:last], labels[first:last], np.empty(x.shape[0], np.int64)
    arena = rows, ids, offsets, sizes
    visited, scored, entered, _, _ = ivf_flat.by_query(
        x, metric, np.float32(0), *arena, keys, ip, bound, mask, limits, pairs, some, names, hits, 0, x.shape[0]
    )
    return visited, scored, entered, (scanning - begun) / max(1, ticks() - begun)


@jit
def affine_block(  # type: ignore[no-untyped-def]
    x, table, nprobe, ip, residual, bits, lo, step, codes, halves, ids, offsets, sizes, costs, labels, first, last
):
    begun, x = ticks(), x[first:last]
    coarse, keys = coarse_of(x, table, nprobe, ip)
    scanning = ticks()
    bound, mask, limits, pairs = unlimited()
    some, names, hits = costs[first:last], labels[first:last], np.empty(x.shape[0], np.int64)
    centers = table if residual and not ip else table[:0]
    base = coarse if residual and ip else coarse[:0]
    arena = codes, halves, ids, offsets, sizes
    visited, scored, entered, _, _ = ivf_affine.by_query(
        x, bits, lo, step, centers, base, *arena, keys, ip, bound, mask, limits, pairs, some, names, hits, 0, x.shape[0]
    )
    return visited, scored, entered, (scanning - begun) / max(1, ticks() - begun)


@jit
def product_block(  # type: ignore[no-untyped-def]
    x, table, nprobe, ip, parts, plain, scale, shift, terms, codes, ids, offsets, sizes, costs, labels, first, last
):
    begun, x = ticks(), x[first:last]
    coarse, keys = coarse_of(x, table, nprobe, ip)
    scanning = ticks()
    n, m, ksub = x.shape[0], parts.shape[0], parts.shape[2]
    tables = np.empty((n, m, ksub), np.float32)
    fill_tables(x, parts, shift, ip or not plain, scale, tables, 0, n)
    if plain:
        coarse[:] = np.float32(0)
    bound, mask, limits, pairs = unlimited()
    some, names, hits = costs[first:last], labels[first:last], np.empty(n, np.int64)
    arena = codes, ids, offsets, sizes
    visited, scored, entered, _, _ = ivf_tables.by_query(
        tables.reshape(n, m * ksub), coarse, terms, m, 8, *arena, keys, ip, bound, mask, limits, pairs, some, names, hits, 0, n
    )
    return visited, scored, entered, (scanning - begun) / max(1, ticks() - begun)


def arrays(lists: Ragged, *tensors: Tensor | None) -> tuple[Any, ...]:
    """Tensors that stay the same from search to search as arrays (none: empty), made once."""
    kept = lists.kept.get("few")
    if kept is None or len(kept[0]) != len(tensors) or any(a is not b for a, b in zip(kept[0], tensors)):
        kept = lists.kept["few"] = (tensors, tuple(NO_FLOATS if t is None else t.numpy() for t in tensors))
    return kept[1]  # type: ignore[no-any-return]


def few_in_blocks(x: Any, block: Scan, given: tuple[Any, ...], arena: tuple[Any, Any, Any], row_ns: float, k: int) -> Any:
    """block(*given, *arena, costs, labels, first, last) for the queries x, divided among threads; `row_ns` is about what a row costs."""
    _, table, nprobe = given[:3]
    nq = x.shape[0]
    per_query = average_work(nprobe, arena, row_ns)
    if nq == 1 and per_query * _DENSER > ALONE:  # scanning may be for several threads: one step after another then
        return NotImplemented
    costs, labels = np.empty((nq, k), F32), np.empty((nq, k), I64)
    started = perf_counter()
    if nq == 1 or nq * (per_query + table.size * _NS_OF_CENTER) < 2 * GRAIN:
        visited, scored, entered, share = block(*given, *arena, costs, labels, 0, nq)
        spent = (perf_counter() - started) * share
        return *like(x, costs, labels), (visited, scored, entered), spent
    done: list[Any] = []
    run_blocks(lambda a, b: done.append(block(*given, *arena, costs, labels, a, b)), nq, max(1, int(GRAIN / per_query)))
    spent = (perf_counter() - started) * sum(part[3] for part in done) / len(done)
    return *like(x, costs, labels), counts_of(done), spent


def few_flat(x: Tensor, centers: Tensor, nprobe: int, rows: Tensor, lists: Ragged, k: int, metric: int) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    table, vectors = arrays(lists, centers, rows)
    given = (array_of(x), table, nprobe, metric == INNER_PRODUCT, metric, vectors)
    return few_in_blocks(x, flat_block, given, views(lists)[1:], x.shape[1] * 0.3, k)


def few_affine(
    x: Tensor, centers: Tensor, nprobe: int, affine: Affine, residual: bool, lists: Ragged, k: int, metric: int
) -> Any:
    codes, *arena = views(lists)
    halves = codes.view(np.uint16) if affine.bits >= 16 else NO_HALVES
    head = (array_of(x), centers.numpy(), nprobe, metric == INNER_PRODUCT)
    return few_in_blocks(
        x, affine_block, (*head, residual, affine.bits, *steps(affine), codes, halves), tuple(arena), x.shape[1] * 0.15, k
    )


def few_product(
    x: Tensor,
    centers: Tensor,
    nprobe: int,
    transposed: Tensor,
    nbits: int,
    plain: bool,
    scale: float,
    shift: Tensor | None,
    terms: Tensor | None,
    lists: Ragged,
    k: int,
    metric: int,
) -> Any:
    if nbits != 8:
        return NotImplemented
    codes, *arena = views(lists)
    table, parts, middle, extra = arrays(lists, centers, transposed, shift, terms)
    given = (array_of(x), table, nprobe, metric == INNER_PRODUCT, parts, plain, np.float32(scale), middle, extra, codes)
    return few_in_blocks(x, product_block, given, tuple(arena), parts.shape[0] * 0.6, k)
