"""NN-descent, compiled. Threads share the pools; one is only written under its node's lock."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.graph_walk import candidate_of, measure, node_of
from tsscompat.kernels.numba.intrinsics import try_lock, unlock
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks

_GRAIN = 100


@inline
def _held(pool, size, name):  # type: ignore[no-untyped-def]
    found = False
    for i in range(size):  # to the end, which vectorises
        found |= node_of(pool[i]) == name
    return found


@inline
def _insert(pools, sizes, locks, node, word):  # type: ignore[no-untyped-def]
    """Enter a candidate into a node's pool."""
    pool = pools[node]
    if sizes[node] and word >> 32 > pool[0] >> 32:  # without the lock: the worst never gets worse
        return
    while not try_lock(locks, node):
        pass
    size = sizes[node]
    if not (size and word >> 32 > pool[0] >> 32) and not _held(pool, size, node_of(word)):
        if size < pool.shape[0]:
            at = size
            while at > 0 and pool[at - 1] < word:
                pool[at] = pool[at - 1]
                at -= 1
            pool[at] = word
            sizes[node] = size + 1
        elif word < pool[0]:
            at = 1
            while at < size and pool[at] > word:
                pool[at - 1] = pool[at]
                at += 1
            pool[at - 1] = word
    unlock(locks, node)


@jit
def _join(rows, pools, sizes, new, old, metric, arg, locks, start, end):  # type: ignore[no-untyped-def]
    room = new.shape[1] + old.shape[1]
    nodes, costs = np.empty(room, np.int64), np.empty(room, np.float32)
    for q in range(start, end):
        for i in range(new.shape[1]):
            one, n = np.int64(new[q, i]), 0
            if one < 0:
                break
            for j in range(new.shape[1]):
                other = np.int64(new[q, j])
                if other < 0:
                    break
                if one < other:
                    nodes[n] = other
                    n += 1
            for j in range(old.shape[1]):
                other = np.int64(old[q, j])
                if other < 0:
                    break
                if one != other:
                    nodes[n] = other
                    n += 1
            measure(rows, one, rows, nodes, n, metric, arg, costs)
            for j in range(n):
                _insert(pools, sizes, locks, one, candidate_of(costs[j], nodes[j]))
                _insert(pools, sizes, locks, nodes[j], candidate_of(costs[j], one))


def join(rows: Tensor, pools: Tensor, sizes: Tensor, new: Tensor, old: Tensor, metric: int, arg: float = 0.0) -> None:
    known = rows.contiguous().numpy(), pools.numpy(), sizes.numpy(), new.contiguous().numpy(), old.contiguous().numpy()
    locks = np.zeros(rows.shape[0], dtype=np.int32)
    run_blocks(lambda a, b: _join(*known, metric, np.float32(arg), locks, a, b), rows.shape[0], _GRAIN)


@jit
def _draws(pools, sizes, reach, back, wanted):  # type: ignore[no-untyped-def]
    drawn = 0
    for node in range(pools.shape[0]):
        for at in range(reach[node]):
            word = pools[node, sizes[node] - 1 - at]
            other = node_of(word)
            if word >> 32 > pools[other, 0] >> 32:
                wanted[other, word & 1] += 1
                drawn += wanted[other, word & 1] > back
    return drawn


def draws(pools: Tensor, sizes: Tensor, reach: Tensor, back: int) -> int:
    wanted = np.zeros((pools.shape[0], 2), dtype=np.int32)
    return int(_draws(pools.numpy(), sizes.numpy(), reach.numpy(), back, wanted))


@jit
def _sampled(pools, sizes, reach, back, random, new, old, n_new, n_old, back_new, back_old, n_back_new, n_back_old):  # type: ignore[no-untyped-def]
    drawn, width = 0, old.shape[1]
    for node in range(pools.shape[0]):
        for at in range(reach[node]):
            place = sizes[node] - 1 - at
            word = pools[node, place]
            other, known = node_of(word), word & 1
            pools[node, place] = word | 1
            if known:
                if n_old[node] < width:
                    old[node, n_old[node]] = other
                    n_old[node] += 1
            else:
                new[node, n_new[node]] = other
                n_new[node] += 1
            if back and word >> 32 > pools[other, 0] >> 32:
                table, counts = (back_old, n_back_old) if known else (back_new, n_back_new)
                if counts[other] < back:
                    table[other, counts[other]] = node
                    counts[other] += 1
                else:
                    table[other, random[drawn] % back] = node
                    drawn += 1
    for node in range(pools.shape[0]):
        for i in range(n_back_new[node]):
            new[node, n_new[node] + i] = back_new[node, i]
        for i in range(min(n_back_old[node], width - n_old[node])):
            old[node, n_old[node] + i] = back_old[node, i]


def sampled(pools: Tensor, sizes: Tensor, reach: Tensor, sample: int, back: int, random: Tensor) -> tuple[Tensor, Tensor]:
    n = pools.shape[0]
    new, old = np.full((n, sample + back), -1, dtype=np.int32), np.full((n, 2 * back), -1, dtype=np.int32)
    counts = np.zeros((4, n), dtype=np.int32)
    behind = np.empty((n, back), dtype=np.int32), np.empty((n, back), dtype=np.int32)
    held = pools.numpy(), sizes.numpy(), reach.numpy(), back, random.numpy().view(np.uint32)
    _sampled(*held, new, old, counts[0], counts[1], *behind, counts[2], counts[3])
    return torch.from_numpy(new), torch.from_numpy(old)


__all__ = ["draws", "join", "sampled"]
