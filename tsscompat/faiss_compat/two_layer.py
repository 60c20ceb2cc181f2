"""Index2Layer: codes of a list number and of a product quantizer on the residual, one after the other; they are stored, not searched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import kmeans
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import child, size_t
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.codes import IndexFlatCodes
from tsscompat.faiss_compat.computers import DistanceComputer
from tsscompat.faiss_compat.ivf_coarse import Level1Quantizer
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.stats import cvar
from tsscompat.kernels.bits import tail


class Index2Layer(IndexFlatCodes):
    """What an IndexIVFPQ would hold, in order of addition."""

    q1 = child(Level1Quantizer, "makes the first part of a code")
    pq = child(ProductQuantizer, "makes the second part")
    code_size_1 = size_t(0, "bytes of a list number")
    code_size_2 = size_t(0, "bytes of a product code")

    def __init__(
        self, quantizer: Index | None = None, nlist: int = 0, M: int = 1, nbit: int = 8, metric: int = enums.METRIC_L2
    ) -> None:
        super().__init__(0, 0 if quantizer is None else quantizer.d, metric)
        if quantizer is None:
            return
        self.q1, self.pq = Level1Quantizer(quantizer, nlist), ProductQuantizer(quantizer.d, M, nbit)
        self.code_size_1, self.code_size_2 = self.q1.coarse_code_size(), self.pq.code_size
        self.code_size = self.code_size_1 + self.code_size_2
        self.is_trained = False

    def _residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quantizer = self.q1._coarse()
        list_nos = quantizer._assign(x, 1)[:, 0]
        return list_nos, x - quantizer._reconstruct(list_nos)

    def _train(self, x: Tensor) -> None:
        self.q1._train_q1(x, self.verbose, self.metric_type)
        most, cp = self.pq.cp.max_points_per_centroid * self.pq.ksub, self.pq.cp
        if x.shape[0] > most:
            x = x[kmeans.subsample(x.shape[0], most, cp.seed, False).to(x.device)]
        _, residuals = self._residuals(x)
        self.pq.verbose = self.verbose
        self.pq._train(residuals)
        self.is_trained = True

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        self._refuse("search")

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        self._refuse("range_search")

    def _sa_encode(self, x: Tensor) -> Tensor:
        check(self.is_trained, "Index2Layer must be trained before it can encode")
        codes = torch.empty(x.shape[0], self.code_size, dtype=torch.uint8, device=x.device)
        step = max(1, cvar.index2layer_sa_encode_bs)
        for start in range(0, x.shape[0], step):
            list_nos, residuals = self._residuals(x[start : start + step])
            codes[start : start + step, : self.code_size_1] = self.q1._listno_codes(list_nos)
            codes[start : start + step, self.code_size_1 :] = self.pq._encode(residuals)
        return codes

    def _sa_decode(self, codes: Tensor) -> Tensor:
        centroids: Tensor = self.q1._coarse()._reconstruct(self.q1._listnos(codes))
        return self.pq._decode(tail(codes, self.code_size_1)) + centroids

    def transfer_to_IVFPQ(self, other: Any) -> None:
        """Add all codes to the lists of an empty IndexIVFPQ with the same quantizers."""
        check(other.nlist == self.q1.nlist, "expected {} lists, got {}", self.q1.nlist, other.nlist)
        check(other.code_size == self.code_size_2, "expected codes of {} bytes, got {}", self.code_size_2, other.code_size)
        check(other.ntotal == 0, "the other index holds {} vectors already", other.ntotal)
        rows, ids = self._rows, torch.arange(self.ntotal, device=self.device)
        other.invlists._append(self.q1._listnos(rows), tail(rows, self.code_size_1), ids)
        other.ntotal = self.ntotal

    def get_distance_computer(self) -> DistanceComputer:
        """Distances to single vectors, for a query set on it."""
        return DistanceComputer(self)


__all__ = ["Index2Layer"]
