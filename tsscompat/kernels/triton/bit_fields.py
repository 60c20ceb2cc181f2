"""Bits of codes: numbers packed in them, and how many differ."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bits_at(data, rows, there, i, size, BITS: tl.constexpr):
    """Number i of each row of a little-endian stream of bits: (rows, i)."""
    if BITS == 8:  # without shifts, so that the compiler sees that bytes lie side by side
        return tl.load(data + rows[:, None] * size + i[None, :], mask=there, other=0).to(tl.int32)
    first = i * BITS
    byte = (first >> 3)[None, :]
    shift = (first & 7)[None, :]
    at = data + rows[:, None] * size + byte
    value = tl.load(at, mask=there, other=0).to(tl.int32)
    if 8 % BITS != 0:
        value = value | (tl.load(at + 1, mask=there & (byte + 1 < size), other=0).to(tl.int32) << 8)
        if BITS > 9:
            value = value | (tl.load(at + 2, mask=there & (byte + 2 < size), other=0).to(tl.int32) << 16)
    return (value >> shift) & ((1 << BITS) - 1)


@triton.jit
def ones_in(word, WHOLE: tl.constexpr):
    """How many bits of an int32 are set; with `WHOLE` how many of its bytes are not zero."""
    word = word.to(tl.uint32, bitcast=True)
    if WHOLE:
        word = word | (word >> 4)
        word = word | (word >> 2)
        word = (word | (word >> 1)) & 0x01010101
        return ((word + (word >> 8) + (word >> 16) + (word >> 24)) & 7).to(tl.int32)
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return ((word + (word >> 16)) & 63).to(tl.int32)


@triton.jit
def differing(data, other, row, rows, there, size, N: tl.constexpr, BD: tl.constexpr):
    """In how many bits each of `rows` differs from one row of `other`."""
    total = tl.zeros([N], tl.int32)
    for start in range(0, size, BD):
        byte = start + tl.arange(0, BD)
        inside = there[:, None] & (byte < size)[None, :]
        mine = tl.load(other + row * size + byte, mask=byte < size, other=0).to(tl.int32)
        gap = tl.load(data + rows[:, None] * size + byte[None, :], mask=inside, other=0).to(tl.int32) ^ mine[None, :]
        total += tl.sum(tl.where(inside, ones_in(gap, False), 0), 1)
    return total
