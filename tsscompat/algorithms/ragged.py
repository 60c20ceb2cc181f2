"""Arenas of inverted lists: building, growing, thinning out and combining them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged, fill_holes, packed, ranks, runs, unpack

__all__ = [
    "Ragged",
    "empty",
    "fill_holes",
    "grown_rooms",
    "in_list_order",
    "joined",
    "layout",
    "live",
    "newcomers",
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


def newcomers(lists: Ragged, sizes: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of lists that had these sizes and offsets, those with rows that are new where they are: which, from where, how many."""
    before = torch.where(lists.offsets == offsets, sizes, 0)
    grown = (lists.sizes > before).nonzero().squeeze(1)
    return grown, (lists.offsets + before)[grown], (lists.sizes - before)[grown]


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
