"""IndexHNSWRaBitQ: a graph over RaBitQ codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import rabitq
from tsscompat.errors import check
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.graph import IndexHNSW
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.rabitq import IndexRaBitQ, RaBitQDistanceComputer
from tsscompat.faiss_compat.stats import cvar


class IndexHNSWRaBitQ(IndexHNSW):
    """A graph whose nodes are compared by the estimates of all bits of their codes; queries are not rounded."""

    _caches: tuple[str, ...] = ("_points",)

    def __init__(self, d: int = 0, M: int = 32, nb_bits: int = 1, metric: int = METRIC_L2) -> None:
        super().__init__(d, M, metric)
        if d:
            check(metric == METRIC_L2, "IndexHNSWRaBitQ supports only the L2 metric")
            self._own(IndexRaBitQ(d, metric, nb_bits))
            self.hnsw.search_method = self.hnsw.SM_RABITQ if nb_bits > 1 else self.hnsw.SM_DEFAULT

    def _lifted(self) -> tuple[Tensor, Tensor]:
        self._need_storage()
        storage, kept = self.storage, self.__dict__["_points"]
        if kept is None or kept[0].shape[0] != storage.ntotal:
            kept = self._points = rabitq.as_points(storage._rows, storage.center.tensor, storage.rabitq.nb_bits)
        points: tuple[Tensor, Tensor] = kept
        return points

    def _vectors(self) -> Tensor:
        return self._lifted()[0]

    def _found(self, x: Tensor, k: int, params: SearchParameters | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        before = cvar.hnsw_stats.ndis
        distances, labels = super()._found(torch.nn.functional.pad(x, (0, 1)), k, params, starts)
        if self.ntotal and self.storage.rabitq.nb_bits > 1:
            # Every code seen is scored by all of its bits at once.
            cvar.rabitq_stats.n_1bit += cvar.hnsw_stats.ndis - before
            cvar.rabitq_stats.n_refine += cvar.hnsw_stats.ndis - before
        return torch.where(labels >= 0, (distances + self._lifted()[1]).clamp(min=0), distances), labels

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        least = self._lifted()[1]
        lims, distances, labels = super()._range_search(torch.nn.functional.pad(x, (0, 1)), radius - float(least), params)
        return lims, (distances + least).clamp(min=0), labels

    def get_distance_computer(self) -> Any:
        """Distances to single vectors, for a query set on it."""
        computer: RaBitQDistanceComputer = self.storage.get_distance_computer()
        return computer


__all__ = ["IndexHNSWRaBitQ"]
