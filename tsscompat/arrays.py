"""The door: numpy arrays, torch tensors and __dlpack__ objects in; the same kind, on the same device, out.

Everything behind this door is a contiguous torch tensor on the index's device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tsscompat.errors import ArgumentError, expect

Array = Any  # numpy.ndarray | torch.Tensor | anything with __dlpack__

_FLOATS, _IDS = np.dtype(np.float32), np.dtype(np.int64)
_NUMPY = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


def numpy_out(tensor: Tensor) -> np.ndarray[Any, Any]:
    """An answer as an array."""
    return tensor.numpy() if tensor.is_cpu else tensor.cpu().numpy()


def from_numpy(x: np.ndarray[Any, Any]) -> Tensor:
    """A tensor on the array's memory; read-only memory is shared too (nothing behind the door writes to its input)."""
    if any(s < 0 for s in x.strides) or not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="), order="C")
    if x.flags.writeable:
        return torch.from_numpy(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(x)


def _foreign(x: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """A tensor of a __dlpack__ object, and what gives such an object back."""
    tensor = from_dlpack(x)
    namespace = getattr(x, "__array_namespace__", None)
    if namespace is None:
        return tensor, lambda t: t
    xp = namespace()
    return tensor, lambda t: xp.from_dlpack(t.to(tensor.device))


def as_tensor(x: Array, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """`x` as a contiguous tensor of `dtype` on `device`, and the function that turns an answer into the caller's kind."""
    if isinstance(x, np.ndarray):
        wanted = _NUMPY[dtype]
        if not x.size:  # numpy's strides of nothing may be 0, which torch takes for strided memory
            return torch.empty(x.shape, dtype=dtype, device=device), numpy_out
        if x.dtype != wanted or not x.flags.c_contiguous:
            x = np.ascontiguousarray(x, dtype=wanted)
        tensor = torch.from_numpy(x) if x.flags.writeable and min(x.strides, default=0) >= 0 else from_numpy(x)
        return (tensor if device.type == "cpu" else tensor.to(device)), numpy_out
    if isinstance(x, Tensor):
        home = x.device
        back = (lambda t: t) if home == device else (lambda t: t.to(home))
        return x.detach().to(device=device, dtype=dtype).contiguous(), back
    if hasattr(x, "__dlpack__"):
        tensor, back = _foreign(x)
        return tensor.to(device=device, dtype=dtype).contiguous(), back
    if hasattr(x, "__array__") and hasattr(x, "shape"):
        return as_tensor(np.asarray(x), dtype, device)
    x.shape  # a list or None has none: the AttributeError that FAISS's callers know  # noqa: B018
    raise TypeError(f"expected a numpy array or a torch tensor, got {type(x).__name__}")


class Batch:
    """Rows that came through the door, and the way back out."""

    __slots__ = ("_back", "tensor")

    def __init__(self, tensor: Tensor, back: Callable[[Tensor], Any]) -> None:
        self.tensor = tensor
        self._back = back

    def give_back(self, answer: Tensor, out: Array | None = None) -> Array:
        """An answer in the caller's kind, in the caller's array when one was given."""
        if out is None:
            return self._back(answer)
        expect(
            tuple(out.shape) == tuple(answer.shape),
            "expected an output array of shape {}, got {}",
            tuple(answer.shape),
            tuple(out.shape),
        )
        if isinstance(out, Tensor):
            out.copy_(answer)
        else:
            found = numpy_out(answer)
            if out.dtype != found.dtype:
                raise TypeError(f"expected an output array of {found.dtype}, got {out.dtype}")
            np.copyto(out, found)
        return out


def plain_rows(x: Array, d: int, dtype: Any = _FLOATS) -> bool:
    """Whether this is an array of shape (n, d) as compiled code takes them."""
    if not isinstance(x, np.ndarray) or x.dtype != dtype:
        return False
    shape = x.shape
    if len(shape) != 2 or shape[1] != d or not shape[0] or not d:
        return False
    flags, strides = x.flags, x.strides
    # A single row of an array that runs backwards is contiguous to numpy, and nothing that torch takes.
    return flags.c_contiguous and flags.writeable and strides[0] > 0 and strides[1] > 0


def plain_ids(x: Array, n: int) -> bool:
    """Whether this is an array of n ids as compiled code takes them."""
    return isinstance(x, np.ndarray) and x.dtype == _IDS and x.shape == (n,) and x.flags.writeable and x.strides == (8,)


def arrays_of(found: tuple[Any, Any] | None) -> tuple[Array, Array] | None:
    """Distances and ids as arrays, where a search of arrays has made tensors."""
    if found is None or isinstance(found[0], np.ndarray):
        return found
    return numpy_out(found[0]), numpy_out(found[1])


def rows(x: Array, d: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """Vectors of shape (n, d) from the caller."""
    if dtype is torch.float32 and device.type == "cpu" and plain_rows(x, d):  # the usual call, in 2 microseconds
        return Batch(torch.from_numpy(x), numpy_out)
    n_dim = len(x.shape)
    if n_dim != 2:
        raise ArgumentError(f"expected vectors of shape (n, {d}), got {tuple(x.shape)}")
    if x.shape[1] != d:
        raise ArgumentError(f"expected vectors of shape (n, {d}), got {tuple(x.shape)}")
    return Batch(*as_tensor(x, dtype, device))


def ids(x: Array, n: int, device: torch.device) -> Tensor:
    """`n` ids from the caller, as int64."""
    expect(tuple(x.shape) == (n,), "expected ids of shape ({},), got {}", n, tuple(x.shape))
    return as_tensor(x, torch.int64, device)[0]


def matrix(x: Array, n: int, k: int, dtype: torch.dtype, device: torch.device, what: str) -> Tensor:
    """A table of shape (n, k) from the caller."""
    expect(tuple(x.shape) == (n, k), "expected {} of shape ({}, {}), got {}", what, n, k, tuple(x.shape))
    return as_tensor(x, dtype, device)[0]
