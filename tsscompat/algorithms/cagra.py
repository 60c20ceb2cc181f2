"""CAGRA's graph: of each node's nearest, the edges with fewest detours, with edges that lead back among them."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.blocks import block_rows
from tsscompat.algorithms.spanning import spanning_edges
from tsscompat.kernels import hamming
from tsscompat.kernels.detours import detours
from tsscompat.kernels.flat import knn
from tsscompat.kernels.ivf_lists import ranks
from tsscompat.kernels.metrics import HAMMING


def neighbours(x: Tensor, degree: int, metric: int) -> Tensor:
    """The `degree` rows nearest to each row, itself left out, nearest first; -1 where there are no more: (n, degree).

    Rows are vectors, or with HAMMING the bytes of codes.
    """
    parts = []
    step = block_rows(x, 16 * (degree + 1))
    for i in range(0, x.shape[0], step):
        some = x[i : i + step]
        found = (hamming.knn(some, x, degree + 1) if metric == HAMMING else knn(some, x, degree + 1, metric))[1]
        own = torch.arange(i, i + found.shape[0], device=x.device)[:, None]
        parts.append(without(found, found == own)[:, :degree])
    return torch.cat(parts) if parts else torch.empty(0, degree, dtype=torch.int64, device=x.device)


def without(names: Tensor, drop: Tensor) -> Tensor:
    """Each row with what is dropped, and -1, moved to its end as -1; the rest in its order."""
    gone = drop | (names < 0)
    order = gone.to(torch.uint8).sort(dim=1, stable=True).indices
    return names.masked_fill(gone, -1).gather(1, order)


def without_repeats(names: Tensor) -> Tensor:
    """Each row with names that came before moved to its end as -1."""
    ordered, at = names.sort(dim=1, stable=True)
    repeated = torch.zeros_like(names, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return without(names, torch.zeros_like(repeated).scatter(1, at, repeated))


def pruned(graph: Tensor, degree: int, connected: bool = False) -> Tensor:
    """A graph of fewer edges: half of them those with fewest detours, then such as lead back, then more of the first kind.

    If it is to be connected, a tree of all nodes, in both directions, comes first; half of a node's edges at the most are the tree's.
    """
    n, wide = graph.shape
    parts = []
    step = block_rows(graph, 8 * wide)
    for i in range(0, n, step):
        some = slice(i, min(n, i + step))
        order = detours(graph, i, some.stop).masked_fill_(graph[some] < 0, wide * wide).sort(dim=1, stable=True).indices
        parts.append(graph[some].gather(1, order)[:, :degree])
    kept = torch.cat(parts) if parts else graph[:, :degree]
    half = (degree + 1) // 2
    parts = [kept[:, :half], led_back(kept), kept[:, half:]]
    if connected:
        parts = [spanning_edges(graph, max(2, degree // 2)), *parts]
    return without_repeats(torch.cat(parts, 1))[:, :degree]


def led_back(graph: Tensor) -> Tensor:
    """For each node the nodes with an edge to it, those first in whose lists it stands first: (n, degree), -1 beyond."""
    n, degree = graph.shape
    target = graph.t().reshape(-1)  # first all first edges, then all second ones
    source = torch.arange(n, device=graph.device).repeat(degree)
    there = target >= 0
    target, source = target[there], source[there]
    rank = ranks(target, n)[0]
    out = torch.full((n, degree), -1, dtype=graph.dtype, device=graph.device)
    fits = rank < degree
    out[target[fits], rank[fits]] = source[fits]
    return out


def build(x: Tensor, wide: int, degree: int, metric: int, connected: bool = False) -> Tensor:
    """The graph of the rows of x: (n, degree), -1 where there are fewer; if `connected`, from each node a way leads to any other."""
    wide = max(1, min(wide, x.shape[0] - 1))
    graph = pruned(neighbours(x, wide, metric), min(degree, wide), connected)
    short = degree - graph.shape[1]
    return graph if short <= 0 else torch.cat([graph, graph.new_full((graph.shape[0], short), -1)], 1)
