"""std::vector stand-ins, and the functions that move arrays in and out of them.

A `Vector` is one growable 1-D tensor on a device. `swig_ptr` of an array is a `Pointer`: the array, an offset and an item type, so that
ported code which hands addresses to `add_c`-style methods works without addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import from_numpy
from tsscompat.devices import Placement, carried, remembered
from tsscompat.errors import check

_NUMPY_DTYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.int16: np.int16,
    torch.uint16: np.uint16,
    torch.int32: np.int32,
    torch.uint32: np.uint32,
    torch.int64: np.int64,
    torch.uint64: np.uint64,
    torch.float16: np.float16,
    torch.bool: np.bool_,
}
_TORCH_DTYPES = {np.dtype(v): k for k, v in _NUMPY_DTYPES.items()}

# Growth of an append beyond capacity: amortised, and never more than 1.3x the content.
GROWTH = 1.25


class Vector:
    """A growable vector of one item type on one device."""

    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, content: Any = None) -> None:
        self._buffer = torch.empty(0, dtype=self.dtype)
        self._n = 0
        if content is not None:
            self.assign(content)

    @property
    def tensor(self) -> Tensor:
        """The live part, as a view."""
        return self._buffer if self._n == self._buffer.shape[0] else self._buffer[: self._n]

    @tensor.setter
    def tensor(self, value: Tensor) -> None:
        flat = value.detach().reshape(-1)
        self._buffer = flat.to(self.dtype).contiguous()
        self._n = self._buffer.shape[0]

    def assign(self, content: Any) -> None:
        """Replace the content by a copy of an array, a tensor, another vector or a sequence."""
        if isinstance(content, Vector):
            self.tensor = content.tensor.clone()
        elif isinstance(content, Tensor):
            self.tensor = content.clone()
        else:
            array = np.array(content, dtype=_NUMPY_DTYPES[self.dtype]).reshape(-1)
            self.tensor = torch.from_numpy(array).to(self._buffer.device)

    def reserve(self, n: int) -> None:
        """Make room for n items."""
        if n > self._buffer.shape[0]:
            grown = torch.empty(n, dtype=self.dtype, device=self._buffer.device)
            grown[: self._n] = self._buffer[: self._n]
            self._buffer = grown

    def make_room(self, more: int) -> None:
        """Make room for so many items at the end; amortised."""
        needed = self._n + more
        if needed > self._buffer.shape[0]:
            # The first append takes just what it needs: most vectors are filled once.
            self.reserve(needed if self._n == 0 else max(needed, int(self._n * GROWTH) + 1))

    def append(self, items: Tensor) -> None:
        """Add items at the end; amortised."""
        flat = items.reshape(-1).to(device=self._buffer.device, dtype=self.dtype)
        needed = self._n + flat.shape[0]
        self.make_room(flat.shape[0])
        self._buffer[self._n : needed] = flat
        self._n = needed

    def size(self) -> int:
        return self._n

    def at(self, i: int) -> Any:
        if not 0 <= i < self._n:
            raise IndexError(f"index {i} of a vector of {self._n}")
        return self._buffer[i].item()

    def push_back(self, value: Any) -> None:
        self.append(torch.tensor([value], dtype=self.dtype))

    def resize(self, n: int, value: Any = 0) -> None:
        """Cut to n items, or fill up to n with a value."""
        if n > self._n:
            self.reserve(n)
            self._buffer[self._n : n].fill_(value)
        self._n = n

    def clear(self) -> None:
        self._n = 0

    def empty(self) -> bool:
        return self._n == 0

    def data(self) -> Pointer:
        """FAISS's address of the first item: something that rev_swig_ptr and memcpy take."""
        return Pointer(self.tensor)

    def get(self) -> Pointer:
        return self.data()

    def itemsize(self) -> int:
        return self._buffer.element_size()

    def byte_size(self) -> int:
        return self._n * self._buffer.element_size()

    def swap(self, other: Vector) -> None:
        self._buffer, other._buffer = other._buffer, self._buffer
        self._n, other._n = other._n, self._n

    def _move(self, where: Placement) -> None:
        self._buffer = carried(self.tensor, where.device)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> Any:
        return self.at(i if i >= 0 else i + self._n)

    def __setitem__(self, i: int, value: Any) -> None:
        self.tensor[i] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tensor.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.tensor.cpu().numpy()
        return array.astype(dtype) if dtype is not None and array.dtype != dtype else (array.copy() if copy else array)

    def __deepcopy__(self, memo: dict[int, Any]) -> Vector:
        twin = type(self)()
        twin._buffer, twin._n = self.tensor.clone(), self._n
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # As bytes: torch (2.13 too) cannot unpickle storages of unsigned 16, 32 and 64 bits.
        return {"_buffer": self.tensor.cpu().clone().view(torch.uint8), "_n": self._n, "device": str(self._buffer.device)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        where = remembered(state["device"])
        self._buffer, self._n = state["_buffer"].view(self.dtype).to(where.device), state["_n"]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._n}>"


class Float32Vector(Vector):
    """std::vector<float>."""

    dtype = torch.float32


class Float64Vector(Vector):
    """std::vector<double>."""

    dtype = torch.float64


class Int8Vector(Vector):
    """std::vector<int8_t>."""

    dtype = torch.int8


class Int16Vector(Vector):
    """std::vector<int16_t>."""

    dtype = torch.int16


class Int32Vector(Vector):
    """std::vector<int32_t>."""

    dtype = torch.int32


class Int64Vector(Vector):
    """std::vector<int64_t>."""

    dtype = torch.int64


class UInt8Vector(Vector):
    """std::vector<uint8_t>."""

    dtype = torch.uint8


class UInt16Vector(Vector):
    """std::vector<uint16_t>."""

    dtype = torch.uint16


class UInt32Vector(Vector):
    """std::vector<uint32_t>."""

    dtype = torch.uint32


class UInt64Vector(Vector):
    """std::vector<uint64_t>."""

    dtype = torch.uint64


# FAISS's older and more specific names for the same containers.
FloatVector, DoubleVector, ByteVector, CharVector = Float32Vector, Float64Vector, UInt8Vector, UInt8Vector
Uint64Vector, LongVector, LongLongVector, IntVector = UInt64Vector, Int64Vector, Int64Vector, Int32Vector
MaybeOwnedVectorUInt8, MaybeOwnedVectorInt32, MaybeOwnedVectorFloat32 = UInt8Vector, Int32Vector, Float32Vector
MaybeOwnedVectorUInt8Vector, MaybeOwnedVectorInt32Vector, MaybeOwnedVectorFloat32Vector = UInt8Vector, Int32Vector, Float32Vector
AlignedTableUint8, AlignedTableUint16, AlignedTableFloat32 = UInt8Vector, UInt16Vector, Float32Vector


class ObjectVector:
    """std::vector of objects: a Python list with FAISS's method names."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self.items = list(items)

    def size(self) -> int:
        return len(self.items)

    def at(self, i: int) -> Any:
        if not 0 <= i < len(self.items):
            raise IndexError(f"index {i} of a vector of {len(self.items)}")
        return self.items[i]

    def push_back(self, item: Any) -> None:
        self.items.append(item)

    def resize(self, n: int, item: Any = None) -> None:
        del self.items[n:]
        self.items.extend([item] * (n - len(self.items)))

    def clear(self) -> None:
        self.items.clear()

    def empty(self) -> bool:
        return not self.items

    def assign(self, items: Iterable[Any]) -> None:
        self.items = list(items)

    def data(self) -> ObjectVector:
        return self

    def _move(self, where: Placement) -> None:
        for item in self.items:
            item._move(where)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]

    def __setitem__(self, i: int, item: Any) -> None:
        self.items[i] = item

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class VectorVector(ObjectVector):
    """std::vector of vectors; each type also takes vectors of other item types, copied."""

    _item: ClassVar[type[Vector]] = Vector

    def push_back(self, item: Any) -> None:
        self.items.append(self._item(item))

    def resize(self, n: int, item: Any = None) -> None:
        del self.items[n:]
        self.items.extend(self._item(item) for _ in range(n - len(self.items)))


def _vector_of(item: type[Vector]) -> type[VectorVector]:
    return type(f"{item.__name__}Vector", (VectorVector,), {"_item": item, "__doc__": f"std::vector of {item.__name__}."})


Float32VectorVector, UInt8VectorVector = _vector_of(Float32Vector), _vector_of(UInt8Vector)
Int32VectorVector, Int64VectorVector = _vector_of(Int32Vector), _vector_of(Int64Vector)
FloatVectorVector, ByteVectorVector, LongVectorVector = Float32VectorVector, UInt8VectorVector, Int64VectorVector


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
        self._address, self._dtype = int(address), dtype

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


def swig_ptr(array: Any) -> Pointer:
    """A stand-in for the address of a contiguous array."""
    if isinstance(array, Vector):
        return array.data()
    if isinstance(array, Pointer):
        return array
    if isinstance(array, Tensor):
        check(array.is_contiguous(), "expected a contiguous tensor")
        return Pointer(array)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected an array, got {type(array).__name__}")
    if not array.flags.c_contiguous:
        raise ValueError("array is not C-contiguous")
    if array.dtype not in _TORCH_DTYPES:
        raise ValueError(f"unsupported dtype {array.dtype}")
    return Pointer(from_numpy(array))


def rev_swig_ptr(pointer: Any, n: int) -> np.ndarray[Any, Any]:
    """The n items behind a pointer, as a numpy array on the same memory where that is the CPU's."""
    if isinstance(pointer, Vector):
        pointer = pointer.data()
    if isinstance(pointer, Tensor):
        pointer = Pointer(pointer)
    if isinstance(pointer, np.ndarray):
        return pointer.reshape(-1)[:n]
    if not isinstance(pointer, Pointer):
        raise TypeError(f"expected what swig_ptr or data() gave, got {type(pointer).__name__}")
    array: np.ndarray[Any, Any] = pointer.take(int(n)).cpu().numpy()
    return array


def vector_to_array(v: Any) -> np.ndarray[Any, Any]:
    """A copy of a vector's content."""
    if not isinstance(v, Vector):
        raise TypeError(f"expected a vector, got {type(v).__name__}")
    array: np.ndarray[Any, Any] = v.tensor.cpu().numpy().copy()
    return array


def vector_float_to_array(v: Any) -> np.ndarray[Any, Any]:
    """FAISS's older name of vector_to_array for floats."""
    return vector_to_array(v)


def copy_array_to_vector(array: Any, v: Vector) -> None:
    """Replace a vector's content by an array's."""
    array = np.asarray(array)
    check(array.ndim == 1, "expected a 1-D array, got {} dimensions", array.ndim)
    wanted = _NUMPY_DTYPES[v.dtype]
    if array.dtype != wanted:
        raise AssertionError(f"cannot copy a {array.dtype} array to a {type(v).__name__}")
    v.assign(array)


AlignedTable_to_array = vector_to_array
copy_array_to_AlignedTable = copy_array_to_vector


def array_to_AlignedTable(array: np.ndarray[Any, Any]) -> Vector:
    """An aligned table with an array's content."""
    kinds: dict[Any, type[Vector]] = {
        np.dtype(np.uint8): UInt8Vector,
        np.dtype(np.uint16): UInt16Vector,
        np.dtype(np.float32): Float32Vector,
    }
    if array.dtype not in kinds:
        raise TypeError(f"expected uint8, uint16 or float32, got {array.dtype}")
    return kinds[array.dtype](array)


def memcpy(target: Any, source: Any, n_bytes: int) -> None:
    """Copy bytes between what swig_ptr and data() gave."""
    to, origin = swig_ptr(target).tensor, swig_ptr(source).tensor
    to.view(torch.uint8)[:n_bytes].copy_(origin.view(torch.uint8)[:n_bytes])


def home(v: Vector) -> torch.device:
    """Where a vector lives."""
    return v._buffer.device


__all__ = [name for name in dict(globals()) if name.endswith("Vector") or name.startswith(("MaybeOwned", "AlignedTable"))] + [
    "AlignedTable_to_array",
    "Pointer",
    "array_to_AlignedTable",
    "cast_integer_to_float_ptr",
    "cast_integer_to_idx_t_ptr",
    "cast_integer_to_int_ptr",
    "cast_integer_to_uint8_ptr",
    "cast_integer_to_void_ptr",
    "copy_array_to_AlignedTable",
    "copy_array_to_vector",
    "memcpy",
    "rev_swig_ptr",
    "swig_ptr",
    "vector_float_to_array",
    "vector_to_array",
]
