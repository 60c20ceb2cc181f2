"""Product quantisation: vectors to codes and back, distance tables."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.blocks import in_blocks
from tsscompat.kernels.bits import pack
from tsscompat.kernels.coded import product_rows
from tsscompat.kernels.pq import nearest_parts, part_tables


def encode(x: Tensor, centroids: Tensor, nbits: int) -> Tensor:
    """Codes (n, code_size) of vectors, with centroids (M, ksub, dsub)."""
    return in_blocks(lambda part: pack(nearest_parts(part, centroids), nbits), x, width=x.shape[1])


def decode(codes: Tensor, centroids: Tensor, nbits: int) -> Tensor:
    """The vectors that codes stand for."""
    out = torch.empty(codes.shape[0], centroids.shape[0] * centroids.shape[2], device=codes.device)
    product_rows(codes, centroids, nbits, out)
    return out


def tables(x: Tensor, centroids: Tensor, metric: int) -> Tensor:
    """For each vector and part the squared distance to (metric L2) or inner product with each centroid: (n, M, ksub)."""
    return part_tables(x, centroids, metric)


def sdc_table(centroids: Tensor) -> Tensor:
    """For each part the squared distances between its centroids: (M, ksub, ksub)."""
    m, ksub, _ = centroids.shape
    out = torch.empty(m, ksub, ksub, device=centroids.device)
    for part, table in zip(centroids, out):
        torch.sum((part[:, None] - part).square_(), -1, out=table)
    return out


def hypercube(x: Tensor, nbits: int) -> Tensor:
    """Centroids to begin with: the corners of a cube around the mean, one bit a dimension."""
    mean = x.mean(0)
    bits = (torch.arange(1 << nbits, device=x.device)[:, None] >> torch.arange(nbits, device=x.device)) & 1
    corners = mean.repeat(1 << nbits, 1)
    corners[:, :nbits] += (2 * bits - 1) * mean.abs().max()
    return corners
