"""The smallest sums of one term from each of several sorted lists: the cells of a product of quantizers in order of distance."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def least_sums(parts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each row of `parts` (n, M, w), ascending along w, the k <= w**M smallest sums and the positions (n, k, M) of their terms."""
    n, m, w = parts.shape
    sums, places = parts[:, 0], torch.arange(w, device=parts.device).expand(n, w)[:, :, None]
    sums, places = sums[:, :k], places[:, :k]
    for part in range(1, m):
        # The k best of some parts are made of the k best of fewer parts.
        both = (sums[:, :, None] + parts[:, part, None, :k]).flatten(1)
        width = both.shape[1] // sums.shape[1]
        take = min(k, both.shape[1])
        sums, at = both.sort(dim=1, stable=True)
        sums, at = sums[:, :take], at[:, :take]
        before = places.gather(1, (at // width)[:, :, None].expand(-1, -1, part))
        places = torch.cat([before, (at % width)[:, :, None]], 2)
    return sums, places
