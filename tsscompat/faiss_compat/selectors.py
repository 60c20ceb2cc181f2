"""IDSelectors: which ids a search considers, or a removal removes.

Each is one hook, `_mask(ids) -> bool`, on int64 tensors of any device.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import from_numpy
from tsscompat.errors import FaissError
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, child, int64, size_t
from tsscompat.faiss_compat.vectors import Vector


def _items(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[int, Tensor]:
    """(n, items) from FAISS's two forms: (n, pointer or array) and (array,)."""
    if len(args) == 1:
        n, source = None, args[0]
    elif len(args) == 2:
        n, source = int(args[0]), args[1]
    else:
        raise TypeError(f"expected (array) or (n, array), got {len(args)} arguments")
    if isinstance(source, (Pointer, Vector)):
        tensor = source.tensor
    elif isinstance(source, Tensor):
        tensor = source.detach().reshape(-1)
    else:
        tensor = from_numpy(np.ascontiguousarray(source, dtype=np.uint8 if dtype == torch.uint8 else np.int64).reshape(-1))
    return (tensor.shape[0] if n is None else n), tensor.to(dtype)


class IDSelector(Stated):
    """A set of ids."""

    def is_member(self, id: int) -> bool:
        """Whether an id is in the set."""
        if not -(1 << 63) <= operator.index(id) < 1 << 63:
            raise OverflowError(f"an id has 64 bits, got {id}")
        return bool(self._mask(torch.tensor([id], dtype=torch.int64))[0])

    def _known(self) -> Tensor | None:
        """The ids in the set in ascending order, where it is held as a list of them."""
        return None

    def _numbers(self, n: int, device: torch.device) -> Tensor:
        """Which of the numbers below n are in the set, in ascending order."""
        known = self._known()
        if known is None:
            return self._mask(torch.arange(n, device=device)).nonzero().squeeze(1)
        return known[(known >= 0) & (known < n)].to(device)

    def _mask(self, ids: Tensor) -> Tensor:
        """Which of `ids` are in the set."""
        raise FaissError(f"{type(self).__name__} does not say which ids it has")


class IDSelectorRange(IDSelector):
    """Ids from imin up to, not including, imax."""

    imin = int64(0)
    imax = int64(0)
    assume_sorted = boolean(False, "the ids of each list are sorted: scan only the range's part")

    def __init__(self, imin: int, imax: int, assume_sorted: bool = False) -> None:
        super().__init__()
        self.imin, self.imax, self.assume_sorted = imin, imax, assume_sorted

    def _mask(self, ids: Tensor) -> Tensor:
        return (ids >= self.imin) & (ids < self.imax)

    def find_sorted_ids_bounds(self, list_size: int, ids: Any, jmin: Any = None, jmax: Any = None) -> tuple[int, int]:
        """Where in a sorted list the range begins and ends."""
        _, tensor = _items((list_size, ids), torch.int64)
        bounds = torch.searchsorted(tensor[:list_size], torch.tensor([self.imin, self.imax]))
        low, high = int(bounds[0]), int(bounds[1])
        if jmin is not None and jmax is not None:
            jmin[0], jmax[0] = low, high
        return low, high


class _Listed(IDSelector):
    """Ids from a list, looked up in a sorted copy of it."""

    n = size_t(0)
    ids = anything(None)

    def __init__(self, *args: Any) -> None:
        super().__init__()
        self.n, tensor = _items(args, torch.int64)
        self._ids = tensor[: self.n].clone()
        self.ids = Pointer(self._ids)
        self._sorted = self._ids.unique()

    def _known(self) -> Tensor | None:
        return self._sorted

    def _mask(self, ids: Tensor) -> Tensor:
        known = self._sorted.to(ids.device)
        if known.shape[0] == 0:
            return torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
        if known.shape[0] == 1:
            return ids == known
        at = torch.searchsorted(known, ids).clamp_(max=known.shape[0] - 1)
        return known[at] == ids


class IDSelectorArray(_Listed):
    """Ids from an array, in its order."""


class IDSelectorBatch(_Listed):
    """Ids from a set."""


class GivenIds(IDSelectorBatch):
    """Ids that `remove_ids` got as an array: FAISS wraps them as what the index takes, a set or, with a hash table, an array."""


class IDSelectorBitmap(IDSelector):
    """One bit for each id; ids beyond the bitmap are not in the set."""

    n = size_t(0)
    bitmap = anything(None)

    def __init__(self, *args: Any) -> None:
        super().__init__()
        self.n, self._bits = _items(args, torch.uint8)
        self.bitmap = Pointer(self._bits)

    def _mask(self, ids: Tensor) -> Tensor:
        bits = self._bits.to(ids.device)
        byte = ids >> 3
        inside = (ids >= 0) & (byte < min(self.n, bits.shape[0]))
        return (
            inside & ((bits[torch.where(inside, byte, 0)].to(torch.int64) >> (ids & 7)) & 1).bool() if bits.shape[0] else inside
        )


class IDSelectorBitmapView(IDSelectorBitmap):
    """A bitmap that stays the caller's: later changes to it count."""


class IDSelectorAll(IDSelector):
    """Every id."""

    def _mask(self, ids: Tensor) -> Tensor:
        return torch.ones(ids.shape, dtype=torch.bool, device=ids.device)


class IDSelectorNot(IDSelector):
    """The ids that another selector does not have."""

    sel = child()

    def __init__(self, sel: IDSelector) -> None:
        super().__init__()
        self.sel = sel

    def _mask(self, ids: Tensor) -> Tensor:
        return ~self.sel._mask(ids)


class _Pair(IDSelector):
    lhs = child()
    rhs = child()

    def __init__(self, lhs: IDSelector, rhs: IDSelector) -> None:
        super().__init__()
        self.lhs, self.rhs = lhs, rhs


class IDSelectorAnd(_Pair):
    """The ids that both selectors have."""

    def _mask(self, ids: Tensor) -> Tensor:
        return self.lhs._mask(ids) & self.rhs._mask(ids)


class IDSelectorOr(_Pair):
    """The ids that either selector has."""

    def _mask(self, ids: Tensor) -> Tensor:
        return self.lhs._mask(ids) | self.rhs._mask(ids)


class IDSelectorXOr(_Pair):
    """The ids that just one of the selectors has."""

    def _mask(self, ids: Tensor) -> Tensor:
        return self.lhs._mask(ids) ^ self.rhs._mask(ids)


class IDSelectorTranslated(IDSelector):
    """Positions whose id, by an id map, another selector has."""

    sel = child()

    def __init__(self, id_map: Any, sel: IDSelector) -> None:
        super().__init__()
        id_map = getattr(id_map, "id_map", id_map)
        _, self._map = _items((id_map,), torch.int64)
        self.sel = sel

    def _mask(self, ids: Tensor) -> Tensor:
        return self.sel._mask(self._map.to(ids.device)[ids])


class PyCallbackIDSelector(IDSelector):
    """The ids for which a Python function returns True."""

    callback = anything(None)

    def __init__(self, callback: Callable[[int], bool]) -> None:
        super().__init__()
        self.callback = callback

    def _mask(self, ids: Tensor) -> Tensor:
        answers = [bool(self.callback(i)) for i in ids.reshape(-1).tolist()]
        return torch.tensor(answers, dtype=torch.bool, device=ids.device).reshape(ids.shape)


__all__ = [
    "IDSelector",
    "IDSelectorAll",
    "IDSelectorAnd",
    "IDSelectorArray",
    "IDSelectorBatch",
    "IDSelectorBitmap",
    "IDSelectorBitmapView",
    "IDSelectorNot",
    "IDSelectorOr",
    "IDSelectorRange",
    "IDSelectorTranslated",
    "IDSelectorXOr",
    "PyCallbackIDSelector",
]
