"""Compiled twins of kernels/panorama.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba.addressed import address, minus_dot_at, prefetch_at, squared_l2_at
from tsscompat.kernels.numba.ivf import F32, GRAIN, I64, NO_MASK
from tsscompat.kernels.numba.ivf_heap import finish, roomy, sift, start_heap
from tsscompat.kernels.numba.jit import exact, inline, jit
from tsscompat.kernels.numba.level_lanes import first_ip, first_l2, further_ip, further_l2
from tsscompat.kernels.panorama import Layout
from tsscompat.kernels.threads import max_threads, run_blocks

F = np.float32
# As in level_lanes.py: rounding of squared gaps of lengths, as a share of them.
SURE = F(1 + 1e-6)
# Queries that are compared with a batch while it is in the cache.
TILE = 64
# Rows whose sums, each in its order, are taken beside each other: an addition takes four cycles.
BESIDE = 16
# Rows that are looked at together; names and costs have room for twice as many more.
LANES = 16


@exact
def _lengths(rows, width, out, first, last):  # type: ignore[no-untyped-def]
    d, levels, totals = rows.shape[1], out.shape[1] - 1, np.empty(BESIDE, np.float32)
    for i in range(first, last, BESIDE):
        n = min(BESIDE, last - i)
        totals[:] = F(0)
        for r in range(n):
            out[i + r, levels] = F(0)
        for level in range(levels - 1, -1, -1):
            for j in range(level * width, min(d, (level + 1) * width)):
                for r in range(n):
                    totals[r] += rows[i + r, j] * rows[i + r, j]
            for r in range(n):
                out[i + r, level] = np.sqrt(totals[r])


@jit
def lengths_of(rows, width, out, first, last):  # type: ignore[no-untyped-def]
    """Rows first : last of lengths_left; each sum is taken in its order, as lengths are stored."""
    _lengths(rows, width, out, first, last)


def lengths_left(rows: Tensor, width: int) -> Any:
    if rows.dtype != torch.float32:
        return NotImplemented
    given = rows.contiguous().numpy()
    n, d = given.shape
    out = np.empty((n, -(-d // width) + 1), F32)
    if n * d < 1 << 16:
        lengths_of(given, width, out, 0, n)
    else:
        run_blocks(lambda a, b: lengths_of(given, width, out, a, b), n, max(BESIDE, (1 << 16) // d))
    return torch.from_numpy(out)


@inline
def survivors(query, rest, place, hop, stride, lengths, skip, d, width, n, whole, names, costs, ip, bar):  # type: ignore[no-untyped-def]
    """Which of n rows may end under the bar, in `names` and `costs`; says how many, and how many levels were looked at.

    Level l of row i is at place + l * hop + i * stride, in bytes (stride 0: rows of a level lie one after another), the length of what is
    left behind it at lengths + l * skip + 4 * i. The rows are those in `names`, or all.
    """
    levels, looked, held, found = rest.shape[0] - 1, 0, address(names), address(costs)
    at = address(query)
    for level in range(levels):
        if n == 0:
            break
        looked += n
        some = min(width, d - level * width)
        step = stride if stride else 4 * some
        left, asked, here, theirs = rest[level + 1], at + 4 * level * width, place + level * hop, lengths + level * skip
        if whole and level == 0:
            even = n - n % LANES
            if ip:
                kept = first_ip(asked, here, step, theirs, held, found, even, held, found, some, left, bar)
            else:
                kept = first_l2(asked, here, step, theirs, held, found, even, held, found, some, left, bar)
            for i in range(even, n):
                names[i], costs[i] = i, F(0)
        else:
            even = kept = 0
        if n > even:
            given, so_far, to, into = held + 4 * even, found + 4 * even, held + 4 * kept, found + 4 * kept
            if ip:
                kept += further_ip(asked, here, step, theirs, given, so_far, n - even, to, into, some, left, bar)
            else:
                kept += further_l2(asked, here, step, theirs, given, so_far, n - even, to, into, some, left, bar)
        n = kept
    return n, looked


@inline
def chosen(names, costs, allowed, start, n):  # type: ignore[no-untyped-def]
    """Name those of n rows that are allowed, each with a cost of 0; says how many there are."""
    some = 0
    for i in range(n):
        names[some] = i
        some += allowed[start + i]
    costs[:some] = F(0)
    return some


@jit
def batches_by_query(  # type: ignore[no-untyped-def]
    x, packed, lengths, n, width, batch, ip, radius, allowed, rest, costs, labels, looked, first, last
):
    """Queries first : last, some of them on each batch in turn; a heap for each, or with k = 0 everything within the radius."""
    d, k, levels, masked = x.shape[1], costs.shape[1], rest.shape[1] - 1, allowed.shape[0] > 0
    size = min(batch, n)
    names, found = np.empty(size + 2 * LANES, np.int32), np.empty(size + 2 * LANES, np.float32)
    values, places = np.empty(0, np.float32), np.empty(0, np.int64)
    vectors, lens = address(packed), address(lengths)
    tile, entered = TILE if k else 1, 0
    for q0 in range(first, last, tile):
        q1 = min(q0 + tile, last)
        for q in range(q0, q1):
            start_heap(costs[q], labels[q], ip)
        before = entered
        for start in range(0, n, batch):
            count = min(batch, n - start)
            place, theirs = vectors + 4 * start * d, lens + 4 * (start * (levels + 1) + batch)
            for q in range(q0, q1):
                m = chosen(names, found, allowed, start, count) if masked else count
                bar = costs[q, 0] if k else radius
                m, seen = survivors(
                    x[q], rest[q], place, 4 * batch * width, 0, theirs, 4 * batch, d, width, m, not masked, names, found, ip, bar
                )
                looked[q] += seen
                if k == 0:
                    values, places = roomy(values, entered, m), roomy(places, entered, m)
                for i in range(m):
                    row = start + names[i]
                    if k and found[i] < costs[q, 0]:
                        sift(costs[q], labels[q], k, found[i], ~row if ip else row)
                    elif k == 0 and found[i] < radius:
                        values[entered], places[entered] = -found[i] if ip else found[i], row
                        entered += 1
        for q in range(q0, q1):
            finish(costs[q], labels[q], ip)
            if k == 0:
                labels[q, 0] = entered - before
    return entered, values, places


def _batches(
    x: Tensor, packed: Tensor, lengths: Tensor, n: int, metric: int, layout: Layout, allowed: Tensor | None, radius: float, k: int
) -> Any:
    """batches_by_query that wants but its first and last, what it fills, and the nanoseconds of a query."""
    queries, nq = x.contiguous(), x.shape[0]
    rest = lengths_left(queries, layout.width).numpy()
    mask = NO_MASK if allowed is None else allowed.contiguous().numpy()
    how = layout.width, layout.batch, metric == INNER_PRODUCT, F32.type(radius), mask, rest
    costs, looked = np.empty((nq, k), F32), np.zeros(nq, I64)
    labels = np.empty((nq, max(k, 1) if k == 0 else k), I64)
    given = (queries.numpy(), packed.numpy(), lengths.numpy(), n, *how, costs, labels, looked)
    scan: Callable[..., Any] = batches_by_query
    per_query = n * (4.0 + 0.03 * x.shape[1]) + 1.0
    return functools.partial(scan, *given), costs, labels, looked, per_query


def _looked(looked: Any, n: int, layout: Layout, allowed: Tensor | None) -> tuple[int, int]:
    return int(looked.sum()), looked.shape[0] * layout.levels * (n if allowed is None else int(allowed.sum()))


def scan_batches(
    x: Tensor, packed: Tensor, lengths: Tensor, n: int, k: int, metric: int, layout: Layout, allowed: Tensor | None = None
) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    scan, costs, labels, looked, per_query = _batches(x, packed, lengths, n, metric, layout, allowed, 0.0, k)
    nq = x.shape[0]
    if nq * per_query < 2 * GRAIN:
        scan(0, nq)
    else:
        # As many queries in a block as share a batch, where there are as many; a single query stays in one hand, as its results are one.
        grain = max(1, min(TILE, -(-nq // max_threads())))
        run_blocks(scan, nq, grain)
    return torch.from_numpy(costs), torch.from_numpy(labels), _looked(looked, n, layout, allowed)


def within_batches(
    x: Tensor, packed: Tensor, lengths: Tensor, n: int, radius: float, metric: int, layout: Layout, allowed: Tensor | None = None
) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    bound = -radius if metric == INNER_PRODUCT else radius
    scan, _, hits, looked, per_query = _batches(x, packed, lengths, n, metric, layout, allowed, bound, 0)
    done: list[tuple[int, Any]] = []
    run_blocks(lambda a, b: done.append((a, scan(a, b))), x.shape[0], max(1, int(GRAIN / per_query)))
    parts = [part for _, part in sorted(done, key=lambda item: item[0])]
    lims = np.zeros(x.shape[0] + 1, I64)
    np.cumsum(hits[:, 0], out=lims[1:])
    values = np.concatenate([np.zeros(0, F32), *(part[1][: part[0]] for part in parts)])
    names = np.concatenate([np.zeros(0, I64), *(part[2][: part[0]] for part in parts)])
    return torch.from_numpy(lims), torch.from_numpy(values), torch.from_numpy(names), _looked(looked, n, layout, allowed)


@jit
def ranked(x, rows, norms, wanted, width, ip, rest, costs, labels, looked, first, last):  # type: ignore[no-untyped-def]
    """Heaps of queries first : last over the rows that each names, one row after another."""
    d, k, levels, table = x.shape[1], costs.shape[1], rest.shape[1] - 1, address(rows)
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        asked = address(x) + 4 * q * d
        for c in range(wanted.shape[1]):
            if c + 4 < wanted.shape[1] and wanted[q, c + 4] >= 0:
                ahead = table + 4 * d * wanted[q, c + 4]
                for byte in range(0, 4 * width, 64):
                    prefetch_at(ahead + byte)
            row = wanted[q, c]
            if row < 0:
                continue
            cost, kept = F(0), True
            for level in range(levels):
                begin = level * width
                some = min(width, d - begin)
                here = table + 4 * (row * d + begin)
                left, theirs = rest[q, level + 1], norms[row, level + 1]
                if ip:
                    cost += minus_dot_at(asked + 4 * begin, here, some)
                    least = cost - left * theirs
                else:
                    cost += squared_l2_at(asked + 4 * begin, here, some)
                    least = cost + SURE * (left - theirs) * (left - theirs)
                looked[q] += 1
                if least > costs[q, 0]:
                    kept = False
                    break
            if kept and cost < costs[q, 0]:
                sift(costs[q], labels[q], k, cost, ~row if ip else row)
        finish(costs[q], labels[q], ip)


def rank_levels(x: Tensor, rows: Tensor, norms: Tensor, labels: Tensor, k: int, metric: int, width: int) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    queries, wanted, nq = x.contiguous(), labels.contiguous().numpy(), x.shape[0]
    rest, looked = lengths_left(queries, width).numpy(), np.zeros(nq, I64)
    costs, names = np.empty((nq, k), F32), np.empty((nq, k), I64)
    given = (queries.numpy(), rows.numpy(), norms.numpy(), wanted, width, metric == INNER_PRODUCT, rest, costs, names, looked)
    per_query = wanted.shape[1] * (30.0 + 0.1 * x.shape[1]) + 1.0
    if nq * per_query < 2 * GRAIN:
        ranked(*given, 0, nq)
    else:
        run_blocks(lambda a, b: ranked(*given, a, b), nq, max(1, int(GRAIN / per_query)))
    asked = int((wanted >= 0).sum()) * (norms.shape[1] - 1)
    return torch.from_numpy(costs), torch.from_numpy(names), (int(looked.sum()), asked)
