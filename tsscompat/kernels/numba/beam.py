"""Beam search of residual codes, compiled.

Distances come from tables of inner products, a row of additions for each code so far instead of a product with each centroid; only those
that enter the beam are then computed term by term, so that errors do not add up over the steps.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.lanes import below, lowest
from tsscompat.kernels.threads import run_blocks

F = np.float32
# Vectors of a block: their residuals and a codebook's products stay in the second-level cache.
_BLOCK = 32
# Vectors whose products with the codebooks are held at once.
_ROWS = 2048
# Values that are tested together for being among the best.
GROUP = 64


@jit
def add_rows(acc, table, starts, count):
    """Add runs of a table, which begin at given places, to acc; four at a time, so that acc is read and written less often."""
    size = acc.shape[0]
    i = 0
    while i + 4 <= count:
        a, b = table[starts[i] : starts[i] + size], table[starts[i + 1] : starts[i + 1] + size]
        c, d = table[starts[i + 2] : starts[i + 2] + size], table[starts[i + 3] : starts[i + 3] + size]
        for k in range(size):
            acc[k] += (a[k] + b[k]) + (c[k] + d[k])
        i += 4
    while i < count:
        a = table[starts[i] : starts[i] + size]
        for k in range(size):
            acc[k] += a[k]
        i += 1


@jit
def _keep(acc, first, best, places, held):
    """Enter values, numbered from `first` on, among the smallest so far, which are in order; returns how many there are.

    Behind the last value acc is filled up to whole groups with infinity.
    """
    most, at = best.shape[0], address(acc)
    for g in range(0, acc.shape[0], GROUP):
        bits = below(at, g, best[most - 1])
        while bits:
            k = g + lowest(bits)
            bits &= bits - np.uint64(1)
            value = acc[k]
            if value < best[most - 1]:
                i = min(held, most - 1)
                while i > 0 and best[i - 1] > value:
                    best[i], places[i] = best[i - 1], places[i - 1]
                    i -= 1
                best[i], places[i] = value, first + k
                held = min(held + 1, most)
    return held


@jit
def _less(row, centroid, out):
    """Write row - centroid and return its squared norm."""
    total = F(0)
    for j in range(row.shape[0]):
        gap = row[j] - centroid[j]
        out[j] = gap
        total += gap * gap
    return total


@jit
def _common(norms, products, out):
    for k in range(norms.shape[0]):
        out[k] = norms[k] - F(2) * products[k]


@jit
def _moved(values, by, out):
    for k in range(values.shape[0]):
        out[k] = values[k] + by


@jit
def _encode(x, products, table, first, norms, doubled, at, width, out, start, stop):
    """Codes of rows start : stop, codebook by codebook for a block of them."""
    d, parts = x.shape[1], first.shape[0] - 1
    left, next_left = np.empty((_BLOCK, width, d), F), np.empty((_BLOCK, width, d), F)
    gone, next_gone = np.empty((_BLOCK, width), F), np.empty((_BLOCK, width), F)
    codes, next_codes = np.empty((_BLOCK, width, parts), np.int32), np.empty((_BLOCK, width, parts), np.int32)
    places, rows, nothing = np.empty(width, np.int64), np.empty(parts, np.int64), np.zeros(d, F)
    for begin in range(start, stop, _BLOCK):
        end, beam = min(begin + _BLOCK, stop), 1
        for n in range(begin, end):
            gone[n - begin, 0] = _less(x[n], nothing, left[n - begin, 0])
        for m in range(parts):
            low, size = first[m], first[m + 1] - first[m]
            kept = min(beam * size, width)
            best, common = np.empty(kept, F), np.empty(size, F)
            acc = np.full((size + GROUP - 1) // GROUP * GROUP, np.inf, F)
            sums = acc[:size]
            for n in range(begin, end):
                i = n - begin
                _common(norms[low : low + size], products[n, low : low + size], common)
                for t in range(kept):
                    best[t] = np.inf
                held = 0
                for b in range(beam):
                    _moved(common, gone[i, b], sums)
                    for p in range(m):
                        rows[p] = at[m] + (first[p] + codes[i, b, p]) * size
                    add_rows(sums, doubled, rows, m)
                    held = _keep(acc, b * size, best, places, held)
                for t in range(kept):
                    # NaN enters nowhere: what is missing is the first pair.
                    place = places[t] if t < held else 0
                    parent, chosen = place // size, place % size
                    next_gone[i, t] = _less(left[i, parent], table[low + chosen], next_left[i, t])
                    for p in range(m):
                        next_codes[i, t, p] = codes[i, parent, p]
                    next_codes[i, t, m] = chosen
            left, next_left = next_left, left
            gone, next_gone = next_gone, gone
            codes, next_codes = next_codes, codes
            beam = kept
        for n in range(begin, end):
            least = 0
            for b in range(1, beam):
                if gone[n - begin, b] < gone[n - begin, least]:
                    least = b
            for p in range(parts):
                out[n, p] = codes[n - begin, least, p]


@functools.lru_cache(maxsize=64)
def _layout(nbits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where each codebook begins, and its block of products."""
    first = np.cumsum([0, *(1 << bits for bits in nbits)])
    return first, np.cumsum([0, *(int(low) << bits for low, bits in zip(first, nbits))])[:-1]


def beam_codes(x: Tensor, table: Tensor, nbits: tuple[int, ...], width: int, known: tuple[Tensor, Tensor] | None) -> Tensor:
    if known is None or not nbits:
        return NotImplemented
    first, at = _layout(nbits)
    out = np.empty((x.shape[0], len(nbits)), np.int32)
    given = table.contiguous().numpy(), first, known[0].numpy(), known[1].numpy(), at, width
    for i in range(0, x.shape[0], _ROWS):
        part = x[i : i + _ROWS].contiguous()
        products, rows, codes = torch.mm(part, table.t()).numpy(), part.numpy(), out[i : i + _ROWS]
        run_blocks(lambda a, b: _encode(rows, products, *given, codes, a, b), rows.shape[0], _BLOCK)  # noqa: B023
    return torch.from_numpy(out)
