"""faiss.ivflib: functions on indexes that are, or wrap, an IndexIVF."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from tsscompat.arrays import Array, rows
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.base import Index, lims_out
from tsscompat.faiss_compat.invlists import ArrayInvertedLists
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.params import SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.kernels.ivf_lists import runs

# The attributes by which FAISS's wrappers hold the index that they wrap.
_WRAPPED = ("index", "index_ivf", "base_index")


def try_extract_index_ivf(index: Any) -> IndexIVF | None:
    """The IndexIVF that an index is or wraps (transforms, id maps, refinement), or None."""
    while index is not None and not isinstance(index, IndexIVF):
        index = next((getattr(index, name) for name in _WRAPPED if isinstance(getattr(index, name, None), Index)), None)
    return index


def extract_index_ivf(index: Any) -> IndexIVF:
    """The IndexIVF that an index is or wraps."""
    found = try_extract_index_ivf(index)
    if found is None:
        raise FaissError(f"{type(index).__name__} is not an IndexIVF, nor does it wrap one")
    return found


def _inside(index: Any, n: int, x: Any) -> tuple[torch.Tensor, IndexIVF]:
    """Vectors as the IndexIVF behind an index's transforms sees them, and that index."""
    vectors = behind(x, n, index.d).to(index.device)
    if not isinstance(index, IndexIVF) and hasattr(index, "chain"):
        vectors = index._apply(vectors)
        index = index.index
    check(isinstance(index, IndexIVF), "could not extract IVF index")
    return vectors, index


def check_compatible_for_merge(index1: Any, index2: Any) -> None:
    """Raise unless one index could be merged into the other."""
    check(type(index1) is type(index2), "can only merge indexes of the same type")
    if hasattr(index1, "chain") and not isinstance(index1, IndexIVF):
        kinds = [[type(vt) for vt in index.chain] for index in (index1, index2)]
        check(kinds[0] == kinds[1], "the indexes differ in their transforms")
        index1, index2 = index1.index, index2.index
        check(type(index1) is type(index2), "can only merge indexes of the same type")
    same = index1.d == index2.d and index1.metric_type == index2.metric_type
    check(same, "the indexes differ in dimension or metric")
    if isinstance(index1, IndexIVF):
        index1._check_compatible_for_merge(index2)


def merge_into(index0: Any, index1: Any, shift_ids: bool) -> None:
    """Move the entries of one index into another, leaving it empty; `shift_ids` numbers them on from those there."""
    check_compatible_for_merge(index0, index1)
    ivf0, ivf1 = extract_index_ivf(index0), extract_index_ivf(index1)
    ivf0._merge_from(ivf1, ivf0.ntotal if shift_ids else 0)
    index0.ntotal, index1.ntotal = ivf0.ntotal, ivf1.ntotal


def search_centroid(index: Any, x: Any, n: int, centroid_ids: Any) -> None:
    """Write the list of each vector."""
    vectors, ivf = _inside(index, n, x)
    behind(centroid_ids, n).copy_(ivf._coarse()._assign(vectors, 1).reshape(-1))


def search_and_return_centroids(
    index: Any, n: int, xin: Any, k: int, distances: Any, labels: Any, query_centroid_ids: Any, result_centroid_ids: Any
) -> None:
    """A search that also writes the lists of queries and results."""
    vectors, ivf = _inside(index, n, xin)
    coarse, keys = ivf._coarse()._search(vectors, ivf.nprobe, None)
    if query_centroid_ids is not None:
        behind(query_centroid_ids, n).copy_(keys[:, 0])
    found, places = ivf._search_preassigned(vectors, k, keys, coarse, None, True)
    known = places >= 0
    names = places.clone()
    lists = ivf._lists()._ragged()
    names[known] = lists.ids[lists.offsets[places[known] >> 32] + (places[known] & 0xFFFFFFFF)]
    behind(distances, n, k).copy_(found)
    behind(labels, n, k).copy_(names)
    if result_centroid_ids is not None:
        behind(result_centroid_ids, n, k).copy_(torch.where(known, places >> 32, -1))


def get_invlist_range(index: Any, i0: int, i1: int) -> ArrayInvertedLists:
    """A copy of lists i0 to i1."""
    ivf = extract_index_ivf(index)
    check(0 <= i0 <= i1 <= ivf.nlist, "no lists {} to {} among {}", i0, i1, ivf.nlist)
    source = ivf._lists()._ragged()
    part = ArrayInvertedLists(i1 - i0, ivf._lists().code_size).to(ivf.device)
    start, sizes = source.offsets[i0:i1], source.sizes[i0:i1]
    held, which = runs(start, sizes)
    part._append(which, source.codes[held], source.ids[held])
    return part


def set_invlist_range(index: Any, i0: int, i1: int, src: ArrayInvertedLists) -> None:
    """Put other lists in the place of lists i0 to i1; what was there goes into `src`."""
    ivf = extract_index_ivf(index)
    check(0 <= i0 <= i1 <= ivf.nlist, "no lists {} to {} among {}", i0, i1, ivf.nlist)
    lists = ivf._lists()
    check(isinstance(lists, ArrayInvertedLists), "only ArrayInvertedLists supported")
    check(src.nlist == i1 - i0 and src.code_size == lists.code_size, "the lists differ in number or code size")
    old, sizes = get_invlist_range(index, i0, i1), lists._ragged().sizes.clone()
    sizes[i0:i1] = 0
    new_sizes, codes, ids = src._dump()
    list_nos = torch.repeat_interleave(new_sizes) + i0
    codes, ids = codes.clone(), ids.clone()
    lists._set_sizes(sizes)
    lists._append(list_nos.to(ivf.device), codes.to(ivf.device), ids.to(ivf.device))
    src._load(*(t.clone() for t in old._dump()))
    ivf.ntotal = index.ntotal = index.ntotal - int(old._ragged().sizes.sum()) + int(new_sizes.sum())


def _own_parameters(index: Any) -> SearchParametersIVF:
    """The settings of the IndexIVF that an index is or wraps, as parameters."""
    ivf = extract_index_ivf(index)
    return SearchParametersIVF(nprobe=ivf.nprobe, max_codes=ivf.max_codes)


def _staged(index: Any, x: torch.Tensor, params: Any, scan: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """scan(vectors, keys, coarse, ivf, params) of what the transforms and the coarse quantizer give, and the time of each stage."""
    times = [time.perf_counter()]
    vectors, ivf = _inside(index, x.shape[0], x)
    times.append(time.perf_counter())
    given = ivf._ivf_params(params)
    coarse, keys = ivf._coarse()._search(vectors, params.nprobe, params.quantizer_params)
    n = int(torch.where(keys >= 0, ivf._lists()._ragged().sizes[keys.clamp(min=0)], 0).sum())
    times.append(time.perf_counter())
    answer = scan(vectors, keys, coarse, ivf, given)
    times.append(time.perf_counter())
    spent = [1000.0 * (b - a) for a, b in itertools.pairwise(times)]
    stages = zip(("pre_transform_ms", "coarse_quantizer_ms", "invlist_scan_ms"), spent)
    return answer, {"ndis": n, **dict(stages)}


def search_with_parameters(
    index: Any, x: Array, k: int, params: SearchParametersIVF | None = None, output_stats: bool = False
) -> Any:
    """A search with parameters of its own; with `output_stats` also the distances computed and the time of each stage."""
    batch = rows(x, index.d, index.device)
    wanted = _own_parameters(index) if params is None else params
    (distances, labels), stats = _staged(
        index, batch.tensor, wanted, lambda v, keys, coarse, ivf, p: ivf._search_preassigned(v, int(k), keys, coarse, p, False)
    )
    answer = batch.give_back(distances), batch.give_back(labels)
    return (*answer, stats) if output_stats else answer


def range_search_with_parameters(
    index: Any, x: Array, radius: float, params: SearchParametersIVF | None = None, output_stats: bool = False
) -> Any:
    """A range search with parameters of its own; with `output_stats` also the distances computed and the time of each stage."""
    batch = rows(x, index.d, index.device)
    wanted = _own_parameters(index) if params is None else params
    (lims, distances, labels), stats = _staged(
        index,
        batch.tensor,
        wanted,
        lambda v, keys, coarse, ivf, p: ivf._range_search_preassigned(v, float(radius), keys, coarse, p),
    )
    answer = lims_out(batch, lims), batch.give_back(distances), batch.give_back(labels)
    return (*answer, stats) if output_stats else answer


class SlidingIndexWindow:
    """Slices of entries, first in, first out, all in one index, which must be trained and empty at first."""

    index: Any
    ils: ArrayInvertedLists
    nlist: int

    def __init__(self, index: Any) -> None:
        self.index = index
        ils: Any = extract_index_ivf(index)._lists()
        check(isinstance(ils, ArrayInvertedLists), "only supports indexes with ArrayInvertedLists")
        self.ils = ils
        self.nlist = self.ils.nlist
        self._slices: list[torch.Tensor] = []  # the sizes of the lists of each slice, oldest first

    @property
    def n_slice(self) -> int:
        return len(self._slices)

    @property
    def sizes(self) -> list[list[int]]:
        """For each list, how many entries it has up to the end of each slice."""
        if not self._slices:
            return [[] for _ in range(self.nlist)]
        ends: list[list[int]] = torch.cumsum(torch.stack(self._slices, 1), 1).tolist()
        return ends

    def step(self, sub_index: Any, remove_oldest: bool) -> None:
        """Copy in the entries of another index (or None), and let go of the oldest slice or not."""
        check(not remove_oldest or self._slices, "cannot remove slice: there is none")
        check(sub_index is not None or remove_oldest, "nothing to do: neither a slice to add nor one to remove")
        ivf = extract_index_ivf(self.index)
        if sub_index is not None:
            check_compatible_for_merge(self.index, sub_index)
        if remove_oldest:
            first = self._slices.pop(0)
            lists = self.ils._ragged()
            held, which = runs(lists.offsets + first, lists.sizes - first)
            codes, ids = lists.codes[held], lists.ids[held]
            self.ils.reset()
            self.ils._append(which, codes, ids)
        if sub_index is not None:
            sizes, codes, ids = extract_index_ivf(sub_index)._lists()._dump()
            self.ils._append(*(t.to(self.index.device) for t in (torch.repeat_interleave(sizes), codes, ids)))
            self._slices.append(sizes.clone().to(self.index.device))
        self.index.ntotal = ivf.ntotal = self.ils.compute_ntotal()


__all__ = [
    "SlidingIndexWindow",
    "check_compatible_for_merge",
    "extract_index_ivf",
    "get_invlist_range",
    "merge_into",
    "range_search_with_parameters",
    "search_and_return_centroids",
    "search_centroid",
    "search_with_parameters",
    "set_invlist_range",
    "try_extract_index_ivf",
]
