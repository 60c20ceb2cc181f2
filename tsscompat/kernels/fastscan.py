"""Scans of 4-bit codes that lie in blocks, with look-up tables of 8 bits: FAISS's fast-scan.

Blocks are rows (n, stride) of bytes; row r of the arena is code r % per_block of block r // per_block. In a block, each two parts take
per_block bytes, in groups of 32 codes: 16 bytes for the first part and 16 for the second, byte 2 j + i of them holding code j + 8 i in
its low half and code j + 8 i + 16 in its high half. What a block has behind its parts is not looked at.
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf import Range, Top, nearest_lists, scan_tables, within_tables
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.ivf_terms import query_tables
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.records import record

GROUP = 32
# Sums are held in 16 bits.
_HIGHEST = 65535.0


@record
class Tables:
    """What a query's look-ups sum to: sums of bytes, which stand for start + sums / scale (start alone where the scale is 0).

    A table (parts, 16) for each query, or each pair of query and probe; parts are even in number, and the last may be all zeros. With
    `weight`, a second table of each counts so many times.
    """

    luts: Tensor  # (nq or nq * nprobe, 1 or 2, parts, 16) uint8
    biases: Tensor | None  # (nq, nprobe) int32: added to the sums of a list
    scale: Tensor  # (nq,)
    start: Tensor  # (nq,)
    weight: int = 0

    @property
    def parts(self) -> int:
        return self.luts.shape[2]

    def whole(self) -> Tensor:
        """One table of floats for both."""
        return self.luts[:, 0].float() + (self.luts[:, 1] * float(self.weight) if self.weight else 0.0)

    def values(self, sums: Tensor, query: Tensor) -> Tensor:
        """What sums of queries stand for."""
        unit = torch.where(self.scale > 0, 1.0 / self.scale, 0.0)
        return sums * unit[query] + self.start[query]


def _address(rows: Tensor, per_block: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each row its block, the columns (n, size) of its even parts, those of the odd ones being 16 on, and which half of the bytes."""
    place = rows % per_block
    group, half, code = place // GROUP, place // 16 % 2, place % 16
    first = group * GROUP + 2 * (code % 8) + code // 8
    columns = first[:, None] + torch.arange(size, device=rows.device) * per_block
    return (rows // per_block)[:, None], columns, half[:, None]


@accelerated
def take_rows(blocks: Tensor, rows: Tensor, per_block: int, size: int) -> Tensor:
    """The codes (n, size) of rows, two parts a byte, the first in the low half."""
    block, columns, half = _address(rows, per_block, size)
    low, high = (blocks[block, columns + odd] >> 4 * half & 15 for odd in (0, 16))
    return (low | high << 4).to(torch.uint8)


@accelerated
def put_rows(blocks: Tensor, rows: Tensor, codes: Tensor, per_block: int) -> None:
    """Write the codes of rows, which are all different."""
    block, columns, half = _address(rows, per_block, codes.shape[1])
    # Two rows share a byte: those of the low halves go first.
    for which, kept in ((0, 0xF0), (1, 0x0F)):
        chosen = half[:, 0] == which
        for odd in (0, 16):
            place = block[chosen].expand(-1, codes.shape[1]), columns[chosen] + odd
            value = (codes[chosen] >> 4 if odd else codes[chosen] & 15) << 4 * which
            blocks[place] = blocks[place] & kept | value


def _sum(first: Tensor, columns: Tensor) -> Tensor:
    """`first` and the items of the last dimension, added one by one in float32 as FAISS does: every table's rounding depends on it."""
    total = first
    for column in columns.unbind(-1):
        total = total + column
    return total


def _rounded(values: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """As FAISS rounds: the half is added in double precision."""
    return (((values - least) * scale).double() + 0.5).float().floor().nan_to_num(0.0)


def _extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest of the last dimension; NaN is neither."""
    missing = values.isnan()
    return torch.where(missing, torch.inf, values).amin(-1), torch.where(missing, -torch.inf, values).amax(-1)


@accelerated
def quantize(tables: Tensor, biases: Tensor | None, norms: int = 0, weight: int = 0) -> Tables:
    """Tables (nq, M, 16), or with biases (nq, nprobe) also (nq, nprobe, M, 16), of floats as tables of bytes.

    One scale for a query, so that no entry is over 255 and no sum, bias included, over 65535; each part's least entry is 0. NaN marks
    lists that are not probed. The last `norms` parts count `weight` times, but once in what a sum starts from, as in FAISS.
    """
    nq, m, device = tables.shape[0], tables.shape[-2], tables.device
    least, most = _extremes(tables)  # (nq[, nprobe], M)
    counts = torch.ones(m, device=device)
    counts[m - norms :] = float(weight) if weight else 1.0
    widest, spans = _extremes((most - least).flatten(1))[1], (most - least) * counts
    if biases is None:
        lowest = torch.zeros(nq, device=device)
        reach, start = _sum(lowest, spans), _sum(lowest, least)
    elif tables.dim() == 3:
        lowest, highest = _extremes(biases)
        reach, start = _sum(highest - lowest, spans), _sum(torch.zeros_like(lowest), least) + lowest
    else:
        # A list's sums start from its bias and the least entries of its tables.
        starts = _sum(biases, least)
        lowest = start = _extremes(starts)[0]
        above = torch.maximum(biases - _extremes(biases)[0][:, None], starts - start[:, None])
        biases, reach = starts, _extremes(_sum(above, spans))[1]
    # Of a number and a tensor torch would multiply by the reciprocal, which rounds twice.
    entry, total = (torch.full_like(widest, bound) / span for bound, span in ((255.0, widest), (_HIGHEST, reach)))
    scale = torch.minimum(torch.where(widest > 0, entry, torch.inf), torch.where(reach > 0, total, torch.inf))
    scale = torch.where(scale.isfinite(), scale, 0.0)
    entries = _rounded(tables, scale.view(-1, *[1] * (tables.dim() - 1)), least[..., None]).to(torch.uint8).reshape(-1, m, 16)
    luts = torch.zeros(entries.shape[0], 2 if weight else 1, m + m % 2, 16, dtype=torch.uint8, device=device)
    plain = m - norms if weight else m
    luts[:, 0, :plain], luts[:, -1, plain:m] = entries[:, :plain], entries[:, plain:]
    added = None if biases is None else _rounded(biases, scale[:, None], lowest[:, None]).to(torch.int32)
    return Tables(luts, added, scale, start, weight)


def _unpacked(lists: Ragged, tables: Tables, per_block: int) -> Ragged:
    """The same lists with their codes one after the other."""
    n = lists.codes.shape[0] * per_block
    codes = take_rows(lists.codes, torch.arange(n, device=lists.codes.device), per_block, tables.parts // 2)
    return Ragged(codes, lists.ids, lists.offsets, lists.sizes)


def _base(tables: Tables, keys: Tensor) -> Tensor:
    return torch.zeros(keys.shape, device=keys.device) if tables.biases is None else tables.biases.float()


@accelerated
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
    """The k best in lists whose codes are blocks; what the arguments mean stands in kernels/ivf.py."""
    plain, rest = _unpacked(lists, tables, per_block), (allowed, limits, pairs)
    sums, labels, counts = scan_tables(tables.whole(), _base(tables, keys), None, 4, plain, keys, k, largest, *rest)
    query = torch.arange(keys.shape[0], device=keys.device)[:, None]
    return torch.where(labels >= 0, tables.values(sums, query), sums), labels, counts


def bounds(tables: Tables, radius: float) -> Tensor:
    """The radius among the sums of each query, cut to a whole number as FAISS does."""
    return (tables.scale * (radius - tables.start)).clamp(-1.0, _HIGHEST + 1.0).trunc()


@accelerated
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
    """All whose sums are within the radius."""
    plain, bound = _unpacked(lists, tables, per_block), bounds(tables, radius)
    base, rest = _base(tables, keys) - bound[:, None], (allowed, limits, pairs)
    lims, sums, labels, counts = within_tables(tables.whole(), base, None, 4, plain, keys, 0.0, largest, *rest)
    query = torch.repeat_interleave(lims.diff())
    return lims, tables.values(sums + bound[query], query), labels, counts


@accelerated
def few_rows(x: Tensor, transposed: Tensor, metric: int, lists: Ragged, per_block: int, k: int) -> tuple[Tensor, Tensor]:
    """The k best rows for each query, tables and scan in one call: product codes with the centroids `transposed` (M, dsub, 16)."""
    tables = quantize(query_tables(x, transposed, None, metric, 1.0), None)
    keys = torch.arange(lists.nlist, device=x.device).expand(x.shape[0], -1).contiguous()
    distances, places, _ = scan_blocks(tables, lists, per_block, keys, k, metric == INNER_PRODUCT, pairs=True)
    rows = lists.offsets[(places >> 32).clamp(min=0)] + (places & 0xFFFFFFFF)
    return distances, torch.where(places >= 0, rows, -1)


def product_tables(
    x: Tensor, keys: Tensor, coarse: Tensor, transposed: Tensor, metric: int, residual: bool, terms: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Tables and biases for product codes of vectors, or of residuals: then with the inner product, or with `terms` (nlist, M, 16),
    which are |r|^2 + 2 <center, r> for each list and centroid r. NaN for lists of -1."""
    if terms is None:
        tables = query_tables(x, transposed, None, metric, 1.0)
        return tables, coarse.masked_fill(keys < 0, torch.nan) if residual else None
    products = query_tables(x, transposed, None, INNER_PRODUCT, -2.0)
    deep = terms[keys.clamp(min=0)] + products[:, None]
    return deep.masked_fill((keys < 0)[:, :, None, None], torch.nan), coarse.masked_fill(keys < 0, torch.nan)


@accelerated
def few_lists(
    x: Tensor,
    centers: Tensor,
    nprobe: int,
    transposed: Tensor,
    metric: int,
    residual: bool,
    terms: Tensor | None,
    lists: Ragged,
    per_block: int,
    k: int,
) -> Few:
    """The k best codes in the nprobe nearest lists; coarse search, tables and scan in one call (see product_tables, kernels/ivf_few.py)."""
    x, started = torch.as_tensor(x), perf_counter()
    coarse, keys = nearest_lists(x, centers, nprobe, metric)
    spent = perf_counter() - started
    tables = quantize(*product_tables(x, keys, coarse, transposed, metric, residual, terms))
    return *scan_blocks(tables, lists, per_block, keys, k, metric == INNER_PRODUCT), spent


@accelerated
def block_sums(luts: Tensor, blocks: Tensor, per_block: int) -> Tensor:
    """The sums, in 16 bits, of what tables (nq, parts, 16) of bytes have for every code in blocks: (nq, n blocks * per_block)."""
    n, parts = blocks.shape[0] * per_block, luts.shape[1]
    codes = take_rows(blocks, torch.arange(n, device=blocks.device), per_block, parts // 2)
    sums = torch.zeros(luts.shape[0], n, dtype=torch.int32, device=luts.device)
    for part in range(parts):
        sums += luts[:, part].int()[:, (codes[:, part // 2] >> 4 * (part % 2) & 15).long()]
    return sums & 0xFFFF
