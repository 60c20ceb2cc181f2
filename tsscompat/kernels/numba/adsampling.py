"""ADSampling's pruned assignment, compiled: rows are independent, centroids are tried in order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks


@jit
def _improve(x, y, partial, best, owner, bounds, front, block, start, stop):
    d, dropped = x.shape[1], 0
    for i in range(start, stop):
        top, mine, row = best[i], owner[i], x[i]
        for j in range(y.shape[0]):
            if partial[i, j] > bounds[front] * top:
                dropped += 1
                continue
            total, other, at, kept = np.float64(partial[i, j]), y[j], front, True
            while at < d:
                end = min(at + block, d)
                part = np.float32(0)
                for m in range(at, end):
                    gap = row[m] - other[m]
                    part += gap * gap
                total += part
                at = end
                if total > np.float64(bounds[end]) * top:
                    kept = False
                    break
            if kept and total < top:
                top, mine = np.float32(total), j
        best[i], owner[i] = top, mine
    return dropped


def improve(
    x: Tensor, y: Tensor, partial: Tensor, best: Tensor, owner: Tensor, bounds: Tensor, front: int, block: int
) -> tuple[Tensor, Tensor, int]:
    top, mine = best.numpy().copy(), owner.numpy().astype(np.int64)
    points, others, table, limits = x.contiguous().numpy(), y.contiguous().numpy(), partial.contiguous().numpy(), bounds.numpy()
    dropped: list[int] = []
    run_blocks(
        lambda a, b: dropped.append(_improve(points, others, table, top, mine, limits, front, block, a, b)), x.shape[0], 64
    )
    return torch.from_numpy(top), torch.from_numpy(mine).to(owner.dtype), sum(dropped)
