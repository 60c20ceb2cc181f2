"""index_binary_factory: strings to binary indexes, as rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tsscompat.errors import FactoryError
from tsscompat.faiss_compat.binary import IndexBinary, IndexBinaryFlat
from tsscompat.faiss_compat.binary_graph import IndexBinaryHNSW
from tsscompat.faiss_compat.binary_hash import IndexBinaryHash, IndexBinaryMultiHash
from tsscompat.faiss_compat.binary_ivf import IndexBinaryIVF
from tsscompat.faiss_compat.binary_meta import IndexBinaryIDMap, IndexBinaryIDMap2


def _lists(quantizer: IndexBinary, nlist: int, own_invlists: bool) -> IndexBinaryIVF:
    index = IndexBinaryIVF(quantizer, quantizer.d, nlist, own_invlists)
    index.own_fields = True
    return index


# The first row whose pattern a string begins with; as in FAISS, what follows the numbers does not matter.
_ROWS: tuple[tuple[str, Callable[..., Any]], ...] = (
    (r"BIVF(\d+)_HNSW(\d+)", lambda d, own, nlist, m: _lists(IndexBinaryHNSW(d, m), nlist, own)),
    (r"BIVF(\d+)", lambda d, own, nlist: _lists(IndexBinaryFlat(d), nlist, own)),
    (r"BHNSW(\d+)", lambda d, own, m: IndexBinaryHNSW(d, m)),
    (r"BHash(\d+)x(\d+)", lambda d, own, nhash, b: IndexBinaryMultiHash(d, nhash, b)),
    (r"BHash(\d+)", lambda d, own, b: IndexBinaryHash(d, b)),
    (r"BFlat$", lambda d, own: IndexBinaryFlat(d)),
)
_WRAPPERS = (("IDMap2", IndexBinaryIDMap2), ("IDMap", IndexBinaryIDMap))


def index_binary_factory(d: int, description: str, own_invlists: bool = True) -> Any:
    """The binary index of d bits that a string describes."""
    for name, wrapper in _WRAPPERS:
        inner = re.fullmatch(rf"(.+),{name}|{name},(.+)", description)
        if inner:
            wrapped = wrapper(index_binary_factory(d, inner[1] or inner[2], own_invlists))
            wrapped.own_fields = True
            return wrapped
    for pattern, make in _ROWS:
        match = re.match(pattern, description)
        if match:
            return make(d, own_invlists, *map(int, match.groups()))
    raise FactoryError(f"description {description} did not generate an index: expected one of BFlat, BIVFn, BHNSWn, BHashn")


__all__ = ["index_binary_factory"]
