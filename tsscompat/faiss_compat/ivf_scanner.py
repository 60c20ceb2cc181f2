"""InvertedListScanner: the distances of a query to the codes of a list, one list at a time, for code that walks the lists itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.kernels.flat import row_distances
from tsscompat.kernels.metrics import is_similarity


class InvertedListScanner:
    """Set a query, set a list, scan its codes into a heap of k results (kept in order, best first); distances are to decoded codes."""

    def __init__(self, index: Any, store_pairs: bool = False, sel: IDSelector | None = None) -> None:
        self.store_pairs, self.sel = store_pairs, sel
        self.list_no, self.code_size = -1, index.code_size
        self.keep_max = is_similarity(index.metric_type)
        self._index = index
        self._query = torch.zeros(1, index.d, device=index.device)

    def set_query(self, query_vector: Any) -> None:
        """The query of the scans that follow."""
        self._query = behind(query_vector, 1, self._index.d).to(self._index.device)

    def set_list(self, list_no: int, coarse_dis: float) -> None:
        """The list of the scans that follow; the distance to its centroid is worked out anew where it is needed."""
        self.list_no = int(list_no)

    def _distances(self, codes: Tensor) -> Tensor:
        lists = torch.full((len(codes),), self.list_no, dtype=torch.int64, device=codes.device)
        vectors = self._index._decode_vectors(codes, lists)
        return row_distances(self._query.expand_as(vectors), vectors, self._index.metric_type, self._index.metric_arg)

    def _codes(self, codes: Any, n: int) -> Tensor:
        return behind(codes, n, self.code_size).to(self._index.device)

    def distance_to_code(self, code: Any) -> float:
        """The query's distance to a code of the list."""
        return float(self._distances(self._codes(code, 1))[0])

    def _names(self, ids: Any, n: int) -> tuple[Tensor, Tensor]:
        """What the entries are called in the results, and which may be there."""
        given = torch.arange(n) if ids is None else behind(ids, n)
        allowed = torch.ones(n, dtype=torch.bool) if self.sel is None else self.sel._mask(given).cpu()
        return (torch.arange(n) | (self.list_no << 32) if self.store_pairs else given), allowed

    def scan_codes(self, n: int, codes: Any, ids: Any, distances: Any, labels: Any, k: int) -> int:
        """Scan n codes into a heap of k results; returns how many entered it."""
        held, names = behind(distances, k), behind(labels, k)
        found, (called, allowed) = self._distances(self._codes(codes, n)).cpu(), self._names(ids, n)
        both = torch.cat([held, found[allowed]])
        order = torch.sort(both, stable=True, descending=self.keep_max).indices[:k]
        held.copy_(both[order])
        names.copy_(torch.cat([names, called[allowed]])[order])
        return int((order >= k).sum())

    def scan_codes_range(self, n: int, codes: Any, ids: Any, radius: float, result: Any) -> None:
        """Scan n codes; those within the radius are appended to `result`, a list of (distance, label)."""
        found, (called, allowed) = self._distances(self._codes(codes, n)).cpu(), self._names(ids, n)
        inside = allowed & (found > radius if self.keep_max else found < radius)
        result.extend(zip(found[inside].tolist(), called[inside].tolist()))


__all__ = ["InvertedListScanner"]
