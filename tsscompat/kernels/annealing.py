"""Simulated annealing of a permutation, so that Hamming distances between its values resemble given distances."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


def _cost(perm: list[int], wanted: list[list[float]], weights: list[list[float]], rows: list[int]) -> float:
    return sum(
        weights[i][j] * (wanted[i][j] - (perm[i] ^ perm[j]).bit_count()) ** 2 * (1 if j in rows else 2)
        for i in rows
        for j in range(len(perm))
    )


@accelerated
def anneal(wanted: Tensor, weights: Tensor, draws: Tensor, temperature: float, decay: float) -> tuple[Tensor, float, int]:
    """The permutation after trying draws.shape[0] swaps, its cost, and how many words that took; the tables are symmetric.

    `draws` (n_iter, 3) are 32-bit words in the order in which they are used up: two for each swap, one more where it does not help.
    """
    n = wanted.shape[0]
    perm, table, scale, words = list(range(n)), wanted.tolist(), weights.tolist(), iter(draws.reshape(-1).tolist())
    cost = _cost(perm, table, scale, list(range(n)))
    for _ in range(draws.shape[0]):
        temperature *= decay
        i, j = next(words) % n, next(words) % (n - 1)
        j += j == i
        before = _cost(perm, table, scale, [i, j])
        perm[i], perm[j] = perm[j], perm[i]
        gain = _cost(perm, table, scale, [i, j]) - before
        if gain < 0 or next(words) / 4294967296.0 < temperature:
            cost += gain
        else:
            perm[i], perm[j] = perm[j], perm[i]
    return torch.tensor(perm), cost, draws.numel() - sum(1 for _ in words)
