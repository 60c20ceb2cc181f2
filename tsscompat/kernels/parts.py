"""Which parts of the lists that a query probes may hold something better than a bound."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf_lists import runs

# How far rounding may be off, as a share of the largest distance that is possible: a hundred times what float32 sums of thousands lose.
SLACK = 1e-4
_BLOCK = 1 << 22


@accelerated
def near_parts(
    x: Tensor,
    keys: Tensor,
    bound: Tensor,
    share: Tensor | None,
    first: Tensor,
    centers: Tensor,
    radii: Tensor,
    sizes: Tensor,
    largest: bool,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """For each query the parts of the lists that it probes which are worth a look, in the order of the lists, padded with -1.

    Those are parts whose vectors may be better than the query's bound (a squared distance or, where the `largest` is best, an inner
    product): part i has sizes[i] of them within radii[i] of centers[i], and parts first[l] : first[l + 1] are those of list l. With
    `share` (nq, nprobe) they are also the nearest of their list, as many as it takes to have so many vectors. Answers the parts, the
    probe of each, how many vectors each may give, and how many lists have parts worth a look.
    """
    part, query, probe, costs = _costs(x, keys, first, centers, largest)
    radius = radii[part]
    if largest:
        reach = x.square().sum(1).sqrt()[query] * radius
        may = -costs + reach >= bound[query] - SLACK * (costs.abs() + reach)
    else:
        distance = costs.sqrt()
        may = (distance - radius).clamp(min=0).square() <= bound[query] + SLACK * (distance + radius).square()
    part, query, probe, costs = part[may], query[may], probe[may], costs[may]
    room, pair = sizes[part], query * keys.shape[1] + probe
    if share is not None:
        by_cost = torch.argsort(costs, stable=True)
        order = by_cost[torch.argsort(pair[by_cost], stable=True)]
        part, query, probe, pair, room = part[order], query[order], probe[order], pair[order], room[order]
        of_pair = torch.zeros(keys.numel(), dtype=torch.int64, device=x.device).index_add_(0, pair, room)
        before = room.cumsum(0) - room - (of_pair.cumsum(0) - of_pair)[pair]
        room = (share.reshape(-1)[pair] - before).clamp(min=0).minimum(room)
        fits = room > 0
        part, query, probe, pair, room = part[fits], query[fits], probe[fits], pair[fits], room[fits]
    width = torch.bincount(query, minlength=x.shape[0])
    column = torch.arange(part.shape[0], device=x.device) - (width.cumsum(0) - width)[query]
    shape = (x.shape[0], int(width.max()) if x.shape[0] else 0)
    parts = torch.full(shape, -1, dtype=torch.int64, device=x.device)
    probes, rooms = torch.zeros_like(parts), torch.zeros_like(parts)
    parts[query, column], probes[query, column], rooms[query, column] = part, probe, room
    return parts, probes, rooms, int(torch.unique(pair).shape[0])


def _costs(x: Tensor, keys: Tensor, first: Tensor, centers: Tensor, largest: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All parts of the lists probed, with query, probe and cost of each."""
    known = keys.clamp(min=0)
    counts = torch.where(keys >= 0, first[known + 1] - first[known], 0)
    part, pair = runs(first[known].reshape(-1), counts.reshape(-1))
    query, probe = pair // max(1, keys.shape[1]), pair % max(1, keys.shape[1])
    costs, step = torch.empty(part.shape[0], device=x.device), max(1, _BLOCK // max(1, x.shape[1]))
    for i in range(0, part.shape[0], step):
        asked, middle = x[query[i : i + step]], centers[part[i : i + step]]
        costs[i : i + step] = -(asked * middle).sum(1) if largest else (asked - middle).square().sum(1)
    return part, query, probe, costs
