"""Product quantisation: tables of the distances of a query's parts to all centroids, and the nearest centroid of each part."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two


@triton.jit
def _tables(
    x,
    shift,
    centroids,
    out,
    labels,
    n,
    m,
    ksub,
    dsub,
    c_part,
    c_row,
    c_dim,
    scale,
    SQUARED: tl.constexpr,
    SHIFTED: tl.constexpr,
    LEAST: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Queries and a part: the table, or (LEAST) the number of its least entry. Centroids are read by strides."""
    rows = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    part = tl.program_id(1)
    inside = rows < n
    best = tl.full([BN], float("inf"), tl.float32)
    where = tl.zeros([BN], tl.int32)
    first = tl.program_id(2) * BK
    last = ksub if LEAST else tl.minimum(first + BK, ksub)
    for start in range(first, last, BK):
        k = start + tl.arange(0, BK)
        value = tl.zeros([BN, BK], tl.float32)
        for j in range(0, dsub):
            a = tl.load(x + rows * (m * dsub) + part * dsub + j, mask=inside, other=0.0)
            if SHIFTED:
                a -= tl.load(shift + part * dsub + j)
            b = tl.load(centroids + part * c_part + k * c_row + j * c_dim, mask=k < ksub, other=0.0)
            gap = a[:, None] - b[None, :]
            value += gap * gap if SQUARED else a[:, None] * b[None, :]
        if LEAST:
            value = tl.where((k < ksub)[None, :] & (value == value), value, float("inf"))
            least, at = tl.min(value, 1, return_indices=True)
            where = tl.where(least < best, start + at, where)
            best = tl.minimum(best, least)
        else:
            to = out + (rows[:, None] * m + part) * ksub + k[None, :]
            tl.store(to, value if SQUARED else value * scale, mask=inside[:, None] & (k < ksub)[None, :])
    if LEAST:
        tl.store(labels + rows * m + part, where, mask=inside)


def tables(x: Tensor, centroids: Tensor, shift: Tensor | None, metric: int, scale: float) -> Tensor:
    """For each row of x and part its squared distance to, or `scale` times its product with, each of centroids (M, ksub, dsub)."""
    m, ksub, dsub = centroids.shape
    out = torch.empty(x.shape[0], m, ksub, device=x.device)
    if out.numel():
        bn, bk = power_of_two(x.shape[0], 1, 8), power_of_two(ksub, 1, 256)
        with on(x):
            _tables[(blocks_of(x.shape[0], bn), m, blocks_of(ksub, bk))](
                x.contiguous(),
                x if shift is None else shift,
                centroids,
                out,
                out,
                x.shape[0],
                m,
                ksub,
                dsub,
                *centroids.stride(),
                float(scale),
                SQUARED=metric != INNER_PRODUCT,
                SHIFTED=shift is not None,
                LEAST=False,
                BN=bn,
                BK=bk,
            )
    return out


def part_tables(x: Tensor, centroids: Tensor, metric: int) -> Tensor:
    """The twin of kernels.pq.part_tables."""
    return tables(x, centroids, None, metric, 1.0)


def nearest_parts(x: Tensor, centroids: Tensor) -> Tensor:
    """The twin of kernels.pq.nearest_parts."""
    m, ksub, dsub = centroids.shape
    labels = torch.empty(x.shape[0], m, dtype=torch.int32, device=x.device)
    if labels.numel():
        bn, bk = power_of_two(x.shape[0], 1, 32), power_of_two(ksub, 1, 128)
        with on(x):
            _tables[(blocks_of(x.shape[0], bn), m, 1)](
                x.contiguous(),
                x,
                centroids,
                x,
                labels,
                x.shape[0],
                m,
                ksub,
                dsub,
                *centroids.stride(),
                1.0,
                SQUARED=True,
                SHIFTED=False,
                LEAST=True,
                BN=bn,
                BK=bk,
            )
    return labels
