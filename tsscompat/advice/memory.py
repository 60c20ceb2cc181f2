"""Memory of indexes: what one holds, and what one that is yet to be built will hold.

Both answer the same report: bytes of vectors, codes, ids, centroids, graph, transforms and tables, and the room that lists keep to grow.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

import tsscompat
from tsscompat.algorithms.ragged import layout
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.downcast import kinds

PARTS = ("vectors", "codes", "ids", "centroids", "graph", "transforms", "tables", "room")


@dataclass(frozen=True)
class Memory:
    """Bytes of an index; `room` is what lists keep to grow, `tables` what searches derive from the rest and keep."""

    parts: dict[str, int] = field(default_factory=dict)
    n: int = 0
    d: int = 0
    device: str = "cpu"

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
        """How many times the vectors as float32 would take as much."""
        return 4 * self.n * self.d / self.total if self.total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self) | {"total": self.total, "per_vector": self.per_vector, "compression": self.compression}

    def __str__(self) -> str:
        shown = [f"{name:<12}{size:>18,}" for name, size in self.parts.items() if size]
        shown.append(
            f"{'total':<12}{self.total:>18,}  {self.per_vector:.1f} bytes a vector, {self.compression:.1f} to 1, {self.device}"
        )
        return "\n".join(shown)


def _report(parts: Counter[str], n: int, d: int, device: Any) -> Memory:
    return Memory({name: int(parts[name]) for name in PARTS}, n, d, str(device))


# -- what an index holds --------------------------------------------------------------------------------------------------------------

# Where a tensor belongs, by the attribute that leads to it, the innermost that is named here.
_PLACES = {
    "codes": "codes",
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
    _walk(index, "tables", parts, set())
    return _report(parts, index.ntotal, index.d, index.device)


def _walk(held: Any, place: str, parts: Counter[str], seen: set[int]) -> None:
    """Add up the memory of all tensors that an object leads to, each storage once."""
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
        _lists(held, parts, seen)
    elif isinstance(held, dict) and held and all(isinstance(key, int) for key in held):
        parts["ids"] += sys.getsizeof(held) + 2 * len(held) * sys.getsizeof(1 << 40)
    elif isinstance(held, dict):
        for name, value in held.items():
            _walk(value, _place(held, str(name), place), parts, seen)
    elif isinstance(held, (list, tuple)):
        for one in held:
            _walk(one, place, parts, seen)
    elif type(held).__module__.startswith("tsscompat."):
        caches = set(getattr(held, "_caches", ()))
        for name, value in sorted(getattr(held, "__dict__", {}).items(), key=lambda item: item[0] in caches):
            below = "tables" if name in caches and place != "centroids" else _place(held, name, place)
            _walk(value, below, parts, seen)


def _place(owner: Any, name: str, place: str) -> str:
    if place in ("centroids", "graph", "transforms"):
        return place
    if name == "codes" and isinstance(owner, tsscompat.IndexFlat):
        return "vectors"
    return _PLACES.get(name, place)


def _lists(held: Any, parts: Counter[str], seen: set[int]) -> None:
    """Lists in one arena: live entries are codes and ids, the rest is room."""
    if not getattr(held, "_at_hand", True):
        return
    lists = held._ragged()
    live = int(lists.sizes.sum())
    before = sum(parts.values())
    for tensor in (lists.codes, lists.ids, lists.offsets, lists.sizes):
        _walk(tensor, "room", parts, seen)
    _walk({name: value for name, value in held.__dict__.items() if name.startswith("_")}, "room", parts, seen)
    if sum(parts.values()) > before:
        codes, ids = live * lists.codes.shape[1], 8 * live
        parts["codes"] += codes
        parts["ids"] += ids
        parts["room"] -= codes + ids


# -- what an index will hold ----------------------------------------------------------------------------------------------------------


def estimate_memory(
    key: str, d: int, n: int, metric: int = tsscompat.METRIC_L2, device: Any = None, searched: bool = True
) -> Memory:
    """What an index of a factory string will hold with n vectors, added in one go; `searched`: with the tables that searches keep."""
    expect(n >= 0, "n must not be negative, got {}", n)
    index, parts = tsscompat.index_factory(d, key, metric), Counter[str]()
    _weigh(index, n, "vectors", parts, searched)
    return _report(parts, n, d, device or tsscompat.default_device())


def _weigh(index: Any, n: int, place: str, parts: Counter[str], searched: bool) -> None:
    """Add up what an empty index will hold; `place` is where its vectors go."""
    what = kinds(index)
    if "IndexPreTransform" in what:
        for step in index.chain:
            # A PCA keeps all axes and what it was made of; others a matrix, or signs.
            full = step.d_in * step.d_in if "PCAMatrix" in kinds(step) else 0
            parts["transforms"] += 4 * (step.d_in * step.d_out + full if "LinearTransform" in kinds(step) else 3 * step.d_out)
        _weigh(index.index, n, place, parts, searched)
    elif "IndexIDMap" in what:
        parts["ids"] += 8 * n
        if "IndexIDMap2" in what:
            parts["ids"] += _dictionary(n)
        _weigh(index.index, n, place, parts, searched)
    elif "IndexRefine" in what:
        _weigh(index.base_index, n, place, parts, searched)
        _weigh(index.refine_index, n, place, parts, searched)
    elif "IndexHNSW" in what:
        chances, ends = list(index.hnsw.assign_probas), list(index.hnsw.cum_nneighbor_per_level)
        edges = sum(chance * ends[level + 1] for level, chance in enumerate(chances))
        parts["graph" if place == "vectors" else place] += int(n * (4 * edges + 8 + 4)) + 8
        _weigh(index.storage, n, place, parts, False)
        if searched and "IndexFlat" not in kinds(index.storage):
            parts["tables"] += 4 * n * index.d  # decoded for the walks
    elif "IndexIVF" in what:
        _weigh_lists(index, n, parts, searched)
    elif "IndexFlatCodes" in what:
        flat = "IndexFlat" in what
        parts[place if flat or place != "vectors" else "codes"] += n * index.code_size
        if searched and flat and index.metric_type == tsscompat.METRIC_L2:
            parts["tables"] += 4 * n  # squared norms
        _codebooks(index, parts, searched)
    else:
        check(False, "the memory of {} cannot be told beforehand", type(index).__name__)


def _weigh_lists(index: Any, n: int, parts: Counter[str], searched: bool) -> None:
    _weigh(index.quantizer, index.nlist, "centroids", parts, False)
    parts["codes"] += n * index.code_size
    parts["ids"] += 8 * n
    # Lists as long as each other; an eighth of each, and a sixteenth of all, is room (kernels/ivf_lists.py).
    mean = torch.full((index.nlist,), n // max(1, index.nlist))
    rows = max(n, layout(mean + (mean >> 3))[2]) if n else 0
    parts["room"] += (rows - n) * (index.code_size + 8) + 8 * 3 * index.nlist
    _codebooks(index, parts, searched)
    second = getattr(index, "refine_pq", None)
    if second is not None:
        parts["codes"] += n * second.code_size
    if searched and hasattr(index, "pq") and index.by_residual and index.metric_type == tsscompat.METRIC_L2:
        parts["tables"] += 4 * rows  # a sum for each row, in place of a table for each list


def _codebooks(index: Any, parts: Counter[str], searched: bool) -> None:
    for name in ("pq", "refine_pq"):
        pq = getattr(index, name, None)
        if pq is not None:
            parts["centroids"] += 4 * pq.M * pq.ksub * pq.dsub
            if searched and name == "pq":
                parts["tables"] += 4 * pq.M * pq.ksub * pq.dsub  # the same, transposed
            if name == "pq" and index.do_polysemous_training:
                parts["centroids"] += 4 * pq.M * pq.ksub * pq.ksub  # distances between centroids
    if hasattr(index, "sq"):
        parts["tables"] += 4 * 2 * index.d


def _dictionary(n: int) -> int:
    """Bytes of Python's dictionary from n ids to n numbers."""
    return sys.getsizeof(dict.fromkeys(range(min(n, 1 << 12)))) * max(1, n >> 12) + 2 * n * sys.getsizeof(1 << 40)
