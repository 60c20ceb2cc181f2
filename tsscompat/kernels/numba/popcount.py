"""Bits that differ between rows of 64-bit words, counted in registers: one query against rows, or four against a tile of columns.

Everything is named by its address, at any alignment. LLVM turns `ctpop` into what the CPU has: one instruction, or table look-ups.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_WORD, _INT, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)
# Words of a vector, and rows of a group: two vectors of each of four queries are counted at once.
_WIDTH = 8 if binding.get_host_cpu_features().get("avx512f") else 4
GROUP = 2 * _WIDTH
# Rows of so many words are counted by straight code.
_STRAIGHT = (1, 2, 4, 8)


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


def _some_bit(builder: Any, word: Any) -> Any:
    """A word with one bit for each byte that is not zero."""
    low = builder.add(builder.and_(word, _constant(0x7F7F7F7F7F7F7F7F)), _constant(0x7F7F7F7F7F7F7F7F))
    return builder.and_(builder.or_(low, word), _constant(0x8080808080808080))


def _row(builder: Any, query: Any, row: Any, n: int, whole: bool) -> Any:
    """The difference between n words, which were loaded, and those at an address."""
    total = _constant(0)
    for i in range(n):
        word = builder.xor(query[i], _load(builder, builder.add(row, _constant(8 * i))))
        total = builder.add(total, _count(builder, _some_bit(builder, word) if whole else word))
    return total


def _count_rows(whole: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, rows, n, words, out = args
        zero, one = _constant(0), _constant(1)
        stride = builder.shl(words, _constant(3))
        end, other = builder.append_basic_block("end"), builder.append_basic_block("other")
        choice = builder.switch(words, other)
        for straight in _STRAIGHT:
            block = builder.append_basic_block(f"words{straight}")
            choice.add_case(_constant(straight), block)
            builder.position_at_end(block)
            query = [_load(builder, builder.add(x, _constant(8 * i))) for i in range(straight)]
            with cgutils.for_range_slice(builder, zero, n, one, _WORD) as (i, _):
                total = _row(builder, query, builder.add(rows, builder.mul(i, stride)), straight, whole)
                _store(builder, builder.trunc(total, _INT), builder.add(out, builder.shl(i, _constant(2))))
            builder.branch(end)
        builder.position_at_end(other)
        with cgutils.for_range_slice(builder, zero, n, one, _WORD) as (i, _):
            total, row = cgutils.alloca_once_value(builder, zero), builder.add(rows, builder.mul(i, stride))
            builder.store(zero, total)
            with cgutils.for_range_slice(builder, zero, stride, _constant(8), _WORD) as (at, _):
                part = _row(builder, [_load(builder, builder.add(x, at))], builder.add(row, at), 1, whole)
                builder.store(builder.add(builder.load(total), part), total)
            _store(builder, builder.trunc(builder.load(total), _INT), builder.add(out, builder.shl(i, _constant(2))))
        builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def count_rows(typingctx: Any, x: Any, rows: Any, n: Any, words: Any, out: Any) -> Any:
    """Write how many bits differ between x and each of n rows of so many words, as int32."""
    return _count_rows(False)


@intrinsic
def count_bytes(typingctx: Any, x: Any, rows: Any, n: Any, words: Any, out: Any) -> Any:
    """The same for bytes that differ."""
    return _count_rows(True)


@intrinsic
def count_four(
    typingctx: Any, a: Any, b: Any, c: Any, e: Any, tile: Any, groups: Any, words: Any, out: Any, stride: Any
) -> Any:
    """Write how many bits differ between four queries and the rows of a tile, as int32; each query's `stride` bytes after the last's.

    A tile is groups of GROUP rows, column by column: (groups, words, GROUP).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *queries, tile, groups, words, out, stride = args
        vector, numbers = ir.VectorType(_WORD, _WIDTH), ir.VectorType(_INT, _WIDTH)
        zero, one, block = _constant(0), _constant(1), _constant(8 * GROUP)
        sums = [[cgutils.alloca_once(builder, vector) for _ in range(2)] for _ in queries]
        at, here = cgutils.alloca_once_value(builder, tile), cgutils.alloca_once_value(builder, out)
        with cgutils.for_range_slice(builder, zero, groups, one, _WORD):
            for kept in sums:
                for total in kept:
                    builder.store(ir.Constant(vector, None), total)
            with cgutils.for_range_slice(builder, zero, words, one, _WORD) as (w, _):
                place = builder.load(at)
                builder.store(builder.add(place, block), at)
                rows = [_load(builder, builder.add(place, _constant(8 * _WIDTH * v)), vector) for v in range(2)]
                for query, kept in zip(queries, sums):
                    word = _load(builder, builder.add(query, builder.shl(w, _constant(3))))
                    first = builder.insert_element(ir.Constant(vector, None), word, ir.Constant(_INT, 0))
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
        total = cgutils.alloca_once_value(builder, _constant(0))
        builder.store(_constant(0), total)
        stop = builder.shl(words, _constant(3))
        with cgutils.for_range_slice(builder, _constant(0), stop, _constant(8), _WORD) as (at, _):
            part = _row(builder, [_load(builder, builder.add(x, at))], builder.add(row, at), 1, False)
            builder.store(builder.add(builder.load(total), part), total)
        return builder.load(total)

    return types.int64(types.int64, types.int64, types.int64), codegen
