"""C's float arithmetic for a few numbers, where a product in double precision would be cut to another whole number."""

from __future__ import annotations

from ctypes import c_float


def single(value: float) -> float:
    """The nearest number of float32; infinity beyond its range."""
    return c_float(value).value


def times(n: int, factor: float) -> int:
    """n * factor in float32, cut to a whole number: 10 times 1.3 is 13, though 1.3 in float32 is less."""
    return int(single(n * single(factor)))
