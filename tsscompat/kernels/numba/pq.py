"""Product quantisation, compiled: the centroids are walked in step (transposed), so that a vector of them is compared at once."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks

F = np.float32
# From this many rows on a matrix product for each part beats the loops for tables.
_PRODUCT_FROM = 64


@numba.njit(nogil=True, fastmath=True, error_model="numpy")
def _least(values):
    """The smallest value; all of fastmath, so that it is a vector minimum (NaN is not looked after)."""
    least = values[0]
    for i in range(values.shape[0]):
        least = min(least, values[i])
    return least


@inline
def _where(values, wanted):
    """The first place of a value: groups are counted, so that all lanes of a vector work."""
    n = values.shape[0]
    for g in range(0, n, 64):
        part = values[g : min(g + 64, n)]
        hits = F(0)
        for i in range(part.shape[0]):
            hits += F(1) if part[i] == wanted else F(0)
        if hits > 0:
            for i in range(part.shape[0]):
                if part[i] == wanted:
                    return g + i
    return 0


@jit
def _encode(x, transposed, out, start, stop):
    m, dsub, ksub = transposed.shape
    gaps = np.empty(ksub, np.float32)
    for n in range(start, stop):
        for p in range(m):
            part, table = x[n, p * dsub : (p + 1) * dsub], transposed[p]
            value, row = part[0], table[0]
            for c in range(ksub):
                gap = value - row[c]
                gaps[c] = gap * gap
            for j in range(1, dsub):
                value, row = part[j], table[j]
                for c in range(ksub):
                    gap = value - row[c]
                    gaps[c] += gap * gap
            out[n, p] = _where(gaps, _least(gaps))


@jit
def _tables(x, centroids, ip, out, start, stop):
    m, ksub, dsub = centroids.shape
    for n in range(start, stop):
        for p in range(m):
            part = x[n, p * dsub : (p + 1) * dsub]
            for c in range(ksub):
                row, total = centroids[p, c], F(0)
                if ip:
                    for j in range(dsub):
                        total += part[j] * row[j]
                else:
                    for j in range(dsub):
                        gap = part[j] - row[j]
                        total += gap * gap
                out[n, p, c] = total


def nearest_parts(x: Tensor, centroids: Tensor) -> Tensor:
    transposed = centroids.transpose(1, 2).contiguous().numpy()
    rows = x.contiguous().numpy()
    out = np.empty((rows.shape[0], centroids.shape[0]), dtype=np.int32)
    grain = max(1, (1 << 20) // centroids.numel())
    run_blocks(lambda a, b: _encode(rows, transposed, out, a, b), rows.shape[0], grain)
    return torch.from_numpy(out)


def part_tables(x: Tensor, centroids: Tensor, metric: int) -> Tensor:
    ip = metric == INNER_PRODUCT
    if ip and x.shape[0] >= _PRODUCT_FROM:
        return NotImplemented
    rows, table = x.contiguous().numpy(), centroids.contiguous().numpy()
    out = np.empty((rows.shape[0], *table.shape[:2]), dtype=np.float32)
    run_blocks(lambda a, b: _tables(rows, table, ip, out, a, b), rows.shape[0], max(1, (1 << 19) // table.size))
    return torch.from_numpy(out)
