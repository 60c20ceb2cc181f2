"""Packing of small integers into bytes: a little-endian stream of bits, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


def tail(codes: Tensor, start: int) -> Tensor:
    """The bytes of each code from `start` on, in memory of their own, so that they can be taken for numbers of any size."""
    return codes[:, start:].clone(memory_format=torch.contiguous_format)


@accelerated
def pack(values: Tensor, nbits: int) -> Tensor:
    """Rows of M integers of nbits bits as rows of ceil(M * nbits / 8) bytes."""
    n, m = values.shape
    if nbits == 8:
        return values.to(torch.uint8)
    if nbits == 16:
        return torch.stack([values & 255, values >> 8], 2).to(torch.uint8).view(n, 2 * m)
    size = (m * nbits + 7) // 8
    wanted = values.to(torch.int64)[:, :, None] >> torch.arange(nbits, device=values.device) & 1  # (n, m, nbits)
    bits = torch.zeros(n, size * 8, dtype=torch.int64, device=values.device)
    bits[:, : m * nbits] = wanted.view(n, m * nbits)
    weights = 1 << torch.arange(8, device=values.device)
    return (bits.view(n, size, 8) * weights).sum(-1).to(torch.uint8)


@accelerated
def unpack(codes: Tensor, m: int, nbits: int) -> Tensor:
    """The M integers of each row of bytes: uint8 for 8 bits, else int32."""
    n = codes.shape[0]
    if nbits == 8:
        return codes[:, :m]
    if nbits == 16:
        pairs = codes[:, : 2 * m].reshape(n, m, 2).to(torch.int32)
        return pairs[:, :, 0] | pairs[:, :, 1] << 8
    if nbits == 4:
        both = torch.stack([codes & 15, codes >> 4], 2).flatten(1)
        return both[:, :m].to(torch.int32)
    bits = codes.to(torch.int32)[:, :, None] >> torch.arange(8, device=codes.device, dtype=torch.int32) & 1
    parts = bits.flatten(1)[:, : m * nbits].reshape(n, m, nbits)
    weights = (1 << torch.arange(nbits, device=codes.device)).to(torch.int32)
    return (parts * weights).sum(-1, dtype=torch.int32)
