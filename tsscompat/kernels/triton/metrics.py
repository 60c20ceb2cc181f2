"""Distances term by term, for every metric: a tile of rows of x against rows of y, dimension block by dimension block."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two


@triton.jit
def terms(x, y, p, METRIC: tl.constexpr):
    """What a pair of numbers adds to the up to two sums of a distance, and to a third that says whether it is one at all."""
    zero = tl.zeros_like(x + y)
    if METRIC == 0:  # inner product
        return x * y, zero, zero
    elif METRIC == 1:  # L2
        return (x - y) * (x - y), zero, zero
    elif METRIC == 2 or METRIC == 3:  # L1; Linf takes the largest
        return tl.abs(x - y), zero, zero
    elif METRIC == 4:  # Lp
        gap = tl.abs(x - y)
        return tl.where(gap > 0, tl.exp2(p * tl.log2(tl.where(gap > 0, gap, 1.0))), gap + tl.where(p == 0, 1.0, 0.0)), zero, zero
    elif METRIC == 20:  # Canberra
        return tl.abs(x - y) / (tl.abs(x) + tl.abs(y)), zero, zero
    elif METRIC == 21:  # Bray-Curtis
        return tl.abs(x - y), tl.abs(x + y), zero
    elif METRIC == 22:  # Jensen-Shannon
        middle = 0.5 * (x + y)
        return 0.5 * (-x * tl.log(middle / x) - y * tl.log(middle / y)), zero, zero
    elif METRIC == 23:  # Jaccard; a number beside NaN counts alone, as with fmin and fmax
        low = tl.where(x != x, y, tl.where(y != y, x, tl.minimum(x, y)))
        high = tl.where(x != x, y, tl.where(y != y, x, tl.maximum(x, y)))
        return low, high, zero
    elif METRIC == 24:  # NaN-Euclidean
        both = (x == x) & (y == y)
        return tl.where(both, (x - y) * (x - y), 0.0), both.to(tl.float32), zero
    else:  # Gower
        known = (x == x) & (y == y)
        numeric = (x >= 0) & (y >= 0)
        wrong = known & ((numeric & ((x > 1) | (y > 1))) | ((numeric | ((x < 0) & (y < 0))) == 0))
        part = tl.where(numeric, tl.abs(x - y), (x != y).to(tl.float32))
        return tl.where(known, part, 0.0), known.to(tl.float32), wrong.to(tl.float32)


@triton.jit
def added(first, second, third, x, y, inside, p, METRIC: tl.constexpr, AXIS: tl.constexpr):
    """The three sums with the terms of another block of dimensions, which lie along an axis."""
    t1, t2, t3 = terms(x, y, p, METRIC)
    t1 = tl.where(inside, t1, 0.0)
    if METRIC == 3:
        # A largest term, which NaN would otherwise be lost in.
        first = tl.maximum(first, tl.max(tl.where(t1 == t1, t1, float("inf")), AXIS))
        third += tl.sum((t1 != t1).to(tl.float32), AXIS)
    else:
        first += tl.sum(t1, AXIS)
    if METRIC == 21 or METRIC == 23 or METRIC == 24 or METRIC == 25:
        second += tl.sum(tl.where(inside, t2, 0.0), AXIS)
    if METRIC == 25:
        third += tl.sum(tl.where(inside, t3, 0.0), AXIS)
    return first, second, third


@triton.jit
def finished(first, second, third, d, METRIC: tl.constexpr):
    """The distance that the sums make."""
    if METRIC == 3:
        return tl.where(third > 0, float("nan"), first)
    elif METRIC == 21 or METRIC == 23:
        return first / second
    elif METRIC == 24:
        return tl.where(second > 0, d / second * first, float("nan"))
    elif METRIC == 25:
        return tl.where((third > 0) | (second == 0), float("nan"), first / second)
    else:
        return first


@triton.jit
def _pairwise(x, y, out, nx, ny, d, p, METRIC: tl.constexpr, BX: tl.constexpr, BY: tl.constexpr, BD: tl.constexpr):
    x_tiles = tl.cdiv(nx, BX)
    i = (tl.program_id(0) % x_tiles).to(tl.int64) * BX + tl.arange(0, BX)
    j = (tl.program_id(0) // x_tiles).to(tl.int64) * BY + tl.arange(0, BY)
    first = tl.zeros([BX, BY], tl.float32)
    second = tl.zeros([BX, BY], tl.float32)
    third = tl.zeros([BX, BY], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        there = (at < d)[None, :]
        a = tl.load(x + i[:, None] * d + at[None, :], mask=(i < nx)[:, None] & there, other=0.0)
        b = tl.load(y + j[:, None] * d + at[None, :], mask=(j < ny)[:, None] & there, other=0.0)
        first, second, third = added(first, second, third, a[:, None, :], b[None, :, :], there[:, None, :], p, METRIC, 2)
    value = finished(first, second, third, d, METRIC)
    tl.store(out + i[:, None] * ny + j[None, :], value, mask=(i < nx)[:, None] & (j < ny)[None, :])


def pairwise(x: Tensor, y: Tensor, metric: int, metric_arg: float = 0.0) -> Tensor:
    """The twin of kernels.metrics.pairwise."""
    nx, ny, d = x.shape[0], y.shape[0], x.shape[1]
    out = torch.empty(nx, ny, dtype=torch.float32, device=x.device)
    if not (nx and ny and d) or x.dtype != torch.float32 or y.dtype != torch.float32:
        return out.zero_() if nx * ny == 0 else NotImplemented
    bd = power_of_two(d, 4, 16)
    bx, by = power_of_two(nx, 1, 8), power_of_two(ny, 1, 32)
    with on(x):
        _pairwise[(blocks_of(nx, bx) * blocks_of(ny, by),)](
            x.contiguous(), y.contiguous(), out, nx, ny, d, float(metric_arg), METRIC=metric, BX=bx, BY=by, BD=bd
        )
    return out


@triton.jit
def _named(x, y, labels, out, n_pairs, m, d, p, METRIC: tl.constexpr, WORST: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr):
    """Pairs are numbered through, m for each row of x."""
    begin = tl.program_id(0).to(tl.int64) * BP
    pair = begin + tl.arange(0, BP)
    row = begin // m + ((begin % m).to(tl.int32) + tl.arange(0, BP)) // m
    label = tl.load(labels + pair, mask=pair < n_pairs, other=-1)
    first = tl.zeros([BP], tl.float32)
    second = tl.zeros([BP], tl.float32)
    third = tl.zeros([BP], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        inside = (label >= 0)[:, None] & (at < d)[None, :]
        a = tl.load(x + row[:, None] * d + at[None, :], mask=inside, other=0.0)
        b = tl.load(y + label[:, None] * d + at[None, :], mask=inside, other=0.0)
        first, second, third = added(first, second, third, a, b, inside, p, METRIC, 1)
    value = finished(first, second, third, d, METRIC)
    tl.store(out + pair, tl.where(label >= 0, value, WORST), mask=pair < n_pairs)


def named(x: Tensor, y: Tensor, labels: Tensor, metric: int, metric_arg: float, worst: float) -> Tensor:
    """The distance of each row of x to the rows of y that it names (n, m); `worst` for names of -1."""
    n, m = labels.shape
    out = torch.empty(n, m, dtype=torch.float32, device=x.device)
    if n and m:
        bp = power_of_two(n * m, 1, 32)
        with on(x):
            _named[(blocks_of(n * m, bp),)](
                x.contiguous(),
                y.contiguous(),
                labels.contiguous(),
                out,
                n * m,
                m,
                x.shape[1],
                float(metric_arg),
                METRIC=metric,
                WORST=worst,
                BP=bp,
                BD=power_of_two(x.shape[1], 4, 64),
            )
    return out
