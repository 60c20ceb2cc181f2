"""IndexBinary: the contract of every index of binary codes; and the two simplest, Flat and FromFloat.

A code of d bits is d / 8 bytes, the first bit the lowest of the first byte. Distances are Hamming's, int32; a missing result has id -1
and the largest int32. Hooks are those of Index (base.py), on codes in place of vectors.
"""

from __future__ import annotations

import operator
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import Array, Batch, plain_rows, rows
from tsscompat.arrays import ids as ids_in
from tsscompat.errors import FaissError, check, expect
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import Stated, boolean, child, enum, int64, integer, size_t, vector
from tsscompat.faiss_compat.base import Index, check_keys, lims_out
from tsscompat.faiss_compat.binary_pointers import BinaryPointerMethods
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.enums import (
    APPROX_TOPK_BUCKETS_B8_D2,
    APPROX_TOPK_BUCKETS_B8_D3,
    APPROX_TOPK_BUCKETS_B16_D2,
    APPROX_TOPK_BUCKETS_B32_D2,
    EXACT_TOPK,
    METRIC_L2,
)
from tsscompat.faiss_compat.params import SearchParameters, search_params
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.selectors import GivenIds, IDSelector
from tsscompat.faiss_compat.vectors import UInt8Vector
from tsscompat.kernels import hamming
from tsscompat.kernels.ivf_lists import Ragged

# How many results FAISS's approximate modes can give. Ours are exact, which these modes permit.
_BUCKETS = {
    APPROX_TOPK_BUCKETS_B32_D2: 64,
    APPROX_TOPK_BUCKETS_B8_D3: 24,
    APPROX_TOPK_BUCKETS_B16_D2: 32,
    APPROX_TOPK_BUCKETS_B8_D2: 16,
}
# Codes become floats in blocks of as many as FAISS's.
_FLOAT_ROWS = 32768


def check_topk_mode(mode: int, k: int) -> None:
    """Raise for a mode that there is not, or that cannot give so many results."""
    check(mode == EXACT_TOPK or mode in _BUCKETS, "approximate top-k mode {} is not known", mode)
    check(mode == EXACT_TOPK or k <= _BUCKETS[mode], "approximate top-k mode {} gives up to {} results", mode, _BUCKETS.get(mode))


def codes_in(x: Array, code_size: int, device: torch.device) -> Batch:
    """Binary codes (n, code_size) from the caller, who must give bytes."""
    if device.type == "cpu" and plain_rows(x, code_size, np.uint8):  # the usual call, in 2 microseconds
        return Batch(torch.from_numpy(x), Tensor.numpy)
    dtype = x.dtype
    if str(dtype).rpartition(".")[2] != "uint8":
        raise TypeError(f"expected binary codes as uint8, got {dtype}")
    return rows(x, code_size, device, torch.uint8)


class IndexBinary(BinaryPointerMethods, Stated):
    """Binary codes that can be searched."""

    d = integer(0, "bits of a code")
    code_size = integer(0, "bytes of a code")
    ntotal = int64(0, "number of codes held")
    verbose = boolean(False, "print progress")
    is_trained = boolean(True, "whether codes can be added")
    metric_type = enum(int, METRIC_L2, "kept, without effect: distances are Hamming's")

    def __init__(self, d: int = 0, metric: int = METRIC_L2) -> None:
        super().__init__()
        check(d % 8 == 0, "the number of bits must be a multiple of 8, got {}", d)
        self.d, self.code_size = d, d // 8
        self.metric_type = enums.metric_type_from_int(metric)

    def __setattr__(self, name: str, value: Any) -> None:
        # FAISS refuses unknown names of float indexes only: with binary ones programs keep alive what these refer to.
        if hasattr(type(self), name) or name[:1] == "_":
            super().__setattr__(name, value)
        else:
            self.__dict__[name] = value

    # -- what FAISS's users call ----------------------------------------------------------------------------------------------------

    def _codes(self, x: Array) -> Tensor:
        return codes_in(x, self.code_size, self.device).tensor

    def train(self, x: Array) -> None:
        """Learn what the index needs to know of the data before codes can be added."""
        self._train(self._codes(x))

    def add(self, x: Array) -> None:
        """Add codes; they are numbered from ntotal on."""
        codes = self._codes(x)
        check(self.is_trained, "{} must be trained before codes are added", type(self).__name__)
        self._add(codes, None)

    def add_with_ids(self, x: Array, ids: Array) -> None:
        """Add codes under ids of the caller's."""
        codes = self._codes(x)
        given = ids_in(ids, codes.shape[0], self.device)
        check(self.is_trained, "{} must be trained before codes are added", type(self).__name__)
        self._add_with_ids(codes, given)

    def search(self, x: Array, k: int, *, params: SearchParameters | None = None) -> tuple[Array, Array]:
        """The k nearest codes of each row of x: distances and ids, nearest first, padded with id -1."""
        if k > 0 and params is None and plain_rows(x, self.code_size, np.uint8):
            found = self._search_arrays(x, operator.index(k))
            if found is not None:
                return found
        batch = codes_in(x, self.code_size, self.device)
        expect(k > 0, "k must be positive, got {}", k)
        distances, labels = self._search(batch.tensor, operator.index(k), search_params(params))
        return batch.give_back(distances), batch.give_back(labels)

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        """A search that numpy's arrays go through as they are; None where there is none."""
        return None

    def range_search(self, x: Array, thresh: int, *, params: SearchParameters | None = None) -> tuple[Array, Array, Array]:
        """All codes nearer than a threshold to each row of x: limits, distances (as floats), ids."""
        batch = codes_in(x, self.code_size, self.device)
        lims, distances, labels = self._range_search(batch.tensor, operator.index(thresh), search_params(params))
        return lims_out(batch, lims), batch.give_back(distances.float()), batch.give_back(labels)

    def assign(self, x: Array, k: int = 1, labels: Array | None = None) -> Array:
        """The ids of the k nearest codes of each row of x."""
        batch = codes_in(x, self.code_size, self.device)
        expect(k > 0, "k must be positive, got {}", k)
        return batch.give_back(self._assign(batch.tensor, operator.index(k)), labels)

    def search_and_reconstruct(self, x: Any, k: Any, *arguments: Any, params: SearchParameters | None = None) -> Any:
        """A search that also gives the codes found; or, as in FAISS, (n, x, k, distances, labels, recons[, params]) with pointers."""
        if not arguments:
            batch = codes_in(x, self.code_size, self.device)
            expect(k > 0, "k must be positive, got {}", k)
            return tuple(
                batch.give_back(part)
                for part in self._search_and_reconstruct(batch.tensor, operator.index(k), search_params(params))
            )
        n, queries, (wanted, distances, labels, recons, *more) = x, k, arguments
        found = self._search_and_reconstruct(
            behind(queries, n, self.code_size).to(self.device), wanted, more[0] if more else params
        )
        for target, answer in zip((distances, labels, recons), found):
            behind(target, *answer.shape).copy_(answer)
        return None

    def search_preassigned(self, x: Array, k: int, Iq: Array, Dq: Array | None) -> tuple[Array, Array]:
        """A search of given lists, for indexes that have some."""
        self._refuse("search_preassigned")

    def range_search_preassigned(
        self, x: Array, thresh: int, Iq: Array, Dq: Array | None, *, params: SearchParameters | None = None
    ) -> tuple[Array, Array, Array]:
        """A range search of given lists, for indexes that have some."""
        self._refuse("range_search_preassigned")

    def reconstruct(self, key: int) -> Array:
        """The code with an id."""
        return self._reconstruct(torch.tensor([int(key)], dtype=torch.int64, device=self.device))[0].cpu().numpy()

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: Array | None = None) -> Array:
        """The codes with ids n0 to n0 + ni (ni -1: to the end)."""
        n0 = int(n0)
        ni = self.ntotal - n0 if ni == -1 else int(ni)
        expect(ni >= 0, "expected a number of codes, got {}", ni)
        inside = ni == 0 or (n0 >= 0 and n0 + ni <= self.ntotal)
        check(inside, "no codes {} to {} among {}", n0, n0 + ni, self.ntotal)
        found = self._reconstruct_n(n0, ni)
        return Batch(found, lambda t: t.cpu().numpy()).give_back(found, x)

    def remove_ids(self, x: Array | IDSelector) -> int:
        """Remove the codes that a selector or an array of ids names; returns how many went."""
        if isinstance(x, IDSelector):
            return self._remove(x)
        expect(x.ndim == 1, "expected ids of shape (n,), got {}", tuple(x.shape))
        return self._remove(GivenIds(x))

    def reset(self) -> None:
        """Remove all codes."""
        self._reset()

    def merge_from(self, otherIndex: IndexBinary, add_id: int = 0) -> None:
        """Move another index's codes to the end of this one, leaving it empty."""
        self._check_compatible_for_merge(otherIndex)
        self._merge_from(otherIndex, int(add_id))

    def check_compatible_for_merge(self, otherIndex: IndexBinary) -> None:
        """Raise unless the other index could be merged into this one."""
        self._check_compatible_for_merge(otherIndex)

    def sa_code_size(self) -> int:
        """Bytes of a code."""
        return self._sa_code_size()

    def display(self) -> None:
        """Print what the index is."""
        print(f"Index: {type(self).__name__}  -> {self.ntotal} elements")

    def getDevice(self) -> int:
        """The number of the GPU that the index is on, -1 for the CPU."""
        return int(self.__dict__["_gpu"])

    # -- hooks ----------------------------------------------------------------------------------------------------------------------

    def _refuse(self, what: str) -> NoReturn:
        raise FaissError(f"{what} is not implemented for {type(self).__name__}")

    def _no_params(self, params: SearchParameters | None) -> None:
        check(params is None, "search params not supported for {}", type(self).__name__)

    def _train(self, x: Tensor) -> None:
        """Most indexes need no training."""

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._refuse("add")

    def _add_with_ids(self, x: Tensor, ids: Tensor) -> None:
        self._refuse("add_with_ids")

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        check(ids is not None, "codes are added with their ids here")
        assert ids is not None
        self._add_with_ids(codes, ids)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        self._refuse("search")

    def _range_search(self, x: Tensor, radius: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        self._refuse("range_search")

    def _assign(self, x: Tensor, k: int) -> Tensor:
        return self._search(x, k, None)[1]

    def _search_and_reconstruct(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        distances, labels = self._search(x, k, params)
        # FAISS fills the codes of missing results with ones.
        codes = torch.full((*labels.shape, self.code_size), 255, dtype=torch.uint8, device=x.device)
        found = labels >= 0
        if bool(found.any()):
            codes[found] = self._reconstruct(labels[found])
        return distances, labels, codes

    def _reconstruct(self, keys: Tensor) -> Tensor:
        self._refuse("reconstruct")

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        if ni == 0:
            return torch.empty(0, self.code_size, dtype=torch.uint8, device=self.device)
        return self._reconstruct(torch.arange(n0, n0 + ni, device=self.device))

    def _remove(self, sel: IDSelector) -> int:
        self._refuse("remove_ids")

    def _reset(self) -> None:
        self._refuse("reset")

    def _merge_from(self, other: Any, add_id: int) -> None:
        self._refuse("merge_from")

    def _check_compatible_for_merge(self, other: Any) -> None:
        self._refuse("check_compatible_for_merge")

    def _sa_code_size(self) -> int:
        return int(self.code_size)


class IndexBinaryFlat(IndexBinary):
    """Codes, compared with one by one."""

    _caches = ("_table",)

    xb = vector(UInt8Vector, "the codes, ntotal * code_size bytes")
    use_heap = boolean(True, "FAISS's two ways to select; here they are one, as both answer the same")
    query_batch_size = size_t(32, "queries that FAISS takes at a time; without effect")
    approx_topk_mode = enum(int, EXACT_TOPK, "permission to miss some; without effect")

    def __init__(self, d: int = 0) -> None:
        super().__init__(d)

    @property
    def _rows(self) -> Tensor:
        """The codes, one a row; the same tensor until something is added."""
        codes, kept = self.xb, self.__dict__["_table"]
        if kept is None or kept[0] is not codes._buffer or kept[1] != codes._n:
            kept = self._table = codes._buffer, codes._n, codes.tensor.view(self.ntotal, self.code_size)
        table: Tensor = kept[2]
        return table

    def _held(self, codes: Tensor) -> None:
        """Take on a new table of codes."""
        self.xb.tensor, self.ntotal = codes, codes.shape[0]

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self.xb.append(x)
        self.ntotal += x.shape[0]

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        if self.approx_topk_mode and self.use_heap:
            check_topk_mode(self.approx_topk_mode, k)
        allowed = None if params is None else allowed_rows(params, self.ntotal, self.device)
        return hamming.knn(x, self._rows, k, False, allowed)

    def _range_search(self, x: Tensor, radius: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        allowed = None if params is None else allowed_rows(params, self.ntotal, self.device)
        return all_within(x, self._rows, radius, allowed)

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self._rows[check_keys(keys, self.ntotal)]

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._rows[n0 : n0 + ni].clone()

    def _remove(self, sel: IDSelector) -> int:
        gone = sel._mask(torch.arange(self.ntotal, device=self.device))
        removed = int(gone.sum())
        if removed:
            self._held(self._rows[~gone])
        return removed

    def _reset(self) -> None:
        self.xb.clear()
        self.ntotal = 0


def all_within(x: Tensor, codes: Tensor, radius: int, allowed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """All rows of a table of codes that are nearer than a radius: limits, distances, row numbers."""
    zero = torch.zeros(1, dtype=torch.int64, device=codes.device)
    # One list; the position in list 0 is the row number.
    table = Ragged(codes, zero[:0], zero, zero + codes.shape[0])
    keys = torch.zeros(x.shape[0], 1, dtype=torch.int64, device=codes.device)
    return hamming.within(x, table, keys, radius, allowed, True)[:3]


class IndexBinaryFromFloat(IndexBinary):
    """Codes in an index of vectors, as vectors of -1 and 1."""

    index = child(None, "the index of vectors")
    own_fields = boolean(False)

    def __init__(self, index: Index | None = None) -> None:
        super().__init__(0 if index is None else index.d)
        if index is not None:
            self.index, self.is_trained, self.ntotal = index, index.is_trained, index.ntotal
            self.__dict__["_device"], self.__dict__["_gpu"] = index.device, index.getDevice()

    def _train(self, x: Tensor) -> None:
        self.index._train(signs_of(x))
        self.is_trained, self.ntotal = True, self.index.ntotal

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        for part in x.split(_FLOAT_ROWS):
            self.index._add(signs_of(part), None)
        self.ntotal = self.index.ntotal

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        self._no_params(params)
        parts = [self.index._search(signs_of(part), k, None) for part in x.split(_FLOAT_ROWS)]
        distances, labels = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        # Squared L2 between signs is 4 for each bit that differs.
        quarters = torch.where(labels >= 0, distances / 4, 0)
        return torch.where(labels >= 0, (quarters.abs() + 0.5).floor().copysign(quarters).int(), hamming.WORST), labels

    def _reset(self) -> None:
        self.index._reset()
        self.ntotal = self.index.ntotal


def signs_of(codes: Tensor) -> Tensor:
    """Codes as vectors of -1 and 1."""
    return hamming.bits_of(codes).mul_(2).sub_(1)


__all__ = [
    "IndexBinary",
    "IndexBinaryFlat",
    "IndexBinaryFromFloat",
]
