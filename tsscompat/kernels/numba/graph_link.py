"""Building a graph, compiled.

Threads share the lists; a list is only written under its node's lock, and reading one that is being written sees old or new nodes, both
of them real.
"""

from __future__ import annotations

import functools
import threading

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.graph import Graph, list_sizes
from tsscompat.kernels.numba.graph_walk import (
    between,
    candidate_of,
    cost_of,
    greedy,
    listed,
    marks,
    measure,
    next_walk,
    node_of,
    place,
    unmet,
)
from tsscompat.kernels.numba.intrinsics import try_lock, unlock
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks

# Nodes of a group that are linked one after the other before threads join in, and nodes that a thread takes at a time.
_ALONE, _GRAIN = 64, 32
# Bytes of locks that a thread keeps: to make those of a million nodes takes longer than to link one.
_KEPT = 1 << 24
_local = threading.local()


@inline
def _insert(words, n, word):  # type: ignore[no-untyped-def]
    """Enter a word into n sorted ones."""
    while n > 0 and words[n - 1] > word:
        words[n] = words[n - 1]
        n -= 1
    words[n] = word


@inline
def _chosen(rows, found, n, width, metric, arg, fill, kept, passed):  # type: ignore[no-untyped-def]
    """Choose up to `width` of n candidates, nearest first: those nearer to the node than to any chosen before; gives how many."""
    if n < width:
        kept[:n] = found[:n]
        return n
    m, left = 0, 0
    for i in range(n):
        node, cost, good = node_of(found[i]), cost_of(found[i] >> 32), True
        for j in range(m):
            if between(rows, node, node_of(kept[j]), metric, arg) < cost:
                good = False
                break
        if good:
            kept[m] = found[i]
            m += 1
            if m == width:
                return m
        elif fill:
            passed[left] = found[i]
            left += 1
    for i in range(min(left, width - m)):
        _insert(kept, m, passed[i])
        m += 1
    return m


@inline
def _edge(rows, neighbors, begin, end, size, source, target, metric, arg, fill, nodes, costs, found, kept, passed):  # type: ignore[no-untyped-def]
    """Add an edge to source's list begin:end; a full one is chosen anew, `size` of them at most."""
    if neighbors[end - 1] < 0:
        at = end
        while at > begin and neighbors[at - 1] < 0:
            at -= 1
        neighbors[at] = target
        return
    n = listed(neighbors, begin, end, nodes)
    nodes[n] = target
    n += 1
    measure(rows, source, rows, nodes, n, metric, arg, costs)
    for i in range(n):
        _insert(found, i, candidate_of(costs[i], nodes[i]))
    m = _chosen(rows, found, n, size, metric, arg, fill, kept, passed)
    for i in range(m):  # nearest first, as FAISS leaves them
        neighbors[begin + i] = node_of(kept[i])
    neighbors[begin + m : end] = -1


@inline
def _near(asked, q, rows, new, offsets, neighbors, begins, ends, metric, arg, visited, turn, pool, node, cost, nodes, costs):  # type: ignore[no-untyped-def]
    """Fill the pool with the nearest nodes that a walk of a level from `node` finds; gives how many."""
    number, first = next_walk(visited, turn), 0
    visited[node] = number
    visited[new] = number
    at, size = place(pool, 0, cost, node)
    room, far = pool.shape[0], np.float32(np.inf)
    while True:
        while first < size and pool[first] & 1:
            first += 1
        if first == size:
            break
        begin = offsets[node_of(pool[first])]
        pool[first] |= 1
        n = unmet(neighbors, begin + begins, begin + ends, visited, number, nodes)
        measure(asked, q, rows, nodes, n, metric, arg, costs)
        for i in range(n):
            if size < room or costs[i] < far:
                at, size = place(pool, size, costs[i], nodes[i])
                if size == room:
                    far = cost_of(pool[room - 1] >> 32)
                if at < first:
                    first = at
    for i in range(size):
        pool[i] &= -2
    return size


@jit
def _link(
    rows, levels, offsets, neighbors, ends, sizes, asked, order, entry, top, ef, metric, arg, keep_full, visited, turn, locks, start, end
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Link the nodes order[start:end], which reach no higher than `top`."""
    widest, before = 0, rows.shape[0] - asked.shape[0]
    for level in range(ends.shape[0] - 1):
        widest = max(widest, ends[level + 1] - ends[level])
    room = max(ef, widest) + 2
    pool, nodes, costs = np.empty(ef, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
    found, kept, passed = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    chosen = np.empty(room, np.int64)
    for o in range(start, end):
        new = order[o]
        level, q = levels[new] - 1, new - before
        nodes[0] = entry
        measure(asked, q, rows, nodes, 1, metric, arg, costs)
        node, cost = entry, costs[0]
        for upper in range(top, level, -1):
            node, cost, _, _ = greedy(asked, q, rows, offsets, neighbors, ends, node, cost, upper, metric, arg, nodes, costs)
        for here in range(min(level, top), -1, -1):
            begins, width, fill = ends[here], ends[here + 1] - ends[here], keep_full and here == 0
            size = width if fill else sizes[here]
            walk = begins, begins + width, metric, arg, visited, turn, pool, node, cost, nodes, costs
            n = _near(asked, q, rows, new, offsets, neighbors, *walk)
            m = _chosen(rows, pool, n, width, metric, arg, fill, kept, passed)
            for i in range(m):
                chosen[i] = node_of(kept[m - 1 - i])
            for i in range(-m, m):  # first the edges from the new node, then those to it
                source, target = (new, chosen[i + m]) if i < 0 else (chosen[i], new)
                while not try_lock(locks, source):
                    pass
                begin = offsets[source] + begins
                _edge(
                    rows,
                    neighbors,
                    begin,
                    begin + width,
                    size,
                    source,
                    target,
                    metric,
                    arg,
                    fill,
                    nodes,
                    costs,
                    found,
                    kept,
                    passed,
                )
                unlock(locks, source)


@functools.lru_cache(maxsize=64)
def _sizes(ends: tuple[int, ...], headroom: float) -> np.ndarray:
    return list_sizes(torch.tensor(ends), headroom).numpy()


def _locks(n: int) -> np.ndarray:
    """Locks of n nodes, open; all are open again when a graph is built, so that this thread's next build can have them."""
    kept: np.ndarray | None = _local.__dict__.pop("locks", None)
    return np.zeros(n + n // 8, dtype=np.int32) if kept is None or kept.shape[0] < n else kept


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
    table, names, levels = rows.contiguous().numpy(), order.numpy(), graph.levels.numpy()
    sizes = _sizes(tuple(graph.ends.tolist()), headroom)
    arrays = levels, graph.offsets.numpy(), graph.neighbors.numpy(), graph.ends.numpy(), sizes
    queries = table if asked is None else asked.contiguous().numpy()
    locks, arg = _locks(table.shape[0]), np.float32(metric_arg)
    entry, top = graph.entry, graph.top
    bounds = groups.tolist()
    for begin, end in zip(bounds[:-1], bounds[1:]):
        if begin == end:
            continue
        if entry < 0:
            entry, top = int(names[begin]), int(levels[names[begin]]) - 1
            begin += 1

        def some(start: int, stop: int, first: int = begin, entry: int = entry, top: int = top) -> None:
            known = table, *arrays, queries, names, entry, top, ef, metric, arg, keep_full
            _link(*known, *marks(table.shape[0]), locks, first + start, first + stop)

        # The first of a group meet an almost empty level: one after the other they find each other.
        alone = min(_ALONE, end - begin)
        some(0, alone)
        run_blocks(lambda a, b: some(alone + a, alone + b), end - begin - alone, _GRAIN)
        if end > begin and int(levels[names[begin]]) - 1 > top:
            entry, top = int(names[begin]), int(levels[names[begin]]) - 1
    if locks.nbytes <= _KEPT:
        _local.locks = locks  # not where an error has left some closed
    return entry, top


__all__ = ["build"]
