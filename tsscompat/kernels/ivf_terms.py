"""What product-coded residuals contribute to a distance apart from the query."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import unpack
from tsscompat.kernels.ivf_lists import runs
from tsscompat.kernels.metrics import INNER_PRODUCT


@accelerated
def product_terms(
    codes: Tensor, centroids: Tensor, nbits: int, centers: Tensor, offsets: Tensor, sizes: Tensor, terms: Tensor
) -> None:
    """Write |r|^2 + 2 <center, r> of every row's decoded residual r, for the lists given by offsets, sizes and centers (n, d)."""
    m, _, dsub = centroids.shape
    rows, which = runs(offsets, sizes)
    step = max(1, (1 << 26) // (4 * m * dsub))
    for i in range(0, rows.shape[0], step):
        here = rows[i : i + step]
        parts = unpack(codes[here], m, nbits).to(torch.int64)
        residuals = centroids[torch.arange(m, device=codes.device), parts].reshape(here.shape[0], m * dsub)
        terms[here] = (residuals * (residuals + 2 * centers[which[i : i + step]])).sum(1)


@accelerated
def list_scores(x: Tensor, centers: Tensor, keys: Tensor, metric: int) -> Tensor:
    """The distance (L2, or inner product) of each query to the center of each list that it probes, 0 where it probes none."""
    scores = torch.zeros(keys.shape, device=x.device)
    step = max(1, (1 << 24) // max(1, keys.shape[1] * x.shape[1]))
    for i in range(0, keys.shape[0], step):
        probed = centers[keys[i : i + step].clamp(min=0)]
        asked = x[i : i + step, None]
        scores[i : i + step] = (asked * probed).sum(-1) if metric == INNER_PRODUCT else (asked - probed).square().sum(-1)
    return torch.where(keys >= 0, scores, 0.0)


@accelerated
def query_tables(x: Tensor, transposed: Tensor, shift: Tensor | None, metric: int, scale: float) -> Tensor:
    """For each query and part its distance to (L2), or scale times its product (x - shift) with, each centroid: (n, M, ksub).

    `transposed` are the centroids as (M, dsub, ksub).
    """
    m, dsub, _ = transposed.shape
    parts = (x if shift is None else x - shift).view(-1, m, dsub)
    if metric == INNER_PRODUCT:
        return torch.einsum("nmd,mdk->nmk", parts, transposed) * scale
    return (parts[:, :, :, None] - transposed).square().sum(2)
