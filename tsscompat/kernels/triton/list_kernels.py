"""Kernels that scan inverted lists in chunks of N entries; list_scan.py says what they are for."""

from __future__ import annotations

import triton
import triton.language as tl

from tsscompat.kernels.triton.codes import cost_of_rows, ordered_cost, rows_of_chunk, values_of_tile


@triton.jit
def entries_of(offsets, sizes, limits, keys, pair, LIMITED: tl.constexpr):
    """List, first row and number of entries that count, of a probe."""
    key = tl.load(keys + pair)
    known = tl.maximum(key, 0)
    size = tl.where(key >= 0, tl.load(sizes + known), 0)
    if LIMITED:
        size = tl.minimum(size, tl.load(limits + pair))
    return known, tl.load(offsets + known), size


@triton.jit
def least_few(
    x, shift, centers, base, terms, data, lo, step, tables, signatures, offsets, sizes, limits, keys, allowed, out, counts,
    nprobe, n_chunks, d, size, scale, p, threshold,
    KIND: tl.constexpr, BITS: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr, METRIC: tl.constexpr, LARGEST: tl.constexpr,
    SHIFTED: tl.constexpr, CENTERED: tl.constexpr, BASED: tl.constexpr, TERMED: tl.constexpr, SIGNED: tl.constexpr,
    PER_PAIR: tl.constexpr, MASKED: tl.constexpr, LIMITED: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The least cost in each chunk of a probe; a program takes a share of the chunks."""
    pair = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    list_no, offset, entries = entries_of(offsets, sizes, limits, keys, pair, LIMITED)
    scored = tl.zeros([N], tl.int64)
    for chunk in range(share, n_chunks, shares):
        least = tl.full([], float("inf"), tl.float32)
        if chunk * N < entries:
            _, rows, there = rows_of_chunk(allowed, offset, entries, chunk, MASKED, N)
            cost = cost_of_rows(
                x, shift, centers, base, terms, data, lo, step, tables, signatures,
                pair // nprobe, pair, list_no, rows, there, d, size, scale, p, threshold,
                KIND, BITS, DSUB, KSUB, METRIC, LARGEST, SHIFTED, CENTERED, BASED, TERMED, SIGNED, PER_PAIR, N, BD,
            )  # fmt: skip
            least = tl.min(cost, 0)
            scored += there.to(tl.int64)
        tl.store(out + pair * n_chunks + chunk, least)
    tl.atomic_add(counts + 1, tl.sum(scored, 0), sem="relaxed")
    if share == 0:
        tl.atomic_add(counts, (entries > 0).to(tl.int64), sem="relaxed")


@triton.jit
def tile_of_probes(order, starts, ends, list_no, tile, BQ: tl.constexpr):
    """The probes of a list that are a tile's, and which of the tile's places have one."""
    begin = tl.load(starts + list_no)
    end = tl.load(starts + list_no + 1)
    before = tl.load(ends + list_no) - (end - begin + BQ - 1) // BQ
    at = begin + (tile - before) * BQ + tl.arange(0, BQ)
    return tl.load(order + at, mask=at < end, other=0), at < end


@triton.jit
def least_shared(
    x, shift, centers, base, terms, data, lo, step, tables, signatures, offsets, sizes, limits, order, starts, ends, owners,
    allowed, out, counts, nprobe, n_chunks, n_lists, d, size, scale, p, threshold,
    KIND: tl.constexpr, BITS: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr, METRIC: tl.constexpr, LARGEST: tl.constexpr,
    SHIFTED: tl.constexpr, CENTERED: tl.constexpr, BASED: tl.constexpr, TERMED: tl.constexpr, SIGNED: tl.constexpr,
    MASKED: tl.constexpr, LIMITED: tl.constexpr, BQ: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The same for the probes of one list that are a tile's: starts[l] to starts[l + 1] are list l's in `order`, ends[l] its tiles' end."""
    tile = tl.program_id(0)
    list_no = tl.load(owners + tile)
    if list_no >= n_lists:
        return
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    pair, real = tile_of_probes(order, starts, ends, list_no, tile, BQ)
    offset = tl.load(offsets + list_no)
    entries = tl.load(sizes + list_no)
    limit = tl.full([BQ], 0, tl.int64) + entries
    if LIMITED:
        limit = tl.minimum(limit, tl.load(limits + pair, mask=real, other=0))
    limit = tl.where(real, limit, 0)
    scored = tl.zeros([BQ], tl.int32)
    for chunk in range(share, tl.cdiv(entries, N), shares):
        _, rows, there = rows_of_chunk(allowed, offset, entries, chunk, MASKED, N)
        value = values_of_tile(
            x, shift, centers, data, lo, step, pair // nprobe, list_no, rows, real, there, d, size, scale,
            KIND, BITS, DSUB, KSUB, METRIC, SHIFTED, CENTERED, BQ, N, BD,
        )  # fmt: skip
        if BASED:
            value += tl.load(base + pair, mask=real, other=0.0)[:, None]
        if TERMED:
            value += tl.load(terms + rows, mask=there, other=0.0)[None, :]
        here = tl.minimum(tl.maximum(limit - chunk * N, 0), N).to(tl.int32)
        counted = there[None, :] & (tl.arange(0, N)[None, :] < here[:, None])
        tl.store(out + pair * n_chunks + chunk, tl.min(ordered_cost(value, counted, LARGEST), 1), mask=real)
        scored += tl.sum(counted.to(tl.int32), 1) if MASKED else here
    tl.atomic_add(counts + 1, tl.sum(scored.to(tl.int64), 0), sem="relaxed")
    if share == 0:
        tl.atomic_add(counts, tl.sum((limit > 0).to(tl.int64), 0), sem="relaxed")


@triton.jit
def chunk_scores(
    x, shift, centers, base, terms, data, lo, step, tables, signatures, offsets, sizes, limits, keys, allowed, chosen, ids,
    values, labels, nprobe, n_chunks, width, d, size, scale, p, threshold,
    KIND: tl.constexpr, BITS: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr, METRIC: tl.constexpr, LARGEST: tl.constexpr,
    SHIFTED: tl.constexpr, CENTERED: tl.constexpr, BASED: tl.constexpr, TERMED: tl.constexpr, SIGNED: tl.constexpr,
    PER_PAIR: tl.constexpr, MASKED: tl.constexpr, LIMITED: tl.constexpr, PAIRS: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Scores and labels of the entries in the chunks chosen for each query; with n_chunks of probes numbered through."""
    q = (tl.program_id(0) // width).to(tl.int64)
    column = tl.program_id(0) % width
    number = tl.load(chosen + q * width + column)
    pair = q * nprobe + tl.maximum(number, 0) // n_chunks
    list_no, offset, entries = entries_of(offsets, sizes, limits, keys, pair, LIMITED)
    entries = tl.where(number >= 0, entries, 0)
    place, rows, there = rows_of_chunk(allowed, offset, entries, tl.maximum(number, 0) % n_chunks, MASKED, N)
    cost = cost_of_rows(
        x, shift, centers, base, terms, data, lo, step, tables, signatures,
        q, pair, list_no, rows, there, d, size, scale, p, threshold,
        KIND, BITS, DSUB, KSUB, METRIC, LARGEST, SHIFTED, CENTERED, BASED, TERMED, SIGNED, PER_PAIR, N, BD,
    )  # fmt: skip
    if PAIRS:
        label = (list_no << 32) | place.to(tl.int64)
    else:
        label = tl.load(ids + rows, mask=there, other=-1)
    live = there & (cost < float("inf"))
    to = (q * width + column) * N + tl.arange(0, N)
    tl.store(values + to, -cost if LARGEST else cost)
    tl.store(labels + to, tl.where(live, label, -1))
