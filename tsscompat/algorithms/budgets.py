"""How many codes of each probed list a query may score, when it may score so many in all."""

from __future__ import annotations

import torch
from torch import Tensor

# Lists beyond this share of the weights are not probed by a dynamic nprobe.
_ENOUGH = 0.95


def weights_of(coarse: Tensor, largest: bool) -> Tensor:
    """How much each probed list (n, nprobe) counts: less the farther it is, measured by the mean of what is beyond the nearest."""
    cost = (-coarse if largest else coarse).clamp(max=torch.finfo(torch.float32).max / 4)
    gap = cost - cost.amin(1, keepdim=True)
    weights = torch.exp(-gap / gap.mean(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny))
    return weights / weights.sum(1, keepdim=True)


def fewer_lists(keys: Tensor, weights: Tensor) -> Tensor:
    """The probed lists without the farthest ones that together weigh little."""
    return torch.where(weights.cumsum(1) - weights < _ENOUGH, keys, -1)


def shares(sizes: Tensor, weights: Tensor, budget: int, by_size: bool, least: int, most: int, strict: bool) -> Tensor:
    """Codes of each probed list (n, nprobe) with these sizes; what a short list leaves goes to the others, nearest first.

    No share is below `least` nor, unless 0, above `most`; `strict` keeps the sum within the budget all the same.
    """
    weights = weights * sizes if by_size else weights * (sizes > 0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    roof = sizes.clamp(max=most) if most else sizes
    share = torch.minimum((weights * budget).floor().to(torch.int64), roof)
    room = roof - share
    left = (budget - share.sum(1, keepdim=True)).clamp(min=0)
    share = share + (left - (room.cumsum(1) - room)).clamp(min=0).minimum(room)
    share = torch.minimum(share.clamp(min=least), roof)
    if strict:
        share = (budget - (share.cumsum(1) - share)).clamp(min=0).minimum(share)
    return share
