"""The twins of kernels.panorama: vectors in order of batch, level, vector.

Few queries read them as they lie, runs of them as lists: at each level those of a chunk are one piece of memory. For many they are put
back in order, some at a time, for the tensor cores' exhaustive search.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels import flat
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2, is_similarity
from tsscompat.kernels.panorama import Layout
from tsscompat.kernels.select import padded, select
from tsscompat.kernels.triton.codes import LEVELS, Codes
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two, within_memory
from tsscompat.kernels.triton.level_kernels import lengths_of_levels
from tsscompat.kernels.triton.levels import LevelScan, best, leveled
from tsscompat.kernels.triton.list_scan import within

# Up to so many queries read vectors where they lie: beyond, exhaustive search takes products.
_FEW = 8
# Vectors of a list.
_RUN = 4096


def lengths_left(rows: Tensor, width: int) -> Tensor:
    """The twin of kernels.panorama.lengths_left: one kernel, where torch would be asked for one for each dimension."""
    if rows.dtype != torch.float32:
        return NotImplemented
    n, d = rows.shape
    levels = blocks_of(d, width)
    out = torch.empty(n, levels + 1, device=rows.device)
    if n:
        bn = power_of_two(n, 1, 32)
        with on(rows):
            # Products and sums are rounded one by one: what this gives is stored.
            lengths_of_levels[(blocks_of(n, bn),)](
                rows.contiguous(), out, n, d, levels, width, BN=bn, num_warps=1, enable_fp_fusion=False
            )
    return out


def _codes(x: Tensor, packed: Tensor, metric: int, layout: Layout) -> Codes | None:
    if metric not in (L2, INNER_PRODUCT) or x.dtype != torch.float32 or packed.dtype != torch.float32 or not layout.d:
        return None
    return Codes(
        LEVELS,
        packed.contiguous(),
        layout.d,
        metric,
        metric == INNER_PRODUCT,
        x,
        dsub=layout.width,
        ksub=layout.batch,
    )


def _runs(packed: Tensor, n: int, nq: int) -> tuple[Ragged, Tensor]:
    """Runs of vectors as lists, all of which are probed. Their ids are never read, and take no memory."""
    offsets = torch.arange(0, n, _RUN, device=packed.device)
    sizes = (n - offsets).clamp(max=_RUN)
    lists = Ragged(packed, offsets[:1].expand(n), offsets, sizes, {"widest": min(n, _RUN)})
    return lists, torch.arange(offsets.shape[0], device=packed.device).expand(nq, -1).contiguous()


def _numbers(labels: Tensor) -> Tensor:
    """Labels (list, position) as numbers of vectors."""
    return torch.where(labels >= 0, (labels >> 32) * _RUN + (labels & 0xFFFFFFFF), -1)


def _in_order(
    x: Tensor, packed: Tensor, n: int, k: int, metric: int, layout: Layout, allowed: Tensor | None, budget: int
) -> tuple[Tensor, Tensor]:
    """Exhaustive search of vectors that are put back in order, some batches at a time."""
    distances, labels = [], []
    step = layout.slots(max(1, budget // layout.d))
    for start in range(0, n, step):
        count = min(step, n - start)
        rows = layout.unpack(packed[start * layout.d : layout.slots(start + count) * layout.d], count)
        found = flat.knn(x, rows, k, metric, 0.0, None if allowed is None else allowed[start : start + count])
        distances.append(found[0])
        labels.append(torch.where(found[1] >= 0, found[1] + start, -1))
    if len(labels) == 1:
        return distances[0], labels[0]
    return select(torch.cat(distances, 1), torch.cat(labels, 1), k, is_similarity(metric))


def scan_batches(
    x: Tensor, packed: Tensor, lengths: Tensor, n: int, k: int, metric: int, layout: Layout, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor, Any]:
    """The twin of kernels.panorama.scan_batches."""
    nq, codes = x.shape[0], _codes(x, packed, metric, layout)
    if codes is None:
        return NotImplemented
    if not n or not nq:
        return *padded(nq, k, is_similarity(metric), x.device), (0, 0)
    if nq > _FEW:
        all_of = nq * layout.levels * (torch.full((1,), n, device=x.device) if allowed is None else allowed.sum(0, keepdim=True))
        found = within_memory(lambda budget: _in_order(x, packed, n, k, metric, layout, allowed, budget))
        return *found, all_of.expand(2)
    lists, keys = _runs(packed, n, nq)
    top, looked = best(codes, lengths, layout.levels, layout.width, lists, keys, k, (allowed, None, True))
    return top[0], _numbers(top[1]), looked


def within_batches(
    x: Tensor, packed: Tensor, lengths: Tensor, n: int, radius: float, metric: int, layout: Layout, allowed: Tensor | None = None
) -> Any:
    """The twin of kernels.panorama.within_batches."""
    nq, codes = x.shape[0], _codes(x, packed, metric, layout)
    if codes is None or not n or not nq:
        return NotImplemented
    lists, keys = _runs(packed, n, nq)
    by_levels = leveled(codes, lengths, layout.levels, layout.width, radius)
    lims, distances, labels, counts = within(by_levels, lists, keys, radius, (allowed, None, True), LevelScan)
    assert by_levels.looked is not None
    return lims, distances, _numbers(labels), (int(by_levels.looked), counts[1] * layout.levels)
