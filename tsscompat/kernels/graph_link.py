"""Linking nodes into a layered graph (HNSW), in batches, so that the graph is the same however many threads make it.

The nodes of a batch look for neighbours in the graph that the batches before them left, and none of them sees another; then every node
that was chosen gets its edges back together, in order of number. Batches double, up to a fiftieth of all nodes. This is how FAISS links
from 1.15.1 on (after ParlayANN, Manohar et al. 2024), so that its graphs and these are the same ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.graph import _BLOCK, Graph, Walk, _costs, descend, lists_of, search

# The largest batch, as a share of all nodes.
_SHARE = 0.02


def list_sizes(ends: Tensor, headroom: float) -> Tensor:
    """How many neighbours a full list of each level keeps when it is chosen anew; in FAISS's float arithmetic."""
    widths = ends.diff().float()
    return (widths - widths * min(max(headroom, 0.0), 0.5)).long().clamp(min=1)


def largest_batch(n: int) -> int:
    """How many nodes of a graph of n may be linked at once."""
    return max(1, int(_SHARE * n))


def batches(begin: int, done: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """The batches of a group begin:end of which the nodes before `done` are linked: each as long as all before it, or `most`."""
    while done < end:
        after = min(end, done + min(max(1, done - begin), most))
        yield done, after
        done = after


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

    `groups` (as offsets into `order`) are nodes of one level, highest first. A full list is chosen anew and leaves the share `headroom`
    of its places free; with `keep_full` those of the bottom level are filled up with what was passed over. Where rows are rounded,
    `asked` are the vectors that the last of them were made of: nodes look for their neighbours by these.
    """
    entry, top = graph.entry, graph.top
    most = largest_batch(rows.shape[0])
    for begin, end in itertools.pairwise(groups.tolist()):
        if begin == end:
            continue
        first = int(order[begin])
        level, done = int(graph.levels[first]) - 1, begin
        if entry < 0:
            entry, top, done = first, level, begin + 1
        for start, stop in batches(begin, done, end, most):
            nodes = order[start:stop].to(rows.device)
            x = rows[nodes] if asked is None else asked[nodes - (rows.shape[0] - asked.shape[0])]
            now = Graph(graph.levels, graph.offsets, graph.neighbors, graph.ends, entry, top)
            link(x, rows, now, nodes, level, ef, metric, metric_arg, keep_full, headroom)
            if level > top:  # a walk may begin at the group's first node as soon as it is linked
                entry, top = first, level
    return entry, top


@accelerated
def link_one(
    rows: Any, levels: Any, offsets: Any, neighbors: Any, ends: Any, node: int, entry: int, top: int, ef: int, metric: int,
    metric_arg: float, keep_full: bool, headroom: float,
) -> tuple[int, int]:  # fmt: skip
    """`build` for the node behind all others; the graph's tables may be arrays, and longer than the graph."""
    rows, levels, offsets, neighbors, ends = (torch.as_tensor(t) for t in (rows, levels, offsets, neighbors, ends))
    graph = Graph(levels[: node + 1], offsets[: node + 2], neighbors, ends, entry, top)
    order, groups = torch.tensor([node]), torch.tensor([0, 1])
    return build.definition(rows[: node + 1], graph, order, groups, ef, metric, metric_arg, keep_full, headroom)


def link(
    x: Tensor,
    rows: Tensor,
    graph: Graph,
    nodes: Tensor,
    level: int,
    ef: int,
    metric: int,
    arg: float,
    keep_full: bool,
    headroom: float,
) -> None:
    """Link a batch of nodes, which reach up to `level` and are looked for by the rows of x."""
    starts = descend(x, rows, graph, metric, arg, min(level, graph.top))[0][:, None]
    edges = []
    for here in range(min(level, graph.top), -1, -1):
        begin, width = int(graph.ends[here]), int(graph.ends[here + 1] - graph.ends[here])
        alone = Graph(
            graph.levels,
            graph.offsets + begin,
            graph.neighbors,
            torch.tensor([0, width], dtype=torch.int32, device=rows.device),
            graph.entry,
            0,
        )
        _, near, _ = search(x, rows, alone, Walk(ef, ef), ef, metric, arg, None, starts)
        near = _chosen(x, near, rows, width, metric, arg, keep_full and here == 0)
        n = (near >= 0).sum(1, keepdim=True)
        span = torch.arange(width, device=rows.device)
        farthest_first = near.gather(1, (n - 1 - span).clamp(min=0))
        graph.neighbors[graph.offsets[nodes][:, None] + begin + span] = torch.where(span < n, farthest_first, -1).int()
        edges.append((here, near[near >= 0], nodes.repeat_interleave(n[:, 0])))
    sizes = list_sizes(graph.ends, headroom).tolist()
    for here, chosen, by in edges:
        _give_back(rows, graph, here, chosen, by, sizes[here], metric, arg, keep_full and here == 0)


def _chosen(x: Tensor, near: Tensor, rows: Tensor, width: int, metric: int, arg: float, fill: bool) -> Tensor:
    """Of candidates (n, m), nearest first, the `width` at most to link to, nearest first and then -1; all, where there are fewer."""
    costs = _costs(x, rows, near, metric, arg)
    good, passed = spread(costs, near, rows, width, metric, arg)
    kept = good | (near >= 0) & ((near >= 0).sum(1, keepdim=True) < width)
    if fill:
        kept |= passed & (passed.cumsum(1) <= width - good.sum(1, keepdim=True))
    near = torch.where(kept, near, -1).gather(1, torch.sort(~kept, dim=1, stable=True).indices)
    return torch.nn.functional.pad(near, (0, max(0, width - near.shape[1])), value=-1)[:, :width]


def spread(costs: Tensor, near: Tensor, rows: Tensor, size: int, metric: int, arg: float) -> tuple[Tensor, Tensor]:
    """Which of candidates (n, m), nearest first, are nearer to the node than to any chosen before, up to `size`; and which, met before
    there were as many, are not."""
    good, passed = torch.zeros_like(near, dtype=torch.bool), torch.zeros_like(near, dtype=torch.bool)
    for i in range(near.shape[1]):
        open_to_more = (good.sum(1) < size) & (near[:, i] >= 0)
        names = torch.where(good[:, :i], near[:, :i], -1)
        shut_out = (_costs(rows[near[:, i].clamp(min=0)], rows, names, metric, arg) < costs[:, i : i + 1]).any(1)
        good[:, i], passed[:, i] = open_to_more & ~shut_out, open_to_more & shut_out
    return good, passed


def _give_back(
    rows: Tensor, graph: Graph, level: int, chosen: Tensor, by: Tensor, size: int, metric: int, arg: float, fill: bool
) -> None:
    """Give the nodes that were chosen, and by which, edges to these; nobody chose a node that has an edge to it already."""
    if not chosen.shape[0]:
        return
    by, at = by.sort()
    chosen, at = chosen[at].sort(stable=True)
    owners, counts = chosen.unique_consecutive(return_counts=True)
    firsts = counts.cumsum(0) - counts
    incoming = torch.full((owners.shape[0], int(counts.max())), -1, dtype=torch.int64, device=rows.device)
    slot = torch.arange(chosen.shape[0], device=rows.device) - firsts.repeat_interleave(counts)
    incoming[torch.arange(owners.shape[0], device=rows.device).repeat_interleave(counts), slot] = by[at]
    step = max(1, _BLOCK // (4 * rows.shape[1] * (incoming.shape[1] + int(graph.ends[1]))))
    for i in range(0, owners.shape[0], step):
        owned = owners[i : i + step]
        lists = _merged(rows, owned, lists_of(graph, owned, level), incoming[i : i + step], size, metric, arg, fill)
        span = torch.arange(lists.shape[1], device=rows.device)
        graph.neighbors[graph.offsets[owned][:, None] + int(graph.ends[level]) + span] = lists.int()


def _merged(
    rows: Tensor, nodes: Tensor, lists: Tensor, incoming: Tensor, size: int, metric: int, arg: float, fill: bool
) -> Tensor:
    """The lists (n, width) with what came: behind what was there while there is room, else chosen anew from all."""
    width = lists.shape[1]
    every = torch.cat([lists, incoming], 1)
    every = every.gather(1, torch.sort(every < 0, dim=1, stable=True).indices)
    crowded = (every[:, width:] >= 0).any(1)
    merged = every[:, :width].clone()
    if not bool(crowded.any()):
        return merged
    # By number first, so that a stable sort by cost leaves ties in that order.
    names = every[crowded]
    names = names.gather(1, torch.sort(torch.where(names < 0, names.max() + 1, names), dim=1).indices)
    costs, at = torch.sort(_costs(rows[nodes[crowded]], rows, names, metric, arg), dim=1, stable=True)
    names = names.gather(1, at)
    good, passed = spread(costs, names, rows, size, metric, arg)
    rank = torch.where(good, 0, torch.where(passed, 1, 2) if fill else 2)
    rank, at = torch.sort(rank, dim=1, stable=True)
    merged[crowded] = torch.where(rank < 2, names.gather(1, at), -1)[:, :width]
    return merged
