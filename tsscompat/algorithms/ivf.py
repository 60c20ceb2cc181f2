"""Searching inverted lists: what is visited, how each codec scores it, and what becomes of the answers.

A codec here is a small record with two methods, `top` and `within`, which scan the probed lists. A new one need only decode: `Decoded`
turns the probed lists into vectors, and scores those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tsscompat.algorithms.blocks import block_rows
from tsscompat.kernels.ivf import (
    Affine,
    Range,
    Top,
    scan_affine,
    scan_flat,
    scan_polysemous,
    within_affine,
    within_flat,
    within_tables,
)
from tsscompat.kernels.ivf_few import Few, few_affine, few_flat, few_product
from tsscompat.kernels.ivf_lists import Ragged, runs
from tsscompat.kernels.ivf_product import scan_product
from tsscompat.kernels.ivf_terms import list_scores, product_terms, query_tables
from tsscompat.kernels.metrics import INNER_PRODUCT, is_similarity
from tsscompat.records import record

__all__ = [
    "Decoded",
    "Flat",
    "ListCodec",
    "Options",
    "Polysemous",
    "Product",
    "Scalar",
    "Top",
    "combined",
    "joined_ranges",
    "limits_of",
    "rows_allowed",
    "term_sums",
    "vectors_of",
]

# Decoded lists are held in blocks of about this many bytes.
_BLOCK_BYTES = 1 << 27


@record
class Options:
    """What restricts a scan: rows of the arena, entries of each probed list; and whether labels are (list, position) pairs."""

    allowed: Tensor | None = None
    limits: Tensor | None = None
    pairs: bool = False


class Scorer(Protocol):
    """How the codes in lists are scored; `coarse` (nq, nprobe) are the distances to the probed centroids."""

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top: ...

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range: ...


class ListCodec(Scorer, Protocol):
    """A scorer that may search and scan at once.

    `quick` does so where the coarse quantizer is a table of centers of the same metric: None where it cannot.
    """

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None: ...


def rows_allowed(lists: Ragged, keys: Tensor, member: Callable[[Tensor], Tensor]) -> Tensor:
    """A bool for each row of the arena: whether its id is a member; only the probed lists' ids are asked."""
    probed = torch.unique(keys)
    probed = probed[probed >= 0]
    rows, _ = runs(lists.offsets[probed], lists.sizes[probed])
    allowed = torch.zeros(lists.ids.shape[0], dtype=torch.bool, device=keys.device)
    allowed[rows] = member(lists.ids[rows])
    return allowed


def limits_of(lists: Ragged, keys: Tensor, allowed: Tensor | None, max_codes: int, whole: bool) -> Tensor:
    """How many first entries of each probed list count when a query may score max_codes entries.

    As FAISS counts: the last list is cut to what is left of the budget (not when `whole`), entries that are not allowed cost nothing, and
    the search ends with the list that uses the budget up.
    """
    known = keys.clamp(min=0)
    sizes = torch.where(keys >= 0, lists.sizes[known], 0)
    if allowed is None:
        before = torch.cumsum(sizes, 1) - sizes
        left = (max_codes - before).clamp(min=0)
        return torch.where(left > 0, sizes, 0) if whole else torch.minimum(sizes, left)
    counted = torch.cat([torch.zeros(1, dtype=torch.int64, device=keys.device), torch.cumsum(allowed, 0)])
    taken = torch.zeros_like(sizes)
    left = torch.full_like(sizes[:, 0], max_codes) if keys.shape[1] else sizes.new_zeros(keys.shape[0])
    for p in range(keys.shape[1]):
        take = sizes[:, p] if whole else torch.minimum(sizes[:, p], left)
        taken[:, p] = torch.where(left > 0, take, 0)
        start = lists.offsets[known[:, p]]
        left = left - (counted[start + taken[:, p]] - counted[start])
    return taken


def combined(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], largest: bool) -> tuple[Tensor, Tensor]:
    """The best k of two answers of k to the same queries; on ties the first answer's come first."""
    distances, labels = torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)
    costs = torch.where(labels >= 0, -distances if largest else distances, float("inf"))
    order = costs.sort(dim=1, stable=True).indices[:, : first[0].shape[1]]
    return distances.gather(1, order), labels.gather(1, order)


@record
class Flat:
    """Codes are the vectors themselves."""

    metric: int
    metric_arg: float = 0.0

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return few_flat(x, centers, nprobe, vectors_of(lists), lists, k, self.metric)

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        return scan_flat(
            x, vectors_of(lists), lists, keys, k, self.metric, self.metric_arg, options.allowed, options.limits, options.pairs
        )

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        return within_flat(
            x,
            vectors_of(lists),
            lists,
            keys,
            radius,
            self.metric,
            self.metric_arg,
            options.allowed,
            options.limits,
            options.pairs,
        )


def vectors_of(lists: Ragged) -> Tensor:
    """The rows of lists whose codes are the vectors."""
    rows: Tensor | None = lists.kept.get("vectors")
    if rows is None:
        rows = lists.kept["vectors"] = lists.codes.view(torch.float32)
    return rows


@record
class Scalar:
    """Codes are scalars of few bits, of the vector or, with `centers`, of its residual."""

    affine: Affine
    metric: int
    centers: Tensor | None = None
    residual: bool = False

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return few_affine(x, centers, nprobe, self.affine, self.residual, lists, k, self.metric)

    def _base(self, coarse: Tensor) -> Tensor | None:
        return coarse if self.residual and self.metric == INNER_PRODUCT else None

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        given = (x, self.affine, self.centers, self._base(coarse), lists, keys)
        return scan_affine(*given, k, self.metric, options.allowed, options.limits, options.pairs)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        given = (x, self.affine, self.centers, self._base(coarse), lists, keys)
        return within_affine(*given, radius, self.metric, options.allowed, options.limits, options.pairs)


def term_sums(lists: Ragged, centroids: Tensor, nbits: int, centers: Callable[[Tensor], Tensor], shift: Tensor) -> Tensor:
    """For each row of the arena, |r|^2 + 2 <c - shift, r> of its decoded residual r and its list's center c.

    With it |x - c - r|^2 is |x - c|^2 plus this minus 2 <x - shift, r>: no table for each list is needed, only one for each query. The
    shift, a mean of the data, keeps the two products small beside the distance, so that little is lost in rounding.
    """
    terms = torch.zeros(lists.ids.shape[0], device=lists.ids.device)
    filled = lists.sizes.nonzero().squeeze(1)
    step = max(1, _BLOCK_BYTES // (4 * shift.shape[0]))
    for i in range(0, filled.shape[0], step):
        some = filled[i : i + step]
        product_terms(lists.codes, centroids, nbits, centers(some) - shift, lists.offsets[some], lists.sizes[some], terms)
    return terms


@record
class Product:
    """Product codes, scored with one table for each query.

    A table has, for each part and centroid, the distance of the query's part (`plain`) or `scale` times the product of the query less
    `shift` with it. What is added for a list is the coarse distance, the distance to its center where `centers` is given, or with `plain`
    nothing; what is added for a row is in `terms`.
    """

    transposed: Tensor  # (M, dsub, ksub)
    nbits: int
    metric: int
    plain: bool
    scale: float = 1.0
    shift: Tensor | None = None
    terms: Tensor | None = None
    centers: Tensor | None = None

    @property
    def largest(self) -> bool:
        return self.metric == INNER_PRODUCT

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        code = (self.transposed, self.nbits, self.plain, self.scale, self.shift, self.terms)
        return few_product(x, centers, nprobe, *code, lists, k, self.metric)

    def _base(self, x: Tensor, keys: Tensor, coarse: Tensor) -> Tensor:
        """What is added for each list."""
        if self.plain:
            return torch.zeros(keys.shape, device=x.device)
        return coarse if self.centers is None else list_scores(x, self.centers, keys, self.metric)

    def sums(self, x: Tensor, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor | None, int]:
        """The tables, what is added for each list and each row, and the bits of a part."""
        if self.plain:
            tables = query_tables(x, self.transposed, None, self.metric, 1.0)
        else:
            tables = query_tables(x, self.transposed, self.shift, INNER_PRODUCT, self.scale)
        return tables, self._base(x, keys, coarse), self.terms, self.nbits

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        code = (self.transposed, self.nbits, self.plain, self.scale, self.shift, self.terms, self._base(x, keys, coarse))
        return scan_product(x, *code, lists, keys, k, self.metric, options.allowed, options.limits, options.pairs)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        # Some queries at a time: the tables of 1,000 take 16 MiB for 16 parts, those of 64 stay in the cache.
        found = []
        step = max(32, block_rows(x, 4 * self.transposed.shape[0] * self.transposed.shape[2]))
        for i in range(0, max(1, x.shape[0]), step):
            rows = slice(i, i + step)
            limits = None if options.limits is None else options.limits[rows]
            given = self.sums(x[rows], keys[rows], coarse[rows])
            found.append(within_tables(*given, lists, keys[rows], radius, self.largest, options.allowed, limits, options.pairs))
        return found[0] if len(found) == 1 else joined_ranges(found)


def joined_ranges(parts: list[Range]) -> Range:
    """The answers of consecutive queries as one."""
    ends = torch.cat([lims.diff() for lims, *_ in parts]).cumsum(0)
    visited, scored, entered = (sum(counts) for counts in zip(*(part[3] for part in parts)))
    values, names = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    return torch.cat([ends.new_zeros(1), ends]), values, names, (visited, scored, entered)


@record
class Polysemous:
    """Product codes, of which only those are scored whose bits differ in few places from the query's own code."""

    product: Product
    signatures: Callable[[Tensor, Tensor], Tensor]  # (x, keys) -> codes (nq * nprobe, code_size)
    threshold: int

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        given = (*self.product.sums(x, keys, coarse), self.signatures(x, keys), self.threshold, lists, keys)
        return scan_polysemous(*given, k, self.product.largest, options.allowed, options.limits, options.pairs)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        # Everything in the probed lists is within some k: ask for all, then cut.
        widest = int(torch.where(keys >= 0, lists.sizes[keys.clamp(min=0)], 0).sum(1).max()) if keys.numel() else 0
        distances, labels, counts = self.top(x, keys, coarse, lists, max(1, widest), options)
        inside = (labels >= 0) & (distances > radius if self.product.largest else distances < radius)
        lims = torch.cat([keys.new_zeros(1), torch.cumsum(inside.sum(1), 0)])
        return lims, distances[inside], labels[inside], counts


@record
class Decoded:
    """Any codec that can be decoded: `decode(codes, list_nos)` gives vectors, the probed lists are decoded block by block and scored."""

    decode: Callable[[Tensor, Tensor], Tensor]
    d: int
    metric: int
    metric_arg: float = 0.0

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def _blocks(self, keys: Tensor, lists: Ragged, options: Options) -> list[tuple[Tensor, Ragged, Tensor, Tensor | None]]:
        """(keys, lists, vectors, allowed) of blocks of the probed lists; keys outside a block are -1."""
        probed = torch.unique(keys)
        probed = probed[probed >= 0]
        ends = torch.cumsum(lists.sizes[probed], 0)
        block = ends * 4 * self.d // _BLOCK_BYTES
        blocks = []
        for number in torch.unique(block).tolist():
            chosen = probed[block == number]
            rows, which = runs(lists.offsets[chosen], lists.sizes[chosen])
            sizes = torch.zeros_like(lists.sizes)
            sizes[chosen] = lists.sizes[chosen]
            part = Ragged(lists.codes[rows], lists.ids[rows], torch.cumsum(sizes, 0) - sizes, sizes)
            inside = torch.zeros(lists.nlist, dtype=torch.bool, device=keys.device)
            inside[chosen] = True
            here = torch.where((keys >= 0) & inside[keys.clamp(min=0)], keys, -1)
            allowed = None if options.allowed is None else options.allowed[rows]
            blocks.append((here, part, self.decode(part.codes, chosen[which]), allowed))
        return blocks

    def _best(self, x: Tensor, rows: Tensor, lists: Ragged, keys: Tensor, k: int, options: Options) -> Top:
        """The k best of a block."""
        allowed, limits, pairs = options.allowed, options.limits, options.pairs
        return scan_flat(x, rows, lists, keys, k, self.metric, self.metric_arg, allowed, limits, pairs)

    def _inside(self, x: Tensor, rows: Tensor, lists: Ragged, keys: Tensor, radius: float, options: Options) -> Range:
        """All of a block within a radius."""
        allowed, limits, pairs = options.allowed, options.limits, options.pairs
        return within_flat(x, rows, lists, keys, radius, self.metric, self.metric_arg, allowed, limits, pairs)

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        largest = is_similarity(self.metric)
        worst = torch.finfo(torch.float32).max * (-1 if largest else 1)
        best = (torch.full((x.shape[0], k), worst, device=x.device), torch.full((x.shape[0], k), -1, device=x.device))
        counted = [0, 0, 0]
        for here, part, vectors, allowed in self._blocks(keys, lists, options):
            *found, counts = self._best(x, vectors, part, here, k, Options(allowed, options.limits, options.pairs))
            best = combined(best, (found[0], found[1]), largest)
            counted = [a + b for a, b in zip(counted, counts)]
        return *best, (counted[0], counted[1], counted[2])

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        owners, distances, labels, counted = [], [], [], [0, 0, 0]
        for here, part, vectors, allowed in self._blocks(keys, lists, options):
            lims, d, i, counts = self._inside(x, vectors, part, here, radius, Options(allowed, options.limits, options.pairs))
            owners.append(torch.repeat_interleave(lims.diff()))
            distances.append(d)
            labels.append(i)
            counted = [a + b for a, b in zip(counted, counts)]
        none = torch.empty(0, device=x.device)
        owner = torch.cat([none.to(torch.int64), *owners])
        order = torch.argsort(owner, stable=True)
        hits = torch.bincount(owner, minlength=x.shape[0])
        lims = torch.cat([hits.new_zeros(1), torch.cumsum(hits, 0)])
        found = torch.cat([none, *distances])[order], torch.cat([none.to(torch.int64), *labels])[order]
        return lims, *found, (counted[0], counted[1], counted[2])
