"""Compiled twins of kernels/ivf_few.py: each block of queries goes through coarse search and scan on one thread, with little Python."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba import ivf_affine, ivf_flat, ivf_tables
from tsscompat.kernels.numba.ivf import (
    F32,
    GRAIN,
    I64,
    NO_BOUND,
    NO_FLOATS,
    NO_HALVES,
    NO_LIMITS,
    NO_MASK,
    NO_TABLE,
    counts_of,
    steps,
    top,
    work,
)
from tsscompat.kernels.numba.ivf_flat import NO_ARGUMENT, nearest
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.ivf_terms import fill_tables
from tsscompat.kernels.threads import run_blocks

_NS_OF_CENTER = 0.12  # for each dimension


def _few(
    x: Any,
    table: Any,
    nprobe: int,
    ip: bool,
    scan: Callable[..., Any],
    head: Any,
    k: int,
    arena: tuple[Any, Any, Any],
    row_ns: float,
    before: Callable[..., Any] | None = None,
) -> Any:
    """Search and scan for all queries; head() gives the scan's first arguments, given the coarse distances; `before` fills tables.

    `arena` are the ids, offsets and sizes of the lists, `row_ns` about what a row costs.
    """
    ids, offsets, sizes = arena
    nq, per_query = x.shape[0], work(nprobe, offsets, ids, row_ns)
    coarse, keys = np.empty((nq, nprobe), F32), np.empty((nq, nprobe), I64)
    rest = (ip, NO_BOUND, NO_MASK, NO_LIMITS, False)
    given = head(coarse)
    if nq == 1 or nq * (per_query + table.size * _NS_OF_CENTER) < 2 * GRAIN:
        started = perf_counter()
        nearest(x, table, ip, coarse, keys, 0, nq)
        spent = perf_counter() - started
        if before is not None:
            before(0, nq)
        if nq == 1:
            # Near the data lists are longer than on average: what is really there decides whether a second thread helps.
            per_query = float(sizes[keys[0]].sum()) * row_ns
        return *top(scan, given, keys, rest, k, per_query), spent
    costs, labels, hits = np.empty((nq, k), F32), np.empty((nq, k), I64), np.empty(nq, I64)
    done: list[Any] = []
    seconds: list[float] = []

    def block(a: int, b: int) -> None:
        started = perf_counter()
        nearest(x, table, ip, coarse, keys, a, b)
        seconds.append(perf_counter() - started)
        if before is not None:
            before(a, b)
        done.append(scan(*given, keys, *rest, costs, labels, hits, a, b))

    run_blocks(block, nq, max(1, int(GRAIN / per_query)))
    return torch.from_numpy(costs), torch.from_numpy(labels), counts_of(done), sum(seconds)


def few_flat(x: Tensor, centers: Tensor, nprobe: int, rows: Tensor, lists: Ragged, k: int, metric: int) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    _, ids, offsets, sizes = views(lists)
    queries = x.numpy()
    given = (queries, metric, NO_ARGUMENT, rows.numpy(), ids, offsets, sizes)
    arena, ip, row_ns = (ids, offsets, sizes), metric == INNER_PRODUCT, queries.shape[1] * 0.3
    return _few(queries, centers.numpy(), nprobe, ip, ivf_flat.by_query, lambda coarse: given, k, arena, row_ns)


def few_affine(
    x: Tensor, centers: Tensor, nprobe: int, affine: Affine, residual: bool, lists: Ragged, k: int, metric: int
) -> Any:
    codes, ids, offsets, sizes = views(lists)
    queries, table, ip = x.numpy(), centers.numpy(), metric == INNER_PRODUCT
    start = (queries, affine.bits, *steps(affine), table if residual and not ip else NO_TABLE)
    end = (codes, codes.view(np.uint16) if affine.bits >= 16 else NO_HALVES, ids, offsets, sizes)
    arena, row_ns = (ids, offsets, sizes), queries.shape[1] * 0.15

    def head(coarse: Any) -> Any:
        return *start, coarse if residual and ip else NO_TABLE, *end

    return _few(queries, table, nprobe, ip, ivf_affine.by_query, head, k, arena, row_ns)


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
    codes, ids, offsets, sizes = views(lists)
    queries, parts, ip = x.numpy(), transposed.numpy(), metric == INNER_PRODUCT
    nq, m, ksub = queries.shape[0], parts.shape[0], parts.shape[2]
    tables = np.empty((nq, m, ksub), F32)
    middle, extra = NO_FLOATS if shift is None else shift.numpy(), NO_FLOATS if terms is None else terms.numpy()
    products, factor = ip or not plain, np.float32(scale)
    flat = tables.reshape(nq, m * ksub)

    def head(coarse: Any) -> Any:
        return flat, np.zeros_like(coarse) if plain else coarse, extra, m, nbits, codes, ids, offsets, sizes

    def before(a: int, b: int) -> None:
        fill_tables(queries, parts, middle, products, factor, tables, a, b)

    arena, row_ns = (ids, offsets, sizes), m * 0.6
    return _few(queries, centers.numpy(), nprobe, ip, ivf_tables.by_query, head, k, arena, row_ns, before)
