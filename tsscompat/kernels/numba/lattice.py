"""Compiled twins of kernels/lattice.py."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks


@jit
def _nearest(x, atoms, points, which, products, first, last):  # type: ignore[no-untyped-def]
    d = x.shape[1]
    sizes = np.empty(d, np.float32)
    for i in range(first, last):
        order = np.argsort(-np.abs(x[i]), kind="mergesort")
        for j in range(d):
            sizes[j] = abs(x[i, order[j]])
        best, most = 0, np.float32(-np.inf)
        for a in range(atoms.shape[0]):
            total = np.float32(0)
            for j in range(d):
                total += atoms[a, j] * sizes[j]
            if total > most:
                best, most = a, total
        for j in range(d):
            points[i, order[j]] = np.copysign(atoms[best, j], x[i, order[j]])
        which[i], products[i] = best, most


def nearest_points(x: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    given, table = x.contiguous().numpy(), atoms.numpy()
    n = given.shape[0]
    points, which, products = np.empty(given.shape, np.float32), np.empty(n, np.int64), np.empty(n, np.float32)
    grain = max(1, 1_000_000 // (table.size + 1))
    run_blocks(lambda a, b: _nearest(given, table, points, which, products, a, b), n, grain)
    return torch.from_numpy(points), torch.from_numpy(which), torch.from_numpy(products)


@jit
def _encode(points, counts, before, out, first, last):  # type: ignore[no-untyped-def]
    d = points.shape[1]
    codes, squares = np.empty(d, np.int64), np.empty(d, np.int64)
    for i in range(first, last):
        total, whole = np.int64(0), True
        for j in range(d):
            value = points[i, j]
            # Large numbers would not fit the sum, and are none of a small sphere's.
            whole &= abs(value) < 1024 and value == np.rint(value)
            squares[j], codes[j] = np.int64(value * value) if whole else 0, 1 if value < 0 else 0
            total += squares[j]
        if not whole or total != counts.shape[1] - 1:
            out[i] = -1
            continue
        width = d
        for level in range(1, counts.shape[0]):
            width >>= 1
            for j in range(width):
                a, b = squares[2 * j], squares[2 * j + 1]
                codes[j] = before[level, a + b, a] + codes[2 * j] * counts[level - 1, b] + codes[2 * j + 1]
                squares[j] = a + b
        out[i] = codes[0]


def encode_points(points: Tensor, counts: Tensor, before: Tensor) -> Tensor:
    given, out = points.contiguous().numpy(), np.empty(points.shape[0], np.int64)
    tables = counts.numpy(), before.numpy()
    run_blocks(lambda a, b: _encode(given, *tables, out, a, b), out.shape[0], max(1, 100_000 // given.shape[1]))
    return torch.from_numpy(out)


@jit
def _decode(given, counts, before, out, first, last):  # type: ignore[no-untyped-def]
    d = out.shape[1]
    codes, squares = np.empty(d, np.int64), np.empty(d, np.int64)
    for i in range(first, last):
        codes[0], squares[0] = given[i], counts.shape[1] - 1
        width = 1
        for level in range(counts.shape[0] - 1, 0, -1):
            for j in range(width - 1, -1, -1):
                code, square = codes[j], squares[j]
                low, high = 0, square + 1
                while high > low + 1:
                    middle = (low + high) >> 1
                    if before[level, square, middle] <= code:
                        low = middle
                    else:
                        high = middle
                code -= before[level, square, low]
                each = max(1, counts[level - 1, square - low])
                squares[2 * j], squares[2 * j + 1] = low, square - low
                codes[2 * j], codes[2 * j + 1] = code // each, code % each
            width *= 2
        for j in range(d):
            size = np.sqrt(np.float32(squares[j]))
            out[i, j] = size if codes[j] == 0 else -size


def decode_points(codes: Tensor, counts: Tensor, before: Tensor) -> Tensor:
    d = 1 << (counts.shape[0] - 1)
    given, out = codes.contiguous().numpy(), np.empty((codes.shape[0], d), np.float32)
    tables = counts.numpy(), before.numpy()
    run_blocks(lambda a, b: _decode(given, *tables, out, a, b), out.shape[0], max(1, 30_000 // d))
    return torch.from_numpy(out)
