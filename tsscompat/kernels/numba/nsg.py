"""Building of a spreading-out graph, compiled.

Candidates are words as in graph_walk.py: cost, then number. Threads share the lists as in graph_link.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.graph_walk import between, candidate_of, cost_of, marks, measure, next_walk, node_of, place, unmet
from tsscompat.kernels.numba.intrinsics import try_lock, unlock
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.word_heap import sink
from tsscompat.kernels.threads import run_blocks

_GRAIN = 100
_NONE = np.iinfo(np.int64).max


@inline
def _keep(found, nodes, costs, n):  # type: ignore[no-untyped-def]
    """Enter n nodes into the heap of candidates."""
    for i in range(n):
        word = candidate_of(costs[i], nodes[i])
        if word < found[0]:
            sink(found, found.shape[0], word)


@inline
def _meet(rows, q, near, starts, metric, arg, visited, number, pool, found, nodes, costs):  # type: ignore[no-untyped-def]
    """Walk to row q from the starts, and put the nearest of all nodes met into `found`."""
    n, size, first, k = starts.shape[0], 0, 0, near.shape[1]
    for i in range(n):
        nodes[i] = starts[i]
        visited[starts[i]] = number
    measure(rows, q, rows, nodes, n, metric, arg, costs)
    _keep(found, nodes, costs, n)
    for i in range(n):
        _, size = place(pool, size, costs[i], nodes[i])
    far = cost_of(pool[size - 1] >> 32) if size == pool.shape[0] else np.float32(np.inf)
    flat = near.reshape(-1)
    while True:
        while first < size and pool[first] & 1:
            first += 1
        if first == size:
            break
        begin = node_of(pool[first]) * k
        pool[first] |= 1
        n = unmet(flat, begin, begin + k, visited, number, nodes)
        measure(rows, q, rows, nodes, n, metric, arg, costs)
        _keep(found, nodes, costs, n)
        for i in range(n):
            if size < pool.shape[0] or costs[i] < far:
                at, size = place(pool, size, costs[i], nodes[i])
                if size == pool.shape[0]:
                    far = cost_of(pool[size - 1] >> 32)
                if at < first:
                    first = at


@inline
def _apart(rows, found, first, n, metric, arg, kept, width):  # type: ignore[no-untyped-def]
    """Copy up to `width` of the sorted candidates first:n that are not nearer to one copied before than to the node; gives how many."""
    if first >= n:
        return 0
    kept[0], m = found[first], 1
    for i in range(first + 1, n):
        if m == width:
            break
        node, cost, good = node_of(found[i]), cost_of(found[i] >> 32), True
        for j in range(m):
            other = node_of(kept[j])
            if other == node or between(rows, other, node, metric, arg) < cost:
                good = False
                break
        if good:
            kept[m] = found[i]
            m += 1
    return m


@jit
def _link(rows, near, starts, size, candidates, edges, edge_costs, metric, arg, visited, turn, start, end):  # type: ignore[no-untyped-def]
    k, width = near.shape[1], edges.shape[1]
    room = max(k, starts.shape[0]) + 1
    pool, found, kept = np.empty(size, np.int64), np.empty(candidates, np.int64), np.empty(width, np.int64)
    nodes, costs = np.empty(room, np.int64), np.empty(room, np.float32)
    for q in range(start, end):
        found[:] = _NONE
        number = next_walk(visited, turn)
        _meet(rows, q, near, starts, metric, arg, visited, number, pool, found, nodes, costs)
        n = 0
        for j in range(k):
            other = near[q, j]
            if other >= 0 and visited[other] != number:
                visited[other] = number
                nodes[n] = other
                n += 1
        measure(rows, q, rows, nodes, n, metric, arg, costs)
        _keep(found, nodes, costs, n)
        found.sort()
        n = 0
        while n < candidates and found[n] != _NONE:
            n += 1
        m = _apart(rows, found, 1 if n and node_of(found[0]) == q else 0, n, metric, arg, kept, width)
        for i in range(m):
            edges[q, i] = node_of(kept[i])
            edge_costs[q, i] = cost_of(kept[i] >> 32)


def link(
    rows: Tensor, near: Tensor, starts: Tensor, pool: int, candidates: int, width: int, metric: int, arg: float = 0.0
) -> tuple[Tensor, Tensor]:
    n = rows.shape[0]
    edges, costs = np.full((n, width), -1, dtype=np.int32), np.full((n, width), np.inf, dtype=np.float32)
    known = rows.contiguous().numpy(), near.contiguous().numpy(), starts.contiguous().numpy(), pool, candidates

    def some(start: int, stop: int) -> None:
        _link(*known, edges, costs, metric, np.float32(arg), *marks(n), start, stop)

    run_blocks(some, n, _GRAIN)
    return torch.from_numpy(edges), torch.from_numpy(costs)


@inline
def _hold(locks, node):  # type: ignore[no-untyped-def]
    while not try_lock(locks, node):
        pass


@jit
def _link_back(rows, edges, edge_costs, metric, arg, locks, start, end):  # type: ignore[no-untyped-def]
    width = edges.shape[1]
    found, kept = np.empty(width + 1, np.int64), np.empty(width, np.int64)
    for q in range(start, end):
        for i in range(width):
            other, cost = np.int64(edges[q, i]), edge_costs[q, i]
            if other < 0:
                break
            n, there = 0, False
            _hold(locks, other)
            while n < width and edges[other, n] >= 0:
                there |= edges[other, n] == q
                found[n] = candidate_of(edge_costs[other, n], np.int64(edges[other, n]))
                n += 1
            if not there and n < width:
                edges[other, n], edge_costs[other, n] = q, cost
            unlock(locks, other)
            if there or n < width:
                continue
            found[n] = candidate_of(cost, np.int64(q))
            found.sort()
            m = _apart(rows, found, 0, n + 1, metric, arg, kept, width)
            _hold(locks, other)
            for j in range(m):
                edges[other, j], edge_costs[other, j] = node_of(kept[j]), cost_of(kept[j] >> 32)
            unlock(locks, other)


def link_back(rows: Tensor, edges: Tensor, costs: Tensor, metric: int, arg: float = 0.0) -> None:
    table, locks = rows.contiguous().numpy(), np.zeros(rows.shape[0], dtype=np.int32)

    def some(start: int, stop: int) -> None:
        _link_back(table, edges.numpy(), costs.numpy(), metric, np.float32(arg), locks, start, stop)

    run_blocks(some, rows.shape[0], _GRAIN)


@jit
def _reach(edges, root, met):  # type: ignore[no-untyped-def]
    stack = np.empty(met.shape[0], np.int32)
    new = 0 if met[root] else 1
    met[root], stack[0], waiting = True, root, 1
    while waiting:
        waiting -= 1
        node = stack[waiting]
        for i in range(edges.shape[1]):
            other = edges[node, i]
            if other < 0:
                break
            if not met[other]:
                met[other] = True
                stack[waiting] = other
                waiting += 1
                new += 1
    return new


def reach(edges: Tensor, root: int, met: Tensor) -> int:
    return int(_reach(edges.contiguous().numpy(), root, met.numpy()))


__all__ = ["link", "link_back", "reach"]
