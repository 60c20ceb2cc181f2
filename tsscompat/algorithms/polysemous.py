"""Polysemous codes: numbering the centroids of a part so that the Hamming distances of numbers resemble distances of centroids."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator
from tsscompat.kernels.annealing import anneal, anneal_order, order_gains
from tsscompat.records import record

# Words drawn at a time: drawing makes three copies.
_PIECE = 1 << 16
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


class Words:
    """The random words that annealing a code's parts takes, held once: the runs of every part begin at the first."""

    def __init__(self, how: Annealing, n: int) -> None:
        self._generator, self._lock, self._drawn = RandomGenerator(how.seed), threading.Lock(), 0
        # A run takes at most three words a swap, and one a number to begin with. What is not drawn takes no memory yet.
        self._held = torch.empty(how.n_redo * (3 * how.n_iter + n), dtype=torch.int32)

    def part(self, start: int, stop: int) -> Tensor:
        """Words start to stop."""
        with self._lock:
            while self._drawn < stop:
                some = self._held[self._drawn : min(stop, self._drawn + _PIECE)]
                some.copy_(self._generator.words(some.shape[0]))
                self._drawn += some.shape[0]
        return self._held[start:stop]


def _best(n: int, how: Annealing, run: Run, words: Words) -> tuple[Tensor, float]:
    """The best of some runs, each of which goes on in the stream of words where the one before left it."""
    best, cost, at = torch.arange(n), 1e30, 0
    for _ in range(how.n_redo):
        perm = list(range(n))
        if how.init_random:
            for i, word in enumerate(words.part(at, at + n).tolist()):
                j = i + (word & 0xFFFFFFFF) % (n - i)
                perm[i], perm[j] = perm[j], perm[i]
            at += n
        found, reached, used = run(torch.tensor(perm), words.part(at, at + 3 * how.n_iter).view(how.n_iter, 3))
        at += used
        # FAISS compares costs as floats.
        reached = float(torch.tensor(reached, dtype=torch.float32))
        if reached < cost:
            best, cost = found, reached
    return best, cost


def by_distance(centroids: Tensor, nbits: int, how: Annealing, weight: float, words: Words) -> tuple[Tensor, float]:
    """For the centroids of one part the new number of each, and the cost reached: Hamming distances resemble distances."""
    points = centroids.cpu()
    # Some rows at a time: the differences of all take more memory than the rest of training, in each thread.
    gaps = torch.cat([(some[:, None] - points[None]).square().sum(-1) for some in points.split(32)]).double()
    deviation = (gaps.square().mean() - gaps.mean() ** 2).sqrt()
    # FAISS divides whole numbers here.
    wanted = ((gaps - gaps.mean()) / deviation * (nbits // 4) ** 0.5 + nbits // 2).contiguous()
    weights = (-weight * wanted).exp().contiguous()

    def run(start: Tensor, draws: Tensor) -> tuple[Tensor, float, int]:
        return anneal(wanted, weights, draws, how.init_temperature, how.temperature_decay, start, how.only_bit_flips)

    return _best(points.shape[0], how, run, words)


def by_order(owner: Tensor, parts: Tensor, distances: Tensor, n: int, how: Annealing, words: Words) -> tuple[Tensor, float]:
    """The same, so that Hamming distances order points as the distances (queries, points) do.

    `owner` and `parts` are the centroids that the queries and the points are replaced by.
    """
    gains = order_gains(owner.cpu(), parts.cpu(), distances.cpu().sort(dim=1, stable=True).indices, n)

    def run(start: Tensor, draws: Tensor) -> tuple[Tensor, float, int]:
        return anneal_order(gains, draws, how.init_temperature, how.temperature_decay, start, how.only_bit_flips)

    return _best(n, how, run, words)
