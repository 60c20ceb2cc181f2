"""DistanceComputer: distances between one query and single vectors of an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.estimated import Estimated
from tsscompat.errors import FaissError
from tsscompat.faiss_compat.attributes import Stated, child
from tsscompat.faiss_compat.vector_arrays import swig_ptr
from tsscompat.kernels import flat


class DistanceComputer(Stated):
    """The distance of a query, set beforehand, to the vectors of an index, by number; computed on reconstructed vectors."""

    index = child(None, "the index whose vectors they are")

    def __init__(self, index: Any) -> None:
        super().__init__()
        self.index = index
        self._query = torch.zeros(index.d)

    def set_query(self, x: Any) -> None:
        """The query of the calls that follow."""
        self._query = swig_ptr(x).take(self.index.d).to(self.index.device)

    def _vectors(self, *numbers: int) -> Tensor:
        keys = torch.tensor(numbers, dtype=torch.int64, device=self.index.device)
        vectors: Tensor = self.index._reconstruct(keys)
        return vectors

    def _between(self, x: Tensor, y: Tensor) -> float:
        return float(flat.row_distances(x[None], y[None], self.index.metric_type, self.index.metric_arg)[0])

    def __call__(self, i: int) -> float:
        """The query's distance to vector i."""
        return self._between(self._query, self._vectors(i)[0])

    def symmetric_dis(self, i: int, j: int) -> float:
        """The distance between vectors i and j."""
        a, b = self._vectors(i, j)
        return self._between(a, b)

    def distance_to_code(self, code: Any) -> float:
        """The query's distance to a code."""
        given = torch.as_tensor(code, device=self.index.device).reshape(1, -1)
        return self._between(self._query, self.index._sa_decode(given)[0])


class EstimatedComputer(DistanceComputer):
    """The same for codes whose distances are estimates; `entry` gives the code and the list of a number."""

    def __init__(self, index: Any, codec: Estimated, entry: Callable[[int], tuple[Tensor, Any]]) -> None:
        super().__init__(index)
        self._codec, self._entry = codec, entry

    def __call__(self, i: int) -> float:
        return float(self._codec.between(self._query, *self._entry(i))[0])

    def symmetric_dis(self, i: int, j: int) -> float:
        raise FaissError(f"distances between two codes are not implemented for {type(self.index).__name__}")

    def distance_to_code(self, code: Any) -> float:
        given = torch.as_tensor(code, device=self.index.device).reshape(1, -1)
        return float(self._codec.between(self._query, given, None)[0])


FlatCodesDistanceComputer = DistanceComputer

__all__ = ["DistanceComputer", "FlatCodesDistanceComputer"]
