"""A spreading-out graph (NSG) of stored vectors: where walks begin, and how a graph is built, with FAISS's draws."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator
from tsscompat.kernels import graph as kernel
from tsscompat.kernels import nsg
from tsscompat.kernels.graph import Graph, Walk
from tsscompat.records import record

# FAISS draws the nodes that fill a walk's pool from this seed, for every walk anew.
_START_SEED = 0x1234


@record
class Settings:
    """How a graph is built: edges of a node, pool of the walks, candidates looked at, pool of the walks to nodes left alone."""

    width: int
    pool: int
    candidates: int
    search: int
    metric: int
    arg: float = 0.0


def as_graph(edges: Tensor) -> Graph:
    """A table of edges (n, width) as the walks of kernels/graph.py take it: one level, no entry."""
    n, width = edges.shape
    offsets = torch.arange(n + 1, device=edges.device) * width
    ends = torch.tensor([0, width], dtype=torch.int32, device=edges.device)
    levels = torch.ones(0, dtype=torch.int32, device=edges.device)
    return Graph(levels, offsets, edges.reshape(-1), ends, -1, 0)


def starts(edges: Tensor, entry: int, size: int) -> Tensor:
    """The nodes at which walks with a pool of so many begin: the entry's neighbours, filled up with drawn ones."""
    n = edges.shape[0]
    size = min(size, n)
    names: dict[int, None] = {}
    for other in edges[entry].tolist():
        if other < 0 or len(names) == size:
            break
        if other < n:
            names[other] = None
    rng = RandomGenerator(_START_SEED)
    while len(names) < size:
        names[rng.rand_int(n)] = None
    return torch.tensor(list(names), dtype=torch.int64, device=edges.device)


@functools.lru_cache(maxsize=64)
def _until_done(size: int) -> Walk:
    """A walk that expands all that its pool holds; one for each size, by which kernels know it again."""
    return Walk(size, size)


def walk(x: Tensor, rows: Tensor, graph: Graph, begin: Tensor, k: int, metric: int, arg: float) -> tuple[Tensor, Tensor]:
    """The k best nodes that walks from the nodes `begin` (1, m) meet; the pool has as many places."""
    return kernel.search(x, rows, graph, _until_done(begin.shape[1]), k, metric, arg, None, begin)[:2]


def entry_point(rows: Tensor, near: Tensor, pool: int, metric: int, arg: float, drawn: int) -> int:
    """The node that a walk from a drawn one finds nearest to the mean."""
    centre = rows.mean(0, keepdim=True)
    return int(walk(centre, rows, as_graph(near), starts(near, drawn, pool)[None], 1, metric, arg)[1])


def _nearest(x: Tensor, rows: Tensor, edges: Tensor, begin: Tensor, metric: int, arg: float) -> Iterator[int]:
    """All nodes that a walk to x meets, nearest first."""
    graph, n, told, k = as_graph(edges), edges.shape[0], 0, begin.shape[1]
    while told < n:
        labels = walk(x, rows, graph, begin, k, metric, arg)[1][0].tolist()
        for label in labels[told:]:
            if label < 0:
                return
            yield label
        told, k = k, min(n, 4 * k)


def _attach(rows: Tensor, edges: Tensor, degrees: Tensor, entry: int, met: Tensor, how: Settings, rng: RandomGenerator) -> int:
    """Lead an edge to the first node that was not reached, from the nearest that has a place free; gives that one."""
    n, alone = edges.shape[0], int(met.int().argmin())
    begin = starts(edges, entry, how.search)[None]
    for node in _nearest(rows[alone][None], rows, edges, begin, how.metric, how.arg):
        if degrees[node] < how.width and node != alone:
            break
    else:
        while True:
            node = rng.rand_int(n)
            if met[node] and degrees[node] < how.width and node != alone:
                break
    edges[node, int(degrees[node])] = alone
    degrees[node] += 1
    return node


def connect(rows: Tensor, edges: Tensor, entry: int, how: Settings, rng: RandomGenerator) -> int:
    """Add edges, in place, until every node can be reached from the entry; gives how many it took."""
    n = edges.shape[0]
    met, degrees = torch.zeros(n, dtype=torch.bool), (edges >= 0).sum(1)
    root, reached, added = entry, 0, 0
    while True:
        reached += nsg.reach(edges, root, met)
        # FAISS draws for ever where no node that was reached has a place free.
        if reached >= n or not bool((met & (degrees < how.width)).any()):
            return added
        root = _attach(rows, edges, degrees, entry, met, how, rng)
        added += 1


def build(rows: Tensor, near: Tensor, how: Settings, rng: RandomGenerator) -> tuple[Tensor, int, int]:
    """A graph of all rows from a table of their neighbours: edges (n, width) int32, the entry point, how many nodes had to be attached."""
    near = torch.where((near >= 0) & (near < rows.shape[0]), near, -1).int().contiguous()
    entry = entry_point(rows, near, how.pool, how.metric, how.arg, rng.rand_int(rows.shape[0]))
    edges, costs = nsg.link(rows, near, starts(near, entry, how.pool), how.pool, how.candidates, how.width, how.metric, how.arg)
    nsg.link_back(rows, edges, costs, how.metric, how.arg)
    return edges, entry, connect(rows, edges, entry, how, rng)
