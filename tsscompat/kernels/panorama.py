"""Scans of vectors, some dimensions after others: a vector is left alone once what is still to come cannot make it a result.

Beside vectors are the lengths of what is left of each from a level on. With them |q' - y'| of the dimensions to come is at least the
difference of their lengths, and <q', y'> at most their product. The definitions look at everything; twins stop early, and say how many
levels of how many they looked at. Results are compared with once for each batch of vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels import flat
from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.select import merge
from tsscompat.records import record

Looked = tuple[int, int]


@record
class Layout:
    """Levels of `width` dimensions each, of which the last may have fewer; `batch` vectors together."""

    d: int
    levels: int
    width: int
    batch: int

    def spans(self) -> list[tuple[int, int]]:
        """The dimensions of each level."""
        return [(i * self.width, min(self.d, (i + 1) * self.width)) for i in range(self.levels)]

    def slots(self, n: int) -> int:
        """How many vectors there is room for in whole batches."""
        return -(-n // self.batch) * self.batch

    def write(self, rows: Tensor, packed: Tensor, at: int) -> None:
        """Put vectors (n, d) in the places from `at` on of what is in order of batch, level, vector."""
        self._write(rows, packed, at, self.spans())

    def write_norms(self, norms: Tensor, packed: Tensor, at: int) -> None:
        """The same for lengths (n, levels + 1)."""
        self._write(norms, packed, at, [(i, i + 1) for i in range(self.levels + 1)])

    def _write(self, rows: Tensor, packed: Tensor, at: int, spans: list[tuple[int, int]]) -> None:
        n, blocks = rows.shape[0], packed.view(-1, self.batch * rows.shape[1])
        done = 0
        while done < n:
            block, place = divmod(at + done, self.batch)
            # Part of a batch, or as many whole ones as there are.
            some = min(n - done, self.batch - place)
            whole = max(1, (n - done) // self.batch) if place == 0 and some == self.batch else 1
            part = rows[done : done + whole * some].view(whole, some, rows.shape[1])
            for a, b in spans:
                level = blocks[block : block + whole, a * self.batch : b * self.batch].unflatten(1, (self.batch, b - a))
                level[:, place : place + some] = part[:, :, a:b]
            done += whole * some

    def pack(self, rows: Tensor) -> Tensor:
        """Vectors (n, d) in order of batch, level, vector; the last batch is filled up with zeros."""
        packed = rows.new_zeros(self.slots(rows.shape[0]) * self.d)
        self.write(rows, packed, 0)
        return packed

    def unpack(self, packed: Tensor, n: int) -> Tensor:
        """The first n vectors of what `pack` gave."""
        blocks = packed.view(-1, self.batch * self.d)
        parts = [blocks[:, a * self.batch : b * self.batch].unflatten(1, (self.batch, b - a)) for a, b in self.spans()]
        return torch.cat(parts, 2).view(-1, self.d)[:n].contiguous()

    def gather(self, packed: Tensor, keys: Tensor) -> Tensor:
        """Some vectors of what `pack` gave."""
        blocks = packed.view(-1, self.batch * self.d)
        block, place = keys // self.batch, keys % self.batch
        parts = [blocks[:, a * self.batch : b * self.batch].unflatten(1, (self.batch, b - a)) for a, b in self.spans()]
        return torch.cat([part[block, place] for part in parts], 1)

    def norms(self, rows: Tensor) -> Tensor:
        """The lengths (n, levels + 1) of what is left of vectors from each level on."""
        return lengths_left(rows, self.width)

    def pack_norms(self, norms: Tensor) -> Tensor:
        """Lengths in order of batch, level, vector, filled up with zeros."""
        packed = norms.new_zeros(self.slots(norms.shape[0]) * (self.levels + 1))
        self.write_norms(norms, packed, 0)
        return packed


@accelerated
def lengths_left(rows: Tensor, width: int) -> Tensor:
    """The lengths (n, levels + 1) of what is left of vectors from each level of `width` dimensions on."""
    n, d = rows.shape
    levels = -(-d // width)
    total = rows.new_zeros(n)
    lengths = rows.new_zeros(levels + 1, n)
    columns = rows.t().contiguous()
    for level in reversed(range(levels)):
        # One number after the other: the lengths are stored.
        for column in columns[level * width : (level + 1) * width]:
            total += column * column
        # Roots in double precision: those of vector libraries are not always rounded correctly.
        lengths[level] = total.double().sqrt()
    return lengths.t().contiguous()


@accelerated
def scan_batches(
    x: Tensor, packed: Tensor, lengths: Tensor, n: int, k: int, metric: int, layout: Layout, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor, Looked]:
    """The k best of n vectors that `layout` packed, as flat.knn gives them; `lengths` as it packs those."""
    distances, labels = flat.knn(x, layout.unpack(packed, n), k, metric, 0.0, allowed)
    looked = x.shape[0] * layout.levels * (n if allowed is None else int(allowed.sum()))
    return distances, labels, (looked, looked)


@accelerated
def within_batches(
    x: Tensor, packed: Tensor, lengths: Tensor, n: int, radius: float, metric: int, layout: Layout, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Looked]:
    """All of n vectors that `layout` packed within a radius, as flat.within gives them."""
    lims, distances, labels = flat.within(x, layout.unpack(packed, n), radius, metric, 0.0, allowed)
    looked = x.shape[0] * layout.levels * (n if allowed is None else int(allowed.sum()))
    return lims, distances, labels, (looked, looked)


@accelerated
def rank_levels(
    x: Tensor, rows: Tensor, norms: Tensor, labels: Tensor, k: int, metric: int, width: int
) -> tuple[Tensor, Tensor, Looked]:
    """The k best of the rows that each query names, -1 aside; a row is compared with the results before it."""
    distances = flat.named_distances(x, rows, labels, metric)
    looked = int((labels >= 0).sum()) * (norms.shape[1] - 1)
    return *merge(distances, labels, k, is_similarity(metric)), (looked, looked)
