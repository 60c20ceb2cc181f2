"""IndexIVFFastScan, IndexIVFPQFastScan: lists of codes of 4-bit parts in blocks, scored by tables of 8 bits.

A codec says how vectors become codes and back (`_encode_vectors`, `_decode_vectors`), and what its tables and biases are (`_float_tables`,
`lookup_table_is_3d`). FAISS's ways to go about a search (`implem`) give the same answer here, but for 1 and 2, which look at the lists that
the index was made from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import product, ragged
from tsscompat.algorithms.ivf import ListCodec, Options, limits_of, rows_allowed
from tsscompat.algorithms.packed import FastScan, ProductParts, Unpacked, blocks_of
from tsscompat.algorithms.replays import recordable, replayed
from tsscompat.errors import check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import child, integer, size_t, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.fastscan import ADDED
from tsscompat.faiss_compat.invlists_blocks import BlockInvertedLists
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQ, table_kind
from tsscompat.faiss_compat.ivf_scanner import InvertedListScanner
from tsscompat.faiss_compat.packers import CodePacker, CodePackerPQ4
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantizers import ProductQuantizer, Quantizer
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.faiss_compat.vectors import AlignedTableFloat32
from tsscompat.kernels.fastscan import Tables, few_lists, product_tables, quantize
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.ivf_terms import query_tables

# A bit of `skip`: sums are not turned into distances.
_PLAIN_SUMS = 16


class FastScanListScanner(InvertedListScanner):
    """Lists are given as blocks, single codes one by one."""

    def _unpacked(self, codes: Any, n: int) -> Pointer:
        packer = self._index.get_CodePacker()
        blocks = behind(codes, -(-n // packer.nvec), packer.block_size).to(self._index.device)
        return Pointer(packer._take(blocks, torch.arange(n, device=blocks.device)))

    def scan_codes(self, n: int, codes: Any, ids: Any, distances: Any, labels: Any, k: int) -> int:
        return super().scan_codes(n, self._unpacked(codes, n), ids, distances, labels, k)

    def scan_codes_range(self, n: int, codes: Any, ids: Any, radius: float, result: Any) -> None:
        super().scan_codes_range(n, self._unpacked(codes, n), ids, radius, result)


class IndexIVFFastScan(IndexIVF):
    """Lists of 4-bit codes in blocks of bbs vectors."""

    bbs = integer(0, "vectors in a block, a multiple of 32")
    M = size_t(0, "parts of a code")
    nbits = size_t(0, "bits of a part: 4")
    ksub = size_t(0, "entries of a part's table: 16")
    M2 = size_t(0, "parts, rounded up to an even number")
    implem = integer(0, "FAISS's way of searching: 0, 10 to 15, or 100 more (one answer here); 1, 2: by the original lists")
    skip = integer(0, "16: give sums in place of distances")
    qbs = integer(0, "FAISS's blocks of queries; any will do here")
    qbs2 = size_t(0, "FAISS's queries at a time; any will do here")
    orig_invlists = child(None, "the lists that the index was made from, for implem 1 and 2")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        code_size: int = 0,
        metric: int = METRIC_L2,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, d, nlist, code_size, metric, own_invlists)
        # Faster so, as a query has one table for all lists.
        self.by_residual = False
        check(metric in (METRIC_L2, METRIC_INNER_PRODUCT), "metric {} not supported", metric)
        if quantizer is None:
            self.is_trained = False

    def _init_fastscan(self, M: int, nbits: int, bbs: int) -> None:
        """Set the sizes of codes, and begin with empty lists."""
        check(nbits == 4, "fast scan takes parts of 4 bits, got {}", nbits)
        check(bbs > 0 and bbs % 32 == 0, "expected a block size that is a multiple of 32, got {}", bbs)
        self.M, self.nbits, self.bbs = M, nbits, bbs
        self.ksub, self.M2 = 1 << nbits, M + M % 2
        self.code_size = self.M2 // 2
        self.is_trained = False
        if self.own_invlists:
            self.replace_invlists(BlockInvertedLists(self.nlist, self.get_CodePacker()).to(self.device), True)

    def init_fastscan(
        self, fine_quantizer: Quantizer, M: int, nbits: int, nlist: int, metric: int, bbs: int, own_invlists: bool
    ) -> None:
        self.own_invlists = own_invlists
        self._init_fastscan(M, nbits, bbs)

    # -- what a codec says ----------------------------------------------------------------------------------------------------------

    def _float_tables(self, x: Tensor, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor | None]:
        """What entries add to distances, (nq, M, 16) or (nq, nprobe, M, 16), and what lists do, (nq, nprobe); NaN for lists of -1."""
        self._refuse("compute_LUT")

    def _weighted(self) -> tuple[int, int]:
        """How many of the last parts count more than once, and how often; 0 times: none do."""
        return 0, 0

    def _parts(self) -> ProductParts | None:
        """What tables are made from, if the codes are nothing but product codes and the settings are plain."""
        return None

    def lookup_table_is_3d(self) -> bool:
        """Whether each probed list has a table of its own."""
        return False

    def get_CodePacker(self) -> CodePacker:
        """What lays out the codes of a block."""
        return CodePackerPQ4(self.M, self.bbs)

    def fast_scan_code_size(self) -> int:
        """Bytes of a code that are parts of 4 bits."""
        return int(self.M2) // 2

    def get_block_stride(self) -> int:
        """Bytes of a block."""
        return self.get_CodePacker().block_size

    def init_code_packer(self) -> None:
        """Tell the lists how codes are laid out."""
        if isinstance(self.invlists, BlockInvertedLists):
            self.invlists.packer = self.get_CodePacker()

    @property
    def fine_quantizer(self) -> Quantizer | None:
        """What makes the codes."""
        return None

    def _add_core(self, x: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        for i in range(0, max(1, x.shape[0]), ADDED):
            some = slice(i, i + ADDED)
            super()._add_core(x[some], None if ids is None else ids[some], list_nos[some])

    # -- searching --------------------------------------------------------------------------------------------------------------------

    def _tables(self, x: Tensor, keys: Tensor, coarse: Tensor) -> Tables:
        """What look-ups in the codes of the probed lists sum to."""
        tables = quantize(*self._float_tables(x, keys, coarse), *self._weighted())
        if self.skip & _PLAIN_SUMS:
            return Tables(
                tables.luts, tables.biases, torch.ones_like(tables.scale), torch.zeros_like(tables.start), tables.weight
            )
        return tables

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        implem, largest = self.implem % 100, self.metric_type == METRIC_INNER_PRODUCT
        check(implem in (0, 1, 2, *range(10, 16)), "implem {} does not exist", self.implem)
        check(self.bbs == 32 or implem < 12, "implem {} takes blocks of 32, not {}", self.implem, self.bbs)
        if implem not in (1, 2):
            tables = self._probes(params) if self.lookup_table_is_3d() else 1
            return FastScan(self._tables, largest, 16 * 5 * self.M2 * tables, self._parts())
        check(self.orig_invlists is not None, "implem {} needs the lists that the index was made from", self.implem)
        return Unpacked(self._whole_tables if implem == 1 else self._tables, self.orig_invlists._ragged(), largest)

    def _whole_tables(self, x: Tensor, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tables of floats, parts that count more than once multiplied."""
        tables, biases = self._float_tables(x, keys, coarse)
        norms, weight = self._weighted()
        if weight:
            tables[..., self.M - norms :, :] *= weight
        return tables, biases

    def _options(self, lists: Ragged, keys: Tensor, k: int, params: SearchParametersIVF | None, pairs: bool) -> Options:
        # Lists are scanned whole: a budget says which is the last.
        if params is None:
            return Options(None, None, pairs)
        allowed = None if params.sel is None else rows_allowed(lists, keys, params.sel._mask)
        budget = max(params.max_codes, k) if params.ensure_topk_full else params.max_codes
        return Options(allowed, limits_of(lists, keys, allowed, budget, True) if params.max_codes else None, pairs)

    def _search_preassigned(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, params: SearchParametersIVF | None, pairs: bool
    ) -> tuple[Tensor, Tensor]:
        if params is not None:
            check(params.max_empty_result_buckets == 0, "max_empty_result_buckets is for range search")
            limited = params.max_codes or params.max_lists_num or params.ensure_topk_full
            check(not limited or self.implem in (0, 10, 11), "limits are only taken by implem 0, 10 and 11, not {}", self.implem)
            if params.max_lists_num:
                at_most = max(params.max_lists_num, k) if params.ensure_topk_full else params.max_lists_num
                sizes = self._lists()._ragged().sizes
                visited = (keys >= 0) & (sizes[keys.clamp(min=0)] > 0)
                keys = torch.where(visited & (visited.cumsum(1) <= at_most), keys, -1)
        return super()._search_preassigned(x, k, keys, coarse, params, pairs)

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        given = self._ivf_params(params)
        implem = self.implem % 100
        check(implem in (0, *range(10, 14)), "range search implem {} not implemented", self.implem)
        if given is not None:
            check(given.max_lists_num == 0, "max_lists_num is for k-NN search")
            check(not given.ensure_topk_full, "ensure_topk_full is for k-NN search")
            check(given.max_codes == 0, "max_codes is for k-NN search")
            patient = given.max_empty_result_buckets == 0 or implem in (0, 10)
            check(patient, "max_empty_result_buckets is only taken by implem 10, not {}", self.implem)
        return super()._range_search(x, radius, params)

    def get_InvertedListScanner(
        self, store_pairs: bool = False, sel: IDSelector | None = None, params: SearchParameters | None = None
    ) -> FastScanListScanner:
        """Something to walk the lists with by hand."""
        return FastScanListScanner(self, store_pairs, sel)

    # -- the lists that the index was made from ---------------------------------------------------------------------------------------

    def _take_from(self, orig: IndexIVF) -> None:
        """Take over what an index of the same codes has, and pack its lists."""
        self.by_residual, self.is_trained = orig.by_residual, orig.is_trained
        self.ntotal, self.nprobe = orig.ntotal, orig.nprobe
        if not self.own_invlists:
            return
        sizes, codes, ids = orig._lists()._dump()
        self._lists()._append(torch.repeat_interleave(sizes), codes, ids)
        self.orig_invlists = orig.invlists

    def reconstruct_orig_invlists(self) -> None:
        """Fill the original lists, which are empty, with the codes of these."""
        check(self.orig_invlists is not None, "there are no lists that the index was made from")
        check(self.orig_invlists.list_size(0) == 0, "the original lists are not empty")
        lists = self._lists()._ragged()
        held, which = ragged.live(lists)
        self.orig_invlists._append(which, lists.codes[held], lists.ids[held])


class IndexIVFPQFastScan(IndexIVFFastScan):
    """Lists of product codes of 4 bits a part, of the vectors or (`by_residual`) of their residuals."""

    _quick = True
    _arrays = True
    _caches = ("_transposed", "_term_table")
    _transposed: Any
    _term_table: Any

    pq = child(ProductQuantizer, "makes the codes")
    use_precomputed_table = integer(0, "-1: never; 0: decide when training; 1: use the table")
    precomputed_table = vector(AlignedTableFloat32, "|r|^2 + 2 <c, r> for each list, part and entry, in use with residuals")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        M: int = 0,
        nbits: int = 4,
        metric: int = METRIC_L2,
        bbs: int = 32,
        own_invlists: bool = True,
    ) -> None:
        if isinstance(quantizer, IndexIVFPQ):
            orig = quantizer
            super().__init__(orig.quantizer, orig.d, orig.nlist, 0, orig.metric_type, orig.own_invlists)
            self.pq = orig.pq.__copy__()
            self._init_fastscan(self.pq.M, self.pq.nbits, d or 32)
            self._take_from(orig)
            self.precomputed_table = orig.precomputed_table
            return
        super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
        if quantizer is not None:
            self.pq = ProductQuantizer(d, M, nbits)
            self._init_fastscan(M, nbits, bbs)

    @property
    def fine_quantizer(self) -> Quantizer:
        pq: Quantizer = self.pq
        return pq

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        self.pq.verbose = self.verbose
        self.pq._train(x)
        if self.by_residual and self.metric_type == METRIC_L2:
            self.precompute_table()

    def _train_encoder_num_vectors(self) -> int:
        return int(self.pq.cp.max_points_per_centroid * self.pq.ksub)

    def precompute_table(self) -> None:
        """Decide, as FAISS does, whether there is a table, and make it."""
        self.use_precomputed_table = table_kind(self)
        if self.use_precomputed_table == 1:
            parts, centers = self.pq._table, self._centers().view(-1, self.pq.M, self.pq.dsub)
            self.precomputed_table.tensor = (2 * torch.einsum("lmj,mcj->lmc", centers, parts) + parts.square().sum(2)).reshape(-1)
        else:
            self.precomputed_table.clear()

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        return self.pq._encode(self._residuals(x, list_nos) if self.by_residual else x)

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        vectors = product.decode(codes, self.pq._table, 4)
        return vectors + self._coarse()._reconstruct(list_nos) if self.by_residual else vectors

    def lookup_table_is_3d(self) -> bool:
        return bool(self.by_residual) and self.metric_type == METRIC_L2

    def _columns(self) -> Tensor:
        """The centroids, (M, dsub, 16)."""
        centroids = self.pq.centroids
        kept, version = self._transposed, centroids._buffer._version
        if kept is None or kept[0] is not centroids._buffer or kept[1] != version:
            kept = self._transposed = centroids._buffer, version, self.pq._table.transpose(1, 2).contiguous()
        columns: Tensor = kept[2]
        return columns

    def _terms(self) -> Tensor | None:
        """The precomputed table, where it is in use."""
        if not self.lookup_table_is_3d() or self.use_precomputed_table != 1:
            return None
        held, kept = self.precomputed_table, self._term_table
        if kept is None or kept[0] is not held._buffer or kept[1] != held._n or kept[2].shape[1] != self.M:
            kept = self._term_table = held._buffer, held._n, held.tensor.view(-1, self.M, 16)
        table: Tensor = kept[2]
        return table

    def _parts(self) -> ProductParts | None:
        terms = self._terms()
        if self.skip or (terms is None and self.lookup_table_is_3d()):
            return None
        return ProductParts(self._columns(), self.metric_type, self.by_residual, terms)

    def _few(self, x: Tensor, centers: Tensor, k: int) -> Few | None:
        if self.implem or self.skip:
            return super()._few(x, centers, k)
        terms = self._terms()
        if terms is None and self.lookup_table_is_3d():
            return None
        # Without a codec and a record of parts made for each search, which took 12 us of the 120.
        lists, per_block = blocks_of(self._lists()._ragged())
        nprobe, given = self._probes(None), (self._columns(), self.metric_type, self.by_residual, terms)
        if not isinstance(x, Tensor) or not recordable(x):
            return few_lists(x, centers, nprobe, *given, lists, per_block, k)
        held, state = (lists, centers, given[0], terms), (self._lists()._stamp(), self.metric_type, self.by_residual)
        rest = (*given, lists, per_block, k)
        found: Few = replayed(self, x, (k, nprobe), held, state, lambda x: few_lists(x, centers, nprobe, *rest))
        return found

    def _float_tables(self, x: Tensor, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor | None]:
        terms = self._terms()
        if terms is not None or not self.lookup_table_is_3d():
            return product_tables(x, keys, coarse, self._columns(), self.metric_type, self.by_residual, terms)
        centers = self._coarse()._reconstruct(keys.clamp(min=0).reshape(-1)).view(*keys.shape, -1)
        tables = query_tables((x[:, None] - centers).view(-1, self.d), self._columns(), None, METRIC_L2, 1.0)
        missing = keys < 0
        biases = torch.zeros_like(coarse).masked_fill(missing, torch.nan)
        return tables.view(*keys.shape, self.M, 16).masked_fill(missing[:, :, None, None], torch.nan), biases


__all__ = ["IndexIVFFastScan", "IndexIVFPQFastScan"]
