"""The memory of an index: bytes of vectors, codes, ids, centroids, graph, transforms and tables, and the room that lists keep to grow.

What one will hold that is yet to be built stands in estimate.py, with the same report.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

import tsscompat

# What searches keep, until it is told.
_KEPT = "kept"
PARTS = ("vectors", "codes", "ids", "centroids", "graph", "transforms", "tables", "room")


@dataclass(frozen=True)
class Memory:
    """Bytes of an index; `room` is what lists keep to grow, `tables` what searches derive from the rest and keep."""

    parts: dict[str, int] = field(default_factory=dict)
    n: int = 0
    d: int = 0
    device: str = "cpu"
    binary: bool = False
    warnings: list[str] = field(default_factory=list)  # of an estimate: what training on the n vectors would say

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values())

    @property
    def per_vector(self) -> float:
        """Bytes for each vector."""
        return self.total / self.n if self.n else 0.0

    @property
    def compression(self) -> float:
        """How many times the vectors as they are given, float32 or bits, would take as much."""
        return (self.n * self.d // 8 if self.binary else 4 * self.n * self.d) / self.total if self.total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"total": self.total, "per_vector": self.per_vector, "compression": self.compression}

    def __str__(self) -> str:
        shown = [f"{name:<12}{size:>18,}" for name, size in self.parts.items() if size]
        shown.append(
            f"{'total':<12}{self.total:>18,}  {self.per_vector:.1f} bytes a vector, {self.compression:.1f} to 1, {self.device}"
        )
        return "\n".join(shown + [f"warning: {text}" for text in self.warnings])


def report(parts: Counter[str], index: Any, n: int, device: Any, warnings: Sequence[str] = ()) -> Memory:
    """The report of parts of an index of n vectors."""
    parts["tables"] += parts.pop(_KEPT, 0)
    binary = isinstance(index, tsscompat.IndexBinary)
    return Memory({name: int(parts[name]) for name in PARTS}, n, index.d, str(device), binary, list(warnings))


# -- what an index holds --------------------------------------------------------------------------------------------------------------

# Where a tensor belongs, by the attribute that leads to it, the innermost that is named here.
_PLACES = {
    "codes": "codes",
    "xb": "vectors",
    "vecs": "codes",
    "ids": "ids",
    "id_map": "ids",
    "refine_codes": "codes",
    "hnsw": "graph",
    "nsg": "graph",
    "nndescent": "graph",
    "chain": "transforms",
    "quantizer": "centroids",
    "pq": "centroids",
    "refine_pq": "centroids",
    "centroids": "centroids",
    "codebooks": "centroids",
}


def memory_usage(index: Any) -> Memory:
    """What an index holds now, caches of searches included."""
    parts: Counter[str] = Counter()
    seen: set[int] = set()
    later: list[Any] = []
    _walk(index, "tables", parts, seen, later)
    for kept in later:
        _walk(kept, _KEPT, parts, seen, [])
    return report(parts, index, index.ntotal, index.device)


def _walk(held: Any, place: str, parts: Counter[str], seen: set[int], later: list[Any]) -> None:
    """Add up the memory of all tensors that an object leads to, each storage once; what searches keep goes to `later`."""
    if isinstance(held, Tensor):
        storage = held.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            parts[place] += storage.nbytes()
        return
    if id(held) in seen or held is None or isinstance(held, (int, float, str, bytes, torch.device)):
        return
    seen.add(id(held))
    if isinstance(held, tsscompat.InvertedLists):
        _lists(held, parts, seen, later)
    elif isinstance(held, dict) and held and all(isinstance(one, int) for one in next(iter(held.items()))):
        parts["ids"] += sys.getsizeof(held) + 2 * len(held) * sys.getsizeof(1 << 40)
    elif isinstance(held, dict):
        for name, value in held.items():
            _walk(value, _place(held, str(name), place), parts, seen, later)
    elif isinstance(held, (list, tuple)):
        for one in held:
            _walk(one, place, parts, seen, later)
    elif type(held).__module__.startswith("tsscompat."):
        caches = set(getattr(held, "_caches", ()))
        for name, value in getattr(held, "__dict__", {}).items():
            if name in caches and place != "centroids":
                later.append(value)
            else:
                _walk(value, _place(held, name, place), parts, seen, later)


def _place(owner: Any, name: str, place: str) -> str:
    if place in ("centroids", "graph", "transforms", _KEPT):
        return place
    if name == "codes" and isinstance(owner, tsscompat.IndexFlat):
        return "vectors"
    return _PLACES.get(name, place)


def _lists(held: Any, parts: Counter[str], seen: set[int], later: list[Any]) -> None:
    """Lists in one arena: live entries are codes and ids, the rest is room."""
    if not (getattr(held, "_at_hand", True) or getattr(held, "_streamed", False)):
        return
    lists = held._ragged()
    live = int(lists.sizes.sum())
    before = sum(parts.values())
    for tensor in (lists.codes, lists.ids, lists.offsets, lists.sizes):
        _walk(tensor, "room", parts, seen, later)
    _walk({name: value for name, value in held.__dict__.items() if name.startswith("_")}, "room", parts, seen, later)
    if sum(parts.values()) > before:
        codes, ids = live * lists.codes.shape[1], 8 * live
        parts["codes"] += codes
        parts["ids"] += ids
        parts["room"] -= codes + ids
