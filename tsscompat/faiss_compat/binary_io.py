"""Reading, writing, copying and naming of binary indexes."""

from __future__ import annotations

import copy
import io as python_io
from typing import Any

import numpy as np

from tsscompat.errors import of_kind
from tsscompat.faiss_compat import sections
from tsscompat.faiss_compat.binary import IndexBinary
from tsscompat.faiss_compat.io import _octets, _read_from, _write_to


def write_index_binary(index: IndexBinary | None, fname: Any) -> None:
    """Write a binary index to a file name, a file object or an IOWriter."""
    of_kind(index, IndexBinary)
    _write_to(fname, lambda writer: sections.binary.write(writer, index))


def read_index_binary(fname: Any, io_flags: int = 0, device: Any = None) -> Any:
    """Read a binary index; `device`: where it shall live."""
    return _read_from(fname, sections.binary.read, io_flags, device)


def serialize_index_binary(index: IndexBinary) -> np.ndarray[Any, Any]:
    """The bytes of a binary index, as an array."""
    buffer = python_io.BytesIO()
    write_index_binary(index, buffer)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def deserialize_index_binary(data: Any, device: Any = None) -> Any:
    """A binary index from its bytes."""
    return _read_from(_octets(data), sections.binary.read, 0, device)


def clone_binary_index(index: IndexBinary) -> Any:
    """An independent copy of a binary index."""
    return copy.deepcopy(of_kind(index, IndexBinary))


def downcast_IndexBinary(index: Any) -> Any:
    """A binary index as what it is; None stays None."""
    if index is not None and not isinstance(index, IndexBinary):
        raise TypeError(f"expected an IndexBinary, got {type(index).__name__}")
    return index


__all__ = [
    "clone_binary_index",
    "deserialize_index_binary",
    "downcast_IndexBinary",
    "read_index_binary",
    "serialize_index_binary",
    "write_index_binary",
]
