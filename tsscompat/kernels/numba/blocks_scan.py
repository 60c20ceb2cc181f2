"""Scans of lists of 4-bit codes in blocks; compiled.

Sums are whole numbers of 16 bits, flipped for similarities, so that low ones are good; heaps hold them as floats beside labels, as the
other scans of lists do (ivf_heap.py), and only at the end they become distances. More than 20 results come by way of reservoirs.
"""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.ivf_heap import WORST, among, roomy, sift, sift_from, start_heap
from tsscompat.kernels.numba.jit import in_order, inline, jit
from tsscompat.kernels.numba.lanes import lowest
from tsscompat.kernels.numba.nibbles import GROUP, SEAT, TOGETHER, many_sums, one_sums
from tsscompat.kernels.numba.prefetch import prefetch
from tsscompat.kernels.numba.reservoir import ROWS, SHIFT, gather, room_for, thinned, under, worthwhile

F = np.float32
HIGHEST = 65535
# Bytes of the next list that are asked for ahead.
_AHEAD = 4096
# Results that are put in order by counting those before each, 8 at a time.
_RANKED = 256


@inline
def _bar(cost):  # type: ignore[no-untyped-def]
    """The highest sum that can be under a cost."""
    return np.uint16(HIGHEST if cost > HIGHEST else max(np.int64(cost), 1) - 1)


@inline
def _among_group(found, row, stop):  # type: ignore[no-untyped-def]
    """The bits of those rows of a group that there are."""
    return found if stop - row >= GROUP else found & np.uint64((1 << (stop - row)) - 1)


@inline
def _label(row, ids, first, start, named):  # type: ignore[no-untyped-def]
    """What a row is called: its id, with 1 its list and position, with 2 its number."""
    return ids[row] if named == 0 else first | (row - start) if named == 1 else row


@inline
def _keep(found, sums, row, costs, labels, ids, allowed, first, start, named, ip):  # type: ignore[no-untyped-def]
    """Enter the rows of a group whose bits are set into a heap; says how many got in."""
    entered = 0
    while found:
        place = lowest(found)
        found &= found - np.uint64(1)
        cost, r = F(sums[place]), row + place
        if cost < costs[0] and (allowed.shape[0] == 0 or allowed[r]):
            label = _label(r, ids, first, start, named)
            sift(costs, labels, costs.shape[0], cost, ~label if ip else label)
            entered += 1
    return entered


@in_order
def _distance(cost, ip, unit, start):  # type: ignore[no-untyped-def]
    """What a sum stands for: the same number by way of a heap and of a reservoir."""
    return start + unit * (F(HIGHEST) - cost if ip else cost)


@in_order
def _finish(costs, labels, ip, scale, start):  # type: ignore[no-untyped-def]
    """Turn a heap of sums into distances, best first."""
    unit = F(1) / scale if scale > 0 else F(0)
    for end in range(costs.shape[0] - 1, 0, -1):
        cost, label = costs[end], labels[end]
        costs[end], labels[end] = costs[0], labels[0]
        sift(costs, labels, end, cost, label)
    for i in range(costs.shape[0]):
        if ip:
            labels[i] = ~labels[i]
        if costs[i] == WORST:
            costs[i] = -WORST if ip else WORST
        else:
            costs[i] = _distance(costs[i], ip, unit, start)


@inline
def _start_of(row, keys, offsets, sizes):  # type: ignore[no-untyped-def]
    """Which of the probed lists a row is in, and where that begins."""
    for l in keys:
        if l >= 0 and offsets[l] <= row < offsets[l] + sizes[l]:
            return l, offsets[l]
    return np.int64(-1), np.int64(0)


@inline
def _named(entry, ids, offsets, sizes, keys, named):  # type: ignore[no-untyped-def]
    """What the row of a reservoir's entry is called."""
    row = entry & ROWS
    l, start = _start_of(row, keys, offsets, sizes) if named == 1 else (np.int64(0), np.int64(0))
    return _label(row, ids, l << 32, start, named)


@inline
def _settle(entries, n, ids, offsets, sizes, keys, named, ip, scale, start, costs, labels):  # type: ignore[no-untyped-def]
    """The best of a reservoir as distances, best first."""
    k = costs.shape[0]
    if n > k:
        n, _ = thinned(entries, n, k, k)
    small = n <= _RANKED
    for i in range(n):
        # The heap was begun: places that stay free have the worst cost, and are before the rest.
        label, at = _named(entries[i], ids, offsets, sizes, keys, named), k - n + i
        costs[at], labels[at] = F(entries[i] >> SHIFT), ~label if ip else label
        small &= 0 <= label <= ROWS
    if not small:
        for top in range(k // 2 - 1, -1, -1):
            sift_from(costs, labels, k, top)
        _finish(costs, labels, ip, scale, start)
        return
    unit = F(1) / scale if scale > 0 else F(0)
    for i in range(n):
        entries[i] = (entries[i] & ~ROWS) | (labels[k - n + i] & ROWS)
    for i in range(k):
        costs[i], labels[i] = -WORST if ip else WORST, -1
    for i in range(n):
        at, label, cost = under(entries, n, entries[i]), entries[i] & ROWS, F(entries[i] >> SHIFT)
        # An id that was added twice may have the same sum twice.
        while labels[at] >= 0:
            at += 1
        costs[at], labels[at] = _distance(cost, ip, unit, start), ROWS - label if ip else label


@inline
def _ask(blocks, offsets, sizes, per_block, l):  # type: ignore[no-untyped-def]
    """Ask for the beginning of a list."""
    begin = offsets[l] // per_block * blocks.shape[1]
    for byte in range(begin, begin + min(sizes[l] * blocks.shape[1] // per_block, _AHEAD), 64):
        prefetch(blocks, byte)


@jit
def by_query(  # type: ignore[no-untyped-def]
    luts,
    biases,
    weight,
    tail,
    scales,
    starts,
    blocks,
    per_block,
    ids,
    offsets,
    sizes,
    keys,
    ip,
    bars,
    allowed,
    limits,
    named,
    costs,
    labels,
    hits,
    first,
    last,
):
    """Queries first : last one after another; a heap for each, or with k = 0 all sums that are not over the queries' bars."""
    k, masked, nprobe, parts = costs.shape[1], allowed.shape[0] > 0, keys.shape[1], luts.shape[2]
    per_pair = luts.shape[0] != keys.shape[0]
    layer, stride = parts * 16, blocks.shape[1]
    size = layer * luts.shape[1]
    seats = np.zeros(1, SEAT)
    place, tables, origin = address(seats), address(luts), address(blocks)
    flip = np.uint16(HIGHEST if ip else 0)
    values, names = np.empty(0, np.float32), np.empty(0, np.int64)
    visited = scored = entered = 0
    pooled = worthwhile(k, GROUP, 1)
    entries = np.empty(room_for(k, GROUP) if pooled else 0, np.int64)
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
        before, held, bar = entered, 0, HIGHEST
        none = k == 0 and bars[q] < 0
        seats[0].bar = HIGHEST if k else 0 if none else np.uint16(bars[q])
        unit = F(1) / scales[q] if scales[q] > 0 else F(0)
        for p in range(nprobe):
            l = keys[q, p]
            if l < 0:
                continue
            if p + 1 < nprobe and keys[q, p + 1] >= 0:
                _ask(blocks, offsets, sizes, per_block, keys[q, p + 1])
            start = offsets[l]
            stop = start + (min(sizes[l], limits[q, p]) if limits.shape[0] else sizes[l])
            visited += stop > start
            seats[0].tables = tables + size * (q * nprobe + p if per_pair else q)
            seats[0].bias = np.uint16(biases[q, p]) if biases.shape[0] else np.uint16(0)
            row = start
            while row < stop:
                n, groups = min(GROUP, stop - row), 1
                if masked:
                    n = among(allowed, row, row + n)
                    scored += n
                    if n == 0:
                        row += GROUP
                        continue
                else:
                    groups = (stop - row + GROUP - 1) // GROUP
                block, inside = origin + row // per_block * stride, row % per_block
                row += GROUP * (one_sums(block, inside, per_block, stride, groups, parts, layer, tail, weight, flip, place) - 1)
                found = np.uint64(0) if none else _among_group(np.uint64(seats[0].found), row, stop)
                if pooled:
                    if found:
                        if held + GROUP > entries.shape[0]:
                            held, bar = thinned(entries, held, k, k + k // 2)
                            seats[0].bar = np.uint16(max(bar, 0))
                        more = gather(found, seats[0].sums, row, bar, allowed, entries, held)
                        entered, held = entered + more - held, more
                elif k:
                    entered += _keep(found, seats[0].sums, row, costs[q], labels[q], ids, allowed, l << 32, start, named, ip)
                    seats[0].bar = _bar(costs[q, 0])
                else:
                    values, names = roomy(values, entered, GROUP), roomy(names, entered, GROUP)
                    while found:
                        j = lowest(found)
                        found &= found - np.uint64(1)
                        if not masked or allowed[row + j]:
                            total = seats[0].sums[j]
                            values[entered] = starts[q] + unit * F(HIGHEST - total if ip else total)
                            names[entered] = _label(row + j, ids, l << 32, start, named)
                            entered += 1
                row += GROUP
            if not masked:
                scored += stop - start
        if pooled:
            _settle(entries, held, ids, offsets, sizes, keys[q], named, ip, scales[q], starts[q], costs[q], labels[q])
        else:
            _finish(costs[q], labels[q], ip, scales[q], starts[q])
        hits[q] = entered - before
    return visited, scored, entered, values, names


@inline
def _pairs_of(keys, nlist, first, last):  # type: ignore[no-untyped-def]
    """The pairs query * nprobe + probe that are at each list: those of list l are pairs[ends[l] : ends[l + 1]]."""
    nprobe = keys.shape[1]
    ends = np.zeros(nlist + 1, np.int64)
    for q in range(first, last):
        for p in range(nprobe):
            if keys[q, p] >= 0:
                ends[keys[q, p] + 1] += 1
    for l in range(nlist):
        ends[l + 1] += ends[l]
    at = ends[:nlist].copy()
    found = np.empty(ends[nlist], np.int64)
    for q in range(first, last):
        for p in range(nprobe):
            l = keys[q, p]
            if l >= 0:
                found[at[l]] = q * nprobe + p
                at[l] += 1
    return ends, found


@jit
def by_list(  # type: ignore[no-untyped-def]
    luts,
    biases,
    weight,
    tail,
    scales,
    starts,
    blocks,
    per_block,
    ids,
    offsets,
    sizes,
    keys,
    ip,
    allowed,
    named,
    costs,
    labels,
    first,
    last,
):
    """Heaps of queries first : last, list after list; queries that probe the same list look at its codes together."""
    masked, nprobe, parts = allowed.shape[0] > 0, keys.shape[1], luts.shape[2]
    per_pair = luts.shape[0] != keys.shape[0]
    layer, stride = parts * 16, blocks.shape[1]
    size = layer * luts.shape[1]
    seats = np.zeros(TOGETHER, SEAT)
    place, tables, origin = address(seats), address(luts), address(blocks)
    flip = np.uint16(HIGHEST if ip else 0)
    ends, asked = _pairs_of(keys, offsets.shape[0], first, last)
    for q in range(first, last):
        start_heap(costs[q], labels[q], ip)
    n_queries, k = last - first, costs.shape[1]
    pooled = worthwhile(k, GROUP, n_queries)
    pools = np.empty((n_queries if pooled else 0, room_for(k, GROUP)), np.int64)
    held, bars = np.zeros(n_queries, np.int64), np.full(n_queries, HIGHEST)
    visited = scored = entered = 0
    for l in range(offsets.shape[0]):
        start, stop = offsets[l], offsets[l] + sizes[l]
        if start == stop or ends[l] == ends[l + 1]:
            continue
        visited += ends[l + 1] - ends[l]
        for i in range(ends[l], ends[l + 1], TOGETHER):
            m = min(TOGETHER, ends[l + 1] - i)
            for s in range(TOGETHER):
                # Seats that are left take the last query again.
                pair = asked[i + min(s, m - 1)]
                q = pair // nprobe
                seats[s].tables = tables + size * (pair if per_pair else q)
                seats[s].bias = np.uint16(biases[q, pair % nprobe]) if biases.shape[0] else np.uint16(0)
                seats[s].bar = np.uint16(max(bars[q - first], 0)) if pooled else _bar(costs[q, 0])
            row = start
            while row < stop:
                n, groups = min(GROUP, stop - row), 1
                if masked:
                    n = among(allowed, row, row + n)
                    scored += n * m
                    if n == 0:
                        row += GROUP
                        continue
                else:
                    groups = (stop - row + GROUP - 1) // GROUP
                block, inside = origin + row // per_block * stride, row % per_block
                if m == 1:
                    passed = one_sums(block, inside, per_block, stride, groups, parts, layer, tail, weight, flip, place)
                else:
                    passed = many_sums(block, inside, per_block, stride, groups, parts, layer, tail, weight, flip, place)
                row += GROUP * (passed - 1)
                for s in range(m):
                    found = _among_group(np.uint64(seats[s].found), row, stop)
                    if found:
                        q = asked[i + s] // nprobe
                        if pooled:
                            o = q - first
                            n = held[o]
                            if n + GROUP > pools.shape[1]:
                                n, bars[o] = thinned(pools[o], n, k, k + k // 2)
                                seats[s].bar = np.uint16(max(bars[o], 0))
                            held[o] = gather(found, seats[s].sums, row, bars[o], allowed, pools[o], n)
                            entered += held[o] - n
                            continue
                        entered += _keep(found, seats[s].sums, row, costs[q], labels[q], ids, allowed, l << 32, start, named, ip)
                        seats[s].bar = _bar(costs[q, 0])
                row += GROUP
            if not masked:
                scored += m * (stop - start)
    for q in range(first, last):
        if pooled:
            entries, n = pools[q - first], held[q - first]
            _settle(entries, n, ids, offsets, sizes, keys[q], named, ip, scales[q], starts[q], costs[q], labels[q])
        else:
            _finish(costs[q], labels[q], ip, scales[q], starts[q])
    return visited, scored, entered


@jit
def sums_of(luts, blocks, per_block, out, first, last):  # type: ignore[no-untyped-def]
    """The sums of every code in the blocks first : last for every query."""
    parts = luts.shape[1]
    seats = np.zeros(1, SEAT)
    place, tables, origin = address(seats), address(luts), address(blocks)
    for block in range(first, last):
        for group in range(0, per_block, GROUP):
            for q in range(luts.shape[0]):
                seats[0].tables = tables + q * parts * 16
                at = origin + block * blocks.shape[1]
                one_sums(at, group, per_block, 0, 1, parts, parts * 16, 0, np.uint16(0), np.uint16(0), place)
                row = out[q, block * per_block + group :]
                for j in range(GROUP):
                    row[j] = seats[0].sums[j]
