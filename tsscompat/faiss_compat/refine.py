"""IndexRefine: candidates from one index, scored again by a more exact one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array, arrays_of, from_numpy, rows
from tsscompat.errors import check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import boolean, child, single
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.codes import best_of_named, held_labels, subset_distances
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlat
from tsscompat.faiss_compat.params import IndexRefineSearchParameters, SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.kernels.bits import tail
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.named import best_named
from tsscompat.kernels.select import merge
from tsscompat.kernels.singles import times


class IndexRefine(Index):
    """`base_index` proposes k * k_factor vectors, `refine_index` says which k of them are best."""

    base_index = child(None, "fast: proposes")
    refine_index = child(None, "exact: decides")
    own_fields = boolean(False)
    own_refine_index = boolean(False)
    k_factor = single(1.0, "candidates for each result")

    def __init__(self, base_index: Index | None = None, refine_index: Index | None = None) -> None:
        super().__init__(0 if base_index is None else base_index.d, METRIC_L2 if base_index is None else base_index.metric_type)
        if base_index is None:
            return
        self.base_index, self.refine_index = base_index, refine_index
        self.ntotal, self.metric_arg = base_index.ntotal, base_index.metric_arg
        self.__dict__["_device"], self.__dict__["_gpu"] = base_index.device, base_index.getDevice()
        self.is_trained = base_index.is_trained
        if refine_index is not None:
            check(base_index.d == refine_index.d, "dimensions {} and {}", base_index.d, refine_index.d)
            check(base_index.metric_type == refine_index.metric_type, "the indexes have different metrics")
            check(base_index.ntotal == refine_index.ntotal, "{} and {} vectors", base_index.ntotal, refine_index.ntotal)
            self.is_trained = base_index.is_trained and refine_index.is_trained

    def _train(self, x: Tensor) -> None:
        self.base_index._train(x)
        self.refine_index._train(x)
        self.is_trained = True

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self.base_index._add(x, None)
        self.refine_index._add(x, None)
        self.ntotal = self.refine_index.ntotal

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        if ids is not None or not self.base_index._add_few(x, None):
            return False
        if not self.refine_index._add_few(x, None):
            self.refine_index._add(from_numpy(x), None)
        self.ntotal = self.refine_index.ntotal
        return True

    def _reset(self) -> None:
        self.base_index._reset()
        self.refine_index._reset()
        self.ntotal = 0

    def _settings(self, params: SearchParameters | None) -> tuple[float, SearchParameters | None]:
        if params is None:
            return self.k_factor, None
        check(isinstance(params, IndexRefineSearchParameters), "{} params have incorrect type", type(self).__name__)
        assert isinstance(params, IndexRefineSearchParameters)
        return params.k_factor, params.base_index_params

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        check(self.metric_type in (METRIC_L2, METRIC_INNER_PRODUCT), "Metric type not supported")
        factor, base_params = self._settings(params)
        k_base = times(k, factor)
        check(k_base >= k, "k_factor {} is less than 1", factor)
        labels = self.base_index._search(x, k_base, base_params)[1]
        if self.refine_index.metric_type == self.metric_type:
            return best_of_named(self.refine_index, x, labels, k)
        labels = held_labels(labels, self.refine_index.ntotal)
        return merge(subset_distances(self.refine_index, x, labels), labels, k, is_similarity(self.metric_type))

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        exact, k_base = self.refine_index, times(k, self.k_factor)
        if not isinstance(exact, IndexFlat) or exact.metric_arg or exact.metric_type != self.metric_type:
            return None
        if not self.is_trained or self.metric_type not in (METRIC_L2, METRIC_INNER_PRODUCT) or k_base < k:
            return None
        found = self.base_index._search_arrays(x, k_base)
        return None if found is None else arrays_of(best_named(x, exact._vectors, found[1], k, self.metric_type))

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        factor, base_params = self._settings(params)
        lims, _, labels = self.base_index._range_search(x, radius * factor, base_params)
        labels = held_labels(labels, self.refine_index.ntotal)
        owner = torch.repeat_interleave(lims.diff())
        distances = subset_distances(self.refine_index, x[owner], labels[:, None])[:, 0]
        inside = distances > radius if is_similarity(self.metric_type) else distances < radius
        counts = torch.bincount(owner[inside], minlength=x.shape[0])
        return torch.cat([lims[:1], counts.cumsum(0)]), distances[inside], labels[inside]

    def _reconstruct(self, keys: Tensor) -> Tensor:
        found: Tensor = self.refine_index._reconstruct(keys)
        return found

    def _sa_code_size(self) -> int:
        return int(self.base_index._sa_code_size() + self.refine_index._sa_code_size())

    def _sa_encode(self, x: Tensor) -> Tensor:
        return torch.cat([self.base_index._sa_encode(x), self.refine_index._sa_encode(x)], 1)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        found: Tensor = self.refine_index._sa_decode(tail(codes, self.base_index._sa_code_size()))
        return found

    def get_distance_computer(self) -> Any:
        """Distances by the exact index."""
        return self.refine_index.get_distance_computer()


class IndexRefineFlat(IndexRefine):
    """The vectors themselves decide."""

    def __init__(self, base_index: Index | None = None, xb: Array | None = None) -> None:
        if base_index is None:
            super().__init__()
            self.own_refine_index = True
            return
        exact = IndexFlat(base_index.d, base_index.metric_type).to(base_index.device)
        if xb is None:
            check(base_index.ntotal == 0, "base_index should be empty in the beginning")
        else:
            x = (
                behind(xb, base_index.ntotal, base_index.d)
                if isinstance(xb, Pointer)
                else rows(xb, base_index.d, base_index.device).tensor
            )
            exact._add(x, None)
        super().__init__(base_index, exact)
        self.own_refine_index = True


__all__ = ["IndexRefine", "IndexRefineFlat"]
