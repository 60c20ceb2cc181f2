"""Additive codes of 4-bit parts in blocks, scored by tables of 8 bits.

With L2, a code has two parts more than the quantizer: its norm, as a sum of an entry of each of two tables (the search types
ST_norm_lsq2x4 and ST_norm_rq2x4). As norms reach farther than products, these tables may be divided by a whole number (`norm_scale`), and
what they add to a sum counts so many times. The squared norm of the query, the same for all codes, is left out of distances.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tsscompat.algorithms.random import rand_perm
from tsscompat.errors import check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.additive_flat import IndexAdditiveQuantizer
from tsscompat.faiss_compat.additive_kinds import OfLocalSearch, OfProductLocalSearch, OfProductResidual, OfResidual, Owner
from tsscompat.faiss_compat.attributes import boolean, child, integer, size_t
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.fastscan import IndexFastScan
from tsscompat.faiss_compat.pointers import behind

AQ = AdditiveQuantizer
# FAISS's seeds and sizes of samples.
_TRAIN_SEED, _SCALE_SEED, _SCALE_SAMPLE = 0x12345, 0x980903, 65536


def check_quantizer(aq: AdditiveQuantizer, metric: int) -> int:
    """The parts of a code of a quantizer, which must be of the kind that a metric takes."""
    check(aq.M > 0, "a quantizer without codebooks")
    check(set(aq._sizes) == {4}, "fast scan takes codebooks of 4 bits, got {}", aq._sizes)
    if metric == METRIC_INNER_PRODUCT:
        check(aq.search_type == AQ.ST_LUT_nonorm, "Search type must be ST_LUT_nonorm for IP metric")
        return int(aq.M)
    tabled = aq.search_type in (AQ.ST_norm_lsq2x4, AQ.ST_norm_rq2x4)
    check(tabled, "Search type must be lsq2x4 or rq2x4 for L2 metric")
    return int(aq.M) + 2


def sampled(x: Tensor, most: int, seed: int) -> Tensor:
    """At most so many of the vectors, chosen as FAISS chooses them."""
    return x if x.shape[0] <= most else x[rand_perm(x.shape[0], seed)[:most].to(x.device, torch.int64)]


class Scaled:
    """What flat indexes and lists of additive codes share: their tables, and how much the norms' count."""

    def _norms_count(self: Any) -> bool:
        return bool(self.rescale_norm) and self.norm_scale > 1 and self.metric_type == METRIC_L2

    def _weighted(self: Any) -> tuple[int, int]:
        return (2, self.norm_scale) if self._norms_count() else (0, 0)

    def _query_tables(self: Any, x: Tensor) -> Tensor:
        """Products with the entries, or -2 times these and the norms' tables: (nq, M, 16)."""
        aq: AdditiveQuantizer = self.aq
        products = (x @ aq._books.table.t()).view(x.shape[0], aq.M, 16)
        if self.metric_type == METRIC_INNER_PRODUCT:
            return products
        check(aq.norm_tabs.size() == 32, "{} entries of norms, expected 32", aq.norm_tabs.size())
        norms = aq.norm_tabs.tensor.view(1, 2, 16)
        if self._norms_count():
            norms = norms / self.norm_scale
        return torch.cat([products * -2.0, norms.expand(x.shape[0], -1, -1)], 1)

    def _estimate_norm_scale(self: Any, x: Tensor) -> None:
        """Take as scale how much farther norms reach than products, on average."""
        check(self.metric_type == METRIC_L2, "norms are for L2")
        tables = self._query_tables(sampled(x, _SCALE_SAMPLE, _SCALE_SEED))
        spans = tables.amax(2) - tables.amin(2)
        scale = (spans[:, -2:].amax(1) / spans[:, :-2].amax(1)).double().mean()
        # Half a unit goes up, as C rounds.
        self.norm_scale = int(max(float(scale), 1.0) + 0.5)

    def estimate_norm_scale(self: Any, n: int, x: Any) -> None:
        self._estimate_norm_scale(behind(x, n, self.d).to(self.device))


class IndexAdditiveQuantizerFastScan(Scaled, IndexFastScan):
    """Additive codes of 4 bits a part in blocks."""

    aq = child(None, "makes the codes")
    rescale_norm = boolean(True, "let norms count more than once where they reach farther than products")
    norm_scale = integer(1, "how often")
    max_train_points = size_t(0, "vectors to train with at most")

    def __init__(self, aq: Any = None, metric: int = METRIC_L2, bbs: int = 32) -> None:
        """(quantizer, metric, bbs), or (an index of additive codes, bbs), or nothing."""
        super().__init__()
        if isinstance(aq, IndexAdditiveQuantizer):
            self.aq = aq.aq
            self._init(aq.metric_type, 32 if metric == METRIC_L2 else metric)
            self._take_from(aq)
        elif aq is not None:
            self.aq = aq
            self._init(metric, bbs)

    def _init(self, metric: int, bbs: int) -> None:
        M = check_quantizer(self.aq, metric)
        self._init_fastscan(self.aq.d, M, 4, metric, bbs)
        self.max_train_points = 1024 * self.ksub * M

    def init(self, aq: AdditiveQuantizer, metric: int = METRIC_L2, bbs: int = 32) -> None:
        """Make codes with a quantizer from now on."""
        self.aq = aq
        self._init(metric, bbs)

    def _train(self, x: Tensor) -> None:
        if self.is_trained:
            return
        sample = sampled(x, self.max_train_points, _TRAIN_SEED)
        self.aq.verbose = self.verbose
        self.aq._train(sample)
        if self.metric_type == METRIC_L2:
            self._estimate_norm_scale(sample)
        self.is_trained = True

    def _sa_encode(self, x: Tensor) -> Tensor:
        codes: Tensor = self.aq._encode(x)
        return codes

    def _sa_decode(self, codes: Tensor) -> Tensor:
        vectors: Tensor = self.aq._decode(codes)
        return vectors

    def _float_tables(self, x: Tensor) -> Tensor:
        return self._query_tables(x)


class PlainFastScan(Owner, IndexAdditiveQuantizerFastScan):
    """Codes of one quantizer of whole vectors."""

    _norms: ClassVar[int] = AQ.ST_norm_rq2x4

    def __init__(
        self, d: int = 0, M: int = 0, nbits: int = 4, metric: int = METRIC_L2, search_type: int | None = None, bbs: int = 32
    ) -> None:
        super().__init__()
        if d:
            self._own(d, M, nbits, self._norms if search_type is None else search_type)
            self._init(metric, bbs)


class ProductFastScan(Owner, IndexAdditiveQuantizerFastScan):
    """Codes of quantizers side by side."""

    def __init__(
        self,
        d: int = 0,
        nsplits: int = 0,
        Msub: int = 0,
        nbits: int = 4,
        metric: int = METRIC_L2,
        search_type: int = AQ.ST_norm_rq2x4,
        bbs: int = 32,
    ) -> None:
        super().__init__()
        if d:
            self._own(d, nsplits, Msub, nbits, search_type)
            self._init(metric, bbs)


class IndexResidualQuantizerFastScan(OfResidual, PlainFastScan):
    """Codes of a residual quantizer."""


class IndexLocalSearchQuantizerFastScan(OfLocalSearch, PlainFastScan):
    """Codes of a local search quantizer."""

    _norms = AQ.ST_norm_lsq2x4


class IndexProductResidualQuantizerFastScan(OfProductResidual, ProductFastScan):
    """Codes of residual quantizers side by side."""


class IndexProductLocalSearchQuantizerFastScan(OfProductLocalSearch, ProductFastScan):
    """Codes of local search quantizers side by side."""


__all__ = [
    "IndexAdditiveQuantizerFastScan",
    "IndexLocalSearchQuantizerFastScan",
    "IndexProductLocalSearchQuantizerFastScan",
    "IndexProductResidualQuantizerFastScan",
    "IndexResidualQuantizerFastScan",
]
