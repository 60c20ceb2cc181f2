"""Which edges of a graph are detours away from being needed."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated

# Paths of two edges that are looked at at once.
_BLOCK = 1 << 22


@accelerated
def detours(graph: Tensor, first: int, last: int) -> Tensor:
    """For each edge of nodes first to last of a graph (n, degree) the paths of two edges to its end by way of nearer neighbours.

    As CAGRA counts: both edges stand in their lists before the place of the edge in its own. Unused places, at a list's end, are -1.
    """
    degree, parts = graph.shape[1], [graph.new_empty(0, graph.shape[1])]
    every = torch.arange(degree, device=graph.device)
    later = torch.maximum(every[:, None], every[None, :]).view(1, -1)
    step = max(1, _BLOCK // (degree * degree))
    for i in range(first, last, step):
        near = graph[i : min(i + step, last)]
        b = near.shape[0]
        second = torch.where((near >= 0)[:, :, None], graph[near.clamp(min=0)], -1).view(b, -1)  # (b, degree * degree)
        ordered, place = near.sort(dim=1)
        at = torch.searchsorted(ordered, second).clamp(max=degree - 1)
        target = place.gather(1, at)  # where the path's end stands in the node's own list
        counted = (ordered.gather(1, at) == second) & (second >= 0) & (later < target)
        parts.append(torch.zeros(b, degree, dtype=torch.int64, device=graph.device).scatter_add_(1, target, counted.long()))
    return torch.cat(parts)
