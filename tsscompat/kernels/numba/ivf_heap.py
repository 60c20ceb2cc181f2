"""What a scan of inverted lists keeps: heaps of the best k, worst at the root, or everything within a radius; compiled.

The order is FAISS's: by cost, then by label. For similarities costs are negated and labels complemented, so that ties go down in label.
"""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.jit import inline, jit

WORST = np.float32(np.finfo(np.float32).max)


@inline
def sift_into(costs, labels, n, i, cost, label):  # type: ignore[no-untyped-def]
    """Put (cost, label) in place i of a heap of n, or below, where the entries below are heaps."""
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        right = child + 1
        if right < n and (costs[right] > costs[child] or (costs[right] == costs[child] and labels[right] > labels[child])):
            child = right
        if cost > costs[child] or (cost == costs[child] and label > labels[child]):
            break
        costs[i] = costs[child]
        labels[i] = labels[child]
        i = child
    costs[i] = cost
    labels[i] = label


@inline
def sift(costs, labels, n, cost, label):  # type: ignore[no-untyped-def]
    """Put (cost, label) in the place of the root of a heap of n."""
    sift_into(costs, labels, n, 0, cost, label)


@inline
def sift_from(costs, labels, n, i):  # type: ignore[no-untyped-def]
    """Sink entry i of n to where a heap has it."""
    sift_into(costs, labels, n, i, costs[i], labels[i])


@inline
def start_heap(costs, labels, ip):  # type: ignore[no-untyped-def]
    for i in range(costs.shape[0]):
        costs[i] = WORST
        labels[i] = 0 if ip else -1


@inline
def finish(costs, labels, ip):  # type: ignore[no-untyped-def]
    """Turn a heap into the answer, best first."""
    for end in range(costs.shape[0] - 1, 0, -1):
        cost, label = costs[end], labels[end]
        costs[end], labels[end] = costs[0], labels[0]
        sift(costs, labels, end, cost, label)
    if ip:
        for i in range(costs.shape[0]):
            costs[i] = -costs[i]
            labels[i] = ~labels[i]


@inline
def among(allowed, a, b):  # type: ignore[no-untyped-def]
    """How many of the rows a : b are allowed."""
    n = 0
    for r in range(a, b):
        n += allowed[r]
    return n


@inline
def _any_under(group, bar):  # type: ignore[no-untyped-def]
    """Whether a cost is under the bar; counted in floats, so that all lanes of a vector work and NaN is not under."""
    under = np.float32(0)
    for i in range(group.shape[0]):
        under += np.float32(1) if group[i] < bar else np.float32(0)
    return under > 0


@inline
def put(costs, labels, ip, found, a, b, ids, first, start, pairs, allowed):  # type: ignore[no-untyped-def]
    """Enter the costs of rows a : b into a heap; says how many got in."""
    k = costs.shape[0]
    masked = allowed.shape[0] > 0
    entered = 0
    bar = costs[0]
    for g in range(0, b - a, 64):
        group = found[g : min(g + 64, b - a)]
        # Late in a scan few groups hold anything: a whole one is looked at with vector instructions first (0.2 ns a code against 1).
        if not _any_under(group, bar):
            continue
        for i in range(group.shape[0]):
            if group[i] < bar:
                row = a + g + i
                if masked and not allowed[row]:
                    continue
                label = first | (row - start) if pairs else ids[row]
                sift(costs, labels, k, group[i], ~label if ip else label)
                bar = costs[0]
                entered += 1
    return entered


@inline
def roomy(values, n, more):  # type: ignore[no-untyped-def]
    """`values`, or a larger copy of its first n items, with room for `more` behind them."""
    if n + more <= values.shape[0]:
        return values
    grown = np.empty(2 * (n + more), values.dtype)
    grown[:n] = values[:n]
    return grown


@inline
def collect(values, labels, n, radius, ip, found, a, b, ids, first, start, pairs, allowed):  # type: ignore[no-untyped-def]
    """Write the costs of rows a : b that are under the radius behind the n results so far; gives the new n."""
    masked = allowed.shape[0] > 0
    for i in range(b - a):
        if found[i] < radius:
            row = a + i
            if masked and not allowed[row]:
                continue
            values[n] = -found[i] if ip else found[i]
            labels[n] = first | (row - start) if pairs else ids[row]
            n += 1
    return n


@jit
def merge(costs, labels, ip):  # type: ignore[no-untyped-def]
    """The best k of several answers of k to one query, as tables of one row."""
    parts, k = costs.shape
    best, names = np.empty((1, k), np.float32), np.empty((1, k), np.int64)
    at = np.zeros(parts, np.int64)
    for i in range(k):
        chosen = -1
        for p in range(parts):
            if at[p] == k or labels[p, at[p]] < 0:
                continue
            if chosen < 0:
                chosen = p
                continue
            v, w = costs[p, at[p]], costs[chosen, at[chosen]]
            n, m = labels[p, at[p]], labels[chosen, at[chosen]]
            if (v == w and (n > m if ip else n < m)) or (v != w and (v > w if ip else v < w)):
                chosen = p
        if chosen < 0:
            best[0, i], names[0, i] = -WORST if ip else WORST, -1
        else:
            best[0, i], names[0, i] = costs[chosen, at[chosen]], labels[chosen, at[chosen]]
            at[chosen] += 1
    return best, names
