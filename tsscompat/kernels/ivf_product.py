"""Scans of lists of product codes that make their own tables."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf import Top, scan_tables
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.ivf_terms import query_tables
from tsscompat.kernels.metrics import INNER_PRODUCT

# The tables of some queries at a time, in numbers: on a CPU those of 64 queries stay in the cache.
_CPU, _GPU = 1 << 18, 1 << 26


@accelerated
def scan_product(
    x: Tensor,
    transposed: Tensor,
    nbits: int,
    plain: bool,
    scale: float,
    shift: Tensor | None,
    terms: Tensor | None,
    base: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The k best by scan_tables, with the tables of query_tables: `plain` of the metric, else `scale` times products less the shift."""
    step = max(32, (_CPU if x.device.type == "cpu" else _GPU) // (transposed.shape[0] * transposed.shape[2]))
    found = []
    for i in range(0, max(1, x.shape[0]), step):
        some = slice(i, i + step)
        tables = query_tables(
            x[some], transposed, None if plain else shift, metric if plain else INNER_PRODUCT, 1.0 if plain else scale
        )
        cut = None if limits is None else limits[some]
        found.append(
            scan_tables(tables, base[some], terms, nbits, lists, keys[some], k, metric == INNER_PRODUCT, allowed, cut, pairs)
        )
    if len(found) == 1:
        return found[0]
    counts = [part[2] for part in found]
    return (
        torch.cat([part[0] for part in found]),
        torch.cat([part[1] for part in found]),
        (sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)),
    )
