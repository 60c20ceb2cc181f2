"""What codes stand for, tile by tile, and what they cost: one set of device functions for all codecs that inverted lists scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from typing_extensions import Self

from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.triton.bit_fields import bits_at, differing
from tsscompat.kernels.triton.estimates import by_signs, estimated_at, hoped, own
from tsscompat.kernels.triton.launch import power_of_two
from tsscompat.kernels.triton.metrics import added, finished

# How codes are read: as vectors, as scalars, as numbers of centroids, as places in tables of sums, as bits to compare, in blocks,
# as vectors in batches of KSUB, some DSUB dimensions of all of a batch after others.
VECTORS, SCALARS, PARTS, SUMS, BINARY, BLOCKS, LEVELS = 0, 1, 2, 3, 4, 5, 6
# As numbers of values; with factors of their own (estimates.py) such numbers too, TurboQuant's, RaBitQ's by all bits and by signs.
VALUES, SCALED, TURBO, FURTHER, SIGNS = 16, 17, 18, 19, 20


@triton.jit
def decoded(
    data, lo, step, rows, there, at, d, size, KIND: tl.constexpr, BITS: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr
):
    """Dimensions `at` of what the codes in `rows` stand for; 0 where not `there`."""
    if KIND == 0:
        value = tl.load(data + rows[:, None] * d + at[None, :], mask=there, other=0.0)
    elif KIND == 1:
        if BITS >= 16:
            value = tl.load(data + rows[:, None] * d + at[None, :], mask=there, other=0.0).to(tl.float32)
        else:
            number = bits_at(data, rows, there, at, size, BITS).to(tl.float32)
            value = (
                tl.load(lo + at, mask=at < d, other=0.0)[None, :] + tl.load(step + at, mask=at < d, other=0.0)[None, :] * number
            )
    elif KIND == 6:
        first = at // DSUB * DSUB
        row = rows // KSUB * KSUB * d
        place = (rows % KSUB)[:, None] * tl.minimum(d - first, DSUB)[None, :] + (first * KSUB + at - first)[None, :]
        value = tl.load(data + row[:, None] + place, mask=there, other=0.0)
    elif KIND >= 16:
        value = estimated_at(data, lo, rows, there, at, d, size, KIND, BITS)
    else:
        part = at // DSUB
        number = bits_at(data, rows, there, part, size, BITS)
        value = tl.load(lo + ((part * KSUB)[None, :] + number) * DSUB + (at - part * DSUB)[None, :], mask=there, other=0.0)
    return tl.where(there, value, 0.0)


@triton.jit
def asked(x, shift, centers, q, center, at, inside, d, SHIFTED: tl.constexpr, CENTERED: tl.constexpr):
    """Dimensions `at` of queries (n,), less the shift and the centers of their lists."""
    value = tl.load(x + q[:, None] * d + at[None, :], mask=inside, other=0.0)
    if SHIFTED:
        value -= tl.load(shift + at, mask=at < d, other=0.0)[None, :]
    if CENTERED:
        value -= tl.load(centers + center[:, None] * d + at[None, :], mask=inside, other=0.0)
    return tl.where(inside, value, 0.0)


@triton.jit
def rows_of_chunk(allowed, offset, entries, chunk, MASKED: tl.constexpr, N: tl.constexpr):
    """Places in their list, rows of the arena, and whether they count, of the entries in a chunk of a list."""
    place = chunk * N + tl.arange(0, N)
    rows = offset + place
    there = place < entries
    if MASKED:
        there = there & (tl.load(allowed + rows, mask=there, other=0) != 0)
    return place, rows, there


@triton.jit
def sum_of_tables(
    data, tables, which, rows, there, d, size, BITS: tl.constexpr, KSUB: tl.constexpr, N: tl.constexpr, BD: tl.constexpr
):
    """What the parts of each code select in a table, added up."""
    value = tl.zeros([N], tl.float32)
    if BITS == 4:  # two of each byte, so that bytes that lie side by side are loaded together
        for start in range(0, size, BD // 2):
            byte = start + tl.arange(0, BD // 2)
            inside = there[:, None] & (byte < size)[None, :]
            both = tl.load(data + rows[:, None] * size + byte[None, :], mask=inside, other=0).to(tl.int32)
            at = tables + (which * d + 2 * byte)[None, :] * KSUB
            low = tl.load(at + (both & 15), mask=inside, other=0.0)
            high = tl.load(at + KSUB + (both >> 4), mask=inside & (2 * byte + 1 < d)[None, :], other=0.0)
            value += tl.sum(low + high, 1)  # one sum: Triton 3.6 to 3.9 cannot compile two into the same
        return value
    for start in range(0, d, BD):
        part = start + tl.arange(0, BD)
        inside = there[:, None] & (part < d)[None, :]
        number = bits_at(data, rows, inside, part, size, BITS)
        value += tl.sum(tl.load(tables + (which * d + part)[None, :] * KSUB + number, mask=inside, other=0.0), 1)
    return value


@triton.jit
def ordered_cost(value, there, LARGEST: tl.constexpr):
    """Values as costs, of which the least is the best; infinite for what can be no result."""
    cost = -value if LARGEST else value
    return tl.where(there & (cost < 3.4028234663852886e38), cost, float("inf"))


@triton.jit
def cost_of_rows(
    x, shift, centers, base, terms, data, lo, step, tables, signatures, q, pair, center, rows, there, d, size, scale, p, threshold,
    KIND: tl.constexpr, BITS: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr, METRIC: tl.constexpr, LARGEST: tl.constexpr,
    SHIFTED: tl.constexpr, CENTERED: tl.constexpr, BASED: tl.constexpr, TERMED: tl.constexpr, SIGNED: tl.constexpr,
    PER_PAIR: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Costs of rows for one query and list, term by term in float32; NaN becomes infinite."""
    if KIND >= 19:
        asked_at = tables + (pair if PER_PAIR else q) * KSUB
    if SIGNED:
        if KIND == 19:
            hope = hoped(
                x, shift, centers, data, asked_at, q, center, rows, there, d, size, DSUB, LARGEST, SHIFTED, CENTERED, N, BD
            )
            there = there & (hope < p)
        else:
            there = there & (differing(data, signatures, pair, rows, there, size, N, BD) < threshold)
    if KIND == 3:
        value = sum_of_tables(data, tables, pair if PER_PAIR else q, rows, there, d, size, BITS, KSUB, N, BD)
    elif KIND == 4:
        value = differing(data, x, q, rows, there, size, N, BD).to(tl.float32)
    elif KIND == 20:
        value = by_signs(
            x, shift, centers, data, asked_at, q, center, rows, there, d, size, DSUB, LARGEST, SHIFTED, CENTERED, N, BD
        )
        value = -value if LARGEST else value
    else:
        first = tl.zeros([N], tl.float32)
        second = tl.zeros([N], tl.float32)
        third = tl.zeros([N], tl.float32)
        ours = tl.zeros([1], tl.int64) + q
        list_no = tl.zeros([1], tl.int64) + center
        for start in range(0, d, BD):
            at = start + tl.arange(0, BD)
            inside = (at < d)[None, :]
            a = asked(x, shift, centers, ours, list_no, at, inside, d, SHIFTED, CENTERED)
            b = decoded(data, lo, step, rows, there[:, None] & inside, at, d, size, KIND, BITS, DSUB, KSUB)
            first, second, third = added(first, second, third, a, b, there[:, None] & inside, p, METRIC, 1)
        value = finished(first, second, third, d, METRIC)
        if METRIC == 0:
            value = value * scale
        if KIND >= 17:
            times, plus = own(data, rows, there, size, scale, KIND)
            value = value * times + plus
    if BASED:
        value += tl.load(base + pair)
    if TERMED:
        value += tl.load(terms + rows, mask=there, other=0.0)
    if KIND == 17 or KIND == 19:
        if not LARGEST:
            value = tl.where(value < 0, 0.0, value)
    return ordered_cost(value, there, LARGEST)


@triton.jit
def values_of_tile(
    x, shift, centers, data, lo, step, q, list_no, rows, real, there, d, size, scale,
    KIND: tl.constexpr, BITS: tl.constexpr, DSUB: tl.constexpr, KSUB: tl.constexpr, METRIC: tl.constexpr,
    SHIFTED: tl.constexpr, CENTERED: tl.constexpr, BQ: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Values (BQ, N) of rows of one list for several queries, by products on the tensor cores.

    Of squared distances what a query adds to all of its own is left out.
    """
    products = tl.zeros([BQ, N], tl.float32)
    ours = tl.zeros([BQ], tl.float32)
    theirs = tl.zeros([N], tl.float32)
    list_nos = tl.zeros([BQ], tl.int64) + list_no
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        inside = (at < d)[None, :]
        a = asked(x, shift, centers, q, list_nos, at, real[:, None] & inside, d, SHIFTED, CENTERED)
        b = decoded(data, lo, step, rows, there[:, None] & inside, at, d, size, KIND, BITS, DSUB, KSUB)
        products = tl.dot(a, tl.trans(b), products, input_precision="tf32x3")
        if METRIC == 1:
            theirs += tl.sum(b * b, 1)
            if CENTERED:
                ours += tl.sum(a * a, 1)
    if KIND >= 17:
        times, plus = own(data, rows, there, size, scale, KIND)
        products = products * scale * times[None, :] + plus[None, :]
    elif METRIC == 1:
        products = ours[:, None] - 2 * products + theirs[None, :]
    else:
        products = products * scale
    return products


@dataclass(frozen=True)
class Codes:
    """How the codes of lists are scored; what a kernel does not need is None."""

    kind: int
    data: Tensor  # (rows, d) numbers or (rows, code_size) bytes
    d: int  # dimensions, or parts to look up
    metric: int  # of products: the inner product
    largest: bool
    x: Tensor | None = None
    bits: int = 8
    lo: Tensor | None = None  # (d,), or centroids (M, ksub, dsub)
    step: Tensor | None = None
    dsub: int = 1
    ksub: int = 1
    shift: Tensor | None = None
    centers: Tensor | None = None
    base: Tensor | None = None  # (nq, nprobe)
    terms: Tensor | None = None
    tables: Tensor | None = None
    per_pair: bool = False
    scale: float = 1.0
    metric_arg: float = 0.0
    signatures: Tensor | None = None  # (nq * nprobe, code_size): only codes that differ from them in few bits count
    threshold: int = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in the order of the kernels; any tensor for those that are not needed."""
        given = (self.x, self.shift, self.centers, self.base, self.terms, self.data, self.lo, self.step, self.tables)
        return tuple(self.data if t is None else t.contiguous() for t in (*given, self.signatures))

    def numbers(self) -> tuple[int | float, ...]:
        """Sizes and factors in the order of the kernels."""
        code_bytes = self.data.shape[1] if self.data.dtype == torch.uint8 else 0
        return self.d, code_bytes, self.scale, self.metric_arg, self.threshold

    def constants(self) -> dict[str, int | bool]:
        """What the kernels are compiled for."""
        return {
            "KIND": self.kind,
            "BITS": self.bits,
            "DSUB": self.dsub,
            "KSUB": self.ksub,
            "METRIC": self.metric,
            "LARGEST": self.largest,
            "SHIFTED": self.shift is not None,
            "CENTERED": self.centers is not None,
            "BASED": self.base is not None,
            "TERMED": self.terms is not None,
            "SIGNED": self.signatures is not None,
        }

    @property
    def multiplied(self) -> bool:
        """Whether the tensor cores can score the codes for several queries at once."""
        return self.kind not in (SUMS, BINARY, SIGNS) and self.metric in (L2, INNER_PRODUCT)

    def width(self) -> int:
        """Dimensions of a tile; of codes that take many instructions to decode fewer, or registers run out."""
        return power_of_two(self.d, 4, 64 if self.kind in (VECTORS, SCALARS) else 16 if self.kind in (TURBO, FURTHER) else 32)

    def part(self, start: int, stop: int, nprobe: int) -> Self:
        """The same for some of the queries."""
        width = nprobe if self.per_pair else 1
        return replace(
            self,
            x=None if self.x is None else self.x[start:stop],
            base=None if self.base is None else self.base[start:stop],
            tables=None if self.tables is None else self.tables[start * width : stop * width],
            signatures=None if self.signatures is None else self.signatures[start * nprobe : stop * nprobe],
        )
