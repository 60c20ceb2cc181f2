"""Product codes in lists: tables of sums, what rows add of their own, and distances to the centers of lists."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.triton.codes import decoded
from tsscompat.kernels.triton.launch import on, power_of_two
from tsscompat.kernels.triton.metrics import named
from tsscompat.kernels.triton.pq import tables

# Programs that share a list, and rows that each takes at a time.
_SHARES, _ROWS = 8, 64


def query_tables(x: Tensor, transposed: Tensor, shift: Tensor | None, metric: int, scale: float) -> Tensor:
    """The twin of kernels.ivf_terms.query_tables."""
    return tables(x, transposed.transpose(1, 2), shift, metric, scale)


def list_scores(x: Tensor, centers: Tensor, keys: Tensor, metric: int) -> Tensor:
    """The twin of kernels.ivf_terms.list_scores."""
    if x.dtype != torch.float32 or centers.dtype != torch.float32 or not x.shape[1]:
        return NotImplemented
    return named(x, centers, keys, metric, 0.0, 0.0)


@triton.jit
def _terms(
    codes, centroids, centers, offsets, sizes, terms, d, size,
    BITS: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    offset = tl.load(offsets + number)
    entries = tl.load(sizes + number)
    for start in range(tl.program_id(1) * N, entries, tl.num_programs(1) * N):
        rows = offset + start + tl.arange(0, N)
        there = start + tl.arange(0, N) < entries
        total = tl.zeros([N], tl.float32)
        for first in range(0, d, BD):
            at = first + tl.arange(0, BD)
            inside = there[:, None] & (at < d)[None, :]
            r = decoded(codes, centroids, centroids, rows, inside, at, d, size, 2, BITS, DSUB, KSUB)
            center = tl.load(centers + number * d + at, mask=at < d, other=0.0)
            total += tl.sum(r * (r + 2 * center[None, :]), 1)
        tl.store(terms + rows, total, mask=there)


def product_terms(
    codes: Tensor, centroids: Tensor, nbits: int, centers: Tensor, offsets: Tensor, sizes: Tensor, terms: Tensor
) -> None:
    """The twin of kernels.ivf_terms.product_terms."""
    m, ksub, dsub = centroids.shape
    d = m * dsub
    if centers.dtype != torch.float32 or not terms.is_contiguous() or not d:
        return NotImplemented
    if offsets.shape[0]:
        with on(codes):
            _terms[(offsets.shape[0], _SHARES)](
                codes.contiguous(),
                centroids.contiguous(),
                centers.contiguous(),
                offsets.contiguous(),
                sizes.contiguous(),
                terms,
                d,
                codes.shape[1],
                BITS=nbits,
                DSUB=dsub,
                KSUB=ksub,
                N=_ROWS,
                BD=power_of_two(d, 4, 32),
            )
    return None
