"""Sums of the rows that belong together: rows are sorted by owner, and one program adds up a segment's, so that sums do not vary."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two


@triton.jit
def _sum_rows(x, order, starts, weights, sums, held, d, WEIGHTED: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    segment = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BD + tl.arange(0, BD)
    begin = tl.load(starts + segment)
    end = tl.load(starts + segment + 1)
    total = tl.zeros([BN, BD], tl.float32)
    share = tl.zeros([BN], tl.float32)
    for start in range(begin, end, BN):
        place = start + tl.arange(0, BN)
        inside = place < end
        rows = tl.load(order + place, mask=inside, other=0)
        value = tl.load(x + rows[:, None] * d + at[None, :], mask=inside[:, None] & (at < d)[None, :], other=0.0)
        if WEIGHTED:
            weight = tl.load(weights + rows, mask=inside, other=0.0)
            value = value * weight[:, None]
            share += weight
        else:
            share += inside.to(tl.float32)
        total += value
    tl.store(sums + segment * d + at, tl.sum(total, 0), mask=at < d)
    if tl.program_id(1) == 0:
        tl.store(held + segment, tl.sum(share, 0))


def segment_sums(x: Tensor, owner: Tensor, weights: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The twin of kernels.segments.segment_sums."""
    if x.dtype != torch.float32 or not x.shape[1]:
        return NotImplemented
    sums, held = torch.empty(k, x.shape[1], device=x.device), torch.empty(k, device=x.device)
    # Sorting takes a pass for each eight bits.
    by_owner, order = owner.to(torch.int16 if k < 1 << 15 else torch.int32).sort(stable=True)
    starts = torch.searchsorted(by_owner, torch.arange(k + 1, dtype=by_owner.dtype, device=x.device))
    bd = power_of_two(x.shape[1], 4, 64)
    with on(x):
        _sum_rows[(k, blocks_of(x.shape[1], bd))](
            x.contiguous(),
            order,
            starts,
            x if weights is None else weights,
            sums,
            held,
            x.shape[1],
            WEIGHTED=weights is not None,
            BN=power_of_two(x.shape[0] // max(1, k), 8, 64),
            BD=bd,
        )
    return sums, held
