"""Vectors scaled to 0..1, each by its own least number and range, which go before their codes."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled(x: Tensor, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vectors scaled by (n, 2) ranges and least numbers as they are stored."""
    low, high = x.aminmax(dim=1)
    limits = torch.stack([high - low, low], 1).to(stored)
    span, least = limits.float().unbind(1)
    flat = (span == 0)[:, None]
    return ((x - least[:, None]) * (1 / span)[:, None]).masked_fill(flat, 0.0), limits


def restored(x: Tensor, limits: Tensor) -> Tensor:
    """Scaled vectors as they were."""
    span, least = limits.float().unbind(1)
    return x * span[:, None] + least[:, None]
