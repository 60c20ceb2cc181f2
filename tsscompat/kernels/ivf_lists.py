"""Inverted lists as one arena: every list is a contiguous run of rows, with some room to grow behind it.

`Ragged` is how everything that reads lists sees them; `append` is how entries get in.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.records import record


@record
class Ragged:
    """List `l` is rows offsets[l] : offsets[l] + sizes[l] of `codes` and `ids`; other rows mean nothing."""

    codes: Tensor  # (rows, code_size) uint8
    ids: Tensor  # (rows,) int64
    offsets: Tensor  # (nlist,) int64
    sizes: Tensor  # (nlist,) int64
    # Whatever a twin keeps with these very tensors, so that it need not be made again for each search.
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def nlist(self) -> int:
        return self.offsets.shape[0]


def widest(lists: Ragged) -> int:
    """The size of the longest list; read from the device once for lists that do not change."""
    known: int | None = lists.kept.get("widest")
    if known is None:
        known = lists.kept["widest"] = int(lists.sizes.max()) if lists.nlist else 0
    return known


def runs(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The positions starts[i] : starts[i] + lengths[i] for every i in turn, and the i of each."""
    which = torch.repeat_interleave(lengths)  # (total,)
    before = torch.cumsum(lengths, 0) - lengths
    return (starts - before)[which] + torch.arange(which.shape[0], device=starts.device), which


def ranks(groups: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """How many earlier items share an item's group, and the size of every group."""
    order = torch.argsort(groups, stable=True)
    counts = torch.bincount(groups, minlength=n_groups)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(groups)
    rank[order] = torch.arange(groups.shape[0], device=groups.device) - first[groups[order]]
    return rank, counts


@accelerated
def append(lists: Ragged, rooms: Tensor, tail: Tensor, list_nos: Tensor, codes: Tensor, ids: Tensor, places: Tensor) -> int:
    """Add entries in order to their lists, in place; says how many were dealt with before room ran out.

    `rooms` is what each list can hold, tail[0] where the arena's unused tail begins; `places` receives each entry's position in its list,
    -1 for an entry of list -1, which is left out. A twin may move a full list to the tail; the definition stops there.
    """
    kept = (list_nos >= 0).nonzero().squeeze(1)
    where = list_nos[kept]
    rank, counts = ranks(where, lists.nlist)
    if bool((lists.sizes + counts > rooms).any()):
        return 0
    place = lists.sizes[where] + rank
    rows = lists.offsets[where] + place
    lists.codes[rows] = codes[kept]
    lists.ids[rows] = ids[kept]
    lists.sizes.add_(counts)
    places.fill_(-1)
    places[kept] = place
    return int(list_nos.shape[0])


def fill_holes(lists: Ragged, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How FAISS removes entries: each hole takes the last entry of its list that stays.

    `drop` is a bool per live row, in list order. Gives the rows to fill, the rows that fill them, and the new sizes.
    """
    rows, which = runs(lists.offsets, lists.sizes)
    position = rows - lists.offsets[which]
    gone = torch.zeros_like(lists.sizes).index_add_(0, which, drop.to(torch.int64))
    sizes = lists.sizes - gone
    inside = position < sizes[which]
    holes = (drop & inside).nonzero().squeeze(1)
    movers = (~drop & ~inside).nonzero().squeeze(1)
    # Holes go up while movers come down; both are in list order, and a list has as many of the one as of the other.
    rank, counts = ranks(which[movers], lists.nlist)
    first = torch.cumsum(counts, 0) - counts
    back = (first + counts - 1)[which[movers]] - rank
    return rows[holes], rows[movers[back]], sizes


@accelerated
def drop(lists: Ragged, names: Tensor) -> int:
    """Remove the entries of some ids (sorted), in place, each hole taking the last entry of its list that stays; says how many went."""
    rows, _ = runs(lists.offsets, lists.sizes)
    gone = torch.isin(lists.ids[rows], names)
    to, origin, sizes = fill_holes(lists, gone)
    lists.codes[to], lists.ids[to] = lists.codes[origin], lists.ids[origin]
    lists.sizes.copy_(sizes)
    return int(gone.sum())


@accelerated
def row_numbers(labels: Tensor, width: int) -> Tensor:
    """Labels of (list << 32 | position) as positions among all rows, where every list but the last has `width` rows; -1 stays."""
    return torch.where(labels >= 0, (labels >> 32) * width + (labels & 0xFFFFFFFF), -1)


def _places(sizes: Tensor, code_size: int) -> tuple[Tensor, Tensor]:
    """For each entry of the lists, written one after another, where the bytes of its code and those of its id begin."""
    width = code_size + 8
    begin = (torch.cumsum(sizes, 0) - sizes) * width
    which = torch.repeat_interleave(sizes)
    rank = torch.arange(which.shape[0], device=sizes.device) - (torch.cumsum(sizes, 0) - sizes)[which]
    return begin[which] + rank * code_size, begin[which] + sizes[which] * code_size + rank * 8


@accelerated
def packed(lists: Ragged) -> Tensor:
    """The bytes of the lists one after another, of each its codes and then its ids: how they stand in a file."""
    rows, _ = runs(lists.offsets, lists.sizes)
    n, code_size = rows.shape[0], lists.codes.shape[1]
    out = torch.empty(n * (code_size + 8), dtype=torch.uint8, device=rows.device)
    code_at, id_at = _places(lists.sizes, code_size)
    out[code_at[:, None] + torch.arange(code_size, device=rows.device)] = lists.codes[rows]
    out[id_at[:, None] + torch.arange(8, device=rows.device)] = lists.ids[rows].view(torch.uint8).view(n, 8)
    return out


@accelerated
def unpack(raw: Tensor, sizes: Tensor, codes: Tensor, ids: Tensor) -> None:
    """Fill `codes` and `ids`, in list order, from such bytes."""
    n, code_size = codes.shape
    code_at, id_at = _places(sizes, code_size)
    codes.copy_(raw[code_at[:, None] + torch.arange(code_size, device=raw.device)])
    ids.copy_(raw[id_at[:, None] + torch.arange(8, device=raw.device)].view(torch.int64).view(n))
