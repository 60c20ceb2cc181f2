"""Building of a spreading-out graph (NSG): every node's edges, chosen from what a walk of a nearest-neighbour graph meets.

A graph is a table (n, width) of node numbers; a row ends at its first negative number. Costs are distances, or negated similarities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.graph import _costs


def _row(table: Tensor, node: int) -> list[int]:
    row: list[int] = table[node].tolist()
    return next((row[:i] for i, other in enumerate(row) if other < 0), row)


def _measured(rows: Tensor, node: int, others: list[int], metric: int, arg: float) -> list[tuple[float, int]]:
    costs = _costs(rows[node][None], rows, torch.tensor([others], dtype=torch.int64), metric, arg)[0].tolist()
    return list(zip(costs, others))


def _apart(rows: Tensor, found: list[tuple[float, int]], width: int, metric: int, arg: float) -> list[tuple[float, int]]:
    """Up to `width` of the candidates (nearest first) that are not nearer to one chosen before than to the node."""
    kept = found[:1]
    for cost, node in found[1:]:
        if len(kept) >= width:
            break
        names = [other for _, other in kept]
        if node not in names and all(c >= cost for c, _ in _measured(rows, node, names, metric, arg)):
            kept.append((cost, node))
    return kept


@accelerated
def link(
    rows: Tensor, near: Tensor, starts: Tensor, pool: int, candidates: int, width: int, metric: int, arg: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Each node's edges (n, width) int32, nearest first, and their costs.

    A walk of `near` (n, k) int32 from `starts` with a pool of so many, and the node's own row of it, give the candidates.
    """
    n = rows.shape[0]
    edges = torch.full((n, width), -1, dtype=torch.int32)
    costs = torch.full((n, width), torch.inf)
    for node in range(n):
        begin = starts.tolist()
        met = {other: cost for cost, other in _measured(rows, node, begin, metric, arg)}
        best, done = sorted((cost, other) for other, cost in met.items())[:pool], set()
        while True:
            here = next((other for _, other in best if other not in done), None)
            if here is None:
                break
            done.add(here)
            new = [other for other in _row(near, here) if other not in met]
            for cost, other in _measured(rows, node, list(dict.fromkeys(new)), metric, arg):
                met[other] = cost
                best = sorted([*best, (cost, other)])[:pool]
        own = [other for other in near[node].tolist() if other >= 0 and other not in met]
        for cost, other in _measured(rows, node, list(dict.fromkeys(own)), metric, arg):
            met[other] = cost
        found = sorted((cost, other) for other, cost in met.items())[:candidates]
        kept = _apart(rows, found[1:] if found and found[0][1] == node else found, width, metric, arg)
        edges[node, : len(kept)] = torch.tensor([other for _, other in kept], dtype=torch.int32)
        costs[node, : len(kept)] = torch.tensor([cost for cost, _ in kept])
    return edges, costs


@accelerated
def link_back(rows: Tensor, edges: Tensor, costs: Tensor, metric: int, arg: float = 0.0) -> None:
    """Add to each edge the one that leads back, in place; of a list that is full as many are chosen anew as stay apart.

    As in FAISS, the places of a list beyond those chosen keep what they held.
    """
    width = edges.shape[1]
    for node in range(rows.shape[0]):
        for place in range(width):
            other, cost = int(edges[node, place]), float(costs[node, place])
            if other < 0:
                break
            held = _row(edges, other)
            if node in held:
                continue
            if len(held) < width:
                edges[other, len(held)], costs[other, len(held)] = node, cost
                continue
            found = sorted([*zip(costs[other].tolist(), held), (cost, node)])
            kept = _apart(rows, found, width, metric, arg)
            edges[other, : len(kept)] = torch.tensor([name for _, name in kept], dtype=torch.int32)
            costs[other, : len(kept)] = torch.tensor([c for c, _ in kept])


@accelerated
def reach(edges: Tensor, root: int, met: Tensor) -> int:
    """Mark in `met` (bool) every node that edges lead to from `root` past marked nodes only; gives how many are new."""
    before = int(met.sum())
    met[root] = True
    front = torch.tensor([root], device=edges.device)
    while front.shape[0]:
        table = edges[front]
        ended = (table < 0).int().cumsum(1) > 0
        others = table[~ended].long().unique()
        front = others[~met[others]]
        met[front] = True
    return int(met.sum()) - before
