"""Tables of what a walk of a graph has met."""

from __future__ import annotations

from typing import Any

import torch

from tsscompat.faiss_compat.attributes import Stated


class VisitedTable(Stated):
    """Flags that are all taken back at once."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        self._met = torch.zeros(size, dtype=torch.bool)

    @staticmethod
    def create(size: int, use_hashset: Any = None) -> VisitedTable:
        """A table of a size."""
        return VisitedTableVector(size)

    def ensure_size(self, size: int) -> None:
        """Make room for numbers below a size."""
        more = size - self._met.shape[0]
        if more > 0:
            self._met = torch.cat([self._met, torch.zeros(more, dtype=torch.bool)])

    def reserve(self, n: int) -> None:
        """Nothing to do: a table has all its room."""

    def set(self, no: int) -> bool:
        """Set a flag; whether that changed it."""
        changed = not bool(self._met[no])
        self._met[no] = True
        return changed

    def get(self, no: int) -> bool:
        """Whether a flag is set."""
        return bool(self._met[no])

    def prefetch(self, no: int) -> None:
        """Nothing to do."""

    def advance(self) -> None:
        """Take all flags back."""
        self._met.zero_()


class VisitedTableVector(VisitedTable):
    """A flag for each number."""


class VisitedTableSet(VisitedTable):
    """FAISS's for few numbers of many; room is made as they come."""

    def set(self, no: int) -> bool:
        self.ensure_size(no + 1)
        return super().set(no)

    def get(self, no: int) -> bool:
        return no < self._met.shape[0] and super().get(no)

    def advance(self) -> None:
        self._met = self._met[:0]


__all__ = ["VisitedTable", "VisitedTableSet", "VisitedTableVector"]
