"""Distances between binary codes: of all to all, bits counted in words of 32; of queries to the codes in lists."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.hamming import WORST, Range
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.triton.bit_fields import ones_in
from tsscompat.kernels.triton.codes import BINARY, Codes
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two
from tsscompat.kernels.triton.list_scan import Top
from tsscompat.kernels.triton.list_scan import top as top_of_lists
from tsscompat.kernels.triton.list_scan import within as within_lists


@triton.jit
def _hamming(x, y, out, nx, ny, words, WHOLE: tl.constexpr, BX: tl.constexpr, BY: tl.constexpr):
    x_tiles = tl.cdiv(nx, BX)
    i = (tl.program_id(0) % x_tiles).to(tl.int64) * BX + tl.arange(0, BX)
    j = (tl.program_id(0) // x_tiles).to(tl.int64) * BY + tl.arange(0, BY)
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
            _hamming[(blocks_of(nx, bx) * blocks_of(ny, by),)](a, b, out, nx, ny, a.shape[1], WHOLE=whole_bytes, BX=bx, BY=by)
        return out
    return out.zero_()


def _codes(x: Tensor, lists: Ragged) -> Codes:
    return Codes(BINARY, lists.codes.contiguous(), x.shape[1], INNER_PRODUCT, False, x)


def scan(
    x: Tensor, lists: Ragged, keys: Tensor, k: int, limits: Tensor | None = None, pairs: bool = False, by_arrival: bool = False
) -> Top:
    """The twin of kernels.hamming.scan, but for answers in order of arrival; of ties at the end those met first stay."""
    if by_arrival or not x.shape[1] or not lists.nlist:
        return NotImplemented
    distances, labels, counts = top_of_lists(_codes(x, lists), lists, keys, k, (None, limits, pairs))
    return torch.where(labels >= 0, distances, 0.0).int().masked_fill(labels < 0, WORST), labels, counts


def within(x: Tensor, lists: Ragged, keys: Tensor, radius: int, allowed: Tensor | None = None, pairs: bool = False) -> Range:
    """The twin of kernels.hamming.within."""
    if not x.shape[1] or not lists.nlist:
        return NotImplemented
    lims, distances, labels, counts = within_lists(_codes(x, lists), lists, keys, float(radius), (allowed, None, pairs))
    return lims, distances.int(), labels, counts
