"""Scans of 4-bit codes in blocks: whole numbers, so that answers are the definition's to the bit, those of ties too.

As for other lists (list_scan.py), codes go in chunks of 64, of which only the least sum is stored, and the best chunks are gone over again.

Few queries: a warp takes a chunk of a probed list, a lane one byte of each part, which holds two codes. All lanes look into the 16 bytes
of one part's table, which lie in one line of the L1 cache: the same memory as shared memory, and a look-up takes one pass, since lanes
that read within a line do not wait for each other. So tables need no copying, of which there would be one for each program.

Many: look-ups become products of bytes on the tensor cores. A code's row of the unit matrix, 16 columns for each part, times the tables
of 16 to 64 probes gives its sums for all of them in 32-bit integers, exactly. That is 16 times the operations, on units that do over 100
times as many (4096 of bytes against 32 look-ups a cycle and multiprocessor); what making the rows costs is shared by the probes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.fastscan import Tables, bounds
from tsscompat.kernels.ivf import Range
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.triton.block_kernels import least_of_blocks, least_of_shared_blocks, scores_of_blocks
from tsscompat.kernels.triton.codes import BLOCKS, Codes
from tsscompat.kernels.triton.fastscan_tables import quantize
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two
from tsscompat.kernels.triton.list_scan import CHUNK, Scan, Top, top, within

# Warps that fill a large GPU.
_WARPS = 8192
# From so many queries to a probed list on, products take less time than look-ups: making rows of the unit matrix for one tile costs some 7.
_TOGETHER = 8
# Only the last parts have entries in a second table.
_WEIGHTED = 4


class BlockScan(Scan):
    """One search of lists whose codes lie in blocks."""

    def together(self) -> bool:
        # A weight is a byte of the unit matrix.
        return self.keys.numel() >= _TOGETHER * max(1, self.lists.nlist) and self.codes.threshold < 128

    def _given(self, luts: Tensor) -> tuple[Tensor, ...]:
        codes = self.codes
        return codes.data if codes.base is None else codes.base, codes.data, luts, *self._where()

    def _luts(self) -> Tensor:
        assert self.codes.tables is not None
        return self.codes.tables

    def _sizes(self) -> tuple[int, ...]:
        codes = self.codes
        return codes.d, max(0, codes.d - _WEIGHTED), codes.data.shape[1], codes.threshold

    def _constants(self) -> dict[str, Any]:
        codes = self.codes
        return {
            "PER_BLOCK": codes.ksub,
            "TABLES": self._luts().shape[1],
            "LARGEST": codes.largest,
            "BASED": codes.base is not None,
            "PER_PAIR": codes.per_pair,
            **self._masks(),
        }

    def _least_few(self) -> Tensor:
        out = torch.empty(self.nq, self.nprobe * self.n_chunks, device=self.keys.device)
        n_pairs = self.nq * self.nprobe
        with on(out):
            least_of_blocks[(n_pairs, min(self.n_chunks, max(1, _WARPS // n_pairs)))](
                *self._given(self._luts()),
                self.keys,
                self._allowed(),
                out,
                self.counts,
                self.nprobe,
                self.n_chunks,
                *self._sizes(),
                **self._constants(),
                BP=power_of_two(self.codes.d, 2, 16),
                num_warps=1,
            )
        return out

    def _least_shared(self) -> Tensor:
        out = torch.full((self.nq, self.nprobe * self.n_chunks), float("inf"), device=self.keys.device)
        # As they are on the way to the tensor cores, so that they travel to shared memory while those work.
        signed = (self._luts() ^ 128).view(torch.int8)
        tiles = self.tiles()
        shares = min(blocks_of(self.n_chunks, 2), max(1, _WARPS // (2 * tiles.owners.shape[0])))
        with on(out):
            least_of_shared_blocks[(tiles.owners.shape[0], shares)](
                *self._given(signed),
                tiles.order,
                tiles.starts,
                tiles.ends,
                tiles.owners,
                self._allowed(),
                out,
                self.counts,
                self.nprobe,
                self.n_chunks,
                self.lists.nlist,
                *self._sizes(),
                **self._constants(),
                BQ=tiles.size,
                BP=power_of_two(self.codes.d, 2, 8 if tiles.size == 64 else 4),
                num_warps=8 if tiles.size == 64 else 4,
            )
        return out

    def scores(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        nq, width = chosen.shape
        values = torch.empty(nq, width * CHUNK, device=chosen.device)
        labels = torch.empty(nq, width * CHUNK, dtype=torch.int64, device=chosen.device)
        with on(values):
            scores_of_blocks[(nq * width,)](
                *self._given(self._luts()),
                self.keys,
                self._allowed(),
                chosen,
                self.lists.ids,
                values,
                labels,
                self.nprobe,
                self.n_chunks,
                width,
                *self._sizes(),
                **self._constants(),
                PAIRS=self.pairs,
                BP=power_of_two(self.codes.d, 2, 16),
                num_warps=2,
            )
        return values, labels


def codes_of(tables: Tables, base: Tensor | None, lists: Ragged, per_block: int, keys: Tensor, largest: bool) -> Codes:
    return Codes(
        BLOCKS,
        lists.codes.contiguous(),
        tables.parts,
        INNER_PRODUCT,
        largest,
        ksub=per_block,
        base=base,
        tables=tables.luts.contiguous(),
        per_pair=tables.luts.shape[0] != keys.shape[0],
        threshold=tables.weight,
    )


def _taken(lists: Ragged, per_block: int) -> bool:
    """Whether these are blocks as the kernels read them."""
    return lists.nlist > 0 and per_block % 32 == 0


def scan_blocks(
    tables: Tables,
    lists: Ragged,
    per_block: int,
    keys: Tensor,
    k: int,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.fastscan.scan_blocks."""
    if not _taken(lists, per_block):
        return NotImplemented
    base = None if tables.biases is None else tables.biases.float()
    codes = codes_of(tables, base, lists, per_block, keys, largest)
    sums, labels, counts = top(codes, lists, keys, k, (allowed, limits, pairs), BlockScan)
    query = torch.arange(keys.shape[0], device=keys.device)[:, None]
    return torch.where(labels >= 0, tables.values(sums, query), sums), labels, counts


def within_blocks(
    tables: Tables,
    lists: Ragged,
    per_block: int,
    keys: Tensor,
    radius: float,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.fastscan.within_blocks."""
    if not _taken(lists, per_block):
        return NotImplemented
    bound = bounds(tables, radius)
    base = torch.zeros(keys.shape, device=keys.device) if tables.biases is None else tables.biases.float()
    codes = codes_of(tables, base - bound[:, None], lists, per_block, keys, largest)
    lims, sums, labels, counts = within(codes, lists, keys, 0.0, (allowed, limits, pairs), BlockScan)
    query = torch.repeat_interleave(lims.diff())
    return lims, tables.values(sums + bound[query], query), labels, counts


__all__ = ["quantize", "scan_blocks", "within_blocks"]
