"""CodePackers: how the codes of some vectors lie in a block.

A packer's hooks move many codes at once: `_take(blocks, rows)` and `_put(blocks, rows, codes)`, where blocks is (n, block_size) and row r
is place r % nvec of block r // nvec.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.pointers import behind
from tsscompat.kernels.fastscan import put_rows, take_rows


class CodePacker:
    """Lays out the codes of blocks of nvec vectors; arrays or what swig_ptr gave."""

    code_size: int
    nvec: int
    block_size: int

    def _take(self, blocks: Tensor, rows: Tensor) -> Tensor:
        """The codes of rows, (n, code_size)."""
        raise FaissError(f"unpacking is not implemented for {type(self).__name__}")

    def _put(self, blocks: Tensor, rows: Tensor, codes: Tensor) -> None:
        """Write the codes of rows, which are all different."""
        raise FaissError(f"packing is not implemented for {type(self).__name__}")

    def _blocks(self, block: Any, offset: int) -> tuple[Tensor, Tensor]:
        """The blocks up to the one that an offset, which may be beyond the first, is in; and the offset."""
        check(offset >= 0, "negative offset {} in a block", offset)
        return behind(block, offset // self.nvec + 1, self.block_size), torch.tensor([offset])

    def pack_1(self, flat_code: Any, offset: int, block: Any) -> None:
        """Put a code in its place in a block, or in one of several."""
        blocks, rows = self._blocks(block, offset)
        self._put(blocks, rows, behind(flat_code, 1, self.code_size))

    def unpack_1(self, block: Any, offset: int, flat_code: Any = None) -> Array | None:
        """Take a code from its place in a block, or in one of several; returned unless a place for it is given."""
        code = self._take(*self._blocks(block, offset))
        if flat_code is None:
            return code[0].cpu().numpy() if not isinstance(block, Tensor) else code[0]
        behind(flat_code, 1, self.code_size).copy_(code)
        return None

    pack_1_c, unpack_1_c = pack_1, unpack_1

    def pack_all(self, flat_codes: Any, block: Any) -> None:
        """Make a block of nvec codes that lie one after the other."""
        blocks = behind(block, 1, self.block_size)
        self._put(blocks, torch.arange(self.nvec), behind(flat_codes, self.nvec, self.code_size))

    def unpack_all(self, block: Any, flat_codes: Any) -> None:
        """Take all codes of a block, to lie one after the other."""
        codes = self._take(behind(block, 1, self.block_size), torch.arange(self.nvec))
        behind(flat_codes, self.nvec, self.code_size).copy_(codes)

    def clone(self) -> CodePacker:
        """A copy."""
        return copy.copy(self)


class CodePackerFlat(CodePacker):
    """Codes one after the other, without blocks."""

    def __init__(self, code_size: int) -> None:
        self.code_size, self.nvec, self.block_size = code_size, 1, code_size

    def _take(self, blocks: Tensor, rows: Tensor) -> Tensor:
        return blocks[rows]

    def _put(self, blocks: Tensor, rows: Tensor, codes: Tensor) -> None:
        blocks[rows] = codes


class CodePackerPQ4(CodePacker):
    """Codes of nsq parts of 4 bits as the scans of kernels/fastscan.py read them; bytes beyond the parts are a subclass's."""

    def __init__(self, nsq: int, bbs: int) -> None:
        check(bbs > 0 and bbs % 32 == 0, "expected a block size that is a multiple of 32, got {}", bbs)
        self.nsq, self.nvec = nsq, bbs
        self.code_size = (nsq + 1) // 2
        self.block_size = self.code_size * bbs

    def _take(self, blocks: Tensor, rows: Tensor) -> Tensor:
        return take_rows(blocks, rows.to(blocks.device), self.nvec, (self.nsq + 1) // 2)

    def _put(self, blocks: Tensor, rows: Tensor, codes: Tensor) -> None:
        put_rows(blocks, rows.to(blocks.device), codes.contiguous(), self.nvec)


__all__ = ["CodePacker", "CodePackerFlat"]
