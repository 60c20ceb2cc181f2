"""IndexIVF: what all indexes made of inverted lists share.

A subclass says how vectors become codes (`_encode_vectors`, `_decode_vectors`, `_train_encoder`) and, where decoding and comparing is not
the best way to score them, how its codes are scored (`_list_codec`).
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.algorithms.ivf import Decoded, Flat, ListCodec, Options, Product, Scalar, combined, limits_of, rows_allowed
from tsscompat.algorithms.levels import Panorama
from tsscompat.algorithms.random import rand_perm
from tsscompat.algorithms.replays import RECORDERS, recordable, replayed
from tsscompat.arrays import Array, arrays_of
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import boolean, child, integer, size_t
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.direct_map import DirectMap
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.invlists import ArrayInvertedLists, InvertedLists
from tsscompat.faiss_compat.ivf_changes import FEW, IVFChanges
from tsscompat.faiss_compat.ivf_coarse import IndexIVFInterface
from tsscompat.faiss_compat.ivf_methods import IVFMethods
from tsscompat.faiss_compat.ivf_streamed import range_streamed, search_streamed
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.profile_settings import SearchParams
from tsscompat.faiss_compat.profiles import Profiled, ProfileMethods
from tsscompat.faiss_compat.selectors import IDSelectorRange
from tsscompat.faiss_compat.stats import cvar
from tsscompat.kernels.bits import tail
from tsscompat.kernels.entries import recall
from tsscompat.kernels.ivf import nearest_lists, residuals
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import is_similarity

# How codes are scored whose few queries may be arrays.
_OF_ARRAYS = (Product, Flat, Scalar, Panorama)
# Coarse quantizers that are a table of centroids.
_TABLES = (IndexFlat, IndexFlatL2, IndexFlatIP)


def unchanged(kept: Any, held: tuple[Any, ...], values: tuple[Any, ...]) -> bool:
    """Whether something kept as (held, values, ...) was made from these very objects and these values."""
    return kept is not None and kept[1] == values and all(a is b for a, b in zip(kept[0], held))


class IndexIVF(IVFChanges, IVFMethods, ProfileMethods, Index, IndexIVFInterface):
    """Vectors in lists by their nearest centroid; a search visits the lists of the centroids nearest to the query."""

    PARALLEL_MODE_NO_HEAP_INIT = 1024

    invlists = child(None, "the lists")
    own_invlists = boolean(False)
    code_size = size_t(0, "bytes in a code")
    parallel_mode = integer(
        0, "how FAISS divides the work among threads (0 to 3); 1024 is added to keep the heaps that are given"
    )
    direct_map = child(DirectMap, "from ids to entries")
    by_residual = boolean(True, "codes are of the difference to the centroid")

    _caches: tuple[str, ...] = ("_plain", "_center_table", "_profiles", "_last_stats", "_replays")
    _plain: Any
    _quick: bool = False  # whether small searches may go in one compiled call
    _arrays: bool = False  # and whether that takes arrays too
    _center_table: Any

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        code_size: int = 0,
        metric: int = METRIC_L2,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(d, metric)
        if quantizer is None:
            return
        check(d == quantizer.d, "the quantizer has dimension {}, the index {}", quantizer.d, d)
        self.quantizer, self.nlist, self.code_size = quantizer, nlist, code_size
        self.cp.niter = 10
        self.invlists = ArrayInvertedLists(nlist, code_size) if own_invlists else None
        self.own_invlists = own_invlists
        self.is_trained = quantizer.is_trained and quantizer.ntotal == nlist
        # Centroids are spherical by default where the metric is the inner product.
        self.cp.spherical = metric == METRIC_INNER_PRODUCT

    _add_arrays = IVFChanges._add_arrays

    # -- what a kind of code says ---------------------------------------------------------------------------------------------------

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        """Learn to encode from residuals and their lists, or from vectors."""

    def _train_encoder_num_vectors(self) -> int:
        """How many vectors the encoder wants at most (0: any number)."""
        return 0

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        """Codes (n, code_size) of vectors that go to lists."""
        self._refuse("encode_vectors")

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        """Vectors of codes in lists."""
        self._refuse("decode_vectors")

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        """How the codes in the lists are scored."""
        return Decoded(self._decode_vectors, self.d, self.metric_type, self.metric_arg)

    def _row_columns(self) -> tuple[Tensor, ...]:
        """What rows of lists in the host's memory are scored by besides their codes."""
        return ()

    def _codec_of_part(self, params: SearchParametersIVF | None, columns: tuple[Tensor, ...]) -> ListCodec:
        """How codes are scored in a part of such lists, of which these are the columns."""
        return self._list_codec(params)

    # -- helpers --------------------------------------------------------------------------------------------------------------------

    def _lists(self) -> InvertedLists:
        lists = self.invlists
        check(lists is not None, "IVF index has no inverted lists")
        return lists

    def _residuals(self, x: Tensor, list_nos: Tensor) -> Tensor:
        """Differences to the centroids; zero for list -1."""
        plain = self._plain_centers()
        if plain is not None:
            return residuals(x, plain, list_nos)
        centers = self._coarse()._reconstruct(list_nos.clamp(min=0))
        return torch.sub(x, centers, out=centers).masked_fill_((list_nos < 0)[:, None], 0.0)

    def _plain_centers(self) -> Tensor | None:
        """The coarse quantizer's table of centroids, where it is nothing but that."""
        quantizer, kept = self.quantizer, self._plain
        if kept is not None and kept[0] is quantizer and kept[1] is quantizer.codes._buffer and kept[2] == quantizer.ntotal:
            return kept[3]
        if (
            type(quantizer) not in _TABLES
            or quantizer.metric_type not in (METRIC_L2, METRIC_INNER_PRODUCT)
            or not quantizer.ntotal
        ):
            return None
        table: Tensor = quantizer._vectors
        self._plain = (quantizer, quantizer.codes._buffer, quantizer.ntotal, table)
        return table

    def _n_centers(self) -> int:
        """How many centroids there are (a multi-index quantizer that was put together by hand does not know)."""
        return int(self._coarse().ntotal or self.nlist)

    def _centers(self) -> Tensor:
        """All centroids, (nlist, d)."""
        plain = self._plain_centers()
        if plain is not None:
            return plain
        quantizer = self._coarse()
        stamp = (id(quantizer), quantizer.ntotal)
        if self._center_table is None or self._center_table[0] != stamp:
            self._center_table = (stamp, quantizer._reconstruct_n(0, self._n_centers()).contiguous())
        centers: Tensor = self._center_table[1]
        return centers

    def _ivf_params(self, params: SearchParameters | None) -> SearchParametersIVF | None:
        check(
            params is None or isinstance(params, SearchParametersIVF),
            "IndexIVF params have incorrect type: {}",
            type(params).__name__,
        )
        return params._plain(self) if isinstance(params, SearchParams) else params  # type: ignore[return-value]

    def _probes(self, params: SearchParametersIVF | None) -> int:
        nprobe = min(self.nlist, self.nprobe if params is None else params.nprobe)
        check(nprobe > 0, "nprobe must be positive")
        self._check_centers()
        return int(nprobe)

    def _check_centers(self) -> None:
        """Raise where the coarse quantizer may name lists that there are not."""
        quantizer = self.quantizer
        if quantizer is not None and quantizer.ntotal > self.nlist:
            raise FaissError(f"the coarse quantizer has {quantizer.ntotal} centroids, there are {self.nlist} lists")

    def _nearest_lists(self, x: Tensor, params: SearchParametersIVF | None) -> tuple[Tensor, Tensor]:
        """Distances and numbers of the lists to probe."""
        if x.shape[0] <= FEW and (params is None or params.quantizer_params is None):
            centers = self._plain_centers()
            if centers is not None:
                return nearest_lists(x, centers, self._probes(params), self.quantizer.metric_type)
        coarse, keys = self._coarse()._search(x, self._probes(params), None if params is None else params.quantizer_params)
        return coarse, keys

    def _options(self, lists: Ragged, keys: Tensor, k: int, params: SearchParametersIVF | None, pairs: bool) -> Options:
        """What the parameters restrict a scan to."""
        if params is None:
            return Options(None, limits_of(lists, keys, None, self.max_codes, False) if self.max_codes else None, pairs)
        sel: Any = params.sel
        self._check_pairs(sel, pairs)
        allowed = None if sel is None else rows_allowed(lists, keys, sel._mask)
        budget, whole = params.max_codes, params.ensure_topk_full
        limits = limits_of(lists, keys, allowed, max(budget, k) if whole else budget, whole) if budget else None
        return Options(allowed, limits, pairs)

    @staticmethod
    def _check_pairs(sel: Any, pairs: bool) -> None:
        sorted_range = isinstance(sel, IDSelectorRange) and sel.assume_sorted
        check(sel is None or sorted_range or not pairs, "selector and store_pairs cannot be combined")

    # -- training and adding ----------------------------------------------------------------------------------------------------------

    def _train(self, x: Tensor) -> None:
        self._train_q1(x, self.verbose, self.metric_type)
        wanted = self._train_encoder_num_vectors()
        if 0 < wanted < x.shape[0]:
            x = x[rand_perm(x.shape[0], 1234)[:wanted].to(x.device, torch.int64)]
        if self.by_residual:
            list_nos = self._coarse()._assign(x, 1).reshape(-1)
            x = self._residuals(x, list_nos)  # what was drawn from the vectors is not needed any more
            self._train_encoder(x, list_nos)
        else:
            self._train_encoder(x, None)
        self.is_trained = True

    # -- searching --------------------------------------------------------------------------------------------------------------------

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        if params is None and x.shape[0] <= FEW and self._quick:
            found = self._search_quickly(x, k)
            if found is not None:
                return found
        if isinstance(params, SearchParams):
            return Profiled(self, params).run(x, k)
        given = None if params is None else self._ivf_params(params)
        started = perf_counter()
        coarse, keys = self._nearest_lists(x, given)
        scanning = perf_counter()
        answer = self._search_preassigned(x, k, keys, coarse, given, False)
        self._time(scanning - started, perf_counter() - started)
        return answer

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        # To tensors and back is 6 calls into torch, whose code is not in the caches after a scan: 20 of 155 us. Recordings take tensors.
        kind = self.device.type
        if x.shape[0] > FEW or not self._quick or not self._arrays or kind != "cpu" or kind in RECORDERS:
            return None
        return arrays_of(self._search_quickly(x, k))

    def _search_quickly(self, x: Any, k: int) -> tuple[Any, Any] | None:
        """A search with the index's own settings in one call, where these are plain; else None. Of an array, answers may be arrays."""
        centers = self._plain_centers()
        if (
            centers is None
            or self.max_codes
            or self.parallel_mode
            or self.quantizer.metric_type != self.metric_type
            or not self.is_trained
            or not self._lists()._at_hand
        ):
            return None
        started = perf_counter()
        found = self._few(x, centers, k)
        if found is None:
            return None
        self._count(x.shape[0], found[2])
        self._time(found[3], perf_counter() - started)
        return found[0], found[1]

    def _few(self, x: Any, centers: Tensor, k: int) -> Few | None:
        """Coarse search and scan in one call; None where the codec has none."""
        codec, lists, nprobe = self._list_codec(None), self._lists()._ragged(), self._probes(None)
        if not isinstance(x, Tensor):
            return codec.quick(x, centers, nprobe, lists, k) if type(codec) in _OF_ARRAYS else None
        if not recordable(x) or not isinstance(codec, (Flat, Scalar, Product)):
            return codec.quick(x, centers, nprobe, lists, k)
        # What scores plain vectors is made anew for each search, and is no more than the metric.
        held = (lists, centers, None if isinstance(codec, Flat) else codec)
        state = (self._lists()._stamp(), self.metric_type, self.metric_arg)
        found: Few = replayed(self, x, (k, nprobe), held, state, lambda x: codec.quick(x, centers, nprobe, lists, k))
        return found

    def _with_lists(self, keys: Tensor) -> IndexIVF:
        """This index with those of its lists in memory that are named, where they are not there already."""
        lists: Any = self._lists()
        if lists._at_hand:
            return self
        twin: IndexIVF = object.__new__(type(self))
        twin.__dict__.update(self._held_state(), invlists=lists._loaded(keys))
        return twin

    def _search_preassigned(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, params: SearchParametersIVF | None, pairs: bool
    ) -> tuple[Tensor, Tensor]:
        """The k best in given lists."""
        check(self.is_trained, "IVF index is not trained")
        if self.parallel_mode:
            self._check_mode(params)
        if self._lists()._streamed:
            return search_streamed(self, x, k, keys, coarse, params, pairs)
        if not self._lists()._at_hand:
            return IndexIVF._search_preassigned(self._with_lists(keys), x, k, keys, coarse, params, pairs)
        lists = self._lists()._ragged()
        codec = self._list_codec(params)
        distances, labels, counts = codec.top(x, keys, coarse, lists, k, self._options(lists, keys, k, params, pairs))
        self._count(x.shape[0], counts)
        return distances, labels

    def _check_mode(self, params: SearchParametersIVF | None) -> None:
        mode = self.parallel_mode & ~self.PARALLEL_MODE_NO_HEAP_INIT
        check(0 <= mode <= 3, "parallel_mode {} not supported", mode)
        limited = self.max_codes if params is None else params.max_codes or params.ensure_topk_full
        check(not limited or mode in (0, 3), "max_codes supported only for parallel_mode = 0 or 3")

    @staticmethod
    def _count(nq: int, counts: tuple[int, int, int] | Tensor) -> None:
        if type(counts[1]) is not int:  # a GPU's, which nobody waits for here
            cvar.indexIVF_stats.__dict__["nq"] += nq
            parts: list[Any] = [] if isinstance(counts, Tensor) else list(counts)
            given = (
                counts if isinstance(counts, Tensor) else torch.stack([torch.as_tensor(c, device=parts[1].device) for c in parts])
            )
            cvar.indexIVF_stats._add_later(("nlist", "ndis", "nheap_updates"), given)
            return
        # Straight into the object's state: four checked assignments would cost more than a small search.
        stats = cvar.indexIVF_stats.__dict__
        stats["nq"] += nq
        stats["nlist"] += counts[0]
        stats["ndis"] += counts[1]
        stats["nheap_updates"] += counts[2]

    @staticmethod
    def _time(coarse: float, search: float) -> None:
        stats = cvar.indexIVF_stats.__dict__
        stats["quantization_time"] += coarse * 1000.0
        stats["search_time"] += search * 1000.0

    def _search_given(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, D: Tensor | None, I: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """search_preassigned for the caller's lists; with PARALLEL_MODE_NO_HEAP_INIT it goes on with the heaps in D and I."""
        check(keys.numel() == 0 or int(keys.max()) < self.nlist, "Invalid key: there are {} lists", self.nlist)
        found = self._search_preassigned(x, k, keys, coarse, None, False)
        if not self.parallel_mode & self.PARALLEL_MODE_NO_HEAP_INIT or D is None or I is None:
            return found
        distances, labels = combined((D, I), found, is_similarity(self.metric_type))
        # Worst first: a heap as FAISS's, which the caller may go on filling.
        return distances.flip(1), labels.flip(1)

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        given = self._ivf_params(params)
        check(self.is_trained, "IVF index is not trained")
        started = perf_counter()
        coarse, keys = self._nearest_lists(x, given)
        scanning = perf_counter()
        answer = self._range_search_preassigned(x, radius, keys, coarse, given)
        self._time(scanning - started, perf_counter() - scanning)
        return answer

    def _range_search_preassigned(
        self, x: Tensor, radius: float, keys: Tensor, coarse: Tensor, params: SearchParametersIVF | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All within a radius in given lists (FAISS heeds no max_codes here)."""
        check(self.is_trained, "IVF index is not trained")
        if self._lists()._streamed:
            return range_streamed(self, x, radius, keys, coarse, params)
        if not self._lists()._at_hand:
            return IndexIVF._range_search_preassigned(self._with_lists(keys), x, radius, keys, coarse, params)
        lists, codec = self._lists()._ragged(), self._list_codec(params)
        sel: Any = None if params is None else params.sel
        allowed = None if sel is None else rows_allowed(lists, keys, sel._mask)
        patience = 0 if params is None else params.max_empty_result_buckets
        check(patience == 0 or self.parallel_mode == 0, "max_empty_result_buckets supported only for parallel_mode = 0")
        if patience:
            keys = self._until_barren(x, radius, keys, coarse, codec, lists, allowed, patience)
        lims, distances, labels, counts = codec.within(x, keys, coarse, lists, radius, Options(allowed))
        self._count(x.shape[0], (counts[0], counts[1], 0))
        return lims, distances, labels

    def _until_barren(
        self,
        x: Tensor,
        radius: float,
        keys: Tensor,
        coarse: Tensor,
        codec: ListCodec,
        lists: Ragged,
        allowed: Tensor | None,
        patience: int,
    ) -> Tensor:
        """`keys` with -1 from where a query has seen `patience` lists in a row without a result."""
        kept = keys.clone()
        misses = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        for p in range(keys.shape[1]):
            kept[:, p] = torch.where(misses < patience, keys[:, p], -1)
            column = (kept[:, p : p + 1].contiguous(), coarse[:, p : p + 1].contiguous())
            hits = codec.within(x, *column, lists, radius, Options(allowed))[0].diff()
            misses = torch.where((hits > 0) & (misses < patience), 0, misses + 1)
        return kept

    def _found_entries(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A search for entries: distances, ids, and of those found (a bool for each result) the rows and lists."""
        given = self._ivf_params(params)
        coarse, keys = self._nearest_lists(x, given)
        distances, places = self._search_preassigned(x, k, keys, coarse, given, True)
        found = places >= 0
        list_nos = places[found] >> 32
        rows = self._lists()._rows(list_nos, places[found] & 0xFFFFFFFF)
        labels = places.clone()
        labels[found] = self._lists()._ids_of(rows)
        return distances, labels, found, rows, list_nos

    def _search_and_reconstruct(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        distances, labels, found, rows, list_nos = self._found_entries(x, k, params)
        vectors = torch.full((*labels.shape, self.d), float("nan"), device=x.device)
        vectors[found] = self._decode_rows(rows, list_nos)
        return distances, labels, vectors

    def _search_and_return_codes(
        self, x: Tensor, k: int, with_listno: bool, params: SearchParameters | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        distances, labels, found, rows, list_nos = self._found_entries(x, k, params)
        codes = self._lists()._codes_of(rows)
        if with_listno:
            codes = torch.cat([self._listno_codes(list_nos), codes], 1)
        table = torch.full((*labels.shape, codes.shape[1]), 255, dtype=torch.uint8, device=x.device)
        table[found] = codes
        return distances, labels, table

    # -- vectors by id, codes ---------------------------------------------------------------------------------------------------------

    def _decode_rows(self, rows: Tensor, list_nos: Tensor) -> Tensor:
        """Vectors of rows of the arena, which belong to these lists."""
        return self._decode_vectors(self._lists()._codes_of(rows), list_nos)

    def _reconstruct(self, keys: Tensor) -> Tensor:
        places = self.direct_map._get(keys)
        return self._decode_rows(self._lists()._rows(places >> 32, places & 0xFFFFFFFF), places >> 32)

    def _reconstruct_array(self, key: int) -> Array | None:
        lists, coder = self.invlists, self._row_coder()
        centers = self._plain_centers() if self.by_residual else None
        if coder is None or not isinstance(lists, ArrayInvertedLists) or (centers is None and self.by_residual):
            return None
        out = np.empty(self.d, np.float32)
        found = recall(lists._ragged(), self.direct_map.get(key), coder, centers, out)
        return out if found else None

    def _reconstruct_one(self, key: int) -> Tensor:
        place = self.direct_map.get(key)
        list_no = place >> 32
        row = self._lists()._row(list_no, place & 0xFFFFFFFF)
        where = torch.tensor([[row], [list_no]], device=self.device)
        return self._decode_rows(where[0], where[1])[0]

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        lists = self._lists()._ragged()
        rows, list_nos = ragged.live(lists)
        ids = lists.ids[rows]
        wanted = (ids >= n0) & (ids < n0 + ni)
        vectors = torch.zeros(ni, self.d, device=self.device)
        ids, rows, list_nos = (t[wanted].to(self.device) for t in (ids, rows, list_nos))
        vectors[ids - n0] = self._decode_rows(rows, list_nos)
        return vectors

    def _sa_code_size(self) -> int:
        return int(self.code_size) + self.coarse_code_size()

    def _sa_encode(self, x: Tensor) -> Tensor:
        list_nos = self._own_lists(x)
        codes = torch.cat([self._listno_codes(list_nos), self._encode_vectors(x, list_nos)], 1)
        return codes.masked_fill_((list_nos < 0)[:, None], 0)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self._decode_vectors(tail(codes, self.coarse_code_size()), self._listnos(codes))

    # -- merging what is held --------------------------------------------------------------------------------------------------------

    def _check_compatible_for_merge(self, other: Index) -> None:
        if not isinstance(other, IndexIVF) or type(other) is not type(self):
            raise FaissError(f"can only merge indexes of the same type, got {type(other).__name__}")
        check(other.d == self.d, "the indexes differ in dimension: {} and {}", self.d, other.d)
        check(other.nlist == self.nlist, "the indexes differ in number of lists: {} and {}", self.nlist, other.nlist)
        check(self._coarse().ntotal == other._coarse().ntotal, "the coarse quantizers differ in size")
        check(other.code_size == self.code_size, "the indexes differ in code size")
        check(self.direct_map.no() and other.direct_map.no(), "merge direct_map not implemented")
        if cvar.check_compatible_for_merge_expensive_check and self.quantizer is not other.quantizer:
            mine, others = self._centers(), other._centers().to(self.device)
            check(bool((mine == others).all()), "coarse quantizers should be the same")

    def _merge_from(self, other: Any, add_id: int) -> None:
        self._lists().merge_from(other._lists(), add_id)
        self.ntotal += other.ntotal
        other.ntotal = 0


__all__ = ["IndexIVF"]
