"""BlockInvertedLists: lists whose codes lie in blocks of some vectors, laid out by a packer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.algorithms.packed import packed_lists
from tsscompat.devices import Placement
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import anything, size_t
from tsscompat.faiss_compat.invlists import InvertedLists, PerList, items
from tsscompat.faiss_compat.packers import CodePacker, CodePackerFlat
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.faiss_compat.vectors import AlignedTableUint8, Int64Vector
from tsscompat.kernels.ivf_lists import Ragged, ranks, runs


class BlockInvertedLists(InvertedLists):
    """Lists in blocks in memory: an arena of blocks in which every list begins with a block and has some room to grow."""

    _caches = ("_lists",)
    _lists: Any

    n_per_block = size_t(0, "vectors in a block")
    block_size = size_t(0, "bytes of a block")
    packer = anything(None, "lays out the codes of a block")

    def __init__(self, nlist: int = 0, vec_per_block: int | CodePacker = 0, block_size: int = 0) -> None:
        super().__init__(nlist, self.INVALID_CODE_SIZE)
        if isinstance(vec_per_block, CodePacker):
            self.packer = packer = vec_per_block
            self.n_per_block, self.block_size = packer.nvec, packer.block_size
        else:
            self.n_per_block, self.block_size = vec_per_block, block_size
        self._moves = self._changes = 0
        self._clear()

    def _clear(self) -> None:
        empty = torch.zeros(self.nlist, dtype=torch.int64, device=self.device)
        none = torch.zeros(0, self.block_size, dtype=torch.uint8, device=self.device)
        self._take(none, empty[:0], empty, empty.clone(), empty.clone())

    def _take(self, blocks: Tensor, ids: Tensor, offsets: Tensor, sizes: Tensor, rooms: Tensor) -> None:
        """Make these tensors the arena; offsets, sizes and rooms count vectors."""
        self._blocks, self._ids, self._offsets, self._sizes, self._rooms = blocks, ids, offsets, sizes, rooms
        self._lists = None
        self._moves += 1
        self._changes += 1

    def _rounded(self, counts: Tensor) -> Tensor:
        """Counts of vectors, filled up to whole blocks."""
        return (counts + self.n_per_block - 1) // self.n_per_block * self.n_per_block

    def _load(self, sizes: Tensor, blocks: Tensor, ids: Tensor) -> None:
        """Become lists of these sizes; their blocks (n, block_size) and ids are given list after list."""
        self.nlist = sizes.shape[0]
        sizes = sizes.to(self.device, torch.int64).clone()
        rooms = self._rounded(sizes)
        offsets = torch.cumsum(rooms, 0) - rooms
        held = torch.zeros(blocks.shape[0] * self.n_per_block, dtype=torch.int64, device=self.device)
        held[runs(offsets, sizes)[0]] = ids.to(self.device)
        self._take(blocks.to(self.device), held, offsets, sizes, rooms)

    def _stored(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sizes, blocks and ids, list after list with neither room nor gaps."""
        blocks, _ = runs(self._offsets // self.n_per_block, self._rounded(self._sizes) // self.n_per_block)
        rows, _ = ragged.live(self._ragged())
        return self._sizes, self._blocks[blocks], self._ids[rows]

    def _packer(self) -> CodePacker:
        check(self.packer is not None, "missing code packer")
        packer: CodePacker = self.packer
        return packer

    def _ragged(self) -> Ragged:
        lists: Ragged | None = self._lists
        if lists is None or lists.codes.packer is not self.packer:  # type: ignore[attr-defined]
            # Without a packer, as after reading a file of nothing but lists, only ids can be read.
            packer = self.packer or CodePackerFlat(self.block_size)
            lists = self._lists = packed_lists(self._blocks, packer, self._ids, self._offsets, self._sizes)
        return lists

    def _stamp(self) -> tuple[Any, ...]:
        return self._moves, self._changes

    def _move(self, where: Placement) -> None:
        super()._move(where)
        held = (self._blocks, self._ids, self._offsets, self._sizes, self._rooms)
        self._take(*(tensor.to(where.device) for tensor in held))

    def _make_room(self, counts: Tensor) -> None:
        """Lay the arena out anew so that each list can take `counts` more entries, and half a block and an eighth besides."""
        wanted = self._sizes + counts
        rooms = self._rounded(torch.where(wanted > 0, wanted + (wanted >> 3) + self.n_per_block // 2, 0))
        offsets = torch.cumsum(rooms, 0) - rooms
        n = int(rooms.sum())
        blocks = torch.zeros(n // self.n_per_block, self.block_size, dtype=torch.uint8, device=self.device)
        ids = torch.zeros(n, dtype=torch.int64, device=self.device)
        used = self._rounded(self._sizes)
        source, which = runs(self._offsets, used)
        ids[source + (offsets - self._offsets)[which]] = self._ids[source]
        source, which = runs(self._offsets // self.n_per_block, used // self.n_per_block)
        blocks[source + ((offsets - self._offsets) // self.n_per_block)[which]] = self._blocks[source]
        self._take(blocks, ids, offsets, self._sizes, rooms)

    def _append(self, list_nos: Tensor, codes: Tensor, ids: Tensor) -> Tensor:
        places = torch.full_like(list_nos, -1)
        kept = (list_nos >= 0).nonzero()[:, 0]
        where = list_nos[kept]
        rank, counts = ranks(where, self.nlist)
        if bool((self._sizes + counts > self._rooms).any()):
            self._make_room(counts)
        place = self._sizes[where] + rank
        rows = self._offsets[where] + place
        self._packer()._put(self._blocks, rows, codes[kept])
        self._ids[rows] = ids[kept]
        self._sizes.add_(counts)
        places[kept] = place
        self._changes += 1
        return places

    def _set_rows(self, rows: Tensor, codes: Tensor, ids: Tensor) -> None:
        self._packer()._put(self._blocks, rows, codes)
        self._ids[rows] = ids
        self._moves += 1
        self._changes += 1

    def _set_sizes(self, sizes: Tensor) -> None:
        self._sizes.copy_(sizes)
        self._moves += 1
        self._changes += 1
        if not bool(self._sizes.any()):
            self._clear()

    # -- FAISS's methods: codes go in and out as blocks ----------------------------------------------------------------------------

    def get_codes(self, list_no: int) -> Pointer:
        """The blocks of a list."""
        rows = self._list_rows(list_no)
        first, n = rows.start // self.n_per_block, -(-(rows.stop - rows.start) // self.n_per_block)
        return Pointer(self._blocks[first : first + n])

    def add_entries(self, list_no: int, n_entry: int, ids: Any, code: Any) -> int:
        """Add entries, given in blocks, to one list; gives the offset of the first."""
        if n_entry == 0:
            return 0
        check(0 <= list_no < self.nlist, "list {} does not exist, there are {}", list_no, self.nlist)
        packer, n_blocks = self._packer(), -(-n_entry // self.n_per_block)
        blocks = items(code, torch.uint8, n_blocks * self.block_size, self.device).view(n_blocks, self.block_size)
        codes = packer._take(blocks, torch.arange(n_entry, device=self.device))
        list_nos = torch.full((n_entry,), list_no, device=self.device)
        return int(self._append(list_nos, codes, items(ids, torch.int64, n_entry, self.device))[0])

    def update_entries(self, list_no: int, offset: int, n_entry: int, ids: Any, code: Any) -> None:
        raise FaissError("update_entries is not implemented for BlockInvertedLists")

    def resize(self, list_no: int, new_size: int) -> None:
        size = self.list_size(list_no)
        if new_size > size:
            n = new_size - size
            codes = torch.zeros(n, self._packer().code_size, dtype=torch.uint8, device=self.device)
            zeros = torch.zeros(n, dtype=torch.int64, device=self.device)
            self._append(zeros + list_no, codes, zeros)
        else:
            super().resize(list_no, new_size)

    def remove_ids(self, sel: IDSelector) -> int:
        """Remove entries, whose places the last ones of their lists take; returns how many went."""
        lists = self._ragged()
        rows, _ = ragged.live(lists)
        drop = sel._mask(lists.ids[rows])
        to, origin, sizes = ragged.fill_holes(lists, drop)
        self._set_rows(to, lists.codes[origin], lists.ids[origin])
        self._set_sizes(sizes)
        return int(drop.sum())

    @property
    def codes(self) -> PerList:
        return PerList(self, AlignedTableUint8)

    @property
    def ids(self) -> PerList:
        return PerList(self, Int64Vector)


__all__ = ["BlockInvertedLists"]
