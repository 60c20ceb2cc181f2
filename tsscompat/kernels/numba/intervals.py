"""Sorted numbers cut into intervals, compiled: divide and conquer over the ends with a stack of spans."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import inline, jit


@inline
def _cost(total, squares, start, stop):
    part = total[stop] - total[start]
    return max(squares[stop] - squares[start] - part * part / max(stop - start, 1), 0.0)


@jit
def _cuts(total, squares, places):
    n = total.shape[0] - 1
    best, new = np.empty(n + 1), np.empty(n + 1)
    # The depth of the tree is at most 64, and each span leaves one behind.
    stack = np.empty((128, 4), dtype=np.int64)
    for stop in range(n + 1):
        best[stop] = _cost(total, squares, 0, stop)
    places[0] = 0
    for j in range(1, places.shape[0]):
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, n, 0, n
        depth = 1
        while depth > 0:
            depth -= 1
            low, high, first, last = stack[depth]
            middle = (low + high) // 2
            least, at = np.inf, first
            for start in range(first, min(last, middle) + 1):
                value = best[start] + _cost(total, squares, start, middle)
                if value < least:
                    least, at = value, start
            new[middle], places[j, middle] = least, at
            if low < middle:
                stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = low, middle - 1, first, at
                depth += 1
            if middle < high:
                stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = middle + 1, high, at, last
                depth += 1
        best[:] = new


def cuts(total: Tensor, squares: Tensor, k: int) -> Tensor:
    places = np.empty((k, total.shape[0]), dtype=np.int64)
    _cuts(total.contiguous().numpy(), squares.contiguous().numpy(), places)
    return torch.from_numpy(places)
