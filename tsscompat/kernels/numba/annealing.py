"""Simulated annealing of a permutation, compiled. The random words come one by one: a third is drawn only when a swap does not help."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import inline, jit


def _popcounts(n: int) -> np.ndarray:
    return np.array([int(i).bit_count() for i in range(n)], dtype=np.int64)


def _words(draws: Tensor) -> np.ndarray:
    return draws.reshape(-1).numpy().view(np.uint32)


def _begin(n: int, start: Tensor | None) -> np.ndarray:
    return np.arange(n) if start is None else start.numpy().copy()


@inline
def _swap(words, at, n, bits, flips):
    """The pair to swap next."""
    i = np.int64(words[at]) % n
    if flips:
        return i, i ^ (1 << np.int64(words[at + 1]) % bits)
    j = np.int64(words[at + 1]) % (n - 1)
    return i, j + 1 if j == i else j


@inline
def _hot(word, temperature):
    return np.float32(word) / np.float32(4294967296.0) < temperature


@inline
def _term(near, far, ga, gb, wa, wb):
    """What item i adds to the gain of a swap of a and b, with its Hamming distances to the values that these have before."""
    both = near + far
    return (near - far) * (wa * (ga + ga - both) - wb * (gb + gb - both))


@inline
def _gain(perm, apart, wanted, weights, a, b):
    """What a swap of a and b adds to the cost; both triangles count."""
    near, far, gain = apart[perm[a]], apart[perm[b]], 0.0
    ga, gb, wa, wb = wanted[a], wanted[b], weights[a], weights[b]
    for i in range(near.shape[0]):
        gain += _term(np.float64(near[i]), np.float64(far[i]), ga[i], gb[i], wa[i], wb[i])
    # The distance between the two stays.
    for i in (a, b):
        gain -= _term(np.float64(near[i]), np.float64(far[i]), ga[i], gb[i], wa[i], wb[i])
    return 2.0 * gain


@jit
def _distances(perm, ones, apart):
    """Hamming distances of each value to each item's: rows that a swap is judged by from end to end, 10 times as fast as by gathering."""
    for value in range(perm.shape[0]):
        for i in range(perm.shape[0]):
            apart[value, i] = ones[value ^ perm[i]]


@jit
def _run(wanted, weights, words, n_iter, temperature, decay, perm, ones, apart, bits, flips):
    n = perm.shape[0]
    cost, at = 0.0, 0
    _distances(perm, ones, apart)
    for i in range(n):
        for j in range(n):
            cost += weights[i, j] * (wanted[i, j] - ones[perm[i] ^ perm[j]]) ** 2
    for _ in range(n_iter):
        temperature *= decay
        i, j = _swap(words, at, n, bits, flips)
        at += 2
        gain = _gain(perm, apart, wanted, weights, i, j)
        take = gain < 0
        if not take:
            take = _hot(words[at], temperature)
            at += 1
        if take:
            perm[i], perm[j] = perm[j], perm[i]
            for value in range(n):
                apart[value, i], apart[value, j] = apart[value, j], apart[value, i]
            cost += gain
    return cost, at


def anneal(
    wanted: Tensor,
    weights: Tensor,
    draws: Tensor,
    temperature: float,
    decay: float,
    start: Tensor | None = None,
    flips: bool = False,
) -> tuple[Tensor, float, int]:
    n = wanted.shape[0]
    perm, words, bits = _begin(n, start), _words(draws), (n - 1).bit_length()
    # Values have as many bits as n - 1, whatever n is.
    ones, apart = _popcounts(1 << bits), np.empty((n, n), dtype=np.float32)
    tables = wanted.contiguous().numpy(), weights.contiguous().numpy()
    cost, used = _run(*tables, words, draws.shape[0], temperature, decay, perm, ones, apart, bits, bool(flips))
    return torch.from_numpy(perm), float(cost), used


@inline
def _row(gains, old, new, ones, i, j, first, last):
    """What changes in row j of plane i for third indices first and last only."""
    near, was = ones[new[i] ^ new[j]], ones[old[i] ^ old[j]]
    change = 0.0
    for k in (first, last):
        g = np.float64(gains[i, j, k])
        change += g * (near < ones[new[i] ^ new[k]]) - g * (was < ones[old[i] ^ old[k]])
    return change


@inline
def _whole_row(gains, old, new, ones, i, j):
    """What changes in row j of plane i."""
    near, was = ones[new[i] ^ new[j]], ones[old[i] ^ old[j]]
    change, ni, oi = 0.0, new[i], old[i]
    for k in range(old.shape[0]):
        g = np.float64(gains[i, j, k])
        change += g * (near < ones[ni ^ new[k]]) - g * (was < ones[oi ^ old[k]])
    return change


@jit
def _run_order(gains, words, n_iter, temperature, decay, perm, ones, bits, flips):
    n = perm.shape[0]
    cost, at = 0.0, 0
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if ones[perm[i] ^ perm[j]] < ones[perm[i] ^ perm[k]]:
                    cost -= np.float64(gains[i, j, k])
    trial = perm.copy()
    for _ in range(n_iter):
        temperature *= decay
        a, b = _swap(words, at, n, bits, flips)
        at += 2
        trial[a], trial[b] = perm[b], perm[a]
        gain = 0.0
        for i in range(n):
            for j in range(n):
                if i == a or i == b or j == a or j == b:
                    gain -= _whole_row(gains, perm, trial, ones, i, j)
                else:
                    gain -= _row(gains, perm, trial, ones, i, j, a, b)
        take = gain < 0
        if not take:
            take = _hot(words[at], temperature)
            at += 1
        if take:
            perm[a], perm[b] = trial[a], trial[b]
            cost += gain
        else:
            trial[a], trial[b] = perm[a], perm[b]
    return cost, at


def anneal_order(
    gains: Tensor, draws: Tensor, temperature: float, decay: float, start: Tensor | None = None, flips: bool = False
) -> tuple[Tensor, float, int]:
    n = gains.shape[0]
    perm, words, bits = _begin(n, start), _words(draws), (n - 1).bit_length()
    ones = _popcounts(1 << bits)
    cost, used = _run_order(gains.contiguous().numpy(), words, draws.shape[0], temperature, decay, perm, ones, bits, bool(flips))
    return torch.from_numpy(perm), float(cost), used


@jit
def _gains(owner, parts, order, n, gains):
    points = parts.shape[0]
    added = np.empty((n, n), dtype=np.float64)
    for q in range(owner.shape[0]):
        added[:] = 0
        for r in range(points):
            j = parts[order[q, r]]
            for s in range(r + 1, points):
                added[j, parts[order[q, s]]] += 1.0 / (r + 1) / (s - r + 1)
        table = gains[owner[q]]
        for j in range(n):
            for k in range(n):
                table[j, k] += np.float32(added[j, k])


def order_gains(owner: Tensor, parts: Tensor, order: Tensor, n: int) -> Tensor:
    gains = np.zeros((n, n, n), dtype=np.float32)
    _gains(owner.long().numpy(), parts.long().numpy(), order.contiguous().numpy(), n, gains)
    return torch.from_numpy(gains)
