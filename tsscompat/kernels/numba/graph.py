"""Walks on a layered graph, compiled.

Candidates stand in a pool sorted by cost, best first, `ef` of them; a walk expands the first that is not done. The rows of a node's
neighbours are prefetched while the ones before are compared: a walk waits for memory more than it computes. Threads that build share
the lists; a list is only written under its node's lock, and reading one that is being written sees old or new nodes, both of them real.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba.intrinsics import prefetch, try_lock, unlock
from tsscompat.kernels.numba.ivf_heap import finish, sift, start_heap
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.metrics import dot, one_distance, squared_l2
from tsscompat.kernels.threads import run_blocks

_IP, _L2 = INNER_PRODUCT, L2
_NO_MASK = np.empty(0, dtype=np.bool_)
_NO_STARTS = np.empty((0, 0), dtype=np.int64)
_NO_COSTS, _NO_NODES = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
# From so many queries on, threads share them.
_TOGETHER = 4
_local = threading.local()
# Nodes of a group that are linked one after the other before threads join in, and nodes that a thread takes at a time.
_ALONE, _GRAIN = 64, 32


@inline
def _cost(x, rows, node, metric, arg):
    """The cost of a node. The row is sliced where it is used: kept in a variable, it would be counted as a reference, at 30 ns."""
    if metric == _L2:
        return squared_l2(x, rows[node])
    if metric == _IP:
        return -dot(x, rows[node])
    return one_distance(x, rows[node], metric, arg)


@inline
def _fetch(rows, node):
    """Ask for a row, up to its first 16 cache lines."""
    d = rows.shape[1]
    for j in range(0, min(d, 256), 16):
        prefetch(rows, node * d + j)


@inline
def _greedy(x, rows, offsets, neighbors, ends, node, cost, level, metric, arg, counts):
    """Step to better neighbours on a level while there are any."""
    while True:
        begin, end = offsets[node] + ends[level], offsets[node] + ends[level + 1]
        best = node
        for e in range(begin, end):
            other = neighbors[e]
            if other < 0:
                break
            value = _cost(x, rows, other, metric, arg)
            counts[0] += 1
            if value < cost:
                cost, best = value, np.int64(other)
        counts[1] += 1
        if best == node:
            return node, cost
        node = best


@inline
def _place(costs, nodes, done, size, cost, node):
    """Enter a candidate into the sorted pool; gives its place and the new size."""
    room = costs.shape[0]
    if size == room:
        if not cost < costs[size - 1]:
            return room, size
        size -= 1
    at = size
    while at > 0 and costs[at - 1] > cost:
        costs[at], nodes[at], done[at] = costs[at - 1], nodes[at - 1], done[at - 1]
        at -= 1
    costs[at], nodes[at], done[at] = cost, node, False
    return at, size + 1


@jit
def _search(
    x,
    rows,
    offsets,
    neighbors,
    ends,
    entry,
    top,
    ef,
    stop,
    check,
    metric,
    arg,
    ip,
    allowed,
    given,
    visited,
    generation,
    costs,
    labels,
    radius,
    values,
    names,
    counts,
    start,
    end,
):
    """Queries start:end one after the other: heaps of the best, or (no heaps) everything met within the radius, in values and names."""
    k, masked, d = costs.shape[1], allowed.shape[0] > 0, rows.shape[1]
    pool, nodes, done = np.empty(ef, np.float32), np.empty(ef, np.int64), np.empty(ef, np.bool_)
    fresh = np.empty(ends[1] - ends[0], np.int64)
    total = 0
    for q in range(start, end):
        generation += 1
        query = x[q]
        size = 0
        start_heap(costs[q], labels[q], ip)
        if given.shape[0]:
            for s in range(given.shape[1]):
                node = given[q, s]
                if node < 0 or visited[node] == generation:
                    continue
                visited[node] = generation
                cost = _cost(query, rows, node, metric, arg)
                counts[0] += 1
                at, size = _place(pool, nodes, done, size, cost, node)
        else:
            node, cost = entry, _cost(query, rows, entry, metric, arg)
            counts[0] += 1
            for level in range(top, 0, -1):
                node, cost = _greedy(query, rows, offsets, neighbors, ends, node, cost, level, metric, arg, counts)
            visited[node] = generation
            at, size = _place(pool, nodes, done, size, cost, node)
        bar = costs[q, 0] if k else radius
        for i in range(size):
            if pool[i] < bar and not (masked and not allowed[nodes[i]]):
                if k:
                    sift(costs[q], labels[q], k, pool[i], ~nodes[i] if ip else nodes[i])
                    bar = costs[q, 0]
                else:
                    if total == values.shape[0]:
                        values, names = _grown(values), _grown(names)
                    values[total], names[total] = pool[i], nodes[i]
                    total += 1
        first, steps = 0, 0
        while True:
            while first < size and done[first]:
                first += 1
            if first >= size:
                counts[2] += 1
                break
            if check:
                below = first
                while below > 0 and pool[below - 1] == pool[first]:
                    below -= 1
                if below >= stop:
                    break
            elif steps > stop:
                break
            node = nodes[first]
            done[first] = True
            steps += 1
            begin, n_fresh = offsets[node], 0
            for e in range(begin, offsets[node] + ends[1]):
                other = neighbors[e]
                if other < 0:
                    break
                if visited[other] != generation:
                    visited[other] = generation
                    fresh[n_fresh] = other
                    n_fresh += 1
            counts[0] += n_fresh
            if n_fresh:
                _fetch(rows, fresh[0])
            for f in range(n_fresh):
                if f + 1 < n_fresh:
                    _fetch(rows, fresh[f + 1])
                other = fresh[f]
                cost = _cost(query, rows, other, metric, arg)
                if cost < bar and not (masked and not allowed[other]):
                    if k:
                        sift(costs[q], labels[q], k, cost, ~other if ip else other)
                        bar = costs[q, 0]
                    else:
                        if total == values.shape[0]:
                            values, names = _grown(values), _grown(names)
                        values[total], names[total] = cost, other
                        total += 1
                at, size = _place(pool, nodes, done, size, cost, other)
                if at < first:
                    first = at
        counts[1] += steps
        if k:
            finish(costs[q], labels[q], ip)
        else:
            labels[q, 0] = total  # k is 0: labels holds where each query's results end
    return values, names, total, d


@inline
def _grown(values):
    more = np.empty(2 * values.shape[0] + 64, values.dtype)
    more[: values.shape[0]] = values
    return more


@inline
def _shrunk(rows, costs, nodes, n, width, metric, arg, keep_full, kept, kept_costs, passed, passed_costs):
    """Choose from n candidates, nearest first: those nearer to the node than to any chosen before. Gives how many, in kept."""
    if n < width:
        for i in range(n):
            kept[i], kept_costs[i] = nodes[i], costs[i]
        return n
    m, left = 0, 0
    for i in range(n):
        row, good = rows[nodes[i]], True
        for j in range(m):
            if _cost(row, rows, kept[j], metric, arg) < costs[i]:
                good = False
                break
        if good:
            kept[m], kept_costs[m] = nodes[i], costs[i]
            m += 1
            if m >= width:
                return m
        elif keep_full:
            passed[left], passed_costs[left] = nodes[i], costs[i]
            left += 1
    if keep_full:
        for i in range(left):
            if m >= width:
                break
            at = m
            while at > 0 and kept_costs[at - 1] > passed_costs[i]:
                kept[at], kept_costs[at] = kept[at - 1], kept_costs[at - 1]
                at -= 1
            kept[at], kept_costs[at] = passed[i], passed_costs[i]
            m += 1
    return m


@inline
def _edge(
    rows,
    offsets,
    neighbors,
    ends,
    source,
    target,
    level,
    metric,
    arg,
    keep_full,
    nodes,
    costs,
    kept,
    kept_costs,
    passed,
    passed_costs,
):
    """Add an edge; a full list is chosen anew."""
    begin, end = offsets[source] + ends[level], offsets[source] + ends[level + 1]
    if neighbors[end - 1] < 0:
        at = end
        while at > begin and neighbors[at - 1] < 0:
            at -= 1
        neighbors[at] = target
        return
    row, n = rows[source], 0
    for e in range(begin - 1, end):
        other = target if e < begin else np.int64(neighbors[e])
        cost = _cost(row, rows, other, metric, arg)
        at = n
        while at > 0 and costs[at - 1] > cost:
            costs[at], nodes[at] = costs[at - 1], nodes[at - 1]
            at -= 1
        costs[at], nodes[at] = cost, other
        n += 1
    m = _shrunk(rows, costs, nodes, n, end - begin, metric, arg, keep_full, kept, kept_costs, passed, passed_costs)
    for i in range(m):  # farthest first, as FAISS leaves them
        neighbors[begin + i] = kept[m - 1 - i]
    for e in range(begin + m, end):
        neighbors[e] = -1


@jit
def _link(
    rows,
    levels,
    offsets,
    neighbors,
    ends,
    order,
    entry,
    top,
    ef,
    metric,
    arg,
    keep_full,
    visited,
    generation,
    locks,
    counts,
    start,
    end,
):
    """Link the nodes order[start:end], which reach no higher than `top`."""
    widest = 0
    for level in range(ends.shape[0] - 1):
        widest = max(widest, ends[level + 1] - ends[level])
    room = max(ef, widest) + 2
    pool, nodes, done = np.empty(ef, np.float32), np.empty(ef, np.int64), np.empty(ef, np.bool_)
    some, some_costs = np.empty(room, np.int64), np.empty(room, np.float32)
    kept, kept_costs = np.empty(room, np.int64), np.empty(room, np.float32)
    passed, passed_costs = np.empty(room, np.int64), np.empty(room, np.float32)
    chosen, fresh = np.empty(room, np.int64), np.empty(widest, np.int64)
    for o in range(start, end):
        new = order[o]
        x = rows[new]
        level = levels[new] - 1
        node, cost = entry, _cost(x, rows, entry, metric, arg)
        for upper in range(top, level, -1):
            node, cost = _greedy(x, rows, offsets, neighbors, ends, node, cost, upper, metric, arg, counts)
        for here in range(min(level, top), -1, -1):
            generation += 1
            size, first = 0, 0
            visited[node] = generation
            visited[new] = generation
            at, size = _place(pool, nodes, done, size, cost, node)
            while True:
                while first < size and done[first]:
                    first += 1
                if first >= size:
                    break
                current = nodes[first]
                done[first] = True
                n_fresh = 0
                for e in range(offsets[current] + ends[here], offsets[current] + ends[here + 1]):
                    other = np.int64(neighbors[e])
                    if other < 0:
                        break
                    if visited[other] != generation:
                        visited[other] = generation
                        fresh[n_fresh] = other
                        n_fresh += 1
                if n_fresh:
                    _fetch(rows, fresh[0])
                for f in range(n_fresh):
                    if f + 1 < n_fresh:
                        _fetch(rows, fresh[f + 1])
                    at, size = _place(pool, nodes, done, size, _cost(x, rows, fresh[f], metric, arg), fresh[f])
                    if at < first:
                        first = at
            width, full = ends[here + 1] - ends[here], keep_full and here == 0
            m = _shrunk(rows, pool, nodes, size, width, metric, arg, full, kept, kept_costs, passed, passed_costs)
            for i in range(m):
                chosen[i] = kept[m - 1 - i]
            node, cost = nodes[0], pool[0]
            while not try_lock(locks, new):
                pass
            for i in range(m):
                _edge(rows, offsets, neighbors, ends, new, chosen[i], here, metric, arg, full,
                      some, some_costs, kept, kept_costs, passed, passed_costs)  # fmt: skip
            unlock(locks, new)
            for i in range(m):
                other = chosen[i]
                while not try_lock(locks, other):
                    pass
                _edge(rows, offsets, neighbors, ends, other, new, here, metric, arg, full,
                      some, some_costs, kept, kept_costs, passed, passed_costs)  # fmt: skip
                unlock(locks, other)
    return generation


def _visited(n: int, uses: int) -> tuple[np.ndarray, int]:
    """This thread's table of when each node was last met, and the number before the next walk's."""
    kept = getattr(_local, "table", None)
    if kept is None or kept[0].shape[0] < n or kept[1] + uses >= 1 << 31:
        kept = (np.zeros(n + n // 8, dtype=np.int32), 0)
    _local.table = (kept[0], kept[1] + uses)
    return kept


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
    nq = x.shape[0]
    costs, labels = np.empty((nq, k), dtype=np.float32), np.empty((nq, k), dtype=np.int64)
    arrays = graph.kept.get("views")
    if arrays is None:
        arrays = graph.kept["views"] = graph.offsets.numpy(), graph.neighbors.numpy(), graph.ends.numpy()
    table, queries = rows.numpy(), x.numpy()
    given = _NO_STARTS if starts is None else starts.to(torch.int64).contiguous().numpy()
    mask = _NO_MASK if allowed is None else allowed.contiguous().numpy()

    def some(start: int, stop: int) -> np.ndarray:
        counts = np.zeros(3, dtype=np.int64)
        visited, generation = _visited(table.shape[0], stop - start + 1)
        _search(  # type: ignore[call-arg]
            queries,
            table,
            *arrays,
            *(graph.entry, graph.top, walk.ef, walk.stop, walk.check, metric, np.float32(metric_arg), metric == _IP),
            *(mask, given, visited, generation, costs, labels, np.float32(0), _NO_COSTS, _NO_NODES, counts, start, stop),
        )
        return counts

    if nq < _TOGETHER:
        counted = some(0, nq)
    else:
        totals: list[np.ndarray] = []
        run_blocks(lambda a, b: totals.append(some(a, b)), nq, _TOGETHER // 2)
        counted = np.sum(totals, axis=0)
    return torch.from_numpy(costs), torch.from_numpy(labels), (int(counted[0]), int(counted[1]))


def build(
    rows: Tensor,
    graph: Graph,
    order: Tensor,
    groups: Tensor,
    ef: int,
    metric: int,
    metric_arg: float = 0.0,
    keep_full: bool = False,
) -> tuple[int, int]:
    table, names, levels = rows.contiguous().numpy(), order.numpy(), graph.levels.numpy()
    arrays = levels, graph.offsets.numpy(), graph.neighbors.numpy(), graph.ends.numpy()
    locks, counts = np.zeros(table.shape[0], dtype=np.int32), np.zeros(3, dtype=np.int64)
    entry, top = graph.entry, graph.top
    bounds = groups.tolist()
    for begin, end in zip(bounds[:-1], bounds[1:]):
        if begin == end:
            continue
        if entry < 0:
            entry, top = int(names[begin]), int(levels[names[begin]]) - 1
            begin += 1

        def some(start: int, stop: int, first: int = begin, entry: int = entry, top: int = top) -> None:
            height = int(levels[names[first]]) if first < names.shape[0] else 1
            visited, generation = _visited(table.shape[0], (stop - start + 1) * (height + 1))
            _link(
                table, *arrays, names, entry, top, ef, metric, np.float32(metric_arg), keep_full, visited, generation, locks, counts,
                first + start, first + stop,
            )  # fmt: skip

        # The first of a group meet an almost empty level: one after the other they find each other.
        alone = min(_ALONE, end - begin)
        some(0, alone)
        run_blocks(lambda a, b: some(alone + a, alone + b), end - begin - alone, _GRAIN)
        if end > begin and int(levels[names[begin]]) - 1 > top:
            entry, top = int(names[begin]), int(levels[names[begin]]) - 1
    return entry, top
