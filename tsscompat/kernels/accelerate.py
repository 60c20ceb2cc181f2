"""`@accelerated`: a torch definition that a compiled twin of the same name may replace.

The twin of `kernels/<op>.py: f` is `kernels/numba/<op>.py: f` (all tensors on the CPU) or `kernels/triton/<op>.py: f` (CUDA). It is
imported when first needed, and may return NotImplemented to leave a case to the definition. TSSCOMPAT_TWINS=0 turns twins off;
TSSCOMPAT_TWINS=triton, with TRITON_INTERPRET=1, gives tensors on the CPU to Triton's twins, which is how these are tested without a GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

TWINS = {"cpu": "numba", "cuda": "triton"}
REGISTRY: dict[str, Accelerated[..., Any]] = {}


class Accelerated(Protocol[P, R]):
    """A kernel as callers see it: call it, or look at its definition."""

    definition: Callable[..., Any]
    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


def twins_enabled() -> bool:
    """Whether compiled twins may be used in this process."""
    return os.environ.get("TSSCOMPAT_TWINS", "1") != "0"


@functools.cache
def _importable(backend: str) -> bool:
    return importlib.util.find_spec(backend) is not None


def find_twin(module: str, name: str, device_type: str) -> Callable[..., Any] | None:
    """The compiled twin of a definition on a kind of device, or None."""
    backend = "triton" if os.environ.get("TSSCOMPAT_TWINS") == "triton" else TWINS.get(device_type)
    if backend is None or not twins_enabled() or not _importable(backend):
        return None
    package, _, op = module.rpartition(".")
    path = f"{package}.{backend}.{op}"
    try:
        found = importlib.util.find_spec(path)
    except ModuleNotFoundError:
        return None
    if found is None:
        return None
    return getattr(importlib.import_module(path), name, None)


def _device_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """`cpu` when every tensor is there, else the type of the first that is not."""
    for value in args:
        if isinstance(value, torch.Tensor) and not value.is_cpu:
            return value.device.type
    for value in kwargs.values():
        if isinstance(value, torch.Tensor) and not value.is_cpu:
            return value.device.type
    return "cpu"


def accelerated(definition: Callable[P, R]) -> Accelerated[P, R]:
    """Let a twin of the same name stand in for `definition` where there is one."""
    found: dict[str, Callable[..., Any] | None] = {}
    module, name = definition.__module__, definition.__name__

    @functools.wraps(definition)
    def call(*args: Any, **kwargs: Any) -> Any:
        kind = _device_type(args, kwargs)
        try:
            twin = found[kind]
        except KeyError:
            twin = found[kind] = find_twin(module, name, kind)
        if twin is not None:
            answer = twin(*args, **kwargs)
            if answer is not NotImplemented:
                return answer
        return definition(*args, **kwargs)

    call.definition = definition  # type: ignore[attr-defined]
    REGISTRY[f"{module.rpartition('.')[2]}.{name}"] = cast(Any, call)
    return cast("Accelerated[P, R]", call)
