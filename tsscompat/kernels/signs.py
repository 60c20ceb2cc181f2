"""Signs of numbers as bits."""

from __future__ import annotations

from typing import Any

import torch

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import pack


@accelerated
def signs(x: Any) -> Any:
    """For each row (n, m) of numbers ceil(m / 8) bytes of bits, little-endian: whether the number is at least 0."""
    return pack((torch.as_tensor(x) >= 0).to(torch.int32), 1)
