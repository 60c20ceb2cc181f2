"""Compiled twins of kernels/entries.py: what is the same from vector to vector is in one array of sizes and addresses, kept with what it
tells of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from tsscompat.kernels.entries import PLAIN, PRODUCT, STEPS, Coder
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba.addressed import pointer
from tsscompat.kernels.numba.bits import pack_rows, unpack_rows
from tsscompat.kernels.numba.door import array_of
from tsscompat.kernels.numba.ivf_flat import nearest
from tsscompat.kernels.numba.ivf_lists import append_rows, views
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.lanes import grouped
from tsscompat.kernels.numba.pq import encode
from tsscompat.kernels.numba.scalar import middles_in, steps_in

F, U8, I64 = np.float32, np.uint8, np.int64
_PLAIN, _STEPS = PLAIN, STEPS
_NONE = np.empty((0, 0), F)


@jit
def _write(how, x, codes):  # type: ignore[no-untyped-def]
    """Codes of vectors, into rows of bytes."""
    n, d, bits = x.shape[0], how[1], how[3]
    if how[0] == _PLAIN:
        codes[:] = x.view(np.uint8)
    elif how[0] == _STEPS:
        low, extent = carray(pointer(how[5], np.float32), (how[4],)), carray(pointer(how[6], np.float32), (how[4],))
        if bits == 8:
            steps_in(x, low, extent, 255, codes, 0, n)
        else:
            steps = np.empty((n, d), np.uint8)
            steps_in(x, low, extent, (1 << bits) - 1, steps, 0, n)
            pack_rows(steps, bits, codes, 0, n)
    else:
        parts, groups, dsub, size = how[7], how[8], how[9], how[10]
        table, found = carray(pointer(how[11], np.float32), (parts, groups, dsub, size)), np.empty((n, parts), np.int32)
        encode(x, table, dsub, found, 0, n)
        for i in range(n):
            for p in range(parts):
                codes[i, p] = np.uint8(found[i, p])


@jit
def _read(how, codes, out):  # type: ignore[no-untyped-def]
    """The vector of a row of bytes."""
    d, bits = how[1], how[3]
    if how[0] == _PLAIN:
        out[0] = codes[0].view(np.float32)
    elif how[0] == _STEPS:
        low, extent = carray(pointer(how[5], np.float32), (how[4],)), carray(pointer(how[6], np.float32), (how[4],))
        steps = np.empty((1, d), np.int32)
        unpack_rows(codes, bits, steps, 0, 1)
        middles_in(steps, low, extent, (1 << bits) - 1, out, 0, 1)
    else:
        parts, dsub = how[7], how[9]
        centroids = carray(pointer(how[12], np.float32), (parts, 256, dsub))
        for p in range(parts):
            out[0, p * dsub : (p + 1) * dsub] = centroids[p, codes[0, p]]


@jit
def _write_at(how, x, room, at):  # type: ignore[no-untyped-def]
    n, width = x.shape[0], how[2]
    _write(how, x, room[at : at + n * width].reshape(n, width))


@jit
def _read_at(how, codes, at, out):  # type: ignore[no-untyped-def]
    _read(how, codes[at : at + how[2]].reshape(1, how[2]), out.reshape(1, how[1]))


@jit
def _enter(how, plan, x, names, places):  # type: ignore[no-untyped-def]
    n, d, width = x.shape[0], how[1], how[2]
    nlist, ip, residual, rows = plan[0], plan[1] != 0, plan[2] != 0, plan[3]
    centers = carray(pointer(plan[4], np.float32), (nlist, d))
    costs, keys = np.empty((n, 1), np.float32), np.empty((n, 1), np.int64)
    nearest(x, centers, ip, costs, keys, 0, n)
    list_nos, given = keys[:, 0].copy(), x
    if residual:
        given = np.empty((n, d), np.float32)
        for i in range(n):
            l = list_nos[i]
            for j in range(d):
                given[i, j] = x[i, j] - centers[l, j] if l >= 0 else np.float32(0)
    new = np.empty((n, width), np.uint8)
    _write(how, given, new)
    codes, ids = carray(pointer(plan[5], np.uint8), (rows, width)), carray(pointer(plan[6], np.int64), (rows,))
    offsets, sizes = carray(pointer(plan[7], np.int64), (nlist,)), carray(pointer(plan[8], np.int64), (nlist,))
    rooms, tail = carray(pointer(plan[9], np.int64), (nlist,)), carray(pointer(plan[10], np.int64), (1,))
    done = append_rows(codes, ids, offsets, sizes, rooms, tail, list_nos, new, names, places)
    for i in range(done):
        if list_nos[i] >= 0:
            places[i] |= list_nos[i] << 32
    return done


@jit
def _recall(how, codes, offsets, sizes, place, centers, out):  # type: ignore[no-untyped-def]
    l, at = place >> 32, place & 0xFFFFFFFF
    if not 0 <= l < sizes.shape[0] or at >= sizes[l] or (centers.shape[0] > 0 and l >= centers.shape[0]):
        return False
    row = offsets[l] + at
    _read(how, codes[row : row + 1], out.reshape(1, how[1]))
    if centers.shape[0] > 0:
        for j in range(out.shape[0]):
            out[j] += centers[l, j]
    return True


def _how(coder: Coder) -> np.ndarray:
    """What is to be known of a coder, with addresses of what is kept beside it."""
    kept = coder.kept.get("how")
    if kept is not None:
        return kept[0]  # type: ignore[no-any-return]
    how, held = np.zeros(13, I64), []
    how[:4] = coder.kind, coder.d, coder.code_size, coder.bits
    if coder.kind == STEPS:
        held = [t.contiguous().numpy() for t in (coder.low, coder.extent) if t is not None]
        how[4:7] = held[0].shape[0], *(a.ctypes.data for a in held)
    elif coder.kind == PRODUCT and coder.centroids is not None:
        centroids = coder.centroids.contiguous().numpy()
        table = grouped(centroids)
        held = [table, centroids]
        how[7:13] = centroids.shape[0], table.shape[1], centroids.shape[2], table.shape[3], *(a.ctypes.data for a in held)
    coder.kept["how"] = how, held
    return how


def write_codes(x: Any, coder: Coder, room: Any, at: int) -> None:
    _write_at(_how(coder), array_of(x), array_of(room), at)


def read_code(codes: Any, at: int, coder: Coder, out: Any) -> None:
    _read_at(_how(coder), array_of(codes), at, array_of(out))


def enter(
    x: Any,
    names: Any,
    coder: Coder,
    centers: Tensor,
    metric: int,
    residual: bool,
    lists: Ragged,
    rooms: Tensor,
    tail: Tensor,
    places: Any,
) -> Any:
    if metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    kept = lists.kept.get("entering")
    if kept is None or kept[0] is not centers or kept[1] is not rooms or kept[2] is not tail or kept[3] != (metric, residual):
        table = centers.contiguous()
        held = table, lists.codes, lists.ids, lists.offsets, lists.sizes, rooms, tail
        fixed = lists.nlist, metric == INNER_PRODUCT, residual, lists.ids.shape[0]
        plan = np.array([*fixed, *(t.data_ptr() for t in held)], dtype=I64)
        kept = lists.kept["entering"] = centers, rooms, tail, (metric, residual), plan, held
    return _enter(_how(coder), kept[4], array_of(x), array_of(names), array_of(places))


def recall(lists: Ragged, place: int, coder: Coder, centers: Tensor | None, out: Any) -> bool:
    codes, _, offsets, sizes = views(lists)
    table = _NONE
    if centers is not None:
        kept = coder.kept.get("centers")
        if kept is None or kept[0] is not centers:
            kept = coder.kept["centers"] = centers, centers.contiguous().numpy()
        table = kept[1]
    return bool(_recall(_how(coder), codes, offsets, sizes, place, table, array_of(out)))
