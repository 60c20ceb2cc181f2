"""Walks on a graph whose nodes are compared some dimensions after others: what cannot be a result nor a candidate is left alone."""

from __future__ import annotations

from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.graph import Graph, Walk, search
from tsscompat.kernels.metrics import L2


@accelerated
def search_levels(
    x: Tensor,
    rows: Tensor,
    norms: Tensor,
    width: int,
    graph: Graph,
    walk: Walk,
    k: int,
    allowed: Tensor | None = None,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[int, int], tuple[int, int]]:
    """graph.search for squared L2 by levels of `width` dimensions; also how many dimensions of how many were looked at.

    `norms` (rows, levels + 1) are the lengths of what is left of each row from a level on. The definition looks at everything.
    """
    distances, labels, counted = search(x, rows, graph, walk, k, L2, 0.0, allowed, starts)
    n_costs, n_steps = int(counted[0]), int(counted[1])
    return distances, labels, (n_costs, n_steps), (n_costs * x.shape[1], n_costs * x.shape[1])
