"""Polysemous codes: numbering the centroids of a part so that the Hamming distances of numbers resemble distances of centroids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator
from tsscompat.kernels.annealing import anneal, anneal_order, order_gains
from tsscompat.records import record

# One run: the permutation to begin with and the random words it may use up; gives what `anneal` gives.
Run = Callable[[Tensor, Tensor], tuple[Tensor, float, int]]


@record
class Annealing:
    """How to anneal; the names are those of FAISS's parameters."""

    init_temperature: float
    temperature_decay: float
    n_iter: int
    n_redo: int
    seed: int
    only_bit_flips: bool
    init_random: bool


def _best(n: int, how: Annealing, run: Run) -> tuple[Tensor, float]:
    """The best of some runs, which share one stream of random words."""
    generator, words = RandomGenerator(how.seed), torch.empty(0, dtype=torch.int32)
    best, cost = torch.arange(n), 1e30
    for _ in range(how.n_redo):
        # A run takes at most three words a swap, and one a number to begin with; what it leaves is for the next.
        words = torch.cat([words, generator.words(3 * how.n_iter + n - words.shape[0])])
        perm = list(range(n))
        if how.init_random:
            for i, word in enumerate(words[:n].tolist()):
                j = i + (word & 0xFFFFFFFF) % (n - i)
                perm[i], perm[j] = perm[j], perm[i]
            words = words[n:]
        found, reached, used = run(torch.tensor(perm), words[: 3 * how.n_iter].view(how.n_iter, 3))
        words = words[used:]
        # FAISS compares costs as floats.
        reached = float(torch.tensor(reached, dtype=torch.float32))
        if reached < cost:
            best, cost = found, reached
    return best, cost


def by_distance(centroids: Tensor, nbits: int, how: Annealing, weight: float) -> tuple[Tensor, float]:
    """For the centroids of one part the new number of each, and the cost reached: Hamming distances resemble distances."""
    points = centroids.cpu()
    gaps = (points[:, None] - points[None]).square().sum(-1).double()
    deviation = (gaps.square().mean() - gaps.mean() ** 2).sqrt()
    # FAISS divides whole numbers here.
    wanted = ((gaps - gaps.mean()) / deviation * (nbits // 4) ** 0.5 + nbits // 2).contiguous()
    weights = (-weight * wanted).exp().contiguous()

    def run(start: Tensor, draws: Tensor) -> tuple[Tensor, float, int]:
        return anneal(wanted, weights, draws, how.init_temperature, how.temperature_decay, start, how.only_bit_flips)

    return _best(points.shape[0], how, run)


def by_order(owner: Tensor, parts: Tensor, distances: Tensor, n: int, how: Annealing) -> tuple[Tensor, float]:
    """The same, so that Hamming distances order points as the distances (queries, points) do.

    `owner` and `parts` are the centroids that the queries and the points are replaced by.
    """
    gains = order_gains(owner.cpu(), parts.cpu(), distances.cpu().sort(dim=1, stable=True).indices, n)

    def run(start: Tensor, draws: Tensor) -> tuple[Tensor, float, int]:
        return anneal_order(gains, draws, how.init_temperature, how.temperature_decay, start, how.only_bit_flips)

    return _best(n, how, run)
