"""Addresses without addresses: an array, an offset and an item type, for ported code that hands pointers to `add_c`-style methods."""

from __future__ import annotations

import ctypes
import operator
from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import check


class Pointer:
    """An array handed on as FAISS hands on an address: a flat tensor view and an offset in items."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.reshape(-1)

    def take(self, n: int) -> Tensor:
        """The first n items behind the pointer, as a view."""
        check(n <= self.tensor.shape[0], "wants {} items behind a pointer, {} are there", n, self.tensor.shape[0])
        return self.tensor[:n]

    def __getitem__(self, i: int) -> Any:
        return self.tensor[i].item()

    def __setitem__(self, i: int, value: Any) -> None:
        self.tensor[i] = value

    def __int__(self) -> int:
        return self.tensor.data_ptr()

    def __add__(self, n: int) -> Pointer:
        return Pointer(self.tensor[n:])


class Address(Pointer):
    """A bare address in this process's memory, as code that hands data_ptr() on gives it: its reach is the caller's promise."""

    __slots__ = ("_address", "_dtype")

    def __init__(self, address: int, dtype: torch.dtype) -> None:
        self._address, self._dtype = operator.index(address), dtype

    def take(self, n: int) -> Tensor:
        """The first n items behind the address, as a view."""
        if n == 0:
            return torch.empty(0, dtype=self._dtype)
        check(self._address, "there is no memory behind a null pointer")
        return torch.frombuffer((ctypes.c_char * (n * self._dtype.itemsize)).from_address(self._address), dtype=self._dtype)

    def __getitem__(self, i: int) -> Any:
        return self.take(i + 1)[i].item()

    def __setitem__(self, i: int, value: Any) -> None:
        self.take(i + 1)[i] = value

    def __int__(self) -> int:
        return self._address

    def __add__(self, n: int) -> Pointer:
        return Address(self._address + n * self._dtype.itemsize, self._dtype)


def cast_integer_to_float_ptr(x: int) -> Pointer:
    """An address of float32 in the CPU's memory."""
    return Address(x, torch.float32)


def cast_integer_to_idx_t_ptr(x: int) -> Pointer:
    """An address of int64 in the CPU's memory."""
    return Address(x, torch.int64)


def cast_integer_to_int_ptr(x: int) -> Pointer:
    """An address of int32 in the CPU's memory."""
    return Address(x, torch.int32)


def cast_integer_to_uint8_ptr(x: int) -> Pointer:
    """An address of bytes in the CPU's memory."""
    return Address(x, torch.uint8)


cast_integer_to_void_ptr = cast_integer_to_uint8_ptr


__all__ = [
    "Pointer",
    "cast_integer_to_float_ptr",
    "cast_integer_to_idx_t_ptr",
    "cast_integer_to_int_ptr",
    "cast_integer_to_uint8_ptr",
    "cast_integer_to_void_ptr",
]
