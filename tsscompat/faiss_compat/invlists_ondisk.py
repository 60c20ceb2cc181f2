"""Inverted lists in a file that is mapped into memory, in FAISS's layout.

The file holds, for each list, room for `capacity` codes and behind it for as many ids; what no list has is kept as slots, in order. A list
that outgrows its room moves to a slot of the next power of two. A search copies the lists that it probes, and no others; whatever wants all
lists at once (`_ragged`) copies them all.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import anything, boolean, integer, size_t, text
from tsscompat.faiss_compat.invlists import ArrayInvertedLists, InvertedLists, items
from tsscompat.faiss_compat.ondisk_table import OnDiskOneListVector, OnDiskSlot
from tsscompat.faiss_compat.vectors import ObjectVector
from tsscompat.kernels.ivf_lists import Ragged

# Lists move and the file grows one at a time.
_LOCK = threading.RLock()


class OnDiskInvertedLists(InvertedLists):
    """Lists in a file."""

    _caches = ("_all",)
    _at_hand = False

    filename = text("", "the file")
    totsize = size_t(0, "bytes of the file that are mapped")
    read_only = boolean(False)
    slots = anything(None, "what no list has, in order")
    locks = anything(None)
    pf = anything(None)
    prefetch_nthread = integer(32, "0: lists are not asked for ahead")

    def __init__(self, nlist: int = 0, code_size: int = 0, filename: str = "") -> None:
        super().__init__(nlist, code_size)
        self.filename = os.fspath(filename)
        self.slots = ObjectVector()
        self._lists = OnDiskOneListVector()
        self._lists.resize(nlist)
        self._index_file = ""  # where there is no file of their own: that of an index, which they stay in
        self._map: Tensor | None = None
        self._pages: mmap.mmap | None = None
        self._changes = 0

    # -- the file -----------------------------------------------------------------------------------------------------------------

    @property
    def lists(self) -> OnDiskOneListVector:
        return self._lists

    @property
    def ptr(self) -> Pointer | None:
        """The mapped bytes."""
        return None if self._map is None else Pointer(self._map)

    def _bytes(self) -> Tensor:
        if self._map is None:
            self.do_mmap()
        assert self._map is not None
        return self._map

    def do_mmap(self) -> None:
        """Map the file, or what totsize says of it."""
        name = self.filename or self._index_file
        check(not os.path.exists(name) or os.path.isfile(name), "{} is not a plain file", name)
        try:
            with open(name, "rb" if self.read_only else "r+b") as file:
                held = os.fstat(file.fileno()).st_size
                check(held >= self.totsize, "{} has {} bytes, expected {}", name, held, self.totsize)
                self._map_file(file.fileno(), self.totsize)
        except OSError as e:
            raise FaissError(f"could not open {name}: {e.strerror}") from None

    def _map_from(self, name: str, number: int) -> None:
        """Map an index's own open file."""
        self._index_file, self.totsize = name, os.fstat(number).st_size
        self._map_file(number, self.totsize)

    def _map_file(self, number: int, size: int) -> None:
        if size == 0:
            self._map = torch.empty(0, dtype=torch.uint8)
            return
        # A copy on write is what torch takes without the right to write.
        access = mmap.ACCESS_COPY if self.read_only else mmap.ACCESS_WRITE
        self._pages = mmap.mmap(number, size, access=access)
        self._map = torch.frombuffer(self._pages, dtype=torch.uint8)

    def update_totsize(self, new_totsize: int) -> None:
        """Make the file larger; what is new becomes a slot."""
        check(new_totsize >= self.totsize, "a file of {} bytes cannot shrink to {}", self.totsize, new_totsize)
        last = self.slots[-1] if len(self.slots) else None
        if last is not None and last.offset + last.capacity == self.totsize:
            last.capacity += new_totsize - self.totsize
        elif new_totsize > self.totsize:
            self.slots.push_back(OnDiskSlot(self.totsize, new_totsize - self.totsize))
        try:
            with open(self.filename, "wb" if self.totsize == 0 else "r+b") as file:
                file.truncate(new_totsize)
        except OSError as e:
            raise FaissError(f"could not make {self.filename} {new_totsize} bytes long: {e.strerror}") from None
        self.totsize = new_totsize
        self.do_mmap()

    def allocate_slot(self, capacity: int) -> int:
        """Take so many bytes of the first slot that has them, making the file larger if none does; gives where they begin."""
        if not any(slot.capacity >= capacity for slot in self.slots):
            wanted = 2 * self.totsize or 32
            while wanted - self.totsize < capacity:
                wanted *= 2
            self.update_totsize(wanted)
        slot = next(slot for slot in self.slots if slot.capacity >= capacity)
        begin: int = slot.offset
        if slot.capacity == capacity:
            self.slots.items.remove(slot)
        else:
            slot.offset, slot.capacity = begin + capacity, slot.capacity - capacity
        return begin

    def free_slot(self, offset: int, capacity: int) -> None:
        """Give bytes back, joined with the slots on both sides."""
        if capacity == 0:
            return
        held = self.slots.items
        at = next((i for i, slot in enumerate(held) if slot.offset > offset), len(held))
        end = offset + capacity
        check(at == 0 or held[at - 1].offset + held[at - 1].capacity <= offset, "bytes {} to {} are free already", offset, end)
        check(at == len(held) or end <= held[at].offset, "bytes {} to {} are free already", offset, end)
        if at < len(held) and held[at].offset == end:
            capacity += held.pop(at).capacity
        if at and held[at - 1].offset + held[at - 1].capacity == offset:
            held[at - 1].capacity += capacity
        else:
            held.insert(at, OnDiskSlot(offset, capacity))

    # -- reading --------------------------------------------------------------------------------------------------------------------

    def _entries(self, list_no: int) -> tuple[Tensor, Tensor]:
        """The codes and ids of a list, in the file's own memory."""
        check(0 <= list_no < self.nlist, "list {} does not exist, there are {}", list_no, self.nlist)
        size, capacity, begin = self._lists.table[list_no].tolist()
        if size == 0:
            return torch.empty(0, self.code_size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        held, middle = self._bytes(), begin + capacity * self.code_size
        codes = held[begin : begin + size * self.code_size].view(size, self.code_size)
        raw = held[middle : middle + 8 * size]
        # Torch views no bytes as int64 that do not begin at a multiple of 8.
        return codes, (raw if middle % 8 == 0 else raw.clone()).view(torch.int64)

    def _loaded(self, list_nos: Tensor) -> ArrayInvertedLists:
        """The lists named, copied to memory; the others are empty."""
        names = list_nos[list_nos >= 0].unique().cpu()
        sizes = torch.zeros(self.nlist, dtype=torch.int64)
        sizes[names] = self._lists.table[names, 0]
        total = int(sizes.sum())
        codes, ids, row = torch.empty(total, self.code_size, dtype=torch.uint8), torch.empty(total, dtype=torch.int64), 0
        for name in names.tolist():
            some_codes, some_ids = self._entries(name)
            stop = row + some_ids.shape[0]
            codes[row:stop], ids[row:stop] = some_codes, some_ids
            row = stop
        made = ArrayInvertedLists(self.nlist, self.code_size)
        made.to(self.device)
        made._load(sizes, codes, ids)
        return made

    def _ragged(self) -> Ragged:
        kept: tuple[int, Ragged] | None = self.__dict__["_all"]
        if kept is None or kept[0] != self._changes:
            kept = self._all = self._changes, self._loaded(torch.arange(self.nlist))._ragged()
        return kept[1]

    def _stamp(self) -> tuple[Any, ...]:
        return self._changes, self._changes

    def list_size(self, list_no: int) -> int:
        check(0 <= list_no < self.nlist, "list {} does not exist, there are {}", list_no, self.nlist)
        return int(self._lists.table[list_no, 0])

    def get_codes(self, list_no: int) -> Pointer:
        return Pointer(self._entries(list_no)[0])

    def get_ids(self, list_no: int) -> Pointer:
        return Pointer(self._entries(list_no)[1])

    def compute_ntotal(self) -> int:
        return int(self._lists.table[:, 0].sum())

    def prefetch_lists(self, list_nos: Any, nlist: int = 0) -> None:
        """Ask the system to read lists that will be wanted soon."""
        names = items(list_nos, torch.int64, nlist, torch.device("cpu"))
        if self.prefetch_nthread <= 0 or not hasattr(mmap.mmap, "madvise"):
            return
        self._bytes()
        for name in names[(names >= 0) & (names < self.nlist)].tolist():
            _, capacity, begin = self._lists.table[name].tolist()
            if capacity and self._pages is not None:
                start = begin // mmap.PAGESIZE * mmap.PAGESIZE
                self._pages.madvise(mmap.MADV_WILLNEED, start, begin - start + capacity * (self.code_size + 8))

    # -- writing --------------------------------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        check(not self.read_only, "cannot modify a read-only OnDiskInvertedLists")

    def _put(self, list_no: int, offset: int, codes: Tensor, ids: Tensor) -> None:
        """Write entries of a list, which has them."""
        _, capacity, begin = self._lists.table[list_no].tolist()
        held, at, n = self._bytes(), begin + offset * self.code_size, ids.shape[0]
        held[at : at + n * self.code_size] = codes.reshape(-1)
        at = begin + capacity * self.code_size + 8 * offset
        held[at : at + 8 * n] = ids.contiguous().view(torch.uint8)
        self._changes += 1

    def resize(self, list_no: int, new_size: int) -> None:
        """Cut a list, or make it longer, by entries that mean nothing yet."""
        self._check_writable()
        with _LOCK:
            self.resize_locked(list_no, new_size)

    def resize_locked(self, list_no: int, new_size: int) -> None:
        """The same, for a caller who lets no other in."""
        size, capacity, begin = self._lists.table[list_no].tolist()
        self._changes += 1
        if capacity // 2 < new_size <= capacity:
            self._lists.table[list_no, 0] = new_size
            return
        kept = tuple(t[:new_size].clone() for t in self._entries(list_no)) if min(size, new_size) else None
        self.free_slot(begin, capacity)
        room = 1 << (new_size - 1).bit_length() if new_size else 0
        place = self.allocate_slot(room * (self.code_size + 8)) if new_size else -1
        self._lists.table[list_no] = torch.tensor([new_size, room, place])
        if kept is not None:
            self._put(list_no, 0, *kept)

    def _append(self, list_nos: Tensor, codes: Tensor, ids: Tensor) -> Tensor:
        self._check_writable()
        list_nos, codes, ids = list_nos.cpu(), codes.cpu(), ids.cpu()
        places = torch.full_like(list_nos, -1)
        order = list_nos.argsort(stable=True)
        names, counts = list_nos[order].unique_consecutive(return_counts=True)
        with _LOCK:
            for name, rows in zip(names.tolist(), order.split(counts.tolist())):
                if name < 0:
                    continue
                size, n = int(self._lists.table[name, 0]), rows.shape[0]
                self.resize_locked(name, size + n)
                self._put(name, size, codes[rows], ids[rows])
                places[rows] = torch.arange(size, size + n)
        return places.to(self.device)

    def update_entries(self, list_no: int, offset: int, n_entry: int, ids: Any, code: Any) -> None:
        self._check_writable()
        size = self.list_size(list_no)
        check(offset >= 0 and offset + n_entry <= size, "list {} has no entries {} to {}", list_no, offset, offset + n_entry)
        here = torch.device("cpu")
        codes = items(code, torch.uint8, n_entry * self.code_size, here)
        self._put(list_no, offset, codes, items(ids, torch.int64, n_entry, here))

    def _set_rows(self, rows: Tensor, codes: Tensor, ids: Tensor) -> None:
        self._check_writable()
        begins = self._ragged().offsets.cpu()
        for row, code, name in zip(rows.tolist(), codes.cpu(), ids.cpu()):
            list_no = int(torch.searchsorted(begins, row, right=True)) - 1
            self._put(list_no, row - int(begins[list_no]), code, name[None])

    def _set_sizes(self, sizes: Tensor) -> None:
        self._check_writable()
        with _LOCK:
            for list_no in (sizes.cpu() != self._lists.table[:, 0]).nonzero()[:, 0].tolist():
                self.resize_locked(list_no, int(sizes[list_no]))

    def set_all_lists_sizes(self, sizes: Any) -> None:
        """Say that the file holds lists of these sizes one after another."""
        counts = items(sizes, torch.int64, self.nlist, torch.device("cpu"))
        begins = (counts.cumsum(0) - counts) * (self.code_size + 8)
        self._lists.table = torch.stack([counts, counts, begins], 1)
        self._changes += 1

    def merge_from_multiple(self, ils: Any, n_il: int, shift_ids: bool = False, verbose: bool = False) -> int:
        """Copy other lists here, one after another and without room; `shift_ids` makes their ids go on from each other's number."""
        check(self.totsize == 0, "works only on an empty InvertedLists")
        sources: list[InvertedLists] = list(ils)[:n_il]
        for source in sources:
            check(source.nlist == self.nlist and source.code_size == self.code_size, "the lists differ in number or code size")
        sizes = torch.stack([_sizes(source) for source in sources])  # (n_il, nlist)
        self.set_all_lists_sizes(sizes.sum(0))
        total = int(sizes.sum())
        self.update_totsize(total * (self.code_size + 8))
        self.slots.clear()
        at = torch.zeros(self.nlist, dtype=torch.int64)
        shift = 0
        for source, counts in zip(sources, sizes):
            for list_no in counts.nonzero()[:, 0].tolist():
                n = int(counts[list_no])
                codes, ids = source.get_codes(list_no).tensor, source.get_ids(list_no).tensor
                self._put(list_no, int(at[list_no]), codes.cpu()[: n * self.code_size], ids.cpu() + shift)
            at += counts
            shift += int(counts.sum()) if shift_ids else 0
            if verbose:
                print(f"merged {int(at.sum())} of {total} entries")
        return total

    def merge_from_1(self, il: InvertedLists, verbose: bool = False) -> int:
        """Copy other lists here."""
        return self.merge_from_multiple([il], 1, False, verbose)

    def crop_invlists(self, l0: int, l1: int) -> None:
        """Keep the lists l0 to l1 only; the file stays as it is."""
        check(0 <= l0 <= l1 <= self.nlist, "lists {} to {} of {}", l0, l1, self.nlist)
        self._lists.table, self.nlist = self._lists.table[l0:l1].clone(), l1 - l0
        self._changes += 1

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDiskInvertedLists:
        # Two that write to one file would overwrite each other's entries.
        twin = super().__deepcopy__(memo)
        twin.read_only = True
        return twin

    def _held_state(self) -> dict[str, Any]:
        # A mapping is made again where it is wanted.
        return {name: None if name in ("_map", "_pages") else value for name, value in super()._held_state().items()}


def _sizes(lists: InvertedLists) -> Tensor:
    return lists._lists.table[:, 0] if isinstance(lists, OnDiskInvertedLists) else lists._ragged().sizes.cpu()


__all__ = ["OnDiskInvertedLists"]
