"""Scoring additive codes: by tables of the query's products with all entries, and what a stored row adds apart from the query."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.algorithms.additive import Codebooks, split
from tsscompat.algorithms.blocks import block_rows
from tsscompat.algorithms.ivf import Options
from tsscompat.kernels.ivf import Range, Top, scan_tables, within_tables
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.records import record

# What a scan adds for each query and list, of (x, keys, coarse).
Base = Callable[[Tensor, Tensor, Tensor], Tensor]


@record
class Sums:
    """Scores base + terms[row] + scale * the sum of the products of x - shift with the entries that a code names."""

    table: Tensor  # (M * K, d)
    parts: int
    nbits: int
    scale: float
    largest: bool
    base: Base
    shift: Tensor | None = None
    terms: Tensor | None = None

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def _given(self, x: Tensor, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor | None, int]:
        asked = x if self.shift is None else x - self.shift
        tables = (self.scale * (asked @ self.table.t())).view(x.shape[0], self.parts, 1 << self.nbits)
        return tables, self.base(x, keys, coarse).contiguous(), self.terms, self.nbits

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        # The tables of some queries at a time.
        step, found = block_rows(x, self.table.shape[0]), []
        for i in range(0, max(1, x.shape[0]), step):
            some, limits = keys[i : i + step], None if options.limits is None else options.limits[i : i + step]
            given = self._given(x[i : i + step], some, coarse[i : i + step])
            found.append(scan_tables(*given, lists, some, k, self.largest, options.allowed, limits, options.pairs))
        if len(found) == 1:
            return found[0]
        counts = [part[2] for part in found]
        totals = (sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts))
        return torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found]), totals

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        given = self._given(x, keys, coarse)
        return within_tables(*given, lists, keys, radius, self.largest, options.allowed, options.limits, options.pairs)


def centred(books: Codebooks, point: Tensor) -> Tensor:
    """The table of codebooks whose sums lie around 0 where those of `books` lie around a point: the first one is moved."""
    table = books.table.clone()
    table[: books.first[1]] -= point
    return table


def middle(books: Codebooks) -> Tensor:
    """A point amid the sums: the sum of the codebooks' means."""
    return torch.stack([books.book(m).mean(0) for m in range(len(books.nbits))]).sum(0)


def row_terms(books: Codebooks, codes: Tensor, norms: Tensor | None, weight: float, around: Tensor | None) -> Tensor:
    """|r|^2 (or the norms that are given; none where the weight is 1) + weight * <around, r> of the sums r that codes stand for."""
    if weight == 2.0 and norms is not None and around is None:
        return norms
    sums = books.decode(split(codes, books.nbits))
    total = sums.new_zeros(sums.shape[0]) if weight == 1.0 else sums.square().sum(1) if norms is None else norms
    return total if around is None else total + weight * (around * sums).sum(1)


def factors(sums: Tensor, centers: Tensor | None, norms: Tensor | None, half: bool) -> Tensor:
    """What stands for codes in products (see Estimated): vectors and, in a last column, what is added to squared distances to them.

    `half`: the distance is to be |x - c|^2 - <x - c, r>.
    """
    lengths = sums.square().sum(1)
    rest = -lengths / 4 if half else (torch.zeros_like(lengths) if norms is None else norms - lengths)
    vectors = sums / 2 if half else sums
    return torch.cat([vectors if centers is None else vectors + centers, rest[:, None]], 1)
