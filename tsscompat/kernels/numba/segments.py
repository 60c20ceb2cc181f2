"""Sums of the rows that belong together: each thread owns some segments and adds in the order of the rows, as FAISS does."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks

_NONE = np.empty(0, dtype=np.float32)


@jit
def _add(x, owner, weights, sums, held, start, stop):
    weighted = weights.shape[0] > 0
    for i in range(x.shape[0]):
        c = owner[i]
        if c < start or c >= stop:
            continue
        row, total = x[i], sums[c]
        if weighted:
            w = weights[i]
            held[c] += w
            for j in range(row.shape[0]):
                total[j] += row[j] * w
        else:
            held[c] += np.float32(1)
            for j in range(row.shape[0]):
                total[j] += row[j]


def segment_sums(x: Tensor, owner: Tensor, weights: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    sums, held = np.zeros((k, x.shape[1]), dtype=np.float32), np.zeros(k, dtype=np.float32)
    rows, names = x.contiguous().numpy(), owner.contiguous().numpy()
    scale = _NONE if weights is None else weights.contiguous().numpy()
    run_blocks(lambda a, b: _add(rows, names, scale, sums, held, a, b), k, max(1, k // 2))
    return torch.from_numpy(sums), torch.from_numpy(held)
