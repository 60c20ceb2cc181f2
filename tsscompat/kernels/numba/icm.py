"""Iterated conditional modes, compiled: the costs of a codebook's numbers are a few rows of a table, added up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.beam import GROUP, add_rows
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.lanes import below, lowest
from tsscompat.kernels.threads import run_blocks


@jit
def _least(costs, place):
    """The place of the least cost, beginning with one that is likely to be."""
    at, best = address(costs), costs[place]
    for g in range(0, costs.shape[0], GROUP):
        bits = below(at, g, best)
        while bits:
            k = g + lowest(bits)
            bits &= bits - np.uint64(1)
            if costs[k] < best:
                best, place = costs[k], k
    return place


@jit
def _rounds(codes, unaries, binaries, rounds, start, stop):
    _, parts, size = unaries.shape
    wide = parts * size
    starts = np.empty(parts, np.int64)
    # Whole groups, filled up with what is never the least.
    costs = np.full((size + GROUP - 1) // GROUP * GROUP, np.inf, np.float32)
    sums = costs[:size]
    for i in range(start, stop):
        for _ in range(rounds):
            for m in range(parts):
                sums[:] = unaries[i, m]
                count = 0
                for other in range(parts):
                    if other != m:
                        starts[count] = (other * size + codes[i, other]) * wide + m * size
                        count += 1
                add_rows(sums, binaries, starts, count)
                codes[i, m] = _least(costs, codes[i, m])


def icm(codes: Tensor, unaries: Tensor, binaries: Tensor, rounds: int) -> Tensor:
    out = codes.to(torch.int32).clone(memory_format=torch.contiguous_format)
    given = out.numpy(), unaries.contiguous().numpy(), binaries.contiguous().view(-1).numpy(), rounds
    run_blocks(lambda a, b: _rounds(*given, a, b), out.shape[0], 16)
    return out
