"""Scans of inverted lists: the best k of the entries in the lists that each query probes, or all within a radius.

Every scan takes `keys` (nq, nprobe), the probed lists (-1: none), and answers distances, labels and counts: lists visited, codes scored,
results that entered a heap. `allowed` (one bool per row of the arena) restricts the entries, `limits` (nq, nprobe) how many of each
list's first entries count. A label is the entry's id or, with `pairs`, list number << 32 | position in the list. Results tied at the end
keep the order of the scan; in the answer, ties go by label: up for distances, down for similarities, as in FAISS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import unpack
from tsscompat.kernels.flat import knn
from tsscompat.kernels.ivf_lists import Ragged, runs
from tsscompat.kernels.metrics import INNER_PRODUCT, L2, is_similarity, pairwise
from tsscompat.records import record

Top = tuple[Tensor, Tensor, tuple[int, int, int]]
Range = tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]
# Scores of candidates: (query numbers (b,), rows of the arena (b, m), pair numbers query * nprobe + probe (b, m)) -> (b, m).
Score = Callable[[Tensor, Tensor, Tensor], Tensor]

# Candidates are scored in blocks of about this many bytes.
_BLOCK_BYTES = 1 << 26


class _Candidates:
    """The entries that each query of a block sees, in the order of the scan, padded with row -1."""

    def __init__(self, lists: Ragged, keys: Tensor, allowed: Tensor | None, limits: Tensor | None) -> None:
        nq, nprobe = keys.shape
        known = keys.clamp(min=0)
        sizes = torch.where(keys >= 0, lists.sizes[known], 0)
        if limits is not None:
            sizes = torch.minimum(sizes, limits)
        self.visited = int((sizes > 0).sum())
        rows, pair = runs(lists.offsets[known].reshape(-1), sizes.reshape(-1))
        if allowed is not None:
            rows, pair = rows[allowed[rows]], pair[allowed[rows]]
        self.scored = int(rows.shape[0])
        query = pair // max(nprobe, 1)
        width = torch.bincount(query, minlength=nq)
        column = torch.arange(rows.shape[0], device=rows.device) - (torch.cumsum(width, 0) - width)[query]
        shape = (nq, int(width.max()) if nq else 0)
        self.rows = torch.full(shape, -1, dtype=torch.int64, device=rows.device)
        self.pairs = torch.zeros(shape, dtype=torch.int64, device=rows.device)
        self.rows[query, column], self.pairs[query, column] = rows, pair

    def labels(self, lists: Ragged, keys: Tensor, pairs: bool) -> Tensor:
        found = self.rows.clamp(min=0)
        if not lists.ids.shape[0]:
            return torch.full_like(self.rows, -1)
        if not pairs:
            return lists.ids[found]
        list_nos = keys.reshape(-1)[self.pairs].clamp(min=0)
        return list_nos << 32 | (found - lists.offsets[list_nos])


def _blocks(lists: Ragged, keys: Tensor, row_bytes: int) -> list[tuple[int, int]]:
    """Blocks of queries whose candidates fit the budget."""
    widest = int(torch.where(keys >= 0, lists.sizes[keys.clamp(min=0)], 0).sum(1).max()) if keys.numel() else 0
    step = max(1, _BLOCK_BYTES // max(1, widest * row_bytes))
    return [(i, min(i + step, keys.shape[0])) for i in range(0, keys.shape[0], step)]


def _scored(score: Score, seen: _Candidates, start: int, nprobe: int, largest: bool) -> Tensor:
    """Costs (smaller is better) of a block's candidates; infinite for padding."""
    queries = torch.arange(start, start + seen.rows.shape[0], device=seen.rows.device)
    values = score(queries, seen.rows.clamp(min=0), seen.pairs + start * nprobe)
    values = -values if largest else values
    return torch.where((seen.rows >= 0) & ~values.isnan(), values, float("inf"))


def top_by_score(
    score: Score,
    lists: Ragged,
    keys: Tensor,
    k: int,
    largest: bool,
    row_bytes: int,
    options: tuple[Tensor | None, Tensor | None, bool],
) -> Top:
    """The k best by a score of the codec's own; NaN is not a result. `row_bytes`: what scoring takes for each candidate."""
    allowed, limits, pairs = options
    worst = torch.finfo(torch.float32).max
    nq, nprobe = keys.shape
    distances = torch.full((nq, k), -worst if largest else worst, dtype=torch.float32, device=keys.device)
    labels = torch.full((nq, k), -1, dtype=torch.int64, device=keys.device)
    visited = scored = 0
    for start, stop in _blocks(lists, keys, row_bytes):
        seen = _Candidates(lists, keys[start:stop], allowed, None if limits is None else limits[start:stop])
        visited, scored = visited + seen.visited, scored + seen.scored
        if seen.rows.shape[1] == 0:
            continue
        costs = _scored(score, seen, start, nprobe, largest)
        costs, order = costs.sort(dim=1, stable=True)
        m = min(k, costs.shape[1])
        costs = costs[:, :m]
        found = seen.labels(lists, keys[start:stop], pairs).gather(1, order[:, :m])
        found, by_label = found.sort(dim=1, stable=True, descending=largest)
        costs, order = costs.gather(1, by_label).sort(dim=1, stable=True)
        kept = costs < worst
        distances[start:stop, :m] = torch.where(kept, -costs if largest else costs, distances[start:stop, :m])
        labels[start:stop, :m] = torch.where(kept, found.gather(1, order), -1)
    return distances, labels, (visited, scored, int((labels >= 0).sum()))


def within_by_score(
    score: Score,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    largest: bool,
    row_bytes: int,
    options: tuple[Tensor | None, Tensor | None, bool],
) -> Range:
    """All within a radius by a score of the codec's own."""
    allowed, limits, pairs = options
    bound = -radius if largest else radius
    hits, distances, labels = [keys.new_zeros(1)], [], []
    visited = scored = 0
    for start, stop in _blocks(lists, keys, row_bytes):
        seen = _Candidates(lists, keys[start:stop], allowed, None if limits is None else limits[start:stop])
        visited, scored = visited + seen.visited, scored + seen.scored
        costs = _scored(score, seen, start, keys.shape[1], largest) if seen.rows.shape[1] else seen.rows.to(torch.float32)
        inside = costs < bound
        hits.append(inside.sum(1))
        distances.append(-costs[inside] if largest else costs[inside])
        labels.append(seen.labels(lists, keys[start:stop], pairs)[inside])
    lims = torch.cumsum(torch.cat(hits), 0)
    none = torch.empty(0, device=keys.device)
    return lims, torch.cat([none, *distances]), torch.cat([none.to(torch.int64), *labels]), (visited, scored, int(lims[-1]))


@accelerated
def residuals(x: Tensor, centers: Tensor, list_nos: Tensor) -> Tensor:
    """What vectors have over the centers of their lists; zero for list -1."""
    own = centers.index_select(0, list_nos.clamp(min=0))
    return torch.sub(x, own, out=own).masked_fill_((list_nos < 0)[:, None], 0.0)


@accelerated
def nearest_lists(x: Tensor, centers: Tensor, nprobe: int, metric: int) -> tuple[Tensor, Tensor]:
    """The nprobe centers nearest to each query, by L2 or inner product: distances and numbers; made for few queries."""
    return knn(x, centers, nprobe, metric)


def _flat_score(x: Tensor, rows: Tensor, metric: int, metric_arg: float) -> Score:
    def score(queries: Tensor, found: Tensor, pairs: Tensor) -> Tensor:
        asked = x[queries]
        if metric == L2:
            return (rows[found] - asked[:, None]).square().sum(-1)
        if metric == INNER_PRODUCT:
            return torch.einsum("bmd,bd->bm", rows[found], asked)
        return torch.cat([pairwise(asked[i : i + 1], rows[found[i]], metric, metric_arg) for i in range(asked.shape[0])])

    return score


@accelerated
def scan_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The k best by distance to the vectors `rows` (one for each row of the arena)."""
    score = _flat_score(x, rows, metric, metric_arg)
    return top_by_score(score, lists, keys, k, is_similarity(metric), 4 * x.shape[1], (allowed, limits, pairs))


@accelerated
def within_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """All within a radius by distance to the vectors `rows`."""
    score = _flat_score(x, rows, metric, metric_arg)
    return within_by_score(score, lists, keys, radius, is_similarity(metric), 4 * x.shape[1], (allowed, limits, pairs))


def _sum_of_tables(tables: Tensor, base: Tensor, terms: Tensor | None, codes: Tensor, nbits: int, nprobe: int) -> Score:
    n_tables, m, ksub = tables.shape
    per_pair = n_tables != base.shape[0]

    def score(queries: Tensor, found: Tensor, pairs: Tensor) -> Tensor:
        parts = unpack(codes[found].reshape(-1, codes.shape[1]), m, nbits).to(torch.int64)  # (b * m', M)
        which = (pairs if per_pair else queries[:, None].expand(found.shape)).reshape(-1, 1)
        values = tables.reshape(-1)[(which * m + torch.arange(m, device=tables.device)) * ksub + parts].sum(1).view(found.shape)
        values = values + base.reshape(-1)[pairs]
        return values if terms is None else values + terms[found]

    return score


@accelerated
def scan_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    k: int,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The k best by base[query, probe] + terms[row] + what the code's parts select in tables[query, or query * nprobe + probe]."""
    score = _sum_of_tables(tables, base, terms, lists.codes, nbits, keys.shape[1])
    return top_by_score(score, lists, keys, k, largest, 24 * tables.shape[1], (allowed, limits, pairs))


@accelerated
def within_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """All whose sum, as in scan_tables, is within a radius."""
    score = _sum_of_tables(tables, base, terms, lists.codes, nbits, keys.shape[1])
    return within_by_score(score, lists, keys, radius, largest, 24 * tables.shape[1], (allowed, limits, pairs))


@record
class Affine:
    """Codes of `bits` (8, 6 or 4) bits a dimension that stand for lo + step * code; 16: halves; 17: bfloat16."""

    bits: int
    lo: Tensor  # (d,), empty for floats
    step: Tensor  # (d,), empty for floats

    def values(self, codes: Tensor, d: int) -> Tensor:
        """What codes (n, code_size) stand for."""
        if self.bits >= 16:
            return codes.contiguous().view(torch.float16 if self.bits == 16 else torch.bfloat16).to(torch.float32)
        return self.lo + self.step * unpack(codes, d, self.bits).to(torch.float32)


def _affine_score(
    x: Tensor, affine: Affine, centers: Tensor | None, base: Tensor | None, codes: Tensor, keys: Tensor, metric: int
) -> Score:
    flat_keys = keys.reshape(-1).clamp(min=0)

    def score(queries: Tensor, found: Tensor, pairs: Tensor) -> Tensor:
        vectors = affine.values(codes[found].reshape(-1, codes.shape[1]), x.shape[1]).view(*found.shape, -1)
        asked = x[queries]
        if metric == INNER_PRODUCT:
            values = torch.einsum("bmd,bd->bm", vectors, asked)
            return values if base is None else values + base.reshape(-1)[pairs]
        residual = asked[:, None] if centers is None else asked[:, None] - centers[flat_keys[pairs]]
        return (residual - vectors).square().sum(-1)

    return score


@accelerated
def scan_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The k best by L2 of what codes stand for to x - centers[list], or by base[query, probe] + inner product with x."""
    score = _affine_score(x, affine, centers, base, lists.codes, keys, metric)
    return top_by_score(score, lists, keys, k, is_similarity(metric), 16 * x.shape[1], (allowed, limits, pairs))


@accelerated
def within_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """All within a radius by the scores of scan_affine."""
    score = _affine_score(x, affine, centers, base, lists.codes, keys, metric)
    return within_by_score(score, lists, keys, radius, is_similarity(metric), 16 * x.shape[1], (allowed, limits, pairs))


@accelerated
def scan_polysemous(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    signatures: Tensor,
    threshold: int,
    lists: Ragged,
    keys: Tensor,
    k: int,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """scan_tables among the codes that differ from signatures[query * nprobe + probe] in fewer bits than the threshold."""
    sums = _sum_of_tables(tables, base, terms, lists.codes, nbits, keys.shape[1])
    ones = torch.tensor([i.bit_count() for i in range(256)], device=tables.device)

    def score(queries: Tensor, found: Tensor, pairs: Tensor) -> Tensor:
        differing = ones[(lists.codes[found] ^ signatures[pairs]).to(torch.int64)].sum(-1)
        return torch.where(differing < threshold, sums(queries, found, pairs), float("nan"))

    return top_by_score(score, lists, keys, k, largest, 24 * tables.shape[1] + 16 * signatures.shape[1], (allowed, limits, pairs))
