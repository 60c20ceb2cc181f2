"""Polysemous codes: numbering the centroids of a part so that the Hamming distances of numbers resemble distances of centroids."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator
from tsscompat.kernels.annealing import anneal


def renumbering(
    centroids: Tensor, nbits: int, n_iter: int, n_redo: int, temperature: float, decay: float, seed: int, weight: float
) -> tuple[Tensor, float]:
    """For the centroids of one part the new number of each, and the cost reached."""
    points = centroids.cpu()
    gaps = (points[:, None] - points[None]).square().sum(-1).double()
    deviation = (gaps.square().mean() - gaps.mean() ** 2).sqrt()
    # FAISS divides whole numbers here.
    wanted = (gaps - gaps.mean()) / deviation * (nbits // 4) ** 0.5 + nbits // 2
    weights = (-weight * wanted).exp()
    words, best = torch.from_numpy(RandomGenerator(seed).raw(3 * n_iter * n_redo).astype("int64")), None
    for _ in range(n_redo):
        draws = words[: 3 * n_iter].view(n_iter, 3)
        perm, cost, used = anneal(wanted.contiguous(), weights.contiguous(), draws, temperature, decay)
        words = words[used:]
        if best is None or cost < best[1]:
            best = perm, cost
    assert best is not None
    return best
