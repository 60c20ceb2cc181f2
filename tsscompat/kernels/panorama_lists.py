"""Scans of lists of vectors by levels of their dimensions: see kernels/panorama.py, whose definitions look at everything too."""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf import nearest_lists, scan_flat, within_flat
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.panorama import Looked

Counts = tuple[int, int, int]


@accelerated
def scan_levels(
    x: Tensor,
    rows: Tensor,
    norms: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    width: int,
    batch: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> tuple[Tensor, Tensor, Counts, Looked]:
    """scan_flat by levels of `width` dimensions; `norms` (rows, levels + 1)."""
    distances, labels, counts = scan_flat(x, rows, lists, keys, k, metric, 0.0, allowed, limits, pairs)
    looked = counts[1] * (norms.shape[1] - 1)
    return distances, labels, counts, (looked, looked)


@accelerated
def within_levels(
    x: Tensor,
    rows: Tensor,
    norms: Tensor,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    width: int,
    batch: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Counts, Looked]:
    """within_flat by levels of `width` dimensions."""
    lims, distances, labels, counts = within_flat(x, rows, lists, keys, radius, metric, 0.0, allowed, limits, pairs)
    looked = counts[1] * (norms.shape[1] - 1)
    return lims, distances, labels, counts, (looked, looked)


@accelerated
def few_levels(
    x: Tensor,
    centers: Tensor,
    nprobe: int,
    rows: Tensor,
    norms: Tensor,
    lists: Ragged,
    k: int,
    metric: int,
    width: int,
    batch: int,
) -> tuple[Tensor, Tensor, Counts, float, Looked]:
    """scan_levels of the nprobe nearest lists of a few queries, which may come as an array: see kernels/ivf_few.py."""
    x, started = torch.as_tensor(x), perf_counter()
    _, keys = nearest_lists(x, centers, nprobe, metric)
    spent = perf_counter() - started
    distances, labels, counts, looked = scan_levels(x, rows, norms, lists, keys, k, metric, width, batch)
    return distances, labels, counts, spent, looked
