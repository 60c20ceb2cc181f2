"""SuperKMeans in FAISS's names: a k-means that rules most centroids out early, for L2, many clusters and many dimensions."""

from __future__ import annotations

import copy
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import super_kmeans
from tsscompat.algorithms.blocks import finite
from tsscompat.arrays import Array, as_tensor, rows
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.attributes import Stated, anything, child, integer, single, vector
from tsscompat.faiss_compat.clustering import ClusteringIterationStats, ClusteringIterationStatsVector, ClusteringParameters
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.kmeans import Kmeans
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.records import fields_of

# Less pruning than this, three iterations on end, is not worth the trouble.
_LOW_PRUNING = 0.85


class SuperKMeansParameters(ClusteringParameters):
    """How to cluster; of the parameters of k-means, niter, seed, spherical, the sampling, the check of the input and verbose count."""

    d_prime_fraction = single(0.125, "share of the dimensions that are compared first, to begin with")
    pdx_block_size = integer(64, "dimensions between two later checks")
    ad_epsilon_factor = single(1.0, "times 1 / d: the probability that a check drops what it should not")
    pruning_target_low = single(0.95, "with a smaller share of pairs ruled out, more dimensions are compared first")
    pruning_target_high = single(0.97, "with a larger one, fewer")
    d_prime_adjust = single(0.20, "by how much, relatively")
    d_prime_min = integer(16, "the fewest dimensions compared first")
    x_batch = integer(4096, "points of a tile")
    y_batch = integer(1024, "centroids of a tile")
    omp_chunk = integer(8, "points that a thread takes at a time; without effect here")

    def _settings(self) -> super_kmeans.Settings:
        return super_kmeans.Settings(**{name: getattr(self, name) for name in fields_of(super_kmeans.Settings)})


def _check(cp: SuperKMeansParameters, d: int, k: int) -> None:
    """Raise where FAISS refuses the parameters."""
    check(d > 0, "d must be positive, got {}", d)
    check(k > 0, "k must be positive, got {}", k)
    check(0 < cp.d_prime_fraction <= 1, "d_prime_fraction must be in (0, 1], got {}", cp.d_prime_fraction)
    check(0 <= cp.d_prime_adjust < 1, "d_prime_adjust must be in [0, 1), got {}", cp.d_prime_adjust)
    check(d >= 2 * cp.d_prime_min, "d must be at least 2 * d_prime_min = {}, got {}", 2 * cp.d_prime_min, d)
    check(cp.d_prime_min >= 16, "d_prime_min must be at least 16, got {}", cp.d_prime_min)
    for name in ("pdx_block_size", "x_batch", "y_batch", "omp_chunk"):
        check(getattr(cp, name) > 0, "{} must be positive, got {}", name, getattr(cp, name))
    low, high = cp.pruning_target_low, cp.pruning_target_high
    check(0 < low <= high < 1, "0 < pruning_target_low <= pruning_target_high < 1 must hold, got {} and {}", low, high)
    check(0 < cp.ad_epsilon_factor < d, "ad_epsilon_factor must be in (0, d = {}), got {}", d, cp.ad_epsilon_factor)


class SuperKMeans(Stated):
    """k-means that rules most centroids out early; `train`, then read `centroids`."""

    cp = child(SuperKMeansParameters)
    d = integer(0)
    k = integer(0)
    centroids = vector(Float32Vector, "k * d")
    iteration_stats = vector(ClusteringIterationStatsVector, "of each iteration; the imbalance factor is not computed")
    gemm_pruning_rates = vector(Float32Vector, "for each iteration the share of pairs that the first dimensions ruled out")

    def __init__(self, d: int, k: int, cp: SuperKMeansParameters | None = None) -> None:
        super().__init__()
        self.d, self.k = d, k
        if cp is not None:
            self.cp = copy.deepcopy(cp)
        _check(self.cp, d, k)

    def train(self, x: Array) -> None:
        """Cluster vectors."""
        self._train(rows(x, self.d, self.device).tensor)

    def train_c(self, n: int, x: Any) -> None:
        self._train(behind(x, n, self.d).to(self.device))

    def _train(self, x: Tensor) -> None:
        cp = self.cp
        check(x.shape[0] > 0, "no points to cluster")
        check(x.shape[0] >= self.k, "{} points are fewer than {} centroids", x.shape[0], self.k)
        check(not cp.check_input_data_for_NaNs or finite(x), "input contains NaN's or Inf's")
        fewest = self.k * cp.min_points_per_centroid
        if cp.verbose and x.shape[0] < fewest:
            print(
                f"WARNING: clustering {x.shape[0]} points to {self.k} centroids: please provide at least {fewest} training points"
            )
        x = cp._sampled(x, None, self.k)[0]
        turn = super_kmeans.rotation(self.d, cp._settings(), x.device)
        self.iteration_stats.clear()
        self.gemm_pruning_rates.clear()
        table = self._iterate(x @ turn.t())
        self.centroids.tensor = table @ turn

    def _iterate(self, x: Tensor) -> Tensor:
        """The iterations in the rotated space; returns the centroids there."""
        begun, streak, cp, settings = time.perf_counter(), 0, self.cp, self.cp._settings()
        table = super_kmeans.first_centroids(x, self.k, settings)
        for i, done in enumerate(super_kmeans.iterations(x, table, settings)):
            now = time.perf_counter()
            self.iteration_stats.push_back(
                ClusteringIterationStats(done.objective, now - begun, now - begun, float("nan"), done.nsplit)
            )
            self.gemm_pruning_rates.push_back(done.pruned)
            streak = streak + 1 if i > 0 and done.pruned < _LOW_PRUNING else 0
            if cp.verbose:
                line = f"  Iter {i}: obj={done.objective:g} time={now - begun:.3f}s prune={done.pruned:.4f}"
                print(f"{line} dp={done.front} nsplit={done.nsplit}")
                if streak == 3:
                    message = (
                        f"WARNING: only {done.pruned:.2f} of the pairs are ruled out early; Clustering may suit this data better"
                    )
                    print(message, file=sys.stderr)
            table, begun = done.centroids, now
        return table


class SuperKmeans(Kmeans):
    """Kmeans on SuperKMeans: no weights, no centroids to begin with; has `gemm_pruning_rates` besides."""

    gemm_pruning_rates = anything(None)

    def _parameters(self, names: dict[str, Any]) -> ClusteringParameters:
        return SuperKMeansParameters()

    def set_index(self) -> None:
        """Make the index that assigns."""
        self.index = IndexFlatL2(self.d)

    def train(self, x: Array, weights: Array | None = None, init_centroids: Array | None = None) -> float:
        """Cluster vectors; returns the last objective."""
        expect(weights is None, "SuperKmeans does not support weights")
        expect(init_centroids is None, "SuperKmeans does not support init_centroids")
        data = x if isinstance(x, Tensor) else np.ascontiguousarray(x, dtype=np.float32)
        clus = SuperKMeans(self.d, self.k, self.cp)
        clus.train(data)
        rates = clus.gemm_pruning_rates.tensor
        self.gemm_pruning_rates = rates if isinstance(x, Tensor) else rates.numpy()
        return self._keep(clus, x)


def precompute_ad_thresholds(d: int, epsilon: float) -> Float32Vector:
    """For p = 0..d the share of a squared distance beyond which p of d dimensions rule a centroid out."""
    return Float32Vector(super_kmeans.thresholds(d, epsilon))


def super_kmeans_assign_iteration(
    X_tilde: Array, Y_tilde: Array, tau: Array, assignments: Array, d_prime: int, ad_coeff: Array, cp: SuperKMeansParameters
) -> tuple[int, int]:
    """One pruned assignment of points to centroids, both rotated: changes tau and assignments; returns pairs and pairs ruled out."""
    given = {"X_tilde": X_tilde, "Y_tilde": Y_tilde, "tau": tau, "assignments": assignments, "ad_coeff": ad_coeff}
    for name, array in given.items():
        wanted = "int32" if name == "assignments" else "float32"
        if str(array.dtype).rpartition(".")[2] != wanted:
            raise TypeError(f"{name} must be {wanted}, got {array.dtype}")
        if not (array.is_contiguous() if isinstance(array, Tensor) else array.flags["C_CONTIGUOUS"]):
            raise ValueError(f"{name} must be contiguous")
    expect(len(X_tilde.shape) == 2, "X_tilde must have shape (n, d), got {}", tuple(X_tilde.shape))
    n, d = X_tilde.shape
    expect(len(Y_tilde.shape) == 2 and Y_tilde.shape[1] == d, "Y_tilde must have shape (k, {}), got {}", d, tuple(Y_tilde.shape))
    for name, length in (("tau", n), ("assignments", n), ("ad_coeff", d + 1)):
        expect(
            tuple(given[name].shape) == (length,), "{} must have {} items, got shape {}", name, length, tuple(given[name].shape)
        )
    device = X_tilde.device if isinstance(X_tilde, Tensor) else torch.device("cpu")
    x, y, best, bounds = (as_tensor(given[name], torch.float32, device)[0] for name in ("X_tilde", "Y_tilde", "tau", "ad_coeff"))
    owner = as_tensor(assignments, torch.int32, device)[0]
    found, chosen, dropped = super_kmeans.assign(x, y, best, owner, d_prime, bounds, cp._settings())
    best.copy_(found)
    owner.copy_(chosen)
    return n * y.shape[0], dropped


def super_kmeans_assign_iteration_c(
    X_tilde: Any,
    n: int,
    d: int,
    Y_tilde: Any,
    k: int,
    tau: Any,
    assignments: Any,
    d_prime: int,
    ad_coeff: Any,
    cp: SuperKMeansParameters,
    total_pairs: Any = None,
    pruned_at_gemm: Any = None,
    scratch: Any = None,
) -> None:
    """The same with pointers, as in FAISS's C++."""
    counts = super_kmeans_assign_iteration(
        behind(X_tilde, n, d), behind(Y_tilde, k, d), behind(tau, n), behind(assignments, n), d_prime, behind(ad_coeff, d + 1), cp
    )
    for count, pointer in zip(counts, (total_pairs, pruned_at_gemm)):
        if pointer is not None:
            behind(pointer, 1).fill_(count)


__all__ = [
    "SuperKMeans",
    "SuperKMeansParameters",
    "SuperKmeans",
    "precompute_ad_thresholds",
    "super_kmeans_assign_iteration",
    "super_kmeans_assign_iteration_c",
]
