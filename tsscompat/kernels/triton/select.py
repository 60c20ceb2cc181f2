"""Keeping the best k of each row: radix selection (pick.py), then ranks by counting; for any k.

`pick` writes down, in order of position, what is no worse than the k-th smallest cost of a row; `ranked` puts that in order by counting,
for each candidate, those before it. Few long rows go in two steps: the minima of groups of columns say which groups can hold the best.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.select import WORST, padded
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two
from tsscompat.kernels.triton.pick import costs_at, kind_of, minima, pick

# Rank by counting up to here: beyond, sorting is faster.
_COUNTED = 2048
# Fewer rows than this, and longer than that, are first reduced to the minima of groups.
_FEW_ROWS, _LONG = 64, 1 << 14


@triton.jit
def _rank(
    values,
    ids,
    found,
    flags,
    distances,
    labels,
    counts,
    m,
    width,
    k,
    LARGEST: tl.constexpr,
    IDS: tl.constexpr,
    FLAGGED: tl.constexpr,
    COUNTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if FLAGGED:
        if tl.load(flags + row) == 0:
            return
    mine = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = tl.load(found + row * width + mine, mask=mine < width, other=-1)
    cost, label = _candidate(values, ids, row, at, m, LARGEST, IDS)
    rank = tl.zeros([BLOCK], tl.int32)
    for start in range(0, width, BLOCK):
        theirs = start + tl.arange(0, BLOCK)
        other = tl.load(found + row * width + theirs, mask=theirs < width, other=-1)
        c, i = _candidate(values, ids, row, other, m, LARGEST, IDS)
        ahead = i[None, :] > label[:, None] if LARGEST else i[None, :] < label[:, None]
        level = (c[None, :] == cost[:, None]) & ((other >= 0)[None, :] == (at >= 0)[:, None])
        same = level & (i[None, :] == label[:, None]) & (theirs[None, :] < mine[:, None])
        before = (c[None, :] < cost[:, None]) | (level & ahead) | same
        # Padding comes last, in its own order.
        before = tl.where((other >= 0)[None, :] & (at < 0)[:, None], True, before)
        before = tl.where((other < 0)[None, :] & (at >= 0)[:, None], False, before)
        rank += tl.sum((before & (theirs < width)[None, :]).to(tl.int32), 1)
    there = at >= 0
    shown = tl.where(there, cost, 3.4028234663852886e38)
    kept = (mine < width) & (rank < k)
    tl.store(distances + row * k + rank, -shown if LARGEST else shown, mask=kept)
    tl.store(labels + row * k + rank, tl.where(there, label, -1), mask=kept)
    if COUNTED:
        tl.atomic_add(counts + 2, tl.sum((kept & there).to(tl.int64), 0), sem="relaxed")


@triton.jit
def _candidate(values, ids, row, at, m, LARGEST: tl.constexpr, IDS: tl.constexpr):
    """Cost and label of a column; those of padding (-1) are alike."""
    there = at >= 0
    value = tl.load(values + row * m + at, mask=there, other=0.0)
    if IDS == 0:
        label = at.to(tl.int64)
    elif IDS == 1:
        label = tl.load(ids + at, mask=there, other=-1)
    else:
        label = tl.load(ids + row * m + at, mask=there, other=-1)
    return tl.where(there, -value if LARGEST else value, float("inf")), label


def ranked(
    values: Tensor,
    ids: Tensor | None,
    found: Tensor,
    k: int,
    largest: bool,
    flags: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The columns found by `pick`, at least k of them with padding, in order of value, then label: values and labels (n, k)."""
    n, m = values.shape
    width = found.shape[1]
    if k > _COUNTED:
        return _sorted(values, ids, found, k, largest, flags, out)
    if out is None:
        out = (
            torch.empty(n, k, dtype=torch.float32, device=values.device),
            torch.empty(n, k, dtype=torch.int64, device=values.device),
        )
    block = power_of_two(width, 16, 64)
    with on(values):
        _rank[(n, blocks_of(width, block))](
            values,
            found if ids is None else ids,
            found,
            found if flags is None else flags,
            out[0],
            out[1],
            found if counts is None else counts,
            m,
            width,
            k,
            LARGEST=largest,
            IDS=kind_of(ids),
            FLAGGED=flags is not None,
            COUNTED=counts is not None,
            BLOCK=block,
        )
    return out


def _sorted(
    values: Tensor,
    ids: Tensor | None,
    found: Tensor,
    k: int,
    largest: bool,
    flags: Tensor | None,
    out: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """`ranked` by two stable sorts."""
    at = found.clamp(min=0).long()
    labels = at if ids is None else ids[at] if ids.dim() == 1 else ids.gather(1, at)
    costs = torch.where(found >= 0, -values.gather(1, at) if largest else values.gather(1, at), float("inf"))
    labels, order = labels.masked_fill(found < 0, -1).sort(dim=1, stable=True, descending=largest)
    costs, again = costs.gather(1, order).sort(dim=1, stable=True)
    labels, costs = labels.gather(1, again)[:, :k], costs[:, :k]
    worst = -WORST if largest else WORST
    answer = (
        torch.where(torch.isposinf(costs), worst, -costs if largest else costs),
        labels.masked_fill(torch.isposinf(costs), -1),
    )
    if out is None:
        return answer
    for old, new in zip(out, answer):
        old.copy_(new if flags is None else torch.where(flags[:, None] != 0, new, old))
    return out


@triton.jit
def _gather_groups(values, ids, groups, costs, labels, m, width, LARGEST: tl.constexpr, IDS: tl.constexpr, GROUP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) // width
    place = tl.program_id(0) % width
    group = tl.load(groups + row * width + place)
    at = group * GROUP + tl.arange(0, GROUP)
    cost = costs_at(values, ids, row, at, m, (at >= 0) & (at < m), LARGEST, IDS)
    if IDS == 0:
        label = at.to(tl.int64)
    elif IDS == 1:
        label = tl.load(ids + at, mask=cost < float("inf"), other=-1)
    else:
        label = tl.load(ids + row * m + at, mask=cost < float("inf"), other=-1)
    to = (row * width + place) * GROUP + tl.arange(0, GROUP)
    tl.store(costs + to, -cost if LARGEST else cost)
    tl.store(labels + to, label)


def _by_groups(values: Tensor, ids: Tensor | None, k: int, largest: bool, group: int) -> tuple[Tensor, Tensor]:
    """The columns of the groups that can hold the best k of each row: values and labels.

    A column that FAISS's heap keeps has fewer than k better ones and fewer than k tied ones before it, so of the groups, in order of their
    minima and then of position, its own is among the first 2 k.
    """
    n, m = values.shape
    least = minima(values, ids, largest, group)
    groups = pick(least, None, min(2 * k, least.shape[1]))
    width = groups.shape[1]
    costs = torch.empty(n, width * group, device=values.device)
    labels = torch.empty(n, width * group, dtype=torch.int64, device=values.device)
    given = values if ids is None else ids
    with on(values):
        _gather_groups[(n * width,)](
            values, given, groups, costs, labels, m, width, LARGEST=largest, IDS=kind_of(ids), GROUP=group
        )
    return costs, labels


def best(
    values: Tensor,
    ids: Tensor | None,
    k: int,
    largest: bool,
    first: bool = False,
    flags: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best k of each row in order; `first`: of tied ones the first are kept, whatever FAISS's heap would."""
    found = pick(values, ids, k, largest, first, flags)
    return ranked(values, ids, found, k, largest, flags, out, counts)


def select(values: Tensor, ids: Tensor | None, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The twin of kernels.select.select."""
    n, m = values.shape
    if n == 0 or m == 0 or values.dtype != torch.float32:
        return padded(n, k, largest, values.device) if values.dtype == torch.float32 else NotImplemented
    values = values.contiguous()
    if ids is not None:
        ids = (ids if ids.dim() == 1 else ids.expand(n, m)).contiguous()
    group = power_of_two(int((m / (2 * k)) ** 0.5), 1, 1024)
    if n < _FEW_ROWS and m > _LONG and group >= 32:
        values, ids = _by_groups(values, ids, k, largest, group)
    return best(values, ids, k, largest)
