"""Compiled twin of kernels/signs.py: numbers are read once, and nothing is written but the bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.door import array_of
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks

F = np.float32
# Numbers worth a thread of their own.
_GRAIN = 1 << 17


@jit
def _signs(x, out, first, last):  # type: ignore[no-untyped-def]
    m = x.shape[1]
    whole = m // 8
    for i in range(first, last):
        row = x[i]
        for b in range(whole):
            word = np.uint32(0)
            for j in range(8):
                word |= np.uint32(row[8 * b + j] >= F(0)) << np.uint32(j)
            out[i, b] = np.uint8(word)
        if 8 * whole < m:
            word = np.uint32(0)
            for j in range(m - 8 * whole):
                word |= np.uint32(row[8 * whole + j] >= F(0)) << np.uint32(j)
            out[i, whole] = np.uint8(word)


def signs(x: Any) -> Any:
    if x.dtype not in (torch.float32, F):
        return NotImplemented
    given, out = array_of(x), np.empty((x.shape[0], (x.shape[1] + 7) // 8), np.uint8)
    if not isinstance(x, Tensor):
        _signs(given, out, 0, out.shape[0])
        return out
    run_blocks(lambda a, b: _signs(given, out, a, b), out.shape[0], max(1, _GRAIN // max(1, x.shape[1])))
    return torch.from_numpy(out)
