"""Scans of lists of vectors; compiled."""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.ivf_heap import among, collect, finish, put, roomy, sift, start_heap
from tsscompat.kernels.numba.jit import inline, jit

F = np.float32
# Rows whose costs are computed before they are looked at: their costs stay in the first-level cache.
TILE = 64

# One row at a time: the scan of a list is bound by memory, and one stream of loads is what the hardware prefetches best (50 ns a row of
# 128 floats from memory, against 65 ns for four rows at a time; 14 and 12 ns in cache; Xeon at 2.5 GHz).


@inline
def squared(x, rows, a, b, out):  # type: ignore[no-untyped-def]
    for r in range(a, b):
        y = rows[r]
        s = F(0)
        for j in range(x.shape[0]):
            t = x[j] - y[j]
            s += t * t
        out[r - a] = s


@inline
def negative_product(x, rows, a, b, out):  # type: ignore[no-untyped-def]
    for r in range(a, b):
        y = rows[r]
        s = F(0)
        for j in range(x.shape[0]):
            s += x[j] * y[j]
        out[r - a] = -s


@jit
def by_query(x, rows, ids, offsets, sizes, keys, ip, radius, allowed, limits, pairs, costs, labels, hits, first, last):  # type: ignore[no-untyped-def]
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
                if ip:
                    negative_product(x[q], rows, a, b, found)
                else:
                    squared(x[q], rows, a, b, found)
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
                elif ip:
                    negative_product(x[here[i]], rows, a, b, found[0])
                else:
                    squared(x[here[i]], rows, a, b, found[0])
                for o in range(m):
                    q = here[i + o]
                    entered += put(costs[q], labels[q], ip, found[o], a, b, ids, l << 32, start, pairs, allowed)
    for q in range(first, last):
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
            if ip:
                negative_product(x[q], centers, a, b, found)
            else:
                squared(x[q], centers, a, b, found)
            bar = costs[q, 0]
            for i in range(b - a):
                if found[i] < bar:
                    sift(costs[q], labels[q], costs.shape[1], found[i], ~(a + i) if ip else a + i)
                    bar = costs[q, 0]
        finish(costs[q], labels[q], ip)
