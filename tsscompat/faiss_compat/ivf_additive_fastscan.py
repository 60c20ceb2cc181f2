"""Lists of additive codes of 4-bit parts in blocks (see additive_fastscan.py); norms in codes are of whole vectors, not of residuals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.blocks import squared_norms
from tsscompat.errors import check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.additive_fastscan import Scaled, check_quantizer
from tsscompat.faiss_compat.additive_kinds import OfLocalSearch, OfProductLocalSearch, OfProductResidual, OfResidual, Owner
from tsscompat.faiss_compat.attributes import boolean, child, integer, size_t
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.ivf_additive import IndexIVFAdditiveQuantizer
from tsscompat.faiss_compat.ivf_fastscan import IndexIVFFastScan
from tsscompat.faiss_compat.quantizers import Quantizer
from tsscompat.kernels.ivf_terms import list_scores
from tsscompat.kernels.metrics import INNER_PRODUCT

AQ = AdditiveQuantizer


class IndexIVFAdditiveQuantizerFastScan(Scaled, IndexIVFFastScan):
    """Lists of additive codes of 4 bits a part, of the vectors or (`by_residual`) of their residuals."""

    aq = child(None, "makes the codes")
    rescale_norm = boolean(False, "let norms count more than once where they reach farther than products")
    norm_scale = integer(1, "how often")
    max_train_points = size_t(0, "vectors to train with at most")

    def __init__(
        self,
        quantizer: Any = None,
        aq: Any = None,
        d: int = 0,
        nlist: int = 0,
        metric: int = METRIC_L2,
        bbs: int = 32,
        own_invlists: bool = True,
    ) -> None:
        """(coarse quantizer, quantizer, d, nlist, ...), or (lists of additive codes, bbs), or nothing."""
        if isinstance(quantizer, IndexIVFAdditiveQuantizer):
            orig = quantizer
            whole = orig.metric_type == METRIC_INNER_PRODUCT or not orig.by_residual
            check(whole, "with L2, residuals' codes hold other norms than fast scan needs")
            super().__init__(orig.quantizer, orig.d, orig.nlist, 0, orig.metric_type, orig.own_invlists)
            self.aq = orig.aq
            self._init(aq or 32)
            self._take_from(orig)
            return
        super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
        if aq is not None:
            self.aq = aq
            self._init(bbs)

    def _init(self, bbs: int) -> None:
        M = check_quantizer(self.aq, self.metric_type)
        self._init_fastscan(M, 4, bbs)
        self.max_train_points = 1024 * self.ksub * M
        self.by_residual = True

    def init(self, aq: AdditiveQuantizer, nlist: int, metric: int, bbs: int, own_invlists: bool) -> None:
        """Make codes with a quantizer from now on."""
        self.aq, self.own_invlists = aq, own_invlists
        self._init(bbs)

    @property
    def fine_quantizer(self) -> Quantizer:
        aq: Quantizer = self.aq
        return aq

    # -- the code -------------------------------------------------------------------------------------------------------------------

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        aq = self.aq
        if aq.is_trained:
            return
        aq.verbose = self.verbose
        aq._train(x)
        if self.metric_type != METRIC_L2:
            return
        if assign is not None:
            aq._train_norm(squared_norms(aq._decode(aq._encode(x)) + self._coarse()._reconstruct(assign)))
        self._estimate_norm_scale(x)

    def _train_encoder_num_vectors(self) -> int:
        return int(self.max_train_points)

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        if not self.by_residual:
            codes: Tensor = self.aq._encode(x)
            return codes
        centers = self._coarse()._reconstruct(list_nos.clamp(min=0))
        codes = self.aq._encode((x - centers).masked_fill((list_nos < 0)[:, None], 0.0), centers)
        return codes

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        vectors: Tensor = self.aq._decode(codes)
        return vectors + self._coarse()._reconstruct(list_nos) if self.by_residual else vectors

    def _float_tables(self, x: Tensor, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor | None]:
        tables = self._query_tables(x)
        if not self.by_residual:
            return tables, None
        products = list_scores(x, self._centers(), keys, INNER_PRODUCT)
        biases = products if self.metric_type == METRIC_INNER_PRODUCT else products * -2.0
        return tables, biases.masked_fill(keys < 0, torch.nan)


class PlainFastScanLists(Owner, IndexIVFAdditiveQuantizerFastScan):
    """Lists of codes of one quantizer of whole vectors."""

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        M: int = 0,
        nbits: int = 4,
        metric: int = METRIC_L2,
        search_type: int = AQ.ST_norm_lsq2x4,
        bbs: int = 32,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, None, d, nlist, metric, bbs, own_invlists)
        if quantizer is not None:
            self._own(d, M, nbits, search_type)
            self._init(bbs)


class ProductFastScanLists(Owner, IndexIVFAdditiveQuantizerFastScan):
    """Lists of codes of quantizers side by side."""

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        nsplits: int = 0,
        Msub: int = 0,
        nbits: int = 4,
        metric: int = METRIC_L2,
        search_type: int = AQ.ST_norm_lsq2x4,
        bbs: int = 32,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, None, d, nlist, metric, bbs, own_invlists)
        if quantizer is not None:
            self._own(d, nsplits, Msub, nbits, search_type)
            self._init(bbs)


class IndexIVFResidualQuantizerFastScan(OfResidual, PlainFastScanLists):
    """Lists of codes of a residual quantizer."""


class IndexIVFLocalSearchQuantizerFastScan(OfLocalSearch, PlainFastScanLists):
    """Lists of codes of a local search quantizer."""


class IndexIVFProductResidualQuantizerFastScan(OfProductResidual, ProductFastScanLists):
    """Lists of codes of residual quantizers side by side."""


class IndexIVFProductLocalSearchQuantizerFastScan(OfProductLocalSearch, ProductFastScanLists):
    """Lists of codes of local search quantizers side by side."""


__all__ = [
    "IndexIVFAdditiveQuantizerFastScan",
    "IndexIVFLocalSearchQuantizerFastScan",
    "IndexIVFProductLocalSearchQuantizerFastScan",
    "IndexIVFProductResidualQuantizerFastScan",
    "IndexIVFResidualQuantizerFastScan",
]
