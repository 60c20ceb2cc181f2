"""Reading and writing of FAISS's files: functions, readers and writers in FAISS's names.

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

from tsscompat.arrays import from_numpy
from tsscompat.devices import CPU, Placement, default_device, place
from tsscompat.errors import FaissError, FormatError, check
from tsscompat.faiss_compat import sections
from tsscompat.faiss_compat.attributes import Stated, anything, size_t, text, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.vectors import UInt8Vector
from tsscompat.wire.cursor import LIMITS, CallbackSource, FileSource, MemorySource, Reader, Source, Writer, bytes_of
from tsscompat.wire.tables import read_table, write_table

IO_FLAG_SKIP_STORAGE = 1
IO_FLAG_READ_ONLY = 2
IO_FLAG_ONDISK_SAME_DIR = 4
IO_FLAG_SKIP_IVF_DATA = 8
IO_FLAG_SKIP_PRECOMPUTE_TABLE = 16
IO_FLAG_PQ_SKIP_SDC_TABLE = 32
IO_FLAG_MMAP = IO_FLAG_SKIP_IVF_DATA | 0x646F0000
IO_FLAG_MMAP_IFC = 1 << 9


class IOReader(Stated):
    """Where an index is read from."""

    name = text("")

    def _source(self) -> Source:
        return CallbackSource(self._read)

    def _read(self, n: int) -> bytes:
        raise FaissError(f"{type(self).__name__} does not read")


class IOWriter(Stated):
    """Where an index is written to."""

    name = text("")

    def _write(self, data: memoryview) -> None:
        raise FaissError(f"{type(self).__name__} does not write")


class VectorIOReader(IOReader):
    """Reads from a vector of bytes."""

    data = vector(UInt8Vector)
    rp = size_t(0, "where reading goes on")

    def _read(self, n: int) -> bytes:
        piece = bytes(bytes_of(self.data.tensor[self.rp : self.rp + n]))
        self.rp += len(piece)
        return piece


class VectorIOWriter(IOWriter):
    """Writes into a vector of bytes."""

    data = vector(UInt8Vector)

    def _write(self, data: memoryview) -> None:
        self.data.append(from_numpy(np.frombuffer(data, dtype=np.uint8)))


class FileIOReader(IOReader):
    """Reads from a file, or from an open one."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = _open(file, "rb")
        self.name = str(file)

    def _read(self, n: int) -> bytes:
        return bytes(self._file.read(n))


class FileIOWriter(IOWriter):
    """Writes to a file, or to an open one."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = _open(file, "wb")
        self.name = str(file)

    def _write(self, data: memoryview) -> None:
        self._file.write(data)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __del__(self) -> None:
        file = self.__dict__.get("_file")
        if file is not None:
            file.close()


class BufferedIOReader(IOReader):
    """Reads through another reader, some bytes at a time."""

    reader = anything(None)
    bsz = size_t(1 << 20)

    def __init__(self, reader: IOReader, bsz: int = 1 << 20) -> None:
        super().__init__()
        self.reader, self.bsz = reader, bsz
        self._held = b""

    def _read(self, n: int) -> bytes:
        if not self._held:
            self._held = self.reader._read(max(n, self.bsz))
        piece, self._held = self._held[:n], self._held[n:]
        return piece


class BufferedIOWriter(IOWriter):
    """Writes through another writer, some bytes at a time."""

    writer = anything(None)
    bsz = size_t(1 << 20)

    def __init__(self, writer: IOWriter, bsz: int = 1 << 20) -> None:
        super().__init__()
        self.writer, self.bsz = writer, bsz
        self._held = bytearray()

    def _write(self, data: memoryview) -> None:
        self._held += data
        if len(self._held) >= self.bsz:
            self.flush()

    def flush(self) -> None:
        """Hand what is held back to the other writer."""
        if self._held:
            self.writer._write(memoryview(bytes(self._held)))
            self._held.clear()

    def __del__(self) -> None:
        if self.__dict__.get("_held"):
            self.flush()


class PyCallbackIOReader(IOReader):
    """Reads by calling a function with a number of bytes."""

    def __init__(self, callback: Callable[[int], bytes], bs: int = 1 << 20) -> None:
        super().__init__()
        self._callback, self._bs = callback, bs

    def _read(self, n: int) -> bytes:
        piece = self._callback(min(n, self._bs))
        check(len(piece) <= n, "the callback gave {} bytes, {} were asked for", len(piece), n)
        return piece


class PyCallbackIOWriter(IOWriter):
    """Writes by calling a function with bytes."""

    def __init__(self, callback: Callable[[bytes], Any], bs: int = 1 << 20) -> None:
        super().__init__()
        self._callback, self._bs = callback, max(1, bs)

    def _write(self, data: memoryview) -> None:
        for start in range(0, len(data), self._bs):
            self._callback(bytes(data[start : start + self._bs]))


def _open(file: Any, mode: str) -> Any:
    if not isinstance(file, (str, os.PathLike)):
        check(
            hasattr(file, "read") or hasattr(file, "write"), "expected a file name or a file object, got {}", type(file).__name__
        )
        return file
    try:
        return open(file, mode, buffering=0 if mode == "rb" else -1)
    except OSError as e:
        action = "reading" if mode == "rb" else "writing"
        raise FaissError(f"could not open {os.fspath(file)} for {action}: {e.strerror}") from None


# ---- what all reading and writing goes through ---------------------------------------------------------------------------------------


def _read_from(source: Any, work: Callable[[Reader], Any], io_flags: int = 0, device: Any = None) -> Any:
    """Run `work` on a reader over whatever was given, and put what it read on a device."""
    # Mapping and reading only are permissions: lists are read into memory, and can be written to.
    io_flags &= ~(IO_FLAG_MMAP if io_flags & IO_FLAG_MMAP == IO_FLAG_MMAP else 0)
    known = (
        IO_FLAG_SKIP_PRECOMPUTE_TABLE | IO_FLAG_READ_ONLY | IO_FLAG_PQ_SKIP_SDC_TABLE | IO_FLAG_MMAP_IFC | IO_FLAG_ONDISK_SAME_DIR
    )
    check(io_flags & ~known == 0, "reading with io_flags {:#x} is not supported", io_flags)
    opened = None
    if isinstance(source, IOReader):
        reader = Reader(source._source(), source.name or type(source).__name__)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        reader = Reader(MemorySource(memoryview(source).cast("B")), "the bytes given")
    elif isinstance(source, (str, os.PathLike)):
        opened = _open(source, "rb")
        reader = Reader(FileSource(opened, os.fstat(opened.fileno()).st_size), os.fspath(source))
    else:
        reader = Reader(CallbackSource(_open(source, "rb").read))
    reader.skip_precompute = bool(io_flags & IO_FLAG_SKIP_PRECOMPUTE_TABLE)  # type: ignore[attr-defined]
    where = Placement(default_device()) if device is None else place(device)
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


def write_index(index: Index | None, fname: Any, io_flags: int = 0) -> None:
    """Write an index to a file name, a file object or an IOWriter."""
    check(index is None or isinstance(index, Index), "expected an index, got {}", type(index).__name__)

    def work(writer: Writer) -> None:
        writer.skip_storage = bool(io_flags & IO_FLAG_SKIP_STORAGE)  # type: ignore[attr-defined]
        sections.index.write(writer, index)

    _write_to(fname, work)


def read_index(fname: Any, io_flags: int = 0, device: Any = None) -> Any:
    """Read an index; `device`: where it shall live."""
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
    check(
        array.dtype == np.uint8 and array.ndim == 1, "expected a 1-D array of bytes, got {} of shape {}", array.dtype, array.shape
    )
    return np.ascontiguousarray(array).data


def write_VectorTransform(vt: Any, fname: Any) -> None:
    """Write a transform."""
    _write_to(fname, lambda writer: sections.transform.write(writer, vt))


def read_VectorTransform(fname: Any) -> Any:
    """Read a transform."""
    return _read_from(fname, sections.transform.read)


def write_ProductQuantizer(pq: ProductQuantizer, fname: Any) -> None:
    """Write a product quantizer."""
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


def write_InvertedLists(ils: Any, fname: Any) -> None:
    """Write inverted lists."""
    _write_to(fname, lambda writer: sections.InvertedListsCodec().write(writer, ils, None))


def read_InvertedLists(fname: Any, io_flags: int = 0) -> Any:
    """Read inverted lists."""
    return _read_from(fname, lambda reader: sections.InvertedListsCodec().read(reader, None), io_flags)


def clone_index(index: Any) -> Any:
    """An independent copy of an index."""
    return copy.deepcopy(index)


clone_Quantizer = clone_InvertedLists = clone_VectorTransform = clone_index


class Cloner:
    """Copies indexes."""

    def clone_Index(self, index: Any) -> Any:
        return clone_index(index)

    def clone_VectorTransform(self, vt: Any) -> Any:
        return clone_index(vt)


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


__all__ = [
    "IO_FLAG_MMAP",
    "IO_FLAG_MMAP_IFC",
    "IO_FLAG_ONDISK_SAME_DIR",
    "IO_FLAG_PQ_SKIP_SDC_TABLE",
    "IO_FLAG_READ_ONLY",
    "IO_FLAG_SKIP_IVF_DATA",
    "IO_FLAG_SKIP_PRECOMPUTE_TABLE",
    "IO_FLAG_SKIP_STORAGE",
    "BufferedIOReader",
    "BufferedIOWriter",
    "Cloner",
    "FileIOReader",
    "FileIOWriter",
    "IOReader",
    "IOWriter",
    "PyCallbackIOReader",
    "PyCallbackIOWriter",
    "VectorIOReader",
    "VectorIOWriter",
    "clone_InvertedLists",
    "clone_Quantizer",
    "clone_VectorTransform",
    "clone_index",
    "deserialize_index",
    "get_deserialization_loop_limit",
    "get_deserialization_vector_byte_limit",
    "read_InvertedLists",
    "read_ProductQuantizer",
    "read_VectorTransform",
    "read_index",
    "serialize_index",
    "set_deserialization_loop_limit",
    "set_deserialization_vector_byte_limit",
    "write_InvertedLists",
    "write_ProductQuantizer",
    "write_VectorTransform",
    "write_index",
]
