"""Instructions that numba has no names for: a lock that is one word, a clock."""

from __future__ import annotations

from llvmlite import ir
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
