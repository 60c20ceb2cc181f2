"""Compiled twins of kernels/fastscan.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.fastscan import Tables, bounds
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.numba.blocks_scan import by_list, by_query, sums_of
from tsscompat.kernels.numba.fastscan_few import NS_OF_PART, few_lists, few_rows
from tsscompat.kernels.numba.fastscan_tables import quantize_some
from tsscompat.kernels.numba.ivf import F32, GRAIN, I64, NO_LIMITS, NO_MASK, counts_of, top, within, work
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.nibbles import LANES
from tsscompat.kernels.threads import max_threads, run_blocks

F, NO_BIASES, NO_BOUNDS = np.float32, np.zeros((0, 0), np.int32), np.zeros(0, np.float32)
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
    run_blocks(lambda a, b: quantize_some(whole, *rest, a, b), nq, max(1, (1 << 17) // max(1, probes * m * 16)))
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
    per_query = work(probed, head[8:], tables.parts * NS_OF_PART)
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
    per_query = work(keys.numpy(), head[8:], tables.parts * NS_OF_PART)
    return within(by_query, head, keys.numpy(), (largest, bars, mask, few, int(pairs)), per_query)


def block_sums(luts: Tensor, blocks: Tensor, per_block: int) -> Any:
    if not LANES:
        return NotImplemented
    out = np.empty((luts.shape[0], blocks.shape[0] * per_block), np.int32)
    given = (luts.contiguous().numpy(), blocks.numpy(), per_block, out)
    run_blocks(lambda a, b: sums_of(*given, a, b), blocks.shape[0], max(1, 4096 // (1 + luts.shape[0])))
    return torch.from_numpy(out)


__all__ = [
    "block_sums",
    "few_lists",
    "few_rows",
    "put_rows",
    "quantize",
    "scan_blocks",
    "take_rows",
    "within_blocks",
]
