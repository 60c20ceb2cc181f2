"""Additive quantisation: a vector is the sum of one entry of each of some codebooks.

A code is the entries' numbers, in as many bits as their codebooks need, and behind them a number for the squared norm of the sum where
the search wants one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels import bits as packed
from tsscompat.kernels.beam import beam_codes, step
from tsscompat.records import record

# Numbers of a block of a beam search.
_BLOCK = 1 << 22
# Products of the codebooks with each other are made if they take no more floats than this, and for no fewer vectors than that.
_MOST_PRODUCTS, _FEW = 1 << 26, 64


@record
class Codebooks:
    """The codebooks, one after another, of 2 ** nbits[m] entries; those of a product of quantizers are zero outside their part."""

    table: Tensor  # (total, d)
    nbits: tuple[int, ...]
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def first(self) -> list[int]:
        """Where each codebook begins, and where the last one ends."""
        return [0, *accumulate(1 << b for b in self.nbits)]

    @property
    def uniform(self) -> int:
        """The bits of a part where all have as many, and no more than a scan takes; else 0."""
        return self.nbits[0] if _uniform(self.nbits) else 0

    def book(self, m: int) -> Tensor:
        return self.table[self.first[m] : self.first[m + 1]]

    def places(self, parts: Tensor) -> Tensor:
        """The rows of the table that parts (n, M) name."""
        starts: Tensor | None = self.kept.get("starts")
        if starts is None or starts.device != parts.device:
            starts = self.kept["starts"] = torch.tensor(self.first[:-1], dtype=torch.int64, device=parts.device)
        return parts.to(torch.int64) + starts

    def decode(self, parts: Tensor) -> Tensor:
        """The vectors of parts (n, M)."""
        if not parts.numel():
            return self.table.new_zeros(parts.shape[0], self.table.shape[1])
        return torch.nn.functional.embedding_bag(self.places(parts), self.table, mode="sum")

    def cross(self) -> Tensor:
        """The inner products of each codebook's entries with those of all before it, one block (before, K) after another."""
        blocks = [(self.table[: self.first[m]] @ self.book(m).t()).reshape(-1) for m in range(1, len(self.nbits))]
        return torch.cat(blocks) if blocks else self.table.new_empty(0)

    def _known(self, n: int) -> tuple[Tensor, Tensor] | None:
        """The entries' squared norms and twice their products, kept, where these are not too large and pay for the vectors so far."""
        asked = self.kept["asked"] = self.kept.get("asked", 0) + n
        size = sum(low << b for low, b in zip(self.first, self.nbits))
        if "known" not in self.kept and asked >= _FEW and size <= _MOST_PRODUCTS:
            self.kept["known"] = self.table.square().sum(1), 2 * self.cross()
        found: tuple[Tensor, Tensor] | None = self.kept.get("known")
        return found

    def encode(self, x: Tensor, width: int) -> Tensor:
        """The parts (n, M) that a beam search finds."""
        known = self._known(x.shape[0])
        size = width * max((1 << b for b in self.nbits), default=1)
        rows = max(1, _BLOCK // size) if known is None or x.device.type != "cpu" else max(1, x.shape[0])
        found = [beam_codes(x[i : i + rows], self.table, self.nbits, width, known) for i in range(0, x.shape[0], rows)]
        return torch.cat(found) if found else torch.empty(0, len(self.nbits), dtype=torch.int32, device=x.device)

    def beam(self, residuals: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """All that a beam search keeps of residuals (n, beam, d): codes (n, width, M), residuals and distances, best first."""
        widest = max([residuals.shape[1], width])
        rows = max(1, _BLOCK // (widest * max((1 << b for b in self.nbits), default=1)))
        found = []
        for i in range(0, residuals.shape[0], rows):
            part = residuals[i : i + rows]
            codes = torch.zeros(*part.shape[:2], 0, dtype=torch.int32, device=part.device)
            distances = part.square().sum(2)
            for m, bits in enumerate(self.nbits):
                codes, part, distances = step(part, codes, self.book(m), min(part.shape[1] << bits, width))
            found.append((codes, part, distances))
        return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]), torch.cat([f[2] for f in found])

    def all_products(self, x: Tensor) -> Tensor:
        """The inner products (n, 2 ** sum(nbits)) of vectors with all sums, numbered with the first codebook's bits lowest."""
        tables = x @ self.table.t()
        values = x.new_zeros(x.shape[0], 1)
        for m in range(len(self.nbits)):
            own = tables[:, self.first[m] : self.first[m + 1]]
            values = (own[:, :, None] + values[:, None, :]).reshape(x.shape[0], -1) if m else own
        return values


def _uniform(nbits: tuple[int, ...]) -> bool:
    return bool(nbits) and len(set(nbits)) == 1 and 0 < nbits[0] <= 16


def split_number(numbers: Tensor, nbits: tuple[int, ...]) -> Tensor:
    """The parts (n, M) of codes that are given as whole numbers."""
    shifts = torch.tensor([0, *accumulate(nbits)][:-1], dtype=torch.int64, device=numbers.device)
    masks = torch.tensor([(1 << b) - 1 for b in nbits], dtype=torch.int64, device=numbers.device)
    return numbers[:, None] >> shifts & masks


def join_number(parts: Tensor, nbits: tuple[int, ...]) -> Tensor:
    """Codes as whole numbers, of parts (..., M)."""
    shifts = torch.tensor([0, *accumulate(nbits)][:-1], dtype=torch.int64, device=parts.device)
    return (parts.to(torch.int64) << shifts).sum(-1)


def split(codes: Tensor, nbits: tuple[int, ...]) -> Tensor:
    """The numbers that follow each other in the bits of codes (n, code_size), as int64; none is wider than 32 bits."""
    if _uniform(nbits):
        return packed.unpack(codes, len(nbits), nbits[0]).to(torch.int64)
    wide = torch.nn.functional.pad(codes, (0, 5)).to(torch.int64)
    found = []
    for start, bits in zip([0, *accumulate(nbits)], nbits):
        at = start // 8
        word = sum((wide[:, at + j] << 8 * j for j in range(1, 5)), start=wide[:, at])
        found.append(word >> start % 8 & (1 << bits) - 1)
    return torch.stack(found, 1) if found else wide[:, :0]


def join(numbers: Tensor, nbits: tuple[int, ...], size: int) -> Tensor:
    """Codes (n, size) in whose bits numbers (n, len(nbits)) follow each other."""
    if _uniform(nbits):
        return packed.pack(numbers, nbits[0])
    out = torch.zeros(numbers.shape[0], size + 5, dtype=torch.int64, device=numbers.device)
    for column, (start, bits) in enumerate(zip([0, *accumulate(nbits)], nbits)):
        word, at = (numbers[:, column].to(torch.int64) & (1 << bits) - 1) << start % 8, start // 8
        for j in range((start % 8 + bits + 7) // 8):
            out[:, at + j] |= word >> 8 * j & 255
    return out[:, :size].to(torch.uint8)


def encode_norms(norms: Tensor, bits: int, low: float, high: float) -> Tensor:
    """The numbers of the steps, 2 ** bits from `low` to `high`, in which norms lie."""
    steps = ((norms - low) / torch.tensor(high - low, dtype=torch.float32) * (1 << bits)).floor()
    return steps.nan_to_num(0.0).clamp(0, (1 << bits) - 1).to(torch.int64)


def decode_norms(numbers: Tensor, bits: int, low: float, high: float) -> Tensor:
    """The middles of steps."""
    return ((numbers.double() + 0.5) / (1 << bits) * (high - low) + low).float()


def retrained(codes: Tensor, books: Codebooks, x: Tensor) -> Tensor:
    """Codebooks (total, d) whose sums by given parts are nearest to x, all at once; small singular values count as zero."""
    total = books.table.shape[0]
    matrix = torch.zeros(x.shape[0], total, dtype=torch.float64, device=x.device)
    matrix.scatter_(1, books.places(codes), 1.0)
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    # FAISS's threshold: code matrices are rank deficient, each codebook's columns sum to the same.
    inverse = torch.where(values > 1e-4 * values[0], 1 / values, 0.0)
    return (vh.t() @ (inverse[:, None] * (u.t() @ x.double()))).float()


Assign = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def assigned_step(
    residuals: Tensor, codes: Tensor, centroids: Tensor, width: int, assign: Assign
) -> tuple[Tensor, Tensor, Tensor]:
    """step() with the distances of assign(residuals, width), a search among the centroids."""
    n, beam, d = residuals.shape
    near, names = assign(residuals.reshape(n * beam, d), width)
    distances, order = near.view(n, -1).sort(dim=1, stable=True)
    parent = order[:, :width] // width
    chosen = names.view(n, -1).gather(1, order[:, :width])
    row = torch.arange(n, device=residuals.device)[:, None]
    new = torch.cat([codes[row, parent], chosen[..., None].to(codes.dtype)], 2)
    return new, residuals[row, parent] - centroids[chosen], distances[:, :width]
