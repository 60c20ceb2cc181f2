"""Walks on a layered proximity graph (HNSW).

A graph is arrays in FAISS's layout: node i has its neighbour lists of all levels at neighbors[offsets[i]:], level l's part from ends[l]
to ends[l + 1], unused places -1. Costs are distances, or negated similarities.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.metrics import FORMULAS, HAMMING, is_similarity
from tsscompat.kernels.select import WORST, select
from tsscompat.records import record

# Visited flags of a block of queries take up to this many bytes.
_BLOCK = 1 << 27


@record
class Graph:
    """The arrays of a graph; `levels` counts from 1, `top` and `entry` are where a walk begins."""

    levels: Tensor  # (n,) int32
    offsets: Tensor  # (n + 1,) int64
    neighbors: Tensor  # (edges,) int32
    ends: Tensor  # (levels + 1,) int32
    entry: int
    top: int
    # Whatever a twin keeps with these very tensors, so that it need not be made again for each search.
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@record
class Walk:
    """How to walk: `ef` candidates are kept; `stop` after so many better ones than the next, or (not `check`) after so many steps."""

    ef: int
    stop: int
    check: bool = True


def _differing(x: Tensor, y: Tensor, arg: float) -> Tensor:
    codes = (x.view(torch.uint8) ^ y.view(torch.uint8))[..., None]
    return (codes >> torch.arange(8, dtype=torch.uint8, device=codes.device) & 1).sum((-1, -2)).float()


_FORMULAS = {**FORMULAS, HAMMING: _differing}


def _costs(x: Tensor, rows: Tensor, nodes: Tensor, metric: int, arg: float) -> Tensor:
    """Costs of nodes (n, m) for each row of x; infinite for -1."""
    values = _FORMULAS[metric](x[:, None], rows[nodes.clamp(min=0).long()], arg)
    values = -values if is_similarity(metric) else values
    return torch.where((nodes >= 0) & ~values.isnan(), values, float("inf"))


def lists_of(graph: Graph, nodes: Tensor, level: int) -> Tensor:
    """The neighbours of nodes (n,) on a level: (n, width)."""
    span = torch.arange(int(graph.ends[level]), int(graph.ends[level + 1]), device=nodes.device)
    return graph.neighbors[graph.offsets[nodes][:, None] + span].long()


def descend(x: Tensor, rows: Tensor, graph: Graph, metric: int, arg: float, level: int = 0) -> tuple[Tensor, Tensor]:
    """The node on a level where each query's walk begins, and its cost: greedy steps from the top."""
    nodes = torch.full((x.shape[0],), graph.entry, dtype=torch.int64, device=x.device)
    best = _costs(x, rows, nodes[:, None], metric, arg)[:, 0]
    for upper in range(graph.top, level, -1):
        moving = torch.ones_like(nodes, dtype=torch.bool)
        while bool(moving.any()):
            near = lists_of(graph, nodes, upper)
            cost, at = _costs(x, rows, near, metric, arg).min(1)
            moving &= cost < best
            nodes = torch.where(moving, near.gather(1, at[:, None])[:, 0], nodes)
            best = torch.where(moving, cost, best)
    return nodes, best


@accelerated
def search(
    x: Tensor,
    rows: Tensor,
    graph: Graph,
    walk: Walk,
    k: int,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """The k best nodes that walks of the bottom level meet, by cost, then number; and how many distances and steps that took.

    `starts` (nq, m), or (1, m) for all: nodes to begin at, in place of a descent from the top. All queries take a step at a time.
    """
    x = torch.as_tensor(x)
    step = max(1, _BLOCK // max(1, rows.shape[0]))
    parts = []
    starts = None if starts is None else starts.expand(x.shape[0], -1)
    for i in range(0, x.shape[0], step):
        block = x[i : i + step]
        begin = descend(block, rows, graph, metric, metric_arg)[0][:, None] if starts is None else starts[i : i + step]
        parts.append(_search_block(block, rows, graph, walk, k, metric, metric_arg, allowed, begin.long()))
    distances, labels = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    return distances, labels, (sum(p[2] for p in parts), sum(p[3] for p in parts))


def _search_block(
    x: Tensor, rows: Tensor, graph: Graph, walk: Walk, k: int, metric: int, arg: float, allowed: Tensor | None, begin: Tensor
) -> tuple[Tensor, Tensor, int, int]:
    n, device, largest = x.shape[0], x.device, is_similarity(metric)
    every = torch.arange(n, device=device)
    seen = torch.zeros(n, rows.shape[0] + 1, dtype=torch.bool, device=device)  # the last column is for -1
    cost = _costs(x, rows, begin, metric, arg)
    pool = _pooled(cost, begin, torch.isinf(cost), walk.ef)
    seen[every[:, None], begin] = True
    # As FAISS: a start that the pool has no room for is no result either.
    found_c, found_i = _kept(pool[0], pool[1], allowed, k)
    n_costs = n_steps = 0
    active, steps = torch.ones(n, dtype=torch.bool, device=device), 0
    while True:
        costs, nodes, done = pool
        has = ~done.all(1)
        first = (~done).int().argmax(1)
        here = costs[every, first]
        active = active & has
        if walk.check:
            active = active & ((costs < here[:, None]).sum(1) < walk.stop)
        elif steps > walk.stop:
            break
        if not bool(active.any()):
            break
        done[every[active], first[active]] = True
        near = lists_of(graph, nodes[every, first].clamp(min=0), 0)
        near = torch.where(active[:, None], near, -1)
        near = torch.where(seen[every[:, None], near], -1, near)
        seen[every[:, None], near] = True
        seen[:, -1] = False
        cost = _costs(x, rows, near, metric, arg)
        n_costs, n_steps, steps = n_costs + int((near >= 0).sum()), n_steps + int(active.sum()), steps + 1
        pool = _pooled(torch.cat([costs, cost], 1), torch.cat([nodes, near], 1), torch.cat([done, near < 0], 1), walk.ef)
        more_c, more_i = _kept(cost, near, allowed, k)
        found_c, found_i = select(torch.cat([found_c, more_c], 1), torch.cat([found_i, more_i], 1), k, False)
    if largest:
        found_c = torch.where(found_i >= 0, -found_c, -WORST)
    return found_c, found_i, n_costs, n_steps


def _pooled(costs: Tensor, nodes: Tensor, done: Tensor, ef: int) -> tuple[Tensor, Tensor, Tensor]:
    order = torch.sort(costs, dim=1, stable=True).indices[:, :ef]
    return costs.gather(1, order), nodes.gather(1, order), done.gather(1, order)


def _kept(costs: Tensor, nodes: Tensor, allowed: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    ids = nodes if allowed is None else torch.where((nodes >= 0) & allowed[nodes.clamp(min=0)], nodes, -1)
    return select(torch.where(ids >= 0, costs, float("inf")), ids, k, False)
