"""Tables of sums for product codes."""

from __future__ import annotations

from torch import Tensor

from tsscompat.kernels.triton.pq import tables


def query_tables(x: Tensor, transposed: Tensor, shift: Tensor | None, metric: int, scale: float) -> Tensor:
    """The twin of kernels.ivf_terms.query_tables."""
    return tables(x, transposed.transpose(1, 2), shift, metric, scale)
