"""Compiled twin of kernels/graph_levels.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.metrics import L2
from tsscompat.kernels.numba.addressed import address, prefetch_at, squared_l2_at
from tsscompat.kernels.numba.graph import _NO_MASK, _NO_STARTS, _NOTHING, _TOGETHER, _WORST, _answer, _ask_list, _enter, _given
from tsscompat.kernels.numba.graph_walk import cost_of, greedy, marks, measure, next_walk, node_of, place, unmet
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.panorama import lengths_left
from tsscompat.kernels.threads import run_blocks


@inline
def _levels(query, rest, rows, norms, width, node, limit):  # type: ignore[no-untyped-def]
    """The cost of a node, or infinity once it is over the limit, and how many dimensions that took."""
    d, total = rows.shape[1], np.float32(0)
    row = address(rows) + 4 * d * node
    for level in range(norms.shape[1] - 1):
        begin = level * width
        end = min(d, begin + width)
        total += squared_l2_at(query + 4 * begin, row + 4 * begin, end - begin)
        gap = rest[level + 1] - norms[node, level + 1]
        if total + gap * gap > limit:
            return np.float32(np.inf), end
    return total, d


@inline
def _walk_levels(
    xs, q, rest, rows, norms, width, offsets, neighbors, ends, stop, check, allowed, visited, number, pool, size, best, nodes
):  # type: ignore[no-untyped-def]  # fmt: skip
    """The walk of kernels/numba/graph.py; gives how many costs, steps and dimensions it took."""
    masked, room, n_costs, n_steps, n_dims, first = allowed.shape[0] > 0, pool.shape[0], 0, 0, 0, 0
    bar, far, query, base = _WORST, np.float32(np.inf), address(xs) + 4 * xs.shape[1] * q, address(rows)
    for i in range(size):
        node, cost = node_of(pool[i]), cost_of(pool[i] >> 32)
        if cost < bar and not (masked and not allowed[node]):
            bar = _enter(best, cost, node, False)
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
        begin = offsets[node_of(candidate)]
        n = unmet(neighbors, begin, begin + ends[1], visited, number, nodes)
        for i in range(n):
            for byte in range(0, min(4 * width, 256), 64):
                prefetch_at(base + 4 * rows.shape[1] * nodes[i] + byte)
        n_costs += n
        for i in range(n):
            node = nodes[i]
            # A candidate that is no result may still lead to one.
            cost, dims = _levels(query, rest, rows, norms, width, node, max(bar, far) if size == room else np.float32(np.inf))
            n_dims += dims
            if cost < bar and not (masked and not allowed[node]):
                bar = _enter(best, cost, node, False)
            if size < room or cost < far:
                at, size = place(pool, size, cost, node)
                if size == room:
                    far = cost_of(pool[room - 1] >> 32)
                if at <= first:
                    first = at
                    _ask_list(offsets, neighbors, ends, node)
    return n_costs, n_steps, n_dims


@jit
def _search_levels(
    xs, rest, rows, norms, width, offsets, neighbors, ends, entry, top, ef, stop, check, allowed, given, visited, turn, costs, labels,
    start, end,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Answer queries start:end; gives how many costs, steps and dimensions of how many they took."""
    widest, power = given.shape[1], np.float32(0)
    for level in range(ends.shape[0] - 1):
        widest = max(widest, ends[level + 1] - ends[level])
    pool, best = np.empty(ef, np.int64), np.empty(costs.shape[1], np.int64)
    nodes, found = np.empty(widest + 1, np.int64), np.empty(widest + 1, np.float32)
    n_costs, n_steps, n_dims, n_met = 0, 0, 0, 0
    for q in range(start, end):
        number = next_walk(visited, turn)
        best[:] = _NOTHING
        size, more = 0, 1
        if given.shape[0]:
            more = _given(given, min(q, given.shape[0] - 1), visited, number, nodes)
            measure(xs, q, rows, nodes, more, L2, power, found)
            for i in range(more):
                at, size = place(pool, size, found[i], nodes[i])
        else:
            nodes[0] = node = entry
            measure(xs, q, rows, nodes, 1, L2, power, found)
            cost = found[0]
            for level in range(top, 0, -1):
                node, cost, met, steps = greedy(
                    xs, q, rows, offsets, neighbors, ends, node, cost, level, L2, power, nodes, found
                )  # fmt: skip
                more += met
                n_steps += steps
            visited[node] = number
            at, size = place(pool, size, cost, node)
        met, steps, dims = _walk_levels(
            xs, q, rest[q], rows, norms, width, offsets, neighbors, ends, stop, check, allowed, visited, number, pool, size, best, nodes
        )  # fmt: skip
        n_costs += more + met
        n_steps += steps
        n_dims += dims
        n_met += met
        _answer(best, False, costs, labels, q)
    return n_costs, n_steps, n_dims, n_met * xs.shape[1]


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
) -> Any:
    nq, queries = x.shape[0], x.contiguous()
    costs, labels = np.empty((nq, k), dtype=np.float32), np.empty((nq, k), dtype=np.int64)
    given = _NO_STARTS if starts is None else starts.to(torch.int64).contiguous().numpy()
    mask = _NO_MASK if allowed is None else allowed.contiguous().numpy()
    table = lengths_left(queries, width).numpy(), rows.contiguous().numpy(), norms.contiguous().numpy(), width
    links = graph.offsets.numpy(), graph.neighbors.numpy(), graph.ends.numpy(), graph.entry, graph.top
    fixed = queries.numpy(), *table, *links, walk.ef, walk.stop, walk.check, mask, given
    counts: list[Any] = []

    def some(start: int, stop: int) -> None:
        counts.append(_search_levels(*fixed, *marks(rows.shape[0]), costs, labels, start, stop))

    if nq < _TOGETHER:
        some(0, nq)
    else:
        run_blocks(some, nq, _TOGETHER // 2)
    n_costs, n_steps, dims, all_dims = (sum(count[i] for count in counts) for i in range(4))
    return torch.from_numpy(costs), torch.from_numpy(labels), (n_costs, n_steps), (dims, all_dims)
