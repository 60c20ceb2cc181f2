"""Sums of the rows that belong together."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def segment_sums(x: Tensor, owner: Tensor, weights: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """For each of k segments the sum of its rows (times their weights) and how much it holds."""
    scaled = x if weights is None else x * weights[:, None]
    sums = torch.zeros(k, x.shape[1], device=x.device).index_add_(0, owner, scaled)
    held = torch.ones(x.shape[0], device=x.device) if weights is None else weights
    return sums, torch.zeros(k, device=x.device).index_add_(0, owner, held)
