"""Queries that come as an array are answered in arrays, so that a short search makes no tensors: see Index._search_arrays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def array_of(x: Any) -> Any:
    """Queries as an array."""
    return x.contiguous().numpy() if isinstance(x, Tensor) else x


def like(x: Any, costs: Any, labels: Any) -> tuple[Any, Any]:
    """Answers as what the queries came as."""
    return (torch.from_numpy(costs), torch.from_numpy(labels)) if isinstance(x, Tensor) else (costs, labels)
