"""Scalar quantisation by ranges: numbers as steps of their dimension's range, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def steps_of(x: Tensor, low: Tensor, extent: Tensor, levels: int) -> Tensor:
    """In which of `levels` steps of its range each number is, as bytes (n, d); ranges are one for all dimensions, or one for each."""
    # A dimension without extent has the code 0, like NaN.
    share = (x - low).div_(torch.where(extent != 0, extent, float("inf"))).clamp_(0, 1).nan_to_num_(0)
    # FAISS scales 8 bits in single, fewer bits in double precision.
    return (share.mul_(255) if levels == 255 else share.double() * levels).to(torch.uint8)


@accelerated
def middles_of(steps: Tensor, low: Tensor, extent: Tensor, levels: int) -> Tensor:
    """The middles of such steps."""
    return (steps.float().add_(0.5).div_(levels)).mul_(extent).add_(low)
