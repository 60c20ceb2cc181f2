"""Distances between binary codes."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def hamming(x: Tensor, y: Tensor, whole_bytes: bool = False) -> Tensor:
    """How many bits (or, `whole_bytes`, bytes) differ between each row of x and each of y: (nx, ny) int32."""
    ones = torch.tensor([int(i > 0) if whole_bytes else i.bit_count() for i in range(256)], dtype=torch.int32, device=x.device)
    out = torch.zeros(x.shape[0], y.shape[0], dtype=torch.int32, device=x.device)
    for byte in range(x.shape[1]):
        out += ones[(x[:, byte, None] ^ y[None, :, byte]).long()]
    return out
