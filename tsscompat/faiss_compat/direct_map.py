"""DirectMap: from an id to its place in the inverted lists.

A place is FAISS's "LO": list number << 32 | offset in the list.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.devices import CPU, Placement
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, anything, enum, vector
from tsscompat.faiss_compat.invlists import ArrayInvertedLists, InvertedLists
from tsscompat.faiss_compat.selectors import GivenIds, IDSelector, IDSelectorArray
from tsscompat.faiss_compat.vectors import Int64Vector

_LOW = 0xFFFFFFFF


def lo_build(list_id: int, offset: int) -> int:
    """The place of an entry as one number."""
    return list_id << 32 | offset


def lo_listno(lo: int) -> int:
    """The list of a place."""
    return lo >> 32


def lo_offset(lo: int) -> int:
    """Where in its list a place is."""
    return lo & _LOW


class _Edit:
    """Lists being changed one entry at a time: the content of those touched, as row numbers, or -1 - i for the i-th new entry."""

    def __init__(self, invlists: InvertedLists) -> None:
        self._lists, self._invlists = invlists._ragged(), invlists
        self.rows: dict[int, list[int]] = {}
        self.ids: dict[int, list[int]] = {}

    def open(self, list_no: int) -> tuple[list[int], list[int]]:
        if list_no not in self.rows:
            rows = self._invlists._list_rows(list_no)
            self.rows[list_no] = list(range(rows.start, rows.stop))
            self.ids[list_no] = self._lists.ids[rows].tolist()
        return self.rows[list_no], self.ids[list_no]

    def close(self, new_codes: Tensor) -> None:
        """Write the lists that were touched."""
        if not self.rows:
            return
        lists, device = self._lists, self._lists.ids.device
        touched = torch.tensor(list(self.rows), device=device)
        lengths = torch.tensor([len(r) for r in self.rows.values()], device=device)
        rows = torch.tensor([r for content in self.rows.values() for r in content], dtype=torch.int64, device=device)
        ids = torch.tensor([i for content in self.ids.values() for i in content], dtype=torch.int64, device=device)
        codes = new_codes.new_empty(rows.shape[0], lists.codes.shape[1])
        codes[rows >= 0] = lists.codes[rows[rows >= 0]]
        codes[rows < 0] = new_codes[-1 - rows[rows < 0]]
        sizes = lists.sizes.clone()
        sizes[touched] = 0
        self._invlists._set_sizes(sizes)
        self._invlists._append(torch.repeat_interleave(touched, lengths), codes, ids)


class DirectMap(Stated):
    """Where each id is: not known, in an array of sequential ids, or in a hash table."""

    NoMap, Array, Hashtable, DMT_count = range(4)

    type = enum(int, 0, "one of NoMap, Array, Hashtable")
    array = vector(Int64Vector, "the place of each sequential id, -1 for none")
    hashtable = anything(None, "a dict from id to place")

    def __init__(self) -> None:
        super().__init__()
        self.hashtable = {}

    def _move(self, where: Placement) -> None:
        # The map is read and written one id at a time, by code on the CPU.
        super()._move(Placement(CPU))
        self.array._move(Placement(CPU))

    def no(self) -> bool:
        """Whether there is no map."""
        return bool(self.type == self.NoMap)

    def clear(self) -> None:
        """Forget all places."""
        self.array.clear()
        self.hashtable.clear()

    def set_type(self, new_type: int, invlists: InvertedLists, ntotal: int) -> None:
        """Make a map of a kind for what the lists hold."""
        check(new_type in (self.NoMap, self.Array, self.Hashtable), "unknown kind of direct map {}", new_type)
        if new_type == self.type:
            return
        self.clear()
        if new_type != self.NoMap:
            lists = invlists._ragged()
            rows, which = ragged.live(lists)
            places = (which << 32 | (rows - lists.offsets[which])).cpu()
            ids = lists.ids[rows].cpu()
            if new_type == self.Hashtable:
                self.hashtable.update(zip(ids.tolist(), places.tolist()))
            else:
                check(bool(((ids >= 0) & (ids < ntotal)).all()), "direct map supported only for sequential ids")
                array = torch.full((ntotal,), -1, dtype=torch.int64)
                array[ids] = places
                self.array.tensor = array
        self.type = new_type

    def get(self, id: int) -> int:
        """The place of an id."""
        if self.type != self.Array:
            return int(self._get(torch.tensor([id]))[0])
        array = self.array
        check(0 <= id < len(array), "invalid key: ids go from 0 to {}", len(array) - 1)
        place = int(array.at(id))
        check(place >= 0, "-1 entry in direct_map: a vector that belongs to no list")
        return place

    def _get(self, ids: Tensor) -> Tensor:
        """The places of ids, all of which must be known."""
        check(not self.no(), "direct map not initialized")
        wanted = ids.cpu()
        if self.type == self.Array:
            array = self.array.tensor
            check(bool(((wanted >= 0) & (wanted < array.shape[0])).all()), "invalid key: ids go from 0 to {}", array.shape[0] - 1)
            places = array[wanted]
            check(bool((places >= 0).all()), "-1 entry in direct_map: a vector that belongs to no list")
            return places.to(ids.device)
        try:
            return torch.tensor([self.hashtable[i] for i in wanted.tolist()], dtype=torch.int64, device=ids.device)
        except KeyError as missing:
            check(False, "key not found: {}", missing.args[0])
            raise

    def check_can_add(self, ids: Any) -> None:
        """Raise where ids of the caller's cannot be mapped."""
        check(self.type != self.Array or ids is None, "cannot have array direct map and add with ids")

    def add_single_id(self, id: int, list_no: int, offset: int) -> None:
        """Note one new entry."""
        place = list_no << 32 | offset if list_no >= 0 else -1
        if self.type == self.Array:
            self.array.push_back(place)
        elif self.type == self.Hashtable and list_no >= 0:
            self.hashtable[id] = place

    def _added(self, ids: Tensor, list_nos: Tensor, offsets: Tensor) -> None:
        """Note new entries."""
        if self.no():
            return
        places = torch.where(list_nos >= 0, list_nos << 32 | offsets, -1).cpu()
        if self.type == self.Array:
            self.array.append(places)
        else:
            self.hashtable.update(zip(ids.tolist(), places.tolist()))

    def _noted(self, names: np.ndarray[Any, Any], places: np.ndarray[Any, Any]) -> None:
        """The same for entries whose places are known."""
        if self.type == self.Array:
            room, at = self.array.extended(places.shape[0])
            room[at : at + places.shape[0]] = places
            self.array._n = at + places.shape[0]
        else:
            self.hashtable.update(zip(names.tolist(), places.tolist()))

    def remove_ids(self, sel: IDSelector, invlists: InvertedLists) -> int:
        """Remove entries from the lists as FAISS does: the last entry of a list takes a removed one's place."""
        if self.type == self.Hashtable:
            return self._remove_known(sel, invlists)
        check(self.no(), "remove not supported with this direct_map format")
        known = sel._known()
        if known is not None and isinstance(invlists, ArrayInvertedLists) and invlists.device.type == "cpu":
            return invlists._drop_named(known)
        lists = invlists._ragged()
        rows, _ = ragged.live(lists)
        drop = sel._mask(lists.ids[rows])
        n = int(drop.sum())
        if n:
            to, origin, sizes = ragged.fill_holes(lists, drop)
            invlists._set_rows(to, lists.codes[origin], lists.ids[origin])
            invlists._set_sizes(sizes)
        return n

    def _remove_known(self, sel: IDSelector, invlists: InvertedLists) -> int:
        check(isinstance(sel, (IDSelectorArray, GivenIds)), "remove with hashtable works only with IDSelectorArray")
        edit, n = _Edit(invlists), 0
        for id in cast(IDSelectorArray, sel)._ids.tolist():
            place = self.hashtable.pop(id, None)
            if place is None or place < 0:
                continue
            n += 1
            list_no, offset = place >> 32, place & _LOW
            rows, ids = edit.open(list_no)
            last_row, last_id = rows.pop(), ids.pop()
            if offset < len(rows):
                rows[offset], ids[offset] = last_row, last_id
                self.hashtable[last_id] = place
        edit.close(invlists._ragged().codes)
        return n

    def update_codes(self, invlists: InvertedLists, n: int, ids: Tensor, list_nos: Tensor, codes: Tensor) -> None:
        """Give ids new lists and codes: each leaves its place to the last entry of its list and goes to the end of the new one."""
        check(self.type == self.Array, "vectors can be updated with an array direct map only")
        edit, array = _Edit(invlists), self.array.tensor
        places = array.tolist()
        for i, (id, list_no) in enumerate(zip(ids.tolist(), list_nos.tolist())):
            check(0 <= id < len(places), "id to update out of range: {} of {}", id, len(places))
            place = places[id]
            rows, members = edit.open(place >> 32)
            last_row, last_id = rows.pop(), members.pop()
            if (place & _LOW) < len(rows):
                rows[place & _LOW], members[place & _LOW] = last_row, last_id
                places[last_id] = place
            rows, members = edit.open(list_no)
            places[id] = list_no << 32 | len(rows)
            rows.append(-1 - i)
            members.append(id)
        edit.close(codes)
        array.copy_(torch.tensor(places, dtype=torch.int64))


__all__ = ["DirectMap", "lo_build", "lo_listno", "lo_offset"]
