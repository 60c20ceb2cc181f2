"""Inverted lists of additive codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import additive_search
from tsscompat.algorithms.additive import split
from tsscompat.algorithms.additive_search import Sums
from tsscompat.algorithms.blocks import in_blocks
from tsscompat.algorithms.estimated import Estimated
from tsscompat.algorithms.ivf import ListCodec
from tsscompat.algorithms.ragged import newcomers
from tsscompat.errors import check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.additive_coarse import ResidualCoarseQuantizer
from tsscompat.faiss_compat.additive_flat import check_search_type, spread
from tsscompat.faiss_compat.additive_kinds import OfLocalSearch, OfProductLocalSearch, OfProductResidual, OfResidual, Owner
from tsscompat.faiss_compat.attributes import child, integer
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF, unchanged
from tsscompat.faiss_compat.ivf_scanner import InvertedListScanner
from tsscompat.faiss_compat.local_search import LocalSearchQuantizer
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.residual import ResidualQuantizer
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.kernels.ivf_lists import runs
from tsscompat.kernels.ivf_terms import list_scores
from tsscompat.kernels.metrics import L2, is_similarity

AQ = AdditiveQuantizer
# Vectors that FAISS encodes at a time when it adds: local search draws one stream for each batch.
_BATCH = 65536
# Centroids that are asked for a mean of the data.
_SAMPLE = 1000


class IndexIVFAdditiveQuantizer(IndexIVF):
    """Lists of vectors, or residuals, that are sums of codebook entries."""

    aq = child(None, "makes the codes")
    use_precomputed_table = integer(0, "FAISS keeps it for later use")

    _caches = ("_terms", "_scorer", "_shift_of")
    _terms: Any
    _scorer: Any
    _shift_of: Any

    def __init__(
        self,
        aq: AdditiveQuantizer | None = None,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        metric: int = METRIC_L2,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
        self.by_residual = True
        if type(self) is IndexIVFAdditiveQuantizer:
            self.aq = aq

    def _sized(self) -> None:
        """Take the size of codes from the quantizer."""
        self.code_size = self.aq.code_size
        if self.invlists is not None:
            self.invlists.code_size = self.code_size

    # -- the code -------------------------------------------------------------------------------------------------------------------

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        self.aq._train(x)

    def _train_encoder_num_vectors(self) -> int:
        aq: AdditiveQuantizer = self.aq
        return 1024 * (aq.M if isinstance(aq, LocalSearchQuantizer) else 1) << aq._sizes[0]

    def _add_core(self, x: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        check(self.is_trained, "{} must be trained before vectors are added", type(self).__name__)
        self.direct_map.check_can_add(ids)
        for i in range(0, x.shape[0], _BATCH):
            some = list_nos[i : i + _BATCH]
            codes = self._encode_vectors(x[i : i + _BATCH], some)
            self._add_codes(codes, None if ids is None else ids[i : i + _BATCH], some)

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        check(self.is_trained, "{} must be trained before it encodes", type(self).__name__)
        if self.by_residual:
            x = x - self._coarse()._reconstruct(list_nos.clamp(min=0))
        codes: Tensor = self.aq._encode(x)
        return codes

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        vectors: Tensor = self.aq._decode(codes)
        return vectors + self._coarse()._reconstruct(list_nos) if self.by_residual else vectors

    # -- scoring --------------------------------------------------------------------------------------------------------------------

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        check(params is None or params.sel is None, "id selector not supported for this index")
        check_search_type(self.aq)
        books = self.aq._books
        if not books.uniform:
            check(self.metric_type in (METRIC_L2, METRIC_INNER_PRODUCT), "unsupported metric type {}", self.metric_type)
            return self._estimates()
        terms = self._row_terms() if self.metric_type != METRIC_INNER_PRODUCT and self._has_terms else None
        held, values = (books, terms), (self.aq.search_type, self.metric_type, self.by_residual)
        if not unchanged(self._scorer, held, values):
            self._scorer = held, values, self._sums(terms)
        codec: Sums = self._scorer[2]
        return codec

    @property
    def _around_centers(self) -> bool:
        """Whether distances are those of residuals; FAISS scores codes by squared distances for all other metrics, without residuals."""
        return bool(self.by_residual) and self.metric_type == METRIC_L2

    @property
    def _has_terms(self) -> bool:
        return self._around_centers or self.aq.search_type != AQ.ST_LUT_nonorm

    @property
    def _weight(self) -> float:
        """What products with the query count: twice, but once where norms are left out."""
        return 1.0 if self.aq.search_type == AQ.ST_LUT_nonorm else 2.0

    def _sums(self, terms: Tensor | None) -> Sums:
        books = self.aq._books
        shape = books.table, len(books.nbits), books.uniform
        if self.metric_type == METRIC_INNER_PRODUCT:
            if self.by_residual:
                return Sums(*shape, 1.0, True, lambda x, keys, coarse: coarse)
            return Sums(*shape, 1.0, True, lambda x, keys, coarse: torch.zeros(keys.shape, device=x.device))
        if not self._around_centers:
            lengths = lambda x, keys, coarse: x.square().sum(1, keepdim=True).expand(keys.shape)  # noqa: E731
            given = self.by_residual and self.aq.search_type != AQ.ST_decompress
            bias = (lambda x, keys, coarse: coarse) if given else lengths
            return Sums(*shape, -self._weight, is_similarity(self.metric_type), bias, None, terms)
        if self.aq.search_type == AQ.ST_decompress:
            # FAISS works out residuals here, whatever the coarse distances that it is given.
            centers = self._centers()
            scores = lambda x, keys, coarse: list_scores(x, centers, keys, L2)  # noqa: E731
            return Sums(*shape, -2.0, False, scores, self._shift(), terms)
        return Sums(*shape, -self._weight, False, lambda x, keys, coarse: coarse, self._shift(), terms)

    def _shift(self) -> Tensor:
        """A mean of the centroids: products with what is left of queries and centers are small beside distances."""
        if self._shift_of is None:
            n = self._n_centers()
            sample = torch.linspace(0, n - 1, min(n, _SAMPLE), dtype=torch.float64, device=self.device).to(torch.int64)
            self._shift_of = self._coarse()._reconstruct(sample).mean(0)
        shift: Tensor = self._shift_of
        return shift

    def _terms_of(self, rows: Tensor, list_nos: Tensor) -> Tensor:
        """What rows of the arena add to distances: |r|^2 and, of residuals, twice (or once) their product with the center."""
        aq, codes = self.aq, self._lists()._ragged().codes[rows]
        norms = aq._row_norms(codes) if aq.norm_bits else None
        around = self._coarse()._reconstruct(list_nos) - self._shift() if self._around_centers else None
        return additive_search.row_terms(aq._books, codes, norms, self._weight, around)

    def _row_terms(self) -> Tensor:
        """_terms_of every row, kept until lists, codebooks or the coarse quantizer change."""
        invlists, quantizer, aq, kept = self._lists(), self._coarse(), self.aq, self._terms
        moves, changes = invlists._stamp()
        held = invlists, quantizer, aq._books
        norms = aq.search_type, aq.norm_min, aq.norm_max, aq.qnorm.codes._buffer._version
        values = moves, quantizer.ntotal, self._around_centers, *norms
        lists = invlists._ragged()
        if unchanged(kept, held, values):
            if kept[2] == changes:
                return kept[4]
            (sizes, offsets), terms = kept[3], kept[4]
        else:
            self._shift_of = None
            sizes, offsets = torch.zeros_like(lists.sizes), lists.offsets
            terms = torch.zeros(lists.ids.shape[0], device=self.device)
        # Entries were added behind those of their lists: only theirs are missing.
        grown, begins, counts = newcomers(lists, sizes, offsets)
        rows, which = runs(begins, counts)
        terms[rows] = in_blocks(self._terms_of, rows, grown[which], width=self.d)
        self._terms = (held, values, changes, (lists.sizes.clone(), lists.offsets.clone()), terms)
        return terms

    def _estimates(self) -> Estimated:
        return Estimated(self._factors, self.d, self.metric_type)

    def _factors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        aq = self.aq
        norms = aq._row_norms(codes) if aq.norm_bits else None
        centers = self._coarse()._reconstruct(list_nos) if self.by_residual else None
        half = self._weight == 1.0 and self.metric_type == METRIC_L2
        return additive_search.factors(aq._books.decode(split(codes, aq._sizes)), centers, norms, half)

    def get_InvertedListScanner(
        self, store_pairs: bool = False, sel: IDSelector | None = None, params: SearchParameters | None = None
    ) -> InvertedListScanner:
        check(sel is None, "id selector not supported for this index")
        check_search_type(self.aq)
        return AdditiveScanner(self, store_pairs)


class AdditiveScanner(InvertedListScanner):
    """Distances by products and stored norms, as searches have them."""

    def _distances(self, codes: Tensor) -> Tensor:
        lists = torch.full((len(codes),), self.list_no, dtype=torch.int64, device=codes.device)
        return self._index._estimates().between(self._query[0], codes, lists)


class IndexIVFResidualQuantizer(OfResidual, IndexIVFAdditiveQuantizer):
    """Lists of codes of a residual quantizer."""

    def __init__(self, quantizer: Index | None = None, d: int = 0, nlist: int = 0, M: Any = 0, *rest: Any) -> None:
        """(quantizer, d, nlist, M, nbits, metric, search type, own_invlists), or with the sizes of the codebooks for M and nbits."""
        nbits, metric, search_type, own = (*rest, *[None] * 4)[:4]
        if not isinstance(M, int):
            own = search_type
        sizes, metric, search_type = spread(M, nbits, metric, search_type)
        super().__init__(None, quantizer, d, nlist, metric, own is None or bool(own))
        self._own(d, sizes, search_type)
        self._sized()


class IndexIVFLocalSearchQuantizer(OfLocalSearch, IndexIVFAdditiveQuantizer):
    """Lists of codes of a local search quantizer."""

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        M: int = 0,
        nbits: int = 0,
        metric: int = METRIC_L2,
        search_type: int = 0,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(None, quantizer, d, nlist, metric, own_invlists)
        self._own(d, M, nbits, search_type)
        self._sized()


class ProductLists(Owner, IndexIVFAdditiveQuantizer):
    """Lists of codes of quantizers side by side."""

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        nsplits: int = 0,
        Msub: int = 0,
        nbits: int = 0,
        metric: int = METRIC_L2,
        search_type: int = 0,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(None, quantizer, d, nlist, metric, own_invlists)
        self._own(d, nsplits, Msub, nbits, search_type)
        self._sized()


class IndexIVFProductResidualQuantizer(OfProductResidual, ProductLists):
    """Lists of codes of residual quantizers side by side."""


class IndexIVFProductLocalSearchQuantizer(OfProductLocalSearch, ProductLists):
    """Lists of codes of local search quantizers side by side."""


def ivf_residual_from_quantizer(rq: ResidualQuantizer, nlevel: int) -> IndexIVFResidualQuantizer:
    """An empty index with the first codebooks of a quantizer as its lists' centroids, and the others for its codes."""
    check(nlevel > 0 and nlevel + 1 < rq.M, "{} levels of a quantizer of {} codebooks", nlevel, rq.M)
    sizes = list(rq._sizes)
    coarse = ResidualCoarseQuantizer(rq.d, sizes[:nlevel]).to(rq.device)
    coarse.rq.initialize_from(rq)
    coarse._completed()
    coarse.beam_factor = -1.0
    index = IndexIVFResidualQuantizer(coarse, rq.d, coarse.ntotal, sizes[nlevel:], METRIC_L2, rq.search_type).to(rq.device)
    index.own_fields = index.by_residual = True
    index.rq.initialize_from(rq, nlevel)
    index.is_trained = True
    return index


def ivf_residual_add_from_flat_codes(ivfrq: IndexIVFResidualQuantizer, ncode: int, codes: Any, code_size: int = -1) -> None:
    """Add codes of the flat index of the same codebooks; its first codebooks' numbers say which lists they go to."""
    coarse, rq = ivfrq._coarse(), ivfrq.rq
    check(isinstance(coarse, ResidualCoarseQuantizer), "the coarse quantizer must be a ResidualCoarseQuantizer")
    size = ivfrq.code_size if code_size < 0 else code_size
    given = behind(codes, ncode, size).to(ivfrq.device)
    numbers = split(given, (*coarse.rq._sizes, *rq._sizes))
    list_nos = coarse._number(numbers[:, : coarse.rq.M])
    ivfrq._add_codes(rq._pack(numbers[:, coarse.rq.M :], None, None), None, list_nos)


__all__ = [
    "IndexIVFAdditiveQuantizer",
    "IndexIVFLocalSearchQuantizer",
    "IndexIVFProductLocalSearchQuantizer",
    "IndexIVFProductResidualQuantizer",
    "IndexIVFResidualQuantizer",
    "ivf_residual_add_from_flat_codes",
    "ivf_residual_from_quantizer",
]
