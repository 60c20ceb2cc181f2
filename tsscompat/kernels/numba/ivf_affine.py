"""Scans of lists of scalar-quantised codes, decoded on the way; compiled.

A code c of a dimension stands for lo + step * c. L2 is then a sum of (r - step * c)^2 with r = query - center - lo, made once for each
list, and the inner product a constant plus a sum of (query * step) * c.
"""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.intrinsics import brain_to_float, half_to_float
from tsscompat.kernels.numba.ivf_flat import TILE
from tsscompat.kernels.numba.ivf_heap import among, collect, finish, put, roomy, start_heap
from tsscompat.kernels.numba.jit import inline, jit

F = np.float32
U8 = np.uint8


@inline
def of_bytes(r, step, codes, a, b, ip, out):  # type: ignore[no-untyped-def]
    for row in range(a, b):
        c = codes[row]
        s = F(0)
        if ip:
            for j in range(r.shape[0]):
                s -= r[j] * F(c[j])
        else:
            for j in range(r.shape[0]):
                t = r[j] - step[j] * F(c[j])
                s += t * t
        out[row - a] = s


@inline
def of_nibbles(r, step, codes, a, b, ip, out):  # type: ignore[no-untyped-def]
    """`r` and `step` hold the even dimensions, then the odd ones."""
    h = codes.shape[1]
    # Parts of their own: what is added to an index may wrap around for all that LLVM knows, and then it uses no vectors (7 times slower).
    even, odd, even_step, odd_step = r[:h], r[h:], step[:h], step[h:]
    for row in range(a, b):
        c = codes[row]
        s0, s1 = F(0), F(0)
        if ip:
            for j in range(h):
                s0 -= even[j] * F(U8(c[j] & U8(15)))
                s1 -= odd[j] * F(U8(c[j] >> U8(4)))
        else:
            for j in range(h):
                t0 = even[j] - even_step[j] * F(U8(c[j] & U8(15)))
                t1 = odd[j] - odd_step[j] * F(U8(c[j] >> U8(4)))
                s0 += t0 * t0
                s1 += t1 * t1
        out[row - a] = s0 + s1


@inline
def of_sixes(r, step, codes, a, b, ip, out, spare):  # type: ignore[no-untyped-def]
    """Four numbers are in three bytes: taken out of a word of those, 8 times as fast as each from the bytes that it lies in."""
    d = r.shape[0]
    whole = d // 4
    for row in range(a, b):
        c = codes[row]
        for g in range(whole):
            word = np.uint32(c[3 * g]) | (np.uint32(c[3 * g + 1]) << np.uint32(8)) | (np.uint32(c[3 * g + 2]) << np.uint32(16))
            spare[4 * g] = F(np.int32(word & np.uint32(63)))
            spare[4 * g + 1] = F(np.int32((word >> np.uint32(6)) & np.uint32(63)))
            spare[4 * g + 2] = F(np.int32((word >> np.uint32(12)) & np.uint32(63)))
            spare[4 * g + 3] = F(np.int32((word >> np.uint32(18)) & np.uint32(63)))
        for j in range(4 * whole, d):
            bit = 6 * j
            rest = np.int64(c[bit >> 3]) | (np.int64(c[min((bit >> 3) + 1, c.shape[0] - 1)]) << 8)
            spare[j] = F((rest >> (bit & 7)) & 63)
        s = F(0)
        if ip:
            for j in range(d):
                s -= r[j] * spare[j]
        else:
            for j in range(d):
                t = r[j] - step[j] * spare[j]
                s += t * t
        out[row - a] = s


@inline
def of_halves(r, halves, a, b, ip, out):  # type: ignore[no-untyped-def]
    for row in range(a, b):
        h, s = halves[row], F(0)
        if ip:
            for j in range(r.shape[0]):
                s -= r[j] * half_to_float(h[j])
        else:
            for j in range(r.shape[0]):
                t = r[j] - half_to_float(h[j])
                s += t * t
        out[row - a] = s


@inline
def of_brains(r, halves, a, b, ip, out):  # type: ignore[no-untyped-def]
    for row in range(a, b):
        h, s = halves[row], F(0)
        if ip:
            for j in range(r.shape[0]):
                s -= r[j] * brain_to_float(h[j])
        else:
            for j in range(r.shape[0]):
                t = r[j] - brain_to_float(h[j])
                s += t * t
        out[row - a] = s


@inline
def prepare(r, x, lo, step, bits, ip):  # type: ignore[no-untyped-def]
    """Fill r from what is compared with the codes (the query, or its residual); gives the inner product's constant."""
    constant = F(0)
    d = x.shape[0]
    if bits >= 16:
        for j in range(d):
            r[j] = x[j]
        return constant
    half = r.shape[0] // 2
    for j in range(d):
        at = (j >> 1) + (half if j & 1 else 0) if bits == 4 else j
        if ip:
            r[at] = x[j] * step[at]
            constant += x[j] * lo[j]
        else:
            r[at] = x[j] - lo[j]
    return constant


@jit
def by_query(  # type: ignore[no-untyped-def]
    x,
    bits,
    lo,
    step,
    centers,
    base,
    codes,
    halves,
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
    found = np.empty(TILE, np.float32)
    r = np.zeros(step.shape[0] if bits < 16 else d, np.float32)
    residual = np.empty(d, np.float32)
    spare = np.empty(d, np.float32)
    values, names = np.empty(0, np.float32), np.empty(0, np.int64)
    visited = scored = entered = 0
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        before = entered
        constant = prepare(r, x[q], lo, step, bits, ip)
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l < 0:
                continue
            start = offsets[l]
            stop = start + (min(sizes[l], limits[q, p]) if limits.shape[0] else sizes[l])
            if stop == start:
                continue
            visited += 1
            if centers.shape[0] and not ip:
                for j in range(d):
                    residual[j] = x[q, j] - centers[l, j]
                prepare(r, residual, lo, step, bits, ip)
            extra = constant + (base[q, p] if base.shape[0] else F(0))
            for a in range(start, stop, TILE):
                b = min(a + TILE, stop)
                n = among(allowed, a, b) if masked else b - a
                if n == 0:
                    continue
                scored += n
                if bits == 8:
                    of_bytes(r, step, codes, a, b, ip, found)
                elif bits == 4:
                    of_nibbles(r, step, codes, a, b, ip, found)
                elif bits == 6:
                    of_sixes(r, step, codes, a, b, ip, found, spare)
                elif bits == 17:
                    of_brains(r, halves, a, b, ip, found)
                else:
                    of_halves(r, halves, a, b, ip, found)
                if ip:
                    for i in range(b - a):
                        found[i] -= extra
                if k:
                    entered += put(costs[q], labels[q], ip, found, a, b, ids, l << 32, start, pairs, allowed)
                else:
                    values, names = roomy(values, entered, TILE), roomy(names, entered, TILE)
                    entered = collect(values, names, entered, radius, ip, found, a, b, ids, l << 32, start, pairs, allowed)
        finish(costs[q], labels[q], ip)
        hits[q] = entered - before
    return visited, scored, entered, values, names
