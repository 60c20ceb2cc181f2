"""Signs of numbers as bits."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import pack


@accelerated
def signs(x: Tensor) -> Tensor:
    """For each row (n, m) of numbers ceil(m / 8) bytes of bits, little-endian: whether the number is at least 0."""
    return pack((x >= 0).to(torch.int32), 1)
