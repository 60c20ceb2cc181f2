"""Flat indexes of additive codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import additive_search
from tsscompat.algorithms.additive import split
from tsscompat.algorithms.additive_search import Sums
from tsscompat.algorithms.blocks import in_blocks
from tsscompat.algorithms.decoded import Decoder
from tsscompat.algorithms.estimated import Estimated
from tsscompat.algorithms.ivf import ListCodec
from tsscompat.errors import check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.additive_kinds import OfLocalSearch, OfProductLocalSearch, OfProductResidual, OfResidual, Owner
from tsscompat.faiss_compat.attributes import child
from tsscompat.faiss_compat.codes import IndexFlatCodes
from tsscompat.faiss_compat.computers import DistanceComputer, EstimatedComputer
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.quantized import ScannedCodes
from tsscompat.kernels.coded import again, worth_decoding
from tsscompat.kernels.metrics import L2

AQ = AdditiveQuantizer
# Search types whose distances are those to the decoded vectors.
_EXACT = (AQ.ST_decompress, AQ.ST_norm_float, AQ.ST_norm_from_LUT)


def check_search_type(aq: AdditiveQuantizer) -> None:
    check(AQ.ST_decompress <= aq.search_type < AQ.ST_count, "search type {} not supported", aq.search_type)


def spread(M: Any, nbits: int | None, metric: int | None, search_type: int | None) -> tuple[list[int], int, int]:
    """The sizes of the codebooks, the metric and the search type of (M, nbits, metric, st) or (sizes, metric, st)."""
    if isinstance(M, int):
        return [nbits or 0] * M, METRIC_L2 if metric is None else metric, search_type or 0
    return list(M), METRIC_L2 if nbits is None else nbits, metric or 0


class IndexAdditiveQuantizer(ScannedCodes):
    """Sums of codebook entries, searched exhaustively as the quantizer's search type says."""

    aq = child(None, "makes the codes")

    _caches = ("_terms", "_scorer")
    _terms: Any
    _scorer: Any

    def __init__(self, d: int = 0, aq: AdditiveQuantizer | None = None, metric: int = METRIC_L2) -> None:
        check(
            metric in (METRIC_L2, METRIC_INNER_PRODUCT), "additive quantizers take L2 or the inner product, got metric {}", metric
        )
        super().__init__(0 if aq is None else aq.code_size, d, metric)
        if type(self) is IndexAdditiveQuantizer:
            self.aq = aq
        self.is_trained = False

    def _train(self, x: Tensor) -> None:
        self.aq._train(x)
        self.is_trained = True

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        # All at once: local search draws one stream for all vectors that it is given.
        self._add_sa_codes(self._sa_encode(x), ids)

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        kept = self.__dict__["_terms"]
        super()._add_sa_codes(codes, ids)
        if kept is not None:  # what was worked out for the rows before stays right, wherever they are now
            self._terms = (self.codes._buffer, *kept[1:])

    def _sa_encode(self, x: Tensor) -> Tensor:
        return self.aq._encode(x)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self.aq._decode(codes)

    # -- searching ------------------------------------------------------------------------------------------------------------------

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        check_search_type(self.aq)
        distances, labels = super()._search(x, k, params)
        if self.aq.search_type in _EXACT and self.metric_type == METRIC_L2 and self.ntotal:
            # The best by products, in the order of distances computed term by term.
            return again(x, self._rows, self._decode_into, labels, L2)
        return distances, labels

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        # FAISS decodes for this, whatever the search type.
        return IndexFlatCodes._range_search(self, x, radius, params)

    def _decode_into(self, codes: Tensor, out: Tensor) -> None:
        out.copy_(self.aq._decode(codes))

    def _decoder(self, x: Tensor) -> Decoder | None:
        plain = self.aq.search_type in _EXACT or self.metric_type == METRIC_INNER_PRODUCT
        if not plain or not worth_decoding(x, 8, True):
            return None
        return Decoder(self._decode_into, None)

    def _codec(self) -> ListCodec | None:
        if self.metric_type not in (METRIC_L2, METRIC_INNER_PRODUCT):
            return None
        books = self.aq._books
        if not books.uniform:
            return self._estimates()
        terms = self._row_terms() if self.metric_type == METRIC_L2 else None
        values = self.aq.search_type, self.metric_type
        if self._scorer is None or self._scorer[0] is not books or self._scorer[1] is not terms or self._scorer[2] != values:
            self._scorer = books, terms, values, self._sums(terms)
        scorer: Sums = self._scorer[3]
        return scorer

    def _sums(self, terms: Tensor | None) -> Sums:
        books = self.aq._books
        shape = len(books.nbits), books.uniform
        if self.metric_type == METRIC_INNER_PRODUCT:
            return Sums(books.table, *shape, 1.0, True, lambda x, keys, coarse: torch.zeros(keys.shape, device=x.device))
        if self.aq.search_type == AQ.ST_LUT_nonorm:
            return Sums(books.table, *shape, -1.0, False, lambda x, keys, coarse: _lengths(x, None, keys), terms=terms)
        point = additive_search.middle(books)
        table = additive_search.centred(books, point)
        return Sums(table, *shape, -2.0, False, lambda x, keys, coarse: _lengths(x, point, keys), point, terms)

    def _terms_of(self, codes: Tensor) -> Tensor:
        """What rows add to distances: the squared norms of their sums, seen from amid all sums."""
        aq, books = self.aq, self.aq._books
        if aq.search_type == AQ.ST_LUT_nonorm:
            return torch.zeros(codes.shape[0], device=codes.device)
        point = additive_search.middle(books)
        norms = aq._row_norms(codes) if aq.norm_bits else None
        return additive_search.row_terms(books, codes, norms, 2.0, -point) + point.square().sum()

    def _row_terms(self) -> Tensor:
        """_terms_of all rows, kept until the codebooks or the rows change; rows that were added are worked out by themselves."""
        aq, buffer, kept = self.aq, self.codes._buffer, self._terms
        held, values = aq._books, (aq.search_type, aq.norm_min, aq.norm_max, aq.qnorm.codes._buffer._version, self.code_size)
        done: Tensor = torch.empty(0, device=self.device)
        if kept is not None and kept[0] is buffer and kept[1] is held and kept[2] == values:
            done = kept[3]
        if done.shape[0] > self.ntotal:
            done = done[:0]
        if done.shape[0] < self.ntotal or kept is None or kept[3] is not done:
            new = in_blocks(self._terms_of, self._rows[done.shape[0] :], width=self.d)
            done = torch.cat([done, new])
            self._terms = (buffer, held, values, done)
        return done

    def _estimates(self) -> Estimated:
        return Estimated(self._factors, self.d, self.metric_type)

    def _factors(self, codes: Tensor, list_nos: Any) -> Tensor:
        aq = self.aq
        norms = aq._row_norms(codes) if aq.norm_bits else None
        half = aq.search_type == AQ.ST_LUT_nonorm and self.metric_type == METRIC_L2
        return additive_search.factors(aq._books.decode(split(codes, aq._sizes)), None, norms, half)

    def get_FlatCodesDistanceComputer(self) -> DistanceComputer:
        """Distances to single vectors, for a query set on it."""
        if self.aq.search_type == AQ.ST_decompress:
            return DistanceComputer(self)
        known = self.metric_type == METRIC_INNER_PRODUCT or self.aq.search_type != AQ.ST_norm_from_LUT
        check(known, "search type {} not supported", self.aq.search_type)
        return AdditiveComputer(self, self._estimates(), lambda i: (self._rows[i : i + 1], None))

    get_distance_computer = get_FlatCodesDistanceComputer


class AdditiveComputer(EstimatedComputer):
    """Distances by tables and stored norms; between two codes, the squared distance of what they stand for."""

    def symmetric_dis(self, i: int, j: int) -> float:
        a, b = self._vectors(i, j)
        return float((a - b).square().sum())


def _lengths(x: Tensor, point: Tensor | None, keys: Tensor) -> Tensor:
    """The squared distance of each query to a point, once for each list."""
    lengths = (x if point is None else x - point).square().sum(1, keepdim=True)
    return lengths.expand(keys.shape)


class IndexResidualQuantizer(OfResidual, IndexAdditiveQuantizer):
    """Codes of a residual quantizer."""

    def __init__(
        self, d: int = 0, M: Any = 0, nbits: int | None = None, metric: int | None = None, search_type: int | None = None
    ) -> None:
        """(d, M, nbits, metric, search type), or with the sizes of the codebooks in place of M and nbits."""
        sizes, metric, search_type = spread(M, nbits, metric, search_type)
        super().__init__(d, None, metric)
        self.code_size = self._own(d, sizes, search_type).code_size


class IndexLocalSearchQuantizer(OfLocalSearch, IndexAdditiveQuantizer):
    """Codes of a local search quantizer."""

    def __init__(self, d: int = 0, M: int = 0, nbits: int = 0, metric: int = METRIC_L2, search_type: int = 0) -> None:
        super().__init__(d, None, metric)
        self.code_size = self._own(d, M, nbits, search_type).code_size


class ProductAdditive(Owner, IndexAdditiveQuantizer):
    """Codes of quantizers side by side."""

    def __init__(
        self, d: int = 0, nsplits: int = 0, Msub: int = 0, nbits: int = 0, metric: int = METRIC_L2, search_type: int = 0
    ) -> None:
        super().__init__(d, None, metric)
        self.code_size = self._own(d, nsplits, Msub, nbits, search_type).code_size


class IndexProductResidualQuantizer(OfProductResidual, ProductAdditive):
    """Codes of residual quantizers side by side."""


class IndexProductLocalSearchQuantizer(OfProductLocalSearch, ProductAdditive):
    """Codes of local search quantizers side by side."""


IndexResidual = IndexResidualQuantizer

__all__ = [
    "IndexAdditiveQuantizer",
    "IndexLocalSearchQuantizer",
    "IndexProductLocalSearchQuantizer",
    "IndexProductResidualQuantizer",
    "IndexResidual",
    "IndexResidualQuantizer",
]
