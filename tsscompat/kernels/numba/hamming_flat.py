"""Distances between binary codes and the nearest in a table, compiled.

Queries and rows are words of 64 bits, filled up with zeros. In a batch, rows are turned into tiles of columns that four queries at a time
are compared with; a single query is compared row by row. The best of a table are words too, distance above place, so that order is order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.hamming import FAR, MISSING, PLACE_BITS, WORST
from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.door import array_of, like
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.lanes import lowest
from tsscompat.kernels.numba.popcount import GROUP, byte_at, count_bytes, count_four, count_rows, room_for, under, word_at
from tsscompat.kernels.numba.word_heap import sink
from tsscompat.kernels.threads import max_threads, run_blocks

Array = np.ndarray[Any, Any]
NO_MASK = np.zeros(0, np.bool_)
I32, I64 = np.dtype(np.int32), np.dtype(np.int64)
# Rows that are compared at a time: the columns of a tile stay in the first cache.
ROWS = 512
NOTHING = np.int64(MISSING)
# About how many nanoseconds a word takes, and how many are worth a thread of its own.
WORD_NS, GRAIN = 0.5, 100_000


@inline
def last_word(row, size, within):  # type: ignore[no-untyped-def]
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
def rows_at(codes, a, b, words, room):  # type: ignore[no-untyped-def]
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
        room[r * words + last] = last_word(row, size, a + r + 1 < codes.shape[0])
    return address(room)


@inline
def room_of(codes, words):  # type: ignore[no-untyped-def]
    return np.zeros(0 if codes.shape[1] == 8 * words else ROWS * words, np.uint64)


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
        tile[at + (used - 1) * GROUP] = last_word(row, size, a + r + 1 < codes.shape[0])
    return (b - a + GROUP - 1) // GROUP


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
                sink(heap, heap.shape[0], np.int64(found[i]) << PLACE_BITS | (first + i))
                bar = np.int32(heap[0] >> PLACE_BITS)


@jit
def nearest(x, codes, whole, allowed, heaps, q0, q1, r0, r1):  # type: ignore[no-untyped-def]
    """Heaps of queries q0 : q1 over rows r0 : r1."""
    words, used = x.shape[1], (codes.shape[1] + 7) // 8
    found = np.empty((4, ROWS), np.int32)
    together = q1 - q0 > 3 and not whole
    room, tile = room_of(codes, words), np.empty(ROWS * used if together else 0, np.uint64)
    queries, line, last = address(x), 8 * words, q1 - 1
    for a in range(r0, r1, ROWS):
        n = min(ROWS, r1 - a)
        if together:
            groups = _turn(codes, a, a + n, tile)
            for q in range(q0, q1, 4):
                # A group of queries that is not full repeats the last one.
                one, two, three = min(q + 1, last) * line, min(q + 2, last) * line, min(q + 3, last) * line
                four = queries + q * line, queries + one, queries + two, queries + three
                count_four(four[0], four[1], four[2], four[3], address(tile), groups, used, address(found), 4 * ROWS)
                for o in range(min(4, q1 - q)):
                    _keep(heaps[q + o], found[o], n, a, allowed)
            continue
        base = rows_at(codes, a, a + n, words, room)
        for q in range(q0, q1):
            if whole:
                count_bytes(queries + q * line, base, n, words, address(found))
            else:
                count_rows(queries + q * line, base, n, words, address(found))
            _keep(heaps[q], found[0], n, a, allowed)


@jit
def answer(heaps, distances, labels, q0, q1):  # type: ignore[no-untyped-def]
    """Answers of queries q0 : q1 from heaps (parts, nq, k)."""
    parts, _, k = heaps.shape
    merged = np.empty(parts * k, np.int64)
    for q in range(q0, q1):
        for p in range(parts):
            merged[p * k : (p + 1) * k] = heaps[p, q]
        merged.sort()
        for i in range(k):
            missing = merged[i] >= NOTHING
            distances[q, i] = WORST if missing else merged[i] >> PLACE_BITS
            labels[q, i] = -1 if missing else merged[i] & ((np.int64(1) << PLACE_BITS) - 1)


@jit
def _nearest_of_few(x, codes, whole, allowed, k, distances, labels):  # type: ignore[no-untyped-def]
    heaps = np.full((1, x.shape[0], k), NOTHING, np.int64)
    nearest(x, codes, whole, allowed, heaps[0], 0, x.shape[0], 0, codes.shape[0])
    answer(heaps, distances, labels, 0, x.shape[0])


def words_of(x: Any) -> Array:
    """Queries as rows of words."""
    codes = x.numpy() if isinstance(x, Tensor) else x
    n, size = codes.shape
    words = room_for((size + 7) // 8)
    if isinstance(x, Tensor) and size == 8 * words and x.is_contiguous() and x.data_ptr() % 8 == 0:
        return codes.view(np.uint64)
    out = np.zeros((n, 8 * words), np.uint8)
    out[:, :size] = codes
    return out.view(np.uint64)


def knn(x: Tensor, y: Tensor, k: int, whole_bytes: bool = False, allowed: Tensor | None = None) -> Any:
    if 8 * x.shape[1] >= FAR:
        return NotImplemented
    queries, codes = words_of(x), array_of(y)
    mask = NO_MASK if allowed is None else allowed.contiguous().numpy()
    nq, nb = queries.shape[0], codes.shape[0]
    distances, labels = np.empty((nq, k), I32), np.empty((nq, k), I64)
    per_query = nb * max(1, queries.shape[1]) * WORD_NS + 1.0
    threads = max_threads() if nq * per_query > 2 * GRAIN else 1
    if threads == 1:
        _nearest_of_few(queries, codes, whole_bytes, mask, k, distances, labels)
        return like(x, distances, labels)
    # Few queries share the rows out, each thread with heaps of its own.
    parts = 1 if nq >= 8 * threads else min(threads, int(nq * per_query / GRAIN))
    heaps = np.full((parts, nq, k), NOTHING, I64)

    def some_rows(a: int, b: int) -> None:
        for p in range(a, b):
            nearest(queries, codes, whole_bytes, mask, heaps[p], 0, nq, nb * p // parts, nb * (p + 1) // parts)

    def some_queries(a: int, b: int) -> None:
        nearest(queries, codes, whole_bytes, mask, heaps[0], a, b, 0, nb)

    if parts > 1:
        run_blocks(some_rows, parts)
    else:
        run_blocks(some_queries, nq, max(16, int(GRAIN / per_query)))
    run_blocks(lambda a, b: answer(heaps, distances, labels, a, b), nq, 256)
    return like(x, distances, labels)


@jit
def _table(x, codes, whole, out, q0, q1):  # type: ignore[no-untyped-def]
    words = x.shape[1]
    room = room_of(codes, words)
    for a in range(0, codes.shape[0], ROWS):
        n = min(ROWS, codes.shape[0] - a)
        base = rows_at(codes, a, a + n, words, room)
        for q in range(q0, q1):
            if whole:
                count_bytes(address(x) + 8 * q * words, base, n, words, address(out) + 4 * (q * out.shape[1] + a))
            else:
                count_rows(address(x) + 8 * q * words, base, n, words, address(out) + 4 * (q * out.shape[1] + a))


def hamming(x: Tensor, y: Tensor, whole_bytes: bool = False) -> Tensor:
    queries, codes = words_of(x), y.contiguous().numpy()
    out = np.empty((queries.shape[0], codes.shape[0]), I32)
    grain = max(1, int(GRAIN / (codes.size * WORD_NS / 8 + 1.0)))
    run_blocks(lambda a, b: _table(queries, codes, whole_bytes, out, a, b), out.shape[0], grain)
    return torch.from_numpy(out)
