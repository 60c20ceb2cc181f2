"""CUDA devices where there is none: tensors that say they are on `cuda:0` or `cuda:1`, held in the CPU's memory.

`OnCuda` is a wrapper of a CPU tensor with the device, so that `x.device`, `x.is_cuda`, `x.cpu()`, `x.numpy()` and the choices that torch
makes by device are those of a GPU's tensor. Within `PretendedCuda` each operation is seen as the dispatcher of torch sees it, composite
ones taken apart: one that is given tensors of two devices fails, as does one that CUDA does not have for the type of the numbers
(`missing_on_cuda.py`); else it is computed on the CPU. The exceptions are CUDA's: copies cross, a single number of the host's goes with
elementwise operations, what is on a GPU may be indexed from the host.

What is not seen: kernels and streams (nothing runs beside anything else here), and numbers that CUDA rounds in another way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest
import torch
from missing_on_cuda import refusal
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
# What may be given tensors of several devices.
CROSSING = {"copy_", "_to_copy", "_copy_from", "_local_scalar_dense", "set_"}
INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_"}
WRITING = {"index_put_", "index_put", "_index_put_impl_", "scatter_", "scatter", "index_copy_", "index_copy"}
# Functions of torch that make a tensor on a device they are told, or on that of the tensor they belong to.
MAKING = {
    *("empty", "zeros", "ones", "full", "arange", "range", "linspace", "logspace", "eye", "tensor", "as_tensor", "asarray"),
    *("rand", "randn", "randint", "randperm", "empty_strided", "tril_indices", "triu_indices", "scalar_tensor"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor", "new_empty_strided"),
}
# What is asked of the memory itself, and numbers that are read back.
OF_MEMORY = {"data_ptr", "untyped_storage", "tolist", "item", "__float__", "__int__", "__index__", "__bool__"}


def _contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return x if x.is_contiguous(memory_format=memory_format) else torch.ops.aten.clone(x, memory_format=memory_format)


def _nonzero(x: Tensor, *, as_tuple: bool = False) -> Any:
    return torch.ops.aten.nonzero_numpy(x) if as_tuple else torch.ops.aten.nonzero(x)


# Operations that torch puts together of others, some of which make a tensor on a GPU without being given one: found as they are met.
COMPOSED: set[str] = {"where"}

# Methods whose Python bindings make the device current, which a torch without CUDA cannot: the same operations, by the dispatcher's names.
BOUND_BY_HAND: dict[str, Callable[..., Any]] = {
    "__invert__": torch.ops.aten.bitwise_not,
    "contiguous": _contiguous,
    "copy_": torch.ops.aten.copy_,
    "nonzero": _nonzero,
}


class Mixed(AssertionError):
    """Tensors of two devices were given to an operation that CUDA has for one only."""


class Missing(AssertionError):
    """CUDA does not have an operation for a type of numbers."""


class Raced(AssertionError):
    """An operation puts several numbers in one place; which of them stays is not the same from run to run on a GPU."""


class OnCuda(Tensor):
    """A CPU tensor that says it is on a GPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> OnCuda:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=device
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {self.device}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("a tensor is pickled where it is: it could not be read where there is no such GPU")


SEEN: set[tuple[str, tuple[str, ...]]] = set()


def tree_map(of: Callable[[Any], Any], value: Any) -> Any:
    """Arguments of an operation, each tensor replaced; a tenth of the time that torch's own function of this name takes."""
    if isinstance(value, Tensor):
        return of(value)
    if isinstance(value, (list, tuple)):
        made = [tree_map(of, v) for v in value]
        return made if isinstance(value, list) else type(value)(made) if type(value) is not tuple else tuple(made)
    if isinstance(value, dict):
        return {k: tree_map(of, v) for k, v in value.items()}
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors among the arguments of an operation."""
    found: list[Tensor] = []
    tree_map(found.append, value)
    return found


def plain(tensor: Any) -> Any:
    """The CPU's tensor of a GPU's."""
    return tensor.held if isinstance(tensor, OnCuda) else tensor


def put(value: Any, device: torch.device) -> Any:
    """A tensor of the CPU's, said to be on a device."""
    if device.type != "cuda" or not isinstance(value, Tensor) or isinstance(value, OnCuda):
        return value
    return OnCuda(value, torch.device("cuda", device.index or 0))


def asked(device: Any) -> torch.device | None:
    """A device that was named, with its number."""
    if device is None:
        return None
    made = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cuda", made.index or 0) if made.type == "cuda" else made


def noted(name: str, tensors: list[Tensor], kwargs: dict[str, Any], dtype: torch.dtype | None = None) -> None:
    """Remember an operation, and refuse it where CUDA does not have it."""
    types = tuple(str(t.dtype)[6:] for t in tensors)
    SEEN.add((name, (*types, "->" + str(dtype)[6:]) if dtype is not None else types))
    why = refusal(name, [t.dtype for t in tensors], dtype)
    if why:
        raise Missing(f"{name} of {', '.join(types) or str(dtype)}: {why}")
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise Mixed(f"{name} draws on a GPU from the host's generator")


def raced(name: str, target: Tensor, values: Any) -> None:
    """Fail if numbers that differ are put in one place; `target` are the places."""
    places = target.reshape(-1)
    order = places.argsort()
    again = places[order][1:] == places[order][:-1]
    if not again.any():
        return
    put_there = torch.as_tensor(values).expand(target.shape).reshape(-1)[order]
    unlike = (put_there[1:] != put_there[:-1]) & ~(put_there[1:].isnan() & put_there[:-1].isnan())
    if (again & unlike).any():
        raise Raced(f"{name} puts several numbers in one place")


def positions(of: Tensor) -> Tensor:
    """The number of each place of a tensor."""
    return torch.arange(of.numel()).view(of.shape)


def written(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Look for places that an operation, given the CPU's tensors, writes twice."""
    if name in ("index_put_", "index_put", "_index_put_impl_"):
        indices, adds = args[1], args[3] if len(args) > 3 else kwargs.get("accumulate", False)
        if not adds and all(i is None or i.dtype != torch.bool for i in indices):
            raced(name, positions(args[0])[tuple(slice(None) if i is None else i for i in indices)], args[2])
    elif name in ("scatter_", "scatter") and "reduce" not in kwargs:
        raced(name, positions(args[0]).gather(args[1], args[2]), args[3])
    elif name in ("index_copy_", "index_copy"):
        raced(name, positions(args[0]).index_select(args[1], args[2]), args[3])


def single_device(func: Any, name: str, leaves: list[Any]) -> torch.device:
    """Where an operation runs; fails if that is not clear."""
    here = [t for t in leaves if isinstance(t, OnCuda)]
    host = [t for t in leaves if isinstance(t, Tensor) and not isinstance(t, OnCuda)]
    if torch.Tag.pointwise in func.tags or name in ("masked_fill_", "masked_fill", "fill_"):
        host = [t for t in host if t.dim()]
    devices = {t.device for t in here if t.dim() or torch.Tag.pointwise not in func.tags} or {here[0].device}
    if len(devices) > 1 or host:
        first = f"{tuple(host[0].shape)} {host[0].dtype} of the host" if host else "of another GPU"
        raise Mixed(f"{func} takes tensors of several devices: one {first}")
    return devices.pop()


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation as the dispatcher asks for it, computed on the CPU."""
    leaves, name = tensors_in((args, kwargs)), func._schema.name.partition("::")[2]
    here = [t for t in leaves if isinstance(t, OnCuda)]
    if name in CROSSING:
        device = args[0].device
    elif name in INDEXING:
        device = args[0].device
        if device.type != "cuda":
            raise Mixed(f"{func}: a tensor of the host is indexed with one of a GPU")
        value = args[2] if len(args) > 2 else None
        if isinstance(value, Tensor) and value.device != device and value.dim():
            raise Mixed(f"{func}: what is put in a GPU's tensor is the host's")
    else:
        device = single_device(func, name, leaves) if here else CPU
    if "device" in kwargs:
        device = asked(kwargs["device"]) or device
        kwargs = kwargs | {"device": CPU, "pin_memory": None} if "pin_memory" in kwargs else kwargs | {"device": CPU}
    if not (name in CROSSING and device.type != "cuda"):
        noted(name, leaves, kwargs, kwargs.get("dtype"))
    with torch._C._DisableTorchDispatch():
        args, kwargs = tree_map(plain, args), tree_map(plain, kwargs)
        if name in WRITING:
            written(name, args, kwargs)
        made = func(*args, **kwargs)
    # What is changed in place comes back as the tensor that was given.
    given = {id(t.held): t for t in here}
    return tree_map(lambda t: given[id(t)] if id(t) in given else put(t, device), made)


class _Factories(TorchDispatchMode):
    """Tensors that torch itself asks for on a GPU, within an operation that `PretendedCuda` has let through: a mode costs 30 us a call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        on_gpu = device is not None and torch.device(device).type == "cuda"
        return computed(func, args, kwargs) if on_gpu or types else func(*args, **kwargs)


class PretendedCuda(TorchFunctionMode):
    """Within it, `cuda:0` and `cuda:1` can be named, and tensors moved there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in ("__getitem__", "__setitem__"):
            return self._indexed(func, args)
        if name in MAKING:
            return self._made(func, name, args, kwargs)
        if name in ("to", "cuda") and isinstance(first, Tensor):
            return self._moved(func, name, args, kwargs)
        if name == "pin_memory":
            assert not isinstance(first, OnCuda), "what is on a GPU cannot be pinned"
            return first.clone()
        if name == "is_pinned":
            return False
        if isinstance(first, OnCuda):
            if name in OF_MEMORY:
                return func(first.held, *args[1:], **kwargs)
            if name in ("numpy", "__array__", "__dlpack__"):
                raise TypeError(f"can't convert {first.device} device type tensor to numpy")
            if name == "__deepcopy__":
                return first.clone()
            if name == "resize_":
                first.held.resize_(*args[1:], **kwargs)
                first.data = OnCuda(first.held, first.device)
                return first
            if name in BOUND_BY_HAND:
                return BOUND_BY_HAND[name](*args, **kwargs)
        if not isinstance(func, FunctionType) and name not in COMPOSED:
            try:
                return func(*args, **kwargs)
            except NotImplementedError as e:
                if "'aten::empty" not in str(e) and "'aten::scalar_tensor" not in str(e):
                    raise
                COMPOSED.add(name)
        with _Factories():
            return func(*args, **kwargs)

    def _made(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        first = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
        device = asked(kwargs.get("device")) or (first.device if isinstance(first, Tensor) else CPU)
        if isinstance(first, OnCuda) and name in ("as_tensor", "asarray") and device == first.device:
            return first if kwargs.get("dtype") in (None, first.dtype) else first.to(kwargs["dtype"])
        kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
        made = func(*tree_map(plain, args), **tree_map(plain, kwargs) | ({"device": CPU} if "device" in kwargs else {}))
        if device.type != "cuda":
            return made
        noted(name, [], kwargs, made.dtype)
        return put(made.clone() if made is plain(first) else made, device)

    def _moved(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        self_, rest = args[0], list(args[1:])
        target = None
        if name == "cuda":
            target = asked(rest.pop(0) if rest else kwargs.pop("device", "cuda"))
        elif rest and isinstance(rest[0], Tensor):
            target, rest[0] = rest[0].device, rest[0].dtype
        elif rest and isinstance(rest[0], (str, torch.device, int)):
            target = asked(rest.pop(0))
        elif "device" in kwargs:
            target = asked(kwargs.pop("device"))
        target = target or self_.device
        dtype = next((a for a in (*rest, kwargs.get("dtype")) if isinstance(a, torch.dtype)), self_.dtype)
        if target == self_.device:
            if dtype == self_.dtype and not kwargs.get("copy"):
                return self_
            if not isinstance(self_, OnCuda):
                return self_.to(dtype, copy=True)
            return self_.clone() if dtype == self_.dtype else torch.ops.aten._to_copy(self_, dtype=dtype)
        return put(plain(self_).to(dtype, copy=True), target)

    def _indexed(self, func: Any, args: Any) -> Any:
        self_, key, *value = args
        parts = tensors_in(key)
        # A number of a GPU's is read back where an index or a limit is wanted.
        if not isinstance(self_, OnCuda):
            if any(isinstance(t, OnCuda) and t.dim() for t in parts):
                raise Mixed("a tensor of the host is indexed with one of a GPU")
            if value and isinstance(value[0], OnCuda) and parts and value[0].dim():
                raise Mixed("what is put in a tensor of the host is a GPU's")
            return func(self_, tree_map(plain, key), *tree_map(plain, value))
        if any(isinstance(t, OnCuda) and t.device != self_.device for t in (*parts, *value)):
            raise Mixed("a tensor of a GPU is indexed with one of another")
        if value and parts and isinstance(value[0], Tensor) and not isinstance(value[0], OnCuda) and value[0].dim():
            raise Mixed("what is put in a GPU's tensor is the host's")
        if not value:
            noted("index" if parts else "slice", [self_, *parts], {})
        else:
            noted("index_put_" if parts else "copy_", [self_, *parts, *(v for v in value if isinstance(v, Tensor))], {})
        key, value = tree_map(plain, key), tree_map(plain, value)
        if value and any(t.dtype != torch.bool and t.dim() for t in tensors_in(key)):
            raced("index_put_", positions(self_)[key], value[0])
        return put(func(self_.held, key, *value), self_.device)


class _Stream:
    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def wait_stream(self, *_: Any) -> None: ...
    def wait_event(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...
    def record(self, *_: Any) -> None: ...
    def query(self) -> bool:
        return True


@contextlib.contextmanager
def _current(*_: Any) -> Iterator[None]:
    yield


def cuda_functions(patch: pytest.MonkeyPatch) -> None:
    """torch.cuda as on a machine with two GPUs, on which nothing is ever waited for."""
    runtime = SimpleNamespace(cudaHostRegister=lambda *_: 0, cudaHostUnregister=lambda *_: 0)
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 0,
        "mem_get_info": lambda device=None: (1 << 37, 1 << 37),
        "get_device_capability": lambda device=None: (9, 0),
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "current_stream": lambda device=None: _Stream(),
        "current_blas_handle": lambda: 1,
        "cudart": lambda: runtime,
        "Stream": _Stream,
        "Event": _Stream,
        "stream": _current,
        "device": _current,
    }
    if not torch.cuda.is_available():
        answers["_lazy_init"] = lambda: None
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, answer)
