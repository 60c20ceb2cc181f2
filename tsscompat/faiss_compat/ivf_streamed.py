"""Searches of an index on a GPU whose lists are in the host's memory.

The lists that are probed come to the GPU in blocks, of which one travels while the one before it is scanned. Codes travel, and what scoring
needs beside them; ids stay: a block's answer names places in lists, and what is found in the end is looked up on the host, which waits for
the GPU. Answers are those of an index whose lists are on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import Options, limits_of, rows_allowed
from tsscompat.algorithms.streamed import Best, Block, blocks, probe_of
from tsscompat.devices import pinned
from tsscompat.errors import OutOfDeviceMemory, check
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import is_similarity

R = TypeVar("R")

# What both rooms for blocks take together, unless the resources say so (setTempMemory).
_ROOMS = 1 << 29
# How often a search that ran out of memory is tried again, each time with rooms of an eighth.
_TRIES = 4


def within_rooms(index: Any, row_bytes: int, call: Callable[[int], R]) -> R:
    """call(rows of a block), again with less when the device's memory runs out; an error that says so when too little is left for any."""
    wanted = getattr(getattr(index, "_gpu_resources", None), "_temp_memory", None)
    rows = max(1, (_ROOMS if wanted is None else wanted) // (2 * row_bytes))
    for left in range(_TRIES, -1, -1):
        try:
            return call(rows)
        except (torch.OutOfMemoryError, OutOfDeviceMemory) as e:
            if rows == 1 or not left:
                size = 2 * rows * row_bytes
                raise OutOfDeviceMemory(f"there is no room for blocks of lists, even of {size >> 10} KiB together: {e}") from e
        # What the failed call held is free by now.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rows = max(1, rows >> 3)
    raise AssertionError("unreachable")


class _Scan:
    """One search of lists on the host."""

    def __init__(self, index: Any, keys: Tensor, params: Any, k: int | None) -> None:
        self.index, self.keys, self.params = index, keys.contiguous(), params
        self.lists: Ragged = index._lists()._fetched()
        self.names = keys[keys >= 0].unique().cpu()
        sel = None if params is None else params.sel
        self.allowed = None if sel is None else pinned(rows_allowed(self.lists, keys.cpu(), sel._mask))
        self.limits = None if k is None else self._limits(k)
        self.terms: tuple[Tensor, ...] = index._row_columns()
        self.counts: list[Any] = [0, 0]  # lists visited, codes scored

    def _limits(self, k: int) -> Tensor | None:
        index, params = self.index, self.params
        budget, whole = (index.max_codes, False) if params is None else (params.max_codes, params.ensure_topk_full)
        if not budget:
            return None
        budget = max(budget, k) if whole else budget
        return limits_of(self.lists, self.keys.cpu(), self.allowed, budget, whole).to(self.keys.device)

    def row_bytes(self) -> int:
        """What a row of a block takes on the device."""
        columns = sum(c[:1].nbytes for c in self.columns())
        return int(self.lists.codes.shape[1]) + columns + 8

    def columns(self) -> tuple[Tensor, ...]:
        """What travels with the codes."""
        return self.terms if self.allowed is None else (*self.terms, self.allowed)

    def parts(self, rows: int) -> Iterator[tuple[Block, Any, Tensor, Options]]:
        """Blocks, how their codes are scored, the probes that are in them, and what these are restricted to."""
        self.counts = [0, 0]
        for block in blocks(self.lists, self.names, self.columns(), rows, self.keys.device):
            known = self.keys.clamp(min=0)
            here = torch.where((self.keys >= 0) & (block.lists.sizes[known] > 0), self.keys, -1)
            limits = None if self.limits is None else (self.limits - block.first[known]).clamp(min=0)
            allowed = None if self.allowed is None else block.columns[-1]
            codec = self.index._codec_of_part(self.params, block.columns[: len(self.terms)])
            # Lists may be split: they are counted where they begin.
            begun = (here >= 0) & (block.first[known] == 0)
            self.counts[0] = self.counts[0] + (begun if limits is None else begun & (limits > 0)).sum()
            yield block, codec, here, Options(allowed, limits, True)

    def labels(self, pairs: Tensor, wanted: bool) -> Tensor:
        """The ids of (list, position) pairs, or with `wanted` the pairs themselves."""
        if wanted:
            return pairs
        places = pairs.cpu()
        rows = self.lists.offsets[(places >> 32).clamp(min=0)] + (places & 0xFFFFFFFF)
        if not self.lists.ids.shape[0]:
            return pairs
        return torch.where(places >= 0, self.lists.ids[torch.where(places >= 0, rows, 0)], -1).to(pairs.device)


def search_streamed(
    index: Any, x: Tensor, k: int, keys: Tensor, coarse: Tensor, params: Any, pairs: bool
) -> tuple[Tensor, Tensor]:
    """The k best in given lists."""
    largest = is_similarity(index.metric_type)
    scan = _Scan(index, keys, params, k)
    index._check_pairs(None if params is None else params.sel, pairs)

    def call(rows: int) -> Best:
        best = Best.none(x.shape[0], k, x.device)
        for block, codec, here, options in scan.parts(rows):
            values, places, counts = codec.top(x, here, coarse, block.lists, k, options)
            best = best.and_also(values, places, block.first, keys, largest)
            scan.counts[1] = scan.counts[1] + counts[1]
        return best

    best = within_rooms(index, scan.row_bytes(), call)
    index._count(x.shape[0], (int(scan.counts[0]), int(scan.counts[1]), int((best.pairs >= 0).sum())))
    return best.answer(scan.labels(best.pairs, pairs), largest)


def range_streamed(
    index: Any, x: Tensor, radius: float, keys: Tensor, coarse: Tensor, params: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """All within a radius in given lists, in the order of the scan."""
    scan = _Scan(index, keys, params, None)
    patience = 0 if params is None else params.max_empty_result_buckets
    check(patience == 0 or index.parallel_mode == 0, "max_empty_result_buckets supported only for parallel_mode = 0")

    def call(rows: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        found = []
        for block, codec, here, options in scan.parts(rows):
            lims, values, places, counts = codec.within(x, here, coarse, block.lists, radius, options)
            query = torch.repeat_interleave(lims.diff())
            places = places + block.first[places >> 32]
            scan.counts[1] = scan.counts[1] + counts[1]
            found.append((query, values, places, _met(keys, query, places)))
        return found

    found = within_rooms(index, scan.row_bytes(), call)
    none = keys.new_empty(0)
    empty = (none, torch.empty(0, device=x.device), none, none)
    query, values, places, met = (torch.cat(parts) for parts in zip(empty, *found))
    if patience:
        kept = (met >> 32) < _end(query, met >> 32, keys, patience)[query]
        query, values, places, met = query[kept], values[kept], places[kept], met[kept]
    order = met.argsort()
    order = order[query[order].argsort(stable=True)]
    index._count(x.shape[0], (int(scan.counts[0]), int(scan.counts[1]), 0))
    hits = torch.bincount(query, minlength=x.shape[0])
    return torch.cat([none.new_zeros(1), hits.cumsum(0)]), values[order], scan.labels(places[order], False)


def _met(keys: Tensor, query: Tensor, places: Tensor) -> Tensor:
    """Where in the scan of their queries entries come: probe << 32 | position."""
    return (probe_of(keys[query], (places >> 32)[:, None])[:, 0] << 32) | (places & 0xFFFFFFFF)


def _end(query: Tensor, probe: Tensor, keys: Tensor, patience: int) -> Tensor:
    """The first probe of each query that is not made, after `patience` in a row without a result."""
    nq, nprobe = keys.shape
    hits = torch.bincount(query * nprobe + probe, minlength=nq * nprobe).view(nq, nprobe)
    misses, end = torch.zeros(nq, dtype=torch.int64, device=keys.device), torch.full((nq,), nprobe, device=keys.device)
    for p in range(nprobe):
        end = torch.where((misses >= patience) & (end == nprobe), p, end)
        misses = torch.where((hits[:, p] > 0) & (misses < patience), 0, misses + 1)
    return end
