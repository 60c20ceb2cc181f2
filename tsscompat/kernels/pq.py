"""Product quantisation: the nearest centroid of each part, distance tables."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.metrics import INNER_PRODUCT

_BLOCK = 1 << 24


@accelerated
def nearest_parts(x: Tensor, centroids: Tensor) -> Tensor:
    """For each row of x and each part the number of the nearest of its centroids (M, ksub, dsub); the first of equals."""
    m, ksub, dsub = centroids.shape
    out = torch.empty(x.shape[0], m, dtype=torch.int32, device=x.device)
    step = max(1, _BLOCK // (m * ksub * dsub))
    for i in range(0, x.shape[0], step):
        parts = x[i : i + step].view(-1, m, 1, dsub)
        out[i : i + step] = (parts - centroids).square().sum(-1).argmin(-1)
    return out


@accelerated
def part_tables(x: Tensor, centroids: Tensor, metric: int) -> Tensor:
    """For each row of x and each part its squared distance to, or inner product with, each centroid: (n, M, ksub)."""
    m, _, dsub = centroids.shape
    parts = x.view(-1, m, dsub)
    if metric == INNER_PRODUCT:
        return torch.einsum("nmd,mkd->nmk", parts, centroids)
    step = max(1, _BLOCK // centroids.numel())
    blocks = [(parts[i : i + step, :, None] - centroids).square().sum(-1) for i in range(0, parts.shape[0], step)]
    return torch.cat(blocks) if blocks else x.new_empty(0, m, centroids.shape[1])
