"""Shuffling by a given list of swaps."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def swaps(steps: Tensor) -> Tensor:
    """0..n-1 after swapping item i with item i + steps[i], for i from 0 on: a Fisher-Yates shuffle whose draws are given."""
    order = list(range(steps.shape[0]))
    for i, step in enumerate(steps.tolist()):
        order[i], order[i + step] = order[i + step], order[i]
    return torch.tensor(order, dtype=torch.int64)
