"""Product codes of 4 bits, a few queries: tables, their quantisation and the scan (for lists the coarse search too) in one compiled call.

A single query takes 60 to 250 us. Between two searches Python's own memory leaves the caches, so a call into compiled code costs far more
than in a loop of nothing else: with four of them, and an array made for each step, as much went to Python as to the scan. What stays the
same from search to search is one array, `plan`, as each array that is an argument is read from memory that went cold.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.numba.addressed import pointer
from tsscompat.kernels.numba.blocks_scan import by_list, by_query
from tsscompat.kernels.numba.door import array_of, like
from tsscompat.kernels.numba.fastscan_tables import deepen, fill_luts
from tsscompat.kernels.numba.intrinsics import ticks
from tsscompat.kernels.numba.ivf import F32, GRAIN, I64, average_work, counts_of
from tsscompat.kernels.numba.ivf_flat import nearest
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.ivf_terms import fill_tables
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.nibbles import LANES, TOGETHER
from tsscompat.kernels.threads import run_blocks

F = np.float32
# What looking up one part of one code costs, in nanoseconds (Xeon at 2.5 GHz, AVX-512).
NS_OF_PART = 0.03
_NS_OF_CENTER = 0.12  # for each dimension
# Queries that look at a flat index together: each asks for every list.
_TOGETHER = 256


@inline
def _arena(plan):  # type: ignore[no-untyped-def]
    """Blocks, codes in one, ids, offsets, sizes."""
    n, stride, rows, nlist = plan[2], plan[3], plan[4], plan[5]
    blocks = carray(pointer(plan[6], np.uint8), (n, stride))
    ids, offsets = carray(pointer(plan[7], np.int64), (rows,)), carray(pointer(plan[8], np.int64), (nlist,))
    return blocks, plan[1], ids, offsets, carray(pointer(plan[9], np.int64), (nlist,))


@inline
def _parts(plan):  # type: ignore[no-untyped-def]
    """The centroids (M, dsub, 16)."""
    return carray(pointer(plan[12], np.float32), (plan[10], plan[11], 16))


@inline
def _look(tables, biases, deep, plan, keys, named, together, costs, labels):  # type: ignore[no-untyped-def]
    """Quantise tables (nq, 1 or nprobe, M, 16) and scan lists with them."""
    n, probes, m, _ = tables.shape
    luts, added = np.empty((n * probes, 1, m + m % 2, 16), np.uint8), np.empty(biases.shape, np.int32)
    scales, starts, ip, plain = np.empty(n, F), np.empty(n, F), plan[0] != 0, np.uint16(0)
    fill_luts(tables, biases, deep, np.ones(m, F), m, luts, added, scales, starts, 0, n)
    if added.shape[1] == 0:
        added = np.empty((0, 0), np.int32)
    blocks, per_block, ids, offsets, sizes = _arena(plan)
    mask = np.empty(0, np.bool_)
    if together:
        return by_list(
            luts, added, plain, 0, scales, starts, blocks, per_block, ids, offsets, sizes, keys, ip, mask, named, costs, labels, 0, n
        )  # fmt: skip
    visited, scored, entered, _, _ = by_query(
        luts, added, plain, 0, scales, starts, blocks, per_block, ids, offsets, sizes, keys, ip, np.empty(0, F), mask,
        np.empty((0, 0), np.int64), named, costs, labels, np.empty(n, np.int64), 0, n,
    )  # fmt: skip
    return visited, scored, entered


@jit
def _rows_block(plan, x, costs, labels, first, last):  # type: ignore[no-untyped-def]
    parts, nlist = _parts(plan), plan[5]
    m = parts.shape[0]
    for a in range(first, last, _TOGETHER):
        b = min(a + _TOGETHER, last)
        n = b - a
        keys, tables = np.empty((n, nlist), np.int64), np.empty((n, 1, m, 16), F)
        for q in range(n):
            for l in range(nlist):
                keys[q, l] = l
        fill_tables(x[a:b], parts, np.empty(0, F), plan[0] != 0, F(1), tables.reshape(n, m, 16), 0, n)
        _look(tables, np.empty((n, 0), F), False, plan, keys, 2, n > 1, costs[a:b], labels[a:b])


@jit
def _lists_block(plan, x, nprobe, costs, labels, first, last):  # type: ignore[no-untyped-def]
    begun, ip, residual, deep = ticks(), plan[0] != 0, plan[13] != 0, plan[16] != 0
    x, n, parts = x[first:last], last - first, _parts(plan)
    m, d = parts.shape[0], x.shape[1]
    coarse, keys = np.empty((n, nprobe), F), np.empty((n, nprobe), np.int64)
    nearest(x, carray(pointer(plan[15], np.float32), (plan[14], d)), ip, coarse, keys, 0, n)
    scanning = ticks()
    products = np.empty((n, 1, m, 16), F)
    fill_tables(x, parts, np.empty(0, F), ip or deep, F(-2 if deep else 1), products.reshape(n, m, 16), 0, n)
    tables, biases = products, np.empty((n, nprobe if deep else 0), F)
    if deep:
        tables = np.empty((n, nprobe, m, 16), F)
        terms = carray(pointer(plan[16], np.float32), (plan[14], m, 16))
        deepen(products.reshape(n, m, 16), terms, keys, coarse, tables, biases, 0, n)
    elif residual:
        biases = coarse
    visited, scored, entered = _look(tables, biases, deep, plan, keys, 0, False, costs[first:last], labels[first:last])
    return visited, scored, entered, (scanning - begun) / max(1, ticks() - begun)


def _plan(
    lists: Ragged, per_block: int, transposed: Tensor, ip: bool, residual: bool, centers: Tensor | None, terms: Tensor | None
) -> np.ndarray[Any, Any]:
    arena = lists.codes, lists.ids, lists.offsets, lists.sizes
    sizes = [*lists.codes.shape, lists.ids.shape[0], lists.nlist]
    coarse = [0, 0] if centers is None else [centers.shape[0], centers.data_ptr()]
    codec = [*transposed.shape[:2], transposed.data_ptr(), residual, *coarse, 0 if terms is None else terms.data_ptr()]
    return np.array([ip, per_block, *sizes, *(t.data_ptr() for t in arena), *codec], np.int64)


def few_rows(x: Tensor, transposed: Tensor, metric: int, lists: Ragged, per_block: int, k: int) -> Any:
    if not LANES:
        return NotImplemented
    kept = lists.kept.get("few rows")
    if kept is None or kept[0] is not transposed or kept[1] != metric:
        plan = _plan(lists, per_block, transposed, metric == INNER_PRODUCT, False, None, None)
        per_query = float(lists.sizes.sum()) * transposed.shape[0] * NS_OF_PART + 1000.0
        kept = lists.kept["few rows"] = transposed, metric, plan, per_query
    _, _, plan, per_query = kept
    nq, queries = x.shape[0], x.numpy()
    costs, labels = np.empty((nq, k), F32), np.empty((nq, k), I64)
    if nq == 1 or nq * per_query < 2 * GRAIN:
        _rows_block(plan, queries, costs, labels, 0, nq)
    else:
        given = plan, queries, costs, labels
        run_blocks(lambda a, b: _rows_block(*given, a, b), nq, max(TOGETHER, int(GRAIN / per_query)))
    return torch.from_numpy(costs), torch.from_numpy(labels)


def few_lists(
    x: Tensor,
    centers: Tensor,
    nprobe: int,
    transposed: Tensor,
    metric: int,
    residual: bool,
    terms: Tensor | None,
    lists: Ragged,
    per_block: int,
    k: int,
) -> Any:
    if not LANES:
        return NotImplemented
    kept: Any = lists.kept.get("few lists")
    how = metric, residual
    if kept is None or kept[0] is not centers or kept[1] is not transposed or kept[2] is not terms or kept[3] != how:
        plan = _plan(lists, per_block, transposed, metric == INNER_PRODUCT, residual, centers, terms)
        kept = lists.kept["few lists"] = centers, transposed, terms, how, plan
    nq, queries, plan = x.shape[0], array_of(x), kept[4]
    costs, labels = np.empty((nq, k), F32), np.empty((nq, k), I64)
    started, per_query = perf_counter(), 0.0
    if nq != 1:
        work = average_work(nprobe, views(lists)[1:], transposed.shape[0] * NS_OF_PART)
        per_query = centers.numel() * _NS_OF_CENTER + work
    if nq * per_query < 2 * GRAIN:
        visited, scored, entered, share = _lists_block(plan, queries, nprobe, costs, labels, 0, nq)
        return *like(x, costs, labels), (visited, scored, entered), (perf_counter() - started) * share
    done: list[Any] = []
    given = plan, queries, nprobe, costs, labels
    run_blocks(lambda a, b: done.append(_lists_block(*given, a, b)), nq, max(1, int(GRAIN / per_query)))
    spent = (perf_counter() - started) * sum(part[3] for part in done) / len(done)
    return *like(x, costs, labels), counts_of(done), spent
