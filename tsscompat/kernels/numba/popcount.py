"""Bits that differ between rows of 64-bit words, counted in registers: one query against rows, or four against a tile of columns.

Everything is named by its address, at any alignment. LLVM turns `ctpop` into what the CPU has: one instruction, or table look-ups.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_WORD, _INT, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)
# Words of a vector, and rows of a group: two vectors of each of four queries are counted at once.
_WIDTH = 8 if binding.get_host_cpu_features().get("avx512f") else 4
GROUP = 2 * _WIDTH
_VECTOR = ir.VectorType(_WORD, _WIDTH)
# Rows of fewer words than a vector has stand several in one.
_SHORT = tuple(n for n in (1, 2, 4) if n < _WIDTH)


@functools.cache
def room_for(words: int) -> int:
    """How many words a row takes for `count_rows`: filled up to a part of a vector, or to whole ones."""
    return next((n for n in _SHORT if n >= words), -(-words // _WIDTH) * _WIDTH)


def _constant(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _load(builder: Any, place: Any, kind: Any = _WORD) -> Any:
    loaded = builder.load(builder.inttoptr(place, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _store(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, builder.inttoptr(place, value.type.as_pointer())).align = 4


def _count(builder: Any, value: Any) -> Any:
    name = f"llvm.ctpop.v{_WIDTH}i64" if isinstance(value.type, ir.VectorType) else "llvm.ctpop.i64"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(value.type, [value.type]), name)
    return builder.call(function, [value])


def _splat(value: int, kind: Any) -> Any:
    return ir.Constant(kind, [value] * _WIDTH) if isinstance(kind, ir.VectorType) else ir.Constant(kind, value)


def _some_bit(builder: Any, word: Any) -> Any:
    """Words with one bit for each byte that is not zero."""
    rest = _splat(0x7F7F7F7F7F7F7F7F, word.type)
    low = builder.add(builder.and_(word, rest), rest)
    return builder.and_(builder.or_(low, word), _splat(0x8080808080808080, word.type))


def _difference(builder: Any, one: Any, other: Any, whole: bool) -> Any:
    """For each word how much of it differs."""
    word = builder.xor(one, other)
    return _count(builder, _some_bit(builder, word) if whole else word)


def _scalar_row(builder: Any, x: Any, row: Any, words: Any, whole: bool) -> Any:
    """How much of a row differs, word by word."""
    total = cgutils.alloca_once_value(builder, _constant(0))
    builder.store(_constant(0), total)
    stop = builder.shl(words, _constant(3))
    with cgutils.for_range_slice(builder, _constant(0), stop, _constant(8), _WORD) as (at, _):
        part = _difference(builder, _load(builder, builder.add(x, at)), _load(builder, builder.add(row, at)), whole)
        builder.store(builder.add(builder.load(total), part), total)
    return builder.load(total)


def _folded(builder: Any, vectors: list[Any]) -> Any:
    """Sums of neighbouring lanes, until one vector is left."""
    numbers = ir.VectorType(_INT, _WIDTH)
    even, odd = ir.Constant(numbers, list(range(0, 2 * _WIDTH, 2))), ir.Constant(numbers, list(range(1, 2 * _WIDTH, 2)))
    while len(vectors) > 1:
        pairs = list(zip(vectors[::2], vectors[1::2]))
        vectors = [builder.add(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd)) for a, b in pairs]
    return vectors[0]


def _vector(builder: Any, place: Any, item: Any = 0) -> Any:
    """The vector that stands so many vectors behind an address."""
    return _load(builder, builder.add(place, _constant(8 * _WIDTH * item)), _VECTOR)


def _short_rows(builder: Any, x: Any, rows: Any, words: int, whole: bool) -> Any:
    """The differences of as many rows as a vector has lanes, several rows to a vector."""
    return _folded(builder, [_difference(builder, x, _vector(builder, rows, v), whole) for v in range(words)])


def _long_rows(builder: Any, x: Any, rows: Any, stride: Any, whole: bool) -> Any:
    """The same where a row is whole vectors."""
    sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(_WIDTH)]
    for total in sums:
        builder.store(ir.Constant(_VECTOR, None), total)
    with cgutils.for_range_slice(builder, _constant(0), stride, _constant(8 * _WIDTH), _WORD) as (at, _):
        query = _vector(builder, builder.add(x, at))
        row = builder.add(rows, at)
        for total in sums:
            part = _difference(builder, query, _vector(builder, row), whole)
            builder.store(builder.add(builder.load(total), part), total)
            row = builder.add(row, stride)
    return _folded(builder, [builder.load(total) for total in sums])


def _repeated(builder: Any, x: Any, words: int) -> Any:
    """A query's words, repeated to fill a vector."""
    vector = ir.Constant(_VECTOR, None)
    for lane in range(_WIDTH):
        word = _load(builder, builder.add(x, _constant(8 * (lane % words))))
        vector = builder.insert_element(vector, word, ir.Constant(_INT, lane))
    return vector


def _groups(builder: Any, n: Any, write: Any) -> None:
    """Call write(first row) for groups of rows that cover n, the last of which may begin before the one before it ends."""
    last = builder.sub(n, _constant(_WIDTH))
    with cgutils.for_range_slice(builder, _constant(0), n, _constant(_WIDTH), _WORD) as (i, _):
        write(builder.select(builder.icmp_signed("<", i, last), i, last))


def _count_rows(whole: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, rows, n, words, out = args
        stride, numbers = builder.shl(words, _constant(3)), ir.VectorType(_INT, _WIDTH)

        def write(of: Any) -> Any:
            def some(i: Any) -> None:
                total = of(builder.add(rows, builder.mul(i, stride)))
                _store(builder, builder.trunc(total, numbers), builder.add(out, builder.shl(i, _constant(2))))

            return some

        with builder.if_else(builder.icmp_signed("<", n, _constant(_WIDTH))) as (few, many):
            with few, cgutils.for_range_slice(builder, _constant(0), n, _constant(1), _WORD) as (i, _):
                total = _scalar_row(builder, x, builder.add(rows, builder.mul(i, stride)), words, whole)
                _store(builder, builder.trunc(total, _INT), builder.add(out, builder.shl(i, _constant(2))))
            with many:
                end, long = builder.append_basic_block("end"), builder.append_basic_block("long")
                choice = builder.switch(words, long)
                for short in _SHORT:
                    block = builder.append_basic_block(f"words{short}")
                    choice.add_case(_constant(short), block)
                    builder.position_at_end(block)
                    query = _repeated(builder, x, short)
                    _groups(builder, n, write(lambda row, query=query, n=short: _short_rows(builder, query, row, n, whole)))
                    builder.branch(end)
                builder.position_at_end(long)
                _groups(builder, n, write(lambda row: _long_rows(builder, x, row, stride, whole)))
                builder.branch(end)
                builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def count_rows(typingctx: Any, x: Any, rows: Any, n: Any, words: Any, out: Any) -> Any:
    """Write how many bits differ between x and each of n rows of so many words (as `room_for` has it), as int32."""
    return _count_rows(False)


@intrinsic
def count_bytes(typingctx: Any, x: Any, rows: Any, n: Any, words: Any, out: Any) -> Any:
    """The same for bytes that differ."""
    return _count_rows(True)


@intrinsic
def count_four(typingctx: Any, a: Any, b: Any, c: Any, e: Any, tile: Any, groups: Any, words: Any, out: Any, stride: Any) -> Any:
    """Write how many bits differ between four queries and the rows of a tile, as int32; each query's `stride` bytes after the last's.

    A tile is groups of GROUP rows, column by column: (groups, words, GROUP).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *queries, tile, groups, words, out, stride = args
        numbers = ir.VectorType(_INT, _WIDTH)
        zero, one, block = _constant(0), _constant(1), _constant(8 * GROUP)
        sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(2)] for _ in queries]
        at, here = cgutils.alloca_once_value(builder, tile), cgutils.alloca_once_value(builder, out)
        with cgutils.for_range_slice(builder, zero, groups, one, _WORD):
            for kept in sums:
                for total in kept:
                    builder.store(ir.Constant(_VECTOR, None), total)
            with cgutils.for_range_slice(builder, zero, words, one, _WORD) as (w, _):
                place = builder.load(at)
                builder.store(builder.add(place, block), at)
                rows = [_load(builder, builder.add(place, _constant(8 * _WIDTH * v)), _VECTOR) for v in range(2)]
                for query, kept in zip(queries, sums):
                    word = _load(builder, builder.add(query, builder.shl(w, _constant(3))))
                    first = builder.insert_element(ir.Constant(_VECTOR, None), word, ir.Constant(_INT, 0))
                    spread = builder.shuffle_vector(first, first, ir.Constant(numbers, None))
                    for total, row in zip(kept, rows):
                        differing = _count(builder, builder.xor(spread, row))
                        builder.store(builder.add(builder.load(total), differing), total)
            target = builder.load(here)
            builder.store(builder.add(target, _constant(4 * GROUP)), here)
            for kept in sums:
                for v, total in enumerate(kept):
                    value = builder.trunc(builder.load(total), numbers)
                    _store(builder, value, builder.add(target, _constant(4 * _WIDTH * v)))
                target = builder.add(target, stride)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), codegen


@intrinsic
def under(typingctx: Any, counts: Any, n: Any, bar: Any) -> Any:
    """Of 64 int32 at an address, which of the first n are under a bar: the first as the lowest bit. All 64 are read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, n, bar = args
        lanes = 16
        kind, numbers = ir.VectorType(_INT, lanes), ir.VectorType(_INT, lanes)
        first = builder.insert_element(ir.Constant(kind, None), bar, ir.Constant(_INT, 0))
        bars = builder.shuffle_vector(first, first, ir.Constant(numbers, None))
        bits = _constant(0)
        for part in range(0, 64, lanes):
            found = builder.icmp_signed("<", _load(builder, builder.add(place, _constant(4 * part)), kind), bars)
            word = builder.zext(builder.bitcast(found, ir.IntType(lanes)), _WORD)
            bits = builder.or_(bits, builder.shl(word, _constant(part)))
        some = builder.sub(builder.shl(_constant(1), n), _constant(1))
        return builder.select(builder.icmp_signed("<", n, _constant(64)), builder.and_(bits, some), bits)

    return types.uint64(types.int64, types.int64, types.int32), codegen


@intrinsic
def word_at(typingctx: Any, place: Any) -> Any:
    """The word at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0])

    return types.uint64(types.int64), codegen


@intrinsic
def byte_at(typingctx: Any, place: Any) -> Any:
    """The byte at an address, as a word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], _BYTE), _WORD)

    return types.uint64(types.int64), codegen


@intrinsic
def differing(typingctx: Any, x: Any, row: Any, words: Any) -> Any:
    """How many bits differ between the words at two addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, row, words = args
        return _scalar_row(builder, x, row, words, False)

    return types.int64(types.int64, types.int64, types.int64), codegen
