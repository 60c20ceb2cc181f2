"""Declared state: FAISS's attributes, their defaults, and FAISS's checks on assignment.

A declaration is a class attribute. An instance keeps its values in its own `__dict__` under the same names, so reading costs what any
Python attribute costs; only assignment is checked. A name that is not declared is an AttributeError, as with FAISS's own classes;
names that begin with an underscore are free for internal state and never reach a file.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsscompat.devices import CPU, Placement, default_device, place, remembered
from tsscompat.kernels.singles import single as as_float32

S = TypeVar("S", bound="Stated")


class Declared:
    """One declared attribute: `make` gives a fresh default, `convert` checks what is assigned."""

    def __init__(self, make: Callable[[], Any], convert: Callable[[Any, str], Any], doc: str = "", walk: bool = False) -> None:
        self.make, self.convert, self.walk, self.__doc__ = make, convert, walk, doc
        self.name = "?"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self
        raise AttributeError(f"{type(obj).__name__}.{self.name} was read before {type(obj).__name__}.__init__ ran")

    def put(self, held: dict[str, Any], value: Any) -> None:
        """Take a value into an object's `__dict__`."""
        held[self.name] = self.convert(value, self.name)


class DeclaredVector(Declared):
    """A vector, which stays the object's own: what is assigned is copied into it, as by std::vector's assignment."""

    def put(self, held: dict[str, Any], value: Any) -> None:
        own = held.get(self.name)
        if own is None:
            own = held[self.name] = self.make()
        if value is not own:
            own.assign(value)


def _whole(low: int, high: int) -> Callable[[Any, str], int]:
    def convert(value: Any, name: str) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be a whole number, got {value!r}") from None
        if not low <= number < high:
            raise OverflowError(f"{name} must be at least {low} and below {high}, got {number}")
        return number

    return convert


def _number(value: Any, name: str) -> float:
    if isinstance(value, (str, bytes)) or (not hasattr(value, "__float__") and not hasattr(value, "__index__")):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def rounded(value: float) -> float:
    """A number as a C float holds it; one that is too large for that is an OverflowError, as with SWIG."""
    held = as_float32(value)
    if math.isinf(held) and not math.isinf(value):
        raise OverflowError(f"{value} is beyond float32")
    return held


def _rounded_number(value: Any, name: str) -> float:
    return rounded(_number(value, name))


def _truth(value: Any, name: str) -> bool:
    # numpy's bool, which is called bool or bool_, is taken; a number, a list or an array is not.
    if type(value) is not bool and type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


class Char(str):
    """A C char as FAISS's Python gives it: a string of one character, which here counts as its number too."""

    def __index__(self) -> int:
        return ord(self)

    __int__ = __index__


def _character(value: Any, name: str) -> Char:
    if isinstance(value, str):
        if len(value) != 1:
            raise TypeError(f"{name} must be one character or a number, got {value!r}")
        return Char(value)
    return Char(chr(0 if value is None else _whole(0, 128)(value, name)))


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    return value


def size_t(default: int = 0, doc: str = "") -> Any:
    """An unsigned 64-bit count."""
    return Declared(lambda: default, _whole(0, 1 << 64), doc)


def integer(default: int = 0, doc: str = "") -> Any:
    """A C int."""
    return Declared(lambda: default, _whole(-(1 << 31), 1 << 31), doc)


def byte(default: int = 0, doc: str = "") -> Any:
    """A uint8_t."""
    return Declared(lambda: default, _whole(0, 256), doc)


def int64(default: int = 0, doc: str = "") -> Any:
    """A 64-bit integer, such as an id."""
    return Declared(lambda: default, _whole(-(1 << 63), 1 << 63), doc)


def short(default: int = 0, doc: str = "") -> Any:
    """A uint16_t."""
    return Declared(lambda: default, _whole(0, 1 << 16), doc)


def word(default: int = 0, doc: str = "") -> Any:
    """A uint32_t."""
    return Declared(lambda: default, _whole(0, 1 << 32), doc)


def real(default: float = 0.0, doc: str = "") -> Any:
    """A double."""
    return Declared(lambda: default, _number, doc)


def single(default: float = 0.0, doc: str = "") -> Any:
    """A float: what is assigned is read back in float32's digits."""
    held = rounded(default)
    return Declared(lambda: held, _rounded_number, doc)


def boolean(default: bool = False, doc: str = "") -> Any:
    """A bool; FAISS takes no 0 and 1 for it."""
    return Declared(lambda: default, _truth, doc)


def char(default: int = 0, doc: str = "") -> Any:
    """A char: a number or a character is taken, a character is given, as by SWIG."""
    return Declared(lambda: Char(chr(default)), _character, doc)


def text(default: str = "", doc: str = "") -> Any:
    """A std::string."""
    return Declared(lambda: default, _string, doc)


def enum(kind: Callable[[int], Any] = int, default: int = 0, doc: str = "") -> Any:
    """A C enum: a whole number, in FAISS and here."""
    return Declared(lambda: default, _whole(-(1 << 31), 1 << 31), doc)


def child(make: Callable[[], Any] | None = None, doc: str = "") -> Any:
    """Another object, or None: a pointer, or a struct when `make` builds its default."""
    return Declared(make or (lambda: None), lambda value, name: value, doc, walk=True)


def vector(make: Callable[[], Any], doc: str = "") -> Any:
    """A std::vector: a fresh stand-in for each instance; assigning copies the content into it."""
    return DeclaredVector(make, lambda value, name: value, doc, walk=True)


def anything(default: Any = None, doc: str = "") -> Any:
    """A value that FAISS does not check either (a callback, a Python object)."""
    return Declared(lambda: default, lambda value, name: value, doc)


@functools.cache
def _own_declared(base: type) -> dict[str, Declared]:
    """What a class itself declares; kept, as each class is a base of many (20 ms of an import)."""
    return {name: value for name, value in vars(base).items() if isinstance(value, Declared)}


class Stated:
    """An object whose state is declared; it can be copied, moved between devices and walked."""

    _declared: dict[str, Declared] = {}
    _caches: tuple[str, ...] = ()

    # FAISS's Python objects have these two; ownership is Python's here.
    thisown = anything(True)
    referenced_objects = anything(None)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._declared = {}
        for base in reversed(cls.__mro__):
            cls._declared.update(_own_declared(base))
        cls._caches = tuple({name for base in cls.__mro__ for name in vars(base).get("_caches", ())})

    def __init__(self) -> None:
        values = self.__dict__
        for name, declared in self._declared.items():
            values[name] = declared.make()
        for name in self._caches:
            values[name] = None
        values["_device"] = device = default_device()
        values["_gpu"] = -1
        if device != CPU:
            for held in self._children():
                held._move(Placement(device))
        del values["referenced_objects"]  # hasattr() must be False until something is referenced, as with FAISS

    def __setattr__(self, name: str, value: Any) -> None:
        declared = self._declared.get(name)
        if declared is not None:
            declared.put(self.__dict__, value)
        elif name[0] == "_":
            self.__dict__[name] = value
        elif isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def this(self) -> Stated:
        """FAISS's handle on the C++ object: here the object itself."""
        return self

    def own(self, *owned: bool) -> bool:
        """Ownership in SWIG's sense; Python owns everything here."""
        if owned:
            self.thisown = owned[0]
        return bool(self.thisown)

    def disown(self) -> None:
        self.thisown = False

    def acquire(self) -> None:
        self.thisown = True

    # -- devices -----------------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where this object's tensors live."""
        device: torch.device = self.__dict__["_device"]
        return device

    def _children(self) -> Iterator[Any]:
        """The declared objects and vectors that this one holds."""
        for name, declared in self._declared.items():
            if declared.walk:
                value = self.__dict__.get(name)
                if value is not None:
                    yield value

    def _drop_caches(self) -> None:
        for name in self._caches:
            self.__dict__[name] = None

    def _move(self, where: Placement) -> None:
        """Move this object and all that it holds."""
        self._drop_caches()
        for held in self._children():
            move = getattr(held, "_move", None)
            if move is not None:
                move(where)
        self.__dict__["_device"] = where.device
        self.__dict__["_gpu"] = where.gpu

    def to(self: S, where: torch.device | str | int | Placement) -> S:
        """Move to a device, with everything held; returns self."""
        self._move(place(where))
        return self

    def cuda(self: S, number: int = 0) -> S:
        """Move to a GPU."""
        return self.to(number)

    def cpu(self: S) -> S:
        """Move to the CPU."""
        return self.to(Placement(CPU))

    # -- copies ------------------------------------------------------------------------------------------------------------------

    def _held_state(self) -> dict[str, Any]:
        return {name: (None if name in self._caches else value) for name, value in self.__dict__.items()}

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        for name, value in self._held_state().items():
            twin.__dict__[name] = value if isinstance(value, torch.device) else copy.deepcopy(value, memo)
        return twin

    def __copy__(self: S) -> S:
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        # On the CPU: a tensor of CUDA's cannot be unpickled where there is none.
        state = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in self._held_state().items()}
        state["_device"] = str(state["_device"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        where = remembered(state["_device"], state.get("_gpu", -1))
        self.__dict__["_device"], self.__dict__["_gpu"] = where.device, where.gpu
        if where.device != CPU:
            self.__dict__.update({name: value.to(where.device) for name, value in state.items() if isinstance(value, Tensor)})

    def __repr__(self) -> str:
        shown = {
            name: value
            for name, value in self.__dict__.items()
            if name in self._declared and isinstance(value, (int, float, str)) and name != "thisown"
        }
        return f"<{type(self).__name__} {' '.join(f'{k}={v}' for k, v in list(shown.items())[:6])}>"
