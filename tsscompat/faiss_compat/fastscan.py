"""IndexFastScan, IndexPQFastScan: codes of 4-bit parts in blocks, scored by tables of 8 bits.

A codec says how vectors become codes and back (`_sa_encode`, `_sa_decode`), what its tables are (`_float_tables`), and which of their
last parts count more than once (`_weighted`). FAISS's ways to go about a search (`implem`, `qbs`) give the same answer here; those that
take another look at the codes that the index was made from (2 to 4) take it here too.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import rows
from tsscompat.algorithms.packed import FastScan, blocks_of, packed_lists
from tsscompat.algorithms.replays import recordable, replayed
from tsscompat.errors import check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import child, integer, size_t, vector
from tsscompat.faiss_compat.base import Index, check_keys
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.packers import CodePacker, CodePackerPQ4
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import IndexPQ
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.faiss_compat.vectors import AlignedTableUint8
from tsscompat.kernels.fastscan import Tables, few_rows, quantize
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.ivf_terms import query_tables
from tsscompat.kernels.select import padded

# Vectors that FAISS encodes at a time when it adds: quantizers that begin at random draw one stream for them.
ADDED = 65536
# Bits of `skip` that leave the scan out.
_NO_SCAN = 2 | 4


class IndexFastScan(Index):
    """4-bit codes in blocks of bbs vectors, in the order in which they were added."""

    _caches: tuple[str, ...] = ("_lists", "_origin", "_replays")
    _lists: Any
    _origin: Any

    implem = integer(0, "FAISS's way of searching: 0, 12 to 15 (one answer here); 2 to 4: by the codes the index was made from")
    skip = integer(0, "2 or 4: leave out the scan")
    bbs = integer(0, "vectors in a block, a multiple of 32")
    qbs = integer(0, "FAISS's blocks of queries, a hexadecimal digit each; any will do here")
    M = size_t(0, "parts of a code")
    nbits = size_t(0, "bits of a part: 4")
    ksub = size_t(0, "entries of a part's table: 16")
    code_size = size_t(0, "bytes of a code")
    ntotal2 = size_t(0, "vectors that the blocks have room for")
    M2 = size_t(0, "parts, rounded up to an even number")
    codes = vector(AlignedTableUint8, "the blocks")

    def _init_fastscan(self, d: int, M: int, nbits: int, metric: int, bbs: int) -> None:
        check(nbits == 4, "fast scan takes parts of 4 bits, got {}", nbits)
        check(bbs > 0 and bbs % 32 == 0, "expected a block size that is a multiple of 32, got {}", bbs)
        self.d, self.M, self.nbits, self.metric_type, self.bbs = d, M, nbits, metric, bbs
        self.ksub, self.M2 = 1 << nbits, M + M % 2
        self.code_size = (M * nbits + 7) // 8
        self.is_trained = False

    init_fastscan = _init_fastscan

    # -- what a codec says ----------------------------------------------------------------------------------------------------------

    def _float_tables(self, x: Tensor) -> Tensor:
        """For each query and part what each of the 16 entries adds to a distance: (nq, M, 16)."""
        self._refuse("compute_float_LUT")

    def _weighted(self) -> tuple[int, int]:
        """How many of the last parts count more than once, and how often; 0 times: none do."""
        return 0, 0

    def _parts(self) -> Tensor | None:
        """The centroids (M, dsub, 16) of codes that are nothing but product codes."""
        return None

    def get_CodePacker(self) -> CodePacker:
        """What lays out the codes of a block."""
        return CodePackerPQ4(self.M, self.bbs)

    def fast_scan_code_size(self) -> int:
        """Bytes of a code that are parts of 4 bits."""
        return int(self.M2) // 2

    def get_block_stride(self) -> int:
        """Bytes of a block."""
        return self.get_CodePacker().block_size

    # -- codes ----------------------------------------------------------------------------------------------------------------------

    @property
    def _blocks(self) -> Tensor:
        """The blocks, one a row."""
        return self.codes.tensor.view(-1, self.get_block_stride())

    def _codes_of(self, keys: Tensor) -> Tensor:
        """The codes of vectors, one after the other."""
        return self.get_CodePacker()._take(self._blocks, keys)

    def _all_codes(self) -> Tensor:
        return self._codes_of(torch.arange(self.ntotal, device=self.device))

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        check(self.is_trained, "{} must be trained before vectors are added", type(self).__name__)
        for part in x.split(ADDED):
            self._add_sa_codes(self._sa_encode(part), None)

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        packer, before = self.get_CodePacker(), self.ntotal
        n_blocks = -(-(before + codes.shape[0]) // self.bbs)
        self.codes.resize(n_blocks * packer.block_size)
        packer._put(self._blocks, torch.arange(before, before + codes.shape[0], device=self.device), codes)
        self.ntotal, self.ntotal2 = before + codes.shape[0], n_blocks * self.bbs
        self._drop_caches()

    def _held(self, codes: Tensor) -> None:
        """Take on a new table of codes."""
        self._reset()
        self._add_sa_codes(codes, None)

    def _reset(self) -> None:
        self.codes.clear()
        self.ntotal = self.ntotal2 = 0
        self._drop_caches()

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self._sa_decode(self._codes_of(check_keys(keys, self.ntotal)))

    def _remove(self, sel: IDSelector) -> int:
        gone = sel._mask(torch.arange(self.ntotal, device=self.device))
        removed = int(gone.sum())
        if removed:
            self._held(self._codes_of((~gone).nonzero()[:, 0]))
        return removed

    def _permute_entries(self, perm: Tensor) -> None:
        self._held(self._codes_of(perm))

    def _check_compatible_for_merge(self, other: Any) -> None:
        check(type(other) is type(self), "can only merge indexes of the same type, got {}", type(other).__name__)
        for name in ("d", "M", "bbs", "code_size"):
            mine, given = getattr(self, name), getattr(other, name)
            check(mine == given, "the indexes differ in {}: {} and {}", name, mine, given)

    def _merge_from(self, other: Any, add_id: int) -> None:
        self._add_sa_codes(other._all_codes().to(self.device), None)
        other._reset()

    def _sa_code_size(self) -> int:
        return int(self.code_size)

    # -- the codes that the index was made from ---------------------------------------------------------------------------------------

    def _take_from(self, orig: Any) -> None:
        """Pack the codes of an index."""
        self._add_sa_codes(orig._rows, None)
        self.is_trained = orig.is_trained
        self._origin = weakref.ref(orig)

    def _original(self) -> Any:
        """The index that this one was made from, which must still be there, and the same."""
        orig = None if self._origin is None else self._origin()
        check(
            orig is not None and orig.ntotal == self.ntotal, "implem {} needs the index that this one was made from", self.implem
        )
        return orig

    @property
    def orig_codes(self) -> Pointer | None:
        """The codes of the index that this one was made from, while there is that."""
        orig = None if self._origin is None else self._origin()
        return None if orig is None else orig.codes.data()

    # -- searching --------------------------------------------------------------------------------------------------------------------

    def _tables(self, x: Tensor) -> Tables:
        """What look-ups in codes sum to."""
        return quantize(self._float_tables(x), None, *self._weighted())

    @property
    def _run(self) -> int:
        """Rows that a scan takes as one list: whole blocks."""
        return max(rows.RUN // self.bbs, 1) * self.bbs

    def _as_lists(self) -> Ragged:
        held: Any = self._lists
        if held is None or held.codes.blocks.data_ptr() != self.codes.tensor.data_ptr():
            offsets = torch.arange(0, max(self.ntotal, 1), self._run, device=self.device)
            sizes = (self.ntotal - offsets).clamp(max=self._run)
            # The ids are never read, so memory for them is never touched.
            ids = torch.empty(self.ntotal2, dtype=torch.int64, device=self.device)
            held = self._lists = packed_lists(self._blocks, self.get_CodePacker(), ids, offsets, sizes)
        lists: Ragged = held
        return lists

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        metric = self._scored_by()
        allowed, largest = allowed_rows(params, self.ntotal, self.device), metric == METRIC_INNER_PRODUCT
        if self.implem in (2, 3, 4):
            return self._search_original(x, k, params)
        check(self.implem in (0, 12, 13, 14, 15), "invalid implem {}", self.implem)
        check(self.bbs == 32 or self.implem not in (12, 13), "implem {} takes blocks of 32, not {}", self.implem, self.bbs)
        if self.skip & _NO_SCAN or self.ntotal == 0:
            return padded(x.shape[0], k, largest, x.device)
        parts = self._parts()
        if parts is not None and allowed is None:
            lists, per_block = blocks_of(self._as_lists())
            if not recordable(x):
                return few_rows(x, parts, metric, lists, per_block, k)
            held, state = (lists, parts), (self.ntotal, metric)
            found = replayed(self, x, k, held, state, lambda x: few_rows(x, parts, metric, lists, per_block, k))
            return found[0], found[1]
        codec = FastScan(lambda x, keys, coarse: self._tables(x), largest, self.M2 * 16 * 5)
        return rows.top(codec, x, self._as_lists(), k, allowed, self._run)

    def _scored_by(self) -> int:
        """The metric that codes are scored by."""
        check(self.metric_type in (METRIC_L2, METRIC_INNER_PRODUCT), "metric {} not supported", self.metric_type)
        return int(self.metric_type)

    def _search_original(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        """By the original codes: as their index searches (2), or with tables of bytes, whose sums are left so (3) or not (4)."""
        orig = self._original()
        if self.implem == 2:
            found: tuple[Tensor, Tensor] = orig._search(x, k, params)
            return found
        lists, largest = rows.as_lists(orig._rows), self._scored_by() == METRIC_INNER_PRODUCT
        tables, allowed = self._tables(x), allowed_rows(params, self.ntotal, self.device)
        codec = rows.Tables(tables.whole()[:, : self.M].contiguous(), 4, largest)
        sums, labels = rows.top(codec, x, lists, k, allowed)
        if self.implem == 3:
            return sums, labels
        query = torch.arange(x.shape[0], device=x.device)[:, None]
        return torch.where(labels >= 0, tables.values(sums, query), sums), labels

    # -- FAISS's C signatures -----------------------------------------------------------------------------------------------------------

    def compute_codes(self, codes: Any, n: int, x: Any) -> None:
        behind(codes, n, self.code_size).copy_(self._sa_encode(behind(x, n, self.d)))

    def compute_float_LUT(self, lut: Any, n: int, x: Any, context: Any = None) -> None:
        behind(lut, n, self.M, self.ksub).copy_(self._float_tables(behind(x, n, self.d)))

    def compute_quantized_LUT(self, n: int, x: Any, lut: Any, normalizers: Any, context: Any = None) -> None:
        tables = self._tables(behind(x, n, self.d))
        behind(lut, n, self.M2, self.ksub).copy_(tables.luts.sum(1))
        behind(normalizers, n, 2).copy_(torch.stack([tables.scale, tables.start], 1))


class IndexPQFastScan(IndexFastScan):
    """Product codes of 4 bits a part in blocks."""

    _caches = ("_transposed",)
    _transposed: Any

    pq = child(ProductQuantizer, "makes the codes")

    def __init__(
        self, d: int | IndexPQ = 0, M: int | None = None, nbits: int = 4, metric: int = METRIC_L2, bbs: int = 32
    ) -> None:
        if isinstance(d, IndexPQ):
            super().__init__(d.d, d.metric_type)
            self.pq = d.pq.__copy__()
            self._init_fastscan(d.d, self.pq.M, self.pq.nbits, d.metric_type, 32 if M is None else M)
            self._take_from(d)
            return
        super().__init__(d, metric)
        if M is not None:
            self.pq = ProductQuantizer(d, M, nbits)
            self._init_fastscan(d, M, nbits, metric, bbs)

    def _train(self, x: Tensor) -> None:
        if not self.is_trained:
            self.pq._train(x)
            self.is_trained = True

    def _sa_encode(self, x: Tensor) -> Tensor:
        return self.pq._encode(x)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self.pq._decode(codes)

    def _parts(self) -> Tensor:
        centroids = self.pq.centroids.tensor
        stamp = (centroids.data_ptr(), centroids._version)
        if self._transposed is None or self._transposed[0] != stamp:
            self._transposed = stamp, self.pq._table.transpose(1, 2).contiguous()
        parts: Tensor = self._transposed[1]
        return parts

    def _scored_by(self) -> int:
        # FAISS takes every metric that is not L2 for the inner product here.
        return METRIC_L2 if self.metric_type == METRIC_L2 else METRIC_INNER_PRODUCT

    def _float_tables(self, x: Tensor) -> Tensor:
        return query_tables(x, self._parts(), None, self._scored_by(), 1.0)


__all__ = ["IndexFastScan", "IndexPQFastScan"]
