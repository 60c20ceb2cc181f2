"""The columns of the best costs of each row, for any number of them: radix selection in four passes over the bits of costs.

A row of up to 4096 columns is read once and held in registers. Of a longer one the minima of spans of columns are looked at first: the
spans with the least minima hold the best columns, and only these are gone through.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two

# Columns of a row that one program holds in registers; of longer rows spans are chosen, where that leaves less to read.
_HELD = 4096

NO_IDS, SHARED_IDS, OWN_IDS = 0, 1, 2


def kind_of(ids: Tensor | None) -> int:
    """How kernels read ids."""
    return NO_IDS if ids is None else SHARED_IDS if ids.dim() == 1 else OWN_IDS


@triton.jit
def unsigned_key(cost):
    """Bits that are ordered as the numbers are."""
    bits = (cost + 0.0).to(tl.int32, bitcast=True)
    return (tl.where(bits < 0, ~bits, bits ^ -2147483648)).to(tl.uint32, bitcast=True)


@triton.jit
def costs_at(values, ids, row, at, m, inside, LARGEST: tl.constexpr, IDS: tl.constexpr):
    """Costs of columns of a row: infinite for what can be no result."""
    value = tl.load(values + row * m + at, mask=inside, other=float("nan"))
    cost = -value if LARGEST else value
    live = inside & (cost < 3.4028234663852886e38)
    if IDS == 1:
        live = live & (tl.load(ids + at, mask=inside, other=-1) >= 0)
    if IDS == 2:
        live = live & (tl.load(ids + row * m + at, mask=inside, other=-1) >= 0)
    return tl.where(live, cost, float("inf"))


@triton.jit
def _columns(
    values, ids, chosen, row, start, m, n_chosen,
    LARGEST: tl.constexpr, IDS: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of a row's columns, or of those of its chosen spans: which they are, and their costs."""
    at = start + tl.arange(0, BLOCK)
    inside = at < m
    if SPAN:
        span = tl.load(chosen + row * n_chosen + at // SPAN, mask=at < n_chosen * SPAN, other=-1)
        at = span * SPAN + at % SPAN
        inside = (span >= 0) & (at < m)
    return at, costs_at(values, ids, row, at, m, inside, LARGEST, IDS)


@triton.jit
def _counted(cost, prefix, decided, shift: tl.constexpr):
    """How often each digit comes next, of the costs that begin as `prefix`."""
    key = unsigned_key(cost)
    return tl.histogram(((key >> shift) & 255).to(tl.int32), 256, mask=(cost < float("inf")) & ((key & decided) == prefix))


@triton.jit
def _written(out, at, cost, prefix, written, passed, left, take, width, FIRST: tl.constexpr):
    """Write down the columns of a block that are taken; how many are, now, and how many were as good as the last."""
    key = unsigned_key(cost)
    better = (cost < float("inf")) & (key < prefix)
    tied = (cost < float("inf")) & (key == prefix)
    # Of tied ones the first; or, as FAISS's heaps: those that come before so many as good have come.
    counted = tied if FIRST else better | tied
    before = passed + tl.cumsum(counted.to(tl.int32), 0)
    accepted = better | (tied & (before <= (left if FIRST else take)))
    place = written + tl.cumsum(accepted.to(tl.int32), 0) - 1
    tl.store(out + place, at, mask=accepted & (place < width))
    return written + tl.sum(accepted.to(tl.int32), 0), passed + tl.sum(counted.to(tl.int32), 0)


@triton.jit
def _pick(
    values, ids, flags, chosen, out, bounds, m, n_chosen, take, width,
    LARGEST: tl.constexpr, IDS: tl.constexpr, FIRST: tl.constexpr, FLAGGED: tl.constexpr, BOUNDED: tl.constexpr,
    SPAN: tl.constexpr, HELD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if FLAGGED:
        if tl.load(flags + row) == 0:
            return
    length = n_chosen * SPAN if SPAN else m
    prefix = tl.full([], 0, tl.uint32)
    decided = tl.full([], 0, tl.uint32)
    left = take
    n_live = 0
    bins = tl.arange(0, 256)
    if HELD:
        at, cost = _columns(values, ids, chosen, row, 0, m, n_chosen, LARGEST, IDS, SPAN, BLOCK)
    for digit in tl.static_range(4):
        if HELD:
            histogram = _counted(cost, prefix, decided, 24 - 8 * digit)
        else:
            histogram = tl.zeros([256], tl.int32)
            for start in range(0, length, BLOCK):
                _, cost = _columns(values, ids, chosen, row, start, m, n_chosen, LARGEST, IDS, SPAN, BLOCK)
                histogram += _counted(cost, prefix, decided, 24 - 8 * digit)
        if digit == 0:
            n_live = tl.sum(histogram, 0)
            left = tl.minimum(take, n_live)
        digits = tl.sum((tl.cumsum(histogram, 0) < left).to(tl.int32), 0)
        left -= tl.sum(tl.where(bins < digits, histogram, 0), 0)
        prefix = prefix | (digits.to(tl.uint32) << (24 - 8 * digit))
        decided = decided | (tl.full([], 255, tl.uint32) << (24 - 8 * digit))
    written = 0
    passed = 0
    to = out + row * width
    if HELD:
        written, passed = _written(to, at, cost, prefix, written, passed, left, take, width, FIRST)
    else:
        for start in range(0, length, BLOCK):
            at, cost = _columns(values, ids, chosen, row, start, m, n_chosen, LARGEST, IDS, SPAN, BLOCK)
            written, passed = _written(to, at, cost, prefix, written, passed, left, take, width, FIRST)
    for start in range(0, width, BLOCK):
        beyond = start + tl.arange(0, BLOCK)
        tl.store(to + beyond, tl.full([BLOCK], -1, tl.int32), mask=(beyond >= written) & (beyond < width))
    if BOUNDED:
        bits = prefix.to(tl.int32, bitcast=True)
        bits = tl.where(bits < 0, bits ^ -2147483648, ~bits)
        # Beside chosen spans there may be columns that were not counted.
        more = n_live >= take if SPAN else n_live > take
        tl.store(bounds + row, tl.where(more, bits.to(tl.float32, bitcast=True), float("inf")))


@triton.jit
def _minima(
    values, ids, out, m, n_spans, blocks, LARGEST: tl.constexpr, IDS: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) // blocks
    spans = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = spans[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    cost = costs_at(values, ids, row, at, m, at < m, LARGEST, IDS)
    tl.store(out + row * n_spans + spans, tl.min(cost, 1), mask=spans < n_spans)


def minima(values: Tensor, ids: Tensor | None, largest: bool, span: int) -> Tensor:
    """The least cost in each span of columns of each row."""
    n, m = values.shape
    n_spans, block = blocks_of(m, span), max(1, 2048 // span)
    blocks = blocks_of(n_spans, block)
    out = torch.empty(n, n_spans, device=values.device)
    with on(values):
        _minima[(n * blocks,)](
            values,
            values if ids is None else ids,
            out,
            m,
            n_spans,
            blocks,
            LARGEST=largest,
            IDS=kind_of(ids),
            SPAN=span,
            BLOCK=block,
        )
    return out


def _span(m: int, take: int) -> int:
    """Columns of a span for rows of so many, of which the best are taken; 0 where spans spare nothing."""
    span = power_of_two(int((m / take) ** 0.5), 1, 256)
    return span if m > _HELD and span >= 16 and 3 * (blocks_of(m, span) + take * span) < m else 0


def pick(
    values: Tensor,
    ids: Tensor | None,
    take: int,
    largest: bool = False,
    first: bool = True,
    flags: Tensor | None = None,
    bounds: Tensor | None = None,
    out: Tensor | None = None,
    spans: tuple[Tensor, int] | None = None,
) -> Tensor:
    """Columns (n, take or, not `first`, 2 take) of the best `take` of each row in order of position, -1 beyond; only flagged rows.

    `first`: of tied ones the first are taken. Otherwise all that FAISS's heap could keep are there. `bounds` receives what no column left
    out is below. `spans`: the least costs in spans of columns and their length, where these are known.
    """
    n, m = values.shape
    width = take if first else 2 * take
    if out is None:
        out = torch.empty(n, width, dtype=torch.int32, device=values.device)
    # As many spans as columns are taken: each of the others has a minimum that as many columns are not above, and no earlier place.
    if spans is None and first and flags is None:
        span = _span(m, take)
        spans = (minima(values, ids, largest, span), span) if span else None
    chosen, span = None, 0
    if spans is not None:
        chosen, span = pick(spans[0], None, min(take, spans[0].shape[1])), spans[1]
    length = m if chosen is None else chosen.shape[1] * span
    block = power_of_two(length, 64, _HELD)
    with on(values):
        _pick[(n,)](
            values,
            values if ids is None else ids,
            values if flags is None else flags,
            values if chosen is None else chosen,
            out,
            values if bounds is None else bounds,
            m,
            0 if chosen is None else chosen.shape[1],
            take,
            width,
            LARGEST=largest,
            IDS=kind_of(ids),
            FIRST=first,
            FLAGGED=flags is not None,
            BOUNDED=bounds is not None,
            SPAN=span,
            HELD=length <= block,
            BLOCK=block,
            num_warps=8 if block >= 2048 else 4,
        )
    return out
