"""Inverted lists: the arena that indexes write to, and what every kind of list can do.

A kind of list gives `_ragged()`, by which everything reads it, and, when it can be written, `_append`, `_replace` and `_set_sizes`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.arrays import as_tensor
from tsscompat.devices import Placement, carried
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, boolean, size_t
from tsscompat.faiss_compat.vectors import Int64Vector, ObjectVector, UInt8Vector, Vector
from tsscompat.kernels.entries import Coder, enter
from tsscompat.kernels.ivf_lists import Ragged, append, drop


def items(source: Any, dtype: torch.dtype, n: int, device: torch.device) -> Tensor:
    """The first n items of an array or of what swig_ptr gave."""
    if isinstance(source, (Pointer, Vector)):
        flat = source.tensor.view(dtype) if source.tensor.dtype != dtype else source.tensor
        return flat[:n].to(device)
    if isinstance(source, (bytes, bytearray)):
        return torch.frombuffer(bytearray(source), dtype=dtype)[:n].to(device)
    return as_tensor(source, dtype, device)[0].reshape(-1)[:n]


class InvertedLists(Stated):
    """Lists of (id, code) entries, one for each cell of a coarse quantizer."""

    INVALID_CODE_SIZE = (1 << 64) - 1
    SUBSET_TYPE_ID_RANGE, SUBSET_TYPE_ID_MOD, SUBSET_TYPE_ELEMENT_RANGE, SUBSET_TYPE_INVLIST_FRACTION, SUBSET_TYPE_INVLIST = (
        range(5)
    )

    _at_hand = True  # whether a search may read any list; else it asks for those that it probes with _loaded()
    _streamed = False  # or has them brought to its device block by block

    nlist = size_t(0, "number of lists")
    code_size = size_t(0, "bytes in a code")
    use_iterator = boolean(False, "read through iterators (FAISS's own lists only)")

    def __init__(self, nlist: int = 0, code_size: int = 0) -> None:
        super().__init__()
        self.nlist, self.code_size = nlist, code_size

    # -- hooks -------------------------------------------------------------------------------------------------------------------

    def _ragged(self) -> Ragged:
        """The lists as the kernels read them."""
        raise FaissError(f"{type(self).__name__} cannot be read")

    def _append(self, list_nos: Tensor, codes: Tensor, ids: Tensor) -> Tensor:
        """Add an entry for each row, in order; gives the position of each in its list (-1 where list_nos is -1)."""
        raise FaissError(f"{type(self).__name__}: not implemented: these lists are read-only")

    def _set_rows(self, rows: Tensor, codes: Tensor, ids: Tensor) -> None:
        """Overwrite rows of the arena."""
        raise FaissError(f"{type(self).__name__}: not implemented: these lists are read-only")

    def _set_sizes(self, sizes: Tensor) -> None:
        """Cut every list to a size."""
        raise FaissError(f"{type(self).__name__}: not implemented: these lists are read-only")

    def _stamp(self) -> tuple[Any, ...]:
        """Changes whenever the content does; its first item only when rows that were there were rewritten, or lie in other memory.

        A list that has no room left may go to another place all the same: see ragged.newcomers.
        """
        raise FaissError(f"{type(self).__name__} cannot be read")

    # -- what readers of files and other modules use -----------------------------------------------------------------------------

    def _dump(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sizes, codes and ids in list order."""
        return ragged.in_list_order(self._ragged())

    def _rows(self, list_nos: Tensor, offsets: Tensor) -> Tensor:
        """The arena's rows of entries, which must exist."""
        lists = self._ragged()
        inside = (list_nos >= 0) & (list_nos < self.nlist)
        inside &= (offsets >= 0) & (offsets < lists.sizes[torch.where(inside, list_nos, 0)])
        check(bool(inside.all()), "there is no such entry in the lists: list number or offset out of range")
        return lists.offsets[list_nos] + offsets

    def _row(self, list_no: int, offset: int) -> int:
        """The same for one entry."""
        rows = self._list_rows(list_no)
        check(0 <= offset < rows.stop - rows.start, "list {} has no entry {}", list_no, offset)
        return rows.start + offset

    def _codes_of(self, rows: Tensor) -> Tensor:
        """The codes in rows of the arena, on the device of `rows`."""
        return self._ragged().codes[rows]

    def _ids_of(self, rows: Tensor) -> Tensor:
        """The ids in rows of the arena, on the device of `rows`."""
        return self._ragged().ids[rows]

    def _list_rows(self, list_no: int) -> slice:
        check(0 <= list_no < self.nlist, "list {} does not exist, there are {}", list_no, self.nlist)
        lists = self._ragged()
        start = int(lists.offsets[list_no])
        return slice(start, start + int(lists.sizes[list_no]))

    # -- FAISS's methods ---------------------------------------------------------------------------------------------------------

    def list_size(self, list_no: int) -> int:
        """How many entries a list has."""
        check(0 <= list_no < self.nlist, "list {} does not exist, there are {}", list_no, self.nlist)
        return int(self._ragged().sizes[list_no])

    def is_empty(self, list_no: int, inverted_list_context: Any = None) -> bool:
        """Whether a list has no entries."""
        return self.list_size(list_no) == 0

    def get_codes(self, list_no: int) -> Pointer:
        """The codes of a list, one after another."""
        return Pointer(self._ragged().codes[self._list_rows(list_no)])

    def get_ids(self, list_no: int) -> Pointer:
        """The ids of a list."""
        return Pointer(self._ragged().ids[self._list_rows(list_no)])

    def get_single_id(self, list_no: int, offset: int) -> int:
        """The id of one entry."""
        return int(self._ragged().ids[self._row(list_no, offset)])

    def get_single_code(self, list_no: int, offset: int) -> Pointer:
        """The code of one entry."""
        return Pointer(self._ragged().codes[self._row(list_no, offset)])

    def release_codes(self, list_no: int, codes: Any) -> None:
        """Nothing to do: memory is Python's."""

    def release_ids(self, list_no: int, ids: Any) -> None:
        """Nothing to do: memory is Python's."""

    def prefetch_lists(self, list_nos: Any, nlist: int = 0) -> None:
        """Nothing to do: the lists are in memory."""

    def add_entry(self, list_no: int, theid: int, code: Any, inverted_list_context: Any = None) -> int:
        """Add one entry; gives its offset in the list."""
        return self.add_entries(list_no, 1, torch.tensor([theid]), code)

    def add_entries(self, list_no: int, n_entry: int, ids: Any, code: Any) -> int:
        """Add entries to one list; gives the offset of the first."""
        if n_entry == 0:
            return 0
        check(0 <= list_no < self.nlist, "list {} does not exist, there are {}", list_no, self.nlist)
        codes = items(code, torch.uint8, n_entry * self.code_size, self.device).reshape(n_entry, self.code_size)
        list_nos = torch.full((n_entry,), list_no, device=self.device)
        return int(self._append(list_nos, codes, items(ids, torch.int64, n_entry, self.device))[0])

    def update_entry(self, list_no: int, offset: int, id: int, code: Any) -> None:
        """Overwrite one entry."""
        self.update_entries(list_no, offset, 1, torch.tensor([id]), code)

    def update_entries(self, list_no: int, offset: int, n_entry: int, ids: Any, code: Any) -> None:
        """Overwrite entries of one list."""
        rows = self._list_rows(list_no)
        check(
            offset >= 0 and rows.start + offset + n_entry <= rows.stop,
            "list {} has no entries {} to {}",
            list_no,
            offset,
            offset + n_entry,
        )
        codes = items(code, torch.uint8, n_entry * self.code_size, self.device).reshape(n_entry, self.code_size)
        wanted = torch.arange(n_entry, device=self.device) + (rows.start + offset)
        self._set_rows(wanted, codes, items(ids, torch.int64, n_entry, self.device))

    def resize(self, list_no: int, new_size: int) -> None:
        """Cut a list, or fill it up with zeros."""
        size = self.list_size(list_no)
        if new_size <= size:
            sizes = self._ragged().sizes.clone()
            sizes[list_no] = new_size
            self._set_sizes(sizes)
        else:
            n = new_size - size
            codes = torch.zeros(n, self.code_size, dtype=torch.uint8, device=self.device)
            zeros = torch.zeros(n, dtype=torch.int64, device=self.device)
            self._append(zeros + list_no, codes, zeros)

    def reset(self) -> None:
        """Empty every list."""
        self._set_sizes(torch.zeros(self.nlist, dtype=torch.int64, device=self.device))

    def merge_from(self, oivf: InvertedLists, add_id: int = 0) -> None:
        """Move all entries of other lists here, adding to their ids."""
        check(self.nlist == oivf.nlist, "expected {} lists, got {}", self.nlist, oivf.nlist)
        sizes, codes, ids = oivf._dump()
        self._append(torch.repeat_interleave(sizes).to(self.device), codes.to(self.device), (ids + add_id).to(self.device))
        oivf.reset()

    def _subset(self, subset_type: int, a1: int, a2: int) -> Tensor:
        """Which entries, in list order, FAISS's kinds of subset have."""
        lists = self._ragged()
        rows, which = ragged.live(lists)
        ids, sizes = lists.ids[rows], lists.sizes
        position = rows - lists.offsets[which]
        if subset_type == self.SUBSET_TYPE_ID_RANGE:
            return (ids >= a1) & (ids < a2)
        if subset_type == self.SUBSET_TYPE_ID_MOD:
            return torch.fmod(ids, a1) == a2
        if subset_type == self.SUBSET_TYPE_INVLIST_FRACTION:
            return (position >= (sizes * a2 // a1)[which]) & (position < (sizes * (a2 + 1) // a1)[which])
        if subset_type == self.SUBSET_TYPE_INVLIST:
            return (which >= a1) & (which < a2)
        total = max(rows.shape[0], 1)
        ends = torch.cumsum(sizes, 0)
        ends1, ends2 = ends * a1 // total, ends * a2 // total
        first = ends1 - torch.cat([ends1.new_zeros(1), ends1[:-1]])
        last = ends2 - torch.cat([ends2.new_zeros(1), ends2[:-1]])
        return (position >= first[which]) & (position < last[which])

    def copy_subset_to(self, other: InvertedLists, subset_type: int, a1: int, a2: int) -> int:
        """Copy a subset of the entries to other lists; says how many."""
        check(self.nlist == other.nlist and self.code_size == other.code_size, "the lists differ in number or code size")
        check(0 <= subset_type <= 4, "subset type {} not implemented", subset_type)
        wanted = self._subset(subset_type, a1, a2)
        lists = self._ragged()
        rows, which = ragged.live(lists)
        rows, which = rows[wanted], which[wanted]
        other._append(which.to(other.device), lists.codes[rows].to(other.device), lists.ids[rows].to(other.device))
        return int(rows.shape[0])

    def imbalance_factor(self) -> float:
        """1 for lists of equal sizes, more the less equal they are."""
        sizes = self._ragged().sizes.to(torch.float64)
        total = float(sizes.sum())
        return float((sizes * sizes).sum()) * self.nlist / (total * total) if total else float("nan")

    def print_stats(self) -> None:
        """Print how many lists there are of each order of size."""
        for power in range(40):
            low = 0 if power == 0 else 1 << (power - 1)
            sizes = self._ragged().sizes
            n = int(((sizes >= low) & (sizes < (1 << power))).sum())
            if n:
                print(f"list size in < {1 << power}: {n} instances")

    def compute_ntotal(self) -> int:
        """How many entries all lists have together."""
        return int(self._ragged().sizes.sum())


class PerList:
    """ArrayInvertedLists.codes and .ids: a vector for each list."""

    def __init__(self, lists: InvertedLists, kind: type[Vector]) -> None:
        self._lists, self._kind = lists, kind

    def size(self) -> int:
        return self._lists.nlist

    def at(self, list_no: int) -> Vector:
        read = self._lists.get_codes if self._kind is UInt8Vector else self._lists.get_ids
        return self._kind(read(list_no).tensor)

    __len__, __getitem__ = size, at


class ArrayInvertedLists(InvertedLists):
    """Lists in memory."""

    _caches: tuple[str, ...] = ("_lists",)
    _lists: Any

    def __init__(self, nlist: int = 0, code_size: int = 0) -> None:
        super().__init__(nlist, code_size)
        self._moves = self._changes = 0
        self._take(ragged.empty(nlist, code_size, self.device), 0)

    def _take(self, lists: Ragged, used: int, rooms: Tensor | None = None) -> None:
        """Make these tensors the arena."""
        self._codes, self._ids, self._offsets, self._sizes = lists.codes, lists.ids, lists.offsets, lists.sizes
        self._rooms = self._sizes.clone() if rooms is None else rooms
        self._tail = torch.tensor([used], device=lists.ids.device)  # where it begins
        self._lists = None
        self._moves += 1
        self._changes += 1

    def _load(self, sizes: Tensor, codes: Tensor, ids: Tensor) -> None:
        """Become lists of these sizes, whose entries are given in list order."""
        self.nlist, self.code_size = sizes.shape[0], codes.shape[1]
        sizes = sizes.to(self.device, torch.int64).clone()
        offsets = torch.cumsum(sizes, 0) - sizes
        self._take(Ragged(codes.to(self.device), ids.to(self.device), offsets, sizes), ids.shape[0])

    def _ragged(self) -> Ragged:
        lists: Ragged | None = self._lists
        if lists is None or lists.codes.shape[1] != self.code_size or lists.nlist != self.nlist:
            if self._codes.shape[1] != self.code_size or self._offsets.shape[0] != self.nlist:
                # FAISS's constructors set the code size after making the lists.
                check(int(self._sizes.sum()) == 0, "the code size of lists that hold entries cannot change")
                self._take(ragged.empty(self.nlist, self.code_size, self.device), 0)
            lists = self._lists = Ragged(self._codes, self._ids, self._offsets, self._sizes)
        return lists

    def _stamp(self) -> tuple[Any, ...]:
        return self._moves, self._changes

    def _move(self, where: Placement) -> None:
        super()._move(where)
        at = where.device
        moved = Ragged(carried(self._codes, at), carried(self._ids, at), self._offsets.to(at), self._sizes.to(at))
        self._take(moved, int(self._tail[0]), self._rooms.to(where.device))

    def _make_room(self, counts: Tensor) -> None:
        """Lay the arena out anew so that each list can take `counts` more entries."""
        old = self._ragged()
        rooms = ragged.grown_rooms(old.sizes + counts)
        offsets, used, total = ragged.layout(rooms)
        codes = old.codes.new_empty(total, self.code_size)
        ids = old.ids.new_empty(total)
        source, which = ragged.live(old)
        target = source + (offsets - old.offsets)[which]
        if source.shape[0]:
            # Rows are gathered, those of unused room from anywhere: torch gathers whole rows ten times faster than it scatters them.
            origin = torch.zeros(used, dtype=torch.int64, device=self.device)
            origin[target] = source
            torch.index_select(old.codes, 0, origin, out=codes[:used])
            torch.index_select(old.ids, 0, origin, out=ids[:used])
        self._take(Ragged(codes, ids, offsets, old.sizes), used, rooms)

    def _append(self, list_nos: Tensor, codes: Tensor, ids: Tensor) -> Tensor:
        lists, n = self._ragged(), list_nos.shape[0]
        places = torch.empty_like(list_nos)
        # A few entries go where there is room, and full lists move to the tail; for many, room is made at once.
        done = append(lists, self._rooms, self._tail, list_nos, codes, ids, places) if n * 16 <= self._ids.shape[0] else 0
        if done < n:
            left = list_nos[done:]
            self._make_room(torch.bincount(left[left >= 0], minlength=self.nlist))
            append(self._ragged(), self._rooms, self._tail, left, codes[done:], ids[done:], places[done:])
        self._changes += 1
        self._ragged().kept.pop("widest", None)
        return places

    def _enter(self, x: Any, names: Any, coder: Coder, centers: Tensor, metric: int, residual: bool, places: Any) -> int:
        """Put vectors of an array into the lists of their nearest centers; says how many there was room for, and their places."""
        lists = self._ragged()
        if lists.codes.shape[1] != coder.code_size or lists.nlist < centers.shape[0]:
            return 0
        done = enter(x, names, coder, centers, metric, residual, lists, self._rooms, self._tail, places)
        self._changes += 1
        lists.kept.pop("widest", None)
        return done

    def _set_rows(self, rows: Tensor, codes: Tensor, ids: Tensor) -> None:
        self._codes[rows] = codes
        self._ids[rows] = ids
        self._moves += 1
        self._changes += 1

    def _drop_named(self, names: Tensor) -> int:
        """Remove the entries of some ids, given in ascending order, as FAISS does; says how many went."""
        n = drop(self._ragged(), names)
        self._set_sizes(self._sizes)
        return n

    def _set_sizes(self, sizes: Tensor) -> None:
        self._ragged()
        self._sizes.copy_(sizes)
        self._ragged().kept.pop("widest", None)
        self._moves += 1
        self._changes += 1
        if not bool(self._sizes.any()):
            self._take(ragged.empty(self.nlist, self.code_size, self.device), 0)

    def permute_invlists(self, map: Any) -> None:
        """Make list map[i] list i, for every i."""
        self._ragged()
        order = items(map, torch.int64, self.nlist, self.device)
        check(
            bool((order.sort().values == torch.arange(self.nlist, device=self.device)).all()),
            "expected a permutation of {} lists",
            self.nlist,
        )
        lists = Ragged(self._codes, self._ids, self._offsets[order], self._sizes[order])
        self._take(lists, int(self._tail[0]), self._rooms[order])

    @property
    def codes(self) -> Any:
        return PerList(self, UInt8Vector)

    @property
    def ids(self) -> Any:
        return PerList(self, Int64Vector)


class InvertedListsPtrVector(ObjectVector):
    """std::vector of pointers to inverted lists."""


__all__ = ["ArrayInvertedLists", "InvertedLists", "InvertedListsPtrVector"]
