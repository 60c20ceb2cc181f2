"""Streams of bits, compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import inline, jit


@inline
def _put(stream, at, value, width):  # type: ignore[no-untyped-def]
    """Write the low bits of a word from bit `at` on; gives the bit behind them. The stream holds zeros there."""
    word = np.uint64(value)
    while width > 0:
        room = min(8 - (at & 7), width)
        part = word & ((np.uint64(1) << np.uint64(room)) - np.uint64(1))
        stream[at >> 3] |= np.uint8(part << np.uint64(at & 7))
        word >>= np.uint64(room)
        at += room
        width -= room
    return at


@inline
def _take(stream, at, width):  # type: ignore[no-untyped-def]
    """The word of some bits from bit `at` on."""
    word, have = np.uint64(0), 0
    while have < width:
        room = min(8 - (at & 7), width - have)
        part = (np.uint64(stream[at >> 3]) >> np.uint64(at & 7)) & ((np.uint64(1) << np.uint64(room)) - np.uint64(1))
        word |= part << np.uint64(have)
        at += room
        have += room
    return np.int64(word)


@jit
def _write(values, widths, stream):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(values.shape[0]):
        at = _put(stream, at, values[i], widths[i])


def write_bits(values: Tensor, widths: Tensor) -> Tensor:
    stream = np.zeros(-(-int(widths.sum()) // 8), np.uint8)
    _write(values.contiguous().numpy(), widths.contiguous().numpy(), stream)
    return torch.from_numpy(stream)


@jit
def _read(stream, widths, values):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(widths.shape[0]):
        values[i] = _take(stream, at, widths[i])
        at += widths[i]


def read_bits(stream: Tensor, widths: Tensor) -> Tensor:
    values = np.zeros(widths.shape[0], np.int64)
    _read(stream.contiguous().numpy(), widths.contiguous().numpy(), values)
    return torch.from_numpy(values)


@jit
def _groups(stream, n, key_bits, size_bits, id_bits, most, keys, sizes, ids):  # type: ignore[no-untyped-def]
    left, at, held = 8 * stream.shape[0], 0, 0
    for g in range(n):
        if at + key_bits + size_bits > left:
            return g, held
        key = _take(stream, at, key_bits)
        size = _take(stream, at + key_bits, size_bits)
        at += key_bits + size_bits
        if id_bits:
            if size < 0 or size > min(most - held, (left - at) // id_bits):
                return g, held
            for _ in range(size):
                ids[held] = _take(stream, at, id_bits)
                at += id_bits
                held += 1
        keys[g], sizes[g] = key, size
    return n, held


def read_groups(stream: Tensor, n: int, key_bits: int, size_bits: int, id_bits: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    room = 8 * stream.shape[0]
    # No more than the stream can hold, whatever is claimed.
    n = min(n, room // max(1, key_bits + size_bits))
    keys, sizes = np.empty(n, np.int64), np.empty(n, np.int64)
    ids = np.empty(min(most, room // id_bits) if id_bits else 0, np.int64)
    groups, held = _groups(stream.contiguous().numpy(), n, key_bits, size_bits, id_bits, most, keys, sizes, ids)
    return torch.from_numpy(keys[:groups]), torch.from_numpy(sizes[:groups]), torch.from_numpy(ids[:held])
