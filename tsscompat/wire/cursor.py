"""Reading and writing of little-endian bytes: sources and sinks, and a reader that never takes more memory than the bytes warrant.

A source knows how much it has left, or says None. What a file claims is checked against that before memory is taken; from a source of
unknown size, memory is taken piece by piece as the bytes arrive.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from tsscompat.errors import FormatError

# Bytes taken at a time from a source of unknown size.
PIECE = 1 << 24


class Source(Protocol):
    """Where bytes come from."""

    def left(self) -> int | None: ...

    def fill(self, target: memoryview) -> int: ...


class MemorySource:
    """Bytes in memory; if `shared`, what is read may go on using them."""

    def __init__(self, data: memoryview, shared: bool = False) -> None:
        self._data, self._at, self.shared = data, 0, shared and not data.readonly

    def view(self, n: int) -> memoryview:
        """The next n bytes as they lie in memory."""
        self._at += n
        return self._data[self._at - n : self._at]

    def left(self) -> int | None:
        return len(self._data) - self._at

    def fill(self, target: memoryview) -> int:
        n = min(len(target), len(self._data) - self._at)
        target[:n] = self._data[self._at : self._at + n]
        self._at += n
        return n


class FileSource:
    """An open binary file with so many bytes left from where it begins to be read."""

    def __init__(self, file: BinaryIO, size: int, begin: int = 0) -> None:
        self.file, self.begin, self._left = file, begin, size

    def skip(self, n: int) -> None:
        """Go on n bytes further."""
        self.file.seek(n, 1)
        self._left -= n

    def left(self) -> int | None:
        return self._left

    def fill(self, target: memoryview) -> int:
        done = 0
        while done < len(target):
            n = self.file.readinto(target[done:])  # type: ignore[attr-defined]
            if not n:
                break
            done += n
        self._left -= done
        return done


class CallbackSource:
    """A function that gives up to n bytes, such as a stream's read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def left(self) -> int | None:
        return None

    def fill(self, target: memoryview) -> int:
        done = 0
        while done < len(target):
            piece = self._read(len(target) - done)
            if not piece:
                break
            target[done : done + len(piece)] = piece
            done += len(piece)
        return done


@dataclass
class Limits:
    """What a file may ask for besides what its size warrants; 0 is no limit."""

    count: int = 0
    vector_bytes: int = 1 << 40
    lattice_r2: int = 0


LIMITS = Limits()


def bytes_of(tensor: Tensor) -> memoryview:
    """A contiguous CPU tensor's memory."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else memoryview(b"")


class Reader:
    """A cursor over a source that knows where it is and what it is reading."""

    def __init__(self, source: Source, name: str = "the file", max_depth: int = 64) -> None:
        self.source, self.name, self.at, self.max_depth = source, name, 0, max_depth
        self._memory = source if isinstance(source, MemorySource) else None
        self.flags = 0  # the caller's wishes, which codecs look at
        self.trail: list[str] = []
        self.lent: Tensor | None = None  # the last array that was left in the source's memory

    def enter(self, name: str) -> list[str]:
        """From here on errors say that `name` was being read, until it is popped from the trail that this gives."""
        if len(self.trail) >= 3 * self.max_depth:
            raise self.error("nested too deeply")
        self.trail.append(name)
        return self.trail

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Errors within say that `name` was being read."""
        self.enter(name)
        yield
        self.trail.pop()

    def error(self, message: str) -> FormatError:
        """A FormatError that says where."""
        return FormatError(f"{message}, at byte {self.at} in {' > '.join([self.name, *self.trail])}")

    def check(self, condition: object, message: str, *args: object) -> None:
        """Raise a FormatError unless the condition holds."""
        if not condition:
            raise self.error(message.format(*args))

    def check_count(self, n: int, what: str) -> None:
        """Raise if a number of parts is beyond the limit that the user set."""
        if LIMITS.count and n > LIMITS.count:
            raise self.error(f"{n} {what} are beyond the limit of {LIMITS.count}")

    def need(self, n: int) -> None:
        """Raise unless n more bytes can be there."""
        left = self.source.left()
        if n < 0 or (left is not None and n > left):
            raise self.error(f"wants {n} bytes, {left} left")

    def unpack(self, layout: struct.Struct) -> Any:
        """One value of a struct layout."""
        self.need(layout.size)
        if self._memory is not None:
            self.at += layout.size
            return layout.unpack(self._memory.view(layout.size))[0]
        buffer = bytearray(layout.size)
        if self.source.fill(memoryview(buffer)) != layout.size:
            raise self.error(f"wants {layout.size} bytes, the end came before")
        self.at += layout.size
        return layout.unpack(buffer)[0]

    def array(self, count: int, dtype: torch.dtype, share: bool = False) -> Tensor:
        """`count` items, read straight into a tensor's memory; or, if they may `share` it, left in the source's."""
        size = dtype.itemsize
        limit = LIMITS.vector_bytes
        if limit and count * size >= limit:
            raise self.error(f"a vector of {count * size} bytes is beyond the limit of {limit}")
        self.need(count * size)
        if share and count and isinstance(self.source, MemorySource) and self.source.shared:
            self.at += count * size
            self.lent = torch.frombuffer(self.source.view(count * size), dtype=dtype)
            return self.lent
        if self.source.left() is None and count * size > PIECE:
            return self._pieces(count * size).view(dtype)
        out = torch.empty(count, dtype=dtype)
        self.into(out)
        return out

    def into(self, out: Tensor) -> None:
        """Fill a contiguous tensor."""
        target = bytes_of(out)
        if len(target) and self.source.fill(target) != len(target):
            raise self.error(f"wants {len(target)} bytes, the end came before")
        self.at += len(target)

    def _pieces(self, n: int) -> Tensor:
        parts, done = [], 0
        while done < n:
            part = torch.empty(min(PIECE, n - done), dtype=torch.uint8)
            if self.source.fill(bytes_of(part)) != part.shape[0]:
                raise self.error(f"wants {n} bytes, the end came before")
            parts.append(part)
            done += part.shape[0]
        self.at += n
        return torch.cat(parts)


class Writer:
    """A cursor over a sink: a function that takes memory."""

    def __init__(self, sink: Callable[[memoryview], object], flags: int = 0) -> None:
        self._sink, self.flags = sink, flags
        self._small = bytearray()

    def pack(self, layout: struct.Struct, value: Any) -> None:
        """One value of a struct layout."""
        self._small += layout.pack(value)
        if len(self._small) > 1 << 16:
            self.flush()

    def array(self, tensor: Tensor) -> None:
        """A tensor's items."""
        self.flush()
        if tensor.numel():
            self._sink(bytes_of(tensor.detach().cpu().contiguous()))

    def flush(self) -> None:
        """Hand what is held back to the sink."""
        if self._small:
            self._sink(memoryview(bytes(self._small)))
            self._small.clear()
