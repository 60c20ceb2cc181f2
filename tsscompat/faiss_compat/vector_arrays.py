"""Arrays in and out of vectors, and behind addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import from_numpy
from tsscompat.errors import ArgumentError, check, expect
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.vectors import NUMPY_DTYPES, AlignedTableFloat32, AlignedTableUint8, AlignedTableUint16, Vector

_TORCH_DTYPES = {np.dtype(v): k for k, v in NUMPY_DTYPES.items()}


def swig_ptr(a: Any) -> Pointer:
    """A stand-in for the address of a contiguous array."""
    if isinstance(a, Vector):
        return a.data()
    if isinstance(a, Pointer):
        return a
    if isinstance(a, Tensor):
        check(a.is_contiguous(), "expected a contiguous tensor")
        return Pointer(a)
    if isinstance(a, (bytes, bytearray)):
        return Pointer(from_numpy(np.frombuffer(a, dtype=np.uint8)))
    if not isinstance(a, np.ndarray):
        raise ArgumentError(f"input not a numpy array: got {type(a).__name__}")
    if not a.flags.c_contiguous:
        raise ValueError("array is not C-contiguous")
    if a.dtype not in _TORCH_DTYPES:
        raise ValueError(f"unsupported dtype {a.dtype}")
    return Pointer(from_numpy(a))


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


def copy_array_to_vector(a: Any, v: Vector) -> None:
    """Replace a vector's content by an array's."""
    array = np.asarray(a)
    expect(array.ndim == 1, "expected a 1-D array, got {} dimensions", array.ndim)
    wanted = NUMPY_DTYPES[v.dtype]
    if array.dtype != wanted:
        raise AssertionError(f"cannot copy a {array.dtype} array to a {type(v).__name__}")
    v.assign(array)


AlignedTable_to_array = vector_to_array
copy_array_to_AlignedTable = copy_array_to_vector


def array_to_AlignedTable(a: np.ndarray[Any, Any]) -> Vector:
    """An aligned table with an array's content."""
    kinds: dict[Any, type[Vector]] = {
        np.dtype(np.uint8): AlignedTableUint8,
        np.dtype(np.uint16): AlignedTableUint16,
        np.dtype(np.float32): AlignedTableFloat32,
    }
    if a.dtype not in kinds:
        raise TypeError(f"expected uint8, uint16 or float32, got {a.dtype}")
    return kinds[a.dtype](a)


def memcpy(dest: Any, src: Any, n: int) -> None:
    """Copy n bytes between what swig_ptr and data() gave."""
    to, origin = swig_ptr(dest).tensor, swig_ptr(src).tensor
    to.view(torch.uint8)[:n].copy_(origin.view(torch.uint8)[:n])


__all__ = [
    "AlignedTable_to_array",
    "array_to_AlignedTable",
    "copy_array_to_AlignedTable",
    "copy_array_to_vector",
    "memcpy",
    "rev_swig_ptr",
    "swig_ptr",
    "vector_float_to_array",
    "vector_to_array",
]
