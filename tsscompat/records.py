"""`@record`: a small class of fields that do not change.

As a frozen dataclass, but nothing is compiled for each class: fifty of those took 50 ms of importing this package.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn, TypeVar

from typing_extensions import dataclass_transform

T = TypeVar("T")


def _refuse(self: Any, name: str, value: Any = None) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} does not change: {name!r} cannot be set")


def fields_of(cls: type) -> tuple[str, ...]:
    """The names of a record's fields, those of the records that it extends first."""
    names: tuple[str, ...] = getattr(cls, "__record_fields__", ())
    return names


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
def record(cls: type[T]) -> type[T]:
    """Give a class an __init__ that takes its annotated fields, in order or by name; `field(default_factory=...)` works."""
    own = {name: _maker(vars(cls)[name]) for name in vars(cls).get("__annotations__", ()) if name in vars(cls)}
    names = tuple(dict.fromkeys([*fields_of(cls), *vars(cls).get("__annotations__", ())]))
    makers = {**getattr(cls, "__record_makers__", {}), **own}

    def __init__(self: Any, *args: Any, **given: Any) -> None:
        values = self.__dict__
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__} takes {len(names)} fields, got {len(args)}")
        values.update(zip(names, args))
        for name, value in given.items():
            if name in values or name not in names:
                raise TypeError(f"{cls.__name__} was given {name!r} twice, or has no such field")
            values[name] = value
        if len(values) < len(names):
            for name in names:
                if name not in values:
                    if name not in makers:
                        raise TypeError(f"{cls.__name__} needs {name!r}")
                    values[name] = makers[name]()

    for name in own:
        delattr(cls, name)
    cls.__record_fields__, cls.__record_makers__ = names, makers  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[method-assign]
    cls.__setattr__ = cls.__delattr__ = _refuse  # type: ignore[method-assign]
    return cls


def changed(thing: T, **given: Any) -> T:
    """A record like another one but for some fields."""
    return type(thing)(**{**{name: getattr(thing, name) for name in fields_of(type(thing))}, **given})


def _maker(default: Any) -> Any:
    if isinstance(default, dataclasses.Field):
        return default.default_factory if default.default_factory is not dataclasses.MISSING else lambda: default.default
    return lambda: default
