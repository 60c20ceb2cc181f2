"""k-means in FAISS's names: Clustering, its relatives, their parameters and statistics."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import kmeans
from tsscompat.algorithms.blocks import finite
from tsscompat.arrays import Array, as_tensor, rows
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, boolean, int64, integer, real, short, single, size_t, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector, ObjectVector
from tsscompat.kernels.metrics import is_similarity

ClusteringInitMethod = int
ClusteringInitMethod_RANDOM = kmeans.RANDOM
ClusteringInitMethod_KMEANS_PLUS_PLUS = kmeans.KMEANS_PLUS_PLUS
ClusteringInitMethod_AFK_MC2 = kmeans.AFK_MC2


class ClusteringParameters(Stated):
    """How to cluster."""

    niter = integer(25, "iterations")
    nredo = integer(1, "runs, of which the best is kept")
    verbose = boolean(False)
    spherical = boolean(False, "centroids are normalised after each iteration")
    int_centroids = boolean(False, "centroids are rounded to whole numbers after each iteration")
    update_index = boolean(False, "the assignment index is trained again after each iteration")
    frozen_centroids = boolean(False, "centroids given beforehand stay as they are")
    min_points_per_centroid = integer(39, "fewer give a warning")
    max_points_per_centroid = integer(256, "more are sampled down")
    seed = integer(1234, "of the random generator; negative: the clock")
    decode_block_size = size_t(32768, "vectors decoded at a time by train_encoded")
    check_input_data_for_NaNs = boolean(True)
    use_faster_subsampling = boolean(False, "sample with SplitMix64, with repetition")
    init_method = integer(kmeans.RANDOM, "one of ClusteringInitMethod_*")
    afkmc2_chain_length = short(50, "steps of each Markov chain of AFK-MC2")
    early_stop_threshold = real(0.0, "stop when the objective changes relatively by no more than this")
    use_super_kmeans = boolean(False, "IVF indexes train their coarse quantizer with SuperKMeans")

    def _take(self, other: ClusteringParameters | None) -> None:
        """Copy another's parameters."""
        if other is not None:
            for name in ClusteringParameters._declared:
                if name in other.__dict__ and name != "referenced_objects":
                    setattr(self, name, other.__dict__[name])

    def _say(self, text: str, end: str = "\n") -> None:
        if self.verbose:
            print(text, end=end, flush=True)

    def _sampled(self, data: Tensor, weights: Tensor | None, k: int) -> tuple[Tensor, Tensor | None]:
        """As many rows as are wanted for k clusters, chosen at random where there are more."""
        kept = self._chosen(data.shape[0], k)
        if kept is None:
            return data, weights
        kept = kept.to(data.device)
        return data[kept], None if weights is None else weights[kept]

    def _chosen(self, n: int, k: int) -> Tensor | None:
        """Which of n rows to train k clusters on; None where all are."""
        most = k * self.max_points_per_centroid
        if n <= most:
            return None
        check(most > 0, "max_points_per_centroid must be positive, got {}", self.max_points_per_centroid)
        self._say(f"Sampling a subset of {most} / {n} for training")
        return kmeans.subsample(n, most, self.seed, self.use_faster_subsampling)


class ClusteringIterationStats(Stated):
    """What an iteration came to."""

    obj = single(0.0, "sum of distances to the centroids")
    time = real(0.0, "seconds since training began")
    time_search = real(0.0, "seconds of it spent on assignment")
    imbalance_factor = real(0.0, "1 when all clusters are of one size")
    nsplit = integer(0, "empty clusters that were filled")

    def __init__(
        self, obj: float = 0.0, time: float = 0.0, time_search: float = 0.0, imbalance: float = 0.0, nsplit: int = 0
    ) -> None:
        super().__init__()
        self.obj, self.time, self.time_search, self.imbalance_factor, self.nsplit = obj, time, time_search, imbalance, nsplit


class ClusteringIterationStatsVector(ObjectVector):
    """std::vector of what iterations came to."""


class Clustering(ClusteringParameters):
    """k-means with an index that assigns the points."""

    d = size_t(0)
    k = size_t(0)
    centroids = vector(Float32Vector, "k * d; what is here before training is where training begins")
    iteration_stats = vector(ClusteringIterationStatsVector)

    def __init__(self, d: int, k: int, cp: ClusteringParameters | None = None) -> None:
        super().__init__()
        self.d, self.k = d, k
        self._take(cp)

    @property
    def _table(self) -> Tensor:
        return self.centroids.tensor.view(-1, self.d)

    def post_process_centroids(self) -> None:
        """Normalise and round, as asked for."""
        table = self._table
        if self.spherical:
            norms = torch.linalg.vecdot(table, table)[:, None]
            table = torch.where(norms > 0, table * norms.rsqrt(), table)
        if self.int_centroids:
            # roundf: halves go away from zero.
            table = torch.where(table < 0, (table - 0.5).ceil(), (table + 0.5).floor())
        self.centroids.tensor = table

    def train(self, x: Array, index: Index, weights: Array | None = None) -> None:
        """Cluster vectors; the index ends up holding the centroids."""
        data = rows(x, self.d, index.device).tensor
        self._train(data, index, self._weights(weights, data), None)

    def train_encoded(self, x: Array, codec: Index, index: Index, weights: Array | None = None) -> None:
        """Cluster vectors that are given as codes."""
        size = codec.sa_code_size()
        expect(len(x.shape) == 2 and x.shape[1] == size, "expected codes of shape (n, {}), got {}", size, tuple(x.shape))
        expect(codec.d == index.d, "the codec has dimension {}, the index {}", codec.d, index.d)
        codes = as_tensor(x, torch.uint8, index.device)[0]
        self._train(codes, index, self._weights(weights, codes), codec)

    def train_c(self, n: int, x: Any, index: Index, x_weights: Any = None) -> None:
        """The same with pointers."""
        self.train(behind(x, n, self.d), index, None if x_weights is None else behind(x_weights, n))

    def train_encoded_c(self, nx: int, x_in: Any, codec: Index, index: Index, weights: Any = None) -> None:
        """The same with pointers."""
        codes = behind(x_in, nx, codec.sa_code_size())
        self.train_encoded(codes, codec, index, None if weights is None else behind(weights, nx))

    @staticmethod
    def _weights(weights: Array | None, data: Tensor) -> Tensor | None:
        if weights is None:
            return None
        expect(tuple(weights.shape) == (data.shape[0],), "expected {} weights, got shape {}", data.shape[0], tuple(weights.shape))
        return as_tensor(weights, torch.float32, data.device)[0]

    def _decode(self, codes: Tensor, codec: Index | None) -> Tensor:
        if codec is None:
            return codes
        step = max(1, self.decode_block_size)
        return torch.cat([codec._sa_decode(codes[i : i + step]) for i in range(0, codes.shape[0], step)])

    def _warn(self, n: int) -> None:
        fewest = self.k * self.min_points_per_centroid
        if n < fewest and n <= self.k * self.max_points_per_centroid:
            message = f"WARNING clustering {n} points to {self.k} centroids: please provide at least {fewest} training points"
            print(message, file=sys.stderr)

    def _train(self, data: Tensor, index: Index, weights: Tensor | None, codec: Index | None) -> None:
        n = data.shape[0]
        check(n >= self.k, "Number of training points ({}) should be at least as large as number of clusters ({})", n, self.k)
        check(index.d == self.d, "the index has dimension {}, the data {}", index.d, self.d)
        if codec is None and self.check_input_data_for_NaNs:
            check(finite(data), "input contains NaN's or Inf's")
        self._warn(n)
        x, weights = self._sampled(data, weights, self.k)
        if x.shape[0] == self.k:
            self._say("Number of training points same as number of clusters, just copying")
            # FAISS takes the first k points, not those that it sampled.
            self.centroids.tensor = self._decode(data[: self.k], codec).clone()
            self.iteration_stats.push_back(ClusteringIterationStats(imbalance=1.0))
            self._fill(index)
            return
        x = self._decode(x, codec)
        check(self.centroids.size() % self.d == 0, "size of provided input centroids not a multiple of dimension")
        given = self._table.to(x.device).clone()
        check(given.shape[0] <= self.k, "{} input centroids are more than {} clusters", given.shape[0], self.k)
        self._say(
            f"Clustering {x.shape[0]} points in {self.d}D to {self.k} clusters, redo {self.nredo} times, {self.niter} iterations"
        )
        self._runs(x, index, weights, given)

    def _runs(self, x: Tensor, index: Index, weights: Tensor | None, given: Tensor) -> None:
        """The runs, of which the best is kept; each begins where the one before left the centroids given beforehand."""
        largest = is_similarity(index.metric_type)
        best: tuple[float, Tensor, list[Any]] | None = None
        seed, clock = kmeans.actual_seed(self.seed), [time.perf_counter(), 0.0]
        n_given = given.shape[0]
        for redo in range(self.nredo):
            first = (
                kmeans.first_centroids(
                    x, self.k - n_given, self.init_method, seed + 1 + redo * kmeans.REDO_STRIDE, given, self.afkmc2_chain_length
                )
                if self.k > n_given
                else torch.empty(0, dtype=torch.int64)
            )
            start = given if redo == 0 else self._table[:n_given]
            self.centroids.tensor = torch.cat([start, x[first]])
            self.post_process_centroids()
            if not index.is_trained:
                index._train(self._table)
            self._fill(index)
            obj = self._iterate(x, index, weights, n_given if self.frozen_centroids else 0, clock)
            if self.nredo > 1 and (best is None or (obj > best[0] if largest else obj < best[0])):
                self._say("Objective improved: keep new clusters")
                best = obj, self.centroids.tensor.clone(), list(self.iteration_stats)
        if best is not None:
            self.centroids.tensor = best[1]
            self.iteration_stats.assign(best[2])
            self._fill(index)

    def _fill(self, index: Index) -> None:
        if index.ntotal:
            index._reset()
        index._add(self._table.to(index.device), None)

    def _iterate(self, x: Tensor, index: Index, weights: Tensor | None, frozen: int, clock: list[float]) -> float:
        """The iterations of a run; returns the last objective."""
        obj = previous = 0.0
        for i in range(self.niter):
            begun = time.perf_counter()
            distances, labels = index._search(x, 1, None)
            clock[1] += time.perf_counter() - begun
            owner = labels[:, 0]
            check(int(owner.min()) >= 0, "invalid cluster assignment")
            obj = kmeans.objective(distances)
            table, held = kmeans.means(x, owner, weights, self._table.to(x.device), frozen)
            nsplit = kmeans.split_empty(table, held, x.shape[0], frozen)
            counts = held if weights is None and not frozen else torch.bincount(owner, minlength=self.k)
            stats = ClusteringIterationStats(obj, time.perf_counter() - clock[0], clock[1], kmeans.imbalance(counts), nsplit)
            self.iteration_stats.push_back(stats)
            self._say(
                f"  Iteration {i} ({stats.time:.2f} s, search {clock[1]:.2f} s): "
                f"objective={obj:g} imbalance={stats.imbalance_factor:.3f} nsplit={nsplit}       ",
                end="\r",
            )
            self.centroids.tensor = table
            self.post_process_centroids()
            index._reset()
            if self.update_index:
                index._train(self._table)
            index._add(self._table.to(index.device), None)
            if i > 0 and previous != 0 and abs(previous - obj) / abs(previous) <= self.early_stop_threshold:
                self._say(f"\n  Converged at iteration {i}: objective did not change")
                break
            previous = obj
        self._say("")
        return obj


class ClusteringInitialization(Stated):
    """The choice of the centroids that k-means begins with."""

    d = size_t(0)
    k = size_t(0)
    method = integer(kmeans.RANDOM, "one of ClusteringInitMethod_*")
    seed = int64(1234, "negative: the clock")
    afkmc2_chain_length = short(50, "steps of each Markov chain of AFK-MC2")

    def __init__(self, d: int, k: int) -> None:
        super().__init__()
        self.d, self.k = d, k

    def init_centroids(
        self, n: int, x: Any, centroids: Any, n_existing_centroids: int = 0, existing_centroids: Any = None
    ) -> None:
        """Choose k of n vectors, both behind pointers; all methods but RANDOM keep away from existing centroids."""
        check(n_existing_centroids == 0 or existing_centroids is not None, "existing_centroids must not be None")
        data = behind(x, n, self.d)
        known, seed = torch.empty(0, self.d), self.seed
        if self.method != kmeans.RANDOM:
            seed = kmeans.actual_seed(seed)
            known = behind(existing_centroids, n_existing_centroids, self.d) if n_existing_centroids else known
        chosen = kmeans.first_centroids(data, self.k, self.method, seed, known, self.afkmc2_chain_length)
        behind(centroids, self.k, self.d).copy_(data[chosen])


class Clustering1D(Clustering):
    """Exact k-means of numbers."""

    def __init__(self, k: int, cp: ClusteringParameters | None = None) -> None:
        super().__init__(1, k, cp)

    def train_exact(self, x: Array) -> None:
        """Cluster n numbers, given as (n, 1)."""
        data = rows(x, 1, self.device).tensor
        self._warn(data.shape[0])
        data = self._sampled(data, None, self.k)[0]
        centroids, imbalance = kmeans.kmeans_1d(data[:, 0], self.k)
        self.centroids.tensor = centroids
        self.iteration_stats.push_back(ClusteringIterationStats(imbalance=imbalance))


class ProgressiveDimClusteringParameters(ClusteringParameters):
    """How to cluster in more and more dimensions."""

    progressive_dim_steps = integer(10, "how many")
    apply_pca = boolean(True, "rotate the data to its principal axes first")

    def __init__(self) -> None:
        super().__init__()
        self.niter = 10


class ProgressiveDimIndexFactory:
    """What makes the assignment index of each step."""

    def __call__(self, dim: int) -> Index:
        return IndexFlatL2(dim)


class ProgressiveDimClustering(ProgressiveDimClusteringParameters):
    """k-means in more and more dimensions, each step beginning from the last one's centroids."""

    d = size_t(0)
    k = size_t(0)
    centroids = vector(Float32Vector)
    iteration_stats = vector(ClusteringIterationStatsVector)

    def __init__(self, d: int, k: int, cp: ProgressiveDimClusteringParameters | None = None) -> None:
        super().__init__()
        self.d, self.k = d, k
        self._take(cp)
        if cp is not None:
            self.progressive_dim_steps, self.apply_pca = cp.progressive_dim_steps, cp.apply_pca

    def train(self, n: Any, x: Any = None, factory: Any = None) -> None:
        """Cluster: (n, pointer, factory) as in FAISS, or (x, factory)."""
        from tsscompat.faiss_compat.learned_transforms import PCAMatrix

        data = x.take(n * self.d).view(n, self.d) if isinstance(x, Pointer) else rows(n, self.d, self.device).tensor
        factory = factory if isinstance(x, Pointer) else x
        pca = PCAMatrix(self.d, self.d)
        if self.apply_pca:
            pca._train(data)
            data = pca._apply(data)
        before = torch.empty(self.k, 0)
        for step in range(self.progressive_dim_steps):
            dim = int(self.d ** ((1.0 + step) / self.progressive_dim_steps))
            part = Clustering(dim, self.k, self)
            if before.shape[1]:
                grown = torch.zeros(self.k, dim)
                shared = min(dim, before.shape[1])
                grown[:, :shared] = before[:, :shared]
                part.centroids.tensor = grown
            part._train(data[:, :dim].contiguous(), factory(dim), None, None)
            before = part._table
            self.iteration_stats.items += list(part.iteration_stats)
        self.centroids.tensor = pca._reverse(before) if self.apply_pca else before


__all__ = [
    "Clustering",
    "Clustering1D",
    "ClusteringInitMethod",
    "ClusteringInitMethod_AFK_MC2",
    "ClusteringInitMethod_KMEANS_PLUS_PLUS",
    "ClusteringInitMethod_RANDOM",
    "ClusteringInitialization",
    "ClusteringIterationStats",
    "ClusteringIterationStatsVector",
    "ClusteringParameters",
    "ProgressiveDimClustering",
    "ProgressiveDimClusteringParameters",
    "ProgressiveDimIndexFactory",
]
