"""Inverted lists and direct maps, as they stand in a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat.sections.common import class_of
from tsscompat.wire.codecs import fourcc, int64s, u8, u64, write_fourcc
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field

_NONE_TAG, _ARRAY_TAG = "il00", "ilar"
# Lists are gathered from the file in blocks of about this many bytes.
_BLOCK = 1 << 26


class InvertedListsCodec:
    """Lists: their sizes (of all, or of those that are not empty), then for each the codes and the ids."""

    def read(self, reader: Reader, obj: Any) -> Any:
        tag = fourcc(reader)
        if tag == _NONE_TAG:
            return None
        reader.check(tag == _ARRAY_TAG, "inverted lists of type {!r} are not known", tag)
        nlist, code_size = u64.read(reader, obj), u64.read(reader, obj)
        reader.check(nlist < 1 << 31 and code_size < 1 << 31, "{} lists of codes of {} bytes", nlist, code_size)
        reader.check_count(nlist, "lists")
        sizes = self._sizes(reader, nlist)
        total = int(sizes.sum())
        reader.check(total < 1 << 40, "lists of {} entries", total)
        reader.need(total * (code_size + 8))
        lists = class_of("ArrayInvertedLists")(nlist, code_size)
        lists._load(sizes, *_scatter(reader, sizes, code_size, total))
        return lists

    @staticmethod
    def _sizes(reader: Reader, nlist: int) -> Tensor:
        kind = fourcc(reader)
        reader.check(kind in ("full", "sprs"), "lists stored as {!r} are not known", kind)
        left = reader.source.left()
        # Sizes of all lists stand in the file when it is full; of a sparse one nothing but the count bounds them.
        reader.check(kind == "sprs" or left is None or nlist * 8 <= left, "{} lists, {} bytes left", nlist, left)
        given = int64s.read(reader, None)
        reader.check(bool((given >= 0).all()), "a negative size of a list")
        if kind == "full":
            reader.check(given.shape[0] == nlist, "{} sizes for {} lists", given.shape[0], nlist)
            return given
        reader.check(given.shape[0] % 2 == 0, "sparse sizes come in pairs")
        pairs = given.view(-1, 2)
        reader.check(bool((pairs[:, 0] < nlist).all()), "a list number beyond {}", nlist)
        sizes = torch.zeros(nlist, dtype=torch.int64)
        sizes[pairs[:, 0]] = pairs[:, 1]
        reader.check(int(sizes.sum()) == int(pairs[:, 1].sum()), "a list named twice")
        return sizes

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        if value is None:
            write_fourcc(writer, _NONE_TAG)
            return
        sizes, codes, ids = value._dump()
        sizes, codes, ids = sizes.cpu(), codes.cpu(), ids.cpu()
        write_fourcc(writer, _ARRAY_TAG)
        u64.write(writer, value.nlist, obj)
        u64.write(writer, value.code_size, obj)
        used = sizes.nonzero()[:, 0]
        if used.shape[0] > value.nlist // 2:
            write_fourcc(writer, "full")
            int64s.write(writer, sizes, obj)
        else:
            write_fourcc(writer, "sprs")
            int64s.write(writer, torch.stack([used, sizes[used]], 1).reshape(-1), obj)
        _interleave(writer, sizes, codes, ids)


def _spans(sizes: Tensor, row_bytes: int) -> list[tuple[int, int]]:
    """Blocks of consecutive lists of about _BLOCK bytes each."""
    if not sizes.shape[0]:
        return []
    block = (sizes.cumsum(0) * row_bytes) // _BLOCK
    ends = (block.diff() > 0).nonzero()[:, 0].add(1).tolist()
    return list(zip([0, *ends], [*ends, sizes.shape[0]]))


def _places(sizes: Tensor, code_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each entry of a block of lists where in the file its code and its id begin, and how many bytes the block takes."""
    begin = (sizes * (code_size + 8)).cumsum(0) - sizes * (code_size + 8)
    owner = torch.repeat_interleave(sizes)
    rank = torch.arange(owner.shape[0]) - (sizes.cumsum(0) - sizes)[owner]
    code_at = begin[owner] + rank * code_size
    id_at = begin[owner] + sizes[owner] * code_size + rank * 8
    return code_at, id_at, (sizes * (code_size + 8)).sum()


def _copy_lists(sizes: Tensor, code_size: int, raw: Tensor, codes: Tensor, ids: Tensor, out: bool) -> None:
    """Copy between a block of the file and tables of codes and ids, list by list (few, long lists) or by address (many, short ones)."""
    n = ids.shape[0]
    if sizes.shape[0] * 64 <= n or code_size == 0:
        # numpy's copy stays on this thread: torch's wakes its pool for each list, which costs more than the copy.
        whole, code_table, id_table_bytes = raw.numpy(), codes.reshape(-1).numpy(), ids.view(torch.uint8).numpy()
        at = row = 0
        for size in sizes.tolist():
            if not size:
                continue
            mid, end = at + size * code_size, at + size * (code_size + 8)
            in_codes = code_table[row * code_size : (row + size) * code_size]
            in_ids = id_table_bytes[row * 8 : (row + size) * 8]
            if out:
                whole[at:mid], whole[mid:end] = in_codes, in_ids
            else:
                in_codes[:], in_ids[:] = whole[at:mid], whole[mid:end]
            at, row = end, row + size
        return
    code_at, id_at, _ = _places(sizes, code_size)
    code_bytes = code_at[:, None] + torch.arange(code_size)
    id_bytes = id_at[:, None] + torch.arange(8)
    id_table = ids.view(torch.uint8).view(n, 8)
    if out:
        raw[code_bytes] = codes
        raw[id_bytes] = id_table
    else:
        codes.copy_(raw[code_bytes])
        id_table.copy_(raw[id_bytes])


def _scatter(reader: Reader, sizes: Tensor, code_size: int, total: int) -> tuple[Tensor, Tensor]:
    """Codes and ids in list order, from lists in which each list's codes come before its ids."""
    codes, ids, row = torch.empty(total, code_size, dtype=torch.uint8), torch.empty(total, dtype=torch.int64), 0
    for start, stop in _spans(sizes, code_size + 8):
        part_sizes = sizes[start:stop]
        n = int(part_sizes.sum())
        raw = reader.array(n * (code_size + 8), torch.uint8)
        _copy_lists(part_sizes, code_size, raw, codes[row : row + n], ids[row : row + n], out=False)
        row += n
    return codes, ids


def _interleave(writer: Writer, sizes: Tensor, codes: Tensor, ids: Tensor) -> None:
    row, code_size = 0, codes.shape[1]
    for start, stop in _spans(sizes, code_size + 8):
        part_sizes = sizes[start:stop]
        n = int(part_sizes.sum())
        raw = torch.empty(n * (code_size + 8), dtype=torch.uint8)
        _copy_lists(part_sizes, code_size, raw, codes[row : row + n], ids[row : row + n], out=True)
        writer.array(raw)
        row += n


class DirectMapCodec:
    """The kind as a byte, the array, and for a hash table its pairs (in no order that a file promises; ours: by id)."""

    def read(self, reader: Reader, obj: Any) -> Any:
        held = obj.direct_map
        kind = u8.read(reader, obj)
        reader.check(kind in (0, 1, 2), "direct map of kind {}", kind)
        held.array.tensor = int64s.read(reader, obj)
        if kind == 2:
            count = u64.read(reader, obj)
            reader.check(count < 1 << 60, "a count of {}", count)
            pairs = reader.array(2 * count, torch.int64).view(-1, 2)
            held.hashtable.update(zip(pairs[:, 0].tolist(), pairs[:, 1].tolist()))
        held.type = kind
        return held

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        u8.write(writer, value.type, obj)
        int64s.write(writer, value.array, obj)
        if value.type == 2:
            pairs = torch.tensor(list(value.hashtable.items()), dtype=torch.int64).reshape(-1, 2)
            u64.write(writer, pairs.shape[0], obj)
            writer.array(pairs)


LISTS = Field("invlists", InvertedListsCodec())
