"""Parts of walks on a graph, for searching and building, compiled.

A candidate is one word: its cost as an integer of the same order, then its number, then whether it was expanded. Candidates stand in a
pool sorted by cost; ties stay in order of arrival. Nodes met are marked with the walk's number, a byte that comes round every 255 walks.
"""

from __future__ import annotations

import threading

import numpy as np

from tsscompat.kernels.metrics import HAMMING, INNER_PRODUCT, JACCARD, L2
from tsscompat.kernels.numba.addressed import (
    address,
    minus_dot_at,
    minus_dot_four,
    prefetch_at,
    shift_up,
    squared_l2_at,
    squared_l2_four,
)
from tsscompat.kernels.numba.jit import inline
from tsscompat.kernels.numba.metrics import one_distance
from tsscompat.kernels.numba.popcount import differing

_IP, _L2, _JACCARD, _HAMMING = INNER_PRODUCT, L2, JACCARD, HAMMING
_INFINITE = 0x7F800000
_STEP = np.int64(1) << 32
# From so many candidates on, a pool's tail is moved at once instead of one by one.
_MANY = 48
# Rows are asked for ahead of time up to this many bytes.
_AHEAD = 1024
_local = threading.local()


@inline
def ordered(cost):  # type: ignore[no-untyped-def]
    """An integer for a cost, in the same order; one for both zeros, and that of infinity for NaN."""
    bits = np.int64(np.float32(cost).view(np.int32))
    size = bits & 0x7FFFFFFF
    if size > _INFINITE:
        return np.int64(_INFINITE)
    return size if bits >= 0 else -size


@inline
def cost_of(key):  # type: ignore[no-untyped-def]
    """The cost that `ordered` made an integer of."""
    bits = key if key >= 0 else -key | 0x80000000
    return np.int32(bits).view(np.float32)


@inline
def node_of(candidate):  # type: ignore[no-untyped-def]
    return (candidate & 0xFFFFFFFF) >> 1


@inline
def candidate_of(cost, node):  # type: ignore[no-untyped-def]
    return (ordered(cost) << 32) | (node << 1)


@inline
def place(pool, size, cost, node):  # type: ignore[no-untyped-def]
    """Enter a candidate into the sorted pool; gives its place (the pool's room, if it is not near enough) and the new size."""
    room = pool.shape[0]
    farther = (ordered(cost) + 1) << 32
    if size == room:
        if pool[size - 1] < farther:
            return room, size
        size -= 1
    at = size
    if size > _MANY:
        low = 0
        while low < at:
            middle = (low + at) >> 1
            if pool[middle] < farther:
                low = middle + 1
            else:
                at = middle
        shift_up(pool, at, size)
    else:
        while at > 0 and pool[at - 1] >= farther:
            pool[at] = pool[at - 1]
            at -= 1
    pool[at] = (farther - _STEP) | (node << 1)
    return at, size + 1


@inline
def _ask(base, width, nodes, begin, end):  # type: ignore[no-untyped-def]
    """Ask for the rows of nodes[begin:end]."""
    for i in range(begin, end):
        row = base + nodes[i] * width
        for byte in range(0, min(width, _AHEAD), 64):
            prefetch_at(row + byte)


@inline
def measure(xs, q, rows, nodes, n, metric, arg, costs):  # type: ignore[no-untyped-def]
    """Write the costs of the first n nodes for row q of xs."""
    d = rows.shape[1]
    width = 4 * d
    x, base, out = address(xs) + q * width, address(rows), address(costs)
    if metric == _L2 or metric == _IP:
        _ask(base, width, nodes, 0, min(4, n))
        whole = n & -4
        for i in range(0, whole, 4):
            _ask(base, width, nodes, i + 4, min(i + 8, n))
            a, b = base + nodes[i] * width, base + nodes[i + 1] * width
            c, e = base + nodes[i + 2] * width, base + nodes[i + 3] * width
            if metric == _L2:
                squared_l2_four(x, a, b, c, e, d, out + 4 * i)
            else:
                minus_dot_four(x, a, b, c, e, d, out + 4 * i)
        for i in range(whole, n):
            row = base + nodes[i] * width
            costs[i] = squared_l2_at(x, row, d) if metric == _L2 else minus_dot_at(x, row, d)
    elif metric == _HAMMING:
        _ask(base, width, nodes, 0, n)
        for i in range(n):
            costs[i] = np.float32(differing(x, base + nodes[i] * width, d >> 1))
    else:
        for i in range(n):
            value = one_distance(xs[q], rows[nodes[i]], metric, arg)
            costs[i] = -value if metric == _JACCARD else value


@inline
def between(rows, i, j, metric, arg):  # type: ignore[no-untyped-def]
    """The cost of node j for node i."""
    d = rows.shape[1]
    if metric == _L2:
        return squared_l2_at(address(rows) + i * d * 4, address(rows) + j * d * 4, d)
    if metric == _IP:
        return minus_dot_at(address(rows) + i * d * 4, address(rows) + j * d * 4, d)
    if metric == _HAMMING:
        return np.float32(differing(address(rows) + i * d * 4, address(rows) + j * d * 4, d >> 1))
    value = one_distance(rows[i], rows[j], metric, arg)
    return -value if metric == _JACCARD else value


@inline
def listed(neighbors, begin, end, nodes):  # type: ignore[no-untyped-def]
    """Copy a list of neighbours; gives how many."""
    n = 0
    for e in range(begin, end):
        other = neighbors[e]
        if other < 0:
            break
        nodes[n] = other
        n += 1
    return n


@inline
def unmet(neighbors, begin, end, visited, number, nodes):  # type: ignore[no-untyped-def]
    """Copy and mark the neighbours that this walk did not meet before; gives how many. The list is read once: others may write it."""
    table, n = address(visited), 0
    for e in range(begin, end):
        other = neighbors[e]
        if other < 0:
            break
        prefetch_at(table + other)
        nodes[n] = other
        n += 1
    new = 0
    for i in range(n):
        other = nodes[i]
        nodes[new] = other
        new += visited[other] != number
        visited[other] = number
    return new


@inline
def next_walk(visited, turn):  # type: ignore[no-untyped-def]
    """The number of a new walk; the marks are wiped when numbers begin again."""
    turn[0] += 1
    if turn[0] == 256:
        visited[:] = 0
        turn[0] = 1
    return np.uint8(turn[0])


@inline
def greedy(xs, q, rows, offsets, neighbors, ends, node, cost, level, metric, arg, nodes, costs):  # type: ignore[no-untyped-def]
    """Step to better neighbours on a level while there are any; gives the node, its cost, and how many costs and steps it took."""
    n_costs, n_steps = 0, 0
    while True:
        begin = offsets[node]
        n = listed(neighbors, begin + ends[level], begin + ends[level + 1], nodes)
        measure(xs, q, rows, nodes, n, metric, arg, costs)
        best = node
        for i in range(n):
            if costs[i] < cost:
                cost, best = costs[i], nodes[i]
        n_costs += n
        n_steps += 1
        if best == node:
            return node, cost, n_costs, n_steps
        node = best


def marks(n: int) -> tuple[np.ndarray, np.ndarray]:
    """This thread's table of the walks that last met each node, and the last walk's number."""
    kept: tuple[np.ndarray, np.ndarray] | None = getattr(_local, "table", None)
    if kept is None or kept[0].shape[0] < n:
        kept = _local.table = np.zeros(n + n // 8, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    return kept
