"""k-means on a torch tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.faiss_compat.contrib.clustering import kmeans
from tsscompat.faiss_compat.distances import knn
from tsscompat.faiss_compat.gpu_functions import knn_gpu


class DatasetAssign:
    """The rows of a tensor, as k-means wants them: counted, picked, and assigned to centroids."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def count(self) -> int:
        return int(self.x.shape[0])

    def dim(self) -> int:
        return int(self.x.shape[1])

    def get_subset(self, indices: Any) -> Tensor:
        return self.x[torch.as_tensor(indices)]

    def perform_search(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """The distance to, and the number of, each row's nearest centroid."""
        found: tuple[Tensor, Tensor] = knn(self.x, centroids, 1)
        return found

    def assign_to(self, centroids: Tensor, weights: Tensor | None = None) -> tuple[np.ndarray[Any, Any], Tensor, Tensor]:
        """Each row's centroid, the distances, and the sum of the rows of each centroid."""
        distances, names = (found.reshape(-1) for found in self.perform_search(centroids))
        rows = self.x if weights is None else self.x * weights[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, names, rows)
        return names.cpu().numpy(), distances, sums


class DatasetAssignGPU(DatasetAssign):
    """The same on a GPU, given its resources."""

    def __init__(self, res: Any, x: Tensor) -> None:
        super().__init__(x)
        self.res = res

    def perform_search(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = knn_gpu(self.res, self.x, centroids, 1)
        return found


__all__ = ["DatasetAssign", "DatasetAssignGPU", "kmeans"]
