"""Reading and writing of FAISS's files: functions in FAISS's names.

A file name, a Python file object, an IOReader or IOWriter are taken alike. A write to a file name goes to a temporary file beside it, is
synced and renamed, so that a killed process leaves the old file or the new one.
"""

from __future__ import annotations

import copy
import io as python_io
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tsscompat.devices import CPU, Placement, default_device, place
from tsscompat.errors import FaissError, FormatError, check, expect, of_kind
from tsscompat.faiss_compat import sections, side_car
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.invlists import InvertedLists
from tsscompat.faiss_compat.io_streams import IO_FLAG_MMAP_IFC, BufferedIOWriter, IOWriter, _open, reader_of
from tsscompat.faiss_compat.quantizers import ProductQuantizer, Quantizer
from tsscompat.faiss_compat.transforms import VectorTransform
from tsscompat.wire.cursor import LIMITS, Reader, Writer
from tsscompat.wire.tables import read_table, write_table

# ---- what all reading and writing goes through ---------------------------------------------------------------------------------------


def _read_from(source: Any, work: Callable[[Reader], Any], io_flags: int = 0, device: Any = None) -> Any:
    """Run `work` on a reader over whatever was given, and put what it read on a device."""
    where = Placement(default_device()) if device is None else place(device)
    if where.device.type == "cuda":
        io_flags |= IO_FLAG_MMAP_IFC  # what goes to a GPU is read from the disk while it goes there
    reader, opened = reader_of(source, io_flags)
    try:
        made = work(reader)
    except (FormatError, FaissError):
        raise
    except (ValueError, TypeError, OverflowError, RuntimeError, IndexError, MemoryError) as e:
        raise reader.error(f"{type(e).__name__}: {e}") from e
    finally:
        if opened is not None:
            opened.close()
    if made is not None and (where.device != CPU or where.gpu >= 0):
        made._move(where)
    return made


def _write_to(target: Any, work: Callable[[Writer], None]) -> None:
    """Run `work` on a writer into whatever was given."""
    if isinstance(target, IOWriter):
        _finish(Writer(target._write), work)
        if isinstance(target, BufferedIOWriter):
            target.flush()
    elif isinstance(target, (str, os.PathLike)):
        _replace(os.fspath(target), work)
    else:
        _finish(Writer(_open(target, "wb").write), work)


def _finish(writer: Writer, work: Callable[[Writer], None]) -> None:
    try:
        work(writer)
    except TypeError as e:
        raise FaissError(str(e)) from e
    writer.flush()


def _replace(path: str, work: Callable[[Writer], None]) -> None:
    """Write a file under a temporary name and give it its own once it is on the disk."""
    if os.path.exists(path) and not os.path.isfile(path):  # a device, a pipe
        with _open(path, "wb") as file:
            _finish(Writer(file.write), work)
        return
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    except OSError as e:
        raise FaissError(f"could not open {path} for writing: {e.strerror}") from None
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            _finish(Writer(lambda data: _write_all(file, data)), work)
            os.fsync(file.fileno())
        # mkstemp's files are the owner's alone; a plain file has what the process's mask leaves.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException as e:
        os.unlink(temporary)
        if isinstance(e, OSError):
            raise FaissError(f"could not write {path}: {e.strerror}") from e
        raise


def _write_all(file: Any, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += file.write(data[done:])


# ---- FAISS's functions ---------------------------------------------------------------------------------------------------------------


def write_index(index: Index | None, fname: Any, io_flags: int = 0, checksum: bool | None = None) -> None:
    """Write an index to a file name, a file object or an IOWriter.

    `checksum`: beside a file `name`, also write `name.sha256`, as sha256sum does; None: if there is one already.
    """
    of_kind(index, Index, type(None))

    def work(writer: Writer) -> None:
        writer.flags = io_flags
        sections.index.write(writer, index)

    _write_to(fname, work)
    if isinstance(fname, (str, os.PathLike)):
        side_car.refresh(os.fspath(fname), checksum)
    else:
        check(not checksum, "a checksum is written beside a file only")


def read_index(fname: Any, io_flags: int = 0, device: Any = None, checksum: bool | None = None) -> Any:
    """Read an index; `device`: where it shall live.

    `checksum`: whether a file must match its `name.sha256`; None: if there is one.
    """
    if isinstance(fname, (str, os.PathLike)):
        side_car.verify(os.fspath(fname), checksum)
    else:
        check(not checksum, "a checksum stands beside a file only")
    return _read_from(fname, sections.index.read, io_flags, device)


def serialize_index(index: Index, io_flags: int = 0) -> np.ndarray[Any, Any]:
    """The bytes of an index, as an array."""
    buffer = python_io.BytesIO()
    write_index(index, buffer, io_flags)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def deserialize_index(data: Any, io_flags: int = 0, device: Any = None) -> Any:
    """An index from its bytes."""
    return _read_from(_octets(data), sections.index.read, io_flags, device)


def _octets(data: Any) -> memoryview:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return memoryview(data)
    array = data.cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
    expect(
        array.dtype == np.uint8 and array.ndim == 1, "expected a 1-D array of bytes, got {} of shape {}", array.dtype, array.shape
    )
    return np.ascontiguousarray(array).data


def write_VectorTransform(vt: Any, fname: Any) -> None:
    """Write a transform."""
    of_kind(vt, VectorTransform)
    _write_to(fname, lambda writer: sections.transform.write(writer, vt))


def read_VectorTransform(fname: Any) -> Any:
    """Read a transform."""
    return _read_from(fname, sections.transform.read)


def write_ProductQuantizer(pq: ProductQuantizer, fname: Any) -> None:
    """Write a product quantizer."""
    of_kind(pq, ProductQuantizer)
    _write_to(fname, lambda writer: write_table(writer, sections.PQ, pq))


def read_ProductQuantizer(fname: Any) -> ProductQuantizer:
    """Read a product quantizer."""

    def work(reader: Reader) -> ProductQuantizer:
        pq = ProductQuantizer()
        read_table(reader, sections.PQ, pq)
        sections.finish_pq(pq, reader)
        return pq

    made: ProductQuantizer = _read_from(fname, work)
    return made


def write_InvertedLists(ils: Any, f: Any) -> None:
    """Write inverted lists."""
    of_kind(ils, InvertedLists)
    _write_to(f, lambda writer: sections.InvertedListsCodec().write(writer, ils, None))


def read_InvertedLists(reader: Any, io_flags: int = 0) -> Any:
    """Read inverted lists, from a reader or a file's name."""
    return _read_from(reader, lambda source: sections.InvertedListsCodec().read(source, None), io_flags)


def clone_index(index: Any) -> Any:
    """An independent copy of an index."""
    return copy.deepcopy(of_kind(index, Index))


def clone_Quantizer(quant: Any) -> Any:
    """An independent copy of a quantizer."""
    return copy.deepcopy(of_kind(quant, Quantizer))


def clone_InvertedLists(il: Any) -> Any:
    """An independent copy of inverted lists."""
    return copy.deepcopy(of_kind(il, InvertedLists))


def clone_VectorTransform(vt: Any) -> Any:
    """An independent copy of a transform."""
    return copy.deepcopy(of_kind(vt, VectorTransform))


class Cloner:
    """Copies indexes."""

    def clone_Index(self, index: Any) -> Any:
        return clone_index(index)

    def clone_VectorTransform(self, vt: Any) -> Any:
        return clone_VectorTransform(vt)


def get_deserialization_loop_limit() -> int:
    """The largest number of lists or transforms that a file may ask for; 0: any."""
    return LIMITS.count


def set_deserialization_loop_limit(value: int) -> None:
    LIMITS.count = int(value)


def get_deserialization_vector_byte_limit() -> int:
    """The size that a vector in a file must stay below; 0: what the file has."""
    return LIMITS.vector_bytes


def set_deserialization_vector_byte_limit(value: int) -> None:
    LIMITS.vector_bytes = int(value)


def get_deserialization_lattice_r2_limit() -> int:
    """The largest squared radius of a lattice that a file may ask for; 0: what a lattice can have."""
    return LIMITS.lattice_r2


def set_deserialization_lattice_r2_limit(value: int) -> None:
    LIMITS.lattice_r2 = int(value)


__all__ = [
    "Cloner",
    "clone_InvertedLists",
    "clone_Quantizer",
    "clone_VectorTransform",
    "clone_index",
    "deserialize_index",
    "get_deserialization_lattice_r2_limit",
    "get_deserialization_loop_limit",
    "get_deserialization_vector_byte_limit",
    "read_InvertedLists",
    "read_ProductQuantizer",
    "read_VectorTransform",
    "read_index",
    "serialize_index",
    "set_deserialization_lattice_r2_limit",
    "set_deserialization_loop_limit",
    "set_deserialization_vector_byte_limit",
    "write_InvertedLists",
    "write_ProductQuantizer",
    "write_VectorTransform",
    "write_index",
]
