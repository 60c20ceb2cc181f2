"""Flat indexes: the vectors themselves, searched exhaustively."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms.blocks import squared_norms
from tsscompat.algorithms.replays import recordable, replayed
from tsscompat.arrays import Array
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import boolean, vector
from tsscompat.faiss_compat.base import check_key, check_keys
from tsscompat.faiss_compat.codes import IndexFlatCodes, allowed_rows
from tsscompat.faiss_compat.computers import DistanceComputer, FlatCodesDistanceComputer
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import Float32Vector, Int64Vector
from tsscompat.kernels import flat
from tsscompat.kernels.metrics import L2

# Who asks FAISS for products of fewer numbers than it begins with gets them, with the digits that they lose.
_BLAS_THRESHOLD = cvar.distance_compute_blas_threshold


class IndexFlat(IndexFlatCodes):
    """Vectors as they are, any metric."""

    _caches = ("_norms", "_replays")

    def __init__(self, d: int = 0, metric: int = enums.METRIC_L2) -> None:
        super().__init__(4 * d, d, metric)

    @property
    def _vectors(self) -> Tensor:
        """The vectors, one a row."""
        return self.codes.tensor.view(torch.float32).view(self.ntotal, self.d)

    def _squared_norms(self) -> Tensor | None:
        """The vectors' squared norms, kept between searches that need them."""
        if self.metric_type != L2:
            return None
        norms: Tensor | None = self.__dict__["_norms"]
        if norms is None or norms.shape[0] != self.ntotal:
            norms = squared_norms(self._vectors)
            self._norms = norms
        return norms

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        if x.shape[0]:
            self._add_sa_codes(x.view(torch.uint8), None)

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        if ids is not None:
            return False
        codes, size = self.codes, x.nbytes
        room, at = codes.extended(size)
        room[at : at + size] = x.view(np.uint8).reshape(-1)
        codes._n = at + size
        self.__dict__["ntotal"] += x.shape[0]
        self._drop_caches()
        return True

    def _reconstruct_array(self, key: int) -> Array | None:
        check_key(key, self.ntotal)
        size = 4 * self.d
        return self.codes.array[key * size : (key + 1) * size].view(np.float32).copy()

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        forced = cvar.distance_compute_blas_threshold < _BLAS_THRESHOLD and params is None and self.metric_type == L2
        if forced and x.numel() >= max(1, cvar.distance_compute_blas_threshold):
            return flat.knn.definition(x, self._vectors, k, L2)
        if k == 1 and params is None and self.ntotal and x.shape[0] >= flat.BLAS_FROM and not self.metric_arg:
            distances, labels = flat.nearest(x, self._vectors, self.metric_type)
            return distances[:, None], labels[:, None]
        allowed = None if params is None else allowed_rows(params, self.ntotal, self.device)
        norms = self._squared_norms() if x.shape[0] >= flat.BLAS_FROM else None
        vectors, metric, arg = self._vectors, self.metric_type, self.metric_arg
        if params is None and self.code_size == 4 * self.d and recordable(x):
            state = (self.ntotal, self.d, metric, arg)
            found = replayed(self, x, k, (self.codes._buffer,), state, lambda x: flat.knn(x, vectors, k, metric, arg))
            return found[0], found[1]
        return flat.knn(x, vectors, k, metric, arg, allowed, norms)

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        allowed = None if params is None else allowed_rows(params, self.ntotal, self.device)
        return flat.within(x, self._vectors, radius, self.metric_type, self.metric_arg, allowed)

    def _assign(self, x: Tensor, k: int) -> Tensor:
        return self._search(x, k, None)[1]

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self._vectors[check_keys(keys, self.ntotal)]

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._vectors[n0 : n0 + ni].clone()

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        self._vectors[check_keys(keys, self.ntotal)] = x
        self._drop_caches()

    def _sa_encode(self, x: Tensor) -> Tensor:
        return x.contiguous().view(torch.uint8).view(x.shape[0], self.code_size)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return codes.contiguous().view(torch.float32).view(codes.shape[0], self.d)

    def get_xb(self) -> Pointer:
        """What rev_swig_ptr makes the vectors of."""
        return Pointer(self.codes.tensor.view(torch.float32))

    def compute_distance_subset(self, n: int, x: Any, k: int, distances: Any, labels: Any) -> None:
        """Distances of n queries to k vectors each, named by `labels`, written into `distances`."""
        named = behind(labels, n, k).to(self.device)
        queries = behind(x, n, self.d).to(self.device)
        found = self._vectors[named.clamp(min=0)]
        answer = flat.row_distances(queries[:, None], found, self.metric_type, self.metric_arg)
        behind(distances, n, k).copy_(torch.where(named >= 0, answer, torch.finfo(torch.float32).max))

    def get_FlatCodesDistanceComputer(self) -> DistanceComputer:
        """Distances to single vectors, for a query set on it."""
        return FlatCodesDistanceComputer(self)

    get_distance_computer = get_FlatCodesDistanceComputer


class IndexFlatL2(IndexFlat):
    """Flat, squared L2."""

    cached_l2norms = vector(Float32Vector, "squared norms that sync_l2norms computed")

    def __init__(self, d: int = 0) -> None:
        super().__init__(d, enums.METRIC_L2)

    def sync_l2norms(self) -> None:
        """Compute the norms that distance computers may use."""
        self.cached_l2norms.tensor = squared_norms(self._vectors)

    def clear_l2norms(self) -> None:
        """Forget the norms."""
        self.cached_l2norms.clear()


class IndexFlatIP(IndexFlat):
    """Flat, inner product."""

    def __init__(self, d: int = 0) -> None:
        super().__init__(d, enums.METRIC_INNER_PRODUCT)


class IndexFlat1D(IndexFlatL2):
    """Numbers in order: a search is a binary search."""

    continuous_update = boolean(True, "keep the order after each change")
    perm = vector(Int64Vector, "the numbers' ids in increasing order")

    def __init__(self, continuous_update: bool = True) -> None:
        super().__init__(1)
        self.continuous_update = continuous_update

    def update_permutation(self) -> None:
        """Bring the order up to date."""
        self.perm.tensor = torch.sort(self._vectors[:, 0], stable=True).indices

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        super()._add_sa_codes(codes, ids)
        if self.continuous_update:
            self.update_permutation()

    def _reset(self) -> None:
        super()._reset()
        self.perm.clear()

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search parameters are not supported by IndexFlat1D")
        check(self.perm.size() == self.ntotal, "call update_permutation() before a search")
        # FAISS walks outwards from the query's place in the order and reports |x - y|, not its square.
        distances, labels = flat.knn(x, self._vectors, k, enums.METRIC_L1)
        return distances, labels

    def _assign(self, x: Tensor, k: int) -> Tensor:
        return self._search(x, k, None)[1]


__all__ = ["IndexFlat", "IndexFlat1D", "IndexFlatIP", "IndexFlatL2"]
