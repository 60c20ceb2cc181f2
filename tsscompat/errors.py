"""What went wrong, in our words and FAISS's exception types.

FaissError (RuntimeError)           whatever FAISS's C++ refuses
  FormatError                       a file that is truncated, hostile or unknown
  FactoryError                      a factory string that cannot be parsed
  MissingError                      something of FAISS that tsscompat does not have (see gaps.py)
  MethodError (AttributeError)      a method that FAISS gives to some index types only
  OutOfDeviceMemory                 an index or a search that the device cannot hold
ArgumentError (ValueError, AssertionError)
                                    wrong d, k <= 0, wrong number of ids: FAISS's Python layer asserts these
"""

from __future__ import annotations

from typing import Any


class FaissError(RuntimeError):
    """FAISS's C++ would refuse this."""


class FormatError(FaissError):
    """The bytes are not a FAISS index, or not a whole one."""


class FactoryError(FaissError):
    """The factory string does not describe an index."""


class MissingError(FaissError):
    """FAISS has this, tsscompat does not (yet), and says why."""


class MethodError(FaissError, AttributeError):
    """This index type has no such method; an AttributeError too, for FAISS's classes lack the name."""


class OutOfDeviceMemory(FaissError):
    """The device cannot hold what was asked for."""


class ArgumentError(ValueError, AssertionError):
    """An argument of the wrong shape, size or range."""


def check(condition: object, message: str, *args: object) -> None:
    """Raise FaissError(message) unless the condition holds; `args` are formatted in only on failure."""
    if not condition:
        raise FaissError(message.format(*args) if args else message)


def expect(condition: object, message: str, *args: object) -> None:
    """Raise ArgumentError(message) unless the condition holds."""
    if not condition:
        raise ArgumentError(message.format(*args) if args else message)


def of_kind(given: Any, *kinds: type) -> Any:
    """What was given, or a TypeError unless it is of one of these kinds (None: name `type(None)`)."""
    if not isinstance(given, kinds):
        raise TypeError(f"expected {' or '.join(kind.__name__ for kind in kinds)}, got {type(given).__name__}")
    return given
