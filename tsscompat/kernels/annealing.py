"""Simulated annealing of a permutation, so that Hamming distances between its values resemble given distances, or their order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


def _walk(
    cost: Callable[[list[int]], float], perm: list[int], draws: Tensor, temperature: float, decay: float, flips: bool
) -> tuple[Tensor, float, int]:
    """Try draws.shape[0] swaps; a swap that does not help is kept with a probability that falls."""
    n, words, now = len(perm), iter((draws.reshape(-1).long() & 0xFFFFFFFF).tolist()), cost(perm)
    bits = (n - 1).bit_length()
    for _ in range(draws.shape[0]):
        temperature *= decay
        i, j = next(words) % n, next(words)
        if flips:
            j = i ^ 1 << j % bits
        else:
            j %= n - 1
            j += j == i
        perm[i], perm[j] = perm[j], perm[i]
        then = cost(perm)
        if then - now < 0 or next(words) / 4294967296.0 < temperature:
            now = then
        else:
            perm[i], perm[j] = perm[j], perm[i]
    return torch.tensor(perm), now, draws.numel() - sum(1 for _ in words)


def _hamming(perm: Tensor) -> Tensor:
    """Hamming distances between the values, (n, n)."""
    differing, count = (
        perm[:, None] ^ perm[None],
        torch.zeros(perm.shape[0], perm.shape[0], dtype=torch.int64, device=perm.device),
    )
    for bit in range(perm.shape[0].bit_length()):
        count += differing >> bit & 1
    return count


def _begin(table: Tensor, start: Tensor | None) -> list[int]:
    return list(range(table.shape[0])) if start is None else start.tolist()


@accelerated
def anneal(
    wanted: Tensor,
    weights: Tensor,
    draws: Tensor,
    temperature: float,
    decay: float,
    start: Tensor | None = None,
    flips: bool = False,
) -> tuple[Tensor, float, int]:
    """The permutation after trying draws.shape[0] swaps, its cost, and how many words that took; the tables (n, n) are symmetric.

    `draws` (n_iter, 3) are 32-bit words, held as int32, in the order in which they are used up: two for each swap, one more where it
    does not help.
    It begins with the identity, or `start`; with `flips` the numbers of a swap differ in one bit.
    """

    def cost(perm: list[int]) -> float:
        return float((weights * (wanted - _hamming(torch.tensor(perm, device=wanted.device))).square()).sum())

    return _walk(cost, _begin(wanted, start), draws, temperature, decay, flips)


@accelerated
def anneal_order(
    gains: Tensor, draws: Tensor, temperature: float, decay: float, start: Tensor | None = None, flips: bool = False
) -> tuple[Tensor, float, int]:
    """The same, where the cost is minus the sum of gains[i, j, k] over all j that are closer to i, by Hamming distance, than k is."""

    def cost(perm: list[int]) -> float:
        apart = _hamming(torch.tensor(perm, device=gains.device))
        # A row at a time: the whole comparison would take n**3 bytes.
        return -sum(float(gains[i][apart[i, :, None] < apart[i]].double().sum()) for i in range(len(perm)))

    return _walk(cost, _begin(gains, start), draws, temperature, decay, flips)


@accelerated
def order_gains(owner: Tensor, parts: Tensor, order: Tensor, n: int) -> Tensor:
    """gains (n, n, n): for queries of part i, how much it matters that a point of part j comes before one of part k.

    `owner` are the parts of the queries, `parts` those of the points, `order` (queries, points) the points by distance. A pair at ranks
    r < s counts 1 / (r + 1) / (s - r + 1).
    """
    gains = torch.zeros(n, n, n)
    ranks = torch.arange(parts.shape[0], dtype=torch.float64)
    for query, points in zip(owner.tolist(), order):
        first, second = ranks[:, None], ranks[None]
        weight = torch.where(first < second, 1 / (first + 1) / (second - first + 1), 0.0)
        by_rank = parts[points].long()
        where = by_rank[:, None] * n + by_rank[None]
        added = torch.zeros(n * n, dtype=torch.float64).index_add_(0, where.reshape(-1), weight.reshape(-1))
        gains[query] += added.view(n, n).float()
    return gains
