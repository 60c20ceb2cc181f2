"""Scans of lists of RaBitQ codes; compiled.

Products of signs with a rounded query are counts of bits: bit j of the query's codes is a plane of d bits, and a code's product with it
the ones in both. Planes lie word by word: those of a word of signs one after the other, in fours.
"""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.intrinsics import ticks
from tsscompat.kernels.numba.ivf_few import coarse_of, unlimited
from tsscompat.kernels.numba.ivf_flat import TILE
from tsscompat.kernels.numba.ivf_heap import WORST, among, collect, finish, put, roomy, sift, start_heap
from tsscompat.kernels.numba.jit import exact, in_order, inline, jit
from tsscompat.kernels.numba.unaligned import number, ones, word
from tsscompat.kernels.rabitq import FIRST_TILE, LAST_TILE, RADII, STARTS

F, U, I = np.float32, np.uint64, np.int64
RADIUS = np.array(RADII, np.float32)
START = np.array(STARTS, np.float32)
LOW_BITS, ALL = U(0x0101010101010101), U(0xFFFFFFFFFFFFFFFF)
# Times this, the lowest bits of 8 bytes are the highest byte.
GATHER = U(0x0102040810204080)


@inline
def extent(r, d, lows, highs):  # type: ignore[no-untyped-def]
    """Least and greatest number, and the sum of squares; the first two in lanes, because LLVM makes no vectors of one minimum."""
    square, lanes = F(0), lows.shape[0]
    lows[:], highs[:] = r[0], r[0]
    for j in range(0, d - lanes + 1, lanes):
        for i in range(lanes):
            lows[i], highs[i] = min(lows[i], r[j + i]), max(highs[i], r[j + i])
    low, high = lows[0], highs[0]
    for i in range(1, lanes):
        low, high = min(low, lows[i]), max(high, highs[i])
    for j in range(d - d % lanes, d):
        low, high = min(low, r[j]), max(high, r[j])
    for j in range(d):
        square += r[j] * r[j]
    return low, high, square


@exact
def round_to(r, d, low, scale, most, rounded):  # type: ignore[no-untyped-def]
    """Codes of a query's numbers, as bytes; gives their sum."""
    total = 0
    for j in range(d):
        value = (r[j] - low) * scale + F(0.5)
        code = np.uint8(min(max(value, F(0)), most))
        rounded[j] = code
        total += I(code)
    return total


@inline
def planes_of(rounded, qb, planes):  # type: ignore[no-untyped-def]
    """Bit planes of codes that are bytes, 64 to a word; as many as make whole fours, of which the last are empty."""
    step = (qb + 3) & ~3
    planes[:] = U(0)
    for g in range(rounded.shape[0] >> 3):
        eight, shift = word(rounded, 8 * g), U(8 * (g & 7))
        for j in range(qb):
            planes[(g >> 3) * step + j] |= ((((eight >> U(j)) & LOW_BITS) * GATHER) >> U(56)) << shift


@inline
def byte_sums(r, root, sums):  # type: ignore[no-untyped-def]
    """For each 8 numbers of r and each byte of signs, their product over the root."""
    for g in range(sums.shape[0] >> 8):
        total = F(0)
        for j in range(8):
            total += r[8 * g + j]
        sums[256 * g] = -total / root
        for v in range(1, 256):
            before = v & (v - 1)
            sums[256 * g + v] = sums[256 * g + before] + F(2) * r[8 * g + ones(U((v ^ before) - 1))] / root


@inline
def ask(x, center, qb, centered, root, r, rounded, planes, sums, lows, highs):  # type: ignore[no-untyped-def]
    """Prepare a query for a center: r, planes or sums; gives c1, c2, c34, which turn counts of bits into products, |r|^2, <x, center>."""
    d = x.shape[0]
    product = F(0)
    for j in range(d):
        r[j] = x[j] - center[j]
        product += x[j] * center[j]
    low, high, square = extent(r, d, lows, highs)
    if qb == 0:
        byte_sums(r, root, sums)
        return F(0), F(0), F(0), square, product
    most = F((1 << qb) - 1)
    if centered:
        high = RADIUS[qb - 1] * np.sqrt(square / F(d))
        low = -high
    step = (high - low) / most
    total = round_to(r, d, low, F(1) / step if step > 0 else F(0), most, rounded) if step > 0 else 0
    if step <= 0:
        rounded[:] = 0
    planes_of(rounded, qb, planes)
    if not centered:
        return F(2) * step / root, F(2) * low / root, (step * F(total) + F(d) * low) / root, square, product
    odd = 0
    for j in range(d):
        code = 2 * I(rounded[j]) - I(most)
        odd += code * code
    scale = np.sqrt(square / (F(odd) * F(d)))
    # With signs as -1 and 1 and codes as odd numbers: each product is 4 times that of bits, less what both sums are too great by.
    return F(4) * scale, F(-2) * most * scale, (F(2 * total) - most * F(d)) * scale, square, product


# Rows innermost, so that a word of planes stays in registers and LLVM does several rows at once (5 ns a row of 128; row by row 18).
@inline
def by_counts(codes, width, words, last, planes, quads, c1, c2, c34, a, b, totals, counts, out):  # type: ignore[no-untyped-def]
    """Products of rows a : b with a rounded query, whose planes are four at a time."""
    m = b - a
    for i in range(m):
        totals[i], counts[i] = 0, 0
    for w in range(words):
        keep, first = last if w == words - 1 else ALL, a * width + 8 * w
        for i in range(m):
            counts[i] += ones(word(codes, first + i * width) & keep)
        for quad in range(quads):
            at, shift = 4 * (w * quads + quad), 4 * quad
            p0, p1, p2, p3 = planes[at], planes[at + 1], planes[at + 2], planes[at + 3]
            for i in range(m):
                signs = word(codes, first + i * width)
                total = ones(signs & p0) + 2 * ones(signs & p1) + 4 * ones(signs & p2) + 8 * ones(signs & p3)
                totals[i] += total << shift
    for i in range(m):
        out[i] = c1 * F(totals[i]) + c2 * F(counts[i]) - c34


@in_order
def by_sums(codes, width, sums, a, b, out):  # type: ignore[no-untyped-def]
    """Products of rows a : b with a query that is not rounded."""
    for row in range(a, b):
        at, total = row * width, F(0)
        for g in range(sums.shape[0] >> 8):
            total += sums[256 * g + I(codes[at + g])]
        out[row - a] = total


@inline
def by_signs(codes, size, width, words, last, planes, sums, qb, cs, base, ip, a, b, totals, counts, out):  # type: ignore[no-untyped-def]
    """Costs of rows a : b by signs; `base` is |r|^2, less |query|^2 for inner products."""
    if qb == 0:
        by_sums(codes, width, sums, a, b, out)
    else:
        by_counts(codes, width, words, last, planes, (qb + 3) >> 2, cs[0], cs[1], cs[2], a, b, totals, counts, out)
    for row in range(a, b):
        at = row * width + size
        value = number(codes, at) + base - F(2) * number(codes, at + 4) * out[row - a]
        out[row - a] = F(0.5) * value if ip else max(F(0), value)


@inline
def by_all(codes, at, size, d, more, r, total, base, ip):  # type: ignore[no-untyped-def]
    """The cost of the code that begins at a byte, by all of its bits; `total` is the sum of r."""
    product, mask, start = F(0), U((1 << more) - 1), at + size + 12
    for g in range(size):
        signs, eight = np.int32(codes[at + g]), word(codes, start + g * more)
        for j in range(8):
            value = (((signs >> j) & 1) << more) + np.int32((eight >> U(j * more)) & mask)
            product += r[8 * g + j] * F(value)
    product -= (F(1 << more) - F(0.5)) * total
    after = start + ((d * more + 7) >> 3)
    value = base + number(codes, after) + number(codes, after + 4) * product
    return -value if ip else max(F(0), value)


@jit
def by_query(  # type: ignore[no-untyped-def]
    x,
    centers,
    nb_bits,
    qb,
    centered,
    filtered,
    codes,
    width,
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
    """Queries first : last one after another; a heap for each, or with k = 0 everything within the radius. `codes` is all bytes."""
    k, masked, d = costs.shape[1], allowed.shape[0] > 0, x.shape[1]
    size, words, more = (d + 7) >> 3, (d + 63) >> 6, nb_bits - 1
    tail = ALL if d & 63 == 0 else (U(1) << U(d & 63)) - U(1)
    found = np.empty(TILE, np.float32)
    r, rounded = np.zeros(8 * size, np.float32), np.zeros(8 * size, np.uint8)
    planes, sums = np.zeros(words * ((qb + 3) & ~3), np.uint64), np.empty(256 * size if qb == 0 else 0, np.float32)
    lows, highs = np.empty(16, np.float32), np.empty(16, np.float32)
    root, totals, counts = np.sqrt(F(d)), np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    values, names = np.empty(0, np.float32), np.empty(0, np.int64)
    visited = scored = entered = 0
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        before = entered
        norm = F(0)
        if ip:
            for j in range(d):
                norm += x[q, j] * x[q, j]
        seen, look, bar = 0, FIRST_TILE, WORST if k else radius
        cs, square, product, total = (F(0), F(0), F(0)), F(0), F(0), F(0)
        fresh = True
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l < 0:
                continue
            start = offsets[l]
            stop = start + (min(sizes[l], limits[q, p]) if limits.shape[0] else sizes[l])
            if stop == start:
                continue
            visited += 1
            if fresh or centers.shape[0] > 1:
                center = centers[l if centers.shape[0] > 1 else 0]
                c1, c2, c34, square, product = ask(x[q], center, qb, centered, root, r, rounded, planes, sums, lows, highs)
                cs, total = (c1, c2, c34), F(0)
                for j in range(d):
                    total += r[j]
                fresh = False
            for a in range(start, stop, TILE):
                b = min(a + TILE, stop)
                n = among(allowed, a, b) if masked else b - a
                if n == 0:
                    continue
                scored += n
                by_signs(codes, size, width, words, tail, planes, sums, qb, cs, square - norm, ip, a, b, totals, counts, found)
                if more:
                    slack, base = np.sqrt(square), product if ip else square
                    for i in range(b - a):
                        if masked and not allowed[a + i]:
                            continue
                        if k and seen == look:
                            bar, look = costs[q, 0], look + min(look, LAST_TILE)
                        seen += 1
                        at = (a + i) * width
                        hope = found[i] - number(codes, at + size + 8) * slack
                        if filtered and not (hope if ip else max(F(0), hope)) < bar:
                            found[i] = np.inf
                            continue
                        found[i] = by_all(codes, at, size, d, more, r, total, base, ip)
                        if k and found[i] < costs[q, 0]:
                            label = l << 32 | (a + i - start) if pairs else ids[a + i]
                            sift(costs[q], labels[q], k, found[i], ~label if ip else label)
                            entered += 1
                elif k:
                    entered += put(costs[q], labels[q], ip, found, a, b, ids, l << 32, start, pairs, allowed)
                if k == 0:
                    values, names = roomy(values, entered, TILE), roomy(names, entered, TILE)
                    entered = collect(values, names, entered, radius, ip, found, a, b, ids, l << 32, start, pairs, allowed)
        finish(costs[q], labels[q], ip)
        hits[q] = entered - before
    return visited, scored, entered, values, names


@jit
def few(  # type: ignore[no-untyped-def]
    x, centers, nprobe, ip, nb_bits, qb, centered, filtered, codes, width, ids, offsets, sizes, costs, labels, first, last
):
    """Coarse search and scan of queries first : last."""
    begun, x = ticks(), x[first:last]
    _, keys = coarse_of(x, centers, nprobe, ip)
    scanning = ticks()
    bound, mask, limits, pairs = unlimited()
    some, names, hits = costs[first:last], labels[first:last], np.empty(x.shape[0], np.int64)
    arena, how = (codes, width, ids, offsets, sizes), (nb_bits, qb, centered, filtered)
    visited, scored, entered, _, _ = by_query(
        x, centers, *how, *arena, keys, ip, bound, mask, limits, pairs, some, names, hits, 0, x.shape[0]
    )
    return visited, scored, entered, (scanning - begun) / max(1, ticks() - begun)


@exact
def best_scale(sizes, more, codes, times, names):  # type: ignore[no-untyped-def]
    """kernels/rabitq.py's best_scales for one row; `times` and `names` are a heap of each number's next passage, first at the root."""
    d, most = sizes.shape[0], (1 << more) - 1
    top = F(0)
    for j in range(d):
        top = max(top, sizes[j])
    last = F(most + 10) / top
    first = last * START[more]
    square, product, n = F(d) * F(0.25), F(0), 0
    for j in range(d):
        code = I(np.float64(first * sizes[j]) + 1e-5)
        codes[j] = code
        square += F(code * code + code)
        product += (F(code) + F(0.5)) * sizes[j]
        at = F(code + 1) * (F(1) / sizes[j])
        if at < last:
            rise(times, names, n, at, j)
            n += 1
    inverse = F(1) / np.sqrt(square)
    best, scale = F(0), F(0)
    while n:
        now, j = times[0], names[0]
        codes[j] += 1
        delta = F(2) * F(codes[j])
        square += delta
        product += sizes[j]
        before = square - delta
        inverse = inverse * (F(1) - F(0.5) * delta / (before + delta * F(0.5)))
        value = product * inverse
        if value > best:
            best, scale = value, now
        at = F(codes[j] + 1) * (F(1) / sizes[j])
        if not (codes[j] < most and at < last):
            n -= 1
            at, j = times[n], names[n]
        sink(times, names, n, at, j)
    return scale


@exact
def rise(times, names, n, at, j):  # type: ignore[no-untyped-def]
    """Enter a passage into a heap of n."""
    i = n
    while i:
        above = (i - 1) >> 1
        if times[above] < at or (times[above] == at and names[above] < j):
            break
        times[i], names[i] = times[above], names[above]
        i = above
    times[i], names[i] = at, j


@exact
def sink(times, names, n, at, j):  # type: ignore[no-untyped-def]
    """Put a passage in the root's place of a heap of n."""
    i = 0
    while True:
        below = 2 * i + 1
        if below >= n:
            break
        if below + 1 < n and (
            times[below + 1] < times[below] or (times[below + 1] == times[below] and names[below + 1] < names[below])
        ):
            below += 1
        if at < times[below] or (at == times[below] and j < names[below]):
            break
        times[i], names[i] = times[below], names[below]
        i = below
    if n:
        times[i], names[i] = at, j


@jit
def scales(sizes, more, out, first, last):  # type: ignore[no-untyped-def]
    d = sizes.shape[1]
    codes, times, names = np.empty(d, np.int64), np.empty(d, np.float32), np.empty(d, np.int64)
    for i in range(first, last):
        out[i] = best_scale(sizes[i], more, codes, times, names)
