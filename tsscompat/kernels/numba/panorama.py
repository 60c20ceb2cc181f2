"""Compiled twins of kernels/panorama.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba.ivf import ALONE, NO_BOUND, average_work, rest_of, top, within
from tsscompat.kernels.numba.ivf_heap import finish, roomy, sift, start_heap
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.prefetch import prefetch

F = np.float32
# Rounding of a bound, as a share of it.
SLACK = F(1e-5)
AHEAD = 12


@jit
def level_cost(query, rows, place, at, n, ip):  # type: ignore[no-untyped-def]
    """What n dimensions add to a cost."""
    asked, held, total = query[place : place + n], rows[at : at + n], F(0)
    if ip:
        for j in range(n):
            total -= asked[j] * held[j]
        return total
    for j in range(n):
        gap = asked[j] - held[j]
        total += gap * gap
    return total


@inline
def survivors(query, rest, rows, norms, width, start, n, active, costs, ip, bar):  # type: ignore[no-untyped-def]
    """Of the first n of `active` rows from `start` on, in place, those whose cost is under the bar, and how many levels were looked at."""
    d, looked = query.shape[0], 0
    for level in range(norms.shape[1] - 1):
        if n == 0:
            break
        looked += n
        first, stop = level * width, min(d, (level + 1) * width)
        left, kept = rest[level + 1], 0
        for a in range(n):
            i = active[a]
            row = start + i
            # Rows are far from one another: those that come soon are asked for.
            ahead = 4 * d * (start + active[min(a + AHEAD, n - 1)])
            for byte in range(4 * first, 4 * stop, 64):
                prefetch(rows, ahead + byte)
            total = level_cost(query, rows, first, row * d + first, stop - first, ip)
            cost = (costs[i] if level else F(0)) + total
            costs[i] = cost
            theirs = norms[row, level + 1]
            least = cost - (F(1) + SLACK) * left * theirs if ip else (F(1) - SLACK) * (cost + (left - theirs) * (left - theirs))
            active[kept] = i
            kept += 1 if least < bar else 0
        n = kept
    return n, looked


@jit
def by_query(  # type: ignore[no-untyped-def]
    x,
    rows,
    norms,
    width,
    batch,
    looked,
    ids,
    offsets,
    sizes,
    keys,
    ip,
    radius,
    allowed,
    limits,
    pairs,
    costs,
    labels,
    hits,
    first,
    last,
):
    """Queries first : last one after another; a heap for each, or with k = 0 everything within the radius."""
    k, masked, d, levels = costs.shape[1], allowed.shape[0] > 0, x.shape[1], norms.shape[1] - 1
    active, found, rest = np.empty(batch, np.int64), np.empty(batch, np.float32), np.empty(levels + 1, np.float32)
    values, names = np.empty(0, np.float32), np.empty(0, np.int64)
    visited = scored = entered = 0
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        before, total = entered, F(0)
        rest[levels] = F(0)
        for level in range(levels - 1, -1, -1):
            for j in range(level * width, min(d, (level + 1) * width)):
                total += x[q, j] * x[q, j]
            rest[level] = np.sqrt(total)
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l < 0:
                continue
            start = offsets[l]
            stop = start + (min(sizes[l], limits[q, p]) if limits.shape[0] else sizes[l])
            visited += stop > start
            for a in range(start, stop, batch):
                n = 0
                for i in range(min(batch, stop - a)):
                    active[n] = i
                    n += not masked or allowed[a + i]
                scored += n
                n, seen = survivors(x[q], rest, rows, norms, width, a, n, active, found, ip, costs[q, 0] if k else radius)
                looked[q] += seen
                if k == 0:
                    values, names = roomy(values, entered, n), roomy(names, entered, n)
                for at in range(n):
                    i = active[at]
                    label = l << 32 | (a + i - start) if pairs else ids[a + i]
                    if k and found[i] < costs[q, 0]:
                        sift(costs[q], labels[q], k, found[i], ~label if ip else label)
                        entered += 1
                    elif k == 0 and found[i] < radius:
                        values[entered], names[entered] = -found[i] if ip else found[i], label
                        entered += 1
        finish(costs[q], labels[q], ip)
        hits[q] = entered - before
    return visited, scored, entered, values, names


def _head(x: Tensor, rows: Tensor, norms: Tensor, lists: Ragged, width: int, batch: int) -> tuple[Any, ...]:
    _, ids, offsets, sizes = views(lists)
    looked = np.zeros(x.shape[0], np.int64)
    # A batch is never longer than the longest list.
    batch = max(1, min(batch, int(lists.sizes.max()) if lists.nlist else 1))
    return x.contiguous().numpy(), rows.reshape(-1).numpy(), norms.numpy(), width, batch, looked, ids, offsets, sizes


def scan_levels(
    x: Tensor,
    rows: Tensor,
    norms: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    width: int,
    batch: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    head, rest = _head(x, rows, norms, lists, width, batch), rest_of(metric == INNER_PRODUCT, NO_BOUND, allowed, limits, pairs)
    # A single query stays in one hand: each has its own results to compare with.
    per_query = min(ALONE, average_work(keys.shape[1], head[6:], x.shape[1] * 0.3))
    distances, labels, counts = top(by_query, head, keys.numpy(), rest, k, per_query)
    return distances, labels, counts, (int(head[5].sum()), counts[1] * (norms.shape[1] - 1))


def within_levels(
    x: Tensor,
    rows: Tensor,
    norms: Tensor,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    width: int,
    batch: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    ip = metric == INNER_PRODUCT
    head = _head(x, rows, norms, lists, width, batch)
    rest = rest_of(ip, np.float32(-radius if ip else radius), allowed, limits, pairs)
    per_query = average_work(keys.shape[1], head[6:], x.shape[1] * 0.3)
    lims, distances, labels, counts = within(by_query, head, keys.numpy(), rest, per_query)
    return lims, distances, labels, counts, (int(head[5].sum()), counts[1] * (norms.shape[1] - 1))
