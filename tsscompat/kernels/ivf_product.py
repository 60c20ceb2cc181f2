"""Scans of lists of product codes that make their own tables."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf import Top, scan_tables
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.ivf_terms import query_tables
from tsscompat.kernels.metrics import INNER_PRODUCT

# The tables of some queries at a time, in numbers: on a CPU those of 48 queries stay in the cache, and take less than a small index.
_CPU, _GPU = 3 << 16, 1 << 26


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

    def scan(some: slice) -> Top:
        given = x[some], transposed, None if plain else shift, metric if plain else INNER_PRODUCT, 1.0 if plain else scale
        cut = None if limits is None else limits[some]
        rest = terms, nbits, lists, keys[some], k, metric == INNER_PRODUCT, allowed, cut, pairs
        return scan_tables(query_tables(*given), base[some], *rest)

    if x.shape[0] <= step:
        return scan(slice(None))
    # Written into what was there before: answers kept one by one would lie where the last tables were, and the next need other memory.
    distances, labels = x.new_empty(x.shape[0], k), torch.empty(x.shape[0], k, dtype=torch.int64, device=x.device)
    counts = (0, 0, 0)
    for i in range(0, x.shape[0], step):
        some = slice(i, i + step)
        distances[some], labels[some], more = scan(some)
        counts = (counts[0] + more[0], counts[1] + more[1], counts[2] + more[2])
    return distances, labels, counts
