"""Kernels over vectors whose dimensions are looked at level by level; levels.py says what they are for."""

from __future__ import annotations

import triton
import triton.language as tl

from tsscompat.kernels.triton.codes import decoded, ordered_cost, rows_of_chunk
from tsscompat.kernels.triton.list_kernels import entries_of


@triton.jit
def _left_of_rows(norms, rows, there, level, levels, KIND: tl.constexpr, KSUB: tl.constexpr):
    """The lengths of what is left of rows from a level on."""
    at = rows * (levels + 1) + level
    if KIND == 6:
        at = rows // KSUB * KSUB * (levels + 1) + level * KSUB + rows % KSUB
    return tl.load(norms + at, mask=there, other=0.0)


@triton.jit
def _hopeless(total, ours, theirs, whole, bar, slack, METRIC: tl.constexpr):
    """Whether no distance of vectors with this sum so far, and such lengths to come, can pass the bar, roundings counted in."""
    if METRIC == 1:
        gap = tl.abs(ours - theirs) - slack * (ours + theirs)
        gap = tl.where(gap > 0, gap, 0.0)
        return (total + gap * gap) * (1 - 2 * slack) > bar
    return total + ours * theirs + 3 * slack * whole < bar


@triton.jit
def least_by_levels(
    x, left, bars, data, norms, offsets, sizes, limits, keys, allowed, out, counts, looked, nprobe, n_chunks, d, levels, width,
    slack,
    KIND: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr, METRIC: tl.constexpr, FLAGGED: tl.constexpr, MASKED: tl.constexpr,
    LIMITED: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The least cost in each chunk of a probe, or (FLAGGED) minus infinity where one may pass the bar, which each query has.

    Of vectors that cannot pass it any more nothing is loaded, and a chunk is left when that is so of all of its vectors.
    """
    pair = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    q = pair // nprobe
    list_no, offset, entries = entries_of(offsets, sizes, limits, keys, pair, LIMITED)
    bar = tl.load(bars + q)
    mine = left + q * (levels + 1)
    scored = tl.zeros([N], tl.int64)
    seen = tl.zeros([N], tl.int64)
    for chunk in range(share, n_chunks, shares):
        least = tl.full([], float("inf"), tl.float32)
        if chunk * N < entries:
            place, rows, there = rows_of_chunk(allowed, offset, entries, chunk, MASKED, N)
            alive = there
            whole = tl.load(mine) * _left_of_rows(norms, rows, there, 0, levels, KIND, KSUB)
            total = tl.zeros([N], tl.float32)
            level = 0
            going = tl.max(alive.to(tl.int32), 0)
            while going > 0:
                last = tl.minimum((level + 1) * width, d)
                for start in range(level * width, last, BD):
                    at = start + tl.arange(0, BD)
                    inside = alive[:, None] & (at < last)[None, :]
                    a = tl.load(x + q * d + at, mask=at < last, other=0.0)[None, :]
                    b = decoded(data, data, data, rows, inside, at, d, 0, KIND, 32, DSUB, KSUB)
                    total += tl.sum(tl.where(inside, (a - b) * (a - b) if METRIC == 1 else a * b, 0.0), 1)
                seen += alive.to(tl.int64)
                level += 1
                theirs = _left_of_rows(norms, rows, alive, level, levels, KIND, KSUB)
                alive = alive & (_hopeless(total, tl.load(mine + level), theirs, whole, bar, slack, METRIC) == 0)
                going = tl.where(level < levels, tl.max(alive.to(tl.int32), 0), 0)
            if FLAGGED:
                least = tl.where(tl.max(alive.to(tl.int32), 0) > 0, -float("inf"), float("inf"))
            else:
                least = tl.min(ordered_cost(total, alive, METRIC == 0), 0)
            scored += there.to(tl.int64)
        tl.store(out + pair * n_chunks + chunk, least)
    tl.atomic_add(counts + 1, tl.sum(scored, 0), sem="relaxed")
    tl.atomic_add(looked, tl.sum(seen, 0), sem="relaxed")
    if share == 0:
        tl.atomic_add(counts, (entries > 0).to(tl.int64), sem="relaxed")


@triton.jit
def lengths_of_levels(rows, out, n, d, levels, width, BN: tl.constexpr):
    """The lengths of what is left of vectors from each level on, the last level first; squares are added one by one."""
    row = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    there = row < n
    total = tl.zeros([BN], tl.float32)
    tl.store(out + row * (levels + 1) + levels, total, mask=there)
    for back in range(0, levels):
        level = levels - 1 - back
        for at in range(level * width, tl.minimum((level + 1) * width, d)):
            value = tl.load(rows + row * d + at, mask=there, other=0.0)
            total += value * value
        tl.store(out + row * (levels + 1) + level, tl.sqrt(total.to(tl.float64)).to(tl.float32), mask=there)
