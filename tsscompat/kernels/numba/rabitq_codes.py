"""RaBitQ codes of vectors; compiled."""

from __future__ import annotations

import numpy as np

from tsscompat.kernels.numba.jit import exact, jit
from tsscompat.kernels.rabitq import DEVIATIONS, EPSILON

F = np.float32
_EPSILON, _DEVIATIONS = F(EPSILON), F(DEVIATIONS)


@exact
def _factors(square, own, absolute, d, ip, out):  # type: ignore[no-untyped-def]
    """What stands behind the signs, in single precision but for the root."""
    norm, root = F(np.sqrt(np.float64(square))), F(1) / np.sqrt(F(d))
    cosine = absolute * (F(1) if square < _EPSILON else F(1) / norm) * root
    out[0] = square - own if ip else square
    out[1] = (F(1) if abs(cosine) < _EPSILON else F(1) / cosine) * norm
    if out.shape[0] == 3:
        half = F(0.5) * absolute
        ratio = square * F(d * 0.25) / (half * half)
        error = F(0)
        if half > _EPSILON and ratio > F(1):
            error = norm * _DEVIATIONS * np.sqrt((ratio - F(1)) / F(max(1, d - 1)))
        out[2] = error if ip else F(2) * error


@exact
def _signs(x, centers, ip, codes, factors, first, last):  # type: ignore[no-untyped-def]
    """Signs and factors of rows first : last, around a center each or one for all.

    Sums go one number after the other, not contracted: they are stored, and FAISS's are made so. A row of 128 takes 0.5 us, the gather of
    its center included; in torch, with a temporary for each operation, it took 8.
    """
    d = x.shape[1]
    for i in range(first, last):
        row, center, code = x[i], centers[i if centers.shape[0] > 1 else 0], codes[i]
        square, own, absolute = F(0), F(0), F(0)
        for begin in range(0, d, 8):
            byte = 0
            for j in range(begin, min(begin + 8, d)):
                gap = row[j] - center[j]
                square += gap * gap
                own += row[j] * row[j]
                absolute += abs(gap)
                byte |= (gap > F(0)) << (j - begin)
            code[begin // 8] = byte
        _factors(square, own, absolute, d, ip, factors[i])


@jit
def signs(x, centers, ip, codes, factors, first, last):  # type: ignore[no-untyped-def]
    """`_signs` for callers in Python."""
    _signs(x, centers, ip, codes, factors, first, last)
