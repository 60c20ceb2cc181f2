"""Keeping the best of what comes in pieces: heap arrays, ResultHeap, merged answers, kmin and kmax.

What is added here leaves a heap in order, best first; but others may write it too, as a scan of lists does, worst first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import Array, as_tensor
from tsscompat.devices import default_device
from tsscompat.errors import expect
from tsscompat.faiss_compat.attributes import Stated, anything, size_t
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vector_arrays import swig_ptr
from tsscompat.kernels.select import select


class HeapArray(Stated):
    """nh heaps of k values and ids each, in memory of the caller's."""

    nh = size_t(0, "number of heaps")
    k = size_t(0, "entries of a heap")
    val = anything(None, "the values, nh * k behind a pointer")
    ids = anything(None, "their ids, nh * k behind a pointer")

    _dtype = torch.float32
    _largest = False

    def _tables(self) -> tuple[Tensor, Tensor]:
        return behind(self.val, self.nh, self.k), behind(self.ids, self.nh, self.k)

    def get_val(self, key: int) -> Any:
        """The values of a heap, behind a pointer."""
        return swig_ptr(self._tables()[0][key])

    def get_ids(self, key: int) -> Any:
        """The ids of a heap, behind a pointer."""
        return swig_ptr(self._tables()[1][key])

    def heapify(self) -> None:
        """Empty all heaps."""
        values, ids = self._tables()
        limits = torch.finfo(self._dtype) if self._dtype.is_floating_point else torch.iinfo(self._dtype)
        values.fill_(limits.min if self._largest else limits.max)
        ids.fill_(-1)

    def _take(self, at: Tensor | slice, new_values: Tensor, new_ids: Tensor) -> None:
        values, ids = self._tables()
        both = torch.cat([values[at], new_values], 1), torch.cat([ids[at], new_ids], 1)
        # NaN beats nothing; of equal values the first to come stay.
        rank = -both[0].double() if self._largest else both[0].double()
        order = torch.sort(rank.nan_to_num(nan=float("inf")), dim=1, stable=True).indices[:, : self.k]
        values[at], ids[at] = both[0].gather(1, order), both[1].gather(1, order)

    def addn(self, nj: int, vin: Any, j0: int = 0, i0: int = 0, ni: int = -1) -> None:
        """Add nj values to each of ni heaps from the i0-th on, numbered from j0 on."""
        count = self.nh - i0 if ni == -1 else ni
        new = behind(vin, count, nj)
        names = torch.arange(j0, j0 + nj, device=new.device).expand(count, nj)
        self._take(slice(i0, i0 + count), new, names)

    def addn_with_ids(self, nj: int, vin: Any, id_in: Any, id_stride: int = 0, i0: int = 0, ni: int = -1) -> None:
        """Add nj values with ids to each of ni heaps; with a stride of 0 all heaps share the ids."""
        count = self.nh - i0 if ni == -1 else ni
        self._take(slice(i0, i0 + count), behind(vin, count, nj), _ids(id_in, count, nj, id_stride))

    def addn_query_subset_with_ids(self, nsubset: int, subset: Any, nj: int, vin: Any, id_in: Any, id_stride: int = 0) -> None:
        """Add nj values with ids to each of some heaps."""
        self._take(behind(subset, nsubset), behind(vin, nsubset, nj), _ids(id_in, nsubset, nj, id_stride))

    def reorder(self) -> None:
        """Bring the heaps in order, best first; ties go up in id, or down where the largest are kept."""
        values, ids = self._tables()
        by_id = torch.sort(ids, dim=1, descending=self._largest, stable=True).indices
        values.copy_(values.gather(1, by_id))
        ids.copy_(ids.gather(1, by_id))
        self._take(slice(0, self.nh), values[:, :0], ids[:, :0])

    def per_line_extrema(self, vals_out: Any, idx_out: Any) -> None:
        """The worst value kept by each heap, and its id."""
        values, ids = self._tables()
        worst, at = values.min(1) if self._largest else values.max(1)
        behind(vals_out, self.nh).copy_(worst)
        behind(idx_out, self.nh).copy_(ids.gather(1, at[:, None])[:, 0])


def _ids(pointer: Any, n: int, nj: int, stride: int) -> Tensor:
    if stride == 0:
        return behind(pointer, nj).expand(n, nj)
    return torch.as_strided(behind(pointer, (n - 1) * stride + nj if n else 0), (n, nj), (stride, 1))


class float_maxheap_array_t(HeapArray):
    """Heaps of the smallest floats (the largest of them on top)."""


class float_minheap_array_t(HeapArray):
    """Heaps of the largest floats (the smallest of them on top)."""

    _largest = True


class int_maxheap_array_t(HeapArray):
    """Heaps of the smallest integers."""

    _dtype = torch.int32


class int_minheap_array_t(HeapArray):
    """Heaps of the largest integers."""

    _dtype = torch.int32
    _largest = True


class ResultHeap:
    """The best k results of each query, from answers that come one part of the database at a time; read D and I after finalize()."""

    nq: int
    k: int
    D: np.ndarray[Any, Any]
    I: np.ndarray[Any, Any]
    heaps: HeapArray

    def __init__(self, nq: int, k: int, keep_max: bool = False) -> None:
        self.nq, self.k = nq, k
        self.D = np.zeros((nq, k), dtype=np.float32)
        self.I = np.zeros((nq, k), dtype=np.int64)
        self.heaps = float_minheap_array_t() if keep_max else float_maxheap_array_t()
        self.heaps.nh, self.heaps.k = nq, k
        self.heaps.val, self.heaps.ids = swig_ptr(self.D), swig_ptr(self.I)
        self.heaps.heapify()

    def add_result(self, D: Array, I: Array) -> None:
        """Add an answer for all queries, in any order."""
        expect(len(D) == self.nq and tuple(I.shape) == tuple(D.shape), "expected answers for {} queries", self.nq)
        self.heaps._take(slice(0, self.nq), _cpu(D, torch.float32), _cpu(I, torch.int64))

    def add_result_subset(self, subset: Array, D: Array, I: Array) -> None:
        """Add an answer for some queries; ids of one dimension hold for all of them."""
        n, m = D.shape
        expect(len(subset) == n, "expected answers for {} queries, got {}", len(subset), n)
        expect(tuple(I.shape) in ((n, m), (m,)), "expected ids of shape ({}, {}) or ({},), got {}", n, m, m, tuple(I.shape))
        self.heaps._take(_cpu(subset, torch.int64), _cpu(D, torch.float32), _cpu(I, torch.int64).expand(n, m))

    def finalize(self) -> None:
        """Bring D and I in order, best first."""
        self.heaps.reorder()


def _cpu(x: Array, dtype: torch.dtype) -> Tensor:
    return as_tensor(x if hasattr(x, "shape") else np.asarray(x), dtype, torch.device("cpu"))[0]


def merge_knn_results(Dall: Array, Iall: Array, keep_max: bool = False) -> tuple[Array, Array]:
    """The best k of sorted answers (nshard, nq, k) from different parts of a database; an id of -1 ends a part's answer."""
    expect(tuple(Iall.shape) == tuple(Dall.shape), "expected ids of shape {}, got {}", tuple(Dall.shape), tuple(Iall.shape))
    distances, back = (
        (Dall, lambda t: t) if isinstance(Dall, Tensor) else (torch.from_numpy(np.ascontiguousarray(Dall)), Tensor.numpy)
    )
    ids = Iall if isinstance(Iall, Tensor) else torch.from_numpy(np.ascontiguousarray(Iall))
    n_parts, n, k = distances.shape
    if keep_max:  # FAISS's heap of parts lets the later part go first among equals here
        distances, ids = distances.flip(0), ids.flip(0)
    distances, ids = distances.transpose(0, 1), ids.transpose(0, 1)  # (nq, nshard, k)
    ended = (ids < 0).cummax(dim=2).values.reshape(n, n_parts * k)
    distances, ids = distances.reshape(n, n_parts * k), ids.reshape(n, n_parts * k)
    rank = (-distances.double() if keep_max else distances.double()).masked_fill(ended, float("inf"))
    order = torch.sort(rank, dim=1, stable=True).indices[:, :k]
    limits = torch.finfo(distances.dtype) if distances.dtype.is_floating_point else torch.iinfo(distances.dtype)
    missing = ended.gather(1, order)
    best = distances.gather(1, order).masked_fill(missing, limits.min if keep_max else limits.max)
    return back(best), back(ids.gather(1, order).masked_fill(missing, -1))


def _merge_into(n: int, k: int, nshard: int, tables: tuple[Any, Any, Any, Any], keep_max: bool) -> None:
    all_distances, all_labels, distances, labels = tables
    best, ids = merge_knn_results(behind(all_distances, nshard, n, k), behind(all_labels, nshard, n, k), keep_max)
    behind(distances, n, k).copy_(best)
    behind(labels, n, k).copy_(ids)


def merge_knn_results_CMin(n: int, k: int, nshard: int, all_distances: Any, all_labels: Any, distances: Any, labels: Any) -> None:
    _merge_into(n, k, nshard, (all_distances, all_labels, distances, labels), False)


def merge_knn_results_CMax(n: int, k: int, nshard: int, all_distances: Any, all_labels: Any, distances: Any, labels: Any) -> None:
    _merge_into(n, k, nshard, (all_distances, all_labels, distances, labels), True)


def _extremes(array: Array, k: int, largest: bool) -> tuple[Array, Array]:
    array = array if isinstance(array, Tensor) else np.asarray(array)
    values, back = as_tensor(array, torch.float32, array.device if isinstance(array, Tensor) else default_device())
    expect(values.ndim == 2, "expected a matrix, got {} dimensions", values.ndim)
    best, at = select(values, None, int(k), largest)
    return back(best), back(at)


def kmin(array: Array, k: int) -> tuple[Array, Array]:
    """The k smallest values of each row, and where they are."""
    return _extremes(array, k, False)


def kmax(array: Array, k: int) -> tuple[Array, Array]:
    """The k largest values of each row, and where they are."""
    return _extremes(array, k, True)


__all__ = [
    "ResultHeap",
    "float_maxheap_array_t",
    "float_minheap_array_t",
    "int_maxheap_array_t",
    "int_minheap_array_t",
    "kmax",
    "kmin",
    "merge_knn_results",
    "merge_knn_results_CMax",
    "merge_knn_results_CMin",
]
