"""Shuffling by a given list of swaps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit


@jit
def _swaps(steps, order):
    for i in range(steps.shape[0]):
        j = i + steps[i]
        order[i], order[j] = order[j], order[i]


def swaps(steps: Tensor) -> Tensor:
    order = np.arange(steps.shape[0])
    _swaps(steps.numpy(), order)
    return torch.from_numpy(order)
