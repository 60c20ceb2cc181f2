"""Whole vectors of numbers at work on many rows: tests of integer products, and the nearest of a table's rows.

Tests (`over`, `greatest`): the value of product p in place j is F(p) * scale[j] - half[j] * inverse. Nearest rows (`nearest_four`,
`nearest_one`, `best_four`): the sums of the queries and a group of rows stay in registers. As plain loops the same takes three times as
long, because LLVM makes neither a maximum of floats with its place nor bits of comparisons, and stores sums that it could keep.

What is named by its address must be an argument of the function that asks for it, or be read after: an array that only its address is
left of may be gone before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tsscompat.kernels.numba.jit import jit

_LANES = 16
_FLOAT, _WORD, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, _LANES), ir.VectorType(_INT, _LANES)
_FREE = ("reassoc", "contract", "nsz")
# Four queries and a group of rows fill the registers: 16 of 16 floats with AVX-512, else 8 of 8. Numba keeps code for each CPU apart.
WIDTH, GROUP = (16, 64) if binding.get_host_cpu_features().get("avx512f") else (8, 16)


def _spread(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, None), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, None))


def _load(builder: Any, place: Any, item: Any, kind: Any) -> Any:
    at = builder.add(place, builder.shl(item, ir.Constant(_WORD, 2)))
    loaded = builder.load(builder.inttoptr(at, kind.as_pointer()))
    loaded.align = 4
    return loaded


def _value(builder: Any, products: Any, scale: Any, half: Any, inverse: Any, item: Any) -> Any:
    whole = builder.sitofp(_load(builder, products, item, _INTS), _FLOATS)
    plain = builder.fmul(whole, _load(builder, scale, item, _FLOATS), flags=_FREE)
    return builder.fsub(plain, builder.fmul(_load(builder, half, item, _FLOATS), inverse, flags=_FREE), flags=_FREE)


@intrinsic
def over(typingctx: Any, products: Any, scale: Any, slack: Any, half: Any, first: Any, inverse: Any, bar: Any) -> Any:
    """Of the 64 places from `first` on, those whose value plus slack is over a bar, the first as the lowest bit. Arrays are addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at, scales, slacks, halves, begin, factor, limit = args
        inverses, limits, bits = _spread(builder, factor), _spread(builder, limit), ir.Constant(_WORD, 0)
        for part in range(0, 64, _LANES):
            item = builder.add(begin, ir.Constant(_WORD, part))
            most = builder.fadd(
                _value(builder, at, scales, halves, inverses, item), _load(builder, slacks, item, _FLOATS), flags=_FREE
            )
            found = builder.bitcast(builder.fcmp_ordered(">", most, limits), ir.IntType(_LANES))
            bits = builder.or_(bits, builder.shl(builder.zext(found, _WORD), ir.Constant(_WORD, part)))
        return bits

    return types.uint64(*[types.int64] * 5, types.float32, types.float32), codegen


@intrinsic
def below(typingctx: Any, values: Any, first: Any, bar: Any) -> Any:
    """Of the 64 places from `first` on, those whose value is under a bar, the first as the lowest bit. The array is an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at, begin, limit = args
        limits, bits = _spread(builder, limit), ir.Constant(_WORD, 0)
        for part in range(0, 64, _LANES):
            item = builder.add(begin, ir.Constant(_WORD, part))
            found = builder.fcmp_ordered("<", _load(builder, at, item, _FLOATS), limits)
            held = builder.zext(builder.bitcast(found, ir.IntType(_LANES)), _WORD)
            bits = builder.or_(bits, builder.shl(held, ir.Constant(_WORD, part)))
        return bits

    return types.uint64(types.int64, types.int64, types.float32), codegen


def _lanes_of_greatest(builder: Any, value: Callable[[Any], Any], end: Any) -> Any:
    """The greatest of the vectors value(item), lane by lane."""
    best = cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, [float("-inf")] * _LANES))
    with cgutils.for_range_slice(builder, ir.Constant(_WORD, 0), end, ir.Constant(_WORD, _LANES), _WORD) as (item, _):
        here, before = value(item), builder.load(best)
        builder.store(builder.select(builder.fcmp_ordered(">", here, before), here, before), best)
    return builder.load(best)


@intrinsic
def greatest(typingctx: Any, products: Any, scale: Any, slack: Any, half: Any, n: Any, inverse: Any) -> Any:
    """The greatest value less slack of n places, a multiple of 16. Arrays are addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at, scales, slacks, halves, end, factor = args
        inverses = _spread(builder, factor)

        def least(item: Any) -> Any:
            most = _value(builder, at, scales, halves, inverses, item)
            return builder.fsub(most, _load(builder, slacks, item, _FLOATS), flags=_FREE)

        lanes = _lanes_of_greatest(builder, least, end)
        total = builder.extract_element(lanes, ir.Constant(_INT, 0))
        for lane in range(1, _LANES):
            other = builder.extract_element(lanes, ir.Constant(_INT, lane))
            total = builder.select(builder.fcmp_ordered(">", other, total), other, total)
        return total

    return types.float32(*[types.int64] * 5, types.float32), codegen


@intrinsic
def peaks(typingctx: Any, products: Any, scale: Any, half: Any, n: Any, inverse: Any, out: Any) -> Any:
    """Write the greatest values of n places, a multiple of 16, for each remainder of the place by 16. Arrays are addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at, scales, halves, end, factor, place = args
        inverses = _spread(builder, factor)
        lanes = _lanes_of_greatest(builder, lambda item: _value(builder, at, scales, halves, inverses, item), end)
        builder.store(lanes, builder.inttoptr(place, _FLOATS.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.int64), codegen


@intrinsic
def lowest(typingctx: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


def _reduced(builder: Any, name: str, item: Any, vector: Any) -> Any:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(item, [vector.type]), name)
    return builder.call(function, [vector])


def _nearest(direct: bool, count: int = 4) -> Any:
    """Code of the functions below; each of `count` queries has an accumulator for each vector of a group, all in registers."""
    numbers, wide = ir.VectorType(_INT, WIDTH), ir.VectorType(_FLOAT, WIDTH)
    vectors = range(GROUP // WIDTH)

    def spread(builder: Any, value: Any, kind: Any) -> Any:
        one = builder.insert_element(ir.Constant(kind, None), value, ir.Constant(_INT, 0))
        return builder.shuffle_vector(one, one, ir.Constant(numbers, None))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *queries, table, d, groups, values, places = args
        zero, one, block = ir.Constant(_WORD, 0), ir.Constant(_WORD, 1), ir.Constant(_WORD, 4 * GROUP)
        best = [cgutils.alloca_once_value(builder, ir.Constant(wide, [float("inf")] * WIDTH)) for _ in queries]
        which = [cgutils.alloca_once_value(builder, ir.Constant(numbers, [-1] * WIDTH)) for _ in queries]
        sums = [[cgutils.alloca_once(builder, wide) for _ in vectors] for _ in queries]
        at = cgutils.alloca_once_value(builder, table)

        def column() -> list[Any]:
            """The next GROUP numbers of the table."""
            place = builder.load(at)
            builder.store(builder.add(place, block), at)
            loaded = []
            for v in vectors:
                here = builder.add(place, ir.Constant(_WORD, 4 * WIDTH * v))
                loaded.append(builder.load(builder.inttoptr(here, wide.as_pointer())))
                loaded[-1].align = 4
            return loaded

        with cgutils.for_range_slice(builder, zero, groups, one, _WORD) as (group, _):
            begin = [ir.Constant(wide, None) for _ in vectors] if direct else column()
            for kept in sums:
                for total, value in zip(kept, begin):
                    builder.store(value, total)
            with cgutils.for_range_slice(builder, zero, d, one, _WORD) as (j, _):
                rows = column()
                for query, kept in zip(queries, sums):
                    place = builder.add(query, builder.shl(j, ir.Constant(_WORD, 2)))
                    number = spread(builder, builder.load(builder.inttoptr(place, _FLOAT.as_pointer())), wide)
                    for total, row in zip(kept, rows):
                        if direct:
                            gap = builder.fsub(row, number, flags=_FREE)
                            new = builder.fadd(builder.load(total), builder.fmul(gap, gap, flags=_FREE), flags=_FREE)
                        else:
                            new = builder.fsub(builder.load(total), builder.fmul(row, number, flags=_FREE), flags=_FREE)
                        builder.store(new, total)
            first = spread(builder, builder.trunc(builder.mul(group, ir.Constant(_WORD, GROUP)), _INT), numbers)
            for v in vectors:
                own = builder.add(first, ir.Constant(numbers, list(range(v * WIDTH, (v + 1) * WIDTH))))
                for kept, value, name in zip(sums, best, which):
                    cost, before = builder.load(kept[v]), builder.load(value)
                    better = builder.fcmp_ordered("<", cost, before)
                    builder.store(builder.select(better, cost, before), value)
                    builder.store(builder.select(better, own, builder.load(name)), name)
        for q, (value, name) in enumerate(zip(best, which)):
            lanes = builder.load(value)
            least = _reduced(builder, f"llvm.vector.reduce.fmin.v{WIDTH}f32", _FLOAT, lanes)
            same = builder.fcmp_ordered("==", lanes, spread(builder, least, wide))
            # The first of equals; names of lanes that are not the least count as the last.
            names = builder.select(same, builder.load(name), ir.Constant(numbers, [0x7FFFFFFF] * WIDTH))
            lowest_name = _reduced(builder, f"llvm.vector.reduce.smin.v{WIDTH}i32", _INT, names)
            offset = ir.Constant(_WORD, 4 * q)
            builder.store(least, builder.inttoptr(builder.add(values, offset), _FLOAT.as_pointer()))
            builder.store(lowest_name, builder.inttoptr(builder.add(places, offset), _INT.as_pointer()))
        return context.get_dummy_value()

    return types.void(*[types.int64] * (count + 5)), codegen


@intrinsic
def nearest_four(
    typingctx: Any, a: Any, b: Any, c: Any, e: Any, table: Any, d: Any, groups: Any, values: Any, places: Any
) -> Any:
    """Write the least squared distances of four queries to the rows of a table, and which rows these are (the first of equals, -1: none).

    All arguments are addresses but d and the number of groups; the table is what `grouped` makes.
    """
    return _nearest(True)


@intrinsic
def nearest_one(typingctx: Any, a: Any, table: Any, d: Any, groups: Any, values: Any, places: Any) -> Any:
    """The same for a single query."""
    return _nearest(True, 1)


@intrinsic
def best_four(typingctx: Any, a: Any, b: Any, c: Any, e: Any, table: Any, d: Any, groups: Any, values: Any, places: Any) -> Any:
    """The same for half the squared norm less the inner product, with halves of the norms, or zeros, before each group's columns."""
    return _nearest(False)


@jit
def _group(rows, heads, out, filler):  # type: ignore[no-untyped-def]
    parts, groups, columns, size = out.shape
    k, d = rows.shape[1:]
    headed = columns - d
    for p in range(parts):
        for g in range(groups):
            for i in range(size):
                r = g * size + i
                if headed:
                    out[p, g, 0, i] = heads[p, r] if r < k else np.float32(np.inf)
                for j in range(d):
                    out[p, g, headed + j, i] = rows[p, r, j] if r < k else filler


def grouped(rows: np.ndarray, heads: np.ndarray | None = None) -> np.ndarray:
    """Tables of rows (parts, k, d) as groups of GROUP, column by column: (parts, groups, d, GROUP), filled up with rows never the nearest.

    With `heads` (parts, k), a column of these numbers is before the others.
    """
    parts, k, d = rows.shape
    out = np.empty((parts, -(-k // GROUP), d + (heads is not None), GROUP), dtype=np.float32)
    if heads is None:
        _group(rows, rows[:, :, 0], out, np.float32(np.inf))
    else:
        _group(rows, heads, out, np.float32(0))
    return out
