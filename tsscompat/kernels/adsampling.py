"""Assignment that gives a centroid up as soon as its first dimensions put it too far (ADSampling, Kuffo et al. 2026).

In a randomly rotated space the share of a squared distance that p of d dimensions hold is chi-squared: when it exceeds `bounds[p]` times
the distance to the best centroid so far, the rest is unlikely to make up for it. A centroid is checked after `front` dimensions and
after each further `block`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated

# Pairs whose trailing dimensions are gathered at once, in numbers.
_GATHER = 1 << 24


def edges(d: int, front: int, block: int) -> list[int]:
    """Where the checks after the first one lie: the ends of the blocks of trailing dimensions."""
    return [*range(front + block, d, block), d]


def _pairs(x: Tensor, y: Tensor, near: Tensor, partial: Tensor, bounds: Tensor, front: int, block: int) -> tuple[Tensor, Tensor]:
    """For the pairs (row, centroid) that pass the first check: the distance, and the smallest best distance at which all checks pass."""
    ends = edges(x.shape[1], front, block)
    limits = bounds.double()
    distances, needs = [], []
    for part in near.split(max(1, _GATHER // x.shape[1])):
        i, j = part.unbind(1)
        total = partial[i, j].double()
        need = total / limits[front]
        gaps = (x[i, front:] - y[j, front:]).square()
        for start, stop in zip([front, *ends], ends):
            total = total + gaps[:, start - front : stop - front].sum(1)
            need = torch.maximum(need, total / limits[stop])
        distances.append(total)
        needs.append(need)
    return torch.cat(distances), torch.cat(needs)


@accelerated
def improve(
    x: Tensor, y: Tensor, partial: Tensor, best: Tensor, owner: Tensor, bounds: Tensor, front: int, block: int
) -> tuple[Tensor, Tensor, int]:
    """The best distance and owner of each row after all centroids were tried in order, and how many pairs the first check dropped.

    `partial` (n, k) are squared distances over the first `front` dimensions, `best` and `owner` what the rows come with.
    """
    best, owner, k = best.double(), owner.clone(), y.shape[0]
    # The best distance only falls, so what passes the check at the end passed it at the start: few pairs.
    near = (partial <= bounds[front] * best.float()[:, None]).nonzero()
    if near.shape[0] == 0:
        return best.float(), owner, partial.numel()
    found, need = _pairs(x, y, near, partial, bounds, front, block)
    distances = torch.full(partial.shape, torch.inf, dtype=torch.float64, device=x.device)
    needs = distances.clone()
    distances[near[:, 0], near[:, 1]], needs[near[:, 0], near[:, 1]] = found, need
    columns, dropped = torch.arange(k, device=x.device), 0
    rows = torch.arange(x.shape[0], device=x.device)
    begun = torch.zeros_like(rows)
    # Each round takes for every row the next centroid that is better than its best so far; a handful of rounds for most data.
    while rows.shape[0]:
        top, ahead = best[rows, None], columns >= begun[:, None]
        better = ahead & (distances[rows] < top) & (needs[rows] <= top)
        some = better.any(1)
        at = torch.where(some, better.to(torch.uint8).argmax(1), k)
        tried = ahead & (columns <= at[:, None])
        dropped += int((tried & (partial[rows] > bounds[front] * top.float())).sum())
        rows, at = rows[some], at[some]
        best[rows] = distances[rows, at].float().double()
        owner[rows] = at.to(owner.dtype)
        begun = at + 1
    return best.float(), owner, dropped
