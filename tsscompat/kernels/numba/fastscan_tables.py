"""Tables of 8 bits from tables of floats, compiled."""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.jit import exact, inline, jit

F = np.float32


@exact
def _extent(row):  # type: ignore[no-untyped-def]
    """The least and the greatest number; NaN is neither."""
    least, most = F(np.inf), F(-np.inf)
    for value in row:
        if value < least:
            least = value
        if value > most:
            most = value
    return least, most


@exact
def _scale(widest, reach):  # type: ignore[no-untyped-def]
    entry = F(255) / widest if widest > 0 else F(np.inf)
    total = F(65535) / reach if reach > 0 else F(np.inf)
    scale = min(entry, total)
    return scale if np.isfinite(scale) else F(0)


@exact
def _rounded(value, least, scale):  # type: ignore[no-untyped-def]
    return np.floor(F(np.float64((value - least) * scale) + 0.5))


@exact
def _measure(tables, biases, deep, counts, least):  # type: ignore[no-untyped-def]
    """The scale of a query's tables, and what its sums start from."""
    probes, m = tables.shape[:2]
    spans, heads = np.empty((probes, m), np.float32), np.empty(probes, np.float32)
    low, high = _extent(biases)
    widest = F(-np.inf)
    for p in range(probes):
        heads[p] = biases[p] if deep else F(0)
        for i in range(m):
            least[p, i], most = _extent(tables[p, i])
            spans[p, i] = most - least[p, i]
            if spans[p, i] > widest:
                widest = spans[p, i]
            heads[p] += least[p, i]
    start, _ = _extent(heads)
    reach = F(-np.inf)
    for p in range(probes):
        total = high - low if biases.shape[0] else F(0)
        if deep:
            total = max(biases[p] - low, heads[p] - start)
        for i in range(m):
            total += spans[p, i] * counts[i]
        if total > reach:
            reach = total
    if biases.shape[0] and not deep:
        start += low
    return _scale(widest, reach), start, start if deep else low


@exact
def fill_luts(tables, biases, deep, counts, plain, luts, added, scales, starts, first, last):  # type: ignore[no-untyped-def]
    """Quantise the tables (nq, probes, M, 16) of queries first : last; sums one by one and not contracted, as FAISS's are."""
    probes, m = tables.shape[1], tables.shape[2]
    least = np.empty((probes, m), np.float32)
    for q in range(first, last):
        scale, start, lowest = _measure(tables[q], biases[q], deep, counts, least)
        scales[q], starts[q] = scale, start
        for p in range(probes):
            if luts.shape[1] == 2 or luts.shape[2] > m:
                luts[q * probes + p] = 0
            for i in range(m):
                out = luts[q * probes + p, 1 if i >= plain else 0, i]
                if least[p, i] == np.inf:
                    out[:] = 0
                    continue
                for c in range(16):
                    out[c] = np.uint8(_rounded(tables[q, p, i, c], least[p, i], scale))
        for p in range(biases.shape[1]):
            head = biases[q, p]
            if deep:
                for i in range(m):
                    head += least[p, i]
            added[q, p] = np.int32(_rounded(head, lowest, scale)) if head == head else 0


@jit
def quantize_some(tables, biases, deep, counts, plain, luts, added, scales, starts, first, last):  # type: ignore[no-untyped-def]
    """`fill_luts` for callers in Python."""
    fill_luts(tables, biases, deep, counts, plain, luts, added, scales, starts, first, last)


@inline
def deepen(products, terms, keys, coarse, tables, biases, first, last):  # type: ignore[no-untyped-def]
    """Tables of each probed list from its terms and the query's products; NaN for lists of -1."""
    for q in range(first, last):
        for p in range(keys.shape[1]):
            l = keys[q, p]
            biases[q, p] = coarse[q, p] if l >= 0 else np.float32(np.nan)
            for m in range(tables.shape[2]):
                for c in range(16):
                    tables[q, p, m, c] = terms[l, m, c] + products[q, m, c] if l >= 0 else np.float32(np.nan)
