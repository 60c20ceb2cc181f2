"""Compiled twin of kernels/ivf_lists.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks

# Below this many bytes of codes a second thread costs more than it saves.
_THREADED_BYTES = 1 << 22


@jit
def append_rows(codes, ids, offsets, sizes, rooms, tail, list_nos, new_codes, new_ids, places):  # type: ignore[no-untyped-def]
    n, width = list_nos.shape[0], codes.shape[1]
    for i in range(n):
        l = list_nos[i]
        if l < 0:
            places[i] = -1
            continue
        size = sizes[l]
        if size == rooms[l]:
            # Full: move the list to the unused tail with an eighth more room; the old place is lost until the arena is rebuilt.
            room = size + max(size >> 3, 4)
            start = tail[0]
            if start + room > ids.shape[0]:
                return i
            old = offsets[l]
            for r in range(size):
                ids[start + r] = ids[old + r]
                for b in range(width):
                    codes[start + r, b] = codes[old + r, b]
            offsets[l], rooms[l], tail[0] = start, room, start + room
        row = offsets[l] + size
        ids[row] = new_ids[i]
        for b in range(width):
            codes[row, b] = new_codes[i, b]
        sizes[l] = size + 1
        places[i] = size
    return n


@jit
def _fits(sizes, rooms, list_nos):  # type: ignore[no-untyped-def]
    """Whether all entries fit where their lists are."""
    need = sizes.copy()
    for l in list_nos:
        if l >= 0:
            need[l] += 1
            if need[l] > rooms[l]:
                return False
    return True


@jit
def _append_part(codes, ids, offsets, sizes, list_nos, new_codes, new_ids, places, first, last):  # type: ignore[no-untyped-def]
    """Append the entries of lists first : last, which are known to fit."""
    width = codes.shape[1]
    for i in range(list_nos.shape[0]):
        l = list_nos[i]
        if l < 0:
            places[i] = -1
        elif first <= l < last:
            row = offsets[l] + sizes[l]
            ids[row] = new_ids[i]
            for b in range(width):
                codes[row, b] = new_codes[i, b]
            places[i] = sizes[l]
            sizes[l] += 1


def views(lists: Ragged) -> tuple[Any, Any, Any, Any]:
    """The arena as numpy arrays, made once."""
    kept = lists.kept.get("views")
    if kept is None:
        kept = lists.kept["views"] = tuple(t.numpy() for t in (lists.codes, lists.ids, lists.offsets, lists.sizes))
    return kept  # type: ignore[no-any-return]


def append(lists: Ragged, rooms: Tensor, tail: Tensor, list_nos: Tensor, codes: Tensor, ids: Tensor, places: Tensor) -> Any:
    arena = views(lists)
    kept = lists.kept.get("rooms")
    if kept is None or kept[0] is not rooms or kept[1] is not tail:
        kept = lists.kept["rooms"] = rooms, tail, rooms.numpy(), tail.numpy()
    _, _, room, end = kept
    where, new = list_nos.numpy(), (codes.numpy(), ids.numpy(), places.numpy())
    if codes.numel() < _THREADED_BYTES or not _fits(arena[3], room, where):
        return append_rows(*arena, room, end, where, *new)
    run_blocks(lambda first, last: _append_part(*arena, where, *new, first, last), lists.nlist, 16)
    return where.shape[0]


@inline
def _among(names, name):  # type: ignore[no-untyped-def]
    n = names.shape[0]
    return names[0] <= name <= names[n - 1] and (n == 1 or names[np.searchsorted(names, name)] == name)


@jit
def _drop(codes, ids, offsets, sizes, names):  # type: ignore[no-untyped-def]
    width, gone = codes.shape[1], 0
    for l in range(sizes.shape[0]):
        row, end = offsets[l], offsets[l] + sizes[l]
        while row < end:
            if not _among(names, ids[row]):
                row += 1
                continue
            end -= 1
            gone += 1
            while end > row and _among(names, ids[end]):
                end -= 1
                gone += 1
            if end > row:
                ids[row] = ids[end]
                for b in range(width):
                    codes[row, b] = codes[end, b]
        sizes[l] = end - offsets[l]
    return gone


def drop(lists: Ragged, names: Tensor) -> int:
    return int(_drop(*views(lists), names.contiguous().numpy())) if names.shape[0] else 0


@jit
def _row_numbers(labels, width, out):  # type: ignore[no-untyped-def]
    for i in range(labels.shape[0]):
        label = labels[i]
        out[i] = (label >> 32) * width + (label & 0xFFFFFFFF) if label >= 0 else -1


def row_numbers(labels: Tensor, width: int) -> Tensor:
    out = torch.empty_like(labels, memory_format=torch.contiguous_format)
    _row_numbers(labels.reshape(-1).numpy(), width, out.view(-1).numpy())
    return out


@jit
def _pack(codes, ids, offsets, sizes, width, out):  # type: ignore[no-untyped-def]
    """Codes and ids come as plain bytes: a list is two copies."""
    at = 0
    for l in range(sizes.shape[0]):
        start, n = offsets[l], sizes[l]
        out[at : at + n * width] = codes[start * width : (start + n) * width]
        at += n * width
        out[at : at + n * 8] = ids[start * 8 : (start + n) * 8]
        at += n * 8


@jit
def _unpack(raw, sizes, width, codes, ids):  # type: ignore[no-untyped-def]
    at = row = 0
    for n in sizes:
        codes[row * width : (row + n) * width] = raw[at : at + n * width]
        at += n * width
        ids[row * 8 : (row + n) * 8] = raw[at : at + n * 8]
        at += n * 8
        row += n


def packed(lists: Ragged) -> Tensor:
    codes, ids, offsets, sizes = views(lists)
    width = codes.shape[1]
    out = np.empty(int(sizes.sum()) * (width + 8), np.uint8)
    _pack(codes.reshape(-1), ids.view(np.uint8), offsets, sizes, width, out)
    return torch.from_numpy(out)


def unpack(raw: Tensor, sizes: Tensor, codes: Tensor, ids: Tensor) -> None:
    _unpack(raw.numpy(), sizes.numpy(), codes.shape[1], codes.view(-1).numpy(), ids.numpy().view(np.uint8))
