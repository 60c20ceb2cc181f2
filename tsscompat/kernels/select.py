"""Keeping the best k of each row.

FAISS's order: a value enters only if it beats the worst kept so far, so of tied values the first ones enter; of those kept, the one with
the highest id gives way first for distances, the lowest for similarities, and the answer goes up in id among ties for distances, down for
similarities. NaN never enters. Missing results have id -1 and the worst float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated

WORST = torch.finfo(torch.float32).max


def padded(n: int, k: int, largest: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """An answer with nothing found."""
    worst = -WORST if largest else WORST
    return torch.full((n, k), worst, device=device), torch.full((n, k), -1, dtype=torch.int64, device=device)


@accelerated
def select(values: Tensor, ids: Tensor | None, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The best k values of each row with their ids (column numbers when `ids` is None); ids of -1 are padding."""
    n, m = values.shape
    labels = torch.arange(m, device=values.device) if ids is None else ids
    labels = labels.expand(n, m)
    worst = -WORST if largest else WORST
    dead = values.isnan() | (labels < 0) | (values <= worst if largest else values >= worst)
    cost = torch.where(dead, float("inf"), -values if largest else values)
    take = min(k, m)
    if take:
        # Values equal to the k-th best that come when k as good are kept already do not enter.
        last = cost.kthvalue(take, dim=1, keepdim=True).values
        cost = cost.masked_fill((cost == last) & ((cost <= last).cumsum(1) > k), float("inf"))
    # Ordered by value, ties by id: a stable sort by id first.
    by_id = torch.sort(labels, dim=1, descending=largest, stable=True).indices
    at = by_id.gather(1, torch.sort(cost.gather(1, by_id), dim=1, stable=True).indices)[:, :take]
    gone = cost.gather(1, at) == float("inf")
    all_distances, all_labels = padded(n, k, largest, values.device)
    all_distances[:, :take] = values.gather(1, at).masked_fill(gone, worst)
    all_labels[:, :take] = labels.gather(1, at).masked_fill(gone, -1)
    return all_distances, all_labels


def merge(distances: Tensor, labels: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The best k of several answers that stand side by side in each row."""
    return select(distances, labels, k, largest)
