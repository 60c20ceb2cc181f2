"""Compiled twins of kernels/fastscan.py."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.fastscan import Tables, bounds
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.numba.blocks_scan import by_list, by_query, sums_of
from tsscompat.kernels.numba.ivf import F32, GRAIN, I64, NO_FLOATS, NO_LIMITS, NO_MASK, average_work, counts_of, top, within, work
from tsscompat.kernels.numba.ivf_flat import nearest
from tsscompat.kernels.numba.ivf_terms import fill_tables
from tsscompat.kernels.numba.jit import in_order, jit
from tsscompat.kernels.numba.nibbles import LANES, TOGETHER
from tsscompat.kernels.threads import max_threads, run_blocks

F, NO_BIASES, NO_BOUNDS = np.float32, np.zeros((0, 0), np.int32), np.zeros(0, np.float32)
NO_TERMS = np.zeros((0, 0, 16), np.float32)
# What looking up one part of one code costs, in nanoseconds (Xeon at 2.5 GHz, AVX-512).
_NS_OF_PART = 0.03
# From this many queries per list on, queries that probe the same list look at its codes together.
_SHARED = 1.5


@jit
def _take(blocks, rows, per_block, out, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        block, place = rows[i] // per_block, rows[i] % per_block
        at = place // 32 * 32 + 2 * (place % 8) + place % 16 // 8
        shift = place // 16 % 2 * 4
        for pair in range(out.shape[1]):
            low, high = blocks[block, at] >> shift & 15, blocks[block, at + 16] >> shift & 15
            out[i, pair] = low | high << 4
            at += per_block


@jit
def _put(blocks, rows, codes, per_block):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        block, place = rows[i] // per_block, rows[i] % per_block
        at = place // 32 * 32 + 2 * (place % 8) + place % 16 // 8
        shift = place // 16 % 2 * 4
        kept = 0xF0 >> shift
        for pair in range(codes.shape[1]):
            code = codes[i, pair]
            blocks[block, at] = blocks[block, at] & kept | (code & 15) << shift
            blocks[block, at + 16] = blocks[block, at + 16] & kept | code >> 4 << shift
            at += per_block


def take_rows(blocks: Tensor, rows: Tensor, per_block: int, size: int) -> Tensor:
    out = np.empty((rows.shape[0], size), np.uint8)
    given = (blocks.numpy(), rows.numpy(), per_block, out)
    run_blocks(lambda a, b: _take(*given, a, b), rows.shape[0], max(1, (1 << 17) // max(1, size)))
    return torch.from_numpy(out)


def put_rows(blocks: Tensor, rows: Tensor, codes: Tensor, per_block: int) -> None:
    _put(blocks.numpy(), rows.numpy(), codes.numpy(), per_block)


# -- tables -------------------------------------------------------------------------------------------------------------------------


@in_order
def _extent(row):  # type: ignore[no-untyped-def]
    """The least and the greatest number; NaN is neither."""
    least, most = F(np.inf), F(-np.inf)
    for value in row:
        if value < least:
            least = value
        if value > most:
            most = value
    return least, most


@in_order
def _scale(widest, reach):  # type: ignore[no-untyped-def]
    entry = F(255) / widest if widest > 0 else F(np.inf)
    total = F(65535) / reach if reach > 0 else F(np.inf)
    scale = min(entry, total)
    return scale if np.isfinite(scale) else F(0)


@in_order
def _rounded(value, least, scale):  # type: ignore[no-untyped-def]
    return np.floor(F(np.float64((value - least) * scale) + 0.5))


@in_order
def _measure(tables, biases, deep, counts, least):  # type: ignore[no-untyped-def]
    """The scale of a query's tables, and what its sums start from."""
    probes, m = tables.shape[:2]
    spans, heads = np.empty((probes, m), np.float32), np.empty(probes, np.float32)
    low, high = _extent(biases)
    widest = F(-np.inf)
    for p in range(probes):
        heads[p] = biases[p] if deep else F(0)
        for i in range(m):
            least[p, i], most = _extent(tables[p, i])
            spans[p, i] = most - least[p, i]
            if spans[p, i] > widest:
                widest = spans[p, i]
            heads[p] += least[p, i]
    start, _ = _extent(heads)
    reach = F(-np.inf)
    for p in range(probes):
        total = high - low if biases.shape[0] else F(0)
        if deep:
            total = max(biases[p] - low, heads[p] - start)
        for i in range(m):
            total += spans[p, i] * counts[i]
        if total > reach:
            reach = total
    if biases.shape[0] and not deep:
        start += low
    return _scale(widest, reach), start, start if deep else low


@in_order
def fill_luts(tables, biases, deep, counts, plain, luts, added, scales, starts, first, last):  # type: ignore[no-untyped-def]
    """Quantise the tables (nq, probes, M, 16) of queries first : last; sums one by one and not contracted, as FAISS's are."""
    probes, m = tables.shape[1], tables.shape[2]
    least = np.empty((probes, m), np.float32)
    for q in range(first, last):
        scale, start, lowest = _measure(tables[q], biases[q], deep, counts, least)
        scales[q], starts[q] = scale, start
        for p in range(probes):
            if luts.shape[1] == 2 or luts.shape[2] > m:
                luts[q * probes + p] = 0
            for i in range(m):
                out = luts[q * probes + p, 1 if i >= plain else 0, i]
                if least[p, i] == np.inf:
                    out[:] = 0
                    continue
                for c in range(16):
                    out[c] = np.uint8(_rounded(tables[q, p, i, c], least[p, i], scale))
        for p in range(biases.shape[1]):
            head = biases[q, p]
            if deep:
                for i in range(m):
                    head += least[p, i]
            added[q, p] = np.int32(_rounded(head, lowest, scale)) if head == head else 0


def quantize(tables: Tensor, biases: Tensor | None, norms: int = 0, weight: int = 0) -> Any:
    nq, m, deep = tables.shape[0], tables.shape[-2], tables.dim() == 4
    probes = tables.shape[1] if deep else 1
    counts = np.ones(m, F)
    counts[m - norms :] = weight or 1
    given = np.zeros((nq, 0), F) if biases is None else biases.numpy()
    luts, added = np.empty((nq * probes, 2 if weight else 1, m + m % 2, 16), np.uint8), np.empty(given.shape, np.int32)
    scales, starts = np.empty(nq, F), np.empty(nq, F)
    rest = (given, deep, counts, m - norms if weight else m, luts, added, scales, starts)
    whole = tables.numpy().reshape(nq, probes, m, 16)
    run_blocks(lambda a, b: fill_luts(whole, *rest, a, b), nq, max(1, (1 << 17) // max(1, probes * m * 16)))
    return Tables(
        torch.from_numpy(luts),
        None if biases is None else torch.from_numpy(added),
        torch.from_numpy(scales),
        torch.from_numpy(starts),
        weight,
    )


# -- scans --------------------------------------------------------------------------------------------------------------------------


def _head(tables: Tables, lists: Ragged, per_block: int) -> Any:
    """The arguments of the scans up to the keys."""
    biases = NO_BIASES if tables.biases is None else tables.biases.numpy()
    # Parts with a second table are the last but for one that fills up; they are looked at from a whole register on.
    tail = max(0, tables.parts - 3) // LANES * LANES
    numbers = (tables.luts.numpy(), biases, np.uint16(tables.weight), tail, tables.scale.numpy(), tables.start.numpy())
    return *numbers, lists.codes.numpy(), per_block, lists.ids.numpy(), lists.offsets.numpy(), lists.sizes.numpy()


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
) -> Any:
    if not LANES:
        return NotImplemented
    head, probed = _head(tables, lists, per_block), keys.numpy()
    mask = NO_MASK if allowed is None else allowed.numpy()
    nq, nprobe = probed.shape
    per_query = work(probed, head[8:], tables.parts * _NS_OF_PART)
    threads = max_threads() if nq * per_query > 2 * GRAIN else 1
    if limits is not None or nq == 1 or nq * nprobe < _SHARED * lists.nlist * threads:
        few = NO_LIMITS if limits is None else limits.numpy()
        return top(by_query, head, probed, (largest, NO_BOUNDS, mask, few, int(pairs)), k, per_query)
    costs, labels = np.empty((nq, k), F32), np.empty((nq, k), I64)
    done: list[Any] = []
    given = (*head, probed, largest, mask, int(pairs), costs, labels)

    def block(a: int, b: int) -> None:
        arguments = (*given, a, b)
        done.append(by_list(*arguments))

    run_blocks(block, nq, -(-nq // threads))
    return torch.from_numpy(costs), torch.from_numpy(labels), counts_of(done)


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
) -> Any:
    if not LANES:
        return NotImplemented
    head, bound = _head(tables, lists, per_block), bounds(tables, radius).numpy()
    # The highest sum that is inside; those of similarities are flipped.
    bars = (65534 - bound if largest else bound - 1).clip(-1, 65535)
    mask, few = NO_MASK if allowed is None else allowed.numpy(), NO_LIMITS if limits is None else limits.numpy()
    per_query = work(keys.numpy(), head[8:], tables.parts * _NS_OF_PART)
    return within(by_query, head, keys.numpy(), (largest, bars, mask, few, int(pairs)), per_query)


# -- product codes in one go ----------------------------------------------------------------------------------------------------------


@jit
def _deepen(products, terms, keys, coarse, tables, biases, first, last):  # type: ignore[no-untyped-def]
    """Tables of each probed list from its terms and the query's products; NaN for lists of -1."""
    for q in range(first, last):
        for p in range(keys.shape[1]):
            l = keys[q, p]
            biases[q, p] = coarse[q, p] if l >= 0 else np.float32(np.nan)
            for m in range(tables.shape[2]):
                for c in range(16):
                    tables[q, p, m, c] = terms[l, m, c] + products[q, m, c] if l >= 0 else np.float32(np.nan)


def _arena(lists: Ragged, per_block: int) -> tuple[Any, ...]:
    kept: tuple[Any, ...] | None = lists.kept.get("arena")
    if kept is None:
        tables = (lists.ids.numpy(), lists.offsets.numpy(), lists.sizes.numpy())
        kept = lists.kept["arena"] = lists.codes.numpy(), per_block, *tables
    return kept


class _Few:
    """The tables of a few queries for product codes, and the scan that uses them."""

    def __init__(self, x: Any, transposed: Any, ip: bool, arena: tuple[Any, ...], deep: int) -> None:
        nq, m = x.shape[0], transposed.shape[0]
        self.x, self.transposed, self.ip, self.deep, self.arena = x, transposed, ip, deep > 0, arena
        self.products = np.empty((nq, 1, m, 16), F)
        self.tables = np.empty((nq, deep, m, 16), F) if deep else self.products
        self.luts, self.counts = np.empty((nq * max(1, deep), 1, m + m % 2, 16), np.uint8), np.ones(m, F)
        self.scales, self.starts = np.empty(nq, F), np.empty(nq, F)

    def fill(self, keys: Any, coarse: Any, biases: Any, terms: Any) -> None:
        """Products or distances, and from them the tables of floats."""
        nq, flat = self.x.shape[0], self.products[:, 0]
        fill_tables(self.x, self.transposed, NO_FLOATS, self.ip or self.deep, F(-2 if self.deep else 1), flat, 0, nq)
        if self.deep:
            _deepen(flat, terms, keys, coarse, self.tables, biases, 0, nq)

    def scan(self, keys: Any, biases: Any, named: int, costs: Any, labels: Any, together: bool) -> Any:
        """Quantise the tables and scan."""
        nq, m = self.products.shape[0], self.products.shape[2]
        added = np.empty(biases.shape, np.int32)
        fill_luts(self.tables, biases, self.deep, self.counts, m, self.luts, added, self.scales, self.starts, 0, nq)
        head = (self.luts, added if added.shape[1] else NO_BIASES, np.uint16(0), 0, self.scales, self.starts, *self.arena)
        if together:
            shared = (*head, keys, self.ip, NO_MASK, named, costs, labels, 0, nq)
            return by_list(*shared)
        alone = (*head, keys, self.ip, NO_BOUNDS, NO_MASK, NO_LIMITS, named, costs, labels, np.empty(nq, I64), 0, nq)
        return by_query(*alone)


def few_rows(x: Tensor, transposed: Tensor, metric: int, lists: Ragged, per_block: int, k: int) -> Any:
    if not LANES:
        return NotImplemented
    queries, parts, arena, ip = x.numpy(), transposed.numpy(), _arena(lists, per_block), metric == INNER_PRODUCT
    nq = queries.shape[0]
    costs, labels = np.empty((nq, k), F32), np.empty((nq, k), I64)

    def block(first: int, last: int) -> None:
        # Some at a time, as each query asks for every list.
        for a in range(first, last, 256):
            b = min(a + 256, last)
            keys, none = np.empty((b - a, lists.nlist), I64), np.empty((b - a, 0), F)
            keys[:] = np.arange(lists.nlist)
            few = _Few(queries[a:b], parts, ip, arena, 0)
            few.fill(keys, none, none, NO_TERMS)
            few.scan(keys, none, 2, costs[a:b], labels[a:b], b - a > 1)

    per_query = float(arena[4].sum()) * transposed.shape[0] * _NS_OF_PART + 1000.0
    if nq == 1 or nq * per_query < 2 * GRAIN:
        block(0, nq)
    else:
        run_blocks(block, nq, max(TOGETHER, int(GRAIN / per_query)))
    return torch.from_numpy(costs), torch.from_numpy(labels)


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
) -> Any:
    if not LANES:
        return NotImplemented
    queries, parts, table, arena = x.numpy(), transposed.numpy(), centers.numpy(), _arena(lists, per_block)
    nq, ip, deep = queries.shape[0], metric == INNER_PRODUCT, 0 if terms is None else nprobe
    given = NO_TERMS if terms is None else terms.numpy()
    costs, labels = np.empty((nq, k), F32), np.empty((nq, k), I64)
    done: list[Any] = []
    seconds: list[float] = []

    def block(a: int, b: int) -> None:
        coarse, keys = np.empty((b - a, nprobe), F32), np.empty((b - a, nprobe), I64)
        started = perf_counter()
        nearest(queries[a:b], table, ip, coarse, keys, 0, b - a)
        seconds.append(perf_counter() - started)
        few = _Few(queries[a:b], parts, ip, arena, deep)
        biases = coarse if residual and not deep else np.empty((b - a, deep), F)
        few.fill(keys, coarse, biases, given)
        done.append(few.scan(keys, biases, 0, costs[a:b], labels[a:b], False))

    per_query = table.size * 0.12 + average_work(nprobe, arena[2:], parts.shape[0] * _NS_OF_PART)
    if nq == 1 or nq * per_query < 2 * GRAIN:
        block(0, nq)
    else:
        run_blocks(block, nq, max(1, int(GRAIN / per_query)))
    return torch.from_numpy(costs), torch.from_numpy(labels), counts_of(done), sum(seconds)


def block_sums(luts: Tensor, blocks: Tensor, per_block: int) -> Any:
    if not LANES:
        return NotImplemented
    out = np.empty((luts.shape[0], blocks.shape[0] * per_block), np.int32)
    given = (luts.contiguous().numpy(), blocks.numpy(), per_block, out)
    run_blocks(lambda a, b: sums_of(*given, a, b), blocks.shape[0], max(1, 4096 // (1 + luts.shape[0])))
    return torch.from_numpy(out)
