"""Exhaustive search by groups: a bound on each group of rows says which groups can hold the best, and those alone are scored.

1. *Bounds.* For each query and group of consecutive rows, the least cost that a row of the group can have. For a few queries that is the
   exact least cost, read straight from the rows. For many it comes from products of float16 on the tensor cores, less a bound on their
   error (screen.py).
2. *Choice.* The groups with the least bounds, 2 k + 8 of them.
3. *Distances* of the chosen groups' rows, in float32 and term by term; of these the best k, in FAISS's order.
4. *Proof.* A row of a group left out costs at least that group's bound. Where the k-th best found is better than the least bound left out,
   the answer is the float32 answer. Queries where it is not (none or few) go through 1 to 3 once more with exact bounds, for which 2 k
   groups suffice always. The device decides which: nothing is read back.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.metrics import INNER_PRODUCT, L2, is_similarity
from tsscompat.kernels.select import WORST, padded
from tsscompat.kernels.triton import screen
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two, within_memory
from tsscompat.kernels.triton.metrics import named
from tsscompat.kernels.triton.pick import pick
from tsscompat.kernels.triton.select import best, ranked, select

# Up to so many queries rows are read as they are, from there on screened.
_FEW = 8
# Rows in a group, when a few queries read it and when many are screened.
_GROUP = 64
# The nearest of up to so many rows is found without choosing groups.
_TABLE = 1 << 14


@triton.jit
def cost_of(x, y, row, rows, there, d, METRIC: tl.constexpr, N: tl.constexpr, BD: tl.constexpr):
    """Costs of `rows` of y for one row of x, term by term."""
    total = tl.zeros([N], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        a = tl.load(x + row * d + at, mask=at < d, other=0.0)
        b = tl.load(y + rows[:, None] * d + at[None, :], mask=there[:, None] & (at < d)[None, :], other=0.0)
        if METRIC == 1:
            gap = b - a[None, :]
            total += tl.sum(gap * gap, 1)
        else:
            total -= tl.sum(b * a[None, :], 1)
    return total


@triton.jit
def _least(
    x,
    y,
    allowed,
    names,
    count,
    out,
    nq,
    nb,
    n_groups,
    d,
    METRIC: tl.constexpr,
    MASKED: tl.constexpr,
    NAMED: tl.constexpr,
    GROUP: tl.constexpr,
    BD: tl.constexpr,
):
    """The least cost in a group of rows for all queries, or those that `names` lists."""
    group = tl.program_id(0).to(tl.int64)
    rows = group * GROUP + tl.arange(0, GROUP)
    there = rows < nb
    if MASKED:
        there = there & (tl.load(allowed + rows, mask=there, other=0) != 0)
    n = tl.load(count) if NAMED else nq
    for i in range(n):
        row = tl.load(names + i).to(tl.int64) if NAMED else tl.full([], 0, tl.int64) + i
        cost = cost_of(x, y, row, rows, there, d, METRIC, GROUP, BD)
        cost = tl.where(there & (cost == cost), cost, float("inf"))
        tl.store(out + row * n_groups + group, tl.min(cost, 0))


@triton.jit
def _scores(
    x,
    y,
    allowed,
    groups,
    flags,
    values,
    labels,
    nb,
    width,
    d,
    first_row,
    METRIC: tl.constexpr,
    MASKED: tl.constexpr,
    FLAGGED: tl.constexpr,
    GROUP: tl.constexpr,
    BD: tl.constexpr,
):
    """Distances and numbers of the rows in the groups chosen for each query."""
    row = (tl.program_id(0) // width).to(tl.int64)
    if FLAGGED:
        if tl.load(flags + row) == 0:
            return
    place = tl.program_id(0) % width
    group = tl.load(groups + row * width + place).to(tl.int64)
    rows = group * GROUP + tl.arange(0, GROUP)
    there = (rows >= 0) & (rows < nb)
    if MASKED:
        there = there & (tl.load(allowed + rows, mask=there, other=0) != 0)
    cost = cost_of(x, y, row, rows, there, d, METRIC, GROUP, BD)
    to = (row * width + place) * GROUP + tl.arange(0, GROUP)
    tl.store(values + to, cost if METRIC == 1 else -cost)
    tl.store(labels + to, tl.where(there, rows + first_row, -1))


def least(
    x: Tensor, y: Tensor, allowed: Tensor | None, metric: int, group: int, out: Tensor, names: Tensor | None, count: Tensor | None
) -> None:
    """Fill `out` (nq, groups) with exact least costs; of the queries that `names` lists, `count` of them."""
    n_groups = out.shape[1]
    with on(x):
        _least[(n_groups,)](
            x,
            y,
            x if allowed is None else allowed,
            x if names is None else names,
            x if count is None else count,
            out,
            x.shape[0],
            y.shape[0],
            n_groups,
            x.shape[1],
            METRIC=metric,
            MASKED=allowed is not None,
            NAMED=names is not None,
            GROUP=group,
            BD=power_of_two(x.shape[1], 4, 64),
        )


def scores(
    x: Tensor,
    y: Tensor,
    allowed: Tensor | None,
    groups: Tensor,
    metric: int,
    group: int,
    flags: Tensor | None,
    room: tuple[Tensor, Tensor],
) -> None:
    """Write distances and numbers of the rows in chosen groups (nq, width) into `room`."""
    nq, width = groups.shape
    with on(x):
        _scores[(nq * width,)](
            x,
            y,
            x if allowed is None else allowed,
            groups,
            x if flags is None else flags,
            room[0],
            room[1],
            y.shape[0],
            width,
            x.shape[1],
            0,
            METRIC=metric,
            MASKED=allowed is not None,
            FLAGGED=flags is not None,
            GROUP=group,
            BD=power_of_two(x.shape[1], 4, 64),
        )


def _room(nq: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.empty(nq, columns, device=device), torch.empty(nq, columns, dtype=torch.int64, device=device)


def _directly(x: Tensor, y: Tensor, k: int, metric: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """The answer for a few queries, from exact bounds."""
    n_groups = 16 * blocks_of(y.shape[0], 16 * _GROUP)  # so that each row of bounds is aligned
    bounds = torch.empty(x.shape[0], n_groups, device=x.device)
    least(x, y, allowed, metric, _GROUP, bounds, None, None)
    groups = pick(bounds, None, min(2 * k, n_groups))
    room = _room(x.shape[0], groups.shape[1] * _GROUP, x.device)
    scores(x, y, allowed, groups, metric, _GROUP, None, room)
    return best(*room, k, is_similarity(metric))


def _screened(x: Tensor, y: Tensor, k: int, metric: int, allowed: Tensor | None, table: screen.Table) -> tuple[Tensor, Tensor]:
    """The answer for a block of queries, from bounds by the tensor cores, and for those where these prove too little, from exact ones."""
    largest, group = is_similarity(metric), table.group
    asked = screen.prepared(x, table)
    bounds, spans = screen.bounds(asked, table)
    take = min(2 * k + 8, bounds.shape[1])
    left_out = torch.empty(x.shape[0], device=x.device)
    groups = pick(bounds, None, take, bounds=left_out, spans=spans)
    room = _room(x.shape[0], take * group, x.device)
    scores(x, y, allowed, groups, metric, group, None, room)
    found = pick(*room, k, largest, False)
    answer = ranked(*room, found, k, largest)
    open_, names, count = screen.unproven(asked, left_out, answer[0], metric, x.shape[1])
    least(x, y, allowed, metric, group, bounds, names, count)
    pick(bounds, None, take, flags=open_, out=groups)
    scores(x, y, allowed, groups, metric, group, open_, room)
    pick(*room, k, largest, False, flags=open_, out=found)
    return ranked(*room, found, k, largest, flags=open_, out=answer)


def _whole(x: Tensor, y: Tensor, k: int, metric: int, allowed: Tensor | None, budget: int) -> tuple[Tensor, Tensor]:
    """The answer from all distances of a block, for a k that leaves little to rule out; products are those of screen.product_tile."""
    parts = []
    largest = is_similarity(metric)
    step = max(1, min(y.shape[0], budget // max(1, x.shape[0])))
    for b in range(0, y.shape[0], step):
        block = y[b : b + step]
        values = screen.distances(x, block, metric)
        ids = (
            None if allowed is None else torch.arange(block.shape[0], device=x.device).masked_fill(allowed[b : b + step] == 0, -1)
        )
        found = select(values, ids, min(k, block.shape[0]), largest)
        parts.append((found[0], torch.where(found[1] >= 0, found[1] + b, -1)))
    if len(parts) == 1 and parts[0][0].shape[1] == k:
        return parts[0]
    return select(torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1), k, largest)


def knn(
    x: Tensor, y: Tensor, k: int, metric: int, metric_arg: float = 0.0, allowed: Tensor | None = None, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The twin of kernels.flat.knn for L2 and the inner product: the float32 answer, for any k.

    Distances are computed term by term in float32, unless k is so large that groups rule nothing out; then, from 9 queries on, they come
    from products of about float32's precision.
    """
    nq, nb = x.shape[0], y.shape[0]
    if metric not in (L2, INNER_PRODUCT) or not x.shape[1] or x.dtype != torch.float32 or y.dtype != torch.float32:
        return NotImplemented
    if not nq or not nb:
        return padded(nq, k, is_similarity(metric), x.device)
    x, y = x.contiguous(), y.contiguous()
    allowed = None if allowed is None else allowed.contiguous().view(torch.uint8)

    def few(budget: int) -> tuple[Tensor, Tensor]:
        step = max(1, min(_FEW, budget // (max(nb // _GROUP, 2 * k * _GROUP) + 1)))
        parts = [_directly(x[i : i + step], y, k, metric, allowed) for i in range(0, nq, step)]
        return parts[0] if len(parts) == 1 else (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))

    def many(budget: int) -> tuple[Tensor, Tensor]:
        group = 32 if k <= 32 else 16
        answer = _room(nq, k, x.device)
        worthwhile = (2 * k + 8) * group * 4 <= nb
        table = screen.table(y, metric, group, allowed) if worthwhile else None
        step = max(1, min(nq, budget // max(blocks_of(nb, group), (2 * k + 8) * group)) if worthwhile else budget // nb)
        for i in range(0, nq, step):
            block = x[i : i + step]
            if table is None:
                found = _whole(block, y, k, metric, allowed, budget)
            else:
                found = _screened(block, y, k, metric, allowed, table)
            answer[0][i : i + step], answer[1][i : i + step] = found
        return answer

    return within_memory(few if nq <= _FEW else many)


def nearest(x: Tensor, y: Tensor, metric: int = L2) -> tuple[Tensor, Tensor]:
    """The twin of kernels.flat.nearest: the least cost is kept while products of about float32's precision are made, none is stored."""
    if (
        metric not in (L2, INNER_PRODUCT)
        or not x.shape[1]
        or not y.shape[0]
        or x.dtype != torch.float32
        or y.dtype != torch.float32
    ):
        return NotImplemented
    if y.shape[0] > _TABLE:
        found = knn(x, y, 1, metric)
        return found[0][:, 0], found[1][:, 0]
    x, y = x.contiguous(), y.contiguous()
    labels = screen.nearest_rows(x, y, metric)
    worst = -WORST if is_similarity(metric) else WORST
    return named(x, y, labels[:, None], metric, 0.0, worst)[:, 0], labels


def named_distances(x: Tensor, y: Tensor, labels: Tensor, metric: int, metric_arg: float = 0.0) -> Tensor:
    """The twin of kernels.flat.named_distances."""
    return named(x, y, labels, metric, metric_arg, -WORST if is_similarity(metric) else WORST)


def within(
    x: Tensor,
    y: Tensor,
    radius: float,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The twin of kernels.flat.within: groups of rows whose least cost is within, counted (which waits for the device), then scored."""
    nq, nb, largest = x.shape[0], y.shape[0], is_similarity(metric)
    if metric not in (L2, INNER_PRODUCT) or not x.shape[1] or x.dtype != torch.float32 or y.dtype != torch.float32:
        return NotImplemented
    x, y = x.contiguous(), y.contiguous()
    allowed = None if allowed is None else allowed.contiguous().view(torch.uint8)
    n_groups = blocks_of(nb, _GROUP)

    def call(budget: int) -> tuple[Tensor, Tensor, Tensor]:
        hits, values, labels = [torch.zeros(1, dtype=torch.int64, device=x.device)], [x.new_empty(0)], [hits_of(0)]
        step = max(1, budget // (4 * max(1, nb)))
        for i in range(0, nq if nb else 0, step):
            block = x[i : i + step]
            bounds = torch.empty(block.shape[0], n_groups, device=x.device)
            least(block, y, allowed, metric, _GROUP, bounds, None, None)
            cost = -radius if largest else radius
            most = int((bounds <= cost + 1e-6 * abs(cost)).sum(1).max())
            if not most:
                hits.append(hits_of(block.shape[0]))
                continue
            room = _room(block.shape[0], most * _GROUP, x.device)
            scores(block, y, allowed, pick(bounds, None, most), metric, _GROUP, None, room)
            inside = (room[1] >= 0) & (room[0] > radius if largest else room[0] < radius)
            for into, part in zip((hits, values, labels), (inside.sum(1), room[0][inside], room[1][inside])):
                into.append(part)
        if not nb:
            hits.append(hits_of(nq))
        return torch.cat(hits).cumsum(0), torch.cat(values), torch.cat(labels)

    def hits_of(n: int) -> Tensor:
        return torch.zeros(n, dtype=torch.int64, device=x.device)

    return within_memory(call)
