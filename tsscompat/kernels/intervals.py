"""Sorted numbers cut into intervals with the least sum of squared distances to the intervals' means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


def _levels(n: int, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The spans (low, middle, high) of a binary search tree over 0..n, a level at a time."""
    low, high = torch.zeros(1, dtype=torch.int64, device=device), torch.full((1,), n, device=device)
    levels = []
    while low.shape[0]:
        middle = (low + high) // 2
        levels.append((low, middle, high))
        low, high = torch.cat([low, middle + 1]), torch.cat([middle - 1, high])
        low, high = low[low <= high], high[low <= high]
    return levels


def _divide(
    best: Tensor, cost: Callable[[Tensor, Tensor], Tensor], levels: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """One more cluster: the cost for each end, and where to cut; cuts grow with the ends, so each halves the search for the others."""
    n, device = best.shape[0] - 1, best.device
    new = torch.empty_like(best)
    # A cut on either side of 0..n bounds the outermost spans.
    cut = torch.zeros(n + 3, dtype=torch.int64, device=device)
    cut[n + 2] = n
    for low, middle, high in levels:
        first = cut[low]
        count = torch.minimum(cut[high + 2], middle) - first + 1
        span = torch.arange(low.shape[0], device=device).repeat_interleave(count)
        starts = torch.arange(span.shape[0], device=device) + (first - count.cumsum(0) + count)[span]
        values = best[starts] + cost(starts, middle[span])
        least = torch.full_like(low, 0, dtype=values.dtype).scatter_reduce(0, span, values, "amin", include_self=False)
        where = torch.where(values == least[span], starts, n)
        cut[middle + 1] = torch.full_like(low, n).scatter_reduce(0, span, where, "amin")
        new[middle] = least
    return new, cut[1 : n + 2]


@accelerated
def cuts(total: Tensor, squares: Tensor, k: int) -> Tensor:
    """For 1 to k intervals and each end of 0..n where the last interval begins, (k, n + 1).

    Given are the sums of the first 0..n numbers, and of their squares.
    """

    def cost(start: Tensor, stop: Tensor) -> Tensor:
        """Squared distances of points start:stop to their mean."""
        part = total[stop] - total[start]
        return (squares[stop] - squares[start] - part * part / (stop - start).clamp(min=1)).clamp(min=0)

    ends, levels = torch.arange(total.shape[0], device=total.device), _levels(total.shape[0] - 1, total.device)
    best, places = cost(torch.zeros_like(ends), ends), [torch.zeros_like(ends)]
    for _ in range(1, k):
        best, place = _divide(best, cost, levels)
        places.append(place)
    return torch.stack(places)
