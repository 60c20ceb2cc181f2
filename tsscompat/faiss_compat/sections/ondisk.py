"""Inverted lists that stay in a file: a section that names it, and lists of the file being read."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat.io_streams import IO_FLAG_ONDISK_SAME_DIR, IO_FLAG_READ_ONLY, IO_FLAG_SKIP_IVF_DATA
from tsscompat.faiss_compat.sections.common import class_of
from tsscompat.wire.codecs import octets, u64
from tsscompat.wire.cursor import FileSource, Reader, Writer


def _records(reader: Reader, width: int) -> Tensor:
    count = u64.read(reader, None)
    reader.check(count < 1 << 40, "{} records", count)
    return reader.array(count * width, torch.int64).view(count, width)


def _check_lists(reader: Reader, table: Tensor, entry: int, total: int) -> None:
    size, capacity, begin = table.unbind(1)
    empty = (size == 0) & (capacity == 0)
    # Division keeps sizes that a product would overflow out.
    fits = (
        (size >= 0) & (size <= capacity) & (begin >= 0) & (begin <= total) & (capacity <= (total - begin).clamp(min=0) // entry)
    )
    reader.check(bool((empty | fits).all()), "a list beyond the {} bytes of its file", total)


def read_ondisk(reader: Reader) -> Any:
    """Lists in a file of their own."""
    nlist, code_size = u64.read(reader, None), u64.read(reader, None)
    reader.check(code_size < 1 << 31, "codes of {} bytes", code_size)
    reader.check_count(nlist, "lists")
    table, slots = _records(reader, 3), _records(reader, 2)
    name = bytes(octets.read(reader, None).numpy())
    total = u64.read(reader, None)
    reader.check(table.shape[0] == nlist, "{} records for {} lists", table.shape[0], nlist)
    reader.check(total < 1 << 62, "a file of {} bytes", total)
    _check_lists(reader, table, code_size + 8, total)
    begin, room = slots.unbind(1)
    reader.check(bool(((begin >= 0) & (room >= 0) & (begin <= total) & (room <= total - begin)).all()), "a slot beyond the file")
    reader.check(bool((begin[1:] >= begin[:-1] + room[:-1]).all()), "slots out of order")
    made = class_of("OnDiskInvertedLists")(0, code_size, _path(reader, name.decode("utf-8", "surrogateescape")))
    made.nlist, made.totsize, made.lists.table = nlist, total, table
    made.slots.assign(class_of("OnDiskSlot")(*pair) for pair in slots.tolist())
    made.read_only = bool(reader.flags & IO_FLAG_READ_ONLY)
    if not reader.flags & IO_FLAG_SKIP_IVF_DATA:
        made.do_mmap()
    return made


def _path(reader: Reader, name: str) -> str:
    """Where the lists' file is: where the section says, or beside the file being read."""
    if not reader.flags & IO_FLAG_ONDISK_SAME_DIR:
        return name
    reader.check(isinstance(reader.source, FileSource), "IO_FLAG_ONDISK_SAME_DIR only supported when reading from file")
    return os.path.join(os.path.dirname(reader.name) or ".", name.rsplit("/", 1)[-1])


def write_ondisk(writer: Writer, lists: Any) -> None:
    """The section of lists in a file of their own."""
    u64.write(writer, lists.nlist, None)
    u64.write(writer, lists.code_size, None)
    for records in (lists.lists.table, torch.tensor([[slot.offset, slot.capacity] for slot in lists.slots]).view(-1, 2)):
        u64.write(writer, records.shape[0], None)
        writer.array(records.long())
    name = lists.filename.encode("utf-8", "surrogateescape")
    octets.write(writer, torch.tensor(list(name), dtype=torch.uint8), None)
    u64.write(writer, lists.totsize, None)


def map_lists(reader: Reader, sizes: Tensor, code_size: int) -> Any:
    """Lists that stay in the file being read, which goes on behind them."""
    source = reader.source
    assert isinstance(source, FileSource)
    widths = sizes * (code_size + 8)
    first = source.begin + reader.at
    made = class_of("OnDiskInvertedLists")(0, code_size, "")
    made.nlist, made.read_only = sizes.shape[0], True
    made.lists.table = torch.stack([sizes, sizes, first + widths.cumsum(0) - widths], 1)
    made._map_from(reader.name, source.file.fileno())
    total = int(widths.sum())
    source.skip(total)
    reader.at += total
    return made
