"""Codecs: how one field of a section is read and written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from tsscompat.wire.cursor import Reader, Writer


class Codec(Protocol):
    """Reads a value, writes a value; `obj` is what the field belongs to."""

    def read(self, reader: Reader, obj: Any) -> Any: ...

    def write(self, writer: Writer, value: Any, obj: Any) -> None: ...


class Scalar:
    """A fixed-size value."""

    def __init__(self, layout: str, convert: Callable[[Any], Any] = lambda v: v) -> None:
        self.layout, self.convert = struct.Struct("<" + layout), convert

    def read(self, reader: Reader, obj: Any) -> Any:
        return self.convert(reader.unpack(self.layout))

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        writer.pack(self.layout, value)


i32, u32, i64, u64, f32, f64, u8 = (Scalar(layout) for layout in ("i", "I", "q", "Q", "f", "d", "B"))
flag = Scalar("B", bool)


class Items:
    """A vector: a u64 count, then items. `unit` items of the file make one of the count (4 bytes for FAISS's IxF*).

    Codes and edges, which FAISS can leave in a mapped file too, are read where they lie if the source allows it.
    """

    def __init__(self, dtype: torch.dtype, unit: int = 1) -> None:
        self.dtype, self.unit = dtype, unit
        self.share = dtype in (torch.uint8, torch.int32)

    def read(self, reader: Reader, obj: Any) -> Tensor:
        count = u64.read(reader, obj)
        reader.check(count < 1 << 60, "a count of {}", count)
        return reader.array(count * self.unit, self.dtype, self.share)

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        tensor = value.tensor if hasattr(value, "tensor") else value
        u64.write(writer, tensor.shape[0] // self.unit, obj)
        writer.array(tensor)


floats, doubles, octets = Items(torch.float32), Items(torch.float64), Items(torch.uint8)
int32s, int64s, uint64s = Items(torch.int32), Items(torch.int64), Items(torch.uint64)
octets_by_4 = Items(torch.uint8, 4)


def fourcc(reader: Reader, obj: Any = None) -> str:
    """A four-letter tag."""
    return struct.pack("<I", u32.read(reader, obj)).decode("latin-1")


def write_fourcc(writer: Writer, tag: str) -> None:
    """Write a four-letter tag."""
    u32.write(writer, struct.unpack("<I", tag.encode("latin-1"))[0], None)
