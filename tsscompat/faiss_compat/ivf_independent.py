"""IndexIVFIndependentQuantizer: an IVF index whose lists are found by another quantizer, in another space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.random import rand_perm
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import boolean, child
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.ivf_coarse import Level1Quantizer
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQ
from tsscompat.faiss_compat.params import SearchParameters


class IndexIVFIndependentQuantizer(Index):
    """Lists chosen by `quantizer`; their content is that of `index_ivf`, for vectors that went through `vt`."""

    quantizer = child(None, "chooses the lists")
    vt = child(None, "what is applied before index_ivf, or None")
    index_ivf = child(None, "holds the lists")
    own_fields = boolean(False)

    def __init__(self, quantizer: Index | None = None, index_ivf: IndexIVF | None = None, vt: Any = None) -> None:
        if quantizer is None or index_ivf is None:
            super().__init__(0, METRIC_L2)
            return
        super().__init__(quantizer.d, index_ivf.metric_type)
        if vt is None:
            check(index_ivf.d == self.d, "the lists have dimension {}, the quantizer {}", index_ivf.d, self.d)
        else:
            fits = vt.d_in == self.d and vt.d_out == index_ivf.d
            check(fits, "expected a transform from {} to {} dimensions, got {} to {}", self.d, index_ivf.d, vt.d_in, vt.d_out)
        check(
            quantizer.ntotal in (0, index_ivf.nlist) or not quantizer.is_trained,
            "the quantizer must have {} entries",
            index_ivf.nlist,
        )
        check(not (index_ivf.is_trained and vt is not None) or vt.is_trained, "the transform is not trained")
        self.quantizer, self.index_ivf, self.vt = quantizer, index_ivf, vt
        self.ntotal = index_ivf.ntotal
        ready = quantizer.is_trained and quantizer.ntotal == index_ivf.nlist and index_ivf.is_trained
        self.is_trained = ready and (vt is None or vt.is_trained)
        if isinstance(index_ivf, IndexIVFPQ):
            # The coarse distances are of the other space.
            index_ivf.use_precomputed_table = -1

    def _transformed(self, x: Tensor) -> Tensor:
        return x if self.vt is None else self.vt._apply(x)

    def _train(self, x: Tensor) -> None:
        ivf, nlist = self.index_ivf, self.index_ivf.nlist
        first = Level1Quantizer(self.quantizer, nlist)
        first._train_q1(x, self.verbose, self.metric_type)
        if self.vt is not None and not self.vt.is_trained:
            self.vt._train(x)
        centroids = self._transformed(self.quantizer._reconstruct_n(0, nlist))
        if not ivf.quantizer.is_trained:
            ivf.quantizer._train(centroids)
        ivf.quantizer._add(centroids, None)
        wanted = ivf._train_encoder_num_vectors()
        if 0 < wanted < x.shape[0]:
            x = x[rand_perm(x.shape[0], 1234)[:wanted].to(x.device, torch.int64)]
        moved = self._transformed(x)
        if ivf.by_residual:
            list_nos = self.quantizer._assign(x, 1).reshape(-1)
            ivf._train_encoder(moved - ivf.quantizer._reconstruct(list_nos), list_nos)
        else:
            ivf._train_encoder(moved, None)
        ivf.is_trained = self.is_trained = True

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        _, list_nos = self.quantizer._search(x, 1, None)
        self.index_ivf._add_core(self._transformed(x), None, list_nos.reshape(-1))
        self.ntotal = self.index_ivf.ntotal

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search parameters not supported")
        coarse, keys = self.quantizer._search(x, min(self.index_ivf.nprobe, self.index_ivf.nlist), None)
        answer: tuple[Tensor, Tensor] = self.index_ivf._search_preassigned(self._transformed(x), k, keys, coarse, None, False)
        return answer

    def _reset(self) -> None:
        self.index_ivf._reset()
        self.ntotal = 0


__all__ = ["IndexIVFIndependentQuantizer"]
