"""Arenas of inverted lists: building, growing, thinning out and combining them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged, packed, ranks, runs, unpack

__all__ = [
    "Ragged",
    "empty",
    "fill_holes",
    "grown_rooms",
    "in_list_order",
    "joined",
    "layout",
    "live",
    "packed",
    "ranks",
    "runs",
    "stacked",
    "unpack",
]


def empty(nlist: int, code_size: int, device: torch.device) -> Ragged:
    """Lists with nothing in them."""
    zero = torch.zeros(nlist, dtype=torch.int64, device=device)
    return Ragged(torch.empty(0, code_size, dtype=torch.uint8, device=device), zero.new_empty(0), zero, zero.clone())


def live(lists: Ragged) -> tuple[Tensor, Tensor]:
    """The rows that hold entries, in list order, and the list of each."""
    return runs(lists.offsets, lists.sizes)


def in_list_order(lists: Ragged) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes, codes and ids with neither room nor gaps: the shape in which lists are written to a file."""
    rows, _ = live(lists)
    total = rows.shape[0]
    # Codes in blocks are no tensor, and are always taken out.
    as_they_lie = isinstance(lists.codes, Tensor) and total == lists.ids.shape[0]
    if as_they_lie and bool((rows == torch.arange(total, device=rows.device)).all()):
        return lists.sizes, lists.codes, lists.ids
    return lists.sizes, lists.codes[rows], lists.ids[rows]


def grown_rooms(sizes: Tensor) -> Tensor:
    """Room for each list: an eighth more than it holds, so that growing one entry at a time copies each entry about 8 times in all."""
    return sizes + (sizes >> 3)


def layout(rooms: Tensor) -> tuple[Tensor, int, int]:
    """Where each list starts, where the unused tail starts, and how many rows the arena needs with that tail."""
    ends = torch.cumsum(rooms, 0)
    used = int(ends[-1]) if rooms.shape[0] else 0
    return ends - rooms, used, used + (used >> 4) + 64


def fill_holes(lists: Ragged, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How FAISS removes entries: each hole takes the last entry of its list that stays.

    `drop` is a bool per live row, in list order. Gives the rows to fill, the rows that fill them, and the new sizes.
    """
    rows, which = live(lists)
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


def stacked(parts: Sequence[Ragged]) -> Ragged:
    """The lists of several arenas one after another."""
    first = parts[0]
    if all(p.codes.data_ptr() == first.codes.data_ptr() and p.codes.shape == first.codes.shape for p in parts):
        return Ragged(first.codes, first.ids, torch.cat([p.offsets for p in parts]), torch.cat([p.sizes for p in parts]))
    shifts = [0]
    for p in parts:
        shifts.append(shifts[-1] + p.ids.shape[0])
    return Ragged(
        torch.cat([p.codes for p in parts]),
        torch.cat([p.ids for p in parts]),
        torch.cat([p.offsets + shift for p, shift in zip(parts, shifts)]),
        torch.cat([p.sizes for p in parts]),
    )


def joined(parts: Sequence[Ragged]) -> Ragged:
    """Lists made of the lists of the same number in several arenas."""
    held = [live(p) for p in parts]
    order = torch.argsort(torch.cat([which for _, which in held]), stable=True)
    codes = torch.cat([p.codes[rows] for p, (rows, _) in zip(parts, held)])[order]
    ids = torch.cat([p.ids[rows] for p, (rows, _) in zip(parts, held)])[order]
    sizes = torch.stack([p.sizes for p in parts]).sum(0)
    return Ragged(codes, ids, torch.cumsum(sizes, 0) - sizes, sizes)
