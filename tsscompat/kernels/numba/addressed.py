"""Costs of rows that are named by their addresses: squared L2 and negated inner products, one row or four at a time.

Walks of a graph meet rows in no order. Four at a time, their loads overlap; by address, no array is made for each of them (30 ns).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_LANES = 16
_FLOAT, _WORD = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, _LANES)
# Sums may be reordered and contracted; NaN and infinity keep their meaning.
_FREE = ("reassoc", "contract", "nsz")


@intrinsic
def address(typingctx: Any, array: Any) -> Any:
    """Where an array's items begin."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.ptrtoint(view.data, _WORD)

    return types.int64(array), codegen


@intrinsic
def pointer(typingctx: Any, place: Any, dtype: Any) -> Any:
    """An address as a pointer to items of a type, of which `carray` makes an array."""
    kind = types.CPointer(dtype.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, dtype), codegen


@intrinsic
def prefetch_at(typingctx: Any, place: Any) -> Any:
    """Ask for the cache line at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        pointer = builder.inttoptr(args[0], cgutils.voidptr_t)
        builder.call(function, [pointer, *(ir.Constant(ir.IntType(32), v) for v in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def shift_up(typingctx: Any, array: Any, begin: Any, end: Any) -> Any:
    """Move the 8-byte items begin : end of an array one place up."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        source = builder.gep(view.data, [args[1]])
        target = builder.gep(source, [ir.Constant(_WORD, 1)])
        cgutils.raw_memmove(builder, target, source, builder.sub(args[2], args[1]), 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


def _term(builder: Any, inner: bool, x: Any, y: Any, total: Any) -> Any:
    """total + x y, or total + (x - y)^2."""
    a, b = x, y
    if not inner:
        a = b = builder.fsub(x, y, flags=_FREE)
    return builder.fadd(total, builder.fmul(a, b, flags=_FREE), flags=_FREE)


def _load(builder: Any, place: Any, item: Any) -> Any:
    """16 floats from item `item` on, at any alignment."""
    at = builder.add(place, builder.shl(item, ir.Constant(_WORD, 2)))
    loaded = builder.load(builder.inttoptr(at, _VECTOR.as_pointer()))
    loaded.align = 4
    return loaded


def _load_some(builder: Any, place: Any, item: Any, mask: Any) -> Any:
    """The floats of a last vector that exist, zeros behind them."""
    at = builder.add(place, builder.shl(item, ir.Constant(_WORD, 2)))
    kind = ir.FunctionType(_VECTOR, [_VECTOR.as_pointer(), ir.IntType(32), mask.type, _VECTOR])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.load.v16f32.p0")
    pointer = builder.inttoptr(at, _VECTOR.as_pointer())
    return builder.call(function, [pointer, ir.Constant(ir.IntType(32), 4), mask, ir.Constant(_VECTOR, None)])


def _sums(builder: Any, inner: bool, x: Any, rows: list[Any], d: Any, chains: int) -> list[Any]:
    """For each row the 16 partial sums; `chains` of them are kept apart in the loop, because an addition takes four cycles."""
    zero, lanes, stride = (ir.Constant(_WORD, v) for v in (0, _LANES, chains * _LANES))
    totals = [[cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None)) for _ in range(chains)] for _ in rows]

    def add(item: Any, chain: int, load: Any) -> None:
        a = load(x, item)
        for row, kept in zip(rows, totals):
            builder.store(_term(builder, inner, a, load(row, item), builder.load(kept[chain])), kept[chain])

    def whole(place: Any, item: Any) -> Any:
        return _load(builder, place, item)

    done = builder.and_(d, ir.Constant(_WORD, -chains * _LANES))
    with cgutils.for_range_slice(builder, zero, done, stride, _WORD) as (item, _):
        for chain in range(chains):
            add(builder.add(item, ir.Constant(_WORD, chain * _LANES)), chain, whole)
    if chains > 1:
        more = builder.and_(d, ir.Constant(_WORD, -_LANES))
        with cgutils.for_range_slice(builder, done, more, lanes, _WORD) as (item, _):
            add(item, 0, whole)
        done = more
    with builder.if_then(builder.icmp_signed("<", done, d)):
        numbers = ir.VectorType(ir.IntType(32), _LANES)
        left = builder.trunc(builder.sub(d, done), ir.IntType(32))
        spread = builder.insert_element(ir.Constant(numbers, None), left, ir.Constant(ir.IntType(32), 0))
        spread = builder.shuffle_vector(spread, spread, ir.Constant(numbers, None))
        mask = builder.icmp_unsigned("<", ir.Constant(numbers, list(range(_LANES))), spread)
        add(done, 0, lambda place, item: _load_some(builder, place, item, mask))
    sums = []
    for kept in totals:
        parts = [builder.load(part) for part in kept]
        while len(parts) > 1:
            parts = [builder.fadd(a, b, flags=_FREE) for a, b in zip(parts[::2], parts[1::2])]
        sums.append(parts[0])
    return sums


def _picked(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    numbers = ir.VectorType(ir.IntType(32), len(lanes))
    return builder.shuffle_vector(a, b, ir.Constant(numbers, lanes))


def _folded(builder: Any, a: Any, b: Any, low: list[int], high: list[int]) -> Any:
    return builder.fadd(_picked(builder, a, b, low), _picked(builder, a, b, high), flags=_FREE)


def _quarter(builder: Any, v: Any) -> Any:
    """16 partial sums folded into 4."""
    v = _folded(builder, v, v, list(range(8)), list(range(8, 16)))
    return _folded(builder, v, v, list(range(4)), list(range(4, 8)))


def _one(inner: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, row, d = args
        v = _quarter(builder, _sums(builder, inner, x, [row], d, 4)[0])
        v = _folded(builder, v, v, [0, 1], [2, 3])
        parts = [builder.extract_element(v, ir.Constant(ir.IntType(32), i)) for i in range(2)]
        total = builder.fadd(*parts, flags=_FREE)
        return builder.fneg(total) if inner else total

    return types.float32(types.int64, types.int64, types.int64), codegen


def _four(inner: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, *rows, d, out = args
        a, b, c, e = (_quarter(builder, v) for v in _sums(builder, inner, x, rows, d, 1))
        left, right = (_folded(builder, *pair, [0, 1, 4, 5], [2, 3, 6, 7]) for pair in ((a, b), (c, e)))
        total = _folded(builder, left, right, [0, 2, 4, 6], [1, 3, 5, 7])
        if inner:
            total = builder.fneg(total)
        stored = builder.store(total, builder.inttoptr(out, total.type.as_pointer()))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen


@intrinsic
def squared_l2_at(typingctx: Any, x: Any, row: Any, d: Any) -> Any:
    """The squared distance between two rows of d floats."""
    return _one(False)


@intrinsic
def minus_dot_at(typingctx: Any, x: Any, row: Any, d: Any) -> Any:
    """The negated inner product of two rows of d floats."""
    return _one(True)


@intrinsic
def squared_l2_four(typingctx: Any, x: Any, a: Any, b: Any, c: Any, e: Any, d: Any, out: Any) -> Any:
    """Write the squared distances between x and four rows to the address `out`."""
    return _four(False)


@intrinsic
def minus_dot_four(typingctx: Any, x: Any, a: Any, b: Any, c: Any, e: Any, d: Any, out: Any) -> Any:
    """Write the negated inner products of x and four rows to the address `out`."""
    return _four(True)
