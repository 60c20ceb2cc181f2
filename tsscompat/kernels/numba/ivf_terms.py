"""Compiled twin of kernels/ivf_terms.py."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.numba.ivf_tables import bit_sums, byte_sums
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks

F = np.float32
NONE = np.zeros(0, F)


@jit
def _terms(codes, centroids, nbits, centers, offsets, sizes, terms, first, last):  # type: ignore[no-untyped-def]
    m, ksub, dsub = centroids.shape
    table = np.empty(m * ksub, np.float32)
    for l in range(first, last):
        # A table for each list: what each centroid contributes in each part.
        for part in range(m):
            for c in range(ksub):
                s = F(0)
                for j in range(dsub):
                    v = centroids[part, c, j]
                    s += v * (v + F(2) * centers[l, part * dsub + j])
                table[part * ksub + c] = s
        a, b = offsets[l], offsets[l] + sizes[l]
        if nbits == 8:
            byte_sums(table, codes, m, np.float32(0), a, b, terms[a:b])
        else:
            bit_sums(table, codes, m, nbits, a, b, terms[a:b])


def product_terms(
    codes: Tensor, centroids: Tensor, nbits: int, centers: Tensor, offsets: Tensor, sizes: Tensor, terms: Tensor
) -> None:
    m, ksub, _ = centroids.shape
    if int(sizes.sum()) * 8 < offsets.shape[0] * ksub:
        # Lists so short that their tables would cost more than decoding.
        return NotImplemented  # type: ignore[return-value]
    given = (
        codes.numpy(),
        centroids.contiguous().numpy(),
        nbits,
        centers.contiguous().numpy(),
        offsets.numpy(),
        sizes.numpy(),
        terms.numpy(),
    )
    run_blocks(lambda a, b: _terms(*given, a, b), offsets.shape[0], 8)


@jit
def _scores(x, centers, keys, ip, out, first, last):  # type: ignore[no-untyped-def]
    for q in range(first, last):
        for p in range(keys.shape[1]):
            s = F(0)
            if keys[q, p] >= 0:
                c = centers[keys[q, p]]
                if ip:
                    for j in range(x.shape[1]):
                        s += x[q, j] * c[j]
                else:
                    for j in range(x.shape[1]):
                        t = x[q, j] - c[j]
                        s += t * t
            out[q, p] = s


def list_scores(x: Tensor, centers: Tensor, keys: Tensor, metric: int) -> Tensor:
    out = np.empty(tuple(keys.shape), np.float32)
    given = (x.numpy(), centers.numpy(), keys.numpy(), metric == INNER_PRODUCT, out)
    run_blocks(lambda a, b: _scores(*given, a, b), keys.shape[0], max(1, 1_000_000 // max(1, keys.shape[1] * x.shape[1])))
    return torch.from_numpy(out)


@jit
def fill_tables(x, transposed, shift, ip, scale, out, first, last):  # type: ignore[no-untyped-def]
    parts, dsub, ksub = transposed.shape
    for q in range(first, last):
        for m in range(parts):
            row = out[q, m]
            for c in range(ksub):
                row[c] = F(0)
            for j in range(dsub):
                v = x[q, m * dsub + j] - (shift[m * dsub + j] if shift.shape[0] else F(0))
                table = transposed[m, j]
                if ip:
                    v *= scale
                    for c in range(ksub):
                        row[c] += v * table[c]
                else:
                    for c in range(ksub):
                        t = v - table[c]
                        row[c] += t * t


def query_tables(x: Tensor, transposed: Tensor, shift: Tensor | None, metric: int, scale: float) -> Tensor:
    table, nq = transposed.numpy(), x.shape[0]
    out = np.empty((nq, table.shape[0], table.shape[2]), F)
    given = (x.numpy(), table, NONE if shift is None else shift.numpy(), metric == INNER_PRODUCT, F(scale), out)
    if nq * table.size < 1 << 20:
        fill_tables(*given, 0, nq)
    else:
        run_blocks(lambda a, b: fill_tables(*given, a, b), nq, max(1, (1 << 20) // table.size))
    return torch.from_numpy(out)
