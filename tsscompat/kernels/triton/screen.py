"""Products on the tensor cores: in float16 with a bound on their error, or split so that they are about as good as float32's.

With x = h + r, where h is x rounded to float16, <x, y> = <h_x, h_y> + <r_x, y> + <h_x, r_y>, so the product of the rounded vectors is
off by at most |r_x| |y| + |h_x| |r_y|. To that comes the rounding of sums, at most (d + 16) 2^-22 |x| |y| however they are ordered. A
cost less all of this is a bound that no true cost is below. Vectors are first scaled by a power of two, which is exact, so that their
numbers are about 1 and float16's range does; for L2 both sides are moved by a mean of y as well, so that the lengths in the bound are
those of what differs. Rows beyond that range, or not finite, get no bound: they are always scored.

A group's bound takes the greatest |y| and |r_y| among its rows, so that what is left to do for a product is one subtraction and a minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.metrics import L2
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two

# Rows that a mean is taken of.
_SAMPLE = 1 << 14
# Of longer tables a program takes 1024 rows, and says the least bound among them.
_LONG = 1 << 17


@dataclass(frozen=True)
class Table:
    """Rows of y rounded, and what bounds need of them."""

    rounded: Tensor  # (nb, width) float16, zero beyond d
    squares: Tensor  # (nb,) |y|^2 for L2, less the rounding of its sum; -inf: no bound, inf: not allowed
    lengths: Tensor  # (groups,) the greatest |y|
    lost: Tensor  # (groups,) the greatest |r_y|
    shift: Tensor  # (d,)
    scale: Tensor  # (1,) what vectors less the shift are multiplied by
    group: int
    metric: int


@dataclass(frozen=True)
class Asked:
    """Queries rounded; `longer` and `shorter` multiply |y| and |r_y| in the bound."""

    rounded: Tensor  # (nq, width) float16
    squares: Tensor  # (nq,) |x|^2, less the rounding of its sum; NaN: no bound
    longer: Tensor  # (nq,)
    shorter: Tensor  # (nq,)
    unit: Tensor  # (1,) costs are multiplied by it


@triton.jit
def _prepare(
    y,
    shift,
    scale,
    allowed,
    rounded,
    squares,
    lengths,
    lost,
    n,
    d,
    width,
    slack,
    factor,
    METRIC: tl.constexpr,
    MASKED: tl.constexpr,
    QUERIES: tl.constexpr,
    GROUP: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    inside = rows < n
    total = tl.zeros([BN], tl.float32)
    gone = tl.zeros([BN], tl.float32)
    held = tl.zeros([BN], tl.float32)
    unit = tl.load(scale)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        here = inside[:, None] & (at < d)[None, :]
        value = tl.load(y + rows[:, None] * d + at[None, :], mask=here, other=0.0)
        value = tl.where(here, (value - tl.load(shift + at, mask=at < d, other=0.0)[None, :]) * unit, 0.0)
        half = value.to(tl.float16).to(tl.float32)
        total += tl.sum(value * value, 1)
        held += tl.sum(half * half, 1)
        gone += tl.sum((value - half) * (value - half), 1)
    tame = total < 3.6e9  # every number is below 60,000; false for NaN
    for start in range(0, width, BD):
        at = start + tl.arange(0, BD)
        here = (inside & tame)[:, None] & (at < d)[None, :]
        value = tl.load(y + rows[:, None] * d + at[None, :], mask=here, other=0.0)
        value = tl.where(here, (value - tl.load(shift + at, mask=at < d, other=0.0)[None, :]) * unit, 0.0)
        tl.store(
            rounded + rows[:, None] * width + at[None, :], value.to(tl.float16), mask=inside[:, None] & (at < width)[None, :]
        )
    # Lengths are rounded up: what is not a number of them has no bound anyway.
    whole = tl.where(tame, tl.sqrt(total) * (1 + slack), 0.0)
    rest = tl.where(tame, tl.sqrt(gone) * (1 + slack), 0.0)
    if QUERIES:
        body = tl.where(tame, tl.sqrt(held) * (1 + slack), 0.0)
        tl.store(squares + rows, tl.where(tame, total * (1 - slack), float("nan")), mask=inside)
        tl.store(lengths + rows, factor * (rest + slack * whole), mask=inside)
        tl.store(lost + rows, factor * body, mask=inside)
    else:
        square = total * (1 - slack) if METRIC == 1 else tl.zeros([BN], tl.float32)
        square = tl.where(tame, square, float("-inf"))
        if MASKED:
            square = tl.where(tl.load(allowed + rows, mask=inside, other=0) != 0, square, float("inf"))
        tl.store(squares + rows, square, mask=inside)
        groups = tl.program_id(0) * (BN // GROUP) + tl.arange(0, BN // GROUP)
        tl.store(lengths + groups, tl.max(tl.reshape(whole, [BN // GROUP, GROUP]), 1), mask=groups * GROUP < n)
        tl.store(lost + groups, tl.max(tl.reshape(rest, [BN // GROUP, GROUP]), 1), mask=groups * GROUP < n)


def _scale(sample: Tensor) -> Tensor:
    """The power of two that makes the numbers of most rows about 1."""
    middle = sample.square().mean(1).nan_to_num(0.0).median()
    power = -middle.log2().mul(0.5).floor().nan_to_num(0.0, 0.0, 0.0).clamp(-60, 60)
    return torch.ldexp(torch.ones_like(power), power.int()).view(1)


def _rounded(
    y: Tensor, shift: Tensor, scale: Tensor, metric: int, allowed: Tensor | None, group: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows rounded, with what bounds need of each group of rows; of single ones, queries, where `group` is 0."""
    n, d = y.shape
    width = padded_width(d)
    rounded = torch.empty(n, width, dtype=torch.float16, device=y.device)
    squares, (lengths, lost) = torch.empty(n, device=y.device), torch.empty(2, blocks_of(n, group or 1), device=y.device)
    slack, factor = (d + 16) * 2.0**-22, 2.0 if metric == L2 else 1.0
    with on(y):
        _prepare[(blocks_of(n, 32),)](
            y,
            shift,
            scale,
            y if allowed is None else allowed,
            rounded,
            squares,
            lengths,
            lost,
            n,
            d,
            width,
            slack,
            factor,
            METRIC=metric,
            MASKED=allowed is not None,
            QUERIES=not group,
            GROUP=group or 1,
            BN=32,
            BD=power_of_two(d, 16, 64),
        )
    return rounded, squares, lengths, lost


def padded_width(d: int) -> int:
    """The width of a table of rounded vectors: one block of dimensions, or whole blocks of 64."""
    return power_of_two(d, 16) if d <= 128 else 64 * blocks_of(d, 64)


def table(y: Tensor, metric: int, group: int, allowed: Tensor | None) -> Table:
    """What bounds need of the rows of y."""
    sample = y[:: max(1, y.shape[0] // _SAMPLE)]
    shift = torch.zeros(y.shape[1], device=y.device)
    if metric == L2:
        shift = sample.mean(0).nan_to_num(0.0, 0.0, 0.0).clamp(-1e17, 1e17)
    scale = _scale(sample - shift)
    return Table(*_rounded(y, shift, scale, metric, allowed, group), shift, scale, group, metric)


def prepared(x: Tensor, rows: Table) -> Asked:
    """What bounds need of the queries; for L2 they are scaled as the rows are."""
    scale = rows.scale if rows.metric == L2 else _scale(x)
    return Asked(*_rounded(x, rows.shift, scale, rows.metric, None, 0), scale * rows.scale)


@triton.jit
def _bounds(
    x, longer, shorter, y, squares, lengths, lost, out, spans, nq, nb, n_groups, n_spans, factor,
    WIDTH: tl.constexpr, TILES: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The least bound in each group of rows, and in what a program has of them.

    Programs that run side by side share rows of y, which the L2 cache then holds.
    """
    q_tiles = tl.cdiv(nq, BQ)
    q = (tl.program_id(0) % q_tiles) * BQ + tl.arange(0, BQ)
    span = tl.program_id(0) // q_tiles
    asked = q < nq
    a = tl.load(longer + q, mask=asked, other=0.0)
    b = tl.load(shorter + q, mask=asked, other=0.0)
    dims = tl.arange(0, BD)
    x_at = x + q[:, None].to(tl.int64) * WIDTH + dims[None, :]
    if WIDTH == BD:
        whole = tl.load(x_at, mask=asked[:, None], other=0.0)
    of_all = tl.full([BQ], float("inf"), tl.float32)
    for tile in range(TILES):
        first = (span * TILES + tile) * BN
        n = first + tl.arange(0, BN)
        there = n < nb
        y_at = y + n[None, :].to(tl.int64) * WIDTH + dims[:, None]
        if WIDTH == BD:
            rows = tl.load(y_at, mask=there[None, :], other=0.0)
            products = tl.dot(whole, rows)
        else:
            products = tl.zeros([BQ, BN], tl.float32)
            for start in range(0, WIDTH, BD):
                part = tl.load(x_at + start, mask=asked[:, None], other=0.0)
                rows = tl.load(y_at + start, mask=there[None, :], other=0.0)
                products = tl.dot(part, rows, products)
        low = tl.load(squares + n, mask=there, other=float("inf"))[None, :] - factor * products
        least = tl.min(tl.reshape(low, [BQ, BN // GROUP, GROUP]), 2)
        g = first // GROUP + tl.arange(0, BN // GROUP)
        length = tl.load(lengths + g, mask=g * GROUP < nb, other=0.0)
        rest = tl.load(lost + g, mask=g * GROUP < nb, other=0.0)
        least = least - a[:, None] * length[None, :] - b[:, None] * rest[None, :]
        to = out + q[:, None].to(tl.int64) * n_groups + g[None, :]
        tl.store(to, least, mask=asked[:, None] & (g < n_groups)[None, :])
        of_all = tl.minimum(of_all, tl.min(least, 1))
    tl.store(spans + q.to(tl.int64) * n_spans + span, of_all, mask=asked)


def bounds(asked: Asked, rows: Table) -> tuple[Tensor, tuple[Tensor, int] | None]:
    """For each query and group of rows, what no cost in the group is below (less the query's own square, for L2): (nq, groups).

    Of long tables also the least in each span of groups, and how many these are; the last of them may be of no rows.
    """
    nq, nb, width = asked.rounded.shape[0], rows.rounded.shape[0], rows.rounded.shape[1]
    # For wide rows tiles of 128 x 256: squares of 128 would load a third more from the L2 cache for a product. Rows of up to 128
    # dimensions are read once for 128 queries that stay in shared memory, and of these programs two go on a multiprocessor.
    bq = power_of_two(nq, 16, 128)
    bn = 256 if bq == 128 and width > 128 else 128
    tiles = 1024 // bn if nb > _LONG else 1
    n_spans, length = blocks_of(nb, bn * tiles), bn * tiles // rows.group
    out = torch.empty(nq, n_spans * length, device=asked.rounded.device)
    spans = torch.empty(nq, n_spans, device=out.device)
    with on(out):
        _bounds[(blocks_of(nq, bq) * n_spans,)](
            asked.rounded,
            asked.longer,
            asked.shorter,
            rows.rounded,
            rows.squares,
            rows.lengths,
            rows.lost,
            out,
            spans,
            nq,
            nb,
            n_spans * length,
            n_spans,
            2.0 if rows.metric == L2 else 1.0,
            WIDTH=width,
            TILES=tiles,
            BQ=bq,
            BN=bn,
            BD=width if width <= 128 else 64,
            GROUP=rows.group,
            num_warps=8 if bq == 128 else 4,
            num_stages=2 if bq == 128 and width <= 128 else 3,
        )
    return out, (spans, length) if tiles > 1 else None


@triton.jit
def _unproven(squares, left_out, values, unit, flags, names, count, nq, k, slack, METRIC: tl.constexpr, BLOCK: tl.constexpr):
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = q < nq
    bound = tl.load(left_out + q, mask=inside, other=float("inf"))
    square = tl.load(squares + q, mask=inside, other=0.0)
    last = tl.load(values + q.to(tl.int64) * k + k - 1, mask=inside, other=0.0) * tl.load(unit)
    if METRIC == 1:
        proven = (square + bound) * (1 - slack) > last
    else:
        proven = (bound > -last) & (square == square)
    open_ = inside & (proven == 0) & (bound < float("inf"))
    tl.store(flags + q, open_.to(tl.int8), mask=inside)
    place = tl.cumsum(open_.to(tl.int32), 0)
    n = tl.sum(open_.to(tl.int32), 0)
    start = tl.atomic_add(count, n, sem="relaxed")
    tl.store(names + start + place - 1, q, mask=open_)


def unproven(asked: Asked, left_out: Tensor, values: Tensor, metric: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which queries' k-th best value is not better than everything left out: flags, their numbers in any order, how many."""
    nq, device = left_out.shape[0], left_out.device
    flags = torch.empty(nq, dtype=torch.int8, device=device)
    names = torch.empty(nq, dtype=torch.int32, device=device)
    count = torch.zeros(1, dtype=torch.int32, device=device)
    with on(values):
        _unproven[(blocks_of(nq, 128),)](
            asked.squares,
            left_out,
            values,
            asked.unit,
            flags,
            names,
            count,
            nq,
            values.shape[1],
            (d + 16) * 2.0**-22,
            METRIC=metric,
            BLOCK=128,
        )
    return flags, names, count


@triton.jit
def _products(x, y, q, n, nq, ny, d, BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """Products of a tile, each of its numbers split into two of TF32: about as exact as float32's own."""
    total = tl.zeros([BQ, BN], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        a = tl.load(x + q[:, None].to(tl.int64) * d + at[None, :], mask=(q < nq)[:, None] & (at < d)[None, :], other=0.0)
        b = tl.load(y + n[None, :].to(tl.int64) * d + at[:, None], mask=(n < ny)[None, :] & (at < d)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="tf32x3")
    return total


@triton.jit
def _distances(
    x, y, x_squares, y_squares, out, nq, ny, d, METRIC: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr
):
    q_tiles = tl.cdiv(nq, BQ)
    q = (tl.program_id(0) % q_tiles) * BQ + tl.arange(0, BQ)
    n = (tl.program_id(0) // q_tiles) * BN + tl.arange(0, BN)
    value = _products(x, y, q, n, nq, ny, d, BQ, BN, BD)
    if METRIC == 1:
        ours = tl.load(x_squares + q, mask=q < nq, other=0.0)
        theirs = tl.load(y_squares + n, mask=n < ny, other=0.0)
        value = ours[:, None] + theirs[None, :] - 2 * value
        value = tl.where(value < 0, 0.0, value)
    tl.store(out + q[:, None].to(tl.int64) * ny + n[None, :], value, mask=(q < nq)[:, None] & (n < ny)[None, :])


def distances(x: Tensor, y: Tensor, metric: int) -> Tensor:
    """All distances of two tables, by products."""
    nq, ny = x.shape[0], y.shape[0]
    out = torch.empty(nq, ny, device=x.device)
    squares = (x.square().sum(1), y.square().sum(1)) if metric == L2 else (x, y)
    bq, bn = power_of_two(nq, 16, 64), power_of_two(ny, 16, 128)
    with on(x):
        _distances[(blocks_of(nq, bq) * blocks_of(ny, bn),)](
            x, y, *squares, out, nq, ny, x.shape[1], METRIC=metric, BQ=bq, BN=bn, BD=power_of_two(x.shape[1], 16, 32)
        )
    return out


@triton.jit
def _nearest(x, y, y_squares, labels, nq, ny, d, METRIC: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    q = tl.program_id(0) * BQ + tl.arange(0, BQ)
    best = tl.full([BQ], float("inf"), tl.float32)
    where = tl.full([BQ], -1, tl.int32)
    for tile in range(0, ny, BN):
        n = tile + tl.arange(0, BN)
        cost = -_products(x, y, q, n, nq, ny, d, BQ, BN, BD)
        if METRIC == 1:
            cost = 2 * cost + tl.load(y_squares + n, mask=n < ny, other=float("inf"))[None, :]
        cost = tl.where((cost == cost) & (n < ny)[None, :], cost, float("inf"))
        least, at = tl.min(cost, 1, return_indices=True)
        where = tl.where(least < best, tile + at, where)
        best = tl.minimum(best, least)
    tl.store(labels + q, where.to(tl.int64), mask=q < nq)


def nearest_rows(x: Tensor, y: Tensor, metric: int) -> Tensor:
    """The number of the best row of y for each row of x, the first of equals; -1 where there is none."""
    nq = x.shape[0]
    labels = torch.empty(nq, dtype=torch.int64, device=x.device)
    bq, bn = power_of_two(nq, 16, 128), power_of_two(y.shape[0], 16, 128)
    if nq:
        with on(x):
            _nearest[(blocks_of(nq, bq),)](
                x,
                y,
                y.square().sum(1) if metric == L2 else y,
                labels,
                nq,
                y.shape[0],
                x.shape[1],
                METRIC=metric,
                BQ=bq,
                BN=bn,
                BD=power_of_two(x.shape[1], 16, 32),
                num_warps=8 if bq == 128 else 4,
            )
    return labels
