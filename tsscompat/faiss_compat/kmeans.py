"""k-means on arrays: the Kmeans front, and the function with pointers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tsscompat.arrays import Array
from tsscompat.devices import gpu_count
from tsscompat.errors import expect
from tsscompat.faiss_compat.attributes import Stated, anything
from tsscompat.faiss_compat.clustering import (
    Clustering,
    ClusteringParameters,
    ProgressiveDimClustering,
    ProgressiveDimClusteringParameters,
    ProgressiveDimIndexFactory,
)
from tsscompat.faiss_compat.flat import IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.vector_arrays import copy_array_to_vector


def kmeans_clustering(*args: Any) -> Any:
    """k-means with all defaults: (d, n, k, x, centroids) with pointers as in FAISS; returns the objective."""
    d, n, k, x, centroids = args
    data = x.take(n * d).view(n, d)
    clus = Clustering(d, k)
    clus.verbose = d * n * k > 1 << 30
    clus._train(data, IndexFlatL2(d), None, None)
    centroids.take(k * d).copy_(clus.centroids.tensor)
    return clus.iteration_stats.at(clus.iteration_stats.size() - 1).obj


class Kmeans(Stated):
    """k-means on arrays: train, then read `centroids`, `obj` and `iteration_stats`, or assign."""

    d = anything(0)
    k = anything(0)
    gpu = anything(False)
    cp = anything(None)
    index = anything(None)
    fac = anything(None)
    centroids = anything(None)
    obj = anything(None)
    iteration_stats = anything(None)

    def __init__(self, d: int, k: int, **kwargs: Any) -> None:
        super().__init__()
        self.d = d
        self.reset(k)
        self.cp = self._parameters(kwargs)
        for name, value in kwargs.items():
            getattr(self.cp, name)
            setattr(self.cp, name, value)
        self.set_index()

    def _parameters(self, names: dict[str, Any]) -> ClusteringParameters:
        """The object that takes the keyword arguments, of which `gpu` is taken out."""
        gpu = names.pop("gpu", False)
        self.gpu = gpu_count() if gpu is True or gpu == -1 else gpu
        return ProgressiveDimClusteringParameters() if "progressive_dim_steps" in names else ClusteringParameters()

    def set_index(self) -> None:
        """Make the index that assigns."""
        if type(self.cp) is ClusteringParameters:
            self.index = IndexFlatIP(self.d) if self.cp.spherical else IndexFlatL2(self.d)
            if self.gpu:
                self.index.to(0)
        else:
            self.fac = ProgressiveDimIndexFactory()

    def reset(self, k: int | None = None) -> None:
        """Forget the clusters; perhaps make it another number of them."""
        if k is not None:
            self.k = int(k)
        self.centroids = self.obj = self.iteration_stats = None

    def train(self, x: Array, weights: Array | None = None, init_centroids: Array | None = None) -> float:
        """Cluster vectors; returns the last objective."""
        data = x if isinstance(x, Tensor) else np.ascontiguousarray(x, dtype=np.float32)
        expect(
            len(data.shape) == 2 and data.shape[1] == self.d,
            "expected vectors of shape (n, {}), got {}",
            self.d,
            tuple(data.shape),
        )
        clus: Any
        if type(self.cp) is ClusteringParameters:
            clus = Clustering(self.d, self.k, self.cp)
            if init_centroids is not None:
                expect(init_centroids.shape[1] == self.d, "expected centroids of dimension {}", self.d)
                copy_array_to_vector(np.ascontiguousarray(init_centroids, dtype=np.float32).ravel(), clus.centroids)
            clus.train(data, self.index, weights)
        else:
            expect(
                weights is None and init_centroids is None and not self.cp.spherical, "not supported with progressive dimensions"
            )
            clus = ProgressiveDimClustering(self.d, self.k, self.cp)
            clus.train(data, self.fac)
        return self._keep(clus, x)

    def _keep(self, clus: Any, x: Array) -> float:
        """Take over what was learned, in the kind of the input."""
        expect(clus.centroids.size() == self.k * self.d, "no run of k-means left {} centroids", self.k)
        table = clus.centroids.tensor.view(self.k, self.d)
        self.centroids = table.to(x.device) if isinstance(x, Tensor) else table.cpu().numpy()
        fields = ("obj", "time", "time_search", "imbalance_factor", "nsplit")
        self.iteration_stats = [{name: getattr(stats, name) for name in fields} for stats in clus.iteration_stats]
        self.obj = np.array([stats["obj"] for stats in self.iteration_stats])
        return self.obj[-1] if self.obj.size else 0.0

    def assign(self, x: Array) -> tuple[Array, Array]:
        """The distance of each vector to its nearest centroid, and which it is."""
        expect(self.centroids is not None, "should train before assigning")
        if self.index is None:
            self.index = IndexFlatL2(self.d)
        self.index.reset()
        self.index.add(self.centroids)
        given = x.float().contiguous() if isinstance(x, Tensor) else np.ascontiguousarray(x, dtype=np.float32)
        distances, labels = self.index.search(given, 1)
        return distances.ravel(), labels.ravel()


__all__ = ["Kmeans", "kmeans_clustering"]
