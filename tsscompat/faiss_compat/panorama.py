"""Panorama: flat vectors, in one row or in lists, that are compared some dimensions after others.

Flat vectors are held as FAISS holds them, batch by batch and level by level, so that a level of many vectors is read in one go; lists hold
them as they are, and files FAISS's layout. What is compared first should hold most of a vector's length, as after a PCA.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import ListCodec
from tsscompat.algorithms.levels import Panorama as Levels
from tsscompat.algorithms.ragged import newcomers, runs
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import Stated, boolean, child, size_t, vector
from tsscompat.faiss_compat.base import Index, check_keys
from tsscompat.faiss_compat.codes import allowed_rows, held_labels
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlat
from tsscompat.faiss_compat.graph import IndexHNSWFlat
from tsscompat.faiss_compat.invlists import ArrayInvertedLists
from tsscompat.faiss_compat.ivf_flat import IndexIVFFlat
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.refine import IndexRefine
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels.graph_levels import search_levels
from tsscompat.kernels.panorama import Layout, Looked, rank_levels, scan_batches, within_batches
from tsscompat.kernels.singles import times


def _report(looked: Looked) -> None:
    # Straight into the object's state, as IndexIVF._count: checked assignments take a tenth of a small search.
    stats = cvar.indexPanorama_stats.__dict__
    if type(looked[0]) is not int:  # a GPU's, which nobody waits for here
        cvar.indexPanorama_stats._add_later(
            ("total_dims_scanned", "total_dims"), torch.stack([torch.as_tensor(n) for n in looked])
        )
        return
    stats["total_dims_scanned"] += looked[0]
    stats["total_dims"] += looked[1]
    cvar.indexPanorama_stats._added()


class Panorama(Stated):
    """How vectors are divided into levels and batches."""

    kDefaultBatchSize, kLegacyBatchSize = 1024, 128

    d = size_t(0, "dimension")
    code_size = size_t(0, "bytes of a vector")
    n_levels = size_t(0, "levels")
    level_width = size_t(0, "bytes of a level")
    level_width_floats = size_t(0, "dimensions of a level")
    batch_size = size_t(0, "vectors of a batch")

    def __init__(self, code_size: int = 4, n_levels: int = 1, batch_size: int = kDefaultBatchSize) -> None:
        super().__init__()
        self.code_size, self.n_levels, self.batch_size = code_size, n_levels, batch_size
        self.set_derived_values()

    def set_derived_values(self) -> None:
        """Work out the sizes that follow from code_size and n_levels; levels that would be empty go."""
        self.d = self.code_size // 4
        check(0 < self.n_levels <= self.d, "Panorama: {} levels of {} dimensions", self.n_levels, self.d)
        check(self.batch_size > 0, "Panorama: batches of no vectors")
        self.level_width_floats = -(-self.d // self.n_levels)
        self.level_width = 4 * self.level_width_floats
        real = -(-self.d // self.level_width_floats)
        if real != self.n_levels:
            print(f"WARNING truncating nlevels from {self.n_levels} to {real}", file=sys.stderr)
            self.n_levels = real

    def _layout(self) -> Layout:
        return Layout(self.d, self.n_levels, self.level_width_floats, self.batch_size)

    def compute_query_cum_sums(self, query: Any, query_cum_sums: Any) -> None:
        """Write the lengths of what is left of a vector from each level on."""
        behind(query_cum_sums, 1, self.n_levels + 1).copy_(self._layout().norms(behind(query, 1, self.d)))

    def reconstruct(self, key: int, recons: Any, codes_base: Any) -> None:
        """Write the vector that has a number among those in batches and levels."""
        layout = self._layout()
        packed = behind(codes_base, layout.slots(key + 1) * self.code_size).view(torch.float32)
        behind(recons, self.d).copy_(layout.unpack(packed, key + 1)[key])


class IndexFlatPanorama(IndexFlat):
    """Vectors compared level by level; `codes` and `cum_sums` are in order of batch, level, vector."""

    _one_after_another = False

    n_levels = size_t(0, "levels")
    batch_size = size_t(Panorama.kDefaultBatchSize, "vectors that are compared with the same results")
    pano = child(None, "how vectors are divided")
    cum_sums = vector(Float32Vector, "the lengths of what is left of the vectors from each level on")

    def __init__(
        self, d: int = 0, metric: int = METRIC_L2, n_levels: int = 1, batch_size: int = Panorama.kDefaultBatchSize
    ) -> None:
        super().__init__(d, metric)
        check(metric in (METRIC_L2, METRIC_INNER_PRODUCT), "Panorama supports only L2 and inner-product metrics")
        if d:
            self._set_up(n_levels, batch_size)

    def _set_up(self, n_levels: int, batch_size: int) -> None:
        self.code_size = 4 * self.d
        self.pano, self.n_levels, self.batch_size = Panorama(self.code_size, n_levels, batch_size), n_levels, batch_size

    def _packed(self) -> Tensor:
        return self.codes.tensor.view(torch.float32)

    @property
    def _vectors(self) -> Tensor:
        """The vectors, one a row: a copy, but for batches of one."""
        if self.batch_size == 1:
            return self._packed().view(self.ntotal, self.d)
        return self.pano._layout().unpack(self._packed(), self.ntotal)

    @property
    def _rows(self) -> Tensor:
        """The vectors as codes."""
        return self._vectors.view(torch.uint8)

    def _held(self, codes: Tensor) -> None:
        vectors, n = codes.view(torch.float32), codes.shape[0]
        self._reset()
        self.codes.tensor, self.cum_sums.tensor = vectors.new_empty(0).view(torch.uint8), vectors.new_empty(0)
        self._write(vectors, n)

    def _write(self, vectors: Tensor, n: int) -> None:
        """Put vectors behind those there are, and count n more."""
        layout, before = self.pano._layout(), self.ntotal
        slots = layout.slots(before + n)
        for held, width in ((self.codes, self.code_size), (self.cum_sums, layout.levels + 1)):
            if not held.is_owned:
                held.assign(held)  # the last batch is written to, but not in a file or in somebody's array
            held.make_room(slots * width - held.size())
            held.resize(slots * width)
        layout.write(vectors, self._packed(), before)
        layout.write_norms(layout.norms(vectors), self.cum_sums.tensor, before)
        self.ntotal = before + n
        self._drop_caches()

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        check(ids is None, "{} numbers its vectors itself: wrap it in an IndexIDMap to give ids", type(self).__name__)
        vectors = codes.contiguous().view(torch.float32).view(-1, self.d)
        self._write(vectors, vectors.shape[0])

    def _reset(self) -> None:
        super()._reset()
        self.cum_sums.clear()

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self.pano._layout().gather(self._packed(), check_keys(keys, self.ntotal))

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._reconstruct(torch.arange(n0, n0 + ni, device=self.device))

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        vectors = self._vectors.clone()
        vectors[check_keys(keys, self.ntotal)] = x
        self._held(vectors.view(torch.uint8))

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.batch_size >= k, "batches of {} vectors are fewer than {} results", self.batch_size, k)
        how, allowed = (self.metric_type, self.pano._layout()), allowed_rows(params, self.ntotal, self.device)
        given = (x, self._packed(), self.cum_sums.tensor, self.ntotal)
        distances, labels, looked = scan_batches(*given, k, *how, allowed)
        _report(looked)
        return distances, labels

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        how, allowed = (self.metric_type, self.pano._layout()), allowed_rows(params, self.ntotal, self.device)
        given = (x, self._packed(), self.cum_sums.tensor, self.ntotal)
        lims, distances, labels, looked = within_batches(*given, radius, *how, allowed)
        _report(looked)
        return lims, distances, labels

    def _search_subset(self, x: Tensor, base_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        check(self.batch_size == 1, "search_subset takes batches of 1 vector, not of {}", self.batch_size)
        labels, norms = held_labels(base_labels, self.ntotal), self.cum_sums.tensor.view(self.ntotal, -1)
        width, levels = self.pano.level_width_floats, self.pano.n_levels
        distances, names, looked = rank_levels(x, self._vectors, norms, labels, k, self.metric_type, width)
        # Here FAISS counts dimensions, not levels.
        _report((looked[0] * width, looked[1] // levels * self.d))
        return distances, names

    def add_sa_codes(self, codes: Any, ids: Any = None) -> None:
        """Refused, as FAISS refuses it."""
        raise FaissError(f"add_sa_codes not implemented for {type(self).__name__}")


class IndexFlatL2Panorama(IndexFlatPanorama):
    """The same for squared L2."""

    def __init__(self, d: int = 0, n_levels: int = 1, batch_size: int = Panorama.kDefaultBatchSize) -> None:
        super().__init__(d, METRIC_L2, n_levels, batch_size)


class IndexFlatIPPanorama(IndexFlatPanorama):
    """The same for the inner product."""

    def __init__(self, d: int = 0, n_levels: int = 1, batch_size: int = Panorama.kDefaultBatchSize) -> None:
        super().__init__(d, METRIC_INNER_PRODUCT, n_levels, batch_size)


class ArrayInvertedListsPanorama(ArrayInvertedLists):
    """Lists of vectors with the lengths of what is left of them from each level on."""

    _caches = ("_lengths",)

    n_levels = size_t(0, "levels")
    level_width = size_t(0, "bytes of a level")
    pano = child(None, "how vectors are divided")

    def __init__(
        self, nlist: int = 0, code_size: int = 4, n_levels: int = 1, batch_size: int = Panorama.kDefaultBatchSize
    ) -> None:
        super().__init__(nlist, code_size)
        check(code_size % 4 == 0, "codes of {} bytes are no vectors", code_size)
        self.pano, self.n_levels = Panorama(code_size, n_levels, batch_size), n_levels
        self.level_width = self.pano.level_width

    def _remaining(self) -> Tensor:
        """The lengths for every row of the arena; of rows that hold nothing they mean nothing."""
        lists, kept, stamp = self._ragged(), self.__dict__["_lengths"], self._stamp()
        if kept is None or kept[0] != stamp:
            layout, rows = self.pano._layout(), lists.codes.view(torch.float32)
            if kept is None or kept[0][0] != stamp[0]:
                # Level by level, as they are read.
                lengths = layout.norms(rows).t().contiguous().t()
            else:  # entries were added behind those of their lists: only theirs are missing
                lengths, (_, begins, counts) = kept[1], newcomers(lists, *kept[2])
                new = runs(begins, counts)[0]
                lengths[new] = layout.norms(rows[new])
            kept = self._lengths = stamp, lengths, (lists.sizes.clone(), lists.offsets.clone())
        found: Tensor = kept[1]
        return found

    def get_iterator(self, list_no: int, inverted_list_context: Any = None) -> Any:
        """Refused, as FAISS refuses it."""
        raise FaissError("IndexIVFFlatPanorama does not support iterators, use vanilla IndexIVFFlat instead")


class IndexIVFFlatPanorama(IndexIVFFlat):
    """Lists of vectors that are compared level by level."""

    n_levels = size_t(0, "levels")
    batch_size = size_t(Panorama.kDefaultBatchSize, "vectors that are compared with the same results")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        n_levels: int = 0,
        metric: int = METRIC_L2,
        own_invlists: bool = True,
        batch_size: int = Panorama.kDefaultBatchSize,
    ) -> None:
        super().__init__(quantizer, d, nlist, metric, False)
        if quantizer is None:
            return
        check(metric in (METRIC_L2, METRIC_INNER_PRODUCT), "Panorama supports only L2 and inner-product metrics")
        self.n_levels, self.batch_size = n_levels, batch_size
        self.invlists, self.own_invlists = ArrayInvertedListsPanorama(nlist, self.code_size, n_levels, batch_size), own_invlists

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        lists = self._lists()
        if not isinstance(lists, ArrayInvertedListsPanorama):
            raise FaissError("IndexIVFFlatPanorama requires ArrayInvertedListsPanorama")
        return Levels(lists.pano._layout(), lists._remaining(), self.metric_type, _report)


class IndexHNSWFlatPanorama(IndexHNSWFlat):
    """A graph over vectors that are compared level by level; the answer is that of IndexHNSWFlat."""

    _caches = ("_lengths",)

    pano = child(None, "how vectors are divided")
    num_panorama_levels = size_t(0, "levels")

    def __init__(self, d: int = 0, M: int = 32, num_panorama_levels: int = 0, metric: int = METRIC_L2) -> None:
        super().__init__(d, M, metric)
        if d:
            check(metric == METRIC_L2, "IndexHNSWFlatPanorama supports only the L2 metric")
            self._set_up(num_panorama_levels)

    def _set_up(self, levels: int) -> None:
        self.pano, self.num_panorama_levels = Panorama(4 * self.d, levels, 1), levels
        self.hnsw.is_panorama, self.hnsw.search_method = True, self.hnsw.SM_PANORAMA

    def _remaining(self) -> Tensor:
        kept = self.__dict__["_lengths"]
        if kept is None or kept.shape[0] != self.ntotal:
            kept = self._lengths = self.pano._layout().norms(self._vectors())
        lengths: Tensor = kept
        return lengths

    @property
    def cum_sums(self) -> Float32Vector:
        """The lengths of what is left of each vector from each level on."""
        return Float32Vector(self._remaining().reshape(-1))

    def _found(self, x: Tensor, k: int, params: SearchParameters | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        graph = self.hnsw
        if self.ntotal == 0 or (graph.entry_point < 0 and starts is None) or x.shape[0] == 0:
            return super()._found(x, k, params, starts)
        allowed = None if params is None else allowed_rows(params, self.ntotal, self.device)
        table = self._vectors(), self._remaining(), self.pano.level_width_floats
        distances, labels, counted, looked = search_levels(x, *table, graph._arrays(), self._walk(k, params), k, allowed, starts)
        stats = cvar.hnsw_stats
        stats.n1, stats.ndis, stats.nhops = stats.n1 + x.shape[0], stats.ndis + counted[0], stats.nhops + counted[1]
        _report(looked)
        return distances, labels

    def get_cum_sum(self, i: int) -> Any:
        """Where the lengths of vector i begin."""
        return Float32Vector(self.cum_sums.tensor.view(self.ntotal, -1)[i]).data()


class IndexRefinePanorama(IndexRefine):
    """Refines by the second index's own search among candidates."""

    own_refine_index = boolean(False)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        factor, base_params = self._settings(params)
        k_base = times(k, factor)
        check(k_base >= k, "k_factor {} is less than 1", factor)
        labels = self.base_index._search(x, k_base, base_params)[1]
        found: tuple[Tensor, Tensor] = self.refine_index._search_subset(x, labels, k)
        return found


__all__ = [
    "ArrayInvertedListsPanorama",
    "IndexFlatIPPanorama",
    "IndexFlatL2Panorama",
    "IndexFlatPanorama",
    "IndexHNSWFlatPanorama",
    "IndexIVFFlatPanorama",
    "IndexRefinePanorama",
    "Panorama",
]
