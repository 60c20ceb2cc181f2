"""Detours counted with a table of places for the nodes that a list names."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks


@jit
def _detours(graph, first, start, stop, places, out):
    degree = graph.shape[1]
    for node in range(start, stop):
        row = graph[first + node]
        for t in range(degree):
            out[node, t] = 0
            if row[t] >= 0:
                places[row[t]] = t
        for i in range(degree):
            by = row[i]
            if by < 0:
                continue
            for j in range(degree):
                end = graph[by, j]
                if end >= 0 and places[end] > max(i, j):
                    out[node, places[end]] += 1
        for t in range(degree):
            if row[t] >= 0:
                places[row[t]] = -1


def detours(graph: Tensor, first: int, last: int) -> Tensor:
    """The twin of kernels.detours.detours."""
    if graph.dtype != torch.int64:
        return NotImplemented
    edges = graph.contiguous().numpy()
    out = torch.empty(last - first, graph.shape[1], dtype=torch.int64)
    counts = out.numpy()

    def block(start: int, stop: int) -> None:
        _detours(edges, first, start, stop, np.full(edges.shape[0], -1, dtype=np.int32), counts)

    run_blocks(block, last - first, 1024)
    return out
