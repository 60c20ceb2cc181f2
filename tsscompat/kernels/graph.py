"""Walks on a layered proximity graph (HNSW), and its construction.

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


def _lists(graph: Graph, nodes: Tensor, level: int) -> Tensor:
    """The neighbours of nodes (n,) on a level: (n, width)."""
    span = torch.arange(int(graph.ends[level]), int(graph.ends[level + 1]), device=nodes.device)
    return graph.neighbors[graph.offsets[nodes][:, None] + span].long()


def descend(x: Tensor, rows: Tensor, graph: Graph, metric: int, arg: float) -> tuple[Tensor, Tensor]:
    """The node on the bottom level where each query's walk begins, and its cost: greedy steps from the top."""
    nodes = torch.full((x.shape[0],), graph.entry, dtype=torch.int64, device=x.device)
    best = _costs(x, rows, nodes[:, None], metric, arg)[:, 0]
    for level in range(graph.top, 0, -1):
        moving = torch.ones_like(nodes, dtype=torch.bool)
        while bool(moving.any()):
            near = _lists(graph, nodes, level)
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
        near = _lists(graph, nodes[every, first].clamp(min=0), 0)
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


def list_sizes(ends: Tensor, headroom: float) -> Tensor:
    """How many neighbours a full list of each level keeps when it is chosen anew; in FAISS's float arithmetic."""
    widths = ends.diff().float()
    return (widths - widths * min(max(headroom, 0.0), 0.5)).long()


@accelerated
def build(
    rows: Tensor,
    graph: Graph,
    order: Tensor,
    groups: Tensor,
    ef: int,
    metric: int,
    metric_arg: float = 0.0,
    keep_full: bool = False,
    headroom: float = 0.0,
    asked: Tensor | None = None,
) -> tuple[int, int]:
    """Link the nodes in `order` into the graph's lists, in place; gives the entry point and the top level afterwards.

    `groups` (as offsets into `order`) are nodes of one level, highest first; a twin may link those of a group side by side. A full list
    is chosen anew and leaves that share of its places free; with `keep_full` those of the bottom level are filled up instead. Where rows
    are rounded, `asked` are the vectors that the last of them were made of: nodes look for their neighbours by these.
    """
    entry, top = graph.entry, graph.top
    for node in order.tolist():
        level = int(graph.levels[node]) - 1
        if entry < 0:
            entry, top = node, level
            continue
        here = Graph(graph.levels, graph.offsets, graph.neighbors, graph.ends, entry, top)
        x = rows[node] if asked is None else asked[node - rows.shape[0]]
        _link(x[None], rows, here, node, level, ef, metric, metric_arg, keep_full, headroom)
        if level > top:
            entry, top = node, level
    return entry, top


def _link(
    x: Tensor,
    rows: Tensor,
    graph: Graph,
    node: int,
    level: int,
    ef: int,
    metric: int,
    arg: float,
    keep_full: bool,
    headroom: float = 0.0,
) -> None:
    current, sizes = graph.entry, list_sizes(graph.ends, headroom).tolist()
    cost = float(_costs(x, rows, torch.tensor([[current]]), metric, arg)[0, 0])
    for upper in range(graph.top, level, -1):
        while True:
            near = _lists(graph, torch.tensor([current]), upper)
            values, at = _costs(x, rows, near, metric, arg)[0].min(0)
            if not float(values) < cost:
                break
            current, cost = int(near[0, at]), float(values)
    for at_level in range(min(level, graph.top), -1, -1):
        found = _candidates(x, rows, graph, current, cost, at_level, ef, metric, arg)
        width = int(graph.ends[at_level + 1] - graph.ends[at_level])
        fill = keep_full and at_level == 0
        size = width if fill else sizes[at_level]
        chosen = shrink(found, rows, width, metric, arg, fill)
        for _, other in reversed(chosen):
            _add_edge(rows, graph, node, other, at_level, size, metric, arg, fill)
        for _, other in reversed(chosen):
            _add_edge(rows, graph, other, node, at_level, size, metric, arg, fill)


def _candidates(
    x: Tensor, rows: Tensor, graph: Graph, start: int, cost: float, level: int, ef: int, metric: int, arg: float
) -> list[tuple[float, int]]:
    """The ef nodes that a walk of a level finds nearest, nearest first."""
    found, waiting, seen = [(cost, start)], [(cost, start)], {start}
    while waiting:
        best = min(waiting)
        waiting.remove(best)
        if best[0] > found[-1][0]:
            break
        near = [n for n in _lists(graph, torch.tensor([best[1]]), level)[0].tolist() if n >= 0 and n not in seen]
        seen.update(near)
        values = _costs(x, rows, torch.tensor([near], dtype=torch.int64), metric, arg)[0].tolist() if near else []
        for pair in zip(values, near):
            if len(found) < ef or pair[0] < found[-1][0]:
                waiting.append(pair)
                found = sorted([*found, pair])[:ef]
    return found


def shrink(
    found: list[tuple[float, int]], rows: Tensor, width: int, metric: int, arg: float, keep_full: bool
) -> list[tuple[float, int]]:
    """The candidates (nearest first) that are nearer to the node than to any kept before them; all, if they fit without choosing."""
    if len(found) < width:
        return found
    kept: list[tuple[float, int]] = []
    passed: list[tuple[float, int]] = []
    for cost, node in found:
        others = torch.tensor([[other for _, other in kept]], dtype=torch.int64)
        if kept and bool((_costs(rows[node][None], rows, others, metric, arg) < cost).any()):
            passed.append((cost, node))
            continue
        kept.append((cost, node))
        if len(kept) >= width:
            return kept
    return sorted(kept + passed[: width - len(kept)]) if keep_full else kept


def _add_edge(
    rows: Tensor, graph: Graph, source: int, target: int, level: int, size: int, metric: int, arg: float, fill: bool
) -> None:
    begin = int(graph.offsets[source] + graph.ends[level])
    end = int(graph.offsets[source] + graph.ends[level + 1])
    places = graph.neighbors[begin:end]
    free = (places < 0).nonzero()[:, 0]
    if free.shape[0]:
        places[free[0]] = target
        return
    names = torch.cat([torch.tensor([target]), places.long()])
    costs = _costs(rows[source][None], rows, names[None], metric, arg)[0].tolist()
    kept = shrink(sorted(zip(costs, names.tolist())), rows, size, metric, arg, fill)
    places.fill_(-1)
    places[: len(kept)] = torch.tensor([node for _, node in kept], dtype=torch.int32)
