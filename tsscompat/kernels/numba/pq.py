"""Product quantisation, compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.jit import in_columns, jit
from tsscompat.kernels.numba.lanes import grouped, nearest_four, nearest_one
from tsscompat.kernels.threads import run_blocks

F = np.float32
# From this many rows on a matrix product for each part beats the loops for tables.
_PRODUCT_FROM = 64
# Up to so many rows are compared with centroids as they lie.
_FEW = 2


@jit
def encode(x, table, dsub, out, start, stop):
    """Codes of rows start:stop, part by part, so that a part's table stays in the first-level cache, four rows at a time."""
    parts, groups, columns, size = table.shape
    d, values, places = parts * dsub, np.empty(4, np.float32), np.empty(4, np.int32)
    rows, tables, found, named = address(x), address(table), address(values), address(places)
    for block in range(start, stop, 128):
        end = min(block + 128, stop)
        for p in range(parts):
            own = tables + 4 * p * groups * columns * size
            if end - block == 1:
                nearest_one(rows + 4 * (block * d + p * dsub), own, dsub, groups, found, named)
                out[block, p] = max(places[0], 0)
                continue
            for n in range(block, end, 4):
                # Behind the last row it is taken again.
                a, last = rows + 4 * (n * d + p * dsub), 4 * d * (end - 1 - n)
                b, c, e = a + min(4 * d, last), a + min(8 * d, last), a + min(12 * d, last)
                nearest_four(a, b, c, e, own, dsub, groups, found, named)
                for i in range(min(4, end - n)):
                    out[n + i, p] = max(places[i], 0)


@in_columns
def _encode_few(x, centroids, out):
    """The same for few rows, for which turning tables round would take several times as long; the sums are the same."""
    m, ksub, dsub = centroids.shape
    for n in range(x.shape[0]):
        for p in range(m):
            least, place, own = F(np.inf), 0, x[n, p * dsub : (p + 1) * dsub]
            for c in range(ksub):
                row, total = centroids[p, c], F(0)
                for j in range(dsub):
                    gap = row[j] - own[j]
                    total += gap * gap
                if total < least:
                    least, place = total, c
            out[n, p] = place


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
    rows, dsub = x.contiguous().numpy(), centroids.shape[2]
    out = np.empty((rows.shape[0], centroids.shape[0]), dtype=np.int32)
    if rows.shape[0] <= _FEW:
        _encode_few(rows, centroids.contiguous().numpy(), out)
        return torch.from_numpy(out)
    table = grouped(centroids.contiguous().numpy())
    run_blocks(lambda a, b: encode(rows, table, dsub, out, a, b), rows.shape[0], max(1, (1 << 20) // centroids.numel()))
    return torch.from_numpy(out)


def part_tables(x: Tensor, centroids: Tensor, metric: int) -> Tensor:
    ip = metric == INNER_PRODUCT
    if ip and x.shape[0] >= _PRODUCT_FROM:
        return NotImplemented
    rows, table = x.contiguous().numpy(), centroids.contiguous().numpy()
    out = np.empty((rows.shape[0], *table.shape[:2]), dtype=np.float32)
    run_blocks(lambda a, b: _tables(rows, table, ip, out, a, b), rows.shape[0], max(1, (1 << 19) // table.size))
    return torch.from_numpy(out)
