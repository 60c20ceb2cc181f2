"""downcast_*: in FAISS these find the class of a C++ object; here every object already has its own, so they only check its kind."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.invlists import InvertedLists
from tsscompat.faiss_compat.quantizers import Quantizer
from tsscompat.faiss_compat.transforms import VectorTransform


def kinds(thing: Any) -> frozenset[str]:
    """The names of a thing's classes, for questions about classes that need not exist."""
    return frozenset(base.__name__ for base in type(thing).__mro__)


def _checked(given: Any, kind: type) -> Any:
    if given is not None and not isinstance(given, kind):
        raise TypeError(f"expected a {kind.__name__}, got {type(given).__name__}")
    return given


def downcast_index(index: Any) -> Any:
    """An index as what it is; None stays None."""
    return _checked(index, Index)


def downcast_VectorTransform(vt: Any) -> Any:
    """A transform as what it is."""
    return _checked(vt, VectorTransform)


def downcast_Quantizer(aq: Any) -> Any:
    """A quantizer as what it is."""
    return _checked(aq, Quantizer)


def downcast_AdditiveQuantizer(aq: Any) -> Any:
    """An additive quantizer as what it is."""
    return _checked(aq, AdditiveQuantizer)


def downcast_InvertedLists(il: Any) -> Any:
    """Inverted lists as what they are."""
    return _checked(il, InvertedLists)


__all__ = [
    "downcast_AdditiveQuantizer",
    "downcast_InvertedLists",
    "downcast_Quantizer",
    "downcast_VectorTransform",
    "downcast_index",
]
