"""SuperKMeans: k-means in a rotated space, where most centroids are ruled out by their first dimensions (Kuffo et al. 2026).

The first iteration is exact. From then on a point begins with the distance to its centroid of before; the dimensions that are compared
by matrix product are adjusted after each iteration, so that the share of pairs they rule out stays within a band.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tsscompat.algorithms import kmeans
from tsscompat.algorithms.linear import hadamard_signs, normalised, random_rotation, walsh_hadamard
from tsscompat.algorithms.random import rand_perm
from tsscompat.errors import check
from tsscompat.kernels.adsampling import improve
from tsscompat.kernels.flat import nearest
from tsscompat.kernels.singles import single, times
from tsscompat.records import record


@record
class Settings:
    """How to cluster; the names are those of FAISS's parameters."""

    niter: int
    seed: int
    spherical: bool
    d_prime_fraction: float
    d_prime_min: int
    d_prime_adjust: float
    pdx_block_size: int
    ad_epsilon_factor: float
    pruning_target_low: float
    pruning_target_high: float
    x_batch: int
    y_batch: int


@record
class Iteration:
    """What an iteration came to; the centroids are in the rotated space."""

    objective: float
    pruned: float
    nsplit: int
    front: int
    centroids: Tensor


def thresholds(d: int, epsilon: float) -> Tensor:
    """For p = 0..d the share of a squared distance in p of d dimensions that is exceeded with probability epsilon."""
    check(0 < epsilon < 1, "epsilon must be in (0, 1), got {}", epsilon)
    check(d > 0, "d must be positive, got {}", d)
    p = torch.arange(1, d + 1, dtype=torch.float64)
    # Wilson and Hilferty's approximation: the cube root of chi-squared / p is normal.
    normal = torch.special.ndtri(torch.tensor(1 - epsilon, dtype=torch.float64))
    root = 1 - 2 / (9 * p) + normal * (2 / (9 * p)).sqrt()
    return torch.cat([torch.zeros(1), (p * root**3 / d).float()])


def assign(
    x: Tensor, y: Tensor, best: Tensor, owner: Tensor, front: int, bounds: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, int]:
    """Best distances and owners after a pruned pass over all centroids, and the number of pairs that the front dimensions ruled out.

    `best` must be the exact distances to `owner`.
    """
    check(front >= 1, "d_prime must be >= 1, got {}", front)
    check(front < x.shape[1], "d_prime must be < d = {}, got {}", x.shape[1], front)
    best, owner, dropped = best.clone(), owner.clone(), 0
    y_norms = y[:, :front].square().sum(1)
    for i in range(0, x.shape[0], settings.x_batch):
        rows = x[i : i + settings.x_batch]
        norms = rows[:, :front].square().sum(1, keepdim=True)
        top, mine = best[i : i + settings.x_batch], owner[i : i + settings.x_batch]
        for j in range(0, y.shape[0], settings.y_batch):
            others = y[j : j + settings.y_batch]
            partial = rows[:, :front] @ others[:, :front].t()
            partial = partial.mul_(-2).add_(norms + y_norms[j : j + settings.y_batch]).clamp_(min=0)
            found, chosen, pairs = improve(
                rows, others, partial, top, torch.full_like(mine, -1), bounds, front, settings.pdx_block_size
            )
            mine.copy_(torch.where(chosen >= 0, chosen + j, mine))
            top.copy_(found)
            dropped += pairs
    return best, owner, dropped


def _adjusted(front: int, pruned: float, d: int, settings: Settings) -> int:
    """How many dimensions to compare first in the next iteration."""
    if pruned > single(settings.pruning_target_high):
        front = int(single(front * single(1 - single(settings.d_prime_adjust))) + 0.5)
    elif pruned < single(settings.pruning_target_low):
        front = int(single(front * single(1 + single(settings.d_prime_adjust))) + 0.5)
    return min(d // 2, max(settings.d_prime_min, front))


def first_centroids(x: Tensor, k: int, settings: Settings) -> Tensor:
    """Points in the rotated space to begin with."""
    chosen = x[rand_perm(x.shape[0], settings.seed + 1)[:k].to(x.device)]
    return normalised(chosen) if settings.spherical else chosen


def iterations(x: Tensor, centroids: Tensor, settings: Settings) -> Iterator[Iteration]:
    """The iterations over points in the rotated space."""
    (n, d), k = x.shape, centroids.shape[0]
    front = min(max(settings.d_prime_min, times(d, settings.d_prime_fraction)), d // 2)
    bounds = thresholds(d, settings.ad_epsilon_factor / d).to(x.device)
    owner = torch.empty(0, dtype=torch.int64)
    for i in range(settings.niter):
        pruned = 0.0
        if i == 0:
            best, owner = nearest(x, centroids)
            check(bool((owner >= 0).all()), "invalid cluster assignment")
        else:
            exact = (x - centroids[owner]).square().sum(1)
            best, owner, dropped = assign(x, centroids, exact, owner, front, bounds, settings)
            pruned = single(dropped / (n * k))
            front = _adjusted(front, pruned, d, settings)
        centroids, held = kmeans.means(x, owner, None, centroids, 0)
        nsplit = kmeans.split_empty(centroids, held, n, 0) if n > k else 0
        centroids = normalised(centroids) if settings.spherical else centroids
        yield Iteration(float(best.double().sum()), pruned, nsplit, front, centroids)


def rotation(d: int, settings: Settings, device: torch.device) -> Tensor:
    """The rotation that points are clustered under: FAISS takes Hadamard's for spherical clusters in 2**i dimensions."""
    if not settings.spherical or d & (d - 1):
        return random_rotation(d, d, settings.seed).to(device)
    images = torch.eye(d)
    for signs in hadamard_signs(settings.seed, d):
        images = walsh_hadamard(images * signs)
    return images.t().mul(1 / (d * d**0.5)).to(device)
