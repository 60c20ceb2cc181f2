"""Inverted lists that stay in the host's memory while the index that they belong to is on a GPU.

Changes are made on the host. A search brings the lists that it probes to the GPU block by block (`ivf_streamed.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.ragged import Ragged, runs
from tsscompat.devices import CPU, Placement, pinned
from tsscompat.faiss_compat.invlists import ArrayInvertedLists


class HostInvertedLists(ArrayInvertedLists):
    """Lists in the host's memory, for an index on a GPU."""

    _at_hand = False
    _streamed = True

    def __init__(self, nlist: int = 0, code_size: int = 0) -> None:
        super().__init__(nlist, code_size)
        super()._move(Placement(CPU))

    @classmethod
    def holding(cls, lists: ArrayInvertedLists) -> HostInvertedLists:
        """A copy of lists, wherever these are."""
        made = cls(lists.nlist, lists.code_size)
        made._load(*(t.to(CPU, copy=True) for t in lists._dump()))
        return made

    def resident(self) -> ArrayInvertedLists:
        """A copy as ordinary lists, on the CPU."""
        return self._loaded(torch.arange(self.nlist))

    def _move(self, where: Placement) -> None:
        """They stay where they are."""

    def _fetched(self) -> Ragged:
        """The lists, pinned so that a GPU can fetch them."""
        lists = self._ragged()
        pinned(lists.codes)
        return lists

    def _append(self, list_nos: Tensor, codes: Tensor, ids: Tensor) -> Tensor:
        return super()._append(list_nos.cpu(), codes.cpu(), ids.cpu()).to(list_nos.device)

    def _set_rows(self, rows: Tensor, codes: Tensor, ids: Tensor) -> None:
        super()._set_rows(rows.cpu(), codes.cpu(), ids.cpu())

    def _rows(self, list_nos: Tensor, offsets: Tensor) -> Tensor:
        return super()._rows(list_nos.cpu(), offsets.cpu()).to(list_nos.device)

    def _codes_of(self, rows: Tensor) -> Tensor:
        return super()._codes_of(rows.cpu()).to(rows.device)

    def _ids_of(self, rows: Tensor) -> Tensor:
        return super()._ids_of(rows.cpu()).to(rows.device)

    def _loaded(self, list_nos: Tensor) -> ArrayInvertedLists:
        """The lists named, as ordinary lists on the device of the names; the others are empty."""
        names, lists = list_nos[list_nos >= 0].unique().cpu(), self._ragged()
        rows, _ = runs(lists.offsets[names], lists.sizes[names])
        sizes = torch.zeros_like(lists.sizes)
        sizes[names] = lists.sizes[names]
        made = ArrayInvertedLists(self.nlist, self.code_size)
        made._move(Placement(list_nos.device))
        made._load(sizes, lists.codes[rows], lists.ids[rows])
        return made


__all__: list[str] = []
