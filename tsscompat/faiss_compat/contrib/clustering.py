"""Variants of k-means: in two levels, balanced, and over anything that can assign its vectors to centroids."""

from __future__ import annotations

import math
import time
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
import torch

from tsscompat.errors import check, expect
from tsscompat.faiss_compat.distances import knn
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.gpu import index_cpu_to_all_gpus, index_cpu_to_gpu
from tsscompat.faiss_compat.gpu_resources import StandardGpuResources
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.kmeans import Kmeans
from tsscompat.faiss_compat.pretransform import IndexPreTransform
from tsscompat.faiss_compat.tables import imbalance_factor as imbalance_of

Table = np.ndarray[Any, Any]


def print_nop(*arg: Any, **kwargs: Any) -> None:
    """Print nothing."""


def _shares(sizes: Table, total: int, rebalance: bool) -> Table:
    """How many of `total` second-level clusters each first-level one gets: by size, or all alike."""
    ends = np.cumsum(sizes) if rebalance else np.arange(1, len(sizes) + 1)
    return np.diff(ends * total // ends[-1], prepend=0)


def two_level_clustering(
    xt: Table, nc1: int, nc2: int, rebalance: bool = True, clustering_niter: int = 25, **args: Any
) -> tuple[Table, list[Any]]:
    """nc2 centroids, found by clustering the vectors of each of nc1 clusters; also what k-means says of each clustering.

    `rebalance` deals the centroids out by the clusters' sizes; `args` go to Kmeans.
    """
    log = print if args.get("verbose", False) else print_nop
    d = xt.shape[1]
    coarse = Kmeans(d, nc1, niter=clustering_niter, max_points_per_centroid=2000, **args)
    coarse.train(xt)
    assigned = coarse.assign(xt)[1]
    sizes = np.bincount(assigned, minlength=nc1)
    shares = _shares(sizes, nc2, rebalance)
    # In the order that numpy's argsort leaves, as FAISS takes them: where k-means begins goes by it.
    members = np.split(assigned.argsort(), np.cumsum(sizes)[:-1])
    stats, parts = [coarse.iteration_stats], []
    for cluster, wanted in enumerate(shares.tolist()):
        log(f"cluster {cluster} of {nc1}: {wanted} centroids")
        if not wanted:
            continue
        fine = Kmeans(d, wanted, **args)
        fine.train(xt[members[cluster]])
        stats.append(fine.iteration_stats)
        parts.append(fine.centroids)
    return np.vstack(parts), stats


def train_ivf_index_with_2level(index: Any, xt: Table, **args: Any) -> None:
    """Train an index over inverted lists, behind transforms or not, with coarse centroids found in two levels."""
    if isinstance(index, IndexPreTransform):
        for transform in index.chain:
            transform.train(xt)
            xt = transform.apply(xt)
        train_ivf_index_with_2level(index.index, xt, **args)
        index.is_trained = True
        return
    expect(isinstance(index, IndexIVF), "expected an IndexIVF, got {}", type(index).__name__)
    expect(index.metric_type == METRIC_L2, "clustering in two levels is for METRIC_L2")
    centroids, _ = two_level_clustering(xt, math.isqrt(index.nlist), index.nlist, **args)
    index.quantizer.train(centroids)
    index.quantizer.add(centroids)
    index.train(xt)


def imbalance_factor(k: int, assign: Any) -> float:
    """1 for k clusters of equal sizes, more the less equal they are."""
    names = np.ascontiguousarray(assign, dtype="int64")
    return imbalance_of(len(names), k, names)


def balanced_assignment_with_penalties(
    x: Table, centroids: Table, alpha: float = 0.03, num_iter: int = 20, maxk: int = 100
) -> tuple[Table, dict[str, Any]]:
    """Clusters of more equal sizes: the cluster of each vector, and figures on them.

    A vector goes to the one of its maxk nearest with the least d² + penalty²; penalties of large clusters grow in num_iter rounds, by
    (size / mean size) to the power alpha (Tavenard, Jégou, Amsaleg: Balancing clusters to reduce response time variability, CBMI 2011).
    """
    k, wanted = len(centroids), len(x) / len(centroids)
    distances, near = knn(x, centroids, maxk)
    penalties = np.ones(k, dtype=np.float32)
    assigned, sizes = near[:, 0], np.bincount(near[:, 0], minlength=k)
    for _ in range(num_iter):
        best = (distances + (penalties**2)[near]).argmin(1)
        assigned = np.take_along_axis(near, best[:, None], 1)[:, 0]
        sizes = np.bincount(assigned, minlength=k)
        penalties *= (sizes / wanted) ** alpha
    stats = {
        "alpha": alpha,
        "imf": imbalance_factor(k, assigned),
        "mse": ((x - centroids[assigned]) ** 2).sum(1).mean(),
        "binsize_min": int(sizes.min()),
        "binsize_max": int(sizes.max()),
        "penalty_min": penalties.min(),
        "penalty_max": penalties.max(),
    }
    return assigned, stats


class DatasetAssign:
    """Vectors, as the k-means below wants them: counted, picked, and assigned to centroids."""

    x: Any

    def __init__(self, x: Any) -> None:
        self.x = np.ascontiguousarray(x, dtype="float32")

    def count(self) -> int:
        return int(self.x.shape[0])

    def dim(self) -> int:
        return int(self.x.shape[1])

    def get_subset(self, indices: Any) -> Any:
        return self.x[indices]

    def perform_search(self, centroids: Any) -> Any:
        """The distance to, and the number of, each vector's nearest centroid."""
        return knn(self.x, centroids, 1)

    def assign_to(self, centroids: Any, weights: Any = None) -> tuple[Any, Any, Any]:
        """Each vector's centroid, the distances, and the sum of the vectors of each centroid."""
        distances, names = (found.ravel() for found in self.perform_search(centroids))
        sums = np.zeros(centroids.shape, dtype="float32")
        np.add.at(sums, names, self.x if weights is None else weights[:, None] * self.x)
        return names, distances, sums


class DatasetAssignGPU(DatasetAssign):
    """The same with the nearest centroids found on a GPU; gpu_id -1: on all."""

    def __init__(self, x: Any, gpu_id: int, verbose: bool = False) -> None:
        super().__init__(x)
        index = IndexFlatL2(self.dim())
        self.index = index_cpu_to_gpu(StandardGpuResources(), gpu_id, index) if gpu_id >= 0 else index_cpu_to_all_gpus(index)

    def perform_search(self, centroids: Any) -> Any:
        self.index.reset()
        self.index.add(centroids)
        return self.index.search(self.x, 1)


def sparse_assign_to_dense(xq: Any, xb: Table, xq_norms: Any = None, xb_norms: Any = None) -> tuple[Table, Table]:
    """The squared distance from each sparse row to the nearest dense one, and its number; squared norms may be given."""
    mine = np.asarray(xq.power(2).sum(1)) if xq_norms is None else xq_norms
    others = (xb**2).sum(1) if xb_norms is None else xb_norms
    partial = np.asarray(others - 2 * (xq @ xb.T))
    names = partial.argmin(1)
    return partial[np.arange(len(names)), names] + np.ravel(mine), names


def sparse_assign_to_dense_blocks(
    xq: Any, xb: Table, xq_norms: Any = None, xb_norms: Any = None, qbs: int = 16384, bbs: int = 16384, nt: int | None = None
) -> tuple[Table, Table]:
    """The same, block by block, so that no large table of distances is made; blocks of rows go to nt threads (None: to all cores)."""
    n = xq.shape[0]
    distances, names = np.full(n, np.inf, dtype="float32"), np.full(n, -1, dtype=np.int64)
    mine = np.asarray(xq.power(2).sum(1)) if xq_norms is None else xq_norms
    others = (xb**2).sum(1) if xb_norms is None else xb_norms

    def work(i: int) -> None:
        rows = slice(i, i + qbs)
        for j in range(0, len(xb), bbs):
            near, which = sparse_assign_to_dense(xq[rows], xb[j : j + bbs], mine[rows], others[j : j + bbs])
            better = near < distances[rows]
            distances[rows][better], names[rows][better] = near[better], which[better] + j

    if nt in (0, 1) or n <= qbs:
        for i in range(0, n, qbs):
            work(i)
    else:
        with ThreadPool(nt) as pool:
            pool.map(work, range(0, n, qbs))
    return distances, names


class DatasetAssignSparse(DatasetAssign):
    """The rows of a scipy.sparse.csr_matrix."""

    x: Any

    def __init__(self, x: Any) -> None:
        expect(hasattr(x, "indptr") and getattr(x, "format", "") == "csr", "expected a csr_matrix, got {}", type(x).__name__)
        self.x = x
        self.squared_norms = np.asarray(x.power(2).sum(1))

    def get_subset(self, indices: Any) -> Any:
        return np.asarray(self.x[indices].todense())

    def perform_search(self, centroids: Any) -> Any:
        return sparse_assign_to_dense_blocks(self.x, centroids, xq_norms=self.squared_norms)

    def assign_to(self, centroids: Any, weights: Any = None) -> tuple[Any, Any, Any]:
        distances, names = self.perform_search(centroids)
        n = self.count()
        share = np.ones(n, dtype="float32") if weights is None else weights
        # Of the rows' own kind, so that scipy is imported by whoever made them only.
        owner = type(self.x)((share, (names, np.arange(n))), shape=(len(centroids), n))
        return names, distances, np.asarray((owner @ self.x).todense())


def reassign_centroids(hassign: Table, centroids: Any, rs: Any = None) -> int:
    """Give centroids without vectors half of another's, drawn by size; changes both arguments, says how many it was."""
    random = np.random if rs is None else rs
    empty = np.nonzero(hassign == 0)[0]
    done = 0
    if not empty.size:
        return 0
    step = torch.ones_like(centroids[0]) if isinstance(centroids, torch.Tensor) else np.ones_like(centroids[0])
    step[::2] += 1 / 1024.0
    step[1::2] -= 1 / 1024.0
    while empty.size:
        chances = np.maximum(hassign.astype("float") - 1, 0)
        check(chances.sum() > 0, "there are more centroids than vectors")
        chances /= chances.sum()
        n = min(int((chances > 0).sum()), empty.size)
        for target, source in zip(empty[:n], random.choice(len(centroids), size=n, p=chances)):
            centroids[target], centroids[source] = centroids[source] * step, centroids[source] / step
            hassign[target] = hassign[source] // 2
            hassign[source] -= hassign[target]
            done += 1
        empty = empty[n:]
    return done


def _store(centroids: Any, path: str) -> None:
    if isinstance(centroids, torch.Tensor):
        torch.save(centroids, path)
    else:
        np.save(path, centroids)


def kmeans(
    k: int,
    data: Any,
    niter: int = 25,
    seed: int = 1234,
    checkpoint: str | None = None,
    verbose: bool = True,
    return_stats: bool = False,
) -> Any:
    """k centroids of a DatasetAssign (or what has its methods); its centroids may be arrays or tensors.

    `checkpoint`: a file that the centroids are written to after each round; `return_stats`: give what each round did, too.
    """
    random = np.random.RandomState(seed)
    begun, searching, stats = time.time(), 0.0, []
    centroids = data.get_subset(random.choice(data.count(), size=k, replace=False))
    for i in range(niter):
        started = time.time()
        names, distances, sums = data.assign_to(centroids)
        searching += time.time() - started
        sizes = np.bincount(names, minlength=k)
        share = np.maximum(sizes, 1).reshape(-1, 1).astype("float32")
        centroids = sums / (torch.from_numpy(share).to(sums.device) if isinstance(sums, torch.Tensor) else share)
        row = {"obj": float(distances.sum()), "time": time.time() - begun, "time_search": searching}
        row["imbalance_factor"] = imbalance_factor(k, names)
        row["nsplit"] = reassign_centroids(sizes, centroids, random)
        stats.append(row)
        if verbose:
            print(f"round {i}: objective {row['obj']:g}, imbalance {row['imbalance_factor']:.3f}, {row['nsplit']} split")
        if checkpoint is not None:
            _store(centroids, checkpoint)
    return (centroids, stats) if return_stats else centroids
