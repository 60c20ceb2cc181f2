"""Smallest sums, compiled: a heap of candidates, each of which has one parent only, so that none is met twice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks


@inline
def _push(sums, names, n, value, name):  # type: ignore[no-untyped-def]
    i = n
    while i > 0:
        up = (i - 1) >> 1
        if not (value < sums[up] or (value == sums[up] and name < names[up])):
            break
        sums[i], names[i] = sums[up], names[up]
        i = up
    sums[i], names[i] = value, name


@inline
def _pop(sums, names, n):  # type: ignore[no-untyped-def]
    """Take the root away; n is the number of items before."""
    value, name = sums[n - 1], names[n - 1]
    n -= 1
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        right = child + 1
        if right < n and (sums[right] < sums[child] or (sums[right] == sums[child] and names[right] < names[child])):
            child = right
        if value < sums[child] or (value == sums[child] and name < names[child]):
            break
        sums[i], names[i] = sums[child], names[child]
        i = child
    if n:
        sums[i], names[i] = value, name


@jit
def _run(parts, k, sums, places, start, stop):  # type: ignore[no-untyped-def]
    m, w = parts.shape[1], parts.shape[2]
    heap, names = np.empty(k * m + 1, np.float32), np.empty(k * m + 1, np.int64)
    # A candidate's name holds its place in each part, the first part's in the low bits.
    width = 1
    while (1 << width) < w:
        width += 1
    mask = np.int64((1 << width) - 1)
    for q in range(start, stop):
        table = parts[q]
        size = 1
        names[0] = 0
        total = np.float32(0)
        for p in range(m):
            total += table[p, 0]
        heap[0] = total
        for i in range(k):
            value, name = heap[0], names[0]
            _pop(heap, names, size)
            size -= 1
            sums[q, i] = value
            last = 0
            for p in range(m):
                place = (name >> (p * width)) & mask
                places[q, i, p] = place
                if place:
                    last = p
            for p in range(last, m):
                if places[q, i, p] + 1 >= w:
                    continue
                total = np.float32(0)
                for o in range(m):
                    total += table[o, places[q, i, o] + (1 if o == p else 0)]
                _push(heap, names, size, total, name + (np.int64(1) << (p * width)))
                size += 1


def least_sums(parts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n, m, w = parts.shape
    if m * max(1, (w - 1).bit_length()) > 62:
        return NotImplemented
    table = parts.contiguous().numpy()
    sums, places = np.empty((n, k), np.float32), np.empty((n, k, m), np.int64)
    run_blocks(lambda a, b: _run(table, k, sums, places, a, b), n, max(1, (1 << 12) // (k * m)))
    return torch.from_numpy(sums), torch.from_numpy(places)
