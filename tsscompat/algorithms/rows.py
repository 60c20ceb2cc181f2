"""Searching codes that stand one after the other with the scans of inverted lists: runs of rows are the lists, and every one is probed."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import Options, Scorer
from tsscompat.kernels.ivf import Range, Top, scan_tables, within_tables
from tsscompat.kernels.ivf_lists import Ragged, row_numbers
from tsscompat.records import record

# Rows of a list: short enough for a single query's lists to be dealt out to threads evenly.
RUN = 4096


@record
class Tables:
    """Product codes scored by tables (nq, M, ksub) that are given."""

    tables: Tensor
    nbits: int
    largest: bool

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        given = (self.tables, coarse, None, self.nbits, lists, keys)
        return scan_tables(*given, k, self.largest, options.allowed, options.limits, options.pairs)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        given = (self.tables, coarse, None, self.nbits, lists, keys)
        return within_tables(*given, radius, self.largest, options.allowed, options.limits, options.pairs)


def as_lists(codes: Tensor) -> Ragged:
    """The rows as lists of consecutive ones."""
    n, device = codes.shape[0], codes.device
    offsets = torch.arange(0, max(n, 1), RUN, device=device)
    sizes = (n - offsets).clamp(max=RUN)
    # Labels are asked for as (list, position), so the ids are never read: memory that is not touched costs nothing.
    return Ragged(codes, torch.empty(n, dtype=torch.int64, device=device), offsets, sizes)


def _probes(nq: int, lists: Ragged) -> tuple[Tensor, Tensor]:
    """Every list for every query, and coarse distances of 0; kept for a single query, where making them takes longer than the search."""
    made: tuple[Tensor, Tensor] | None = lists.kept.get("probes") if nq == 1 else None
    if made is None:
        keys = torch.arange(lists.nlist, device=lists.offsets.device).expand(nq, -1).contiguous()
        made = keys, torch.zeros(keys.shape, device=keys.device)
        if nq == 1:
            lists.kept["probes"] = made
    return made


def top(codec: Scorer, x: Tensor, lists: Ragged, k: int, allowed: Tensor | None, run: int = RUN) -> tuple[Tensor, Tensor]:
    """The k best rows for each query, the lists being runs of so many rows."""
    distances, labels, _ = codec.top(x, *_probes(x.shape[0], lists), lists, k, Options(allowed, None, True))
    return distances, row_numbers(labels, run)


def within(codec: Scorer, x: Tensor, lists: Ragged, radius: float, allowed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All rows within a radius of each query."""
    lims, distances, labels, _ = codec.within(x, *_probes(x.shape[0], lists), lists, radius, Options(allowed, None, True))
    return lims, distances, row_numbers(labels, RUN)
