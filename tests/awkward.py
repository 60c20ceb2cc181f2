"""Arguments of the kernels that have twins in Triton, of a given size: so many rows, of so many dimensions, so many results wanted.

Lists are among them empty and of a single entry, and what lies between them is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.rabitq import encode
from tsscompat.kernels.fastscan import quantize
from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_codebook import PLAIN, SCALED, TURBO, Codebook
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.panorama import Layout, lengths_left
from tsscompat.kernels.rabitq import Coder

ROWS, WIDTHS, RESULTS = (1, 7, 13, 300), (1, 3, 31, 96, 768, 1536), (1, 10, 100, 1000, 3000)
# Each row, width and number of results at least once: what the interpreter has time for.
COVERING = ((1, 1536, 10), (300, 1, 100), (7, 768, 3000), (13, 3, 1000), (300, 31, 1), (7, 96, 10))
# Bits of numbers of centroids, and of scalars, by the width.
BITS = {1: 7, 3: 8, 31: 5, 96: 8, 768: 4, 1536: 6}
SCALARS = {1: 17, 3: 4, 31: 6, 96: 8, 768: 16, 1536: 8}
# Kinds of codes that name values, with their bits.
CODEBOOKS = {1: (PLAIN, 5), 3: (TURBO, 3), 31: (SCALED, 3), 96: (TURBO, 3), 768: (SCALED, 1), 1536: (PLAIN, 2)}
# RaBitQ's bits, and those of queries.
RABITQ = {1: (1, 4), 3: (2, 0), 31: (9, 4), 96: (4, 8), 768: (1, 0), 1536: (3, 4)}
NLIST = 4


class Sizes:
    """One size; everything that is drawn for it is drawn anew from the same seed."""

    def __init__(self, n: int, d: int, k: int) -> None:
        torch.manual_seed(n + d + k)
        self.n, self.d, self.k = n, d, k
        self.nq = min(n, 7)
        self.metric = (L2, INNER_PRODUCT)[(n + d + k) % 2]
        self.m = max(m for m in range(1, 65) if d % m == 0)
        self.nbits, self.dsub = BITS[d], d // self.m

    def x(self) -> Tensor:
        return torch.randn(self.nq, self.d)

    def y(self) -> Tensor:
        return torch.randn(self.n, self.d)

    def pairs(self) -> tuple[Tensor, Tensor]:
        return self.x(), self.y()

    def centroids(self) -> Tensor:
        return torch.randn(self.m, 1 << self.nbits, self.dsub)

    def code_size(self) -> int:
        return (self.m * self.nbits + 7) // 8

    def lists(self, codes: Callable[[int], Tensor]) -> Ragged:
        """An empty list, one of n entries, one of a single entry and another empty one, with room between them."""
        sizes = torch.tensor([0, self.n, 1, 0])
        offsets = torch.cumsum(sizes + 5, 0) - sizes - 5
        used = torch.cat([offsets[1] + torch.arange(self.n), offsets[2:3]])
        made = codes(self.n + 1)
        arena = torch.full((int(sizes.sum()) + 5 * NLIST, made.shape[1]), 0xFF, dtype=torch.uint8)
        arena[used] = made
        return Ragged(arena, torch.randperm(3 * arena.shape[0])[: arena.shape[0]], offsets, sizes)

    def bytes(self, n: int) -> Tensor:
        return torch.randint(0, 256, (n, self.d), dtype=torch.uint8)

    def product_lists(self) -> Ragged:
        return self.lists(lambda n: torch.randint(0, 256, (n, self.code_size()), dtype=torch.uint8))

    def vector_lists(self) -> Ragged:
        return self.lists(lambda n: torch.randn(n, self.d).view(torch.uint8))

    def keys(self) -> Tensor:
        """The lists that each query probes, in an order of its own; one probes nothing in a place."""
        keys = torch.stack([torch.randperm(NLIST) for _ in range(self.nq)])
        keys[-1, 0] = -1
        return keys

    def radius(self) -> float:
        """Of two random vectors, about half are as near."""
        return 2.0 * self.d if self.metric == L2 else 0.0

    def scalar_lists(self) -> tuple[Affine, Ragged]:
        bits = SCALARS[self.d]
        if bits >= 16:
            dtype = torch.float16 if bits == 16 else torch.bfloat16
            return Affine(bits, torch.empty(0), torch.empty(0)), self.lists(
                lambda n: torch.randn(n, self.d).to(dtype).view(torch.uint8)
            )
        size = (self.d * bits + 7) // 8
        line = Affine(bits, torch.randn(self.d), torch.rand(self.d) * 0.1)
        return line, self.lists(lambda n: torch.randint(0, 256, (n, size), dtype=torch.uint8))

    def tables(self) -> tuple[Any, ...]:
        return torch.randn(self.nq, self.m, 1 << self.nbits), torch.randn(self.nq, NLIST), None, self.nbits

    def graph(self) -> Graph:
        """One level, in which a circle and a few more edges reach every node."""
        ahead = 1 + torch.rand(self.n, max(self.n - 1, 8)).argsort(1)[:, :8]
        ahead[:, 0] = 1
        known = (ahead < self.n) & (torch.arange(8) == 0) | (ahead < self.n) & (ahead > 1)
        edges = torch.where(known, (torch.arange(self.n)[:, None] + ahead) % self.n, -1)
        ends = torch.tensor([0, 8], dtype=torch.int32)
        return Graph(torch.ones(self.n, dtype=torch.int32), torch.arange(self.n + 1) * 8, edges.int().view(-1), ends, 0, 0)


def detours(s: Sizes) -> tuple[Any, ...]:
    degree = min(s.d, max(1, s.n - 1), 64)
    edges = torch.rand(s.n, s.n).argsort(1)[:, :degree]
    return edges, 0, min(s.n, 7)


def flat_lists(s: Sizes) -> tuple[Any, ...]:
    lists = s.vector_lists()
    return s.x(), lists.codes.view(torch.float32), lists, s.keys()


def affine_lists(s: Sizes) -> tuple[Any, ...]:
    line, lists = s.scalar_lists()
    around = (torch.randn(NLIST, s.d), torch.randn(s.nq, NLIST)) if s.k > 10 else (None, None)
    return s.x(), line, *around, lists, s.keys()


def codebook_lists(s: Sizes) -> tuple[Any, ...]:
    kind, bits = CODEBOOKS[s.d]
    size, width = ((s.d + 7) // 8 * bits, 2 * s.d + 2) if kind == TURBO else ((s.d * bits + 7) // 8, s.d)

    def codes(n: int) -> Tensor:
        body = torch.randint(0, 256, (n, size), dtype=torch.uint8)
        return body if kind == PLAIN else torch.cat([body, (0.5 + torch.rand(n, 2)).view(torch.uint8)], 1)

    centers = torch.randn(NLIST, s.d) if s.k > 10 and kind != TURBO else None
    base = torch.randn(s.nq, NLIST) if kind != PLAIN else None
    return torch.randn(s.nq, width), Codebook(kind, bits, torch.randn(1 << bits)), centers, base, s.lists(codes), s.keys()


def rabitq_lists(s: Sizes) -> tuple[Any, ...]:
    bits, rounded = RABITQ[s.d]
    around = torch.randn(NLIST if s.n % 2 else 1, s.d)
    coder = Coder(around, bits, s.metric, rounded, s.n % 2 == 0)
    return s.x(), coder, s.lists(lambda n: encode(torch.randn(n, s.d), around[:1], s.metric, bits)), s.keys()


def polysemous(s: Sizes) -> tuple[Any, ...]:
    size = s.code_size()
    signatures = torch.randint(0, 256, (s.nq * NLIST, size), dtype=torch.uint8)
    return *s.tables(), signatures, 4 * size, s.product_lists(), s.keys(), s.k, bool(s.metric == INNER_PRODUCT)


def scan_product(s: Sizes) -> tuple[Any, ...]:
    plain = s.n % 2 == 0
    lists = s.product_lists()
    extra = (None, None) if plain else (torch.randn(s.d), torch.randn(lists.ids.shape[0]))
    base = torch.zeros(s.nq, NLIST) if plain else torch.randn(s.nq, NLIST)
    given = s.x(), s.centroids().permute(0, 2, 1).contiguous(), s.nbits, plain, 1.0 if plain else -2.0, *extra, base
    return *given, lists, s.keys(), s.k, s.metric


def product_terms(s: Sizes) -> tuple[Any, ...]:
    lists = s.product_lists()
    middles = torch.randn(NLIST, s.d)
    return lists.codes, s.centroids(), s.nbits, middles, lists.offsets, lists.sizes, torch.zeros(lists.ids.shape[0])


def block_lists(s: Sizes) -> tuple[Any, ...]:
    """Tables of bytes and lists of 4-bit codes in blocks, of which one list is empty, and one of a single entry."""
    per_block, parts = (32, 64, 96)[s.n % 3], s.m + s.m % 2
    sizes = torch.tensor([0, s.n, 1, 0])
    blocks = (sizes + per_block - 1) // per_block + 1
    codes = torch.randint(0, 256, (int(blocks.sum()), parts // 2 * per_block), dtype=torch.uint8)
    rows = codes.shape[0] * per_block
    lists = Ragged(codes, torch.randperm(3 * rows)[:rows], (blocks.cumsum(0) - blocks) * per_block, sizes)
    return quantize.definition(*float_tables(s, parts)), lists, per_block, s.keys()


def float_tables(s: Sizes, parts: int) -> tuple[Any, ...]:
    """Tables of floats of each probed list, or of each query, and biases; of some parts twice."""
    weight = 3 if parts > 2 and s.k > 10 else 0
    tables = torch.randn(s.nq, NLIST, parts, 16) if s.n % 2 == 0 else torch.randn(s.nq, parts, 16)
    biases = torch.randn(s.nq, NLIST)
    biases[-1, 0] = torch.nan
    return tables, biases, 2 if weight else 0, weight


def levels(s: Sizes) -> tuple[Any, ...]:
    lists, width = s.vector_lists(), max(1, s.d // 3)
    rows = lists.codes.view(torch.float32)
    return (s.x(), rows, lengths_left.definition(rows, width), lists, s.keys()), (s.metric, width, 64)


def batches(s: Sizes) -> tuple[Any, ...]:
    width, batch, rows = max(1, s.d // 3), (1, 7, 64)[s.n % 3], s.y()
    layout = Layout(s.d, -(-s.d // width), width, batch)
    lengths = layout.pack_norms(lengths_left.definition(rows, width))
    return (s.x(), layout.pack(rows), lengths, s.n), (s.metric, layout)


def segment_sums(s: Sizes) -> tuple[Any, ...]:
    k = min(s.k, 1000)
    return s.y(), torch.randint(0, k, (s.n,)), torch.rand(s.n) if s.n % 2 else None, k


def few_values(s: Sizes) -> Tensor:
    """Rows to select from, NaN and ties among them."""
    values = torch.randint(-50, 50, (min(s.nq, 2), s.n * 10)).float()
    return torch.where(torch.rand(values.shape) < 0.05, torch.nan, values)


INPUTS: dict[str, Callable[[Sizes], tuple[Any, ...]]] = {
    "detours.detours": detours,
    "fastscan.quantize": lambda s: float_tables(s, s.m),
    "fastscan.scan_blocks": lambda s: (*block_lists(s), s.k, s.metric == INNER_PRODUCT),
    "fastscan.within_blocks": lambda s: (*block_lists(s), 0.5, s.metric == INNER_PRODUCT),
    "flat.knn": lambda s: (*s.pairs(), s.k, s.metric),
    "flat.named_distances": lambda s: (*s.pairs(), torch.randint(-1, s.n, (s.nq, min(s.k, 100))), s.metric),
    "flat.nearest": lambda s: (*s.pairs(), s.metric),
    "flat.within": lambda s: (*s.pairs(), s.radius(), s.metric),
    "graph.search": lambda s: (s.x(), s.y(), s.graph(), Walk(min(64, max(8, s.k)), 64), min(s.k, 1000), s.metric),
    "hamming.hamming": lambda s: (s.bytes(s.nq), s.bytes(s.n)),
    "hamming.scan": lambda s: (s.bytes(s.nq), s.lists(s.bytes), s.keys(), s.k),
    "hamming.within": lambda s: (s.bytes(s.nq), s.lists(s.bytes), s.keys(), 4 * s.d),
    "ivf.scan_affine": lambda s: (*affine_lists(s), s.k, s.metric),
    "ivf.scan_flat": lambda s: (*flat_lists(s), s.k, s.metric),
    "ivf.scan_polysemous": polysemous,
    "ivf.scan_tables": lambda s: (*s.tables(), s.product_lists(), s.keys(), s.k, s.metric == INNER_PRODUCT),
    "ivf.within_affine": lambda s: (*affine_lists(s), s.radius(), s.metric),
    "ivf.within_flat": lambda s: (*flat_lists(s), s.radius(), s.metric),
    "ivf.within_tables": lambda s: (*s.tables(), s.product_lists(), s.keys(), 0.5, s.metric == INNER_PRODUCT),
    "ivf_codebook.scan_codebook": lambda s: (*codebook_lists(s), s.k, s.metric),
    "ivf_codebook.within_codebook": lambda s: (*codebook_lists(s), s.radius(), s.metric),
    "ivf_product.scan_product": scan_product,
    "ivf_terms.list_scores": lambda s: (*s.pairs(), torch.randint(-1, s.n, (s.nq, 3)), s.metric),
    "ivf_terms.product_terms": product_terms,
    "ivf_terms.query_tables": lambda s: (
        s.x(),
        s.centroids().permute(0, 2, 1).contiguous(),
        torch.randn(s.d) if s.n % 2 else None,
        s.metric,
        -2.0,
    ),
    "metrics.pairwise": lambda s: (*s.pairs(), s.metric),
    "panorama.lengths_left": lambda s: (s.y(), max(1, s.d // 3)),
    "panorama.scan_batches": lambda s: (*batches(s)[0], s.k, *batches(s)[1]),
    "panorama.within_batches": lambda s: (*batches(s)[0], s.radius(), *batches(s)[1]),
    "panorama_lists.scan_levels": lambda s: (*levels(s)[0], s.k, *levels(s)[1]),
    "panorama_lists.within_levels": lambda s: (*levels(s)[0], s.radius(), *levels(s)[1]),
    "pq.nearest_parts": lambda s: (s.x(), s.centroids()),
    "pq.part_tables": lambda s: (s.x(), s.centroids(), s.metric),
    "rabitq.scan_rabitq": lambda s: (*rabitq_lists(s), s.k),
    "rabitq.within_rabitq": lambda s: (*rabitq_lists(s), s.radius()),
    "segments.segment_sums": segment_sums,
    "select.select": lambda s: (few_values(s), None, s.k, s.metric == INNER_PRODUCT),
}
