"""Where indexes are read from and written to: FAISS's readers, writers and flags."""

from __future__ import annotations

import io as python_io
import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tsscompat.arrays import from_numpy
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import Stated, anything, size_t, text, vector
from tsscompat.faiss_compat.vector_arrays import swig_ptr
from tsscompat.faiss_compat.vectors import UInt8Vector
from tsscompat.wire.cursor import CallbackSource, FileSource, MemorySource, Reader, Source, bytes_of

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

    def __call__(self, ptr: Any, size: int, nitems: int) -> int:
        """Read up to nitems of so many bytes each behind a pointer; gives how many whole ones came."""
        target = bytes_of(swig_ptr(ptr).tensor)[: size * nitems]
        return self._source().fill(target) // size if size else 0

    def read_bytes(self, totsz: int) -> bytes:
        """The next bytes, as many as are left."""
        target = bytearray(totsz)
        return bytes(target[: self._source().fill(memoryview(target))])

    def filedescriptor(self) -> int:
        """The number of the open file."""
        return _descriptor(self)


class IOWriter(Stated):
    """Where an index is written to."""

    name = text("")

    def _write(self, data: memoryview) -> None:
        raise FaissError(f"{type(self).__name__} does not write")

    def __call__(self, ptr: Any, size: int, nitems: int) -> int:
        """Write nitems of so many bytes each from behind a pointer; gives how many."""
        self._write(bytes_of(swig_ptr(ptr).tensor)[: size * nitems])
        return nitems

    def write_bytes(self, b: bytes) -> int:
        """Write bytes; gives how many."""
        self._write(memoryview(b))
        return len(b)

    def filedescriptor(self) -> int:
        """The number of the open file."""
        return _descriptor(self)


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

    def _source(self) -> Source:
        if not isinstance(self._file, python_io.FileIO) or not self._file.seekable():
            return super()._source()
        begin = self._file.tell()
        return FileSource(self._file, os.fstat(self._file.fileno()).st_size - begin, begin)

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


def _descriptor(stream: Any) -> int:
    file = stream.__dict__.get("_file")
    check(file is not None, "{} has no file", type(stream).__name__)
    return int(file.fileno())


def _open(file: Any, mode: str) -> Any:
    if not isinstance(file, (str, os.PathLike)):
        if not hasattr(file, "read") and not hasattr(file, "write"):
            raise TypeError(f"expected a file name or a file object, got {type(file).__name__}")
        return file
    try:
        return open(file, mode, buffering=0 if mode == "rb" else -1)
    except OSError as e:
        action = "reading" if mode == "rb" else "writing"
        raise FaissError(f"could not open {os.fspath(file)} for {action}: {e.strerror}") from None


class ZeroCopyIOReader(IOReader):
    """Reads from memory, which what is read goes on using."""

    def __init__(self, data: Any, size: int) -> None:
        super().__init__()
        self._data = swig_ptr(data).take(size).view(torch.uint8)

    def _source(self) -> Source:
        return MemorySource(bytes_of(self._data), shared=True)

    def get_data_view(self, size: int, nitems: int) -> Any:
        """The first nitems of so many bytes each, as they lie in memory."""
        return self._data[: size * nitems]

    def reset(self) -> None:
        """Nothing to do: every reading begins at the beginning."""


class MappedFileIOReader(ZeroCopyIOReader):
    """Reads from a file that is mapped into memory, which what is read goes on using."""

    def __init__(self, file: Any) -> None:
        with _open(file, "rb") as opened:
            pages = mapped(opened)
        super().__init__(torch.frombuffer(pages, dtype=torch.uint8) if pages else torch.empty(0, dtype=torch.uint8), len(pages))
        self.name = str(file)


def mapped(file: Any) -> Any:
    """An open file's content, read as it is used; what is written to it stays in memory."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if os.fstat(file.fileno()).st_size else b""


def reader_of(source: Any, io_flags: int) -> tuple[Reader, Any]:
    """A reader over whatever was given, and the file that was opened for it, if any."""
    opened = None
    if isinstance(source, IOReader):
        reader = Reader(source._source(), source.name or type(source).__name__)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        reader = Reader(MemorySource(memoryview(source).cast("B")), "the bytes given")
    elif isinstance(source, (str, os.PathLike)):
        opened, name = _open(source, "rb"), os.fspath(source)
        if io_flags & IO_FLAG_MMAP_IFC and os.path.isfile(name):
            reader = Reader(MemorySource(memoryview(mapped(opened)), shared=True), name)
        else:
            reader = Reader(FileSource(opened, os.fstat(opened.fileno()).st_size), name)
    else:
        reader = Reader(CallbackSource(_open(source, "rb").read))
    reader.flags = io_flags
    return reader, opened


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
    "FileIOReader",
    "FileIOWriter",
    "IOReader",
    "IOWriter",
    "MappedFileIOReader",
    "PyCallbackIOReader",
    "PyCallbackIOWriter",
    "VectorIOReader",
    "VectorIOWriter",
    "ZeroCopyIOReader",
]
