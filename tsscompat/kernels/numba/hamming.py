"""Binary codes: scans of inverted lists, compiled; what searches a table is in hamming_flat.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from tsscompat.kernels.hamming import FAR, PLACE_BITS, WORST
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.numba.addressed import address, pointer, prefetch_at
from tsscompat.kernels.numba.door import array_of, like
from tsscompat.kernels.numba.hamming_flat import (
    GRAIN,
    I32,
    I64,
    NO_MASK,
    NOTHING,
    ROWS,
    WORD_NS,
    Array,
    answer,
    hamming,
    knn,
    last_word,
    nearest,
    room_of,
    rows_at,
    words_of,
)  # fmt: skip
from tsscompat.kernels.numba.ivf_heap import among, roomy, sift
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.lanes import lowest
from tsscompat.kernels.numba.popcount import count_rows, room_for, under, word_at
from tsscompat.kernels.threads import run_blocks

__all__ = ["hamming", "knn", "scan", "search_lists", "within"]

_NO_LIMITS = np.zeros((0, 0), np.int64)
# Bytes of the next list that are asked for ahead.
_AHEAD = 4096


@inline
def _ask(codes, offsets, sizes, l):  # type: ignore[no-untyped-def]
    """Ask for the beginning of a list."""
    begin = address(codes) + offsets[l] * codes.shape[1]
    for byte in range(begin, begin + min(sizes[l] * codes.shape[1], _AHEAD), 64):
        prefetch_at(byte)


@jit
def _scan(x, codes, ids, offsets, sizes, keys, limits, pairs, by_arrival, distances, labels, q0, q1):  # type: ignore[no-untyped-def]
    """The best of queries q0 : q1 in their lists; gives how many lists, codes and results that entered there were."""
    words, k, room = x.shape[1], distances.shape[1], room_of(codes, x.shape[1])
    found, costs = np.empty(ROWS, np.int32), np.empty(k, np.int64)
    shift = PLACE_BITS if by_arrival else 0
    visited = scored = entered = 0
    for q in range(q0, q1):
        names = labels[q]
        costs[:] = NOTHING
        names[:] = -1
        bar, arrived = np.int32(WORST), np.int64(0)
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l < 0:
                continue
            start, n_list = offsets[l], sizes[l]
            if limits.shape[0]:
                n_list = min(n_list, limits[q, p])
            if p + 1 < keys.shape[1] and keys[q, p + 1] >= 0:
                _ask(codes, offsets, sizes, keys[q, p + 1])
            if n_list == 0:
                continue
            visited += 1
            scored += n_list
            for a in range(start, start + n_list, ROWS):
                n = min(ROWS, start + n_list - a)
                base = rows_at(codes, a, a + n, words, room)
                count_rows(address(x) + 8 * q * words, base, n, words, address(found))
                for g in range(0, n, 64):
                    bits = under(address(found) + 4 * g, n - g, bar)
                    while bits:
                        i = g + lowest(bits)
                        bits &= bits - np.uint64(1)
                        if found[i] >= bar:
                            continue
                        row = a + i
                        label = l << 32 | (row - start) if pairs else ids[row]
                        place = arrived + row - start if by_arrival else 0
                        sift(costs, names, k, np.int64(found[i]) << shift | place, label)
                        bar = np.int32(min(costs[0] >> shift, WORST))
                        entered += 1
            arrived += n_list
        for end in range(k - 1, 0, -1):
            cost, name = costs[end], names[end]
            costs[end], names[end] = costs[0], names[0]
            sift(costs, names, end, cost, name)
        for i in range(k):
            distances[q, i] = WORST if costs[i] >= NOTHING else costs[i] >> shift
    return visited, scored, entered


def _shared_out(work: Callable[[int, int], Any], nq: int, per_query: float) -> list[Any]:
    """What blocks of queries answer, in order."""
    if nq * per_query < 2 * GRAIN:
        return [work(0, nq)]
    done: list[tuple[int, Any]] = []
    run_blocks(lambda a, b: done.append((a, work(a, b))), nq, max(1, int(GRAIN / per_query)))
    return [part for _, part in sorted(done, key=lambda item: item[0])]


def _per_query(arena: tuple[Array, ...], nprobe: int, words: int) -> float:
    codes, _, offsets, _ = arena
    return nprobe * (codes.shape[0] / (offsets.shape[0] or 1) * words * 2 * WORD_NS + 20.0) + 1.0


def scan(
    x: Tensor, lists: Ragged, keys: Tensor, k: int, limits: Tensor | None = None, pairs: bool = False, by_arrival: bool = False
) -> Any:
    if 8 * x.shape[1] >= FAR:
        return NotImplemented
    queries, probed, arena = words_of(x), keys.contiguous().numpy(), views(lists)
    nq = queries.shape[0]
    distances, labels = np.empty((nq, k), I32), np.empty((nq, k), I64)
    cut = _NO_LIMITS if limits is None else limits.contiguous().numpy()

    def some(a: int, b: int) -> tuple[int, int, int]:
        return _scan(queries, *arena, probed, cut, pairs, by_arrival, distances, labels, a, b)

    done = _shared_out(some, nq, _per_query(arena, probed.shape[1], queries.shape[1]))
    counts = (sum(d[0] for d in done), sum(d[1] for d in done), sum(d[2] for d in done))
    return torch.from_numpy(distances), torch.from_numpy(labels), counts


@jit
def _within(x, codes, ids, offsets, sizes, keys, radius, allowed, pairs, hits, q0, q1):  # type: ignore[no-untyped-def]
    """All of queries q0 : q1 under the radius, one after another: distances, labels, and how many lists and codes there were."""
    words, masked, room = x.shape[1], allowed.shape[0] > 0, room_of(codes, x.shape[1])
    found = np.empty(ROWS, np.int32)
    distances, labels = np.empty(64, np.int32), np.empty(64, np.int64)
    total = visited = scored = 0
    for q in range(q0, q1):
        before = total
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l < 0 or sizes[l] == 0:
                continue
            start, stop = offsets[l], offsets[l] + sizes[l]
            visited += 1
            for a in range(start, stop, ROWS):
                n = min(ROWS, stop - a)
                base = rows_at(codes, a, a + n, words, room)
                count_rows(address(x) + 8 * q * words, base, n, words, address(found))
                distances, labels = roomy(distances, total, n), roomy(labels, total, n)
                scored += among(allowed, a, a + n) if masked else n
                for g in range(0, n, 64):
                    bits = under(address(found) + 4 * g, n - g, radius)
                    while bits:
                        i = g + lowest(bits)
                        bits &= bits - np.uint64(1)
                        row = a + i
                        if masked and not allowed[row]:
                            continue
                        distances[total] = found[i]
                        labels[total] = l << 32 | (row - start) if pairs else ids[row]
                        total += 1
        hits[q] = total - before
    return distances[:total], labels[:total], visited, scored


def within(x: Tensor, lists: Ragged, keys: Tensor, radius: int, allowed: Tensor | None = None, pairs: bool = False) -> Any:
    queries, probed, arena = words_of(x), keys.contiguous().numpy(), views(lists)
    nq = queries.shape[0]
    mask = NO_MASK if allowed is None else allowed.contiguous().numpy()
    hits, bound = np.zeros(nq, I64), np.int32(max(-1, min(radius, WORST)))

    def some(a: int, b: int) -> Any:
        return _within(queries, *arena, probed, bound, mask, pairs, hits, a, b)

    done = _shared_out(some, nq, _per_query(arena, probed.shape[1], queries.shape[1]))
    lims = np.zeros(nq + 1, I64)
    np.cumsum(hits, out=lims[1:])
    distances, labels = np.concatenate([d[0] for d in done]), np.concatenate([d[1] for d in done])
    counts = (sum(d[2] for d in done), sum(d[3] for d in done), int(lims[-1]))
    return torch.from_numpy(lims), torch.from_numpy(distances), torch.from_numpy(labels), counts


@inline
def _queries(x, words, first, last):  # type: ignore[no-untyped-def]
    """Rows first : last of bytes as rows of words: where they are, or copied."""
    n, size = last - first, x.shape[1]
    if size == 8 * words:
        return carray(pointer(address(x) + first * size, np.uint64), (n, words))
    room = np.zeros((n, words), np.uint64)
    for q in range(n):
        row, within = address(x) + (first + q) * size, first + q + 1 < x.shape[0]
        for w in range((size - 1) // 8):
            room[q, w] = word_at(row + 8 * w)
        room[q, (size - 1) // 8] = last_word(row, size, within)
    return room


@jit
def _search_lists(plan, x, nprobe, distances, labels, first, last):  # type: ignore[no-untyped-def]
    """Coarse search and scan for queries first : last; what stays the same from search to search is one array, `plan`."""
    n, size, words, nlist = last - first, plan[0], plan[1], plan[5]
    queries = _queries(x, words, first, last)
    centers = carray(pointer(plan[3], np.uint8), (plan[2], size))
    heaps = np.full((1, n, nprobe), NOTHING, np.int64)
    nearest(queries, centers, False, np.empty(0, np.bool_), heaps[0], 0, n, 0, plan[2])
    gaps, keys = np.empty((n, nprobe), np.int32), np.empty((n, nprobe), np.int64)
    answer(heaps, gaps, keys, 0, n)
    codes, ids = carray(pointer(plan[6], np.uint8), (plan[4], size)), carray(pointer(plan[7], np.int64), (plan[4],))
    offsets, sizes = carray(pointer(plan[8], np.int64), (nlist,)), carray(pointer(plan[9], np.int64), (nlist,))
    limits = np.empty((0, 0), np.int64)
    return _scan(
        queries, codes, ids, offsets, sizes, keys, limits, False, False, distances[first:last], labels[first:last], 0, n
    )  # fmt: skip


def _kept_plan(centers: Tensor, lists: Ragged) -> tuple[Any, ...]:
    """For these centers and lists: the centers, the plan, nanoseconds for the centers and for each list, whether it can be done."""
    table, size = centers.contiguous(), lists.codes.shape[1]
    words = room_for((size + 7) // 8)
    arena = lists.codes, lists.ids, lists.offsets, lists.sizes
    shapes = [size, words, table.shape[0], table.data_ptr(), lists.codes.shape[0], lists.nlist]
    plan = np.array([*shapes, *(t.data_ptr() for t in arena)], I64)
    costs = table.shape[0] * words * WORD_NS, _per_query(views(lists), 1, words)
    return centers, table, plan, *costs, 64 * words < FAR


def search_lists(x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Any:
    kept = lists.kept.get("few")
    if kept is None or kept[0] is not centers:
        kept = lists.kept["few"] = _kept_plan(centers, lists)
    _, _, plan, of_centers, of_list, able = kept
    if not able:
        return NotImplemented
    nq, per_query, queries = x.shape[0], of_centers + nprobe * of_list, array_of(x)
    distances, labels = np.empty((nq, k), I32), np.empty((nq, k), I64)
    if nq == 1 or nq * per_query < 2 * GRAIN:
        counts = _search_lists(plan, queries, nprobe, distances, labels, 0, nq)
        return *like(x, distances, labels), counts
    done: list[tuple[int, int, int]] = []
    given = plan, queries, nprobe, distances, labels
    run_blocks(lambda a, b: done.append(_search_lists(*given, a, b)), nq, max(1, int(GRAIN / per_query)))
    total = tuple(sum(part[i] for part in done) for i in range(3))
    return *like(x, distances, labels), total
