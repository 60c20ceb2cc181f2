"""A hash table of pairs of int64 in memory of the caller's, laid out as FAISS's: the places of a bucket are tried in turn, -1 is free."""

from __future__ import annotations

from typing import Any

from tsscompat.errors import check
from tsscompat.faiss_compat.pointers import behind

_FACTOR, _PRIME = 1000003, 8955327411143


def _buckets(log2_capacity: int) -> int:
    """The base-2 logarithm of how many buckets a table has."""
    return 0 if log2_capacity < 12 else log2_capacity - 12 if log2_capacity < 20 else 10


def _places(log2_capacity: int, key: int) -> Any:
    """The places of a key's bucket, in the order in which they are tried."""
    product = key * _FACTOR & (1 << 64) - 1
    signed = product - (1 << 64) if product >> 63 else product
    # C++'s remainder has the sign of what is divided.
    rest = abs(signed) % _PRIME * (-1 if signed < 0 else 1)
    width = 1 << log2_capacity - _buckets(log2_capacity)
    start = rest & (1 << log2_capacity) - 1
    first = start // width * width
    return ((first + (start - first + step) % width) for step in range(width))


def hashtable_int64_to_int64_init(log2_capacity: int, tab: Any) -> None:
    """Empty a table of 2 << log2_capacity numbers."""
    behind(tab, 2 << log2_capacity).fill_(-1)


def hashtable_int64_to_int64_add(log2_capacity: int, tab: Any, n: int, keys: Any, vals: Any) -> None:
    """Map n keys to values."""
    table = behind(tab, 1 << log2_capacity, 2).numpy()
    for key, value in zip(behind(keys, n).tolist(), behind(vals, n).tolist()):
        place = next((p for p in _places(log2_capacity, key) if table[p, 0] in (-1, key)), None)
        check(place is not None, "hashtable capacity exhausted")
        table[place] = key, value


def hashtable_int64_to_int64_lookup(log2_capacity: int, tab: Any, n: int, keys: Any, vals: Any) -> None:
    """The values of n keys, -1 where there is none."""
    table, found = behind(tab, 1 << log2_capacity, 2).numpy(), behind(vals, n)
    for i, key in enumerate(behind(keys, n).tolist()):
        place = next((p for p in _places(log2_capacity, key) if table[p, 0] in (-1, key)), None)
        found[i] = -1 if place is None or table[place, 0] == -1 else int(table[place, 1])


__all__ = ["hashtable_int64_to_int64_add", "hashtable_int64_to_int64_init", "hashtable_int64_to_int64_lookup"]
