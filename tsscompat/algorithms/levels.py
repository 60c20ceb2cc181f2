"""Panorama's layout: vectors in batches, each batch level by level, and the lengths of what is left of each vector from a level on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import Options
from tsscompat.kernels.ivf import Range, Top
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.panorama import Looked, scan_levels, within_levels
from tsscompat.records import record


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

    def pack(self, rows: Tensor) -> Tensor:
        """Vectors (n, d) in order of batch, level, vector; the last batch is filled up with zeros."""
        room = torch.nn.functional.pad(rows, (0, 0, 0, self.slots(rows.shape[0]) - rows.shape[0]))
        blocks = room.view(-1, self.batch, self.d)
        return torch.cat([blocks[:, :, a:b].flatten(1) for a, b in self.spans()], 1).reshape(-1)

    def unpack(self, packed: Tensor, n: int) -> Tensor:
        """The first n vectors of what `pack` gave."""
        blocks = packed.view(-1, self.batch * self.d)
        parts = [blocks[:, a * self.batch : b * self.batch].unflatten(1, (self.batch, b - a)) for a, b in self.spans()]
        return torch.cat(parts, 2).view(-1, self.d)[:n].contiguous()

    def norms(self, rows: Tensor) -> Tensor:
        """The lengths (n, levels + 1) of what is left of vectors from each level on."""
        total = rows.new_zeros(rows.shape[0])
        lengths = rows.new_zeros(self.levels + 1, rows.shape[0])
        columns = rows.t().contiguous()
        for level, (a, b) in reversed(list(enumerate(self.spans()))):
            # One number after the other: the lengths are stored.
            for column in columns[a:b]:
                total += column * column
            # Roots in double precision: those of vector libraries are not always rounded correctly.
            lengths[level] = total.double().sqrt()
        return lengths.t().contiguous()

    def pack_norms(self, norms: Tensor) -> Tensor:
        """Lengths in order of batch, level, vector, filled up with zeros."""
        room = torch.nn.functional.pad(norms, (0, 0, 0, self.slots(norms.shape[0]) - norms.shape[0]))
        return room.view(-1, self.batch, self.levels + 1).transpose(1, 2).reshape(-1)


@record
class Panorama:
    """Vectors in lists, scanned level by level; `report` is told how many levels of how many were looked at."""

    layout: Layout
    norms: Tensor
    metric: int
    report: Callable[[Looked], None]

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        given = (x, lists.codes.view(torch.float32), self.norms, lists, keys)
        how, only = (self.metric, self.layout.width, self.layout.batch), (options.allowed, options.limits)
        distances, labels, counts, looked = scan_levels(*given, k, *how, *only, options.pairs)
        self.report(looked)
        return distances, labels, counts

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        given = (x, lists.codes.view(torch.float32), self.norms, lists, keys)
        how, only = (self.metric, self.layout.width, self.layout.batch), (options.allowed, options.limits)
        lims, distances, labels, counts, looked = within_levels(*given, radius, *how, *only, options.pairs)
        self.report(looked)
        return lims, distances, labels, counts
