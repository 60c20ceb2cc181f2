"""Distances between binary codes, compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks

_BITS = np.array([i.bit_count() for i in range(256)], dtype=np.int32)
_BYTES = (np.arange(256) > 0).astype(np.int32)


@jit
def _fill(x, y, ones, out, start, stop):
    for q in range(start, stop):
        a = x[q]
        for r in range(y.shape[0]):
            b, total = y[r], np.int32(0)
            for i in range(a.shape[0]):
                total += ones[a[i] ^ b[i]]
            out[q, r] = total


def hamming(x: Tensor, y: Tensor, whole_bytes: bool = False) -> Tensor:
    a, b = x.contiguous().numpy(), y.contiguous().numpy()
    out = np.empty((a.shape[0], b.shape[0]), dtype=np.int32)
    ones = _BYTES if whole_bytes else _BITS
    run_blocks(lambda s, e: _fill(a, b, ones, out, s, e), a.shape[0], max(1, (1 << 18) // max(1, b.size)))
    return torch.from_numpy(out)
