"""Compiled twin of kernels/named.py: distances go straight into heaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba.door import array_of, like
from tsscompat.kernels.numba.ivf_heap import finish, sift, start_heap
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.metrics import dot, squared_l2
from tsscompat.kernels.threads import run_blocks

# Numbers worth a thread of their own.
_GRAIN = 1 << 17


@jit
def _best(x, y, labels, ip, costs, names, start, stop):  # type: ignore[no-untyped-def]
    k = costs.shape[1]
    for q in range(start, stop):
        heap, held, row = costs[q], names[q], x[q]
        start_heap(heap, held, ip)
        for j in range(labels.shape[1]):
            r = labels[q, j]
            if 0 <= r < y.shape[0]:
                cost = -dot(row, y[r]) if ip else squared_l2(row, y[r])
                if cost < heap[0]:
                    sift(heap, held, k, cost, ~r if ip else r)
        finish(heap, held, ip)


def best_named(x: Any, y: Tensor, labels: Any, k: int, metric: int) -> Any:
    if metric not in (INNER_PRODUCT, L2):
        return NotImplemented
    n, m = labels.shape
    costs, names = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    given = array_of(x), y.contiguous().numpy(), array_of(labels), metric == INNER_PRODUCT, costs, names
    if n * m * x.shape[1] <= _GRAIN:
        _best(*given, 0, n)
    else:
        run_blocks(lambda a, b: _best(*given, a, b), n, max(1, _GRAIN // max(1, m * x.shape[1])))
    return like(x, costs, names)
