"""Beam search of residual codes: at each step every vector keeps the few codes so far that leave least of it."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.select import select


def widen(residuals: Tensor, centroids: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Of residuals (n, beam, d) and centroids (K, d), the `width` nearest pairs of each n.

    Squared distances, best first, and the pairs' numbers: residual * K + centroid.
    """
    n, beam, d = residuals.shape
    rows = residuals.reshape(n * beam, d)
    lengths = rows.square().sum(1, keepdim=True) + centroids.square().sum(1)  # (n * beam, K)
    values = torch.addmm(lengths, rows, centroids.t(), alpha=-2.0)
    return select(values.view(n, beam * centroids.shape[0]), None, width, False)


def step(residuals: Tensor, codes: Tensor, centroids: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """One more codebook for a beam with residuals (n, beam, d) and codes (n, beam, m): codes, residuals, distances."""
    distances, places = widen(residuals, centroids, width)
    return (*follow(residuals, codes, centroids, places), distances)


def follow(residuals: Tensor, codes: Tensor, centroids: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and the residuals of pairs (n, width) that widen() named."""
    parent, chosen = places // centroids.shape[0], places % centroids.shape[0]
    row = torch.arange(places.shape[0], device=places.device)[:, None]
    return torch.cat([codes[row, parent], chosen[..., None].to(codes.dtype)], 2), residuals[row, parent] - centroids[chosen]


@accelerated
def beam_codes(x: Tensor, table: Tensor, nbits: tuple[int, ...], width: int, known: tuple[Tensor, Tensor] | None) -> Tensor:
    """The codes (n, M) of least residual that a beam of `width` finds; table (total, d) has 2 ** nbits[m] rows for codebook m.

    `known`: the rows' squared norms, and twice the inner products of each codebook's rows with those of all before it, one block
    (before, K) after another. They need not be there; a twin uses them.
    """
    codes = torch.zeros(x.shape[0], 1, 0, dtype=torch.int32, device=x.device)
    residuals, first = x[:, None], 0
    for bits in nbits:
        size = 1 << bits
        kept = min(residuals.shape[1] * size, width)
        codes, residuals, _ = step(residuals, codes, table[first : first + size], kept)
        first += size
    return codes[:, 0]
