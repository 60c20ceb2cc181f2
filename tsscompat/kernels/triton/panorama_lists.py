"""The twins of kernels.panorama_lists, for levels.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.triton.codes import VECTORS, Codes
from tsscompat.kernels.triton.levels import LevelScan, best, leveled
from tsscompat.kernels.triton.list_scan import within


def _codes(x: Tensor, rows: Tensor, metric: int) -> Codes | None:
    if metric not in (L2, INNER_PRODUCT) or x.dtype != torch.float32 or not x.shape[1]:
        return None
    return Codes(VECTORS, rows.contiguous(), x.shape[1], metric, metric == INNER_PRODUCT, x)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The twin of kernels.panorama_lists.scan_levels."""
    codes = _codes(x, rows, metric)
    if codes is None:
        return NotImplemented
    found, looked = best(codes, norms, norms.shape[1] - 1, width, lists, keys, k, (allowed, limits, pairs))
    return *found, looked


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
) -> Any:
    """The twin of kernels.panorama_lists.within_levels."""
    codes, levels = _codes(x, rows, metric), norms.shape[1] - 1
    if codes is None:
        return NotImplemented
    by_levels = leveled(codes, norms, levels, width, radius)
    found = within(by_levels, lists, keys, radius, (allowed, limits, pairs), LevelScan)
    assert by_levels.looked is not None
    return *found, (int(by_levels.looked), found[3][1] * levels)
