"""Scans of lists of vectors, some dimensions after others: a vector is left alone once what is still to come cannot make it a result.

`norms` (rows, levels + 1) are the lengths of what is left of each row from a level on. With them |q' - y'| of the dimensions to come is at
least the difference of their lengths, and <q', y'> at most their product. The definitions look at everything; twins stop early, and say how
many levels of how many they looked at.
"""

from __future__ import annotations

from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf import scan_flat, within_flat
from tsscompat.kernels.ivf_lists import Ragged

Counts = tuple[int, int, int]
Looked = tuple[int, int]


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
    """scan_flat by levels of `width` dimensions, comparing with the results so far once for each `batch` rows of a list."""
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
