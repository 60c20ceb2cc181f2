"""Iterated conditional modes: each number of a code in turn becomes the best one, the others being what they are."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def icm(codes: Tensor, unaries: Tensor, binaries: Tensor, rounds: int) -> Tensor:
    """Codes (n, M) after some rounds over their numbers.

    A code costs the sum of unaries[n, m, number] and, for every two codebooks, binaries[m * K + number, m' * K + number'], with unaries
    (n, M, K) and symmetric binaries (M * K, M * K). Of numbers that cost the same the one that is there stays.
    """
    n, parts, size = unaries.shape
    codes, row = codes.clone(), torch.arange(n, device=codes.device)
    for _ in range(rounds):
        for m in range(parts):
            costs = unaries[:, m].clone()
            for other in range(parts):
                if other != m:
                    costs += binaries[other * size + codes[:, other].to(torch.int64), m * size : (m + 1) * size]
            best = costs.argmin(1)
            own = codes[:, m].to(torch.int64)
            codes[:, m] = torch.where(costs[row, best] < costs[row, own], best, own).to(codes.dtype)
    return codes
