"""Walks on a layered graph, compiled."""

from __future__ import annotations

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.numba.addressed import address, pointer, prefetch_at
from tsscompat.kernels.numba.door import array_of, like
from tsscompat.kernels.numba.graph_walk import cost_of, greedy, marks, measure, next_walk, node_of, ordered, place, unmet
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.word_heap import sink
from tsscompat.kernels.threads import run_blocks

_NO_MASK = np.empty(0, dtype=np.bool_)
_NO_STARTS = np.empty((0, 0), dtype=np.int64)
_WORST = np.float32(np.finfo(np.float32).max)
# What stands in a heap before anything is found: the worst cost, and no number.
_NOTHING = (int(_WORST.view(np.int32)) << 32) | 0xFFFFFFFF
# From so many queries on, threads share them.
_TOGETHER = 4


@inline
def _enter(best, cost, node, similar):  # type: ignore[no-untyped-def]
    """Put a node in the place of the worst of the best; gives the new worst cost. Ties go up in number, for similarities down."""
    sink(best, best.shape[0], (ordered(cost) << 32) | (0x7FFFFFFF - node if similar else node))
    return cost_of(best[0] >> 32)


@inline
def _answer(best, similar, costs, labels, q):  # type: ignore[no-untyped-def]
    """Write the best as an answer, nearest first."""
    for end in range(best.shape[0] - 1, 0, -1):
        word = best[end]
        best[end] = best[0]
        sink(best, end, word)
    for i in range(best.shape[0]):
        key, name = best[i] >> 32, best[i] & 0xFFFFFFFF
        costs[q, i] = cost_of(-key if similar else key)
        labels[q, i] = -1 if name == 0xFFFFFFFF else 0x7FFFFFFF - name if similar else name


@inline
def _ask_list(offsets, neighbors, ends, node):  # type: ignore[no-untyped-def]
    """Ask for a node's neighbours on the bottom level."""
    begin = address(neighbors) + 4 * offsets[node]
    for byte in range(0, 4 * ends[1], 64):
        prefetch_at(begin + byte)


@inline
def _walk(
    xs, q, rows, offsets, neighbors, ends, stop, check, metric, arg, similar, allowed, visited, number, pool, size, best, nodes, costs
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Expand candidates, nearest first, while they may lead to better ones; gives how many costs and steps it took."""
    masked, room, n_costs, n_steps, first = allowed.shape[0] > 0, pool.shape[0], 0, 0, 0
    bar, far = _WORST, np.float32(np.inf)
    for i in range(size):
        node, cost = node_of(pool[i]), cost_of(pool[i] >> 32)
        if cost < bar and not (masked and not allowed[node]):
            bar = _enter(best, cost, node, similar)
    while True:
        while first < size and pool[first] & 1:
            first += 1
        if first == size:
            break
        candidate = pool[first]
        if check:
            below = first
            while below > 0 and pool[below - 1] >> 32 == candidate >> 32:
                below -= 1
            if below >= stop:
                break
        elif n_steps > stop:
            break
        pool[first] |= 1
        n_steps += 1
        if first + 1 < size:
            _ask_list(offsets, neighbors, ends, node_of(pool[first + 1]))
        begin = offsets[node_of(candidate)]
        n = unmet(neighbors, begin, begin + ends[1], visited, number, nodes)
        measure(xs, q, rows, nodes, n, metric, arg, costs)
        n_costs += n
        for i in range(n):
            cost, node = costs[i], nodes[i]
            if cost < bar and not (masked and not allowed[node]):
                bar = _enter(best, cost, node, similar)
            if size < room or cost < far:
                at, size = place(pool, size, cost, node)
                if size == room:
                    far = cost_of(pool[room - 1] >> 32)
                if at <= first:
                    first = at
                    _ask_list(offsets, neighbors, ends, node)
    return n_costs, n_steps


@inline
def _given(given, q, visited, number, nodes):  # type: ignore[no-untyped-def]
    """Copy and mark the nodes where a query's walk begins; gives how many."""
    n = 0
    for s in range(given.shape[1]):
        node = given[q, s]
        if node >= 0 and visited[node] != number:
            visited[node] = number
            nodes[n] = node
            n += 1
    return n


@jit
def _search(plan, arg, allowed, given, visited, turn, xs, costs, labels, start, end):  # type: ignore[no-untyped-def]
    """Answer queries start:end one after the other; gives how many costs and steps they took."""
    n, d, edges, n_levels, entry, top = plan[0], plan[1], plan[2], plan[3], plan[4], plan[5]
    ef, stop, check, metric, similar, power = plan[6], plan[7], plan[8], plan[9], plan[10], np.float32(arg)
    rows, offsets = carray(pointer(plan[11], np.float32), (n, d)), carray(pointer(plan[12], np.int64), (n + 1,))
    neighbors, ends = carray(pointer(plan[13], np.int32), (edges,)), carray(pointer(plan[14], np.int32), (n_levels + 1,))
    widest = given.shape[1]
    for level in range(n_levels):
        widest = max(widest, ends[level + 1] - ends[level])
    pool, best = np.empty(ef, np.int64), np.empty(costs.shape[1], np.int64)
    nodes, found = np.empty(widest + 1, np.int64), np.empty(widest + 1, np.float32)
    n_costs, n_steps = 0, 0
    for q in range(start, end):
        number = next_walk(visited, turn)
        best[:] = _NOTHING
        size, more = 0, 1
        if given.shape[0]:
            more = _given(given, min(q, given.shape[0] - 1), visited, number, nodes)
            measure(xs, q, rows, nodes, more, metric, power, found)
            for i in range(more):
                at, size = place(pool, size, found[i], nodes[i])
        else:
            nodes[0] = node = entry
            measure(xs, q, rows, nodes, 1, metric, power, found)
            cost = found[0]
            for level in range(top, 0, -1):
                node, cost, met, steps = greedy(
                    xs, q, rows, offsets, neighbors, ends, node, cost, level, metric, power, nodes, found
                )
                more += met
                n_steps += steps
            visited[node] = number
            at, size = place(pool, size, cost, node)
        met, steps = _walk(
            xs, q, rows, offsets, neighbors, ends, stop, check, metric, power, similar, allowed, visited, number, pool, size, best,
            nodes, found,
        )  # fmt: skip
        n_costs += more + met
        n_steps += steps
        _answer(best, similar, costs, labels, q)
    return n_costs, n_steps


def _plan(rows: Tensor, graph: Graph, walk: Walk, metric: int) -> np.ndarray:
    """All that is the same for every query, in one array: an argument costs 0.3 us a call; kept as long as graph and rows are."""
    held = rows, graph.offsets, graph.neighbors, graph.ends
    fixed = *rows.shape, graph.neighbors.shape[0], graph.ends.shape[0] - 1, graph.entry, graph.top
    how = walk.ef, walk.stop, walk.check, metric, is_similarity(metric)
    plan = np.array([*fixed, *how, *(t.data_ptr() for t in held)], dtype=np.int64)
    graph.kept["plan"] = rows, walk, metric, plan
    return plan


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
    nq, rows = x.shape[0], rows.contiguous()
    costs, labels = np.empty((nq, k), dtype=np.float32), np.empty((nq, k), dtype=np.int64)
    kept = graph.kept.get("plan")
    if kept is not None and kept[0] is rows and kept[1] is walk and kept[2] == metric:
        plan = kept[3]
    else:
        plan = _plan(rows, graph, walk, metric)
    queries, n = array_of(x), rows.shape[0]
    given = _NO_STARTS if starts is None else starts.to(torch.int64).contiguous().numpy()
    mask = _NO_MASK if allowed is None else allowed.contiguous().numpy()
    if nq < _TOGETHER:
        counted = _search(plan, metric_arg, mask, given, *marks(n), queries, costs, labels, 0, nq)
        return *like(x, costs, labels), counted
    counts: list[tuple[int, int]] = []

    def some(start: int, stop: int) -> None:
        counts.append(_search(plan, metric_arg, mask, given, *marks(n), queries, costs, labels, start, stop))

    run_blocks(some, nq, _TOGETHER // 2)
    return *like(x, costs, labels), (sum(c[0] for c in counts), sum(c[1] for c in counts))


__all__ = ["search"]
