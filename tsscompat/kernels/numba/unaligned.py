"""Intrinsics that numba lacks: numbers at any byte of an array, and how many bits of a word are set."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _load(context: Any, builder: Any, signature: Any, args: Any, kind: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    place = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [args[1]])
    loaded = builder.load(builder.bitcast(place, kind.as_pointer()))
    loaded.align = 1
    return loaded


@intrinsic
def word(typingctx: Any, array: Any, byte: Any) -> Any:
    """The 64 bits from byte number `byte` of an array's memory on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, signature, args, ir.IntType(64))

    return types.uint64(array, types.int64), generate


@intrinsic
def number(typingctx: Any, array: Any, byte: Any) -> Any:
    """The float32 at byte number `byte` of an array's memory."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, signature, args, ir.FloatType())

    return types.float32(array, types.int64), generate


@intrinsic
def ones(typingctx: Any, bits: Any) -> Any:
    """How many bits are set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate
