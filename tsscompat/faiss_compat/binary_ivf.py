"""IndexBinaryIVF: binary codes in lists by their nearest centroid, which is a binary code too."""

from __future__ import annotations

import operator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.algorithms.ivf import limits_of
from tsscompat.arrays import Array, Batch, arrays_of, matrix
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.attributes import boolean, child, size_t
from tsscompat.faiss_compat.base import Index, lims_out
from tsscompat.faiss_compat.binary import IndexBinary, IndexBinaryFlat, codes_in, signs_of
from tsscompat.faiss_compat.clustering import Clustering, ClusteringParameters
from tsscompat.faiss_compat.direct_map import DirectMap
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.invlists import ArrayInvertedLists, InvertedLists
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.selectors import IDSelector, IDSelectorArray
from tsscompat.kernels import bits, hamming

# So many queries may find and scan their lists in one call.
_FEW = 32


class _Signs:
    """What k-means takes for the codec of binary codes."""

    def __init__(self, d: int) -> None:
        self.d = d

    @staticmethod
    def _sa_decode(codes: Tensor) -> Tensor:
        return signs_of(codes)


class BinaryInvertedListScanner:
    """Set a query, set a list, scan its codes into results (kept in order, nearest first)."""

    def __init__(self, code_size: int, store_pairs: bool = False) -> None:
        self.code_size, self.store_pairs, self.list_no = code_size, store_pairs, 0
        self._query = torch.zeros(1, code_size, dtype=torch.uint8)

    def set_query(self, query_vector: Any) -> None:
        """The query of the scans that follow."""
        self._query = behind(query_vector, 1, self.code_size).cpu()

    def set_list(self, list_no: int, coarse_dis: int) -> None:
        """The list of the scans that follow."""
        self.list_no = int(list_no)

    def _distances(self, codes: Any, n: int) -> Tensor:
        return hamming.hamming(self._query, behind(codes, n, self.code_size).cpu())[0]

    def _names(self, ids: Any, n: int) -> Tensor:
        return self.list_no << 32 | torch.arange(n) if self.store_pairs else behind(ids, n).cpu()

    def distance_to_code(self, code: Any) -> int:
        """The query's distance to a code."""
        return int(self._distances(code, 1)[0])

    def scan_codes(self, n: int, codes: Any, ids: Any, distances: Any, labels: Any, k: int) -> int:
        """Scan n codes into k results; returns how many entered."""
        held, names = behind(distances, k), behind(labels, k)
        both, order = torch.cat([held, self._distances(codes, n)]).sort(stable=True)
        names.copy_(torch.cat([names, self._names(ids, n)])[order[:k]])
        held.copy_(both[:k])
        return int((order[:k] >= k).sum())

    def scan_codes_range(self, n: int, codes: Any, ids: Any, radius: int, result: Any) -> None:
        """Scan n codes; those nearer than the radius are appended to `result`, a list of (distance, label)."""
        found = self._distances(codes, n)
        near = found < radius
        result.extend(zip(found[near].tolist(), self._names(ids, n)[near].tolist()))


class IndexBinaryIVF(IndexBinary):
    """Codes in lists; a search visits the lists of the centroids nearest to the query."""

    invlists = child(None, "the lists")
    own_invlists = boolean(True)
    nprobe = size_t(1, "lists visited for each query")
    max_codes = size_t(0, "codes visited for each query at most (0: no limit)")
    use_heap = boolean(True, "ties in order of id; else in the order of the scan")
    per_invlist_search = boolean(False, "visit a query's lists in order of number")
    direct_map = child(DirectMap, "from ids to entries")
    quantizer = child(None, "the binary index of the lists' centroids")
    nlist = size_t(0, "number of lists")
    own_fields = boolean(False)
    cp = child(ClusteringParameters, "of the k-means")
    clustering_index = child(None, "the index of vectors that k-means assigns with")

    def __init__(self, quantizer: IndexBinary | None = None, d: int = 0, nlist: int = 0, own_invlists: bool = True) -> None:
        super().__init__(d)
        if quantizer is None:
            return
        check(d == quantizer.d, "the quantizer has {} bits, the index {}", quantizer.d, d)
        self.quantizer, self.nlist, self.own_invlists = quantizer, nlist, own_invlists
        self.invlists = ArrayInvertedLists(nlist, self.code_size) if own_invlists else None
        self.is_trained = quantizer.is_trained and quantizer.ntotal == nlist
        self.cp.niter = 10

    # -- what FAISS's users call ----------------------------------------------------------------------------------------------------

    def _probed(self, batch: Batch, Iq: Array, Dq: Array | None) -> Tensor:
        """The caller's lists; the distances to their centroids are checked only, nothing depends on them."""
        n = batch.tensor.shape[0]
        keys = matrix(Iq, n, self.nprobe, torch.int64, self.device, "list numbers")
        if Dq is not None:
            matrix(Dq, n, self.nprobe, torch.int32, self.device, "coarse distances")
        check(keys.numel() == 0 or int(keys.max()) < self.nlist, "Invalid key: there are {} lists", self.nlist)
        return keys

    def search_preassigned(self, x: Array, k: int, Iq: Array, Dq: Array | None) -> tuple[Array, Array]:
        """The k nearest codes among those in given lists (n, nprobe), whose centroids are at given distances."""
        batch = codes_in(x, self.code_size, self.device)
        expect(k > 0, "k must be positive, got {}", k)
        distances, labels = self._search_preassigned(batch.tensor, int(k), self._probed(batch, Iq, Dq), None, False)
        return batch.give_back(distances), batch.give_back(labels)

    def range_search_preassigned(
        self, x: Array, thresh: int, Iq: Array, Dq: Array | None, *, params: SearchParameters | None = None
    ) -> tuple[Array, Array, Array]:
        """All codes nearer than a threshold among those in given lists."""
        batch = codes_in(x, self.code_size, self.device)
        expect(params is None, "params not supported")
        lims, distances, labels = self._range_search_preassigned(
            batch.tensor, operator.index(thresh), self._probed(batch, Iq, Dq)
        )
        return lims_out(batch, lims), batch.give_back(distances.float()), batch.give_back(labels)

    def search_preassigned_c(
        self, n: int, x: Any, k: int, assign: Any, centroid_dis: Any, distances: Any, labels: Any, store_pairs: bool,
        params: Any = None,
    ) -> None:  # fmt: skip
        given = self._ivf_params(params)
        keys = behind(assign, n, self._probes(given)).to(self.device)
        found = self._search_preassigned(behind(x, n, self.code_size).to(self.device), k, keys, given, store_pairs)
        behind(distances, n, k).copy_(found[0])
        behind(labels, n, k).copy_(found[1])

    def range_search_preassigned_c(self, n: int, x: Any, radius: int, assign: Any, centroid_dis: Any, result: Any) -> None:
        keys = behind(assign, n, self._probes(None)).to(self.device)
        lims, distances, labels = self._range_search_preassigned(behind(x, n, self.code_size).to(self.device), radius, keys)
        result.fill(lims, distances.float(), labels)

    def add_core(self, n: int, x: Any, xids: Any, precomputed_idx: Any) -> None:
        """Add n codes to given lists (C signature)."""
        ids = None if xids is None else behind(xids, n).to(self.device)
        codes = behind(x, n, self.code_size).to(self.device)
        self._add_core(codes, ids, self._nearest_list(codes) if precomputed_idx is None else behind(precomputed_idx, n))

    def get_InvertedListScanner(self, store_pairs: bool = False) -> BinaryInvertedListScanner:
        """Something to walk the lists with by hand."""
        return BinaryInvertedListScanner(self.code_size, store_pairs)

    def get_list_size(self, list_no: int) -> int:
        """How many entries a list has."""
        return int(self._lists().list_size(list_no))

    def make_direct_map(self, new_maintain_direct_map: bool = True) -> None:
        """Keep an array of the place of each id, or none."""
        self.set_direct_map_type(DirectMap.Array if new_maintain_direct_map else DirectMap.NoMap)

    def set_direct_map_type(self, type: int) -> None:
        """Keep the places of ids in this way."""
        self.direct_map.set_type(type, self._lists(), self.ntotal)

    def replace_invlists(self, il: InvertedLists, own: bool = False) -> None:
        """Use other inverted lists from now on."""
        fits = il.nlist == self.nlist and il.code_size == self.code_size
        check(fits, "expected {} lists of codes of {} bytes, got {} of {}", self.nlist, self.code_size, il.nlist, il.code_size)
        self.invlists, self.own_invlists = il, own

    def reconstruct_from_offset(self, list_no: int, offset: int, recons: Any) -> None:
        """The code at a place of a list, written behind a pointer."""
        place = torch.tensor([list_no], device=self.device), torch.tensor([offset], device=self.device)
        behind(recons, 1, self.code_size).copy_(self._lists()._ragged().codes[self._lists()._rows(*place)])

    def remove_ids(self, x: Array | IDSelector) -> int:
        """Remove the codes that a selector or an array of ids names; returns how many went."""
        if not isinstance(x, IDSelector) and self.direct_map.type == DirectMap.Hashtable:
            expect(x.ndim == 1, "expected ids of shape (n,), got {}", tuple(x.shape))
            x = IDSelectorArray(x)
        return super().remove_ids(x)

    # -- helpers --------------------------------------------------------------------------------------------------------------------

    def _lists(self) -> InvertedLists:
        check(self.invlists is not None, "IVF index has no inverted lists")
        lists: InvertedLists = self.invlists
        return lists

    def _coarse(self) -> Any:
        check(self.quantizer is not None, "there is no coarse quantizer")
        return self.quantizer

    def _nearest_list(self, x: Tensor) -> Tensor:
        nearest: Tensor = self._coarse()._assign(x, 1).reshape(-1)
        return nearest

    def _ivf_params(self, params: SearchParameters | None) -> SearchParametersIVF | None:
        if params is None:
            return None
        check(isinstance(params, SearchParametersIVF), "IndexBinaryIVF params have incorrect type: {}", type(params).__name__)
        assert isinstance(params, SearchParametersIVF)
        check(params.sel is None, "IDSelector is not supported for IndexBinaryIVF")
        return params

    def _probes(self, params: SearchParametersIVF | None) -> int:
        nprobe = min(self.nlist, self.nprobe if params is None else params.nprobe)
        check(nprobe > 0, "nprobe must be positive")
        self._check_centers()
        return int(nprobe)

    def _check_centers(self) -> None:
        """Raise where the coarse quantizer may name lists that there are not."""
        quantizer = self.quantizer
        check(quantizer is None or quantizer.ntotal <= self.nlist, "more centroids than the {} lists", self.nlist)

    # -- training and adding ----------------------------------------------------------------------------------------------------------

    def _train(self, x: Tensor) -> None:
        quantizer = self._coarse()
        if not (quantizer.is_trained and quantizer.ntotal == self.nlist):
            if self.verbose:
                print(f"Training quantizer on {x.shape[0]} codes of {self.d} bits")
            clustering = Clustering(self.d, self.nlist, self.cp)
            quantizer._reset()
            index: Index = IndexFlatL2(self.d).to(self.device) if self.clustering_index is None else self.clustering_index
            clustering._train(x, index, None, _Signs(self.d))  # type: ignore[arg-type]
            centroids = clustering.centroids.tensor.view(-1, self.d)
            quantizer._add(bits.pack((centroids > 0).int(), 1).to(quantizer.device), None)
            quantizer.is_trained = True
        elif self.verbose:
            print("IVF quantizer does not need training.")
        self.is_trained = True

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._lists()
        self._check_centers()
        self._add_core(x, ids, self._nearest_list(x))

    def _add_with_ids(self, x: Tensor, ids: Tensor) -> None:
        self._add(x, ids)

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        self._add(codes, ids)

    def _add_core(self, x: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        check(self.is_trained, "IndexBinaryIVF must be trained before codes are added")
        check(list_nos.numel() == 0 or int(list_nos.max()) < self.nlist, "a list beyond the {} there are", self.nlist)
        self.direct_map.check_can_add(ids)
        names = torch.arange(self.ntotal, self.ntotal + x.shape[0], device=x.device) if ids is None else ids
        places = self._lists()._append(list_nos, x, names)
        self.direct_map._added(names, list_nos, places)
        self.ntotal += x.shape[0]

    # -- searching --------------------------------------------------------------------------------------------------------------------

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        return arrays_of(self._search_quickly(x, k)) if self.device.type == "cpu" else None

    def _search_quickly(self, x: Any, k: int) -> tuple[Any, Any] | None:
        """A search of few queries in one call, where the settings are plain; else None. Of an array, answers may be arrays."""
        quantizer = self._coarse()
        plain = self.use_heap and not self.max_codes and not self.per_invlist_search
        if not plain or x.shape[0] > _FEW or type(quantizer) is not IndexBinaryFlat:
            return None
        started = perf_counter()
        distances, labels, counts = hamming.search_lists(x, quantizer._rows, self._probes(None), self._lists()._ragged(), k)
        IndexIVF._count(x.shape[0], counts)
        IndexIVF._time(0.0, perf_counter() - started)
        return distances, labels

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        quantizer = self._coarse()
        found = self._search_quickly(x, k) if params is None else None
        if found is not None:
            return found
        given = self._ivf_params(params)
        started = perf_counter()
        keys = quantizer._search(x, self._probes(given), None if given is None else given.quantizer_params)[1]
        scanning = perf_counter()
        answer = self._search_preassigned(x, k, keys, given, False)
        IndexIVF._time(scanning - started, perf_counter() - scanning)
        return answer

    def _search_preassigned(
        self, x: Tensor, k: int, keys: Tensor, params: SearchParametersIVF | None, pairs: bool
    ) -> tuple[Tensor, Tensor]:
        """The k nearest in given lists."""
        lists, budget = self._lists()._ragged(), self.max_codes if params is None else params.max_codes
        if self.per_invlist_search:
            check(not budget and not pairs, "neither max_codes nor store_pairs goes with per_invlist_search")
            keys = keys.sort(dim=1).values
        limits = limits_of(lists, keys, None, budget, False) if budget else None
        distances, labels, counts = hamming.scan(x, lists, keys, k, limits, pairs, not (self.use_heap or self.per_invlist_search))
        IndexIVF._count(x.shape[0], counts)
        return distances, labels

    def _range_search(self, x: Tensor, radius: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        self._no_params(params)
        started = perf_counter()
        keys = self._coarse()._search(x, self._probes(None), None)[1]
        scanning = perf_counter()
        answer = self._range_search_preassigned(x, radius, keys)
        IndexIVF._time(scanning - started, perf_counter() - scanning)
        return answer

    def _range_search_preassigned(self, x: Tensor, radius: int, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lims, distances, labels, counts = hamming.within(x, self._lists()._ragged(), keys, radius)
        IndexIVF._count(x.shape[0], (counts[0], counts[1], 0))
        return lims, distances, labels

    def _search_and_reconstruct(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        self._no_params(params)
        keys = self._coarse()._search(x, self._probes(None), None)[1]
        distances, places = self._search_preassigned(x, k, keys, None, True)
        found = places >= 0
        lists, list_nos = self._lists()._ragged(), places[found] >> 32
        rows = lists.offsets[list_nos] + (places[found] & 0xFFFFFFFF)
        codes = torch.full((*places.shape, self.code_size), 255, dtype=torch.uint8, device=x.device)
        labels = places.clone()
        labels[found], codes[found] = lists.ids[rows], lists.codes[rows]
        return distances, labels, codes

    # -- codes by id ------------------------------------------------------------------------------------------------------------------

    def _reconstruct(self, keys: Tensor) -> Tensor:
        places = self.direct_map._get(keys)
        return self._lists()._ragged().codes[self._lists()._rows(places >> 32, places & 0xFFFFFFFF)]

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        lists = self._lists()._ragged()
        rows, _ = ragged.live(lists)
        ids = lists.ids[rows]
        wanted = (ids >= n0) & (ids < n0 + ni)
        codes = torch.zeros(ni, self.code_size, dtype=torch.uint8, device=self.device)
        codes[ids[wanted] - n0] = lists.codes[rows[wanted]]
        return codes

    # -- changing what is held --------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self.direct_map.clear()
        self._lists().reset()
        self.ntotal = 0

    def _remove(self, sel: IDSelector) -> int:
        n: int = self.direct_map.remove_ids(sel, self._lists())
        self.ntotal -= n
        return n

    def _check_compatible_for_merge(self, other: Any) -> None:
        check(type(other) is type(self), "can only merge indexes of the same type, got {}", type(other).__name__)
        check(other.d == self.d, "the indexes differ in bits: {} and {}", self.d, other.d)
        check(other.nlist == self.nlist, "the indexes differ in number of lists: {} and {}", self.nlist, other.nlist)
        check(self.direct_map.no() and other.direct_map.no(), "direct map copy not implemented")

    def _merge_from(self, other: Any, add_id: int) -> None:
        self._lists().merge_from(other._lists(), add_id)
        self.ntotal += other.ntotal
        other.ntotal = 0


__all__ = ["BinaryInvertedListScanner", "IndexBinaryIVF"]
