"""DistanceComputer: distances between one query and single vectors of an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.estimated import Estimated
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import Stated, anything, child
from tsscompat.faiss_compat.vector_arrays import swig_ptr
from tsscompat.kernels import flat
from tsscompat.kernels.metrics import FORMULAS


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

    def distances_batch_4(self, idx0: int, idx1: int, idx2: int, idx3: int, dis0: Any, dis1: Any, dis2: Any, dis3: Any) -> None:
        """The query's distances to four vectors, each to where a pointer goes."""
        for i, out in ((idx0, dis0), (idx1, dis1), (idx2, dis2), (idx3, dis3)):
            swig_ptr(out)[0] = self(i)

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


class FlatCodesDistanceComputer(DistanceComputer):
    """Distances to codes that lie one after another."""

    @property
    def code_size(self) -> int:
        """Bytes of a code."""
        return int(self.index.sa_code_size())

    def distance_to_code_batch_4(self, c1: Any, c2: Any, c3: Any, c4: Any, d1: Any, d2: Any, d3: Any, d4: Any) -> None:
        """The query's distances to four codes, each to where a pointer goes."""
        for code, out in ((c1, d1), (c2, d2), (c3, d3), (c4, d4)):
            swig_ptr(out)[0] = self.distance_to_code(swig_ptr(code).take(self.code_size))

    def partial_dot_product(self, i: int, offset: int, num_components: int) -> float:
        """The inner product of the query and vector i over some of the dimensions."""
        part = slice(offset, offset + num_components)
        return float(self._query[part] @ self._vectors(i)[0, part])


class _Space:
    """What a DistanceComputer asks of an index, for vectors that are in none."""

    device = torch.device("cpu")

    def __init__(self, d: int, metric: int, metric_arg: float, vectors: Callable[[Tensor], Tensor]) -> None:
        self.d, self.metric_type, self.metric_arg, self._reconstruct = d, metric, metric_arg, vectors


def get_extra_distance_computer(d: int, mt: int, metric_arg: float, xb: Any) -> DistanceComputer:
    """Distances of any metric to the vectors behind a pointer."""
    check(mt in FORMULAS, "there is no metric {}", mt)

    def vectors(keys: Tensor) -> Tensor:
        return swig_ptr(xb).take((int(keys.max()) + 1) * d).view(-1, d)[keys]

    return DistanceComputer(_Space(d, mt, metric_arg, vectors))


class CodecDistanceComputer(FlatCodesDistanceComputer):
    """Distances to codes of a quantizer, which are given, or set as `codes`."""

    codes = anything(None, "the codes, behind a pointer")

    def __init__(self, codec: Any, metric: int) -> None:
        self.codes = None
        super().__init__(_Space(codec.d, metric, 0.0, self._behind))
        self._codec = codec

    @property
    def code_size(self) -> int:
        """Bytes of a code."""
        return int(self._codec.code_size)

    def _behind(self, keys: Tensor) -> Tensor:
        size = self.code_size
        decoded: Tensor = self._codec._decode(swig_ptr(self.codes).take((int(keys.max()) + 1) * size).view(-1, size)[keys])
        return decoded

    def distance_to_code(self, code: Any) -> float:
        code = code if isinstance(code, Tensor) else swig_ptr(code).take(self.code_size)
        return self._between(self._query, self._codec._decode(code.reshape(1, -1))[0])

    query_to_code = distance_to_code


__all__ = ["DistanceComputer", "FlatCodesDistanceComputer", "get_extra_distance_computer"]
