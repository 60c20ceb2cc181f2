"""Sums of 4-bit look-ups as vector instructions: a table of 16 bytes is one register, in which a byte shuffle looks up 16 codes at once.

A group is 32 codes. For each two parts it has 32 bytes: 16 for the first part, then 16 for the second, the low halves of the bytes
belonging to codes 0 to 15, the high halves to 16 to 31; among 16 bytes, even places are the first 8 codes, odd ones the last. Bytes are
added as pairs in 16 bits, once whole and once the upper byte alone, from which both sums follow (1 shift and 2 additions for 32 look-ups).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_WORD, _INT, _HALF, _BYTE = (ir.IntType(bits) for bits in (64, 32, 16, 8))
_FEATURES = binding.get_host_cpu_features()
# Tables that are looked up at once, by the widest byte shuffle that there is; 0: none.
LANES = 4 if _FEATURES.get("avx512bw") else 2 if _FEATURES.get("avx2") else 0
_SHUFFLES = {4: "llvm.x86.avx512.pshuf.b.512", 2: "llvm.x86.avx2.pshuf.b"}
# Queries whose sums stay in registers: four accumulators each.
TOGETHER = 4 if LANES == 4 else 2
GROUP = 32

# What `group_sums` is told about each query: the address of its tables, what is added to its sums, and the highest sum worth a look.
SEAT = np.dtype([("tables", np.int64), ("bias", np.uint16), ("bar", np.uint16), ("found", np.uint32), ("sums", np.uint16, 32)])
_TABLES, _BIAS, _BAR, _FOUND, _SUMS = 0, 8, 10, 12, 16


def _at(builder: Any, place: Any, offset: Any, kind: Any, align: int = 1) -> Any:
    where = builder.add(place, offset if isinstance(offset, ir.Value) else ir.Constant(_WORD, offset))
    loaded = builder.load(builder.inttoptr(where, kind.as_pointer()))
    loaded.align = align
    return loaded


def _put(builder: Any, value: Any, place: Any, offset: int) -> None:
    where = builder.add(place, ir.Constant(_WORD, offset))
    builder.store(value, builder.inttoptr(where, value.type.as_pointer())).align = 1


def _spread(builder: Any, value: Any, n: int) -> Any:
    kind = ir.VectorType(value.type, n)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, n), None))


def _choose(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Lanes of 8 numbers of two vectors one after the other."""
    places = [8 * lane + i for lane in lanes for i in range(8)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(places)), places))


def _folded(builder: Any, parts: list[Any]) -> Any:
    """For each of four vectors the sum of its lanes, all as one vector of 32 numbers."""
    a, b, c, d = parts
    if LANES == 4:
        ab = builder.add(_choose(builder, a, b, [0, 1, 4, 5]), _choose(builder, a, b, [2, 3, 6, 7]))
        cd = builder.add(_choose(builder, c, d, [0, 1, 4, 5]), _choose(builder, c, d, [2, 3, 6, 7]))
        return builder.add(_choose(builder, ab, cd, [0, 2, 4, 6]), _choose(builder, ab, cd, [1, 3, 5, 7]))
    ab = builder.add(_choose(builder, a, b, [0, 2]), _choose(builder, a, b, [1, 3]))
    cd = builder.add(_choose(builder, c, d, [0, 2]), _choose(builder, c, d, [1, 3]))
    return _choose(builder, ab, cd, [0, 1, 2, 3])


class _Sums:
    """The code of `group_sums` for a number of queries."""

    def __init__(self, builder: Any, queries: int) -> None:
        self.builder, self.queries = builder, range(queries)
        self.bytes, self.words = ir.VectorType(_BYTE, 16 * LANES), ir.VectorType(_HALF, 8 * LANES)
        self.totals = [[cgutils.alloca_once(builder, self.words) for _ in range(4)] for _ in self.queries]

    def clear(self) -> None:
        """Begin anew."""
        for total in (total for totals in self.totals for total in totals):
            self.builder.store(ir.Constant(self.words, None), total)

    def shuffle(self, table: Any, places: Any) -> Any:
        kind = ir.FunctionType(self.bytes, [self.bytes, self.bytes])
        function = cgutils.get_or_insert_function(self.builder.module, kind, _SHUFFLES[LANES])
        return self.builder.call(function, [table, places])

    def codes(self, place: Any, stride: Any, last: bool) -> Any:
        """The bytes of LANES parts; of the last two alone with zeros behind them."""
        b, half = self.builder, ir.VectorType(_BYTE, 32)
        first = _at(b, place, 0, half)
        if LANES == 2:
            return first
        second = ir.Constant(half, None) if last else _at(b, place, stride, half)
        return b.shuffle_vector(first, second, ir.Constant(ir.VectorType(_INT, 64), list(range(64))))

    def add(self, place: Any, stride: Any, tables: list[Any], offset: Any, last: bool) -> None:
        """Look up LANES parts for all queries."""
        b = self.builder
        eight, four = (ir.Constant(self.words, [n] * (8 * LANES)) for n in (8, 4))
        mask = ir.Constant(self.bytes, [15] * (16 * LANES))
        codes = self.codes(place, stride, last)
        low = b.and_(codes, mask)
        high = b.and_(b.bitcast(b.lshr(b.bitcast(codes, self.words), four), self.bytes), mask)
        for table, totals in zip(tables, self.totals):
            entries = _at(b, table, offset, ir.VectorType(_BYTE, 32) if last else self.bytes)
            if last:
                # The codes of the missing lanes are zeros, and so are their tables.
                none = ir.Constant(entries.type, None)
                entries = b.shuffle_vector(entries, none, ir.Constant(ir.VectorType(_INT, 64), list(range(64))))
            for codes_of, (whole, upper) in zip((low, high), (totals[:2], totals[2:])):
                found = b.bitcast(self.shuffle(entries, codes_of), self.words)
                b.store(b.add(b.load(whole), found), whole)
                b.store(b.add(b.load(upper), b.lshr(found, eight)), upper)

    def run(self, codes: Any, stride: Any, tables: list[Any], begin: Any, parts: Any) -> None:
        """Look up the parts begin : parts."""
        b = self.builder
        step = ir.Constant(_WORD, LANES)
        whole = b.and_(parts, ir.Constant(_WORD, -LANES))
        with cgutils.for_range_slice(b, begin, whole, step, _WORD) as (part, _):
            place = b.add(codes, b.mul(b.lshr(part, ir.Constant(_WORD, 1)), stride))
            self.add(place, stride, tables, b.shl(part, ir.Constant(_WORD, 4)), last=False)
        if LANES == 4:
            with b.if_then(b.icmp_signed("<", whole, parts)):
                place = b.add(codes, b.mul(b.lshr(whole, ir.Constant(_WORD, 1)), stride))
                self.add(place, stride, tables, b.shl(whole, ir.Constant(_WORD, 4)), last=True)

    def times(self, factor: Any) -> None:
        """Multiply all sums so far."""
        many = _spread(self.builder, factor, 8 * LANES)
        for total in (total for totals in self.totals for total in totals):
            self.builder.store(self.builder.mul(self.builder.load(total), many), total)

    def sums(self, query: int) -> Any:
        """The sums of the 32 codes of the group."""
        b, eight = self.builder, ir.Constant(self.words, [8] * (8 * LANES))
        low, low_upper, high, high_upper = (b.load(total) for total in self.totals[query])
        parts = [b.sub(low, b.shl(low_upper, eight)), low_upper, b.sub(high, b.shl(high_upper, eight)), high_upper]
        return _folded(b, parts)


class _Groups:
    """Where the next group lies: a block holds `inside` bytes of groups, 32 each, and the next is `stride` bytes on."""

    def __init__(self, builder: Any, first: Any, inside: Any, per_block: Any, stride: Any) -> None:
        self.builder, self.per_block, self.stride = builder, per_block, stride
        self.block = cgutils.alloca_once_value(builder, first)
        self.inside = cgutils.alloca_once_value(builder, inside)

    def place(self) -> Any:
        return self.builder.add(self.builder.load(self.block), self.builder.load(self.inside))

    def advance(self) -> None:
        b = self.builder
        inside = b.add(b.load(self.inside), ir.Constant(_WORD, GROUP))
        over = b.icmp_signed("==", inside, self.per_block)
        b.store(b.select(over, ir.Constant(_WORD, 0), inside), self.inside)
        block = b.load(self.block)
        b.store(b.select(over, b.add(block, self.stride), block), self.block)


def _group_sums(queries: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block, inside, per_block, stride, groups, parts, layer, begin, scale, flip, seats = args
        places = [builder.add(seats, ir.Constant(_WORD, q * SEAT.itemsize)) for q in range(queries)]
        tables = [_at(builder, place, _TABLES, _WORD) for place in places]
        fields = [[_at(builder, place, field, _HALF) for field in (_BIAS, _BAR)] for place in places]
        wide = [[_spread(builder, field, GROUP) for field in pair] for pair in fields]
        flips = _spread(builder, flip, GROUP)
        made, at = _Sums(builder, queries), _Groups(builder, block, inside, per_block, stride)
        passed = cgutils.alloca_once_value(builder, ir.Constant(_WORD, 0))
        ask, look, end = (builder.append_basic_block(name) for name in ("ask", "look", "end"))
        builder.branch(ask)
        builder.position_at_end(ask)
        builder.cbranch(builder.icmp_signed("<", builder.load(passed), groups), look, end)
        builder.position_at_end(look)
        made.clear()
        codes = at.place()
        with builder.if_then(builder.icmp_signed("!=", scale, ir.Constant(_HALF, 0))):
            made.run(codes, per_block, [builder.add(table, layer) for table in tables], begin, parts)
            made.times(scale)
        made.run(codes, per_block, tables, ir.Constant(_WORD, 0), parts)
        any_found = ir.Constant(_INT, 0)
        for q, (place, (bias, bar)) in enumerate(zip(places, wide)):
            value = builder.xor(builder.add(made.sums(q), bias), flips)
            found = builder.bitcast(builder.icmp_unsigned("<=", value, bar), _INT)
            _put(builder, value, place, _SUMS)
            _put(builder, found, place, _FOUND)
            any_found = builder.or_(any_found, found)
        at.advance()
        builder.store(builder.add(builder.load(passed), ir.Constant(_WORD, 1)), passed)
        builder.cbranch(builder.icmp_signed("==", any_found, ir.Constant(_INT, 0)), ask, end)
        builder.position_at_end(end)
        return builder.load(passed)

    word, half = types.int64, types.uint16
    return word(*[word] * 8, half, half, word), codegen


@intrinsic
def one_sums(
    typingctx: Any,
    block: Any,
    inside: Any,
    per_block: Any,
    stride: Any,
    groups: Any,
    parts: Any,
    layer: Any,
    begin: Any,
    scale: Any,
    flip: Any,
    seats: Any,
) -> Any:
    """Go through groups up to one of whose sums some are not over the query's bar; says how many it went through, that one included.

    The first is `inside` bytes from a block's address, a block having per_block bytes of groups for each two parts and the next being
    `stride` bytes on. The sums of the last group are written to the query's seat, with a bit for each that is not over the bar. With a
    scale other than 0, parts from `begin` on have a second table, `layer` bytes after the first, which counts so many times. Sums are
    flipped (0 or 65535) so that low ones are good.
    """
    return _group_sums(1)


@intrinsic
def many_sums(
    typingctx: Any,
    block: Any,
    inside: Any,
    per_block: Any,
    stride: Any,
    groups: Any,
    parts: Any,
    layer: Any,
    begin: Any,
    scale: Any,
    flip: Any,
    seats: Any,
) -> Any:
    """The same for TOGETHER queries, in seats one after the other."""
    return _group_sums(TOGETHER)
