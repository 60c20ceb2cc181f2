"""What FAISS's module of this name changes. Importing it changes every index of the process, for good; nothing else imports it.

In FAISS it makes indexes take torch tensors, which here they always do. What the import still changes are FAISS's other differences:

- `reconstruct` and `reconstruct_n` without an array to fill give tensors, on the index's device, where they gave numpy arrays;
- arrays to fill, and `numeric_type`, may be given by position: `search(x, k, D, I)`;
- a tensor must be contiguous and hold what FAISS reads through a pointer (float32 vectors, int64 ids, uint8 codes), and where vectors
  are a tensor, what is filled must be tensors too; `remove_ids` takes no tensors at all: AssertionErrors, as there;
- the methods that were there are still there, under their names with `_numpy` at the end.

Arrays of numpy, selectors and pointers go through as before. Binary indexes, transforms, quantizers and functions (`knn`, `Kmeans`) are
left alone: they take and give tensors in any case. Indexes on GPUs, too, take tensors of any device.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import expect
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.vector_arrays import swig_ptr

# What may be given by position, in FAISS's order.
_ORDER = {
    "add": ("x", "numeric_type"),
    "add_with_ids": ("x", "ids", "numeric_type"),
    "assign": ("x", "k", "labels"),
    "range_search": ("x", "thresh"),
    "reconstruct": ("key", "x"),
    "reconstruct_n": ("n0", "ni", "x"),
    "remove_ids": ("x",),
    "sa_decode": ("codes", "x"),
    "sa_encode": ("x", "codes"),
    "search": ("x", "k", "D", "I", "numeric_type"),
    "search_and_reconstruct": ("x", "k", "D", "I", "R"),
    "search_preassigned": ("x", "k", "Iq", "Dq"),
    "train": ("x", "numeric_type"),
    "update_vectors": ("keys", "x"),
}
_HOLDS = (
    dict.fromkeys(("x", "D", "R", "Dq"), torch.float32)
    | dict.fromkeys(("ids", "labels", "keys", "I", "Iq"), torch.int64)
    | {"codes": torch.uint8}
)
_NUMERIC = {enums.Float32: torch.float32, enums.Float16: torch.float16, enums.Int8: torch.int8}
# FAISS lays these out itself.
_STRIDED = ("Iq", "Dq")


def _held_to(given: dict[str, Any]) -> None:
    """Raise unless all arrays that were given are tensors of the kinds that FAISS reads."""
    numeric = _NUMERIC.get(given.get("numeric_type", enums.Float32), torch.float32)
    for name, value in given.items():
        if name not in _HOLDS or value is None:
            continue
        expect(isinstance(value, Tensor), "expected a tensor for {}, as for the others, got {}", name, type(value).__name__)
        wanted = numeric if name == "x" else _HOLDS[name]
        expect(value.dtype == wanted, "expected a tensor of {} for {}, got {}", wanted, name, value.dtype)
        expect(name in _STRIDED or value.is_contiguous(), "expected a contiguous tensor for {}", name)


def _room(index: Index, name: str, given: dict[str, Any]) -> Tensor:
    """A tensor for what is to be reconstructed."""
    if name == "reconstruct":
        return torch.empty(index.d, device=index.device)
    first, count = int(given.get("n0", 0)), int(given.get("ni", -1))
    return torch.empty(max(0, index.ntotal - first if count == -1 else count), index.d, device=index.device)


def _with_tensors(name: str, ordinary: Callable[..., Any]) -> Callable[..., Any]:
    """A method of indexes with the differences that this module is about."""
    order = _ORDER[name]

    @functools.wraps(ordinary)
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        if len(arguments) > len(order) or not named.keys().isdisjoint(order[: len(arguments)]):
            return ordinary(self, *arguments, **named)  # which says what is wrong
        given = dict(zip(order, arguments)) | named
        if name in ("reconstruct", "reconstruct_n") and given.get("x") is None:
            given["x"] = _room(self, name, given)
        if name == "remove_ids":
            expect(not isinstance(given.get("x"), Tensor), "remove_ids takes numpy arrays and selectors, not tensors")
        elif isinstance(given.get("x" if name.startswith("reconstruct") else order[0]), Tensor):
            _held_to(given)
        return ordinary(self, **given)

    return method


def _own(kind: type, name: str) -> Callable[..., Any] | None:
    """A method that a class of indexes has itself, or from a class that is no index."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), None)
    if owner is None or (owner is not kind and issubclass(owner, Index)) or not kind.__module__.startswith("tsscompat."):
        return None  # classes outside this package are their authors'
    return vars(owner)[name]


def _switch(kind: type[Any]) -> None:
    """Change the methods of a class, and of those under it."""
    for name in _ORDER:
        ordinary = _own(kind, name)
        if ordinary is not None and f"{name}_numpy" not in vars(kind):
            setattr(kind, f"{name}_numpy", ordinary)
            setattr(kind, name, _with_tensors(name, ordinary))
    for below in kind.__subclasses__():
        _switch(below)


_switch(Index)


@contextlib.contextmanager
def using_stream(res: Any, pytorch_stream: Any = None) -> Iterator[None]:
    """Work in the block is ordered on a CUDA stream of torch's: the one given, or the current one."""
    if pytorch_stream is None or not torch.cuda.is_available():
        yield
        return
    with torch.cuda.stream(pytorch_stream):
        yield


def _pointer(x: Tensor, dtype: torch.dtype) -> Pointer:
    assert x.is_contiguous()
    assert x.dtype == dtype, f"expected {dtype}, got {x.dtype}"
    return swig_ptr(x)


def swig_ptr_from_UInt8Tensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.uint8)


def swig_ptr_from_HalfTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.float16)


def swig_ptr_from_BFloat16Tensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.bfloat16)


def swig_ptr_from_FloatTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.float32)


def swig_ptr_from_IntTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.int32)


def swig_ptr_from_IndicesTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.int64)
