"""Scalar quantisation: training of ranges, vectors to codes and back.

A type is a row of KINDS: how many bits, whether its range is one for all dimensions or one for each, and what its codes mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms import turbo
from tsscompat.algorithms.blocks import in_blocks
from tsscompat.algorithms.lloyd_max import codebook
from tsscompat.errors import FaissError, check
from tsscompat.kernels.bits import pack, unpack
from tsscompat.kernels.scalar import middles_of, steps_of
from tsscompat.kernels.singles import times
from tsscompat.records import record

QT_8BIT, QT_4BIT, QT_8BIT_UNIFORM, QT_4BIT_UNIFORM, QT_FP16, QT_8BIT_DIRECT, QT_6BIT, QT_BF16, QT_8BIT_DIRECT_SIGNED, QT_0BIT = (
    range(10)
)
RS_MINMAX, RS_MEANSTD, RS_QUANTILES, RS_OPTIM = range(4)


@record
class Kind:
    """What a quantiser type is."""

    bits: int
    ranged: bool = False  # trained on the data's range
    uniform: bool = False  # one range for all dimensions
    levels: int = 0  # the number of steps of a range, of values of a Lloyd-Max codebook
    scaled: bool = False  # the codebook is for vectors of norm 1
    turbo: bool = False  # a bit of the residual's projection, and factors, follow


KINDS = {
    QT_8BIT: Kind(8, ranged=True, levels=255),
    QT_4BIT: Kind(4, ranged=True, levels=15),
    QT_8BIT_UNIFORM: Kind(8, ranged=True, uniform=True, levels=255),
    QT_4BIT_UNIFORM: Kind(4, ranged=True, uniform=True, levels=15),
    QT_FP16: Kind(16),
    QT_8BIT_DIRECT: Kind(8),
    QT_6BIT: Kind(6, ranged=True, levels=63),
    QT_BF16: Kind(16),
    QT_8BIT_DIRECT_SIGNED: Kind(8),
    QT_0BIT: Kind(0),
    **{qtype: Kind(bits, levels=1 << bits, scaled=True) for qtype, bits in zip(range(10, 15), (1, 2, 3, 4, 8))},
    **{qtype: Kind(bits, levels=1 << (bits - 1), turbo=True) for qtype, bits in zip(range(15, 19), range(2, 6))},
    **{qtype: Kind(bits, levels=1 << bits) for qtype, bits in zip(range(19, 27), range(1, 9))},
}


def kind_of(qtype: int) -> Kind:
    """The row of a type."""
    check(qtype in KINDS, "scalar quantiser type {} is not supported", qtype)
    return KINDS[qtype]


def code_size(qtype: int, d: int) -> int:
    """Bytes of a code."""
    kind = kind_of(qtype)
    return turbo.code_size(d, kind.bits) if kind.turbo else (kind.bits * d + 7) // 8


def trained_size(qtype: int, d: int) -> int:
    """How many numbers training gives."""
    kind = kind_of(qtype)
    if kind.ranged:
        return 2 if kind.uniform else 2 * d
    return max(0, 2 * kind.levels - 1) + 3 * kind.turbo


def train(x: Tensor, qtype: int, rangestat: int = RS_MINMAX, arg: float = 0.0) -> Tensor:
    """What encoding needs to know of the data: (low, extent), of all dimensions or of each; or a codebook and its boundaries."""
    kind = kind_of(qtype)
    if kind.turbo:
        return turbo.trained(kind.bits).to(x.device)
    if kind.levels and not kind.ranged:
        return codebook(kind.bits, x.shape[1] if kind.scaled else 1).to(x.device)
    if not kind.ranged:
        return x.new_empty(0)
    check(x.shape[0] > 0, "a scalar quantiser cannot be trained on no vectors")
    if kind.uniform:
        low, high = _range(x.reshape(1, -1), kind.levels + 1, rangestat, arg)
        return torch.cat([low, high - low])
    if rangestat != RS_MINMAX:
        # FAISS leaves the first vector of each dimension's column at zero, and takes (low, high) for (low, extent).
        columns = x.t().clone()
        columns[:, 0] = 0
        low, high = _range(columns, kind.levels + 1, rangestat, arg)
        return torch.cat([low, high - low])
    low, high = _range(x.t(), kind.levels + 1, rangestat, arg)
    return torch.cat([low, high - low])


def _range(rows: Tensor, levels: int, rangestat: int, arg: float) -> tuple[Tensor, Tensor]:
    """The range to represent of each row of numbers."""
    n = rows.shape[1]
    if rangestat == RS_MINMAX:
        low, high = rows.amin(1), rows.amax(1)
        grow = (high - low) * arg
        return low - grow, high + grow
    if rangestat == RS_MEANSTD:
        mean = rows.double().mean(1).float()
        variance = ((rows * rows).double().sum(1) / n - (mean * mean).double()).float()
        deviation = torch.where(variance <= 0, 1.0, variance.clamp(min=0).sqrt())
        return mean - deviation * arg, mean + deviation * arg
    if rangestat == RS_QUANTILES:
        order = rows.sort(1).values
        o = max(0, times(n, arg))
        o = n // 2 if o > n - o else o
        return order[:, o], order[:, n - 1 - o]
    check(rangestat == RS_OPTIM, "unknown range statistic {}", rangestat)
    return _optimal(rows, levels)


def _optimal(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Ranges that minimise the squared error, by alternating between codes and least squares (2,000 steps at most)."""
    n = rows.shape[1]
    low = rows.amin(1)
    step = (rows.amax(1) - low) / (levels - 1)
    total, last, still = rows.sum(1), torch.full_like(low, -1), torch.zeros_like(low, dtype=torch.int64)
    for _ in range(2000):
        codes = ((rows - low[:, None]) / step[:, None] + 0.5).floor().clamp(0, levels - 1)
        error = (rows - (codes * step[:, None] + low[:, None])).square().sum(1)
        still = torch.where(error == last, still + 1, 0)
        done, last = still >= 16, error
        if bool(done.all()):
            break
        sn, sn2, sxn = codes.sum(1), codes.square().sum(1), (codes * rows).sum(1)
        det = sn * sn - sn2 * n
        low = torch.where(done, low, (sn * sxn - sn2 * total) / det)
        step = torch.where(done, step, (sn * total - n * sxn) / det)
    return low, low + step * (levels - 1)


def _low_extent(trained: Tensor, d: int, uniform: bool) -> tuple[Tensor, Tensor]:
    parts = 1 if uniform else d
    check(trained.shape[0] == 2 * parts, "the scalar quantiser is not trained")
    return trained[:parts], trained[parts:]


def encode(x: Tensor, qtype: int, trained: Tensor) -> Tensor:
    """Codes (n, code_size) of vectors."""
    return in_blocks(lambda part: _encode(part, qtype, trained), x, width=x.shape[1])


def _encode(x: Tensor, qtype: int, trained: Tensor) -> Tensor:
    kind, d = kind_of(qtype), x.shape[1]
    if qtype == QT_0BIT:
        return x.new_empty(x.shape[0], 0, dtype=torch.uint8)
    if kind.ranged:
        low, extent = _low_extent(trained, d, kind.uniform)
        steps = steps_of(x, low, extent, kind.levels)
        return steps if kind.bits == 8 else pack(steps, kind.bits)
    if kind.turbo:
        return turbo.Turbo.of(trained, d, kind.bits).encode(x)
    if kind.levels:
        check(trained.shape[0] == 2 * kind.levels - 1, "the scalar quantiser is not trained")
        # A number on a boundary goes up, but down where FAISS makes eight codes of one bit at once.
        return pack(torch.bucketize(x, trained[kind.levels :], right=kind.bits > 1 or d % 8 > 0), kind.bits)
    if qtype == QT_FP16:
        # FAISS rounds a tie up in magnitude, torch to even: one bit more decides it.
        bits = x.contiguous().view(torch.int32)
        tie = (bits & 0x1FFF) == 0x1000
        return torch.where(tie, bits + 1, bits).view(torch.float32).to(torch.float16).view(torch.uint8).view(x.shape[0], 2 * d)
    if qtype == QT_BF16:
        # Halves go up in magnitude, not to even as torch rounds.
        high = (x.contiguous().view(torch.int32) + 0x8000) >> 16
        return high.to(torch.int16).view(torch.uint8).view(x.shape[0], 2 * d)
    return ((x + 128 if qtype == QT_8BIT_DIRECT_SIGNED else x).to(torch.int32) & 255).to(torch.uint8)


def values_of(qtype: int, trained: Tensor) -> Tensor:
    """The values that codes of a codebook name."""
    kind = kind_of(qtype)
    check(trained.shape[0] == 2 * kind.levels - 1, "the scalar quantiser is not trained")
    return trained[: kind.levels]


def decode(codes: Tensor, qtype: int, trained: Tensor, d: int) -> Tensor:
    """The vectors that codes stand for."""
    return in_blocks(lambda part: _decode(part, qtype, trained, d), codes, width=d)


def _decode(codes: Tensor, qtype: int, trained: Tensor, d: int) -> Tensor:
    kind = kind_of(qtype)
    if qtype == QT_0BIT:
        return torch.zeros(codes.shape[0], d, device=codes.device)
    if kind.ranged:
        low, extent = _low_extent(trained, d, kind.uniform)
        return middles_of(unpack(codes, d, kind.bits), low, extent, kind.levels)
    if kind.turbo:
        return turbo.Turbo.of(trained, d, kind.bits).decode(codes)
    if kind.levels:
        return values_of(qtype, trained)[unpack(codes, d, kind.bits).long()]
    if qtype == QT_FP16:
        return codes.contiguous().view(torch.float16).float().view(-1, d)
    if qtype == QT_BF16:
        return codes.contiguous().view(torch.bfloat16).float().view(-1, d)
    if qtype in (QT_8BIT_DIRECT, QT_8BIT_DIRECT_SIGNED):
        return codes.float() - (128 if qtype == QT_8BIT_DIRECT_SIGNED else 0)
    raise FaissError(f"scalar quantiser type {qtype} cannot be decoded")
