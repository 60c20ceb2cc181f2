"""The best of the rows that queries name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.flat import named_distances
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.select import merge


@accelerated
def best_named(x: Any, y: Tensor, labels: Any, k: int, metric: int) -> tuple[Tensor, Tensor]:
    """The k best of the rows of y that each row of x names (n, m), best first; names of rows that there are not count as none."""
    x, labels = torch.as_tensor(x), torch.as_tensor(labels)
    held = torch.where((labels >= 0) & (labels < y.shape[0]), labels, -1)
    return merge(named_distances(x, y, held, metric), held, k, is_similarity(metric))
