"""Which parts of lists are worth a look; compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.metrics import dot, squared_l2
from tsscompat.kernels.threads import run_blocks

F, I64 = np.float32, np.int64
# SLACK is that of kernels/parts.py; a number of a center takes about so many nanoseconds.
SLACK, WORK = 1e-4, 0.15
NO_SHARE = np.zeros((0, 0), I64)


@jit
def _near(x, keys, bound, share, first, centers, radii, sizes, largest, parts, probes, rooms, width, lists, a, b):  # type: ignore[no-untyped-def]
    shared, most = share.shape[0] > 0, 0
    for l in range(first.shape[0] - 1):
        most = max(most, first[l + 1] - first[l])
    costs, names = np.empty(most, np.float32), np.empty(most, np.int64)
    for q in range(a, b):
        n = 0
        norm = np.sqrt(dot(x[q], x[q]))
        for p in range(keys.shape[1]):
            l = keys[q, p]
            if l < 0 or (shared and share[q, p] <= 0):
                continue
            before, m = n, 0
            for i in range(first[l], first[l + 1]):
                if largest:
                    cost = -dot(x[q], centers[i])
                    reach = norm * radii[i]
                    may = -cost + reach >= bound[q] - F(SLACK) * (abs(cost) + reach)
                else:
                    cost = squared_l2(x[q], centers[i])
                    distance = np.sqrt(cost)
                    gap, far = max(distance - radii[i], F(0)), distance + radii[i]
                    may = gap * gap <= bound[q] + F(SLACK) * far * far
                if not may:
                    continue
                if shared:
                    costs[m] = cost
                    names[m] = i
                    m += 1
                else:
                    parts[q, n] = i
                    probes[q, n] = p
                    rooms[q, n] = sizes[i]
                    n += 1
            left = share[q, p] if shared else 0
            # The nearest of what is left, again and again: few are taken of few, and a sort would order all.
            while left > 0 and m > 0:
                best = 0
                for j in range(1, m):
                    if costs[j] < costs[best] or (costs[j] == costs[best] and names[j] < names[best]):
                        best = j
                i = names[best]
                parts[q, n] = i
                probes[q, n] = p
                rooms[q, n] = min(left, sizes[i])
                n += sizes[i] > 0
                left -= sizes[i]
                m -= 1
                costs[best] = costs[m]
                names[best] = names[m]
            lists[q] += n > before
        width[q] = n
        for j in range(n, parts.shape[1]):
            parts[q, j] = -1


def near_parts(
    x: Tensor,
    keys: Tensor,
    bound: Tensor,
    share: Tensor | None,
    first: Tensor,
    centers: Tensor,
    radii: Tensor,
    sizes: Tensor,
    largest: bool,
) -> Any:
    probed, starts, nq = keys.numpy(), first.numpy(), x.shape[0]
    known = np.maximum(probed, 0)
    most = int(np.where(probed >= 0, starts[known + 1] - starts[known], 0).sum(1).max()) if probed.size else 0
    parts, probes, rooms = np.empty((nq, most), I64), np.zeros((nq, most), I64), np.zeros((nq, most), I64)
    width, lists = np.zeros(nq, I64), np.zeros(nq, I64)
    shares = NO_SHARE if share is None else share.numpy()
    tables = (starts, centers.numpy(), radii.numpy(), sizes.numpy(), largest)
    given = (x.numpy(), probed, bound.numpy(), shares, *tables, parts, probes, rooms, width, lists)
    per_query = most * (x.shape[1] * WORK + 5) + 1
    run_blocks(lambda a, b: _near(*given, a, b), nq, max(1, int(150_000 / per_query)))
    used = int(width.max()) if nq else 0
    cut = [torch.from_numpy(np.ascontiguousarray(table[:, :used])) for table in (parts, probes, rooms)]
    return cut[0], cut[1], cut[2], int(lists.sum())
