"""Compiled twins of kernels/scalar.py: each number is read once, and a single vector takes one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import exact
from tsscompat.kernels.threads import run_blocks

F, D = np.float32, np.float64
# Numbers worth a thread of their own.
_GRAIN = 1 << 16


@exact
def steps_in(x, low, extent, levels, out, first, last):  # type: ignore[no-untyped-def]
    d, own = x.shape[1], low.shape[0] > 1
    for i in range(first, last):
        for j in range(d):
            p = j if own else 0
            width = extent[p]
            # What is not over 0, NaN among it, is at the bottom.
            share = (x[i, j] - low[p]) / (width if width != F(0) else F(np.inf))
            share = F(0) if not share > F(0) else (F(1) if share > F(1) else share)
            out[i, j] = np.uint8(np.int32(share * F(255))) if levels == 255 else np.uint8(np.int32(D(share) * D(levels)))


@exact
def middles_in(steps, low, extent, levels, out, first, last):  # type: ignore[no-untyped-def]
    d, own = steps.shape[1], low.shape[0] > 1
    for i in range(first, last):
        for j in range(d):
            p = j if own else 0
            out[i, j] = (F(steps[i, j]) + F(0.5)) / F(levels) * extent[p] + low[p]


def _by_rows(scan: Any, given: tuple[Any, ...], out: Any) -> Tensor:
    n, d = out.shape
    if n * d <= _GRAIN:
        scan(*given, out, 0, n)
    else:
        run_blocks(lambda a, b: scan(*given, out, a, b), n, max(1, _GRAIN // d))
    return torch.from_numpy(out)


def steps_of(x: Tensor, low: Tensor, extent: Tensor, levels: int) -> Any:
    if x.dtype != torch.float32:
        return NotImplemented
    given = x.contiguous().numpy(), low.contiguous().numpy(), extent.contiguous().numpy(), levels
    return _by_rows(steps_in, given, np.empty(x.shape, np.uint8))


def middles_of(steps: Tensor, low: Tensor, extent: Tensor, levels: int) -> Any:
    if steps.dtype != torch.uint8:  # fewer bits come unpacked to 32
        return NotImplemented
    given = steps.contiguous().numpy(), low.contiguous().numpy(), extent.contiguous().numpy(), levels
    return _by_rows(middles_in, given, np.empty(steps.shape, np.float32))
