"""The steps of FAISS's k-means: subsampling, first centroids, means, splitting of empty clusters; and exact k-means of numbers.

FAISS's randomness is reproduced, so the same data and seed give its centroids up to the rounding of sums.
"""

from __future__ import annotations

import functools
import time
from bisect import bisect_left
from collections.abc import Iterator

import torch
from torch import Tensor

from tsscompat.algorithms.random import MersenneTwister64, RandomGenerator, SplitMix64RandomGenerator, rand_perm
from tsscompat.errors import check
from tsscompat.kernels.halving import donors, halve
from tsscompat.kernels.intervals import cuts
from tsscompat.kernels.segments import segment_sums

RANDOM, KMEANS_PLUS_PLUS, AFK_MC2 = 0, 1, 2
# The seeds of repeated runs are this far apart.
REDO_STRIDE = 15486557


def actual_seed(seed: int) -> int:
    """The seed itself, or the clock where it is negative."""
    return seed if seed >= 0 else time.perf_counter_ns()


def subsample(n: int, wanted: int, seed: int, fast: bool) -> Tensor:
    """Which `wanted` of n rows to train on."""
    if fast:
        words = SplitMix64RandomGenerator(actual_seed(seed)).raw(wanted)
        return torch.from_numpy((words & 0x7FFFFFFFFFFFFFFF).astype("int64") % n)
    check(n < 1 << 31, "{} vectors are too many for standard subsampling: set use_faster_subsampling", n)
    return rand_perm(n, actual_seed(seed))[:wanted]


def _gaps(x: Tensor, centroid: Tensor) -> Tensor:
    """Squared distance of each row to a centroid, as doubles."""
    return (x - centroid).square().sum(1).double()


def _draw(cumulated: list[float], rng: MersenneTwister64) -> int:
    total = cumulated[-1]
    if total <= 0:
        return rng.below(len(cumulated))
    return min(bisect_left(cumulated, rng.real(total)), len(cumulated) - 1)


def _first_gaps(x: Tensor, existing: Tensor, rng: MersenneTwister64) -> tuple[Tensor, list[int]]:
    """Distances to the nearest centroid given, or to one drawn when none is; and what was drawn."""
    if existing.shape[0]:
        return torch.stack([_gaps(x, c) for c in existing]).amin(0), []
    first = rng.below(x.shape[0])
    return _gaps(x, x[first]), [first]


def kmeans_plus_plus(x: Tensor, k: int, seed: int, existing: Tensor) -> list[int]:
    """Rows to begin with: each drawn in proportion to its squared distance from those before."""
    rng = MersenneTwister64(seed)
    nearest, chosen = _first_gaps(x, existing, rng)
    while len(chosen) < k:
        chosen.append(_draw(nearest.cumsum(0).tolist(), rng))
        nearest = torch.minimum(nearest, _gaps(x, x[chosen[-1]]))
    return chosen


def afk_mc2(x: Tensor, k: int, seed: int, existing: Tensor, chain: int) -> list[int]:
    """Rows to begin with: Markov chains that approximate k-means++ (Bachem et al., Fast and Provably Good Seedings for k-Means)."""
    rng = MersenneTwister64(seed)
    nearest, chosen = _first_gaps(x, existing, rng)
    total, n = float(nearest.sum()), x.shape[0]
    proposal = (0.5 * nearest / total if total > 0 else torch.zeros_like(nearest)) + 0.5 / n
    cumulated, weight = proposal.cumsum(0).tolist(), proposal.tolist()

    def gap(i: int) -> float:
        others = torch.cat([x[chosen], existing])
        return float((others - x[i]).square().sum(1).min())

    while len(chosen) < k:
        taken = set(chosen)
        while (current := _draw(cumulated, rng)) in taken:
            pass
        distance = gap(current)
        for _ in range(chain):
            proposed = _draw(cumulated, rng)
            if proposed in taken:
                continue
            further = gap(proposed)
            accept = 0.0
            if distance > 0 and weight[proposed] > 0:
                accept = min(1.0, further * weight[current] / (distance * weight[proposed]))
            if rng.real() < accept:
                current, distance = proposed, further
        chosen.append(current)
    return chosen


def first_centroids(x: Tensor, k: int, method: int, seed: int, existing: Tensor, chain: int = 50) -> Tensor:
    """Row numbers of the k centroids to begin with, besides those that exist."""
    check(x.shape[0] >= k, "{} points are fewer than {} centroids", x.shape[0], k)
    if method == RANDOM:
        return rand_perm(x.shape[0], seed)[existing.shape[0] : existing.shape[0] + k].to(x.device)
    check(method in (KMEANS_PLUS_PLUS, AFK_MC2), "unknown initialisation method {}", method)
    if method == KMEANS_PLUS_PLUS:
        return torch.tensor(kmeans_plus_plus(x, k, seed, existing), device=x.device)
    return torch.tensor(afk_mc2(x, k, seed, existing, chain), device=x.device)


def means(x: Tensor, owner: Tensor, weights: Tensor | None, centroids: Tensor, frozen: int) -> tuple[Tensor, Tensor]:
    """New centroids (the first `frozen` keep their place) and how many points each of the others has."""
    k = centroids.shape[0]
    sums, held = segment_sums(x, owner, weights, k)
    scale = torch.where(held > 0, 1 / held, 1.0)
    moved = sums * scale[:, None]
    moved[:frozen] = centroids[:frozen]
    return moved, held[frozen:]


@functools.cache
def _first_words() -> Tensor:
    """The begin of the random words that say whom empty clusters take half of: enough for 256 clusters of equal points."""
    return RandomGenerator(1234).words(1 << 16)


def _words() -> Iterator[Tensor]:
    """All of those random words, in blocks."""
    yield _first_words()
    rng = RandomGenerator(1234)
    rng.raw(len(_first_words()))
    while True:
        yield rng.words(1 << 16)


def split_empty(centroids: Tensor, held: Tensor, n: int, frozen: int) -> int:
    """Give each empty cluster half of one that is drawn by its size, in place; says how many were empty."""
    k = centroids.shape[0] - frozen
    check(n > k, "{} points cannot be split over {} centroids", n, k)
    sizes = held.cpu().clone()
    empty = (sizes == 0).nonzero()[:, 0]
    found, done, tried = [], 0, 0
    words = _words()
    while done < len(empty):
        more, tried = donors(sizes, empty[done:], next(words), tried, n - k)
        found.append(more)
        done += len(more)
    if found:
        halve(centroids[frozen:], empty, torch.cat(found))
    return len(empty)


def objective(distances: Tensor) -> float:
    """The sum of distances, in float64."""
    # On a CPU some at a time: sum(dtype=) makes a copy of all first. On a GPU it does not, and each part would be waited for.
    parts = distances.split(1 << 13) if distances.is_cpu else (distances,)
    return sum(float(part.sum(dtype=torch.float64)) for part in parts)


def imbalance(counts: Tensor) -> float:
    """The number of clusters times the sum of squared shares of the points: 1 when all clusters are of one size."""
    sizes = counts.double()
    total = float(sizes.sum())
    return float(sizes.square().sum()) * sizes.shape[0] / (total * total) if total else 0.0


def kmeans_1d(values: Tensor, k: int) -> tuple[Tensor, float]:
    """The k numbers with the least sum of squared distances to data, and the imbalance of their clusters (0 for as many as data)."""
    n = values.shape[0]
    check(n >= k, "{} points are fewer than {} centroids", n, k)
    if n == k:
        return values.clone(), 0.0
    # Around the mean, so that sums of squares keep their digits.
    mean = values.double().mean()
    x = values.double().sort().values - mean
    total, squares = (torch.nn.functional.pad(y.cumsum(0), (1, 0)) for y in (x, x * x))

    places = cuts(total, squares, k)
    bounds = [n]
    for place in reversed(places):
        bounds.append(int(place[bounds[-1]]))
    edges = torch.tensor(bounds[::-1], device=x.device)
    sizes = edges.diff()
    means = torch.where(sizes > 0, (total[edges[1:]] - total[edges[:-1]]) / sizes.clamp(min=1), x[edges[:-1].clamp(max=n - 1)])
    return (means + mean).float(), float((sizes.double() / n).square().sum() * k)
