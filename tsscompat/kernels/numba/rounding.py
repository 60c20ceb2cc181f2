"""Rows of floats as 8-bit integers, 16 numbers at a time.

What LLVM makes of plain loops takes twice as long with a row of 128, most of it before and behind the loops. Rows and outputs are named
by their addresses; numbers behind the last whole 16 are the caller's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
_FLOAT, _WORD, _INT, _BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(8)
_FLOATS, _INTS, _BYTES = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _INT, _BYTE))
_FREE = ("reassoc", "contract", "nsz")


def _reduced(builder: Any, name: str, vector: Any, *first: Any) -> Any:
    item = vector.type.element
    kind = ir.FunctionType(item, [value.type for value in (*first, vector)])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.{name}")
    return builder.call(function, [*first, vector], fastmath=_FREE if item is _FLOAT else ())


def _sum(builder: Any, vector: Any) -> Any:
    return _reduced(builder, "fadd.v16f32", vector, ir.Constant(_FLOAT, 0.0))


def _load(builder: Any, row: Any, item: Any) -> Any:
    at = builder.add(row, builder.shl(item, ir.Constant(_WORD, 2)))
    loaded = builder.load(builder.inttoptr(at, _FLOATS.as_pointer()))
    loaded.align = 4
    return loaded


def _spread(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, None), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, None))


@intrinsic
def extent(typingctx: Any, row: Any, n: Any, out: Any) -> Any:
    """Write the greatest magnitude of n floats, as its bits, and the sum of their squares to two places of 4 bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, end, found = args
        # Magnitudes are in order as integers too, NaN above all.
        most, total = (cgutils.alloca_once_value(builder, ir.Constant(kind, None)) for kind in (_INTS, _FLOATS))
        with cgutils.for_range_slice(builder, ir.Constant(_WORD, 0), end, ir.Constant(_WORD, LANES), _WORD) as (item, _):
            values = _load(builder, place, item)
            size = builder.and_(builder.bitcast(values, _INTS), ir.Constant(_INTS, [0x7FFFFFFF] * LANES))
            before = builder.load(most)
            builder.store(builder.select(builder.icmp_signed(">", size, before), size, before), most)
            square = builder.fmul(values, values, flags=_FREE)
            builder.store(builder.fadd(builder.load(total), square, flags=_FREE), total)
        builder.store(_reduced(builder, "smax.v16i32", builder.load(most)), builder.inttoptr(found, _INT.as_pointer()))
        second = builder.add(found, ir.Constant(_WORD, 4))
        builder.store(_sum(builder, builder.load(total)), builder.inttoptr(second, _FLOAT.as_pointer()))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def rounded(typingctx: Any, row: Any, n: Any, factor: Any, step: Any, out: Any) -> Any:
    """Write n floats times a factor, rounded, as bytes; gives the sum of the squares of what the bytes times the step leave over."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, end, times, size, codes = args
        factors, steps = _spread(builder, times), _spread(builder, size)
        rint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), "llvm.rint.v16f32")
        rest = cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, None))
        with cgutils.for_range_slice(builder, ir.Constant(_WORD, 0), end, ir.Constant(_WORD, LANES), _WORD) as (item, _):
            values = _load(builder, place, item)
            whole = builder.call(rint, [builder.fmul(values, factors, flags=_FREE)])
            # By way of 32 bits: a number beyond 8, of a row that is not sound, is cut off rather than undefined.
            narrow = builder.trunc(builder.fptosi(whole, _INTS), _BYTES)
            builder.store(narrow, builder.inttoptr(builder.add(codes, item), _BYTES.as_pointer())).align = 1
            gap = builder.fsub(values, builder.fmul(whole, steps, flags=_FREE), flags=_FREE)
            square = builder.fmul(gap, gap, flags=_FREE)
            builder.store(builder.fadd(builder.load(rest), square, flags=_FREE), rest)
        return _sum(builder, builder.load(rest))

    return types.float32(types.int64, types.int64, types.float32, types.float32, types.int64), codegen
