"""Keeping the best k of each row, with heaps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.ivf_heap import finish, sift, start_heap
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks


@jit
def _rows(values, ids, k, largest, costs, labels, start, stop):
    shared = ids.shape[0] == 1
    for r in range(start, stop):
        heap, names, row = costs[r], labels[r], values[r]
        source = ids[0] if shared else ids[r]
        start_heap(heap, names, largest)
        for j in range(row.shape[0]):
            cost = -row[j] if largest else row[j]
            if cost < heap[0] and source[j] >= 0:
                sift(heap, names, k, cost, ~source[j] if largest else source[j])
        finish(heap, names, largest)


def select(values: Tensor, ids: Tensor | None, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    if values.dtype != torch.float32:
        return NotImplemented
    n, m = values.shape
    labels = torch.arange(m) if ids is None else ids
    # A row for each row of values, or one for all of them; counted, because with no columns -1 cannot be inferred.
    names = labels.reshape(1 if labels.ndim == 1 else labels.shape[0], m).contiguous().numpy()
    out_d, out_i = np.empty((n, k), dtype=np.float32), np.empty((n, k), dtype=np.int64)
    table = values.contiguous().numpy()
    run_blocks(lambda a, b: _rows(table, names, k, largest, out_d, out_i, a, b), n, max(1, (1 << 16) // max(1, m)))
    return torch.from_numpy(out_d), torch.from_numpy(out_i)
