"""Read-only views of inverted lists: slices, stacks, masks and caps of other lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import child, int64, size_t, vector
from tsscompat.faiss_compat.invlists import InvertedLists
from tsscompat.faiss_compat.vectors import Int64Vector, ObjectVector
from tsscompat.kernels.ivf_lists import Ragged


class ReadOnlyInvertedLists(InvertedLists):
    """Lists that cannot be written."""

    def add_entries(self, list_no: int, n_entry: int, ids: Any, code: Any) -> int:
        raise FaissError(f"{type(self).__name__}: not implemented: these lists are read-only")

    def update_entries(self, list_no: int, offset: int, n_entry: int, ids: Any, code: Any) -> None:
        raise FaissError(f"{type(self).__name__}: not implemented: these lists are read-only")

    def resize(self, list_no: int, new_size: int) -> None:
        raise FaissError(f"{type(self).__name__}: not implemented: these lists are read-only")


class _View(InvertedLists):
    """Lists made from other lists; made again when those have changed."""

    _caches = ("_made",)
    _made: Any

    def _sources(self) -> list[InvertedLists]:
        raise NotImplementedError

    def _make(self, parts: list[Ragged]) -> Ragged:
        raise NotImplementedError

    def _stamp(self) -> tuple[Any, ...]:
        stamp = tuple(source._stamp() for source in self._sources())
        return (stamp, stamp)

    def _ragged(self) -> Ragged:
        stamp = (self._stamp(), self._settings())
        if self._made is None or self._made[0] != stamp:
            self._made = (stamp, self._make([source._ragged() for source in self._sources()]))
        made: Ragged = self._made[1]
        return made

    def _settings(self) -> tuple[Any, ...]:
        """The view's own numbers, which a caller may change."""
        return ()


class SliceInvertedLists(_View, ReadOnlyInvertedLists):
    """Lists i0 to i1 of other lists."""

    il = child(None)
    i0 = int64(0)
    i1 = int64(0)

    def __init__(self, il: InvertedLists, i0: int, i1: int) -> None:
        super().__init__(i1 - i0, il.code_size)
        self.il, self.i0, self.i1 = il, i0, i1

    def _sources(self) -> list[InvertedLists]:
        return [self.il]

    def _settings(self) -> tuple[Any, ...]:
        return (self.i0, self.i1)

    def _make(self, parts: list[Ragged]) -> Ragged:
        lists = parts[0]
        return Ragged(lists.codes, lists.ids, lists.offsets[self.i0 : self.i1], lists.sizes[self.i0 : self.i1])


def _pointers(n: int, lists: Any) -> list[InvertedLists]:
    items: Iterable[InvertedLists] = lists
    found = list(items)[:n]
    check(n > 0 and len(found) == n, "expected {} inverted lists, got {}", n, len(found))
    return found


class VStackInvertedLists(_View, ReadOnlyInvertedLists):
    """The lists of several InvertedLists one after another."""

    ils = child(ObjectVector)
    cumsz = vector(Int64Vector)

    def __init__(self, n_il: int, ils: Any) -> None:
        found = _pointers(n_il, ils)
        super().__init__(sum(il.nlist for il in found), found[0].code_size)
        check(all(il.code_size == self.code_size for il in found), "the lists differ in code size")
        self.ils = ObjectVector(found)
        self.cumsz = torch.tensor([0, *(il.nlist for il in found)]).cumsum(0)

    def _sources(self) -> list[InvertedLists]:
        return list(self.ils)

    def _make(self, parts: list[Ragged]) -> Ragged:
        return ragged.stacked(parts)


class HStackInvertedLists(_View, ReadOnlyInvertedLists):
    """Each list is the lists of that number of several InvertedLists, joined (a copy, made when first read)."""

    ils = child(ObjectVector)

    def __init__(self, n_il: int, ils: Any) -> None:
        found = _pointers(n_il, ils)
        super().__init__(found[0].nlist, found[0].code_size)
        same = all(il.code_size == self.code_size and il.nlist == self.nlist for il in found)
        check(same, "the lists differ in number or code size")
        self.ils = ObjectVector(found)

    def _sources(self) -> list[InvertedLists]:
        return list(self.ils)

    def _make(self, parts: list[Ragged]) -> Ragged:
        return ragged.joined(parts)


ConcatenatedInvertedLists = HStackInvertedLists


class MaskedInvertedLists(_View, ReadOnlyInvertedLists):
    """The lists of il0 where they have entries, else those of il1."""

    il0 = child(None)
    il1 = child(None)

    def __init__(self, il0: InvertedLists, il1: InvertedLists) -> None:
        super().__init__(il0.nlist, il0.code_size)
        check(il1.nlist == il0.nlist and il1.code_size == il0.code_size, "the lists differ in number or code size")
        self.il0, self.il1 = il0, il1

    def _sources(self) -> list[InvertedLists]:
        return [self.il0, self.il1]

    def _make(self, parts: list[Ragged]) -> Ragged:
        both = ragged.stacked(parts)
        numbers = torch.arange(self.nlist, device=both.sizes.device)
        chosen = torch.where(both.sizes[: self.nlist] > 0, numbers, numbers + self.nlist)
        return Ragged(both.codes, both.ids, both.offsets[chosen], both.sizes[chosen])


class StopWordsInvertedLists(_View, ReadOnlyInvertedLists):
    """Other lists, those of maxsize entries and more left empty."""

    il0 = child(None)
    maxsize = size_t(0)

    def __init__(self, il: InvertedLists, maxsize: int) -> None:
        super().__init__(il.nlist, il.code_size)
        self.il0, self.maxsize = il, maxsize

    def _sources(self) -> list[InvertedLists]:
        return [self.il0]

    def _settings(self) -> tuple[Any, ...]:
        return (self.maxsize,)

    def _make(self, parts: list[Ragged]) -> Ragged:
        lists = parts[0]
        return Ragged(lists.codes, lists.ids, lists.offsets, torch.where(lists.sizes < self.maxsize, lists.sizes, 0))


class CappedInvertedLists(_View):
    """The first maxsize entries of other lists; what is written goes to those."""

    il0 = child(None)
    maxsize = size_t(0)

    def __init__(self, il: InvertedLists, maxsize: int) -> None:
        super().__init__(il.nlist, il.code_size)
        self.il0, self.maxsize = il, maxsize

    def real_list_size(self, list_no: int) -> int:
        """How many entries the list behind has."""
        return int(self.il0.list_size(list_no))

    def _sources(self) -> list[InvertedLists]:
        return [self.il0]

    def _settings(self) -> tuple[Any, ...]:
        return (self.maxsize,)

    def _make(self, parts: list[Ragged]) -> Ragged:
        lists = parts[0]
        return Ragged(lists.codes, lists.ids, lists.offsets, lists.sizes.clamp(max=self.maxsize))

    def _append(self, list_nos: Tensor, codes: Tensor, ids: Tensor) -> Tensor:
        appended: Tensor = self.il0._append(list_nos, codes, ids)
        return appended

    def _set_rows(self, rows: Tensor, codes: Tensor, ids: Tensor) -> None:
        self.il0._set_rows(rows, codes, ids)

    def resize(self, list_no: int, new_size: int) -> None:
        self.il0.resize(list_no, new_size)

    def _set_sizes(self, sizes: Tensor) -> None:
        self.il0._set_sizes(sizes)


__all__ = [
    "CappedInvertedLists",
    "ConcatenatedInvertedLists",
    "HStackInvertedLists",
    "MaskedInvertedLists",
    "ReadOnlyInvertedLists",
    "SliceInvertedLists",
    "StopWordsInvertedLists",
    "VStackInvertedLists",
]
