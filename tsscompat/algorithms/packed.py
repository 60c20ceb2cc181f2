"""Codes in blocks, read like a table of codes, and scored where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import Options, joined_ranges
from tsscompat.errors import FaissError, check
from tsscompat.kernels.fastscan import Tables, few_lists, scan_blocks, within_blocks
from tsscompat.kernels.ivf import Range, Top, scan_tables
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.records import record

# Tables of a block of queries take about this many bytes.
_TABLE_BYTES = 1 << 26


class Packer(Protocol):
    """How codes lie in blocks (see faiss_compat/packers.py)."""

    code_size: int
    nvec: int

    def _take(self, blocks: Tensor, rows: Tensor) -> Tensor: ...


class PackedCodes:
    """What stands in for Ragged.codes where codes lie in blocks: `codes[rows]` takes them out."""

    def __init__(self, blocks: Tensor, packer: Packer) -> None:
        self.blocks, self.packer, self.device, self.dtype = blocks, packer, blocks.device, blocks.dtype
        self.shape = torch.Size((blocks.shape[0] * packer.nvec, packer.code_size))

    def __getitem__(self, rows: Any) -> Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(self.shape[0]), device=self.device)
        elif isinstance(rows, int):
            return self[torch.tensor([rows], device=self.device)][0]
        return self.packer._take(self.blocks, rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows)

    def new_empty(self, *shape: int) -> Tensor:
        """A table for codes."""
        return self.blocks.new_empty(*shape)


def packed_lists(blocks: Tensor, packer: Packer, ids: Tensor, offsets: Tensor, sizes: Tensor) -> Ragged:
    """Lists whose codes lie in blocks; for everything that reads lists."""
    return Ragged(cast(Tensor, PackedCodes(blocks, packer)), ids, offsets, sizes, {"blocks": Ragged(blocks, ids, offsets, sizes)})


def blocks_of(lists: Ragged) -> tuple[Ragged, int]:
    """The same lists with the blocks for codes, as the kernels of kernels/fastscan.py read them; and how many codes are in one."""
    codes: Any = lists.codes
    check(isinstance(codes, PackedCodes), "only block inverted lists supported")
    held = lists.kept.get("blocks")
    if held is None:
        held = lists.kept["blocks"] = Ragged(codes.blocks, lists.ids, lists.offsets, lists.sizes)
    return held, codes.packer.nvec


@record
class ProductParts:
    """What tables for product codes are made from (see kernels.fastscan.product_tables)."""

    transposed: Tensor  # (M, dsub, 16)
    metric: int
    residual: bool = False
    terms: Tensor | None = None  # (nlist, M, 16)


@record
class FastScan:
    """4-bit codes scored by tables of bytes: `quantized(x, keys, coarse)` makes these, `width` bytes a query."""

    quantized: Callable[[Tensor, Tensor, Tensor], Tables]
    largest: bool
    width: int
    product: ProductParts | None = None  # of codes that are nothing but product codes

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        if self.product is None:
            return None
        blocks, per_block = blocks_of(lists)
        code = self.product
        given = (code.transposed, code.metric, code.residual, code.terms)
        return few_lists(x, centers, nprobe, *given, blocks, per_block, k)

    def _steps(self, n: int) -> list[slice]:
        step = max(1, _TABLE_BYTES // self.width)
        return [slice(i, min(i + step, n)) for i in range(0, max(n, 1), step)]

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        blocks, per_block = blocks_of(lists)
        found = []
        for some in self._steps(x.shape[0]):
            tables = self.quantized(x[some], keys[some], coarse[some])
            limits = None if options.limits is None else options.limits[some]
            rest = (k, self.largest, options.allowed, limits, options.pairs)
            found.append(scan_blocks(tables, blocks, per_block, keys[some], *rest))
        if len(found) == 1:
            return found[0]
        counts = tuple(sum(part[2][i] for part in found) for i in range(3))
        return torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found]), cast(Any, counts)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        blocks, per_block = blocks_of(lists)
        found = []
        for some in self._steps(x.shape[0]):
            tables = self.quantized(x[some], keys[some], coarse[some])
            limits = None if options.limits is None else options.limits[some]
            rest = (radius, self.largest, options.allowed, limits, options.pairs)
            found.append(within_blocks(tables, blocks, per_block, keys[some], *rest))
        return found[0] if len(found) == 1 else joined_ranges(found)


@record
class Unpacked:
    """The codes of other lists, which lie one after the other, scored by tables of bytes or of floats."""

    scored: Callable[[Tensor, Tensor, Tensor], Any]  # (x, keys, coarse) -> Tables, or tables and biases
    lists: Ragged
    largest: bool

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        made = self.scored(x, keys, coarse)
        tables, biases = (made.whole(), made.biases) if isinstance(made, Tables) else made
        flat = tables.reshape(-1, *tables.shape[-2:]).nan_to_num(0.0)
        base = torch.zeros(keys.shape, device=keys.device) if biases is None else biases.float().nan_to_num(0.0)
        given = (flat, base, None, 4, self.lists, keys, k, self.largest)
        sums, labels, counts = scan_tables(*given, None, options.limits, options.pairs)
        if isinstance(made, Tables):
            query = torch.arange(x.shape[0], device=x.device)[:, None]
            sums = torch.where(labels >= 0, made.values(sums, query), sums)
        return sums, labels, counts

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        raise FaissError("range search is not implemented on the original lists")
