"""Simulated annealing of a permutation, compiled. The random words come one by one: a third is drawn only when a swap does not help."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import inline, jit


@inline
def _gain(perm, wanted, weights, ones, a, b):
    """What a swap of a and b adds to the cost; both triangles count."""
    gain = 0.0
    pa, pb = perm[a], perm[b]
    for i in range(perm.shape[0]):
        if i == a or i == b:
            continue
        p = perm[i]
        near, far = np.float64(ones[p ^ pa]), np.float64(ones[p ^ pb])
        ga, gb = wanted[i, a], wanted[i, b]
        gain += weights[i, a] * ((ga - far) ** 2 - (ga - near) ** 2) + weights[i, b] * ((gb - near) ** 2 - (gb - far) ** 2)
    return 2.0 * gain


@jit
def _run(wanted, weights, words, n_iter, temperature, decay, perm, ones):
    n = perm.shape[0]
    cost, at = 0.0, 0
    for i in range(n):
        for j in range(n):
            cost += weights[i, j] * (wanted[i, j] - ones[i ^ j]) ** 2
    for _ in range(n_iter):
        temperature *= decay
        i, j = np.int64(words[at]) % n, np.int64(words[at + 1]) % (n - 1)
        at += 2
        if j == i:
            j += 1
        gain = _gain(perm, wanted, weights, ones, i, j)
        take = gain < 0
        if not take:
            take = np.float32(words[at]) / np.float32(4294967296.0) < temperature
            at += 1
        if take:
            perm[i], perm[j] = perm[j], perm[i]
            cost += gain
    return cost, at


def anneal(wanted: Tensor, weights: Tensor, draws: Tensor, temperature: float, decay: float) -> tuple[Tensor, float, int]:
    n = wanted.shape[0]
    ones = np.array([int(i).bit_count() for i in range(n)], dtype=np.int64)
    perm, words = np.arange(n), draws.reshape(-1).numpy()
    cost, used = _run(wanted.numpy(), weights.numpy(), words, draws.shape[0], temperature, decay, perm, ones)
    return torch.from_numpy(perm), float(cost), used
