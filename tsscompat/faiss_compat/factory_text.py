"""How a row of the factory is read and built: pieces of a string, groups that name arguments, errors with a caret."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from tsscompat.errors import FactoryError, FaissError
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.gaps import reason

Values = dict[str, Any]
MILLION = {"k": 1 << 10, "M": 1 << 20}


@dataclass(frozen=True)
class Span:
    """A piece of a factory string that knows where it stands in the whole."""

    whole: str
    start: int
    stop: int

    @property
    def text(self) -> str:
        return self.whole[self.start : self.stop]

    def group(self, match: re.Match[str], name: str) -> Span:
        return Span(self.whole, *match.span(name))

    def refuse(self, message: str) -> NoReturn:
        """Raise with the string and a caret under this piece."""
        marks = "^" * max(1, self.stop - self.start)
        raise FactoryError(f"{message}\n    {self.whole}\n    {' ' * self.start}{marks}")


def class_named(name: str, span: Span) -> Any:
    """A class of the namespace; the error of a factory string where there is none yet."""
    found = vars(sys.modules["tsscompat.faiss_compat"]).get(name)
    return span.refuse(f"{name} is not in tsscompat: {reason(name)}") if found is None else found


# -- how a group is read ------------------------------------------------------------------------------------------------------------


def number(span: Span, text: str) -> int:
    return int(text) if len(text) < 10 else span.refuse("number too large")


def count_lists(span: Span, text: str, values: Values) -> int:
    return number(span, text.rstrip("kM")) * MILLION.get(text[-1], 1)


def _qtype(span: Span, text: str, values: Values) -> int:
    # SQ8 is QT_8bit, SQtqmse4 QT_4bit_tqmse, SQtq3 QT_3bit_tq, SQ8_direct QT_8bit_direct, SQfp16 QT_fp16.
    turbo = re.fullmatch(r"(tqmse|tq)(\d)", text)
    plain = f"{text[0]}bit{text[1:]}" if text[0].isdigit() else text
    return int(getattr(class_named("ScalarQuantizer", span), f"QT_{turbo[2]}bit_{turbo[1]}" if turbo else f"QT_{plain}"))


def _sizes(span: Span, text: str, values: Values) -> list[int]:
    """2x8_3x4 is [8, 8, 4, 4, 4]."""
    return [int(bits) for part in text.split("_") for n, bits in [part.split("x")] for _ in range(int(n))]


def _search_type(span: Span, text: str | None, values: Values) -> int:
    if text is None:
        name = "ST_decompress" if values["metric"] == METRIC_L2 else "ST_LUT_nonorm"
    else:
        name = "ST_LUT_nonorm" if text == "none" else f"ST_norm_{text}"
    return int(getattr(class_named("AdditiveQuantizer", span), name))


def nested(span: Span, text: str, values: Values) -> Any:
    return values["build"](span, values["d"], values["metric"])


READ: dict[str, Callable[[Span, Any, Values], Any]] = {
    "nlist": count_lists,
    "qtype": _qtype,
    "sizes": _sizes,
    "st": _search_type,
    "inner": nested,
    "second": nested,
    "quantizer": nested,
    "code": lambda span, text, values: span,
    "period": lambda span, text, values: float(text),
}


# -- rows ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A pattern, the class that it makes, and the class's arguments by name."""

    text: str
    makes: str
    arguments: tuple[tuple[str, Any], ...]
    also: Callable[[Values, Span], Values]
    then: Callable[[Any, Values], object]
    only: int | None

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The pattern, compiled when it is first needed: an import should not wait for it."""
        return re.compile(self.text)

    def values(self, span: Span, match: re.Match[str], context: Values) -> Values:
        """The context and what the groups say."""
        found = dict(context)
        for name, text in match.groupdict().items():
            place = span.group(match, name)
            if name == "st" or (text is not None and name in READ):
                found[name] = READ[name](place, text, found)
            elif text is not None:
                found[name] = number(place, text) if text.isdigit() else text
        return found

    def make(self, span: Span, match: re.Match[str], context: Values) -> Any:
        """The object that the row describes."""
        class_named(self.makes, span)  # a class that is missing is said first, at the whole piece
        return self.finish(span, self.values(span, match, context))

    def finish(self, span: Span, values: Values) -> Any:
        """The object from the values of its arguments; what its class refuses is shown at its place in the string."""
        if self.only is not None and values["metric"] != self.only:
            span.refuse(f"{self.makes} is for {'inner product' if self.only == METRIC_INNER_PRODUCT else 'L2'} only")
        values.update(self.also(values, span))
        try:
            made = class_named(self.makes, span)(*[values.get(name, default) for name, default in self.arguments])
            self.then(made, values)
        except FactoryError:
            raise
        except (FaissError, ValueError, ArithmeticError) as e:
            span.refuse(str(e))
        return made


def row(
    pattern: str,
    makes: str,
    arguments: str,
    *,
    also: Callable[[Values, Span], Values] = lambda values, span: {},
    then: Callable[[Any, Values], object] = lambda made, values: None,
    only: int | None = None,
) -> Row:
    """A row; `arguments` is the constructor's parameters in order, `also` adds values, `then` sets fields."""
    named = [(name, int(default) if default else None) for name, _, default in (a.partition("=") for a in arguments.split())]
    return Row(pattern, makes, tuple(named), also, then, only)


def set_fields(**fields: Any) -> Callable[[Any, Values], None]:
    """Set fields to values, or to what a function of the row's values gives."""

    def then(made: Any, values: Values) -> None:
        for name, value in fields.items():
            setattr(made, name, value(values) if callable(value) else value)

    return then


def first(slot: tuple[Row, ...], span: Span, context: Values) -> Any:
    """What the first row of a slot that matches makes, or None."""
    for candidate in slot:
        if match := candidate.pattern.fullmatch(span.whole, span.start, span.stop):
            return candidate.make(span, match, context)
    return None
