"""Linking nodes into a graph, compiled.

The nodes of a batch write their own lists only, which no walk of that batch can reach; then each node that was chosen is in one thread's
hands. So threads need no locks, and make the same graph as one.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.graph import Graph
from tsscompat.kernels.graph_link import batches, largest_batch, list_sizes
from tsscompat.kernels.numba.door import array_of
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
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks

# Batches of up to so many nodes are linked by one thread in one call; of larger ones, a thread takes so many nodes at a time.
_FEW, _GRAIN = 48, 12
# So many edges back a thread takes at a time.
_BACK = 256
# An edge back is a word: level and node, then the place in the batch of the node that it leads to.
_PLACE = 26
_NO_EDGE = np.iinfo(np.int64).max


@inline
def _insert(words, n, word):  # type: ignore[no-untyped-def]
    """Enter a word into n sorted ones."""
    while n > 0 and words[n - 1] > word:
        words[n] = words[n - 1]
        n -= 1
    words[n] = word


@jit
def _sort(words, n):  # type: ignore[no-untyped-def]
    """Sort the first n words: Shell's way, by Ciura's gaps; numpy's takes numba seconds to compile."""
    for gap in (44842, 19930, 8858, 3937, 1750, 701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, n):
            word, at = words[i], i
            while at >= gap and words[at - gap] > word:
                words[at] = words[at - gap]
                at -= gap
            words[at] = word


@inline
def _spread(rows, found, n, size, metric, arg, kept, passed):  # type: ignore[no-untyped-def]
    """Choose up to `size` of n candidates, nearest first: those nearer to the node than to any chosen before; gives how many, and how
    many it passed over on the way."""
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
            if m == size:
                break
        else:
            passed[left] = found[i]
            left += 1
    return m, left


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
def _take(
    rows, levels, offsets, neighbors, ends, asked, order, entry, top, ef, metric, arg, keep_full, visited, turn, edges, since,
    start, end,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Let the nodes order[start:end], of a batch that begins at `since`, take their neighbours; edges back are noted."""
    n, before = rows.shape[0], rows.shape[0] - asked.shape[0]
    widest = 0
    for level in range(ends.shape[0] - 1):
        widest = max(widest, ends[level + 1] - ends[level])
    room = max(ef, widest) + 2
    pool, nodes, costs = np.empty(ef, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
    kept, passed = np.empty(room, np.int64), np.empty(room, np.int64)
    for o in range(start, end):
        new = order[o]
        level, q = levels[new] - 1, new - before
        nodes[0] = entry
        measure(asked, q, rows, nodes, 1, metric, arg, costs)
        node, cost = entry, costs[0]
        for upper in range(top, level, -1):
            node, cost, _, _ = greedy(asked, q, rows, offsets, neighbors, ends, node, cost, upper, metric, arg, nodes, costs)
        for here in range(min(level, top), -1, -1):
            begins, width = ends[here], ends[here + 1] - ends[here]
            walk = begins, begins + width, metric, arg, visited, turn, pool, node, cost, nodes, costs
            found = _near(asked, q, rows, new, offsets, neighbors, *walk)
            if found < width:
                m, left = found, 0
                kept[:m] = pool[:m]
            else:
                m, left = _spread(rows, pool, found, width, metric, arg, kept, passed)
            if keep_full and here == 0:
                for i in range(min(left, width - m)):
                    _insert(kept, m, passed[i])
                    m += 1
            begin, slot = offsets[new] + begins, (o - since) * ends[min(level, top) + 1] + begins
            for i in range(m):  # farthest first, as FAISS leaves them
                other = node_of(kept[m - 1 - i])
                neighbors[begin + i] = other
                edges[slot + i] = ((here * n + other) << _PLACE) | (o - since)
            neighbors[begin + m : begin + width] = -1
            edges[slot + m : slot + width] = _NO_EDGE


@jit
def _give(rows, offsets, neighbors, ends, sizes, order, metric, arg, keep_full, edges, since, start, end):  # type: ignore[no-untyped-def]
    """Give nodes the edges back that begin at start:end among those noted in order."""
    n, m, most = rows.shape[0], edges.shape[0], 1
    while 0 < start < m and edges[start] >> _PLACE == edges[start - 1] >> _PLACE:
        start += 1
    at = start
    while at < end:
        after = at + 1
        while after < m and edges[after] >> _PLACE == edges[at] >> _PLACE:
            after += 1
        most = max(most, after - at)
        at = after
    widest = 0
    for level in range(ends.shape[0] - 1):
        widest = max(widest, ends[level + 1] - ends[level])
    room = most + widest
    nodes, costs, words = np.empty(room, np.int64), np.empty(room, np.float32), np.empty(room, np.int64)
    kept, passed = np.empty(widest, np.int64), np.empty(room, np.int64)
    at = start
    while at < end:
        key, after = edges[at] >> _PLACE, at
        here, node = key // n, key % n
        while after < m and edges[after] >> _PLACE == key:
            words[after - at] = order[since + (edges[after] & ((1 << _PLACE) - 1))]
            after += 1
        come, begin = after - at, offsets[node] + ends[here]
        at, width = after, ends[here + 1] - ends[here]
        if come > 1:
            _sort(words, come)
        have = listed(neighbors, begin, begin + width, nodes)
        if have + come <= width:
            for i in range(come):
                neighbors[begin + have + i] = words[i]
            continue
        nodes[have : have + come] = words[:come]
        measure(rows, node, rows, nodes, have + come, metric, arg, costs)
        for i in range(have + come):
            words[i] = candidate_of(costs[i], nodes[i])
        _sort(words, have + come)
        chosen, left = _spread(rows, words, have + come, sizes[here], metric, arg, kept, passed)
        if keep_full and here == 0:
            for i in range(min(left, width - chosen)):
                kept[chosen] = passed[i]
                chosen += 1
        for i in range(chosen):
            neighbors[begin + i] = node_of(kept[i])
        neighbors[begin + chosen : begin + width] = -1


@jit
def _alone(
    rows, levels, offsets, neighbors, ends, sizes, asked, order, entry, top, ef, metric, arg, keep_full, visited, turn, edges, begin,
    done, end, most,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Link batches of the group begin:end whose nodes before `done` are linked, until they get larger than a few; gives where."""
    while done < end:
        n = min(max(1, done - begin), most)
        if n > _FEW:
            break
        after = min(end, done + n)
        _take(
            rows, levels, offsets, neighbors, ends, asked, order, entry, top, ef, metric, arg, keep_full, visited, turn, edges,
            done, done, after,
        )  # fmt: skip
        slots = (after - done) * ends[min(levels[order[done]] - 1, top) + 1]
        count = 0
        for i in range(slots):
            if edges[i] != _NO_EDGE:
                edges[count] = edges[i]
                count += 1
        if after > done + 1:
            _sort(edges, count)
        _give(rows, offsets, neighbors, ends, sizes, order, metric, arg, keep_full, edges[:count], done, 0, count)
        done = after
    return done


@functools.lru_cache(maxsize=64)
def _sizes(ends: tuple[int, ...], headroom: float) -> np.ndarray:
    return list_sizes(torch.tensor(ends), headroom).numpy()


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
    offsets, neighbors, ends = graph.offsets.numpy(), graph.neighbors.numpy(), graph.ends.numpy()
    sizes = _sizes(tuple(ends.tolist()), headroom)
    queries = table if asked is None else asked.contiguous().numpy()
    arg, most = np.float32(metric_arg), largest_batch(table.shape[0])
    entry, top = graph.entry, graph.top
    for begin, end in itertools.pairwise(groups.tolist()):
        if begin == end:
            continue
        first, done = int(names[begin]), begin
        level = int(levels[first]) - 1
        if entry < 0:
            entry, top, done = first, level, begin + 1
        known = table, levels, offsets, neighbors, ends, queries, names
        alone = table, levels, offsets, neighbors, ends, sizes, queries, names
        if done == begin:  # a walk may begin at the group's first node as soon as it is linked
            edges = np.empty(ends[min(level, top) + 1], np.int64)
            how = entry, top, ef, metric, arg, keep_full, *marks(table.shape[0])
            done = _alone(*alone, *how, edges, begin, begin, begin + 1, most)
            if level > top:
                entry, top = first, level
        if done == end:
            continue
        width = int(ends[level + 1])
        edges = np.empty(min(end - begin, _FEW) * width, np.int64)
        done = _alone(*alone, entry, top, ef, metric, arg, keep_full, *marks(table.shape[0]), edges, begin, done, end, most)
        for start, stop in batches(begin, done, end, most):
            edges = np.empty((stop - start) * width, np.int64)

            def take(a: int, b: int, start: int = start, edges: np.ndarray = edges, entry: int = entry, top: int = top) -> None:
                how = entry, top, ef, metric, arg, keep_full, *marks(table.shape[0]), edges
                _take(*known, *how, start, start + a, start + b)

            run_blocks(take, stop - start, _GRAIN)
            edges = np.sort(edges[edges != _NO_EDGE])

            def give(a: int, b: int, start: int = start, edges: np.ndarray = edges) -> None:
                _give(table, offsets, neighbors, ends, sizes, names, metric, arg, keep_full, edges, start, a, b)

            run_blocks(give, edges.shape[0], _BACK)
    return entry, top


@jit
def _one(room, levels, offsets, neighbors, ends, sizes, node, entry, top, ef, metric, arg, keep_full, visited, turn):  # type: ignore[no-untyped-def]
    rows, level = room[: node + 1], levels[node] - 1
    if entry < 0:
        return node, level
    order, edges = np.full(1, node, np.int64), np.empty(ends[min(level, top) + 1], np.int64)
    how = entry, top, ef, metric, arg, keep_full
    _alone(rows, levels, offsets, neighbors, ends, sizes, rows, order, *how, visited, turn, edges, 0, 0, 1, 1)
    if level > top:
        return node, level
    return entry, top


def link_one(
    rows: Any, levels: Any, offsets: Any, neighbors: Any, ends: Any, node: int, entry: int, top: int, ef: int, metric: int,
    metric_arg: float, keep_full: bool, headroom: float,
) -> tuple[int, int]:  # fmt: skip
    table, level, offset, edge, end = (array_of(t) for t in (rows, levels, offsets, neighbors, ends))
    sizes, arg = _sizes(tuple(end.tolist()), headroom), np.float32(metric_arg)
    visited, turn = marks(node + 1)
    linked: tuple[int, int] = _one(
        table, level, offset, edge, end, sizes, node, entry, top, ef, metric, arg, keep_full, visited, turn
    )
    return linked


__all__ = ["build", "link_one"]
