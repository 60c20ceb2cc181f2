"""Hashes of byte strings in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit


@jit
def _hash(rows: Any, out: Any) -> None:
    for i in range(rows.shape[0]):
        state = np.int64(rows[i, 0]) << 7 if rows.shape[1] else np.int64(0)
        for j in range(rows.shape[1]):
            state = (state * np.int64(1000003)) ^ np.int64(rows[i, j])
        out[i] = state ^ rows.shape[1]


def byte_hashes(rows: Tensor) -> Tensor:
    """The hash of each row of bytes."""
    out = torch.empty(rows.shape[0], dtype=torch.int64)
    _hash(rows.contiguous().numpy(), out.numpy())
    return out
