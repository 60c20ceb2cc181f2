"""Flat indexes of product codes and of scalar-quantised vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import decoded, rows, scalar
from tsscompat.algorithms.estimated import Coarse
from tsscompat.algorithms.ivf import ListCodec, Product, Scalar
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import boolean, child, enum, integer
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.codes import IndexFlatCodes, allowed_rows
from tsscompat.faiss_compat.computers import DistanceComputer, EstimatedComputer, FlatCodesDistanceComputer
from tsscompat.faiss_compat.ivf_sq import TURBO_FULL, affine_of, turbo_codec, turbo_scorer
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersPQ
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.polysemous import PolysemousTraining
from tsscompat.faiss_compat.quantizers import ProductQuantizer, ScalarQuantizer
from tsscompat.faiss_compat.stats import cvar
from tsscompat.kernels import bits
from tsscompat.kernels.coded import worth_decoding
from tsscompat.kernels.entries import Coder
from tsscompat.kernels.hamming import hamming
from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2, pairwise
from tsscompat.kernels.select import merge, padded, select

_TILE = 1 << 14


class ScannedCodes(IndexFlatCodes):
    """Codes that a scan can score without decoding them all."""

    _caches: tuple[str, ...] = ("_lists",)

    def _codec(self) -> ListCodec | None:
        """How the codes are scored; None: only by decoding."""
        raise NotImplementedError

    def _decoder(self, x: Tensor) -> decoded.Decoder | None:
        """How blocks of codes are decoded, where there are queries enough for that to pay."""
        raise NotImplementedError

    def _as_lists(self) -> Ragged:
        kept = self.__dict__["_lists"]
        if kept is None or kept.codes.shape[0] != self.ntotal or kept.codes.data_ptr() != self.codes.tensor.data_ptr():
            kept = rows.as_lists(self._rows)
            self._lists = kept
        lists: Ragged = kept
        return lists

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        codec = self._codec() if self.ntotal else None
        if codec is None:
            return super()._search(x, k, params)
        allowed, decoder = allowed_rows(params, self.ntotal, self.device), self._decoder(x)
        if decoder is not None:
            return decoder.top(x, self._rows, k, self.metric_type, allowed)
        return rows.top(codec, x, self._as_lists(), k, allowed)

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        codec = self._codec() if self.ntotal else None
        if codec is None:
            return super()._range_search(x, radius, params)
        return rows.within(codec, x, self._as_lists(), radius, allowed_rows(params, self.ntotal, self.device))

    def get_FlatCodesDistanceComputer(self) -> DistanceComputer:
        """Distances to single vectors, for a query set on it."""
        return FlatCodesDistanceComputer(self)

    get_distance_computer = get_FlatCodesDistanceComputer


class IndexScalarQuantizer(ScannedCodes):
    """Vectors with a few bits for each number."""

    _caches = ("_affine",)

    sq = child(ScalarQuantizer, "makes the codes")

    def __init__(self, d: int = 0, qtype: int = ScalarQuantizer.QT_8bit, metric: int = enums.METRIC_L2) -> None:
        super().__init__(0, d, metric)
        self.sq = ScalarQuantizer(d, qtype)
        self.code_size = self.sq.code_size
        kind = scalar.kind_of(qtype)
        self.is_trained = kind.bits > 0 and not (kind.ranged or kind.levels)

    def _codec(self) -> ListCodec | None:
        if self.metric_type not in (L2, INNER_PRODUCT):
            return None
        if self.sq.qtype == ScalarQuantizer.QT_0bit:
            return Coarse(self.metric_type)
        affine = self._line()
        return turbo_scorer(self.sq, self.metric_type) if affine is None else Scalar(affine, self.metric_type)

    def _line(self) -> Affine | None:
        """affine_of this quantizer, kept while what it was trained to stays the same."""
        trained = self.sq.trained.tensor
        stamp = (trained.data_ptr(), trained._version, self.sq.qtype)
        kept = self.__dict__["_affine"]
        if kept is None or kept[0] != stamp:
            kept = self._affine = stamp, affine_of(self.sq, self.device)
        line: Affine | None = kept[1]
        return line

    def _decoder(self, x: Tensor) -> decoded.Decoder | None:
        if not worth_decoding(x, self.sq.bits, False):
            return None
        affine = self._line()
        return None if affine is None else decoded.scalar(affine, self.metric_type)

    def get_FlatCodesDistanceComputer(self) -> DistanceComputer:
        codec = turbo_codec(self.sq, self.metric_type)
        if codec is None:
            return super().get_FlatCodesDistanceComputer()
        return EstimatedComputer(self, codec, lambda i: (self._rows[i : i + 1], None))

    get_distance_computer = get_FlatCodesDistanceComputer

    def _query(self, x: Tensor) -> Tensor:
        """Queries as FAISS compares them: with whole-number codes and a dimension that is a multiple of 16, as whole numbers."""
        if self.d % 16 == 0 and self.sq.qtype == ScalarQuantizer.QT_8bit_direct:
            return (x.to(torch.int32) & 255).float()
        return (
            ((x.to(torch.int32) + 128 & 255) - 128).float()
            if self.d % 16 == 0 and self.sq.qtype == ScalarQuantizer.QT_8bit_direct_signed
            else x
        )

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.metric_type in (L2, INNER_PRODUCT), "a search of scalar codes takes L2 or the inner product")
        return super()._search(self._query(x), k, params)

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        if self.sq.qtype == ScalarQuantizer.QT_0bit or self.sq.qtype in TURBO_FULL:
            # FAISS decodes for this, where a search goes by estimates.
            return IndexFlatCodes._range_search(self, x, radius, params)
        return super()._range_search(self._query(x), radius, params)

    def _train(self, x: Tensor) -> None:
        self.sq._train(x)
        self.is_trained = True

    _add_arrays, _reconstruct_array = IndexFlatCodes._add_arrays, IndexFlatCodes._reconstruct_array

    def _row_coder(self) -> Coder | None:
        return self.sq._row_coder() if self.code_size == self.sq.code_size else None

    def _sa_encode(self, x: Tensor) -> Tensor:
        return self.sq._encode(x)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self.sq._decode(codes)


class IndexPQ(ScannedCodes):
    """Product codes, searched exhaustively in one of several ways."""

    _caches = ("_transposed",)
    ST_PQ, ST_HE, ST_generalized_HE, ST_SDC, ST_polysemous, ST_polysemous_generalize = range(6)

    pq = child(ProductQuantizer, "makes the codes")
    do_polysemous_training = boolean(False, "renumber the centroids after training")
    polysemous_training = child(PolysemousTraining, "how")
    search_type = enum(int, 0, "one of ST_*")
    encode_signs = boolean(False, "Hamming search: queries are encoded by the signs of their numbers")
    polysemous_ht = integer(1, "codes that differ in so many bits are not scored")

    def __init__(self, d: int = 0, M: int = 1, nbits: int = 8, metric: int = enums.METRIC_L2) -> None:
        super().__init__(0, d, metric)
        self.is_trained = False
        if d:
            self.pq = ProductQuantizer(d, M, nbits)
            self.code_size = self.pq.code_size
            self.polysemous_ht = nbits * M + 1

    def _train(self, x: Tensor) -> None:
        if not self.do_polysemous_training:
            self.pq._train(x)
        else:
            # FAISS keeps the first quarter of the vectors, or as many as asked for, for the renumbering.
            wanted = self.polysemous_training.ntrain_permutation
            kept = min(wanted, x.shape[0] // 4)
            self.pq._train(x[kept:])
            self.polysemous_training.optimize_pq_for_hamming(self.pq, kept, x[:kept])
        self.is_trained = True

    _add_arrays, _reconstruct_array = IndexFlatCodes._add_arrays, IndexFlatCodes._reconstruct_array

    def _row_coder(self) -> Coder | None:
        return self.pq._row_coder() if self.code_size == self.pq.code_size else None

    def _sa_encode(self, x: Tensor) -> Tensor:
        return self.pq._encode(x)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self.pq._decode(codes)

    def _codec(self) -> ListCodec | None:
        return self._product(self.metric_type) if self.metric_type in (L2, INNER_PRODUCT) else None

    def _product(self, metric: int) -> Product:
        centroids = self.pq.centroids.tensor
        stamp = (centroids.data_ptr(), centroids._version, self.pq.nbits)
        kept = self.__dict__["_transposed"]
        if kept is None or kept[0] != stamp:
            kept = self._transposed = (stamp, self.pq._table.transpose(1, 2).contiguous())
        return Product(kept[1], self.pq.nbits, metric, plain=True)

    def _decoder(self, x: Tensor) -> decoded.Decoder | None:
        if not worth_decoding(x, self.pq.nbits, True):
            return None
        return decoded.product(self.pq._table, self.pq.nbits, self.metric_type)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        kind, threshold = self.search_type, self.polysemous_ht
        # FAISS takes its own parameters only, and no selector; here a selector may come in plain ones too.
        check(params is None or type(params) in (SearchParameters, SearchParametersPQ), "invalid search params for IndexPQ")
        if isinstance(params, SearchParametersPQ):
            kind, threshold = params.search_type, params.polysemous_ht
        if kind == self.ST_PQ:
            cvar.indexPQ_stats.nq += x.shape[0]
            cvar.indexPQ_stats.ncode += x.shape[0] * self.ntotal
            if self.metric_type not in (L2, INNER_PRODUCT):
                return self._by_products(x, k, params)
            return super()._search(x, k, params)
        check(self.is_trained, "IndexPQ must be trained before it is searched")
        check(self.metric_type == L2, "this search type takes L2 only")
        cvar.indexPQ_stats.nq += x.shape[0]
        cvar.indexPQ_stats.ncode += x.shape[0] * self.ntotal
        if kind in (self.ST_polysemous, self.ST_polysemous_generalize):
            return self._polysemous(x, k, threshold, kind == self.ST_polysemous_generalize, params)
        codes = self._query_codes(x)
        if kind == self.ST_SDC:
            return self._symmetric(codes, x, k, params)
        check(kind in (self.ST_HE, self.ST_generalized_HE), "unknown search type {}", kind)
        return self._by_hamming(codes, k, kind == self.ST_generalized_HE, params)

    def _by_products(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        """The largest inner products, which FAISS's search takes for every metric that is not L2."""
        check(self.is_trained, "IndexPQ must be trained before it is searched")
        if self.ntotal == 0:
            return padded(x.shape[0], k, True, self.device)
        codec, allowed = self._product(INNER_PRODUCT), allowed_rows(params, self.ntotal, self.device)
        return rows.top(codec, x, self._as_lists(), k, allowed)

    def _query_codes(self, x: Tensor) -> Tensor:
        if not self.encode_signs:
            return self.pq._encode(x)
        check(self.d == self.pq.nbits * self.pq.M, "encode_signs takes one bit for each dimension")
        return bits.pack((x > 0).to(torch.int32), 1)

    def _symmetric(self, codes: Tensor, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.pq.sdc_table.size() == self.pq.M * self.pq.ksub**2, "compute_sdc_table() must be called before an SDC search")
        table = self.pq.sdc_table.tensor.view(self.pq.M, self.pq.ksub, self.pq.ksub)
        parts = bits.unpack(codes, self.pq.M, self.pq.nbits).long()
        tables = table[torch.arange(self.pq.M, device=x.device), parts].contiguous()  # (n, M, ksub)
        allowed = allowed_rows(params, self.ntotal, self.device)
        return rows.top(rows.Tables(tables, self.pq.nbits, False), x, self._as_lists(), k, allowed)

    def _by_hamming(self, codes: Tensor, k: int, whole_bytes: bool, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        def values(start: int, stop: int) -> Tensor:
            return hamming(codes, self._rows[start:stop], whole_bytes).float()

        best = self._tiled(codes.shape[0], k, params, values)
        # Missing results: FAISS counts in whole numbers here, and the worst of them is the largest int.
        return torch.where(best[1] >= 0, best[0], float(2**31 - 1)), best[1]

    def _polysemous(
        self, x: Tensor, k: int, threshold: int, whole_bytes: bool, params: SearchParameters | None
    ) -> tuple[Tensor, Tensor]:
        check(self.pq.nbits == 8, "polysemous search takes 8 bits a part")
        codes, bound = self.pq._encode(x), threshold or self.pq.nbits * self.pq.M + 1

        def values(start: int, stop: int) -> Tensor:
            tile = self._rows[start:stop]
            near = hamming(codes, tile, whole_bytes) < bound
            cvar.indexPQ_stats.n_hamming_pass += int(near.sum())
            return torch.where(near, pairwise(x, self.pq._decode(tile), L2), float("nan"))

        return self._tiled(x.shape[0], k, params, values)

    def _tiled(self, n: int, k: int, params: SearchParameters | None, values: Any) -> tuple[Tensor, Tensor]:
        """The k smallest of values(start, stop) over tiles of rows."""
        allowed, best = allowed_rows(params, self.ntotal, self.device), padded(n, k, False, self.device)
        for start in range(0, self.ntotal, _TILE):
            stop = min(start + _TILE, self.ntotal)
            ids = torch.arange(start, stop, device=self.device)
            if allowed is not None:
                ids = ids.masked_fill(~allowed[start:stop], -1)
            found = select(values(start, stop), ids, k, False)
            best = merge(torch.cat([best[0], found[0]], 1), torch.cat([best[1], found[1]], 1), k, False)
        return best

    def hamming_distance_table(self, n: int, x: Any, dis: Any) -> None:
        """Hamming distances of the codes of n vectors to all codes, written as int32."""
        codes = self.pq._encode(behind(x, n, self.d))
        behind(dis, n, self.ntotal).copy_(hamming(codes, self._rows))

    def hamming_distance_histogram(self, n: int, x: Any, nb: int, xb: Any, dist_histogram: Any) -> None:
        """How often each Hamming distance occurs between the codes of two sets (xb None: the index's own codes)."""
        base = self._rows if xb is None else self.pq._encode(behind(xb, nb, self.d))
        bits = self.pq.nbits * self.pq.M
        counts = torch.bincount(hamming(self.pq._encode(behind(x, n, self.d)), base).reshape(-1), minlength=bits + 1)
        behind(dist_histogram, bits + 1).copy_(counts)

    def _check_compatible_for_merge(self, other: Index) -> None:
        super()._check_compatible_for_merge(other)
        same = self.pq.M == other.pq.M and self.pq.nbits == other.pq.nbits  # type: ignore[attr-defined]
        check(same, "the product quantizers differ")


_SEARCH_TYPES = {f"IndexPQ_{name}": value for name, value in vars(IndexPQ).items() if name.startswith("ST_")}
globals().update(_SEARCH_TYPES)

__all__ = ["IndexPQ", "IndexScalarQuantizer", *_SEARCH_TYPES]
