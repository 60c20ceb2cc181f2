"""Distances between binary codes, compiled.

Queries and rows are words of 64 bits, filled up with zeros. In a batch, rows are turned into tiles of columns that four queries at a time
are compared with; a single query is compared row by row. The best of a table are words too, distance above place, so that order is order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from tsscompat.kernels.hamming import FAR, MISSING, PLACE_BITS, WORST
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.numba.addressed import address, pointer, prefetch_at
from tsscompat.kernels.numba.door import array_of, like
from tsscompat.kernels.numba.ivf_heap import among, roomy, sift
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.lanes import lowest
from tsscompat.kernels.numba.popcount import GROUP, byte_at, count_bytes, count_four, count_rows, room_for, under, word_at
from tsscompat.kernels.threads import max_threads, run_blocks

Array = np.ndarray[Any, Any]
_NO_MASK = np.zeros(0, np.bool_)
_NO_LIMITS = np.zeros((0, 0), np.int64)
_I32, _I64 = np.dtype(np.int32), np.dtype(np.int64)
# Bytes of the next list that are asked for ahead.
_AHEAD = 4096
# Rows that are compared at a time: the columns of a tile stay in the first cache.
_ROWS = 512
_FAR, _NOTHING = FAR, np.int64(MISSING)
# About how many nanoseconds a word takes, and how many are worth a thread of its own.
_WORD_NS, _GRAIN = 0.5, 100_000


@inline
def _last_word(row, size, within):  # type: ignore[no-untyped-def]
    """What a row of so many bytes has in its last word; memory behind the row is read only where it is `within` the table."""
    at, rest = row + (size - 1) // 8 * 8, (size - 1) % 8 + 1
    if rest == 8:
        return word_at(at)
    if within:
        return word_at(at) & ((np.uint64(1) << np.uint64(8 * rest)) - np.uint64(1))
    word = np.uint64(0)
    for byte in range(rest):
        word |= byte_at(at + byte) << np.uint64(8 * byte)
    return word


@inline
def _rows_at(codes, a, b, words, room):  # type: ignore[no-untyped-def]
    """The address of rows a : b, so many words each; copied into a room of zeros where they are not."""
    size = codes.shape[1]
    base = address(codes) + a * size
    if size == 8 * words:
        return base
    last = (size - 1) // 8
    for r in range(b - a):
        row = base + r * size
        for w in range(last):
            room[r * words + w] = word_at(row + 8 * w)
        room[r * words + last] = _last_word(row, size, a + r + 1 < codes.shape[0])
    return address(room)


@inline
def _room(codes, words):  # type: ignore[no-untyped-def]
    return np.zeros(0 if codes.shape[1] == 8 * words else _ROWS * words, np.uint64)


@inline
def _turn(codes, a, b, tile):  # type: ignore[no-untyped-def]
    """Copy rows into a tile of columns; gives the number of groups. Rows that fill the last group up are what was there."""
    size = codes.shape[1]
    used = (size + 7) // 8
    for r in range(b - a):
        row = address(codes) + (a + r) * size
        at = r // GROUP * used * GROUP + r % GROUP
        for w in range(used - 1):
            tile[at + w * GROUP] = word_at(row + 8 * w)
        tile[at + (used - 1) * GROUP] = _last_word(row, size, a + r + 1 < codes.shape[0])
    return (b - a + GROUP - 1) // GROUP


@inline
def _sink(heap, word):  # type: ignore[no-untyped-def]
    """Put a word in the place of the root, the largest."""
    n, i = heap.shape[0], 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= word:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = word


@inline
def _keep(heap, found, n, first, allowed):  # type: ignore[no-untyped-def]
    """Enter the distances of rows first : first + n into a heap of words."""
    masked = allowed.shape[0] > 0
    bar = np.int32(heap[0] >> PLACE_BITS)
    for g in range(0, n, 64):
        bits = under(address(found) + 4 * g, n - g, bar)
        while bits:
            i = g + lowest(bits)
            bits &= bits - np.uint64(1)
            if found[i] < bar and not (masked and not allowed[first + i]):
                _sink(heap, np.int64(found[i]) << PLACE_BITS | (first + i))
                bar = np.int32(heap[0] >> PLACE_BITS)


@jit
def _nearest(x, codes, whole, allowed, heaps, q0, q1, r0, r1):  # type: ignore[no-untyped-def]
    """Heaps of queries q0 : q1 over rows r0 : r1."""
    words, used = x.shape[1], (codes.shape[1] + 7) // 8
    found = np.empty((4, _ROWS), np.int32)
    together = q1 - q0 > 3 and not whole
    room, tile = _room(codes, words), np.empty(_ROWS * used if together else 0, np.uint64)
    queries, line, last = address(x), 8 * words, q1 - 1
    for a in range(r0, r1, _ROWS):
        n = min(_ROWS, r1 - a)
        if together:
            groups = _turn(codes, a, a + n, tile)
            for q in range(q0, q1, 4):
                # A group of queries that is not full repeats the last one.
                one, two, three = min(q + 1, last) * line, min(q + 2, last) * line, min(q + 3, last) * line
                four = queries + q * line, queries + one, queries + two, queries + three
                count_four(four[0], four[1], four[2], four[3], address(tile), groups, used, address(found), 4 * _ROWS)
                for o in range(min(4, q1 - q)):
                    _keep(heaps[q + o], found[o], n, a, allowed)
            continue
        base = _rows_at(codes, a, a + n, words, room)
        for q in range(q0, q1):
            if whole:
                count_bytes(queries + q * line, base, n, words, address(found))
            else:
                count_rows(queries + q * line, base, n, words, address(found))
            _keep(heaps[q], found[0], n, a, allowed)


@jit
def _answer(heaps, distances, labels, q0, q1):  # type: ignore[no-untyped-def]
    """Answers of queries q0 : q1 from heaps (parts, nq, k)."""
    parts, _, k = heaps.shape
    merged = np.empty(parts * k, np.int64)
    for q in range(q0, q1):
        for p in range(parts):
            merged[p * k : (p + 1) * k] = heaps[p, q]
        merged.sort()
        for i in range(k):
            missing = merged[i] >= _NOTHING
            distances[q, i] = WORST if missing else merged[i] >> PLACE_BITS
            labels[q, i] = -1 if missing else merged[i] & ((np.int64(1) << PLACE_BITS) - 1)


@jit
def _nearest_of_few(x, codes, whole, allowed, k, distances, labels):  # type: ignore[no-untyped-def]
    heaps = np.full((1, x.shape[0], k), _NOTHING, np.int64)
    _nearest(x, codes, whole, allowed, heaps[0], 0, x.shape[0], 0, codes.shape[0])
    _answer(heaps, distances, labels, 0, x.shape[0])


def _words(x: Tensor) -> Array:
    """Queries as rows of words."""
    codes = x.numpy()
    n, size = codes.shape
    words = room_for((size + 7) // 8)
    if size == 8 * words and x.is_contiguous() and x.data_ptr() % 8 == 0:
        return codes.view(np.uint64)
    out = np.zeros((n, 8 * words), np.uint8)
    out[:, :size] = codes
    return out.view(np.uint64)


def knn(x: Tensor, y: Tensor, k: int, whole_bytes: bool = False, allowed: Tensor | None = None) -> Any:
    if 8 * x.shape[1] >= _FAR:
        return NotImplemented
    queries, codes = _words(x), y.contiguous().numpy()
    mask = _NO_MASK if allowed is None else allowed.contiguous().numpy()
    nq, nb = queries.shape[0], codes.shape[0]
    distances, labels = np.empty((nq, k), _I32), np.empty((nq, k), _I64)
    per_query = nb * max(1, queries.shape[1]) * _WORD_NS + 1.0
    threads = max_threads() if nq * per_query > 2 * _GRAIN else 1
    if threads == 1:
        _nearest_of_few(queries, codes, whole_bytes, mask, k, distances, labels)
        return torch.from_numpy(distances), torch.from_numpy(labels)
    # Few queries share the rows out, each thread with heaps of its own.
    parts = 1 if nq >= 8 * threads else min(threads, int(nq * per_query / _GRAIN))
    heaps = np.full((parts, nq, k), _NOTHING, _I64)

    def some_rows(a: int, b: int) -> None:
        for p in range(a, b):
            _nearest(queries, codes, whole_bytes, mask, heaps[p], 0, nq, nb * p // parts, nb * (p + 1) // parts)

    def some_queries(a: int, b: int) -> None:
        _nearest(queries, codes, whole_bytes, mask, heaps[0], a, b, 0, nb)

    if parts > 1:
        run_blocks(some_rows, parts)
    else:
        run_blocks(some_queries, nq, max(16, int(_GRAIN / per_query)))
    run_blocks(lambda a, b: _answer(heaps, distances, labels, a, b), nq, 256)
    return torch.from_numpy(distances), torch.from_numpy(labels)


@jit
def _table(x, codes, whole, out, q0, q1):  # type: ignore[no-untyped-def]
    words = x.shape[1]
    room = _room(codes, words)
    for a in range(0, codes.shape[0], _ROWS):
        n = min(_ROWS, codes.shape[0] - a)
        base = _rows_at(codes, a, a + n, words, room)
        for q in range(q0, q1):
            if whole:
                count_bytes(address(x) + 8 * q * words, base, n, words, address(out) + 4 * (q * out.shape[1] + a))
            else:
                count_rows(address(x) + 8 * q * words, base, n, words, address(out) + 4 * (q * out.shape[1] + a))


def hamming(x: Tensor, y: Tensor, whole_bytes: bool = False) -> Tensor:
    queries, codes = _words(x), y.contiguous().numpy()
    out = np.empty((queries.shape[0], codes.shape[0]), _I32)
    grain = max(1, int(_GRAIN / (codes.size * _WORD_NS / 8 + 1.0)))
    run_blocks(lambda a, b: _table(queries, codes, whole_bytes, out, a, b), out.shape[0], grain)
    return torch.from_numpy(out)


# ---- inverted lists ------------------------------------------------------------------------------------------------------------------


@inline
def _ask(codes, offsets, sizes, l):  # type: ignore[no-untyped-def]
    """Ask for the beginning of a list."""
    begin = address(codes) + offsets[l] * codes.shape[1]
    for byte in range(begin, begin + min(sizes[l] * codes.shape[1], _AHEAD), 64):
        prefetch_at(byte)


@jit
def _scan(x, codes, ids, offsets, sizes, keys, limits, pairs, by_arrival, distances, labels, q0, q1):  # type: ignore[no-untyped-def]
    """The best of queries q0 : q1 in their lists; gives how many lists, codes and results that entered there were."""
    words, k, room = x.shape[1], distances.shape[1], _room(codes, x.shape[1])
    found, costs = np.empty(_ROWS, np.int32), np.empty(k, np.int64)
    shift = PLACE_BITS if by_arrival else 0
    visited = scored = entered = 0
    for q in range(q0, q1):
        names = labels[q]
        costs[:] = _NOTHING
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
            for a in range(start, start + n_list, _ROWS):
                n = min(_ROWS, start + n_list - a)
                base = _rows_at(codes, a, a + n, words, room)
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
            distances[q, i] = WORST if costs[i] >= _NOTHING else costs[i] >> shift
    return visited, scored, entered


def _shared_out(work: Callable[[int, int], Any], nq: int, per_query: float) -> list[Any]:
    """What blocks of queries answer, in order."""
    if nq * per_query < 2 * _GRAIN:
        return [work(0, nq)]
    done: list[tuple[int, Any]] = []
    run_blocks(lambda a, b: done.append((a, work(a, b))), nq, max(1, int(_GRAIN / per_query)))
    return [part for _, part in sorted(done, key=lambda item: item[0])]


def _per_query(arena: tuple[Array, ...], nprobe: int, words: int) -> float:
    codes, _, offsets, _ = arena
    return nprobe * (codes.shape[0] / (offsets.shape[0] or 1) * words * 2 * _WORD_NS + 20.0) + 1.0


def scan(
    x: Tensor, lists: Ragged, keys: Tensor, k: int, limits: Tensor | None = None, pairs: bool = False, by_arrival: bool = False
) -> Any:
    if 8 * x.shape[1] >= _FAR:
        return NotImplemented
    queries, probed, arena = _words(x), keys.contiguous().numpy(), views(lists)
    nq = queries.shape[0]
    distances, labels = np.empty((nq, k), _I32), np.empty((nq, k), _I64)
    cut = _NO_LIMITS if limits is None else limits.contiguous().numpy()

    def some(a: int, b: int) -> tuple[int, int, int]:
        return _scan(queries, *arena, probed, cut, pairs, by_arrival, distances, labels, a, b)

    done = _shared_out(some, nq, _per_query(arena, probed.shape[1], queries.shape[1]))
    counts = (sum(d[0] for d in done), sum(d[1] for d in done), sum(d[2] for d in done))
    return torch.from_numpy(distances), torch.from_numpy(labels), counts


@jit
def _within(x, codes, ids, offsets, sizes, keys, radius, allowed, pairs, hits, q0, q1):  # type: ignore[no-untyped-def]
    """All of queries q0 : q1 under the radius, one after another: distances, labels, and how many lists and codes there were."""
    words, masked, room = x.shape[1], allowed.shape[0] > 0, _room(codes, x.shape[1])
    found = np.empty(_ROWS, np.int32)
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
            for a in range(start, stop, _ROWS):
                n = min(_ROWS, stop - a)
                base = _rows_at(codes, a, a + n, words, room)
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
    queries, probed, arena = _words(x), keys.contiguous().numpy(), views(lists)
    nq = queries.shape[0]
    mask = _NO_MASK if allowed is None else allowed.contiguous().numpy()
    hits, bound = np.zeros(nq, _I64), np.int32(max(-1, min(radius, WORST)))

    def some(a: int, b: int) -> Any:
        return _within(queries, *arena, probed, bound, mask, pairs, hits, a, b)

    done = _shared_out(some, nq, _per_query(arena, probed.shape[1], queries.shape[1]))
    lims = np.zeros(nq + 1, _I64)
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
        room[q, (size - 1) // 8] = _last_word(row, size, within)
    return room


@jit
def _search_lists(plan, x, nprobe, distances, labels, first, last):  # type: ignore[no-untyped-def]
    """Coarse search and scan for queries first : last; what stays the same from search to search is one array, `plan`."""
    n, size, words, nlist = last - first, plan[0], plan[1], plan[5]
    queries = _queries(x, words, first, last)
    centers = carray(pointer(plan[3], np.uint8), (plan[2], size))
    heaps = np.full((1, n, nprobe), _NOTHING, np.int64)
    _nearest(queries, centers, False, np.empty(0, np.bool_), heaps[0], 0, n, 0, plan[2])
    gaps, keys = np.empty((n, nprobe), np.int32), np.empty((n, nprobe), np.int64)
    _answer(heaps, gaps, keys, 0, n)
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
    plan = np.array([*shapes, *(t.data_ptr() for t in arena)], _I64)
    costs = table.shape[0] * words * _WORD_NS, _per_query(views(lists), 1, words)
    return centers, table, plan, *costs, 64 * words < _FAR


def search_lists(x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Any:
    kept = lists.kept.get("few")
    if kept is None or kept[0] is not centers:
        kept = lists.kept["few"] = _kept_plan(centers, lists)
    _, _, plan, of_centers, of_list, able = kept
    if not able:
        return NotImplemented
    nq, per_query, queries = x.shape[0], of_centers + nprobe * of_list, array_of(x)
    distances, labels = np.empty((nq, k), _I32), np.empty((nq, k), _I64)
    if nq == 1 or nq * per_query < 2 * _GRAIN:
        counts = _search_lists(plan, queries, nprobe, distances, labels, 0, nq)
        return *like(x, distances, labels), counts
    done: list[tuple[int, int, int]] = []
    given = plan, queries, nprobe, distances, labels
    run_blocks(lambda a, b: done.append(_search_lists(*given, a, b)), nq, max(1, int(_GRAIN / per_query)))
    total = tuple(sum(part[i] for part in done) for i in range(3))
    return *like(x, distances, labels), total
