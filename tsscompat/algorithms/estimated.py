"""Searching codes whose distances are estimates: not the distances to the decoded vectors, but with a correction for each code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import Decoded, Options
from tsscompat.kernels.ivf import Range, Top, scan_flat, scan_tables, within_flat, within_tables
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.records import record


def _plain(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x.new_zeros(x.shape[0])


@record
class Estimated(Decoded):
    """Codes scored by products of their factors with a query's.

    `decode` gives factors (n, d) and a last column; `asked` the factors of queries and a number for each. The inner product is that of
    the factors; the squared distance is that of the factors plus the two numbers, and with `clamped` at least 0.
    """

    asked: Callable[[Tensor], tuple[Tensor, Tensor]] = _plain
    clamped: bool = False

    def _lifted(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and rows whose plain distances are the estimates, but for what has to be added for each query."""
        queries, own = self.asked(x)
        known = rows[:, :-1]
        if self.metric == INNER_PRODUCT:
            return queries.contiguous(), known.contiguous(), torch.zeros_like(own)
        # One dimension more, in which queries are 0, holds the correction, made positive.
        extra = rows[:, -1:]
        least = extra.amin().clamp(max=0) if extra.numel() else extra.new_zeros(())
        lifted = torch.cat([known, (extra - least).clamp(min=0).sqrt()], 1)
        return torch.nn.functional.pad(queries, (0, 1)), lifted, own + least

    def _best(self, x: Tensor, rows: Tensor, lists: Ragged, keys: Tensor, k: int, options: Options) -> Top:
        queries, known, more = self._lifted(x, rows)
        distances, labels, counts = scan_flat(
            queries, known, lists, keys, k, self.metric, 0.0, options.allowed, options.limits, options.pairs
        )
        distances = distances + torch.where(labels >= 0, more[:, None], 0)
        if not self.clamped or self.metric == INNER_PRODUCT:
            return distances, labels, counts
        # What became 0 is tied, and ties go by label.
        labels, order = labels.sort(dim=1, stable=True)
        distances, order = distances.clamp(min=0).gather(1, order).sort(dim=1, stable=True)
        return distances, labels.gather(1, order), counts

    def _inside(self, x: Tensor, rows: Tensor, lists: Ragged, keys: Tensor, radius: float, options: Options) -> Range:
        queries, known, more = self._lifted(x, rows)
        if self.metric == INNER_PRODUCT:
            return within_flat(
                queries, known, lists, keys, radius, self.metric, 0.0, options.allowed, options.limits, options.pairs
            )
        # The scan takes one radius for all: the widest, then each query's own.
        widest = radius - float(more.min()) if more.numel() else radius
        lims, distances, labels, counts = within_flat(
            queries, known, lists, keys, widest, self.metric, 0.0, options.allowed, options.limits, options.pairs
        )
        owner = torch.repeat_interleave(lims.diff())
        distances = distances + more[owner]
        distances = distances.clamp(min=0) if self.clamped else distances
        inside = distances < radius
        lims = torch.cat([lims.new_zeros(1), torch.cumsum(torch.bincount(owner[inside], minlength=x.shape[0]), 0)])
        return lims, distances[inside], labels[inside], (counts[0], counts[1], int(lims[-1]))

    def between(self, x: Tensor, codes: Tensor, list_nos: Any) -> Tensor:
        """The distance of one query to each code."""
        rows, (queries, own) = self.decode(codes, list_nos), self.asked(x[None])
        known = rows[:, :-1]
        if self.metric == INNER_PRODUCT:
            return known @ queries[0]
        distances = (known - queries).square().sum(1) + rows[:, -1] + own
        return distances.clamp(min=0) if self.clamped else distances


@record
class Coarse:
    """Codes of no bytes: the distance to an entry is that to its list's center."""

    metric: int

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def _given(self, x: Tensor, coarse: Tensor, lists: Ragged) -> tuple[Tensor, Tensor, None, int, Ragged]:
        # One code for all, and a table of zeros.
        codes = torch.zeros(lists.ids.shape[0], 1, dtype=torch.uint8, device=x.device)
        return x.new_zeros(x.shape[0], 1, 256), coarse, None, 8, Ragged(codes, lists.ids, lists.offsets, lists.sizes)

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        given = self._given(x, coarse, lists)
        return scan_tables(*given, keys, k, self.metric == INNER_PRODUCT, options.allowed, options.limits, options.pairs)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        given = self._given(x, coarse, lists)
        return within_tables(*given, keys, radius, self.metric == INNER_PRODUCT, options.allowed, options.limits, options.pairs)
