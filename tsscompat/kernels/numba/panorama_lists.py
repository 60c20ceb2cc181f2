"""Compiled twins of kernels/panorama_lists.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged, widest
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.door import array_of
from tsscompat.kernels.numba.intrinsics import ticks
from tsscompat.kernels.numba.ivf import ALONE, I64, NO_BOUND, average_work, rest_of, top, within
from tsscompat.kernels.numba.ivf_few import arrays, coarse_of, few_in_blocks, unlimited
from tsscompat.kernels.numba.ivf_heap import finish, roomy, sift, start_heap
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.panorama import LANES, chosen, lengths_left, lengths_of, survivors


@jit
def by_query(  # type: ignore[no-untyped-def]
    x,
    rows,
    norms,
    width,
    batch,
    rest,
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
    k, masked, d = costs.shape[1], allowed.shape[0] > 0, x.shape[1]
    names, found = np.empty(batch + 2 * LANES, np.int32), np.empty(batch + 2 * LANES, np.float32)
    values, places = np.empty(0, np.float32), np.empty(0, np.int64)
    visited = scored = entered = 0
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        before = entered
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l < 0:
                continue
            start = offsets[l]
            stop = start + (min(sizes[l], limits[q, p]) if limits.shape[0] else sizes[l])
            visited += stop > start
            for a in range(start, stop, batch):
                n = min(batch, stop - a)
                if masked:
                    n = chosen(names, found, allowed, a, n)
                scored += n
                theirs = address(norms) + 4 * (norms.shape[1] + a)
                bar, skip = costs[q, 0] if k else radius, 4 * norms.shape[1]
                n, seen = survivors(
                    x[q],
                    rest[q],
                    address(rows) + 4 * d * a,
                    4 * width,
                    4 * d,
                    theirs,
                    skip,
                    d,
                    width,
                    n,
                    not masked,
                    names,
                    found,
                    ip,
                    bar,
                )
                looked[q] += seen
                if k == 0:
                    values, places = roomy(values, entered, n), roomy(places, entered, n)
                for i in range(n):
                    row = a + names[i]
                    label = l << 32 | (row - start) if pairs else ids[row]
                    if k and found[i] < costs[q, 0]:
                        sift(costs[q], labels[q], k, found[i], ~label if ip else label)
                        entered += 1
                    elif k == 0 and found[i] < radius:
                        values[entered], places[entered] = -found[i] if ip else found[i], label
                        entered += 1
        finish(costs[q], labels[q], ip)
        hits[q] = entered - before
    return visited, scored, entered, values, places


def _longest(lists: Ragged, batch: int) -> int:
    """How many vectors go together: a batch is never longer than the longest list."""
    return max(1, min(batch, widest(lists)))


def _head(x: Tensor, rows: Tensor, norms: Tensor, lists: Ragged, width: int, batch: int) -> tuple[Any, ...]:
    _, ids, offsets, sizes = views(lists)
    queries, looked = x.contiguous(), np.zeros(x.shape[0], I64)
    rest, lengths = lengths_left(queries, width).numpy(), norms.t().contiguous().numpy()
    return queries.numpy(), rows.numpy(), lengths, width, _longest(lists, batch), rest, looked, ids, offsets, sizes


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
    per_query = min(ALONE, average_work(keys.shape[1], head[7:], x.shape[1] * 0.1))
    distances, labels, counts = top(by_query, head, keys.numpy(), rest, k, per_query)
    return distances, labels, counts, (int(head[6].sum()), counts[1] * (norms.shape[1] - 1))


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
    per_query = average_work(keys.shape[1], head[7:], x.shape[1] * 0.1)
    lims, distances, labels, counts = within(by_query, head, keys.numpy(), rest, per_query)
    return lims, distances, labels, counts, (int(head[6].sum()), counts[1] * (norms.shape[1] - 1))


@jit
def levels_block(  # type: ignore[no-untyped-def]
    x, table, nprobe, ip, rows, norms, width, batch, looked, ids, offsets, sizes, costs, labels, first, last
):
    begun, x = ticks(), x[first:last]
    _, keys = coarse_of(x, table, nprobe, ip)
    scanning, n = ticks(), x.shape[0]
    rest, hits = np.empty((n, norms.shape[0]), np.float32), np.empty(n, np.int64)
    lengths_of(x, width, rest, 0, n)
    bound, mask, limits, pairs = unlimited()
    some, names, seen = costs[first:last], labels[first:last], looked[first:last]
    arena = ids, offsets, sizes
    visited, scored, entered, _, _ = by_query(
        x, rows, norms, width, batch, rest, seen, *arena, keys, ip, bound, mask, limits, pairs, some, names, hits, 0, n
    )
    return visited, scored, entered, (scanning - begun) / max(1, ticks() - begun)


def few_levels(
    x: Tensor,
    centers: Tensor,
    nprobe: int,
    rows: Tensor,
    norms: Tensor,
    lists: Ragged,
    k: int,
    metric: int,
    width: int,
    batch: int,
) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    table, vectors, lengths = arrays(lists, centers, rows, norms)
    lengths = np.ascontiguousarray(lengths.T)  # as they are kept already: level by level
    queries, looked = array_of(x), np.zeros(x.shape[0], I64)
    given = (queries, table, nprobe, metric == INNER_PRODUCT, vectors, lengths, width, _longest(lists, batch), looked)
    found = few_in_blocks(x, levels_block, given, views(lists)[1:], x.shape[1] * 0.1, k)
    if found is NotImplemented:
        return found
    counts = found[2]
    return *found, (sum(looked.tolist()), counts[1] * (lengths.shape[0] - 1))
