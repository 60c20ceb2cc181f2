"""Quantizers on torch tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tsscompat.errors import expect
from tsscompat.faiss_compat.contrib.torch import clustering
from tsscompat.faiss_compat.distances import knn


class Quantizer:
    """Vectors of dimension d to codes of code_size bytes, and back."""

    def __init__(self, d: int, code_size: int) -> None:
        self.d, self.code_size = d, code_size

    def train(self, x: Tensor) -> None:
        """Learn from vectors (n, d)."""

    def encode(self, x: Tensor) -> Tensor:
        """Codes (n, code_size) of vectors."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors of codes."""
        raise NotImplementedError


class VectorQuantizer(Quantizer):
    """The number of the nearest of k centroids, in as many bytes as it needs."""

    def __init__(self, d: int, k: int) -> None:
        super().__init__(d, math.ceil(math.log2(k) / 8))
        self.k = k

    def train(self, x: Tensor) -> None:
        self.codebook = clustering.kmeans(self.k, clustering.DatasetAssign(x), verbose=False)

    def encode(self, x: Tensor) -> Tensor:
        numbers = knn(x, self.codebook, 1)[1]
        shifts = 8 * torch.arange(self.code_size, device=x.device)
        return (numbers >> shifts & 255).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        shifts = 8 * torch.arange(self.code_size, device=codes.device)
        vectors: Tensor = self.codebook[(codes.to(torch.int64) << shifts).sum(1)]
        return vectors


class ProductQuantizer(Quantizer):
    """The numbers of the nearest centroids of M parts, 8 bits each."""

    def __init__(self, d: int, M: int, nbits: int) -> None:
        expect(d % M == 0, "dimension {} does not split into {} parts", d, M)
        expect(nbits == 8, "8 bits a part are what this takes, got {}", nbits)
        super().__init__(d, M)
        self.M, self.nbits = M, nbits

    def _parts(self, x: Tensor) -> list[Tensor]:
        return [part.contiguous() for part in x.split(self.d // self.M, 1)]

    def train(self, x: Tensor) -> None:
        sets = (clustering.DatasetAssign(part) for part in self._parts(x))
        self.codebook = torch.stack([clustering.kmeans(1 << self.nbits, data, verbose=False) for data in sets])

    def encode(self, x: Tensor) -> Tensor:
        numbers = [knn(part, book, 1)[1] for part, book in zip(self._parts(x), self.codebook)]
        return torch.cat(numbers, 1).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        vectors: Tensor = self.codebook[torch.arange(self.M, device=codes.device), codes.to(torch.int64)]
        return vectors.reshape(-1, self.d)


__all__ = ["ProductQuantizer", "Quantizer", "VectorQuantizer"]
