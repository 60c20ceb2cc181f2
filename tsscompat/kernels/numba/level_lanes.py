"""One level of Panorama for many rows at once: 16 rows' partial sums, costs and bounds stay in registers, and those left are packed.

As loops over rows the same takes twice to four times as long: LLVM folds each row's sum by itself and packs what is left one by one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tsscompat.kernels.numba.addressed import _FREE, _folded, _sums

_LANES, _TOGETHER = 16, 8
_FLOAT, _WORD, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, _LANES), ir.VectorType(_INT, _LANES)
# Rows that are asked for ahead of time: those of lists and those that are left are far from one another.
_AHEAD = 32
# Rounding of squared gaps of lengths, as a share of them: a bound that equals the bar but for it ends a row, as it does in FAISS.
_SURE = 1e-6


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, None), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, None))


def _at(builder: Any, place: Any, item: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(place, builder.shl(item, ir.Constant(_WORD, 2))), kind.as_pointer())


def _load(builder: Any, place: Any, item: Any, kind: Any) -> Any:
    loaded = builder.load(_at(builder, place, item, kind))
    loaded.align = 4
    return loaded


def _ask(builder: Any, place: Any) -> None:
    """Ask for the cache line at an address."""
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[_INT] * 3])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(place, cgutils.voidptr_t), *(ir.Constant(_INT, v) for v in (0, 3, 1))])


def _pack(builder: Any, values: Any, place: Any, item: Any, mask: Any, name: str) -> None:
    pointer = _at(builder, place, item, values.type.element)
    kind = ir.FunctionType(ir.VoidType(), [values.type, pointer.type, mask.type])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.compressstore.v{_LANES}{name}")
    builder.call(function, [values, pointer, mask])


def _totals(builder: Any, sums: list[Any]) -> Any:
    """Of 16 vectors of 16 partial sums the totals, in order, as a vector."""
    ends = [4 * lane for lane in range(4)]
    low = [lane + i for lane in ends for i in (0, 16, 1, 17)]
    high = [lane + i for lane in ends for i in (2, 18, 3, 19)]
    pairs = [_folded(builder, a, b, low, high) for a, b in zip(sums[::2], sums[1::2])]
    low = [lane + i for lane in ends for i in (0, 1, 16, 17)]
    high = [lane + i for lane in ends for i in (2, 3, 18, 19)]
    fours = [_folded(builder, a, b, low, high) for a, b in zip(pairs[::2], pairs[1::2])]
    # From here on quarters of a register are moved whole.
    low = [i + j for i in (0, 8, 16, 24) for j in range(4)]
    high = [i + j for i in (4, 12, 20, 28) for j in range(4)]
    eights = [_folded(builder, a, b, low, high) for a, b in zip(fours[::2], fours[1::2])]
    return _folded(builder, eights[0], eights[1], low, high)


def _kept(builder: Any, inner: bool, costs: Any, lengths: Any, left: Any, bar: Any) -> Any:
    """Which costs may still end under the bar."""
    mine = _spread(builder, left, _FLOATS)
    if inner:
        least = builder.fsub(costs, builder.fmul(mine, lengths, flags=_FREE), flags=_FREE)
    else:
        gap = builder.fsub(mine, lengths, flags=_FREE)
        more = builder.fmul(builder.fmul(gap, gap, flags=_FREE), ir.Constant(_FLOATS, [1 + _SURE] * _LANES), flags=_FREE)
        least = builder.fadd(costs, more, flags=_FREE)
    return builder.fcmp_ordered("<", least, _spread(builder, bar, _FLOATS))


def _gathered(builder: Any, lengths: Any, which: list[Any]) -> Any:
    theirs: Any = ir.Constant(_FLOATS, None)
    for lane, at in enumerate(which):
        theirs = builder.insert_element(theirs, _load(builder, lengths, at, _FLOAT), ir.Constant(_INT, lane))
    return theirs


def _level(inner: bool, first: bool) -> Any:
    """The code of a level, of inner products or squared gaps, for all rows or for those that are named."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        query, rows, stride, lengths, names, costs, n, names_out, costs_out, width, left, bar = args
        zero, lanes, ramp = ir.Constant(_WORD, 0), ir.Constant(_WORD, _LANES), ir.Constant(_INTS, list(range(_LANES)))
        kept = cgutils.alloca_once_value(builder, zero)
        if not first:
            # Behind the last name a name that can be looked up.
            filler = builder.store(_spread(builder, _load(builder, names, zero, _INT), _INTS), _at(builder, names, n, _INTS))
            filler.align = 4
        with cgutils.for_range_slice(builder, zero, n, lanes, _WORD) as (item, _):
            if first:
                places = [builder.add(rows, builder.mul(item, stride))]
                while len(places) < _LANES:
                    places.append(builder.add(places[-1], stride))
                ahead = builder.mul(stride, ir.Constant(_WORD, _AHEAD))
                soon = [builder.add(place, ahead) for place in places]
            else:
                lane_items = [builder.add(item, ir.Constant(_WORD, lane)) for lane in range(_LANES)]
                which = [builder.zext(_load(builder, names, at, _INT), _WORD) for at in lane_items]
                places = [builder.add(rows, builder.mul(at, stride)) for at in which]
                later = [builder.add(at, lanes) for at in lane_items]
                soon = [
                    builder.add(rows, builder.mul(builder.zext(_load(builder, names, at, _INT), _WORD), stride)) for at in later
                ]
            for place in soon:
                _ask(builder, place)
            sums: list[Any] = []
            for i in range(0, _LANES, _TOGETHER):
                sums += _sums(builder, inner, query, places[i : i + _TOGETHER], width, 1)
            total = _totals(builder, sums)
            if inner:
                total = builder.fneg(total)
            if first:
                numbers = builder.add(_spread(builder, builder.trunc(item, _INT), _INTS), ramp)
                mask = _kept(builder, inner, total, _load(builder, lengths, item, _FLOATS), left, bar)
            else:
                numbers = _load(builder, names, item, _INTS)
                total = builder.fadd(_load(builder, costs, item, _FLOATS), total, flags=_FREE)
                there = builder.trunc(builder.sub(n, item), _INT)
                mask = builder.icmp_signed("<", ramp, _spread(builder, there, _INTS))
                mask = builder.and_(mask, _kept(builder, inner, total, _gathered(builder, lengths, which), left, bar))
            behind = builder.load(kept)
            _pack(builder, total, costs_out, behind, mask, "f32")
            _pack(builder, numbers, names_out, behind, mask, "i32")
            bits = builder.zext(builder.bitcast(mask, ir.IntType(_LANES)), _WORD)
            builder.store(builder.add(behind, builder.ctpop(bits)), kept)
        return builder.load(kept)

    return types.int64(*[types.int64] * 10, types.float32, types.float32), codegen


def _made(inner: bool, first: bool) -> Any:
    @intrinsic
    def level(
        typingctx: Any,
        query: Any,
        rows: Any,
        stride: Any,
        lengths: Any,
        names: Any,
        costs: Any,
        n: Any,
        names_out: Any,
        costs_out: Any,
        width: Any,
        left: Any,
        bar: Any,
    ) -> Any:
        return _level(inner, first)

    return level


# Of n rows, `stride` bytes apart, those that may end under the bar: writes their names and what they cost so far, and says how many. All
# arguments are addresses but n, the width of the level, the bar and `left`, which is the length of what is left of the query, as
# `lengths` of the rows. `first` takes a multiple of 16 rows as they come and reads neither names nor costs; `further` those that are
# named, at least one, and may write where it reads. There is room for 32 names and costs more, and what is behind names is written over.
first_l2, first_ip = _made(False, True), _made(True, True)
further_l2, further_ip = _made(False, False), _made(True, False)
