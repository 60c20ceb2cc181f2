"""Compiled twin of kernels/ivf_lists.py."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks

# Below this many bytes of codes a second thread costs more than it saves.
_THREADED_BYTES = 1 << 22


@jit
def _append(codes, ids, offsets, sizes, rooms, used, list_nos, new_codes, new_ids, places):  # type: ignore[no-untyped-def]
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
            start = used[0]
            if start + room > ids.shape[0]:
                return i
            old = offsets[l]
            for r in range(size):
                ids[start + r] = ids[old + r]
                for b in range(width):
                    codes[start + r, b] = codes[old + r, b]
            offsets[l], rooms[l], used[0] = start, room, start + room
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


def append(
    codes: Tensor,
    ids: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    rooms: Tensor,
    used: Tensor,
    list_nos: Tensor,
    new_codes: Tensor,
    new_ids: Tensor,
    places: Tensor,
) -> Any:
    arrays = [t.numpy() for t in (codes, ids, offsets, sizes, rooms, used, list_nos, new_codes, new_ids, places)]
    if new_codes.numel() < _THREADED_BYTES or not _fits(arrays[3], arrays[4], arrays[6]):
        return int(_append(*arrays))
    rest = (*arrays[:4], *arrays[6:])
    run_blocks(lambda first, last: _append_part(*rest, first, last), offsets.shape[0], 16)
    return int(list_nos.shape[0])
