"""Scans of lists of vectors; compiled."""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.metrics import INNER_PRODUCT, JACCARD, L2
from tsscompat.kernels.numba.ivf_heap import among, collect, finish, put, roomy, sift, sift_from, start_heap
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.metrics import dot, one_distance, squared_l2
from tsscompat.kernels.numba.prefetch import prefetch

F = np.float32
NO_ARGUMENT = np.float32(0)
# Rows whose costs are computed before they are looked at: their costs stay in the first-level cache.
TILE = 64

# One row at a time: the scan of a list is bound by memory, and one stream of loads is what the hardware prefetches best (50 ns a row of
# 128 floats from memory, against 65 ns for four rows at a time; 14 and 12 ns in cache; Xeon at 2.5 GHz). It does so within a page of
# memory only, so rows are asked for this many ahead: lists of 200 cold rows take 62 ns a row instead of 81.
_AHEAD = 6


@inline
def ask(rows, r):  # type: ignore[no-untyped-def]
    """Ask for row r to be in the cache soon."""
    width = rows.shape[1] * 4
    for byte in range(0, width, 64):
        prefetch(rows, r * width + byte)


@inline
def fill(x, rows, a, b, metric, arg, out):  # type: ignore[no-untyped-def]
    """Costs of rows a : b; similarities come negated. These are the sums that flat indexes make, bit for bit."""
    if metric == INNER_PRODUCT:
        for r in range(a, b):
            ask(rows, r + _AHEAD)
            out[r - a] = -dot(x, rows[r])
    elif metric == L2:
        for r in range(a, b):
            ask(rows, r + _AHEAD)
            out[r - a] = squared_l2(x, rows[r])
    elif metric == JACCARD:
        for r in range(a, b):
            out[r - a] = -one_distance(x, rows[r], metric, arg)
    else:
        for r in range(a, b):
            out[r - a] = one_distance(x, rows[r], metric, arg)


@jit
def by_query(
    x, metric, arg, rows, ids, offsets, sizes, keys, ip, radius, allowed, limits, pairs, costs, labels, hits, first, last
):  # type: ignore[no-untyped-def]
    """Queries first : last one after another; a heap for each, or with k = 0 everything within the radius."""
    k, masked = costs.shape[1], allowed.shape[0] > 0
    found = np.empty(TILE, np.float32)
    values, names = np.empty(0, np.float32), np.empty(0, np.int64)
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
            for a in range(start, stop, TILE):
                b = min(a + TILE, stop)
                n = among(allowed, a, b) if masked else b - a
                if n == 0:
                    continue
                scored += n
                fill(x[q], rows, a, b, metric, arg, found)
                if k:
                    entered += put(costs[q], labels[q], ip, found, a, b, ids, l << 32, start, pairs, allowed)
                else:
                    values, names = roomy(values, entered, TILE), roomy(names, entered, TILE)
                    entered = collect(values, names, entered, radius, ip, found, a, b, ids, l << 32, start, pairs, allowed)
        finish(costs[q], labels[q], ip)
        hits[q] = entered - before
    return visited, scored, entered, values, names


@inline
def four_queries(x, q0, q1, q2, q3, rows, a, b, ip, out):  # type: ignore[no-untyped-def]
    """Costs of rows for four queries, which share the loads of a row."""
    x0, x1, x2, x3 = x[q0], x[q1], x[q2], x[q3]
    for r in range(a, b):
        y = rows[r]
        s0, s1, s2, s3 = F(0), F(0), F(0), F(0)
        if ip:
            for j in range(x.shape[1]):
                s0 -= x0[j] * y[j]
                s1 -= x1[j] * y[j]
                s2 -= x2[j] * y[j]
                s3 -= x3[j] * y[j]
        else:
            for j in range(x.shape[1]):
                t0, t1, t2, t3 = x0[j] - y[j], x1[j] - y[j], x2[j] - y[j], x3[j] - y[j]
                s0 += t0 * t0
                s1 += t1 * t1
                s2 += t2 * t2
                s3 += t3 * t3
        out[0, r - a], out[1, r - a], out[2, r - a], out[3, r - a] = s0, s1, s2, s3


@inline
def score_again(x, rows, ids, offsets, ip, pairs, costs, labels):  # type: ignore[no-untyped-def]
    """Give a heap of (list, position) pairs the costs that `fill` would have given them, and ids, if asked for.

    Sums for four queries at a time are rounded in another order; an answer must not depend on how many queries are asked at once.
    """
    k = costs.shape[0]
    one = np.empty(1, np.float32)
    for i in range(k):
        place = ~labels[i] if ip else labels[i]
        if place < 0:
            continue
        row = offsets[place >> 32] + (place & 0xFFFFFFFF)
        fill(x, rows, row, row + 1, INNER_PRODUCT if ip else L2, NO_ARGUMENT, one)
        label = place if pairs else ids[row]
        costs[i], labels[i] = one[0], ~label if ip else label
    # A heap again, from the bottom up.
    for top in range(k // 2 - 1, -1, -1):
        sift_from(costs, labels, k, top)


@inline
def askers_of(keys, nlist, first, last):  # type: ignore[no-untyped-def]
    """The queries that probe each list: those of list l are askers[ends[l] : ends[l + 1]]."""
    ends = np.zeros(nlist + 1, np.int64)
    for q in range(first, last):
        for p in range(keys.shape[1]):
            if keys[q, p] >= 0:
                ends[keys[q, p] + 1] += 1
    for l in range(nlist):
        ends[l + 1] += ends[l]
    at = ends[:nlist].copy()
    askers = np.empty(ends[nlist], np.int64)
    for q in range(first, last):
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l >= 0:
                askers[at[l]] = q
                at[l] += 1
    return ends, askers


@jit
def by_list(x, rows, ids, offsets, sizes, keys, ip, allowed, pairs, costs, labels, first, last):  # type: ignore[no-untyped-def]
    """Heaps of queries first : last, list after list."""
    masked = allowed.shape[0] > 0
    ends, askers = askers_of(keys, offsets.shape[0], first, last)
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
    visited = scored = entered = 0
    found = np.empty((4, TILE), np.float32)
    for l in range(offsets.shape[0]):
        start, stop = offsets[l], offsets[l] + sizes[l]
        here = askers[ends[l] : ends[l + 1]]
        n = here.shape[0]
        if start == stop or n == 0:
            continue
        visited += n
        scored += n * (among(allowed, start, stop) if masked else stop - start)
        for a in range(start, stop, TILE):
            b = min(a + TILE, stop)
            for i in range(0, n, 4):
                m = min(4, n - i)
                if m > 1:
                    # A group that is not full repeats its last query.
                    four_queries(x, here[i], here[i + 1], here[i + min(2, m - 1)], here[i + m - 1], rows, a, b, ip, found)
                else:
                    fill(x[here[i]], rows, a, b, INNER_PRODUCT if ip else L2, NO_ARGUMENT, found[0])
                for o in range(m):
                    q = here[i + o]
                    entered += put(costs[q], labels[q], ip, found[o], a, b, ids, l << 32, start, True, allowed)
    for q in range(first, last):
        score_again(x[q], rows, ids, offsets, ip, pairs, costs[q], labels[q])
        finish(costs[q], labels[q], ip)
    return visited, scored, entered


@jit
def nearest(x, centers, ip, costs, labels, first, last):  # type: ignore[no-untyped-def]
    """Queries first : last's nearest rows of a table, as many as `costs` has columns."""
    found = np.empty(TILE, np.float32)
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        for a in range(0, centers.shape[0], TILE):
            b = min(a + TILE, centers.shape[0])
            fill(x[q], centers, a, b, INNER_PRODUCT if ip else L2, NO_ARGUMENT, found)
            bar = costs[q, 0]
            for i in range(b - a):
                if found[i] < bar:
                    sift(costs[q], labels[q], costs.shape[1], found[i], ~(a + i) if ip else a + i)
                    bar = costs[q, 0]
        finish(costs[q], labels[q], ip)
