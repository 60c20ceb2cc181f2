"""Two devices where there is only a CPU: tensors of the "GPU" are told apart from the host's, and mixing them fails as with CUDA.

The GPU is `torch.device("cpu", 0)`, the host `torch.device("cpu")`. Within the mode each tensor has one of the two by how it was made;
a tensor that the mode did not see being made goes with both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

HOST, GPU = torch.device("cpu"), torch.device("cpu", 0)
FREE = {"copy_", "untyped_storage", "data_ptr", "is_pinned"}


class TwoDevices(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.where: dict[int, torch.device] = {}
        self.kept: list[Tensor] = []
        self.moved = 0

    def put(self, tensor: Any, device: torch.device) -> Any:
        """Note that tensors are on a device."""
        for t in tree_flatten(tensor)[0]:
            if isinstance(t, Tensor) and t.numel():
                self.where[self._key(t)] = device
                self.kept.append(t)
        return tensor

    @staticmethod
    def _key(t: Tensor) -> int:
        with torch._C.DisableTorchFunction():
            return t.untyped_storage().data_ptr()

    def of(self, t: Tensor) -> torch.device | None:
        with torch._C.DisableTorchFunction():
            small = t.numel() == 0 or t.dim() == 0
        return None if small else self.where.get(self._key(t))

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Tensor:
        made = func(*args, **kwargs).clone()
        self.moved += 1
        self.put(made, device)
        return made

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func))
        if name == "__get__" and func.__self__ is torch.Tensor.device:
            return self.of(args[0]) or HOST
        if name == "cpu":
            return self._moved(func, args, kwargs, HOST)
        asked = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.device)]
        if name == "to" and asked:
            return self._moved(func, args, kwargs, asked[0])
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        made = func(*args, **kwargs)
        if name in FREE:
            return made
        known = {d for d in map(self.of, given) if d is not None}
        if name == "__getitem__" and len(known) > 1 and self.of(args[0]) == GPU:
            known = {GPU}  # what is on a GPU may be indexed from the host
        if len(known) > 1:
            raise AssertionError(f"{name} takes tensors of the host and of the GPU")
        fresh = not given or name.startswith("new_")
        device = asked[0] if asked and fresh else next(iter(known), HOST if not given else None)
        if device is not None:
            self.put(made, device)
        return made
