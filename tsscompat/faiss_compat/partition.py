"""Parts of arrays behind pointers: the q smallest (or largest) of values with their ids, histograms of a range, ties in order of id."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import size_t
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.stats import Stats


class PartitionStats(Stats):
    """Cycles that FAISS's partitions take; ours count none."""

    bisect_cycles = size_t(0)
    compress_cycles = size_t(0)


def _numbers(values: Tensor) -> Tensor:
    """Values of a type that torch can compare."""
    return values if values.dtype.is_floating_point else values.to(torch.int64)


def _partition(largest: bool, dtype: torch.dtype) -> Callable[..., Any]:
    def partition(vals: Any, ids: Any, n: int, q_min: int, q_max: int, q_out: Any = None) -> Any:
        """Move the q best of n values and their ids to the front, in their order, q_min <= q <= q_max; gives the q-th best.

        What is behind them is undefined afterwards. q, written where asked for, is q_min here, the least that is allowed.
        """
        check(0 <= q_min <= q_max, "expected a range of sizes, got {} to {}", q_min, q_max)
        held, names = behind(vals, n), behind(ids, n)
        q = q_max if q_max >= n > 0 and q_min else q_min
        if q_out is not None:
            behind(q_out, 1).view(torch.int64)[0] = q
        limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        if q == 0:
            return 0
        if q >= n:
            return limits.min if largest else limits.max
        numbers = _numbers(held)
        threshold = numbers.kthvalue(n - q + 1 if largest else q).values
        better = numbers > threshold if largest else numbers < threshold
        equal = numbers == threshold
        chosen = better | (equal & (equal.cumsum(0) <= q - better.sum()))
        held[:q], names[:q] = numbers[chosen].to(held.dtype), names[chosen]
        return threshold.item()

    return partition


CMax_float_partition_fuzzy = _partition(False, torch.float32)
CMin_float_partition_fuzzy = _partition(True, torch.float32)
CMax_uint16_partition_fuzzy = _partition(False, torch.uint16)
CMin_uint16_partition_fuzzy = _partition(True, torch.uint16)


def _histogram(bins: int) -> Callable[..., None]:
    def histogram(data: Any, n: int, min: int, shift: int, hist: Any) -> None:
        """Count (value - min) >> shift of n 16-bit values in bins, those outside left out; a shift of -1 counts the values themselves."""
        values = behind(data, n).to(torch.int64) if n else torch.empty(0, dtype=torch.int64)
        if shift >= 0:
            values = values - min >> shift
        behind(hist, bins).copy_(torch.bincount(values[(values >= 0) & (values < bins)], minlength=bins))

    return histogram


simd_histogram_8 = _histogram(8)
simd_histogram_16 = _histogram(16)


def ranklist_handle_ties(k: int, idx: Any, dis: Any) -> None:
    """Bring ids of equal distances, which stand together, into order; as in FAISS, the last distance's are left as they are."""
    ids, distances = behind(idx, k), behind(dis, k)
    first = torch.ones(k, dtype=torch.bool)
    first[1:] = distances[1:] != distances[:-1]
    bounds = first.nonzero()[:, 0].tolist()
    for start, stop in pairwise(bounds):
        ids[start:stop] = ids[start:stop].sort().values


__all__ = [
    "CMax_float_partition_fuzzy",
    "CMax_uint16_partition_fuzzy",
    "CMin_float_partition_fuzzy",
    "CMin_uint16_partition_fuzzy",
    "PartitionStats",
    "ranklist_handle_ties",
    "simd_histogram_8",
    "simd_histogram_16",
]
