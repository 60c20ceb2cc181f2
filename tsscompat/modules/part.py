"""Part: what every module here is made of.

A part is described by its settings (numbers) and the parts within it; all else is in its buffers, which take the sizes of what is loaded
into them. So a description and a state_dict, neither of them code, are the whole module.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tsscompat.errors import FormatError, check

P = TypeVar("P", bound="Part")
# Annotations are read by TorchScript, which takes them for types only where they are not postponed.
TYPES: dict[str, "type[Part]"] = {}


class Part(nn.Module):
    """A module whose buffers, settings and parts say all about it."""

    # Attributes that are numbers, and buffers of float32 that stay so: sums of squares do not fit half precision.
    SETTINGS = tuple[str, ...]()
    EXACT = tuple[str, ...]()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        TYPES[cls.__name__] = cls

    def hold(self: P, **tensors: Tensor) -> P:
        """Take on buffers; returns self."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        return self

    def spec(self) -> dict[str, Any]:
        """What to make an empty twin of: names and numbers only."""
        settings = {name: getattr(self, name) for name in self.SETTINGS}
        return {"type": type(self).__name__, "settings": settings, "parts": {n: _described(p) for n, p in self.named_children()}}

    def _apply(self: P, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> P:
        exact = {name: self._buffers[name] for name in self.EXACT}
        super()._apply(fn, recurse)
        for name, tensor in exact.items():
            # As whole numbers they are moved, but not rounded.
            self._buffers[name] = fn(tensor.view(torch.int32)).view(torch.float32)  # type: ignore[union-attr]
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, held in self._buffers.items():
            given = state_dict.get(prefix + name)
            if given is not None and held is not None and (given.shape != held.shape or given.dtype != held.dtype):
                self._buffers[name] = held.new_empty(given.shape, dtype=given.dtype)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _described(part: nn.Module) -> Any:
    if isinstance(part, Part):
        return part.spec()
    check(isinstance(part, nn.ModuleList), "{} is no part of a search module", type(part).__name__)
    return [_described(p) for p in part.children()]


def from_spec(spec: Any) -> Part:
    """An empty module of a description; load_state_dict fills it."""
    if not isinstance(spec, dict) or spec.get("type") not in TYPES:
        raise FormatError(f"no search module of type {spec.get('type') if isinstance(spec, dict) else spec!r}")
    kind = TYPES[spec["type"]]
    settings, parts = spec.get("settings"), spec.get("parts")
    if not isinstance(settings, dict) or not isinstance(parts, dict) or set(settings) != set(kind.SETTINGS):
        raise FormatError(f"{kind.__name__} takes the settings {kind.SETTINGS}, got {settings!r}")
    made = {n: [from_spec(one) for one in p] if isinstance(p, list) else from_spec(p) for n, p in parts.items()}
    try:
        return kind(**made, **settings)
    except TypeError as e:
        raise FormatError(f"{kind.__name__} cannot be made of {sorted(made)}: {e}") from None


def empty_ints(*shape: int) -> Tensor:
    """A buffer of whole numbers yet to be filled."""
    return torch.zeros(shape, dtype=torch.int64)
