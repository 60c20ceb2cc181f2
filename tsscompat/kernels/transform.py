"""Linear transforms of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def transformed(x: Tensor, matrix: Tensor, offset: Tensor | None) -> Tensor:
    """The products (n, d_out) of vectors with a matrix (d_out, d_in), and an offset added."""
    out = x @ matrix.t()
    return out if offset is None else torch.add(out, offset, out=out)
