"""Codes with factors of their own, by which distances are estimated: EDEN's, TurboQuant's and RaBitQ's, as kernels read them.

A cost is that of a product: what the query's list adds, what the code adds, and the product of the query with what the code's numbers
stand for, times the code's scale. The layouts are in kernels/ivf_codebook.py and kernels/rabitq.py.

A row of `asked` holds, for a query (and list), c1, c2 and c34, which turn counts of bits into products, what it adds to distances by
signs, the length of the query less the center, and what it adds to distances by all bits, as bits of floats; two words later its bit
planes: those of its rounded numbers, and one of ones.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tsscompat.kernels.triton.bit_fields import bits_at

# Words of a row of `asked` before its planes.
HEAD = 8


@triton.jit
def number_at(data, rows, there, byte, size):
    """The number in single precision that begins at a byte of each code, wherever that lies."""
    at = data + rows * size + byte
    word = tl.load(at, mask=there, other=0).to(tl.int32)
    word = word | (tl.load(at + 1, mask=there, other=0).to(tl.int32) << 8)
    word = word | (tl.load(at + 2, mask=there, other=0).to(tl.int32) << 16)
    return (word | (tl.load(at + 3, mask=there, other=0).to(tl.int32) << 24)).to(tl.float32, bitcast=True)


@triton.jit
def bit_at(data, rows, there, first, at, size):
    """Bit `at` of each row of bits that begins at byte `first` of the codes: (rows, at)."""
    return (
        tl.load(data + rows[:, None] * size + (first + (at >> 3))[None, :], mask=there, other=0).to(tl.int32) >> (at & 7)[None, :]
    ) & 1


@triton.jit
def _turbo_at(data, lo, rows, there, at, d, size, BITS: tl.constexpr):
    """TurboQuant's first approximations, the signs times their size, and the two columns for what rounding a query took away."""
    width = (d - 2) // 2
    plane = (width + 7) // 8
    near = at < width
    dim = tl.where(near, at, at - width)
    number = tl.zeros_like(rows[:, None] + at[None, :]).to(tl.int32)
    for p in tl.static_range(BITS - 1):
        number = number | (bit_at(data, rows, there & near[None, :], p * plane, dim, size) << p)
    signed = (at >= width) & (at < 2 * width)
    sign = bit_at(data, rows, there & signed[None, :], (BITS - 1) * plane, dim, size)
    live = tl.max(there.to(tl.int32), 1) != 0
    # The square root of pi / 2.
    gamma = 1.2533141373155003 / width * number_at(data, rows, live, size - 4, size)[:, None]
    value = tl.load(lo + number, mask=there, other=0.0)
    value = tl.where(signed[None, :], tl.where(sign != 0, gamma, -gamma), value)
    return tl.where((at == 2 * width + 1)[None, :], gamma, value)


@triton.jit
def estimated_at(data, lo, rows, there, at, d, size, KIND: tl.constexpr, BITS: tl.constexpr):
    """Numbers `at` of what codes stand for, but for their scale."""
    if KIND == 18:
        value = _turbo_at(data, lo, rows, there, at, d, size, BITS)
    elif KIND == 19:
        signs = (d + 7) // 8
        more = bits_at(data + signs + 12, rows, there, at, size, BITS)
        value = ((bit_at(data, rows, there, 0, at, size) << BITS) + more).to(tl.float32) - ((1 << BITS) - 0.5)
    else:
        value = tl.load(lo + bits_at(data, rows, there, at, size, BITS), mask=there, other=0.0)
    return value


@triton.jit
def own(data, rows, there, size, scale, KIND: tl.constexpr):
    """What each code's product is multiplied with, and what is added to that; squares only to distances, whose scale is below 0."""
    last = number_at(data, rows, there, size - 4, size)
    first = number_at(data, rows, there, size - 8, size)
    if KIND == 18:
        return first, tl.where(scale < 0, first * first, 0.0)
    elif KIND == 19:
        return last, first
    else:
        return last, tl.where(scale < 0, first, 0.0)


@triton.jit
def _ones(word):
    """How many bits of an int32 are set, in the form that LLVM knows as one instruction."""
    word = word.to(tl.uint32, bitcast=True)
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    return ((((word + (word >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _words(data, rows, there, byte, size, ALIGNED: tl.constexpr):
    """Words of 32 bits that begin at bytes of the codes."""
    if ALIGNED:
        return tl.load((data + rows * size + byte).to(tl.pointer_type(tl.int32), bitcast=True), mask=there, other=0)
    else:
        return number_at(data, rows, there, byte, size).to(tl.int32, bitcast=True)


@triton.jit
def _by_counts(data, planes, rows, there, d, size, QB: tl.constexpr, ALIGNED: tl.constexpr, N: tl.constexpr, BD: tl.constexpr):
    """For each code the sum of a query's rounded numbers where its signs are set, and how many are."""
    words = (d + 31) // 32
    totals = tl.zeros([N, BD], tl.int32)
    counts = tl.zeros([N, BD], tl.int32)
    for start in range(0, words, BD):
        at = start + tl.arange(0, BD)
        # Where the signs end amid a word, factors follow: no plane has bits there.
        signs = _words(data, rows[:, None], there[:, None] & (at < words)[None, :], 4 * at[None, :], size, ALIGNED)
        for j in tl.static_range(QB):
            plane = tl.load(planes + j * words + at, mask=at < words, other=0)
            # A weight that LLVM does not know beforehand: bits that are counted and shifted it does not see as one instruction.
            totals += tl.where(size > 0, 1 << j, 0) * _ones(signs & plane[None, :])
        counts += _ones(signs & tl.load(planes + QB * words + at, mask=at < words, other=0)[None, :])
    return tl.sum(totals, 1).to(tl.float32), tl.sum(counts, 1).to(tl.float32)


@triton.jit
def _residual(x, shift, centers, q, center, at, d, SHIFTED: tl.constexpr, CENTERED: tl.constexpr):
    """Dimensions `at` of a query less its center."""
    r = tl.load(x + q * d + at, mask=at < d, other=0.0)
    if SHIFTED:
        r -= tl.load(shift + at, mask=at < d, other=0.0)
    if CENTERED:
        r -= tl.load(centers + center * d + at, mask=at < d, other=0.0)
    return r


@triton.jit
def _by_floats(
    x, shift, centers, data, q, center, rows, there, d, size,
    SHIFTED: tl.constexpr, CENTERED: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The products of the codes' signs with a query less its center."""
    total = tl.zeros([N, BD], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        r = _residual(x, shift, centers, q, center, at, d, SHIFTED, CENTERED)
        inside = there[:, None] & (at < d)[None, :]
        sign = bit_at(data, rows, inside, 0, at, size)
        total += tl.where(inside, tl.where(sign != 0, r[None, :], -r[None, :]), 0.0)
    return tl.sum(total, 1)


@triton.jit
def constant(asked, i):
    """One of the numbers that a row of `asked` begins with."""
    return tl.load(asked + i).to(tl.float32, bitcast=True)


@triton.jit
def by_signs(
    x, shift, centers, data, asked, q, center, rows, there, d, size,
    HOW: tl.constexpr, LARGEST: tl.constexpr, SHIFTED: tl.constexpr, CENTERED: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Costs by signs of rows for the query of a row of `asked`; HOW is twice the bits of queries, and 1 where words are aligned."""
    factors = (d + 7) // 8
    if HOW < 2:
        product = _by_floats(x, shift, centers, data, q, center, rows, there, d, size, SHIFTED, CENTERED, N, BD) * constant(
            asked, 0
        )
    else:
        totals, counts = _by_counts(data, asked + 8, rows, there, d, size, HOW // 2, HOW % 2 == 1, N, 4)
        product = constant(asked, 0) * totals + constant(asked, 1) * counts - constant(asked, 2)
    value = number_at(data, rows, there, factors, size) - 2 * number_at(data, rows, there, factors + 4, size) * product
    if LARGEST:
        return 0.5 * value - constant(asked, 3)
    else:
        value += constant(asked, 3)
        return tl.where(value < 0, 0.0, value)


@triton.jit
def hoped(
    x, shift, centers, data, asked, q, center, rows, there, d, size,
    HOW: tl.constexpr, LARGEST: tl.constexpr, SHIFTED: tl.constexpr, CENTERED: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What costs by all bits are hardly below: costs by signs less their errors."""
    cost = by_signs(x, shift, centers, data, asked, q, center, rows, there, d, size, HOW, LARGEST, SHIFTED, CENTERED, N, BD)
    cost -= number_at(data, rows, there, (d + 7) // 8 + 8, size) * constant(asked, 4)
    return cost if LARGEST else tl.where(cost < 0, 0.0, cost)


@triton.jit
def by_all(
    x, shift, centers, data, asked, q, center, rows, there, d, size,
    BITS: tl.constexpr, LARGEST: tl.constexpr, SHIFTED: tl.constexpr, CENTERED: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Costs by all bits of rows for the query of a row of `asked`."""
    total = tl.zeros([N, BD], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        r = _residual(x, shift, centers, q, center, at, d, SHIFTED, CENTERED)
        inside = there[:, None] & (at < d)[None, :]
        total += tl.where(inside, estimated_at(data, data, rows, inside, at, d, size, 19, BITS) * r[None, :], 0.0)
    times, plus = own(data, rows, there, size, 1.0, 19)
    value = constant(asked, 5) + plus + times * tl.sum(total, 1)
    if LARGEST:
        return -value
    else:
        return tl.where(value < 0, 0.0, value)


@triton.jit
def _counts_of_tile(
    data, planes, real, rows, there, d, size, QB: tl.constexpr, ALIGNED: tl.constexpr, BQ: tl.constexpr, N: tl.constexpr
):
    """`_by_counts` for the planes of several queries: (BQ, N)."""
    words = (d + 31) // 32
    totals = tl.zeros([BQ, N], tl.int32)
    counts = tl.zeros([BQ, N], tl.int32)
    for word in range(0, words):
        signs = _words(data, rows, there, 4 * word, size, ALIGNED)[None, :]
        for j in tl.static_range(QB):
            plane = tl.load(planes + j * words + word, mask=real, other=0)[:, None]
            totals += tl.where(size > 0, 1 << j, 0) * _ones(signs & plane)
        counts += _ones(signs & tl.load(planes + QB * words + word, mask=real, other=0)[:, None])
    return totals.to(tl.float32), counts.to(tl.float32)


@triton.jit
def _constants(asked, real, i):
    """One of the numbers that several rows of `asked` begin with."""
    return tl.load(asked + i, mask=real, other=0).to(tl.float32, bitcast=True)[:, None]


@triton.jit
def _hopes_of_tile(
    data, asked, real, rows, there, products, d, size,
    HOW: tl.constexpr, LARGEST: tl.constexpr, BQ: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """`hoped` for several queries; `products` are those with the codes' signs, where queries are not rounded."""
    if HOW < 2:
        product = products * _constants(asked, real, 0)
    else:
        totals, counts = _counts_of_tile(data, asked + 8, real, rows, there, d, size, HOW // 2, HOW % 2 == 1, BQ, N)
        product = _constants(asked, real, 0) * totals + _constants(asked, real, 1) * counts - _constants(asked, real, 2)
    first = (d + 7) // 8
    add, multiply = number_at(data, rows, there, first, size)[None, :], number_at(data, rows, there, first + 4, size)[None, :]
    slack = number_at(data, rows, there, first + 8, size)[None, :] * _constants(asked, real, 4)
    cost = add - 2 * multiply * product
    if LARGEST:
        return 0.5 * cost - _constants(asked, real, 3) - slack
    else:
        cost += _constants(asked, real, 3)
        cost = tl.where(cost < 0, 0.0, cost) - slack
        return tl.where(cost < 0, 0.0, cost)


@triton.jit
def costs_of_tile(
    x, shift, centers, data, asked, q, list_no, real, rows, there, d, size,
    BITS: tl.constexpr, HOW: tl.constexpr, LARGEST: tl.constexpr, SHIFTED: tl.constexpr, CENTERED: tl.constexpr,
    BQ: tl.constexpr, N: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What costs of rows of one list are hoped to be, and are, for several queries (BQ, N): products by all bits on the tensor cores."""
    products = tl.zeros([BQ, N], tl.float32)
    by_sign = tl.zeros([BQ, N], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        here = real[:, None] & (at < d)[None, :]
        r = tl.load(x + q[:, None] * d + at[None, :], mask=here, other=0.0)
        if SHIFTED:
            r -= tl.load(shift + at, mask=at < d, other=0.0)[None, :]
        if CENTERED:
            r -= tl.load(centers + list_no * d + at, mask=at < d, other=0.0)[None, :]
        r = tl.where(here, r, 0.0)
        inside = there[:, None] & (at < d)[None, :]
        numbers = tl.where(inside, estimated_at(data, data, rows, inside, at, d, size, 19, BITS), 0.0)
        products = tl.dot(r, tl.trans(numbers), products, input_precision="tf32x3")
        if HOW < 2:
            signs = tl.where(inside, 2.0 * bit_at(data, rows, inside, 0, at, size) - 1.0, 0.0)
            by_sign = tl.dot(r, tl.trans(signs), by_sign, input_precision="tf32x3")
    hope = _hopes_of_tile(data, asked, real, rows, there, by_sign, d, size, HOW, LARGEST, BQ, N)
    times, plus = own(data, rows, there, size, 1.0, 19)
    cost = _constants(asked, real, 5) + plus[None, :] + times[None, :] * products
    return hope, -cost if LARGEST else tl.where(cost < 0, 0.0, cost)
