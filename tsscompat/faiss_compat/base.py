"""Index: the contract that every index keeps.

A public method checks its arguments, converts them at the door (arrays.py), calls a hook and hands the answer back in the caller's kind.
A hook is the public name with an underscore; it takes and gives tensors on the index's device. A hook that an index does not write raises
FaissError, as FAISS's base class throws.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import Array, Batch, as_tensor, numpy_out, plain_ids, plain_rows, rows
from tsscompat.arrays import ids as ids_in
from tsscompat.devices import Placement
from tsscompat.errors import FaissError, MethodError, check, expect, of_kind
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import Stated, boolean, enum, int64, integer, single
from tsscompat.faiss_compat.computers import DistanceComputer
from tsscompat.faiss_compat.params import SearchParameters, search_params
from tsscompat.faiss_compat.pointers import PointerMethods
from tsscompat.faiss_compat.selectors import GivenIds, IDSelector

_LEAST = -(1 << 63)  # the least id
_NUMERIC_TYPES = {enums.Float32: torch.float32, enums.Float16: torch.float16, enums.Int8: torch.int8}


def _numeric(x: Array, numeric_type: int) -> Array:
    """The input rounded to the type that the caller says it has, as FAISS's Python layer does."""
    if numeric_type == enums.Float32:
        return x
    if numeric_type not in _NUMERIC_TYPES:
        raise ValueError("numeric type must be Float32, Float16 or Int8")
    if isinstance(x, Tensor):
        return x.to(_NUMERIC_TYPES[numeric_type])
    return np.asarray(x).astype(np.float16 if numeric_type == enums.Float16 else np.int8)


def lims_out(batch: Batch, lims: Tensor) -> Array:
    """Range-search limits in the caller's kind; numpy callers get FAISS's unsigned type."""
    given = batch.give_back(lims)
    return given.view(np.uint64) if isinstance(given, np.ndarray) else given


# How an index type gives one that stores its vectors in another precision; storage.py has the rows.
STORED_AS: dict[type, Callable[[Any, torch.dtype], Index]] = {}


# Ways around the hooks that numpy's arrays take, and the hooks that they go around: a class that writes one of these anew does not
# inherit the way.
_SHORT_WAYS = {
    "_add_arrays": (
        ("_add", "_add_with_ids", "_add_core", "_add_codes", "_add_sa_codes")
        + ("_sa_encode", "_encode_vectors", "_own_lists", "_link", "_named")
    ),
    "_search_arrays": ("_search", "_found"),
    "_reconstruct_array": (
        ("_reconstruct", "_reconstruct_one", "_reconstruct_n", "_sa_decode", "_decode_vectors", "_decode_rows")
        + ("_rows", "_vectors")
    ),
}
# So many vectors are added the short way.
_FEW = 4


class Index(PointerMethods, Stated):
    """Vectors that can be searched."""

    d = integer(0, "dimension of the vectors")
    ntotal = int64(0, "number of vectors held")
    verbose = boolean(False, "print progress")
    is_trained = boolean(True, "whether vectors can be added")
    metric_type = enum(int, enums.METRIC_L2, "what the distance is")
    metric_arg = single(0.0, "the p of METRIC_Lp")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        for way, hooks in _SHORT_WAYS.items():
            if way not in own and any(name in own for name in hooks):
                setattr(cls, way, vars(Index)[way])

    def __init__(self, d: int = 0, metric: int = enums.METRIC_L2) -> None:
        super().__init__()
        self.d = d
        self.metric_type = enums.metric_type_from_int(metric)

    # -- what FAISS's users call ----------------------------------------------------------------------------------------------------

    def to(self, where: torch.device | str | int | Placement | None = None, dtype: torch.dtype | None = None) -> Any:
        """Move to a device, and give this index; with `dtype`, an index that stores its vectors so, in the same or in another class."""
        if where is not None:
            super().to(where)
        if dtype is None:
            return self
        convert = STORED_AS.get(type(self))
        check(convert is not None, "to(dtype=...): {} does not store vectors as they are", type(self).__name__)
        return convert(self, dtype)  # type: ignore[misc]

    def train(self, x: Array, *, numeric_type: int = enums.Float32, xq_train: Array | None = None) -> None:
        """Learn what the index needs to know of the data before vectors can be added."""
        batch = rows(_numeric(x, numeric_type), self.d, self.device)
        if xq_train is None:
            self._train(batch.tensor)
        elif numeric_type != enums.Float32:
            raise TypeError("xq_train is only supported for numeric_type Float32")
        else:
            self._train_with_queries(batch.tensor, rows(xq_train, self.d, self.device).tensor)

    def add(self, x: Array, numeric_type: int = enums.Float32) -> None:
        """Adds vectors to the index; they are numbered from ntotal on."""
        if numeric_type == enums.Float32 and plain_rows(x, self.d) and self.is_trained and self._add_few(x, None):
            return
        batch = rows(x if numeric_type == enums.Float32 else _numeric(x, numeric_type), self.d, self.device)
        check(self.is_trained, "{} must be trained before vectors are added", type(self).__name__)
        self._add(batch.tensor, None)

    def add_with_ids(self, x: Array, ids: Array, numeric_type: int = enums.Float32) -> None:
        """Adds vectors to the index under ids of the caller's."""
        if numeric_type == enums.Float32 and plain_rows(x, self.d) and plain_ids(ids, x.shape[0]):
            if self.is_trained and self._add_few(x, ids):
                return
        batch = rows(_numeric(x, numeric_type), self.d, self.device)
        given = ids_in(ids, batch.tensor.shape[0], self.device)
        check(self.is_trained, "{} must be trained before vectors are added", type(self).__name__)
        self._add_with_ids(batch.tensor, given)

    def _add_few(self, x: Array, ids: Array | None) -> bool:
        """Add a few vectors the short way, where there is one."""
        return x.shape[0] <= _FEW and self.__dict__["_device"].type == "cpu" and self._add_arrays(x, ids)

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        """Adding vectors, and their ids, that are arrays of numpy's, without tensors; False, with nothing done, where that cannot be."""
        return False

    def search(
        self,
        x: Array,
        k: int,
        *,
        params: SearchParameters | None = None,
        D: Array | None = None,
        I: Array | None = None,
        numeric_type: int = enums.Float32,
    ) -> tuple[Array, Array]:
        """The k nearest vectors of each row of x: distances and ids, best first, padded with id -1."""
        if k > 0 and params is None and D is None and I is None and numeric_type == enums.Float32 and plain_rows(x, self.d):
            found = self._search_arrays(x, operator.index(k))
            if found is not None:
                return found
        batch = rows(x if numeric_type == enums.Float32 else _numeric(x, numeric_type), self.d, self.device)
        expect(k > 0, "k must be positive, got {}", k)
        distances, labels = self._search(batch.tensor, operator.index(k), search_params(params))
        return batch.give_back(distances, D), batch.give_back(labels, I)

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        """A search that numpy's arrays go through as they are; None where there is none."""
        return None

    def range_search(self, x: Array, thresh: float, *, params: SearchParameters | None = None) -> tuple[Array, Array, Array]:
        """All vectors within a radius (beyond a similarity) of each row of x: limits, distances, ids."""
        batch = rows(x, self.d, self.device)
        lims, distances, labels = self._range_search(batch.tensor, float(thresh), search_params(params))
        return lims_out(batch, lims), batch.give_back(distances), batch.give_back(labels)

    def assign(self, x: Array, k: int = 1, labels: Array | None = None) -> Array:
        """The ids of the k nearest vectors of each row of x."""
        batch = rows(x, self.d, self.device)
        check(k > 0, "k must be positive, got {}", k)
        return batch.give_back(self._assign(batch.tensor, operator.index(k)), labels)

    def search_and_reconstruct(
        self,
        x: Array,
        k: int,
        *,
        params: SearchParameters | None = None,
        D: Array | None = None,
        I: Array | None = None,
        R: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """A search that also gives the vectors found, as far as the index still knows them."""
        batch = rows(x, self.d, self.device)
        expect(k > 0, "k must be positive, got {}", k)
        distances, labels, vectors = self._search_and_reconstruct(batch.tensor, operator.index(k), search_params(params))
        return batch.give_back(distances, D), batch.give_back(labels, I), batch.give_back(vectors, R)

    def search_and_return_codes(
        self,
        x: Array,
        k: int,
        *,
        include_listnos: bool = False,
        params: SearchParameters | None = None,
        D: Array | None = None,
        I: Array | None = None,
        codes: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """A search that also gives the codes of what it finds, behind their list numbers where asked for."""
        batch = rows(x, self.d, self.device)
        expect(k > 0, "k must be positive, got {}", k)
        distances, labels, found = self._search_and_return_codes(
            batch.tensor, operator.index(k), include_listnos, search_params(params)
        )
        return batch.give_back(distances, D), batch.give_back(labels, I), batch.give_back(found, codes)

    def reconstruct(self, key: int, x: Array | None = None) -> Array:
        """The vector with an id, as far as the index still knows it."""
        key = operator.index(key)
        if not _LEAST <= key < -_LEAST:
            raise OverflowError(f"an id has 64 bits, got {key}")
        if x is None and self.__dict__["_device"].type == "cpu":
            found = self._reconstruct_array(key)
            if found is not None:
                return found
        return self._one_out(self._reconstruct_one(key), x)

    def _reconstruct_array(self, key: int) -> Array | None:
        """The same without tensors; None where that cannot be."""
        return None

    def reconstruct_batch(self, key: Array, x: Array | None = None) -> Array:
        """The vectors with some ids."""
        keys, back = as_tensor(key if hasattr(key, "shape") else np.asarray(key, dtype=np.int64), torch.int64, self.device)
        expect(keys.ndim == 1, "expected ids of shape (n,), got {}", tuple(keys.shape))
        # Nothing is asked of an index that cannot reconstruct, as long as nothing is wanted.
        found = self._reconstruct(keys) if keys.shape[0] else self._no_vectors()
        return Batch(keys, back).give_back(found, x)

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: Array | None = None) -> Array:
        """The vectors with ids n0 to n0 + ni (ni -1: to the end)."""
        n0, ni = operator.index(n0), operator.index(ni)
        if ni == -1:
            ni = self.ntotal - n0
        expect(ni >= 0, "expected a number of vectors, got {}", ni)
        check(ni == 0 or (n0 >= 0 and n0 + ni <= self.ntotal), "no vectors {} to {} among {}", n0, n0 + ni, self.ntotal)
        return self._one_out(self._reconstruct_n(n0, ni) if ni else self._no_vectors(), x)

    def remove_ids(self, x: Array | IDSelector) -> int:
        """Remove the vectors that a selector or an array of ids names; returns how many went."""
        if isinstance(x, IDSelector):
            return self._remove(x)
        expect(x.ndim == 1, "expected ids of shape (n,), got {}", tuple(x.shape))
        return self._remove(GivenIds(x))

    def update_vectors(self, keys: Array, x: Array) -> None:
        """Replace the vectors that have some ids."""
        n = keys.shape[0]
        expect(
            tuple(keys.shape) == (n,) and tuple(x.shape) == (n, self.d), "expected ids ({},) and vectors ({}, {})", n, n, self.d
        )
        self._update_vectors(ids_in(keys, n, self.device), rows(x, self.d, self.device).tensor)

    def reset(self) -> None:
        """Remove all vectors."""
        self._reset()

    def merge_from(self, otherIndex: Index, add_id: int = 0) -> None:
        """Move another index's vectors to the end of this one, leaving it empty."""
        self._check_compatible_for_merge(of_kind(otherIndex, Index))
        self._merge_from(otherIndex, operator.index(add_id))

    def check_compatible_for_merge(self, otherIndex: Index) -> None:
        """Raise unless the other index could be merged into this one."""
        self._check_compatible_for_merge(of_kind(otherIndex, Index))

    def permute_entries(self, perm: Array) -> None:
        """Reorder the vectors: the i-th becomes the one that was at perm[i]."""
        expect(tuple(perm.shape) == (self.ntotal,), "expected a permutation of {}, got shape {}", self.ntotal, tuple(perm.shape))
        order = as_tensor(perm, torch.int64, self.device)[0]
        check(
            bool((order.sort().values == torch.arange(self.ntotal, device=order.device)).all()),
            "not a permutation of 0..{}",
            self.ntotal - 1,
        )
        self._permute_entries(order)

    def sa_code_size(self) -> int:
        """Bytes of a code that sa_encode gives."""
        return self._sa_code_size()

    def sa_encode(self, x: Array, codes: Array | None = None) -> Array:
        """Codes of vectors, without adding them."""
        batch = rows(x, self.d, self.device)
        check(self.is_trained, "{} must be trained before it can encode", type(self).__name__)
        return batch.give_back(self._sa_encode(batch.tensor), codes)

    def sa_decode(self, codes: Array, x: Array | None = None) -> Array:
        """Vectors of codes that sa_encode gave."""
        batch = self._codes_in(codes)
        return batch.give_back(self._sa_decode(batch.tensor), x)

    def add_sa_codes(self, codes: Array, ids: Array | None = None) -> None:
        """Add vectors that are already encoded."""
        batch = self._codes_in(codes)
        self._add_sa_codes(batch.tensor, None if ids is None else ids_in(ids, batch.tensor.shape[0], self.device))

    def get_distance_computer(self) -> Any:
        """Distances to single vectors, for a query set on it; unless the type has its own, those of L2 to reconstructed ones."""
        if self.metric_type != enums.METRIC_L2:
            self._refuse("get_distance_computer")
        return DistanceComputer(self)

    def display(self) -> None:
        """Print what the index is."""
        print(f"Index: {type(self).__name__}  -> {self.ntotal} elements")

    def getDevice(self) -> int:
        """The number of the GPU that the index is on, -1 for the CPU."""
        return int(self.__dict__["_gpu"])

    # -- helpers of the above -------------------------------------------------------------------------------------------------------

    def _codes_in(self, codes: Array) -> Batch:
        size = self._sa_code_size()
        expect(
            len(codes.shape) == 2 and codes.shape[1] == size, "expected codes of shape (n, {}), got {}", size, tuple(codes.shape)
        )
        if str(codes.dtype).rpartition(".")[2] != "uint8":
            raise TypeError(f"expected uint8 codes, got {codes.dtype}")
        return Batch(*as_tensor(codes, torch.uint8, self.device))

    def _no_vectors(self) -> Tensor:
        return torch.empty((0, self.d), dtype=torch.float32, device=self.device)

    @staticmethod
    def _one_out(answer: Tensor, out: Array | None) -> Array:
        if isinstance(out, Tensor):
            expect(out.shape == answer.shape, "expected an output of shape {}, got {}", tuple(answer.shape), tuple(out.shape))
            return out.copy_(answer)
        return Batch(answer, numpy_out).give_back(answer, out)

    def _refuse(self, what: str) -> NoReturn:
        raise FaissError(f"{what} is not implemented for {type(self).__name__}")

    def _lack(self, what: str) -> NoReturn:
        raise MethodError(f"{type(self).__name__} has no {what}")

    # -- hooks ----------------------------------------------------------------------------------------------------------------------

    def _train(self, x: Tensor) -> None:
        """Most indexes need no training."""

    def _train_with_queries(self, x: Tensor, queries: Tensor) -> None:
        self._train(x)

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._refuse("add")

    def _add_with_ids(self, x: Tensor, ids: Tensor) -> None:
        self._refuse("add_with_ids")

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        self._refuse("search")

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        self._refuse("range_search")

    def _assign(self, x: Tensor, k: int) -> Tensor:
        return self._search(x, k, None)[1]

    def _search_and_reconstruct(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        distances, labels = self._search(x, k, params)
        found = labels >= 0
        # FAISS fills the rows of missing results with NaN.
        vectors = torch.full((*labels.shape, self.d), float("nan"), dtype=torch.float32, device=x.device)
        if bool(found.any()):
            vectors[found] = self._reconstruct(labels[found])
        return distances, labels, vectors

    def _search_and_return_codes(
        self, x: Tensor, k: int, with_listno: bool, params: SearchParameters | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._lack("search_and_return_codes")

    def _search_subset(self, x: Tensor, base_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        self._refuse("search_subset")

    def _reconstruct(self, keys: Tensor) -> Tensor:
        self._refuse("reconstruct")

    def _reconstruct_one(self, key: int) -> Tensor:
        return self._reconstruct(torch.tensor([key], dtype=torch.int64, device=self.device))[0]

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._reconstruct(torch.arange(n0, n0 + ni, dtype=torch.int64, device=self.device))

    def _remove(self, sel: IDSelector) -> int:
        self._refuse("remove_ids")

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        self._lack("update_vectors")

    def _reset(self) -> None:
        self._refuse("reset")

    def _merge_from(self, other: Index, add_id: int) -> None:
        self._refuse("merge_from")

    def _check_compatible_for_merge(self, other: Index) -> None:
        self._refuse("check_compatible_for_merge")

    def _permute_entries(self, perm: Tensor) -> None:
        self._lack("permute_entries")

    def _sa_code_size(self) -> int:
        self._refuse("sa_code_size")

    def _sa_encode(self, x: Tensor) -> Tensor:
        self._refuse("sa_encode")

    def _sa_decode(self, codes: Tensor) -> Tensor:
        self._refuse("sa_decode")

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        self._refuse("add_sa_codes")


def check_keys(keys: Tensor, ntotal: int) -> Tensor:
    """`keys`, all within [0, ntotal)."""
    if keys.numel():
        low, high = torch.aminmax(keys)
        check_key(int(low) if int(low) < 0 else int(high), ntotal)
    return keys


def check_key(key: int, ntotal: int) -> None:
    """Raise unless there is a vector with this number."""
    check(0 <= key < ntotal, "no vector with id {}: there are {}", key, ntotal)


__all__ = ["Index"]
