"""Kernels of scans of RaBitQ codes; rabitq.py says what they are for."""

from __future__ import annotations

import triton
import triton.language as tl

from tsscompat.kernels.triton.codes import rows_of_chunk
from tsscompat.kernels.triton.estimates import by_all, costs_of_tile, hoped
from tsscompat.kernels.triton.list_kernels import tile_of_probes
from tsscompat.kernels.triton.pick import unsigned_key


@triton.jit
def _part(x, shift, centers, q, center, at, d, SHIFTED: tl.constexpr, CENTERED: tl.constexpr):
    """Dimensions `at` of a query and of its center."""
    inside = at < d
    middle = tl.zeros_like(at).to(tl.float32)
    if SHIFTED:
        middle = tl.load(shift + at, mask=inside, other=0.0)
    if CENTERED:
        middle = tl.load(centers + center * d + at, mask=inside, other=0.0)
    return tl.load(x + q * d + at, mask=inside, other=0.0), middle, inside


@triton.jit
def _keep(out, i, value):
    tl.store(out + i, value.to(tl.float32).to(tl.int32, bitcast=True))


# Launched without contraction of products and sums: a number that lies between two codes must go where the definition's goes.
@triton.jit
def ask(
    x, shift, centers, keys, out, nprobe, d, words, width, reach,
    QB: tl.constexpr, ROUND: tl.constexpr, PER_PAIR: tl.constexpr, SHIFTED: tl.constexpr, CENTERED: tl.constexpr,
    LARGEST: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Rows of `asked` (estimates.py), one for each query or probe: queries less their centers, rounded to QB bits, as planes."""
    i = tl.program_id(0).to(tl.int64)
    q = i // nprobe if PER_PAIR else i
    center = tl.full([], 0, tl.int64)
    if PER_PAIR:
        center = tl.maximum(tl.load(keys + i), 0)
    out += i * width
    lane = tl.arange(0, 32)[None, :]
    low = tl.full([BW, 32], float("inf"), tl.float32)
    high = tl.full([BW, 32], float("-inf"), tl.float32)
    squares = tl.zeros([BW, 32], tl.float32)
    sums = tl.zeros([BW, 32], tl.float32)
    for start in range(0, words, BW):
        at = (start + tl.arange(0, BW))[:, None] * 32 + lane
        a, c, inside = _part(x, shift, centers, q, center, at, d, SHIFTED, CENTERED)
        r = a - c
        low = tl.minimum(low, tl.where(inside, r, float("inf")))
        high = tl.maximum(high, tl.where(inside, r, float("-inf")))
        squares += r * r
        # For inner products: what makes |query|^2 less |r|^2 of the product with the center, which is added too.
        sums += a * c
    square, product = tl.sum(tl.sum(squares, 1), 0), tl.sum(tl.sum(sums, 1), 0)
    least, most = tl.min(tl.min(low, 1), 0), tl.max(tl.max(high, 1), 0)
    _keep(out, 4, tl.sqrt_rn(square))
    _keep(out, 5, product if LARGEST else square)
    if LARGEST:
        owns = tl.zeros([BW, 32], tl.float32)
        for start in range(0, words, BW):
            at = (start + tl.arange(0, BW))[:, None] * 32 + lane
            a, _, inside = _part(x, shift, centers, q, center, at, d, SHIFTED, CENTERED)
            owns += a * a
        _keep(out, 3, 0.5 * (tl.sum(tl.sum(owns, 1), 0) - square))
    else:
        _keep(out, 3, square)
    root = tl.sqrt_rn(d.to(tl.float32))
    if QB == 0:
        _keep(out, 0, tl.div_rn(1.0, root))
    else:
        limit: tl.constexpr = (1 << QB) - 1.0
        if ROUND:
            most = reach * tl.sqrt_rn(tl.div_rn(square, d.to(tl.float32)))
            least = -most
        step = tl.div_rn(most - least, limit)
        # Where all numbers are one, each becomes 0.
        inverse = tl.where(step > 0, tl.div_rn(1.0, tl.where(step > 0, step, 1.0)), 0.0)
        totals = tl.zeros([BW, 32], tl.float32)
        odds = tl.zeros([BW, 32], tl.float32)
        for start in range(0, words, BW):
            word = start + tl.arange(0, BW)
            at = word[:, None] * 32 + lane
            a, c, inside = _part(x, shift, centers, q, center, at, d, SHIFTED, CENTERED)
            code = tl.minimum(tl.maximum(tl.floor(((a - c) - least) * inverse + 0.5), 0.0), limit)
            code = tl.where(inside, code, 0.0)
            odd = tl.where(inside, 2 * code - limit, 0.0)
            totals += code
            odds += odd * odd
            bits = code.to(tl.int32)
            for j in tl.static_range(QB):
                tl.store(out + 8 + j * words + word, tl.sum(((bits >> j) & 1) << lane, 1), mask=word < words)
            tl.store(out + 8 + QB * words + word, tl.sum(inside.to(tl.int32) << lane, 1), mask=word < words)
        total = tl.sum(tl.sum(totals, 1), 0)
        if ROUND:
            # With signs as -1 and 1 and codes as odd numbers: each product is 4 times that of bits, less what both sums are too great by.
            scale = tl.sqrt_rn(tl.div_rn(square, tl.sum(tl.sum(odds, 1), 0) * d))
            _keep(out, 0, 4 * scale)
            _keep(out, 1, -2 * limit * scale)
            _keep(out, 2, (2 * total - limit * d) * scale)
        else:
            _keep(out, 0, tl.div_rn(2 * step, root))
            _keep(out, 1, tl.div_rn(2 * least, root))
            _keep(out, 2, tl.div_rn(step * total + d * least, root))


@triton.jit
def estimates(
    x, shift, centers, data, asked, offsets, sizes, keys, allowed, counted, before, ids, hopes, costs, labels, nprobe, width, d, size,
    BITS: tl.constexpr, HOW: tl.constexpr, ROW: tl.constexpr, LARGEST: tl.constexpr, SHIFTED: tl.constexpr, CENTERED: tl.constexpr,
    PER_PAIR: tl.constexpr, MASKED: tl.constexpr, PAIRS: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What costs of a probe's entries are hoped to be, their costs, and labels, in the order in which each query meets them.

    sizes: entries of each probe; before: those that count of the probes before; counted: of all rows before each those that are allowed.
    """
    pair = tl.program_id(0).to(tl.int64)
    q = pair // nprobe
    list_no = tl.maximum(tl.load(keys + pair), 0)
    offset = tl.load(offsets + list_no)
    entries = tl.load(sizes + pair)
    first = q * width + tl.load(before + pair)
    if MASKED:
        first -= tl.load(counted + offset)
    mine = asked + (pair if PER_PAIR else q) * ROW
    for chunk in range(tl.program_id(1), tl.cdiv(entries, N), tl.num_programs(1)):
        place, rows, there = rows_of_chunk(allowed, offset, entries, chunk, MASKED, N)
        hope = hoped(
            x, shift, centers, data, mine, q, list_no, rows, there, d, size, HOW, LARGEST, SHIFTED, CENTERED, N, BD
        )  # fmt: skip
        cost = by_all(
            x, shift, centers, data, mine, q, list_no, rows, there, d, size, BITS, LARGEST, SHIFTED, CENTERED, N, BD
        )  # fmt: skip
        if MASKED:
            to = first + tl.load(counted + rows, mask=there, other=0)
        else:
            to = first + place
        if PAIRS:
            label = (list_no << 32) | place.to(tl.int64)
        else:
            label = tl.load(ids + rows, mask=there, other=-1)
        tl.store(hopes + to, hope, mask=there)
        tl.store(costs + to, cost, mask=there)
        tl.store(labels + to, label, mask=there)


@triton.jit
def estimates_shared(
    x, shift, centers, data, asked, offsets, sizes, order, starts, ends, owners, allowed, counted, before, ids, hopes, costs, labels,
    nprobe, width, d, size, n_lists,
    BITS: tl.constexpr, HOW: tl.constexpr, ROW: tl.constexpr, LARGEST: tl.constexpr, SHIFTED: tl.constexpr, CENTERED: tl.constexpr,
    PER_PAIR: tl.constexpr, MASKED: tl.constexpr, PAIRS: tl.constexpr, BQ: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The same for the probes of one list that are a tile's."""
    tile = tl.program_id(0)
    list_no = tl.load(owners + tile)
    if list_no >= n_lists:
        return
    pair, real = tile_of_probes(order, starts, ends, list_no, tile, BQ)
    q = pair // nprobe
    offset = tl.load(offsets + list_no)
    entries = tl.load(sizes + pair, mask=real, other=0)
    most = tl.max(entries, 0)
    first = q * width + tl.load(before + pair, mask=real, other=0)
    if MASKED:
        first -= tl.load(counted + offset)
    mine = asked + (pair if PER_PAIR else q) * ROW
    for chunk in range(tl.program_id(1), tl.cdiv(most, N), tl.num_programs(1)):
        place, rows, there = rows_of_chunk(allowed, offset, most, chunk, MASKED, N)
        hope, cost = costs_of_tile(
            x, shift, centers, data, mine, q, list_no, real, rows, there, d, size,
            BITS, HOW, LARGEST, SHIFTED, CENTERED, BQ, N, BD,
        )  # fmt: skip
        if MASKED:
            rank = tl.load(counted + rows, mask=there, other=0)
        else:
            rank = place.to(tl.int64)
        if PAIRS:
            label = (list_no << 32) | place.to(tl.int64)
        else:
            label = tl.load(ids + rows, mask=there, other=-1)
        to = first[:, None] + rank[None, :]
        met = there[None, :] & (place[None, :] < entries[:, None])
        tl.store(hopes + to, hope, mask=met)
        tl.store(costs + to, cost, mask=met)
        tl.store(labels + to, tl.broadcast_to(label[None, :], [BQ, N]), mask=met)


@triton.jit
def _kth_least(kept, n, k, BLOCK: tl.constexpr):
    """The k-th least of n numbers, by four passes over their bits."""
    prefix = tl.full([], 0, tl.uint32)
    decided = tl.full([], 0, tl.uint32)
    left = k
    bins = tl.arange(0, 256)
    for digit in tl.static_range(4):
        shift = 24 - 8 * digit
        histogram = tl.zeros([256], tl.int32)
        for start in range(0, n, BLOCK):
            at = start + tl.arange(0, BLOCK)
            key = unsigned_key(tl.load(kept + at, mask=at < n, other=0.0))
            counted = (at < n) & ((key & decided) == prefix)
            histogram += tl.histogram(((key >> shift) & 255).to(tl.int32), 256, mask=counted)
        chosen = tl.sum((tl.cumsum(histogram, 0) < left).to(tl.int32), 0)
        left -= tl.sum(tl.where(bins < chosen, histogram, 0), 0)
        prefix = prefix | (chosen.to(tl.uint32) << shift)
        decided = decided | (tl.full([], 255, tl.uint32) << shift)
    bits = prefix.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ -2147483648, ~bits).to(tl.float32, bitcast=True)


@triton.jit
def _passed(hopes, costs, labels, kept, names, start, total, bar, n, BLOCK: tl.constexpr):
    """Append the entries of a block that were hoped to be, and are, under the bar; says how many there are then."""
    at = start + tl.arange(0, BLOCK)
    inside = at < total
    cost = tl.load(costs + at, mask=inside, other=float("inf"))
    good = inside & (tl.load(hopes + at, mask=inside, other=float("inf")) < bar) & (cost < bar)
    to = n + tl.cumsum(good.to(tl.int32), 0) - 1
    tl.store(kept + to, cost, mask=good)
    tl.store(names + to, tl.load(labels + at, mask=good, other=-1), mask=good)
    return n + tl.sum(good.to(tl.int32), 0)


@triton.jit
def _raised(kept, bar, n, k, start, look, known, LAST: tl.constexpr, BLOCK: tl.constexpr):
    """The bar, where the next one is due, and how many entries it is of: at certain places it becomes the k-th cost so far."""
    if start >= look:
        if (n >= k) & (n > known):
            tl.debug_barrier()
            bar = _kth_least(kept, n, k, BLOCK)
            known = n
        look += tl.minimum(look, LAST)
    return bar, look, known


@triton.jit
def sieve(
    hopes, costs, labels, totals, kept, names, found, width, k,
    FIRST: tl.constexpr, LAST: tl.constexpr, SHORT: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """Of each query's entries, in order, costs and labels of those that were hoped to be under the k-th cost known at the time, and are.

    The bar moves when FIRST have been seen, and then whenever as many again have, LAST at most: as in the definition.
    """
    q = tl.program_id(0).to(tl.int64)
    hopes, costs, labels, kept, names = (
        hopes + q * width,
        costs + q * width,
        labels + q * width,
        kept + q * width,
        names + q * width,
    )
    total = tl.load(totals + q).to(tl.int32)
    bar = tl.full([], 3.4028234663852886e38, tl.float32)
    look = tl.full([], FIRST, tl.int32)
    n = tl.full([], 0, tl.int32)
    known = tl.full([], 0, tl.int32)
    for start in range(0, tl.minimum(total, LONG), SHORT):
        bar, look, known = _raised(kept, bar, n, k, start, look, known, LAST, LONG)
        n = _passed(hopes, costs, labels, kept, names, start, total, bar, n, SHORT)
    for start in range(LONG, total, LONG):
        bar, look, known = _raised(kept, bar, n, k, start, look, known, LAST, LONG)
        n = _passed(hopes, costs, labels, kept, names, start, total, bar, n, LONG)
    tl.store(found + q, n)
