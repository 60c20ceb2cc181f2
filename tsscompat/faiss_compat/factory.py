"""index_factory: FAISS's strings as rows.

A slot is a tuple of rows. A row's pattern must match the whole of a piece of the string; the first that does wins. Its named groups are
the arguments: a group of digits is a number, `nlist`, `qtype`, `st` and `sizes` have a reading of their own (`READ`), a group named like a
nested index (`inner`, `second`, `quantizer`) is built by the factory itself. The row then calls its class with the values that its
`arguments` name, in that order; `name=8` has a default.

The slots, in the order in which FAISS looks: wrappers (IDMap, refine), transforms (they change d), whole indexes, HNSW, NSG, row-wise
min-max, and last a coarse quantizer, a comma and a code. A class that a later release brings is named all the same: its row is a
FactoryError that says so until the class is there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from tsscompat.faiss_compat.downcast import kinds
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2, metric_type_from_int
from tsscompat.faiss_compat.factory_rows import (
    COARSE,
    CODES,
    HNSW,
    MINMAX,
    NESTED_COARSE,
    NSG,
    TRANSFORMS,
    TWO_LAYER,
    WHOLE,
    WRAPPERS,
)
from tsscompat.faiss_compat.factory_text import Span, Values, class_named, count_lists, first, nested, number
from tsscompat.faiss_compat.stats import cvar


def build(span: Span, d: int, metric: int, own: bool = True) -> Any:
    """The index that a piece of a factory string describes."""
    context: Values = {"d": d, "metric": metric, "own": own, "build": build}
    if cvar.index_factory_verbose:
        print(f"begin parse VectorTransforms: {span.text}")
    wrapped = first(WRAPPERS, span, context)
    if wrapped is not None:
        return wrapped
    transformed = _transformed(span, d, metric)
    if transformed is not None:
        return transformed
    comma = _comma(span)
    for make in (lambda: first(WHOLE, span, context), lambda: _graph(span, context), lambda: first(MINMAX, span, context)):
        index = make()
        if index is not None:
            return index
    if comma < 0:
        span.refuse("no such index")
    return _lists(replace(span, stop=comma), replace(span, start=comma + 1), context)


def _transformed(span: Span, d: int, metric: int) -> Any:
    """The index behind the transforms that a piece begins with, or None where it begins with none."""
    chain: list[Any] = []
    while match := re.compile(r"(?P<step>[^,]+),(?P<rest>.*)").fullmatch(span.whole, span.start, span.stop):
        step = first(TRANSFORMS, span.group(match, "step"), {"d": d, "metric": metric})
        if step is None:
            break
        chain.append(step)
        d, span = step.d_out, span.group(match, "rest")
    if not chain:
        return None
    index = class_named("IndexPreTransform", span)(build(span, d, metric))
    index.own_fields = True
    for step in reversed(chain):
        index.prepend_transform(step)
    return index


def _comma(span: Span) -> int:
    """Where the first comma outside parentheses is, -1 where there is none; the parentheses must match."""
    depth, comma = 0, -1
    for i in range(span.start, span.stop):
        depth += {"(": 1, ")": -1}.get(span.whole[i], 0)
        # Like FAISS, a closing parenthesis before any opening one is left to the rows.
        depth = max(depth, 0)
        if span.whole[i] == "," and depth == 0 and comma < 0:
            comma = i
    return comma if depth == 0 else span.refuse("unbalanced parentheses")


def _graph(span: Span, context: Values) -> Any:
    """An HNSW or NSG index, or None."""
    for name, slot in (("HNSW", HNSW), ("NSG", NSG)):
        match = re.compile(rf"{name}(?P<degree>\d*)(?:[,_](?P<code>.*))?").fullmatch(span.whole, span.start, span.stop)
        if match:
            code = span.group(match, "code") if match["code"] is not None else replace(span, start=span.stop)
            degree = number(span.group(match, "degree"), match["degree"] or "32")
            index = first(slot, code, {**context, "degree": degree})
            return index if index is not None else code.refuse(f"no such code for {name}")
    return None


def _lists(head: Span, code: Span, context: Values) -> Any:
    """Inverted lists or a two-layer index: coarse quantizer, comma, code."""
    quantizer, values = _coarse(head, context)
    values = {**context, "quantizer": quantizer, "nlist": values["nlist"], "two_layer": "two_layer" in values}
    index = first(TWO_LAYER if values["two_layer"] else CODES, code, values)
    if index is None:
        code.refuse("no such code")
    level = index.q1 if values["two_layer"] else index
    level.quantizer_trains_alone = trains_alone(quantizer)
    level.own_fields = True
    if not values["two_layer"]:
        index.cp.spherical = index.metric_type == METRIC_INNER_PRODUCT
    return index


def _coarse(head: Span, context: Values) -> tuple[Any, Values]:
    """A coarse quantizer, and what its row says of the lists."""
    for candidate in COARSE:
        if match := candidate.pattern.fullmatch(head.whole, head.start, head.stop):
            values = candidate.values(head, match, context)
            return candidate.finish(head, values), values
    if match := NESTED_COARSE.fullmatch(head.whole, head.start, head.stop):
        quantizer = nested(head.group(match, "quantizer"), match["quantizer"], context)
        return quantizer, {"nlist": count_lists(head.group(match, "nlist"), match["nlist"], context)}
    head.refuse("no such index")


def trains_alone(quantizer: Any) -> int:
    """How a coarse quantizer is trained (Level1Quantizer.quantizer_trains_alone)."""
    what = kinds(quantizer)
    if "IndexFlat" in what:
        return 0
    return 1 if what & {"MultiIndexQuantizer", "ResidualCoarseQuantizer"} else 2


def index_factory(d: int, description: str, metric: int = METRIC_L2, own_invlists: bool = True) -> Any:
    """The index of dimension d that a string describes, such as "OPQ16,IVF4k_HNSW32,PQ16,RFlat"."""
    if not isinstance(description, str) or isinstance(d, (str, float)):
        raise TypeError(f"expected a dimension and a string, got {d!r} and {description!r}")
    return build(Span(description, 0, len(description)), int(d), metric_type_from_int(int(metric)), own_invlists)


__all__ = ["index_factory"]
