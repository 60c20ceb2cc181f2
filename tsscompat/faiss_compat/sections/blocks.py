"""Inverted lists in blocks, as they stand in a file: for each list its ids, then its blocks."""

from __future__ import annotations

from typing import Any

import torch

from tsscompat.faiss_compat.sections.common import check_lists, class_of
from tsscompat.wire.codecs import int64s, octets, u64
from tsscompat.wire.cursor import Reader, Writer

BLOCK_TAG = "ilbl"


def read_blocks(reader: Reader, obj: Any) -> Any:
    """Lists after their tag; who reads them tells them how codes are laid out."""
    nlist, _, per_block, block_size = (u64.read(reader, None) for _ in range(4))
    check_lists(nlist, 0, obj, reader)
    reader.check(0 < per_block < 1 << 24 and 0 < block_size < 1 << 32, "blocks of {} vectors, {} bytes", per_block, block_size)
    left = reader.source.left()
    reader.check(left is None or nlist * 16 <= left, "{} lists, {} bytes left", nlist, left)
    ids, blocks = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.uint8)]
    sizes = torch.zeros(nlist, dtype=torch.int64)
    for list_no in range(nlist):
        ids.append(int64s.read(reader, None))
        blocks.append(octets.read(reader, None))
        n, have = ids[-1].shape[0], blocks[-1].shape[0]
        wanted = -(-n // per_block) * block_size
        reader.check(have == wanted, "{} bytes of blocks for {} entries of list {}, expected {}", have, n, list_no, wanted)
        sizes[list_no] = n
    lists = class_of("BlockInvertedLists")(nlist, per_block, block_size)
    lists._load(sizes, torch.cat(blocks).view(-1, block_size), torch.cat(ids))
    return lists


def write_blocks(writer: Writer, lists: Any) -> None:
    """Lists after their tag."""
    for number in (lists.nlist, lists.code_size, lists.n_per_block, lists.block_size):
        u64.write(writer, number, None)
    sizes, blocks, ids = (tensor.cpu() for tensor in lists._stored())
    row = block = 0
    for n in sizes.tolist():
        n_blocks = -(-n // lists.n_per_block)
        int64s.write(writer, ids[row : row + n], None)
        octets.write(writer, blocks[block : block + n_blocks].reshape(-1), None)
        row, block = row + n, block + n_blocks


def check_blocks(lists: Any, packer: Any, reader: Reader) -> None:
    """Lists of an index must be in the blocks of its codes; from here on they know how these are laid out."""
    is_blocks = hasattr(lists, "block_size")
    reader.check(is_blocks, "inverted lists that are not in blocks")
    have, wanted = (lists.n_per_block, lists.block_size), (packer.nvec, packer.block_size)
    reader.check(have == wanted, "blocks of (vectors, bytes) {}, expected {}", have, wanted)
    lists.packer = packer
