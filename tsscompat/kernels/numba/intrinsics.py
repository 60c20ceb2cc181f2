"""Instructions that numba has no names for: a lock that is one word, a clock, floats of other formats."""

from __future__ import annotations

import platform

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def try_lock(typingctx, array, index):
    """Set array[index] from 0 to 1; True if it was 0."""

    def codegen(context, builder, signature, args):
        view = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.gep(view.data, [args[1]])
        word = ir.IntType(32)
        pair = builder.cmpxchg(place, ir.Constant(word, 0), ir.Constant(word, 1), "acq_rel", "monotonic")
        return builder.extract_value(pair, 1)

    return types.boolean(array, types.intp), codegen


@intrinsic
def unlock(typingctx, array, index):
    """Set array[index] back to 0, after all that was written before."""

    def codegen(context, builder, signature, args):
        view = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.gep(view.data, [args[1]])
        builder.atomic_rmw("xchg", place, ir.Constant(ir.IntType(32), 0), "release")
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def ticks(typingctx):
    """A clock that costs nothing to read: its unit is the machine's own, for shares of a time only."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), codegen


# Without such an instruction LLVM would call a function that is not there.
_CONVERTS = bool(binding.get_host_cpu_features().get("f16c")) or platform.machine() in ("aarch64", "arm64")


@intrinsic
def half_to_float(typingctx, bits):
    """The number that 16 bits stand for in IEEE's half precision."""

    def codegen(context, builder, signature, args):
        if _CONVERTS:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        word = ir.IntType(32)
        wide = builder.zext(args[0], word)
        magnitude = builder.shl(builder.and_(wide, ir.Constant(word, 0x7FFF)), ir.Constant(word, 13))
        # An exponent of all ones (infinity, NaN) stays one; the others lack 112.
        exponent = builder.and_(wide, ir.Constant(word, 0x7C00))
        special = builder.icmp_unsigned("==", exponent, ir.Constant(word, 0x7C00))
        magnitude = builder.or_(magnitude, builder.select(special, ir.Constant(word, 0x7F800000), ir.Constant(word, 0)))
        number = builder.fmul(builder.bitcast(magnitude, ir.FloatType()), ir.Constant(ir.FloatType(), 2.0**112))
        sign = builder.shl(builder.and_(wide, ir.Constant(word, 0x8000)), ir.Constant(word, 16))
        return builder.bitcast(builder.or_(builder.bitcast(number, word), sign), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def brain_to_float(typingctx, bits):
    """The number that 16 bits stand for as the upper half of a float."""

    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.zext(args[0], word), ir.Constant(word, 16)), ir.FloatType())

    return types.float32(types.uint16), codegen
