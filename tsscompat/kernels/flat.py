"""Exhaustive search: the k nearest rows, all rows within a radius, the nearest row."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.metrics import FORMULAS, INNER_PRODUCT, L2, is_similarity, pairwise
from tsscompat.kernels.select import merge, padded, select

# Distances held at once, in numbers.
_BLOCK = 1 << 24
# From this many queries on, L2 is computed as |x|² + |y|² - 2xy, as FAISS does.
BLAS_FROM = 20


def distance_block(x: Tensor, y: Tensor, metric: int, metric_arg: float, norms: Tensor | None = None) -> Tensor:
    """All distances of a block: by matrix product where FAISS takes one, term by term elsewhere."""
    if x.shape[0] < BLAS_FROM or metric not in (INNER_PRODUCT, L2):
        return pairwise(x, y, metric, metric_arg)
    products = x @ y.t()
    if metric == INNER_PRODUCT:
        return products
    squares = y.square().sum(1) if norms is None else norms
    return products.mul_(-2).add_(squares).add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


@accelerated
def knn(
    x: Tensor, y: Tensor, k: int, metric: int, metric_arg: float = 0.0, allowed: Tensor | None = None, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k rows of y best for each row of x, in FAISS's order (select.py); `norms`: the squared norms of y, if known."""
    largest = is_similarity(metric)
    best_d, best_i = padded(x.shape[0], k, largest, x.device)
    if x.shape[0] == 0 or y.shape[0] == 0:
        return best_d, best_i
    q_step = max(1, min(x.shape[0], _BLOCK >> 12))
    b_step = max(1, _BLOCK // q_step)
    for q in range(0, x.shape[0], q_step):
        block = x[q : q + q_step]
        for b in range(0, y.shape[0], b_step):
            part = slice(b, b + b_step)
            values = distance_block(block, y[part], metric, metric_arg, None if norms is None else norms[part])
            ids = torch.arange(b, b + values.shape[1], device=x.device)
            if allowed is not None:
                ids = ids.masked_fill(~allowed[part], -1)
            found = select(values, ids, min(k, values.shape[1]), largest)
            rows = slice(q, q + q_step)
            both = torch.cat([best_d[rows], found[0]], 1), torch.cat([best_i[rows], found[1]], 1)
            best_d[rows], best_i[rows] = merge(*both, k, largest)
    return best_d, best_i


@accelerated
def within(
    x: Tensor,
    y: Tensor,
    radius: float,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All rows of y closer than the radius (beyond it, for similarities) to each row of x: limits, distances, ids in order."""
    queries, values, ids = [], [], []
    q_step = max(1, min(x.shape[0], 1024))
    b_step = _BLOCK // q_step
    for q in range(0, x.shape[0], q_step):
        for b in range(0, y.shape[0], b_step):
            part = slice(b, b + b_step)
            block = distance_block(x[q : q + q_step], y[part], metric, metric_arg, None if norms is None else norms[part])
            inside = block > radius if is_similarity(metric) else block < radius
            if allowed is not None:
                inside &= allowed[part]
            at = inside.nonzero()
            queries.append(at[:, 0] + q)
            values.append(block[at[:, 0], at[:, 1]])
            ids.append(at[:, 1] + b)
    limits = torch.zeros(x.shape[0] + 1, dtype=torch.int64, device=x.device)
    if not queries:
        return limits, torch.empty(0, device=x.device), torch.empty(0, dtype=torch.int64, device=x.device)
    owner = torch.cat(queries)
    limits[1:] = torch.bincount(owner, minlength=x.shape[0]).cumsum(0)
    order = torch.sort(owner, stable=True).indices
    return limits, torch.cat(values)[order], torch.cat(ids)[order]


@accelerated
def nearest(x: Tensor, y: Tensor, metric: int = L2) -> tuple[Tensor, Tensor]:
    """The best row of y for each row of x: its distance and number (-1 for a row of NaN)."""
    distances, labels = knn.definition(x, y, 1, metric)
    return distances[:, 0], labels[:, 0]


def row_distances(x: Tensor, y: Tensor, metric: int, metric_arg: float = 0.0) -> Tensor:
    """The distance between each row of x and the same row of y."""
    return FORMULAS[metric](x, y, metric_arg)


@accelerated
def named_distances(x: Tensor, y: Tensor, labels: Tensor, metric: int, metric_arg: float = 0.0) -> Tensor:
    """The distance of each row of x to the rows of y that it names (n, m); the worst for names of -1."""
    out = padded(labels.shape[0], labels.shape[1], is_similarity(metric), x.device)[0]
    rows, columns = (labels >= 0).nonzero(as_tuple=True)
    step = max(1, _BLOCK // max(1, x.shape[1]))
    for i in range(0, rows.shape[0], step):
        r, c = rows[i : i + step], columns[i : i + step]
        out[r, c] = row_distances(x[r], y[labels[r, c]], metric, metric_arg)
    return out
