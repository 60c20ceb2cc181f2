"""Scans of inverted lists, in chunks of 64 entries: least costs of chunks first, then the entries of those that can hold the best.

Few queries: a program takes a share of the chunks of one probed list and scores each entry, term by term. Many: programs take a list and
some of the queries that probe it; a chunk is decoded once for all of them and multiplied on the tensor cores, with numbers split so that
products are about as exact as float32's. Either way nothing is stored but the least cost of each chunk. The best k entries lie in the k
chunks with the least costs; of these (and a few more, against rounding) the entries are scored term by term.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tsscompat.kernels.ivf import Range
from tsscompat.kernels.ivf_lists import Ragged, widest
from tsscompat.kernels.select import padded
from tsscompat.kernels.triton.codes import Codes
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two, within_memory
from tsscompat.kernels.triton.list_kernels import chunk_scores, least_few, least_shared
from tsscompat.kernels.triton.pick import pick
from tsscompat.kernels.triton.select import best

CHUNK = 64
# Chunks taken beyond k, against rounding.
_SPARE = 8
# Programs that fill a large GPU several times over.
_PROGRAMS = 1024
# From so many queries to a probed list on, its chunks are decoded for all of them at once.
_SHARED = 3

Top = tuple[Tensor, Tensor, Tensor]
# Rows that count, how many first entries of each probe count, whether labels are pairs.
Options = tuple[Tensor | None, Tensor | None, bool]


def shared(keys: Tensor, lists: Ragged) -> bool:
    """Whether lists are probed by enough queries to decode them once for several."""
    return keys.numel() >= _SHARED * max(1, lists.nlist)


@dataclass(frozen=True)
class Tiles:
    """Probes by list, in tiles: starts[l] to starts[l + 1] are list l's in `order`, ends[l] its tiles' end; owners: the lists of tiles."""

    size: int
    order: Tensor
    starts: Tensor
    ends: Tensor
    owners: Tensor


class Scan:
    """One search of lists: what every stage of it needs."""

    def __init__(
        self, codes: Codes, lists: Ragged, keys: Tensor, allowed: Tensor | None, limits: Tensor | None, pairs: bool
    ) -> None:
        self.codes, self.lists, self.keys, self.pairs = codes, lists, keys.contiguous(), pairs
        self.allowed = None if allowed is None else allowed.contiguous().view(torch.uint8)
        self.limits = None if limits is None else limits.to(torch.int64).contiguous()
        self.nq, self.nprobe = keys.shape
        self.n_chunks = blocks_of(widest(lists), CHUNK)
        self.counts = torch.zeros(3, dtype=torch.int64, device=keys.device)

    def _where(self) -> tuple[Tensor, ...]:
        limits = self.keys if self.limits is None else self.limits
        return self.lists.offsets, self.lists.sizes, limits

    def _masks(self) -> dict[str, bool]:
        return {"MASKED": self.allowed is not None, "LIMITED": self.limits is not None}

    def _allowed(self) -> Tensor:
        return self.keys if self.allowed is None else self.allowed

    def together(self) -> bool:
        """Whether queries that probe the same list are scored at once."""
        return self.codes.multiplied and shared(self.keys, self.lists)

    def least(self, shared: bool) -> Tensor:
        """The least cost in each chunk of each probe: (nq, nprobe * n_chunks)."""
        return self._least_shared() if shared else self._least_few()

    def _least_few(self) -> Tensor:
        out = torch.empty(self.nq, self.nprobe * self.n_chunks, device=self.keys.device)
        n_pairs = self.nq * self.nprobe
        shares = min(self.n_chunks, max(1, _PROGRAMS // n_pairs))
        with on(out):
            least_few[(n_pairs, shares)](
                *self.codes.tensors(),
                *self._where(),
                self.keys,
                self._allowed(),
                out,
                self.counts,
                self.nprobe,
                self.n_chunks,
                *self.codes.numbers(),
                **self.codes.constants(),
                PER_PAIR=self.codes.per_pair,
                **self._masks(),
                N=CHUNK,
                BD=self.codes.width(),
            )
        return out

    def tiles(self) -> Tiles:
        """The probes in tiles of one list each; there are no more than the lists and the probes can make."""
        n_pairs, n_lists, device = self.nq * self.nprobe, self.lists.nlist, self.keys.device
        size = power_of_two(n_pairs // n_lists, 16, 64)
        sorted_keys, order = self.keys.view(-1).sort()
        starts = torch.searchsorted(sorted_keys, torch.arange(n_lists + 1, device=device))
        ends = ((starts.diff() + (size - 1)) // size).cumsum(0)
        n_tiles = n_pairs // size + min(n_lists, n_pairs)
        return Tiles(size, order, starts, ends, torch.searchsorted(ends, torch.arange(n_tiles, device=device), right=True))

    def _least_shared(self) -> Tensor:
        out = torch.full((self.nq, self.nprobe * self.n_chunks), float("inf"), device=self.keys.device)
        tiles = self.tiles()
        n_tiles = tiles.owners.shape[0]
        with on(out):
            least_shared[(n_tiles, min(self.n_chunks, max(1, 4 * _PROGRAMS // n_tiles)))](
                *self.codes.tensors(),
                *self._where(),
                tiles.order,
                tiles.starts,
                tiles.ends,
                tiles.owners,
                self._allowed(),
                out,
                self.counts,
                self.nprobe,
                self.n_chunks,
                self.lists.nlist,
                *self.codes.numbers(),
                **self.codes.constants(),
                **self._masks(),
                BQ=tiles.size,
                N=CHUNK,
                BD=power_of_two(self.codes.d, 16, 32),
            )
        return out

    def scores(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and labels of the entries in chosen chunks (nq, width)."""
        nq, width = chosen.shape
        values = torch.empty(nq, width * CHUNK, device=chosen.device)
        labels = torch.empty(nq, width * CHUNK, dtype=torch.int64, device=chosen.device)
        with on(values):
            chunk_scores[(nq * width,)](
                *self.codes.tensors(),
                *self._where(),
                self.keys,
                self._allowed(),
                chosen,
                self.lists.ids,
                values,
                labels,
                self.nprobe,
                self.n_chunks,
                width,
                *self.codes.numbers(),
                **self.codes.constants(),
                PER_PAIR=self.codes.per_pair,
                **self._masks(),
                PAIRS=self.pairs,
                N=CHUNK,
                BD=self.codes.width(),
            )
        return values, labels

    def top(self, k: int) -> Top:
        """The best k entries of each query; counts of lists, entries and results stay on the device."""
        least = self.least(self.together())
        chosen = pick(least, None, min(k + _SPARE, least.shape[1]))
        found = best(*self.scores(chosen), k, self.codes.largest, True, counts=self.counts)
        return *found, self.counts

    def within(self, radius: float) -> tuple[Tensor, Tensor, Tensor]:
        """All entries within a radius: how many for each query, values, labels. How many chunks may hold one is read from the device."""
        least = self.least(False)
        bound = -radius if self.codes.largest else radius
        most = int((least <= bound + 1e-6 * abs(bound)).sum(1).max())
        if not most:
            none = torch.empty(0, device=least.device)
            return torch.zeros(self.nq, dtype=torch.int64, device=least.device), none, none.to(torch.int64)
        values, labels = self.scores(pick(least, None, most))
        inside = (labels >= 0) & (values > radius if self.codes.largest else values < radius)
        return inside.sum(1), values[inside], labels[inside]


def _blocks(
    scan: type[Scan], codes: Codes, lists: Ragged, keys: Tensor, options: Options, taken: int, budget: int
) -> Iterator[Scan]:
    """The search in blocks of queries whose tables fit a budget of numbers; `taken` chunks are scored for each query."""
    nq, nprobe = keys.shape
    n_chunks = blocks_of(widest(lists), CHUNK)
    allowed, limits, pairs = options
    if nq and nprobe and n_chunks:
        columns = nprobe * n_chunks
        step = max(1, min(nq, budget // (columns + 3 * CHUNK * min(taken, columns))))
        for i in range(0, nq, step):
            some = None if limits is None else limits[i : i + step]
            yield scan(codes.part(i, min(nq, i + step), nprobe), lists, keys[i : i + step], allowed, some, pairs)


def top(codes: Codes, lists: Ragged, keys: Tensor, k: int, options: Options, scan: type[Scan] = Scan) -> Top:
    """The best k entries of each query."""

    def call(budget: int) -> Top:
        parts = [some.top(k) for some in _blocks(scan, codes, lists, keys, options, k + _SPARE, budget)]
        if not parts:
            return *padded(keys.shape[0], k, codes.largest, keys.device), torch.zeros(3, dtype=torch.int64, device=keys.device)
        if len(parts) == 1:
            return parts[0]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), torch.stack([p[2] for p in parts]).sum(0)

    return within_memory(call)


def within(codes: Codes, lists: Ragged, keys: Tensor, radius: float, options: Options, scan: type[Scan] = Scan) -> Range:
    """All entries within a radius, in the order of the scan."""

    def call(budget: int) -> Range:
        hits, values, labels, counts = [keys.new_zeros(1)], [torch.empty(0, device=keys.device)], [keys.new_empty(0)], [0, 0]
        for some in _blocks(scan, codes, lists, keys, options, 1 << 12, budget):
            for into, part in zip((hits, values, labels), some.within(radius)):
                into.append(part)
            visited, scored, _ = some.counts.tolist()
            counts = [counts[0] + visited, counts[1] + scored]
        if len(hits) == 1:
            hits.append(keys.new_zeros(keys.shape[0]))
        found = torch.cat(labels)
        return torch.cat(hits).cumsum(0), torch.cat(values), found, (counts[0], counts[1], found.shape[0])

    return within_memory(call)
