"""Kernels that scan lists of 4-bit codes in blocks, in chunks of 64 codes; fastscan.py says what they are for.

Lists begin with a block. The bytes of a part stand for 32 codes each 16 (kernels/fastscan.py), so a program that reads them in order finds
a code's byte beside those of its neighbours, two codes in each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tsscompat.kernels.triton.codes import ordered_cost, rows_of_chunk
from tsscompat.kernels.triton.list_kernels import entries_of, tile_of_probes


@triton.jit
def _first_bytes(data, rows, stride, PER_BLOCK: tl.constexpr):
    """Where the first parts of codes lie."""
    place = rows % PER_BLOCK
    return data + rows // PER_BLOCK * stride + place // 32 * 32 + 2 * (place % 8) + place % 16 // 8


@triton.jit
def _behind(part, PER_BLOCK: tl.constexpr):
    """How far behind the first part of a code another one lies."""
    return part // 2 * PER_BLOCK + part % 2 * 16


@triton.jit
def _sums_of_bytes(at, reached, table, first, parts, factor, low, high, PER_BLOCK: tl.constexpr, BP: tl.constexpr):
    """What a table has for parts first : parts of the two codes of each byte, `factor` times, added to two tiles (BP, 32)."""
    for start in range(first, parts, BP):
        part = start + tl.arange(0, BP)
        inside = (part < parts)[:, None] & reached[None, :]
        both = tl.load(at[None, :] + _behind(part, PER_BLOCK)[:, None], mask=inside, other=0).to(tl.int32)
        entry = table + part[:, None] * 16
        low += factor * tl.load(entry + (both & 15), mask=inside, other=0).to(tl.int32)
        high += factor * tl.load(entry + (both >> 4), mask=inside, other=0).to(tl.int32)
    return low, high


@triton.jit
def _cost_of_sums(sums, bias, offset, place, entries, allowed, LARGEST: tl.constexpr, MASKED: tl.constexpr):
    """Costs of sums of codes, and which codes count."""
    there = place < entries
    if MASKED:
        there = there & (tl.load(allowed + offset + place, mask=there, other=0) != 0)
    return ordered_cost(sums.to(tl.float32) + bias, there, LARGEST), there


@triton.jit
def least_of_blocks(
    base, data, luts, offsets, sizes, limits, keys, allowed, out, counts, nprobe, n_chunks, parts, tail, stride, weight,
    PER_BLOCK: tl.constexpr, TABLES: tl.constexpr, LARGEST: tl.constexpr, BASED: tl.constexpr, PER_PAIR: tl.constexpr,
    MASKED: tl.constexpr, LIMITED: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """The least cost in each chunk of a probe; a program of one warp, of which a lane holds two codes, takes a share of the chunks."""
    pair = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    _, offset, entries = entries_of(offsets, sizes, limits, keys, pair, LIMITED)
    table = luts + (pair if PER_PAIR else pair // nprobe) * (TABLES * parts * 16)
    bias = 0.0
    if BASED:
        bias = tl.load(base + pair)
    byte = tl.arange(0, 32)
    scored = tl.zeros([32], tl.int64)
    for chunk in range(share, n_chunks, shares):
        least = tl.full([], float("inf"), tl.float32)
        if chunk * 64 < entries:
            group = chunk * 64 + byte // 16 * 32
            rows = offset + group
            # The group of a code that there is lies in a block whole.
            reached = group < entries
            at = data + rows // PER_BLOCK * stride + rows % PER_BLOCK + byte % 16
            low = tl.zeros([BP, 32], tl.int32)
            high = tl.zeros([BP, 32], tl.int32)
            low, high = _sums_of_bytes(at, reached, table, 0, parts, 1, low, high, PER_BLOCK, BP)
            if TABLES == 2:
                low, high = _sums_of_bytes(at, reached, table + parts * 16, tail, parts, weight, low, high, PER_BLOCK, BP)
            place = group + byte % 16 // 2 + 8 * (byte % 2)
            one, first = _cost_of_sums(tl.sum(low, 0), bias, offset, place, entries, allowed, LARGEST, MASKED)
            other, second = _cost_of_sums(tl.sum(high, 0), bias, offset, place + 16, entries, allowed, LARGEST, MASKED)
            least = tl.min(tl.minimum(one, other), 0)
            scored += first.to(tl.int64) + second.to(tl.int64)
        tl.store(out + pair * n_chunks + chunk, least)
    tl.atomic_add(counts + 1, tl.sum(scored, 0), sem="relaxed")
    if share == 0:
        tl.atomic_add(counts, (entries > 0).to(tl.int64), sem="relaxed")


@triton.jit
def _products(
    at, half, there, tables, real, parts, first, once, total,
    PER_BLOCK: tl.constexpr, N: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Added to sums (N, BQ): what tables have for parts first : parts of codes, `once` times each, less 128 for each look-up.

    Products of bytes of the tables with the rows of a unit matrix that the codes name. Tables hold signed bytes, 128 less.
    """
    inner = tl.arange(0, BP * 16)
    for start in range(first, parts, BP):
        part = start + tl.arange(0, BP)
        inside = there[:, None] & (part < parts)[None, :]
        both = tl.load(at[:, None] + _behind(part, PER_BLOCK)[None, :], mask=inside, other=0).to(tl.int32)
        number = (both >> half[:, None]) & 15
        named = inside[:, :, None] & (number[:, :, None] == tl.arange(0, 16)[None, None, :])
        rows = tl.reshape(tl.where(named, once, 0).to(tl.int8), (N, BP * 16))
        known = real[:, None] & (start * 16 + inner < parts * 16)[None, :]
        entries = tl.load(tables[:, None] + (start * 16 + inner)[None, :], mask=known, other=0)
        # Triton 3.7 takes the type of the sums from here, 3.9 from the sums.
        total = tl.dot(rows, tl.trans(entries), total, out_dtype=tl.int32)
    return total


@triton.jit
def least_of_shared_blocks(
    base, data, luts, offsets, sizes, limits, order, starts, ends, owners, allowed, out, counts, nprobe, n_chunks, n_lists, parts,
    tail, stride, weight,
    PER_BLOCK: tl.constexpr, TABLES: tl.constexpr, LARGEST: tl.constexpr, BASED: tl.constexpr, PER_PAIR: tl.constexpr,
    MASKED: tl.constexpr, LIMITED: tl.constexpr, BQ: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """The same for a tile of the probes of one list (see list_kernels.least_shared), two chunks at a time."""
    tile = tl.program_id(0)
    list_no = tl.load(owners + tile)
    if list_no >= n_lists:
        return
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    pair, real = tile_of_probes(order, starts, ends, list_no, tile, BQ)
    tables = luts + (pair if PER_PAIR else pair // nprobe) * (TABLES * parts * 16)
    offset = tl.load(offsets + list_no)
    entries = tl.load(sizes + list_no)
    limit = tl.zeros([BQ], tl.int64) + entries
    if LIMITED:
        limit = tl.minimum(limit, tl.load(limits + pair, mask=real, other=0))
    limit = tl.where(real, limit, 0)
    lacking = 128 * parts
    if TABLES == 2:
        lacking += 128 * (parts - tail) * weight
    scored = tl.zeros([BQ], tl.int32)
    for twin in range(share, tl.cdiv(entries, 128), shares):
        place, rows, there = rows_of_chunk(allowed, offset, entries, twin, MASKED, 128)
        at = _first_bytes(data, rows, stride, PER_BLOCK)
        half = (rows % 32 // 16 * 4).to(tl.int32)
        total = tl.zeros([128, BQ], tl.int32)
        total = _products(at, half, there, tables, real, parts, 0, 1, total, PER_BLOCK, 128, BP)
        if TABLES == 2:
            total = _products(
                at, half, there, tables + parts * 16, real, parts, tail, weight, total, PER_BLOCK, 128, BP
            )  # fmt: skip
        sums = (total + lacking).to(tl.float32)
        if BASED:
            sums += tl.load(base + pair, mask=real, other=0.0)[None, :]
        counted = there[:, None] & (place[:, None] < limit[None, :])
        least = tl.min(tl.reshape(ordered_cost(sums, counted, LARGEST), (2, 64, BQ)), 1)
        chunk = 2 * twin + tl.arange(0, 2)
        to = out + pair[None, :] * n_chunks + chunk[:, None]
        tl.store(to, least, mask=real[None, :] & (chunk < n_chunks)[:, None])
        scored += tl.sum(counted.to(tl.int32), 0)
    tl.atomic_add(counts + 1, tl.sum(scored.to(tl.int64), 0), sem="relaxed")
    if share == 0:
        tl.atomic_add(counts, tl.sum((limit > 0).to(tl.int64), 0), sem="relaxed")


@triton.jit
def scores_of_blocks(
    base, data, luts, offsets, sizes, limits, keys, allowed, chosen, ids, values, labels, nprobe, n_chunks, width, parts, tail,
    stride, weight,
    PER_BLOCK: tl.constexpr, TABLES: tl.constexpr, LARGEST: tl.constexpr, BASED: tl.constexpr, PER_PAIR: tl.constexpr,
    MASKED: tl.constexpr, LIMITED: tl.constexpr, PAIRS: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Sums and labels of the codes in the chunks chosen for each query; with n_chunks of probes numbered through."""
    q = (tl.program_id(0) // width).to(tl.int64)
    column = tl.program_id(0) % width
    number = tl.load(chosen + q * width + column)
    pair = q * nprobe + tl.maximum(number, 0) // n_chunks
    list_no, offset, entries = entries_of(offsets, sizes, limits, keys, pair, LIMITED)
    entries = tl.where(number >= 0, entries, 0)
    place, rows, there = rows_of_chunk(allowed, offset, entries, tl.maximum(number, 0) % n_chunks, MASKED, 64)
    table = luts + (pair if PER_PAIR else q) * (TABLES * parts * 16)
    at = _first_bytes(data, rows, stride, PER_BLOCK)
    half = (rows % 32 // 16 * 4).to(tl.int32)
    total = tl.zeros([BP, 64], tl.int32)
    for which in tl.static_range(TABLES):
        for start in range(tail if which == 1 else 0, parts, BP):
            part = start + tl.arange(0, BP)
            inside = (part < parts)[:, None] & there[None, :]
            both = tl.load(at[None, :] + _behind(part, PER_BLOCK)[:, None], mask=inside, other=0).to(tl.int32)
            entry = table + (which * parts + part)[:, None] * 16 + ((both >> half[None, :]) & 15)
            total += (weight if which == 1 else 1) * tl.load(entry, mask=inside, other=0).to(tl.int32)
    sums = tl.sum(total, 0).to(tl.float32)
    if BASED:
        sums += tl.load(base + pair)
    cost = ordered_cost(sums, there, LARGEST)
    label = (list_no << 32) | place.to(tl.int64)
    if not PAIRS:
        label = tl.load(ids + rows, mask=there, other=-1)
    to = (q * width + column) * 64 + tl.arange(0, 64)
    tl.store(values + to, -cost if LARGEST else cost)
    tl.store(labels + to, tl.where(there & (cost < float("inf")), label, -1))
