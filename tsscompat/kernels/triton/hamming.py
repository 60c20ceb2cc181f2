"""Distances between binary codes, bits counted in words of 32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two


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
def _hamming(x, y, out, nx, ny, words, WHOLE: tl.constexpr, BX: tl.constexpr, BY: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BX + tl.arange(0, BX)
    j = tl.program_id(1).to(tl.int64) * BY + tl.arange(0, BY)
    total = tl.zeros([BX, BY], tl.int32)
    for word in range(0, words):
        a = tl.load(x + i * words + word, mask=i < nx, other=0)
        b = tl.load(y + j * words + word, mask=j < ny, other=0)
        total += ones_in(a[:, None] ^ b[None, :], WHOLE)
    tl.store(out + i[:, None] * ny + j[None, :], total, mask=(i < nx)[:, None] & (j < ny)[None, :])


def _in_words(codes: Tensor) -> Tensor:
    """Codes as int32 words, padded by zeros."""
    short = -codes.shape[1] % 4
    if short:
        codes = torch.cat([codes, codes.new_zeros(codes.shape[0], short)], 1)
    return codes.contiguous().view(torch.int32)


def hamming(x: Tensor, y: Tensor, whole_bytes: bool = False) -> Tensor:
    """The twin of kernels.hamming.hamming."""
    nx, ny = x.shape[0], y.shape[0]
    out = torch.empty(nx, ny, dtype=torch.int32, device=x.device)
    if nx and ny and x.shape[1]:
        a, b = _in_words(x), _in_words(y)
        bx, by = power_of_two(nx, 1, 16), power_of_two(ny, 1, 128)
        with on(x):
            _hamming[(blocks_of(nx, bx), blocks_of(ny, by))](a, b, out, nx, ny, a.shape[1], WHOLE=whole_bytes, BX=bx, BY=by)
        return out
    return out.zero_()
