"""Where the lists of an OnDiskInvertedLists are in its file, and what no list has."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.faiss_compat.attributes import Stated, size_t

# What FAISS writes as the beginning of a list that has no room.
NOWHERE = (1 << 64) - 1


class OnDiskOneList(Stated):
    """Where a list is: entries, entries that there is room for, and the byte where it begins."""

    def __init__(self, row: Tensor | None = None) -> None:
        super().__init__()
        self._row = torch.tensor([0, 0, -1]) if row is None else row

    def _get(self, place: int) -> int:
        return int(self._row[place]) & NOWHERE

    def _set(self, place: int, value: int) -> None:
        self._row[place] = value - (1 << 64) if value >= 1 << 63 else value

    size = property(lambda self: self._get(0), lambda self, value: self._set(0, value))
    capacity = property(lambda self: self._get(1), lambda self, value: self._set(1, value))
    offset = property(lambda self: self._get(2), lambda self, value: self._set(2, value))


class OnDiskOneListVector:
    """std::vector of OnDiskOneList: rows of a table."""

    def __init__(self, table: Tensor | None = None) -> None:
        self.table = torch.empty(0, 3, dtype=torch.int64) if table is None else table

    def size(self) -> int:
        return self.table.shape[0]

    def at(self, n: int) -> OnDiskOneList:
        if not 0 <= n < self.size():
            raise IndexError(f"index {n} of a vector of {self.size()}")
        return OnDiskOneList(self.table[n])

    def push_back(self, v: OnDiskOneList) -> None:
        self.table = torch.cat([self.table, v._row[None]])

    def resize(self, n: int) -> None:
        """Cut to n lists, or fill up with empty ones."""
        fresh = torch.tensor([0, 0, -1]).expand(max(0, n - self.size()), 3)
        self.table = torch.cat([self.table[:n], fresh])

    def clear(self) -> None:
        self.resize(0)

    __len__, __getitem__ = size, at


class OnDiskSlot(Stated):
    """Bytes of the file that no list has."""

    offset = size_t(0, "where they begin")
    capacity = size_t(0, "how many")

    def __init__(self, offset: int = 0, capacity: int = 0) -> None:
        super().__init__()
        self.offset, self.capacity = offset, capacity


__all__ = ["OnDiskOneList", "OnDiskOneListVector", "OnDiskSlot"]
