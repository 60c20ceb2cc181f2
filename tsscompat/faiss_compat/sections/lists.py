"""Inverted lists and direct maps, as they stand in a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.ragged import Ragged, packed, unpack
from tsscompat.faiss_compat.io_streams import IO_FLAG_MMAP, IO_FLAG_SKIP_IVF_DATA
from tsscompat.faiss_compat.sections.blocks import BLOCK_TAG, read_blocks, write_blocks
from tsscompat.faiss_compat.sections.common import check_lists, class_of
from tsscompat.faiss_compat.sections.ondisk import map_lists, read_ondisk, write_ondisk
from tsscompat.wire.codecs import fourcc, int64s, u8, u64, write_fourcc
from tsscompat.wire.cursor import FileSource, Reader, Writer
from tsscompat.wire.tables import Field

_NONE_TAG, _ARRAY_TAG, _DISK_TAG = "il00", "ilar", "ilod"
# Lists of this many bytes go straight between file and arena; shorter ones together, through a block that stays in the cache.
_LONG, _BLOCK = 1 << 15, 1 << 20


class InvertedListsCodec:
    """Lists: their sizes (of all, or of those that are not empty), then for each the codes and the ids."""

    def read(self, reader: Reader, obj: Any) -> Any:
        tag = fourcc(reader)
        if tag == _NONE_TAG:
            return None
        if tag == _DISK_TAG:
            return read_ondisk(reader)
        if tag == BLOCK_TAG:
            return read_blocks(reader, obj)
        reader.check(tag == _ARRAY_TAG, "inverted lists of type {!r} are not known", tag)
        nlist, code_size = u64.read(reader, obj), u64.read(reader, obj)
        check_lists(nlist, code_size, obj, reader)
        sizes = self._sizes(reader, nlist)
        total = int(sizes.sum())
        reader.check(total < 1 << 40, "lists of {} entries", total)
        reader.need(total * (code_size + 8))
        if reader.flags & IO_FLAG_SKIP_IVF_DATA:
            mapping = reader.flags & IO_FLAG_MMAP == IO_FLAG_MMAP and isinstance(reader.source, FileSource)
            reader.check(mapping, "inverted lists can be left in a file only, with IO_FLAG_MMAP")
            return map_lists(reader, sizes, code_size)
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
        if getattr(value, "filename", ""):
            write_fourcc(writer, _DISK_TAG)
            write_ondisk(writer, value)
            return
        if hasattr(value, "block_size"):
            write_fourcc(writer, BLOCK_TAG)
            write_blocks(writer, value)
            return
        held = value._ragged()
        lists = Ragged(held.codes.cpu(), held.ids.cpu(), held.offsets.cpu(), held.sizes.cpu())
        sizes = lists.sizes
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
        _interleave(writer, lists)


def _spans(sizes: Tensor, row_bytes: int) -> list[tuple[int, int, bool]]:
    """Runs of consecutive lists: a long one by itself (true), or short ones of about a block together."""
    if not sizes.shape[0]:
        return []
    width = sizes * row_bytes
    long = width >= _LONG
    block = width.masked_fill(long, 0).cumsum(0) // _BLOCK
    ends = ((block.diff() > 0) | long[1:] | long[:-1]).nonzero()[:, 0].add(1).tolist()
    starts = [0, *ends]
    return list(zip(starts, [*ends, sizes.shape[0]], long[starts].tolist()))


def _scatter(reader: Reader, sizes: Tensor, code_size: int, total: int) -> tuple[Tensor, Tensor]:
    """Codes and ids in list order, from lists in which each list's codes come before its ids."""
    codes, ids, row = torch.empty(total, code_size, dtype=torch.uint8), torch.empty(total, dtype=torch.int64), 0
    for start, stop, long in _spans(sizes, code_size + 8):
        part_sizes = sizes[start:stop]
        n = int(part_sizes.sum())
        some_codes, some_ids = codes[row : row + n], ids[row : row + n]
        if long:
            reader.into(some_codes)
            reader.into(some_ids)
        else:
            unpack(reader.array(n * (code_size + 8), torch.uint8), part_sizes, some_codes, some_ids)
        row += n
    return codes, ids


def _interleave(writer: Writer, lists: Ragged) -> None:
    """The lists one after another, codes before ids, wherever they lie in their arena."""
    for start, stop, long in _spans(lists.sizes, lists.codes.shape[1] + 8):
        if long:
            at, n = int(lists.offsets[start]), int(lists.sizes[start])
            writer.array(lists.codes[at : at + n])
            writer.array(lists.ids[at : at + n])
        else:
            writer.array(packed(Ragged(lists.codes, lists.ids, lists.offsets[start:stop], lists.sizes[start:stop])))


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
