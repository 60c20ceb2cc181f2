"""Keeping the best k of each row.

FAISS's order: a value enters only if it beats the worst kept so far, so of tied values the first ones stay; in the answer ties go up in
id for distances and down in id for similarities. NaN never enters. Missing results have id -1 and the worst float32.
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
    at = torch.sort(cost, dim=1, stable=True).indices[:, :take]
    distances, found = values.gather(1, at), labels.gather(1, at)
    gone = dead.gather(1, at)
    distances, found = distances.masked_fill(gone, worst), found.masked_fill(gone, -1)
    # Order ties by id: a stable sort by id first, then by value.
    by_id = torch.sort(found, dim=1, descending=largest, stable=True).indices
    distances, found = distances.gather(1, by_id), found.gather(1, by_id)
    rank = torch.where(found < 0, float("inf"), -distances if largest else distances)
    order = torch.sort(rank, dim=1, stable=True).indices
    all_distances, all_labels = padded(n, k, largest, values.device)
    all_distances[:, :take], all_labels[:, :take] = distances.gather(1, order), found.gather(1, order)
    return all_distances, all_labels


def merge(distances: Tensor, labels: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The best k of several answers that stand side by side in each row."""
    return select(distances, labels, k, largest)
