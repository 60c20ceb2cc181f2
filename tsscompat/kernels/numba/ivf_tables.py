"""Scans of lists of product codes by table look-up; compiled."""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.ivf_flat import TILE
from tsscompat.kernels.numba.ivf_heap import among, collect, finish, put, roomy, start_heap
from tsscompat.kernels.numba.jit import in_order, jit
from tsscompat.kernels.numba.prefetch import prefetch

F = np.float32
# Unsigned arithmetic everywhere: numba then has no negative index to provide for (8 ns against 30 for a code of 16 bytes).
U = np.uint64
# Bytes of the next list that are fetched ahead.
AHEAD = 4096


@in_order
def byte_sums(table, codes, parts, start, a, b, out):  # type: ignore[no-untyped-def]
    """`start` and the sums of table[part * 256 + byte] over the first bytes of rows a : b; four sums, as an addition takes four cycles."""
    eights = parts // 8 * 8
    for r in range(a, b):
        c = codes[r]
        s0, s1, s2, s3 = start, F(0), F(0), F(0)
        o = U(0)
        for m in range(0, eights, 8):
            s0 += table[o + U(c[m])]
            s1 += table[o + U(256) + U(c[m + 1])]
            s2 += table[o + U(512) + U(c[m + 2])]
            s3 += table[o + U(768) + U(c[m + 3])]
            s0 += table[o + U(1024) + U(c[m + 4])]
            s1 += table[o + U(1280) + U(c[m + 5])]
            s2 += table[o + U(1536) + U(c[m + 6])]
            s3 += table[o + U(1792) + U(c[m + 7])]
            o += U(2048)
        for m in range(eights, parts):
            s0 += table[o + U(c[m])]
            o += U(256)
        out[r - a] = (s0 + s1) + (s2 + s3)


@in_order
def bit_sums(table, codes, parts, nbits, a, b, out):  # type: ignore[no-untyped-def]
    """The same without a start, for parts of any number of bits."""
    mask, size = U((1 << nbits) - 1), U(1 << nbits)
    for r in range(a, b):
        c = codes[r]
        s, o, word = F(0), U(0), U(0)
        have = at = 0
        for _ in range(parts):
            while have < nbits:
                word |= U(c[at]) << U(have)
                have += 8
                at += 1
            s += table[o + (word & mask)]
            word >>= U(nbits)
            have -= nbits
            o += size
        out[r - a] = s


@jit
def by_query(  # type: ignore[no-untyped-def]
    tables,
    base,
    terms,
    parts,
    nbits,
    codes,
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
    k, masked, nprobe = costs.shape[1], allowed.shape[0] > 0, keys.shape[1]
    per_pair = tables.shape[0] != keys.shape[0]
    found = np.empty(TILE, np.float32)
    values, names = np.empty(0, np.float32), np.empty(0, np.int64)
    visited = scored = entered = 0
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        before = entered
        for p in range(nprobe):
            l = keys[q, p]
            if l < 0:
                continue
            table = tables[q * nprobe + p if per_pair else q]
            if p + 1 < nprobe and keys[q, p + 1] >= 0:
                # The next list's codes come from memory while this one's are looked up (10 ns a code against 13).
                ahead = offsets[keys[q, p + 1]] * codes.shape[1]
                for byte in range(ahead, ahead + min(sizes[keys[q, p + 1]] * codes.shape[1], AHEAD), 64):
                    prefetch(codes, byte)
            start = offsets[l]
            stop = start + (min(sizes[l], limits[q, p]) if limits.shape[0] else sizes[l])
            visited += stop > start
            for a in range(start, stop, TILE):
                b = min(a + TILE, stop)
                n = among(allowed, a, b) if masked else b - a
                if n == 0:
                    continue
                scored += n
                extra = base[q, p]
                if nbits == 8:
                    byte_sums(table, codes, parts, extra, a, b, found)
                    extra = F(0)
                else:
                    bit_sums(table, codes, parts, nbits, a, b, found)
                if terms.shape[0]:
                    for i in range(b - a):
                        found[i] += extra + terms[a + i]
                elif nbits != 8:
                    for i in range(b - a):
                        found[i] += extra
                if ip:
                    for i in range(b - a):
                        found[i] = -found[i]
                if k:
                    entered += put(costs[q], labels[q], ip, found, a, b, ids, l << 32, start, pairs, allowed)
                else:
                    values, names = roomy(values, entered, TILE), roomy(names, entered, TILE)
                    entered = collect(values, names, entered, radius, ip, found, a, b, ids, l << 32, start, pairs, allowed)
        finish(costs[q], labels[q], ip)
        hits[q] = entered - before
    return visited, scored, entered, values, names
