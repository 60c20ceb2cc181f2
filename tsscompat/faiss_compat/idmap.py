"""IndexIDMap: ids of the caller's over an index that numbers its vectors itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import Array
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Declared, Stated, boolean, child, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.params import SearchParameters, selector_of
from tsscompat.faiss_compat.selectors import IDSelector, IDSelectorTranslated
from tsscompat.faiss_compat.vectors import Int64Vector


def with_selector(params: SearchParameters, sel: IDSelector | None) -> SearchParameters:
    """The same parameters with another selector."""
    twin = type(params).__new__(type(params))
    twin.__dict__.update(params.__dict__)
    twin.sel = sel
    return twin


class IDMapped(Stated):
    """What id maps over indexes of vectors and of binary codes share."""

    verbose: Any
    is_trained: Any
    ntotal: Any

    index = child(None, "the index underneath")
    own_fields = boolean(False)
    id_map = vector(Int64Vector, "the id of each vector")

    def _over(self, index: Any) -> None:
        """Take on the index underneath."""
        check(index.ntotal == 0, "index must be empty on input")
        self.index, self.is_trained, self.verbose = index, index.is_trained, index.verbose
        self.__dict__["_device"], self.__dict__["_gpu"] = index.device, index.getDevice()
        self.id_map._buffer = self.id_map._buffer.to(index.device)

    def _train(self, x: Tensor) -> None:
        self.index._train(x)
        self.is_trained = self.index.is_trained

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        check(False, "add does not make sense with {}, use add_with_ids", type(self).__name__)

    def _add_with_ids(self, x: Tensor, ids: Tensor) -> None:
        self.index._add(x, None)
        self._named(ids)

    def _named(self, ids: Tensor) -> None:
        """Note the ids of vectors that were just added."""
        self.id_map.append(ids)
        self.ntotal = self.index.ntotal

    def _named_array(self, ids: Array) -> None:
        """The same for ids in an array."""
        room, at = self.id_map.extended(ids.shape[0])
        room[at : at + ids.shape[0]] = ids
        self.id_map._n = at + ids.shape[0]
        self.ntotal = self.index.ntotal

    def _names_in_array(self, labels: Array) -> Array:
        """The ids of vectors by number, both in arrays."""
        n = self.id_map._n
        if not n:
            return np.full_like(labels, -1)
        names = self.id_map.array[:n].take(labels, mode="clip")
        names[(labels < 0) | (labels >= n)] = -1
        return names

    def _sa_code_size(self) -> int:
        return int(self.index._sa_code_size())

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        check(ids is not None, "{} takes codes with their ids", type(self).__name__)
        assert ids is not None
        self.index._add_sa_codes(codes, None)
        self._named(ids)

    def _below(self, params: SearchParameters | None) -> SearchParameters | None:
        """Parameters for the index underneath: a selector of ids becomes one of its numbers."""
        sel = selector_of(params)
        if params is None or sel is None or isinstance(sel, IDSelectorTranslated):
            return params
        return with_selector(params, IDSelectorTranslated(self.id_map.tensor, sel))

    def _names(self, labels: Tensor) -> Tensor:
        """The ids of vectors by number."""
        if self.id_map.size() == 0:
            return torch.full_like(labels, -1)
        known = (labels >= 0) & (labels < self.id_map.size())
        return torch.where(known, self.id_map.tensor[torch.where(known, labels, 0)], -1)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        distances, labels = self.index._search(x, k, self._below(params))
        return distances, self._names(labels)

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        lims, distances, labels = self.index._range_search(x, radius, self._below(params))
        return lims, distances, self._names(labels)

    def _search_and_reconstruct(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        distances, labels, vectors = self.index._search_and_reconstruct(x, k, self._below(params))
        return distances, self._names(labels), vectors

    def _reset(self) -> None:
        self.index._reset()
        self.id_map.clear()
        self.ntotal = 0

    def _remove(self, sel: IDSelector) -> int:
        ids = self.id_map.tensor
        positions = _Positions(sel._mask(ids))
        removed, places = self.index._remove(positions), positions._numbers(ids.shape[0], ids.device)
        self.id_map.remove(places)
        n = places.shape[0]
        check(removed == n, "{} vectors were removed where {} have such ids", removed, n)
        self.ntotal = self.index.ntotal
        return int(removed)

    def _check_compatible_for_merge(self, other: Any) -> None:
        check(type(other) is type(self), "cannot merge a {} into a {}", type(other).__name__, type(self).__name__)
        self.index._check_compatible_for_merge(other.index)

    def _merge_from(self, other: Any, add_id: int) -> None:
        self.index._merge_from(other.index, 0)
        self._named(other.id_map.tensor + add_id)
        other.id_map.clear()
        other.ntotal = 0


class _Positions(IDSelector):
    """Positions that a mask marks; inverted lists, which are not renumbered, may hold some beyond it."""

    def __init__(self, marked: Tensor) -> None:
        super().__init__()
        self._marked = marked

    def _known(self) -> Tensor | None:
        return self._marked.nonzero().squeeze(1)

    def _mask(self, ids: Tensor) -> Tensor:
        known = ids < self._marked.shape[0]
        return known if not self._marked.shape[0] else known & self._marked[torch.where(known, ids, 0)]


class ReverseMapped(IDMapped):
    """An id map that also finds a vector by its id."""

    rev_map = Declared(dict, lambda value, name: value, "from id to number")

    def construct_rev_map(self) -> None:
        """Make the map from ids to numbers."""
        self.rev_map = dict(zip(self.id_map.tensor.tolist(), range(self.id_map.size())))

    def check_consistency(self) -> None:
        """Raise unless the two maps agree."""
        check(
            len(self.rev_map) == self.id_map.size() == self.ntotal,
            "the maps have {} and {} entries",
            len(self.rev_map),
            self.id_map.size(),
        )
        for number, id in enumerate(self.id_map.tensor.tolist()):
            check(self.rev_map.get(id) == number, "id {} is not at {}", id, number)

    def _named(self, ids: Tensor) -> None:
        start = self.id_map.size()
        super()._named(ids)
        self.rev_map.update(zip(ids.tolist(), range(start, start + ids.shape[0])))

    def _named_array(self, ids: Array) -> None:
        start = self.id_map._n
        super()._named_array(ids)
        self.rev_map.update(zip(ids.tolist(), range(start, start + ids.shape[0])))

    def _number(self, key: int) -> int:
        number = self.rev_map.get(key)
        check(number is not None, "key {} not found", key)
        return int(number)

    def _reset(self) -> None:
        super()._reset()
        self.rev_map.clear()

    def _remove(self, sel: IDSelector) -> int:
        removed = super()._remove(sel)
        self.construct_rev_map()
        return removed

    def _merge_from(self, other: Any, add_id: int) -> None:
        super()._merge_from(other, add_id)
        other.rev_map.clear()

    def _reconstruct(self, keys: Tensor) -> Tensor:
        numbers = [self._number(key) for key in keys.tolist()]
        found: Tensor = self.index._reconstruct(torch.tensor(numbers, dtype=torch.int64, device=keys.device))
        return found


class IndexIDMap(IDMapped, Index):
    """An index whose vectors have ids of the caller's."""

    def __init__(self, index: Index | None = None) -> None:
        super().__init__(0 if index is None else index.d, METRIC_L2 if index is None else index.metric_type)
        if index is not None:
            self._over(index)
            self.metric_arg = index.metric_arg

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        index = self.index
        if ids is None or not index.is_trained or not index._add_few(x, None):
            return False
        self._named_array(ids)
        return True

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        found = self.index._search_arrays(x, k)
        return None if found is None else (found[0], self._names_in_array(found[1]))

    def _sa_encode(self, x: Tensor) -> Tensor:
        codes: Tensor = self.index._sa_encode(x)
        return codes

    def _sa_decode(self, codes: Tensor) -> Tensor:
        x: Tensor = self.index._sa_decode(codes)
        return x


class IndexIDMap2(ReverseMapped, IndexIDMap):
    """An IndexIDMap that also finds a vector by its id."""

    def _reconstruct_array(self, key: int) -> Array | None:
        found: Array | None = self.index._reconstruct_array(self._number(key))
        return found


__all__ = ["IndexIDMap", "IndexIDMap2"]
