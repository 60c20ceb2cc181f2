"""All distances between two sets of rows, compiled."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels import metrics as m
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.threads import run_blocks

_IP, _L2, _L1, _LINF, _LP = m.INNER_PRODUCT, m.L2, m.L1, m.LINF, m.LP
_CANBERRA, _BRAY_CURTIS, _JENSEN_SHANNON, _JACCARD = m.CANBERRA, m.BRAY_CURTIS, m.JENSEN_SHANNON, m.JACCARD
_NAN_EUCLIDEAN = m.NAN_EUCLIDEAN
_NAN = np.float32(np.nan)


@inline
def dot(x, y):
    total = np.float32(0)
    for i in range(x.shape[0]):
        total += x[i] * y[i]
    return total


@inline
def squared_l2(x, y):
    total = np.float32(0)
    for i in range(x.shape[0]):
        gap = x[i] - y[i]
        total += gap * gap
    return total


@inline
def _gower(x, y):
    total, valid = np.float32(0), 0
    for i in range(x.shape[0]):
        a, b = x[i], y[i]
        if math.isnan(a) or math.isnan(b):
            continue
        if a >= 0 and b >= 0:
            if a > 1 or b > 1:
                return _NAN
            total += abs(a - b)
        elif a < 0 and b < 0:
            total += np.float32(a != b)
        else:
            return _NAN
        valid += 1
    return total / np.float32(valid) if valid else _NAN


@inline
def _nan_euclidean(x, y):
    total, present = np.float32(0), 0
    for i in range(x.shape[0]):
        if not (math.isnan(x[i]) or math.isnan(y[i])):
            gap = x[i] - y[i]
            total += gap * gap
            present += 1
    return np.float32(x.shape[0]) / np.float32(present) * total if present else _NAN


@jit
def one_distance(a, b, metric, arg):
    """The distance between two rows by any metric but the two that have loops of their own."""
    top, bottom = np.float32(0), np.float32(0)
    d = a.shape[0]
    if metric == _L1:
        for i in range(d):
            top += abs(a[i] - b[i])
    elif metric == _LINF:
        for i in range(d):
            gap = abs(a[i] - b[i])
            if gap > top:  # never for NaN, as in FAISS
                top = gap
    elif metric == _LP:
        for i in range(d):
            top += abs(a[i] - b[i]) ** arg
    elif metric == _CANBERRA:
        for i in range(d):
            top += abs(a[i] - b[i]) / (abs(a[i]) + abs(b[i]))
    elif metric == _BRAY_CURTIS:
        for i in range(d):
            top += abs(a[i] - b[i])
            bottom += abs(a[i] + b[i])
        top /= bottom
    elif metric == _JENSEN_SHANNON:
        for i in range(d):
            middle = np.float32(0.5) * (a[i] + b[i])
            top -= a[i] * np.log(middle / a[i]) + b[i] * np.log(middle / b[i])
        top *= np.float32(0.5)
    elif metric == _JACCARD:
        for i in range(d):
            top += np.fmin(a[i], b[i])
            bottom += np.fmax(a[i], b[i])
        top /= bottom
    elif metric == _NAN_EUCLIDEAN:
        top = _nan_euclidean(a, b)
    else:
        top = _gower(a, b)
    return top


@jit
def _fill(x, y, metric, arg, out, start, stop):
    for q in range(start, stop):
        for r in range(y.shape[0]):
            if metric == _IP:
                out[q, r] = dot(x[q], y[r])
            elif metric == _L2:
                out[q, r] = squared_l2(x[q], y[r])
            else:
                out[q, r] = one_distance(x[q], y[r], metric, arg)


def pairwise(x: Tensor, y: Tensor, metric: int, metric_arg: float = 0.0) -> Tensor:
    if metric not in m.FORMULAS or x.dtype != torch.float32 or y.dtype != torch.float32:
        return NotImplemented
    out = np.empty((x.shape[0], y.shape[0]), dtype=np.float32)
    a, b, arg = x.contiguous().numpy(), y.contiguous().numpy(), np.float32(metric_arg)
    grain = max(1, (1 << 18) // max(1, b.size))
    run_blocks(lambda start, stop: _fill(a, b, metric, arg, out, start, stop), a.shape[0], grain)
    return torch.from_numpy(out)
