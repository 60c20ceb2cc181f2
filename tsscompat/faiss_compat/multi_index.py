"""Quantizers whose centroids are virtual: every combination of one centroid for each part of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import product
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import boolean, child, vector
from tsscompat.faiss_compat.base import Index, check_keys
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import ObjectVector
from tsscompat.kernels.metrics import L2
from tsscompat.kernels.select import padded, select
from tsscompat.kernels.sums import least_sums


class MultiIndexQuantizer(Index):
    """The cells of a product quantizer, numbered by their parts' centroids, the first part's in the low bits."""

    pq = child(ProductQuantizer, "the parts' centroids")

    def __init__(self, d: int = 0, M: int = 1, nbits: int = 0) -> None:
        super().__init__(d)
        if d:
            self.pq = ProductQuantizer(d, M, nbits)
            self.is_trained = False

    def _train(self, x: Tensor) -> None:
        self.pq.verbose = self.verbose
        self.pq._train(x)
        self.is_trained, self.ntotal = True, self.pq.ksub**self.pq.M

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        answer = padded(x.shape[0], k, False, x.device)
        # Tables take much room: blocks of queries, as many as FAISS has in a block.
        step = max(1, cvar.multi_index_quantizer_search_bs)
        for start in range(0, x.shape[0], step):
            distances, cells = self._cells(x[start : start + step], k)
            answer[0][start : start + step, : cells.shape[1]] = distances
            answer[1][start : start + step, : cells.shape[1]] = cells
        return answer

    def _cells(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The nearest cells, as many as there are up to k."""
        pq = self.pq
        tables = product.tables(x, pq._table, L2)  # (n, M, ksub)
        if k == 1:
            distances, nearest = tables.min(2)
            return distances.sum(1, keepdim=True), self._numbers(nearest[:, None])
        parts, names = select(tables.view(-1, pq.ksub), None, min(k, pq.ksub), False)
        return self._combined(parts.view(x.shape[0], pq.M, -1), names.view(x.shape[0], pq.M, -1), k)

    def _combined(self, parts: Tensor, names: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best cells of what is best in each part: distances and centroids (n, M, w)."""
        distances, places = least_sums(parts, min(k, parts.shape[2] ** parts.shape[1]))
        chosen = names.gather(2, places.transpose(1, 2)).transpose(1, 2)
        # A part of which nothing can be said (NaN) has no centroid, and so the cell none.
        return distances, torch.where((chosen >= 0).all(-1), self._numbers(chosen), -1)

    def _numbers(self, parts: Tensor) -> Tensor:
        """Cell numbers of the centroids (..., M) of each part."""
        return (parts << self.pq.nbits * torch.arange(self.pq.M, device=parts.device)).sum(-1)

    def _reconstruct(self, keys: Tensor) -> Tensor:
        pq = self.pq
        check_keys(keys, pq.ksub**pq.M)
        parts = keys[:, None] >> pq.nbits * torch.arange(pq.M, device=keys.device) & (pq.ksub - 1)  # (n, M)
        return pq._table[torch.arange(pq.M, device=keys.device), parts].reshape(keys.shape[0], self.d)

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        check(False, "This index has virtual elements, it does not support add")

    def _remove(self, sel: IDSelector) -> int:
        self._refuse("remove_ids")

    def _reset(self) -> None:
        check(False, "This index has virtual elements, it does not support reset")


class MultiIndexQuantizer2(MultiIndexQuantizer):
    """A multi-index quantizer that searches each part with an index of its own."""

    assign_indexes = vector(ObjectVector, "an index for each part")
    own_fields = boolean(False)

    def __init__(self, d: int = 0, *given: Any) -> None:
        """(d, M, nbits, indexes), or (d, nbits, index of part 0, index of part 1)."""
        if not d:
            super().__init__()
            return
        if len(given) == 3 and isinstance(given[1], Index):
            nbits, parts = given[0], list(given[1:])
        else:
            M, nbits, indexes = given
            parts = [indexes.at(i) for i in range(M)] if hasattr(indexes, "at") else list(indexes)[:M]
        super().__init__(d, len(parts), nbits)
        self._take(parts)

    def _take(self, parts: Sequence[Index]) -> None:
        for part in parts:
            check(part.d == self.pq.dsub, "Provided sub-index has incorrect size: expected {}, got {}", self.pq.dsub, part.d)
            self.assign_indexes.push_back(part)

    def _train(self, x: Tensor) -> None:
        super()._train(x)
        for m in range(self.pq.M):
            self.assign_indexes.at(m)._add(self.pq._table[m].contiguous(), None)

    def _cells(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        pq = self.pq
        step = min(k, pq.ksub)
        found = [
            self.assign_indexes.at(m)._search(x[:, m * pq.dsub : (m + 1) * pq.dsub].contiguous(), step, None) for m in range(pq.M)
        ]
        return self._combined(torch.stack([f[0] for f in found], 1), torch.stack([f[1] for f in found], 1), k)


__all__ = ["MultiIndexQuantizer", "MultiIndexQuantizer2"]
