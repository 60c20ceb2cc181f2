"""Lists that stay in the host's memory, brought to a device block by block: one block travels while the one before it is worked on.

Lists are put in the order of the arena; those that lie close together travel in one piece, with the unused rows between them. The rows of
all pieces, numbered through, are cut into blocks of a size: a list may be split between two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged, runs
from tsscompat.records import record

# Unused bytes that are carried along rather than begin another copy, which takes the time of some 100 KiB on PCIe 5.
_GAP = 1 << 16


@record
class Route:
    """Which rows travel: pieces of the arena, and where the lists are in them."""

    names: Tensor  # (m,) the lists, in the order of the arena
    begins: Tensor  # (m,) where each begins, of the rows numbered through
    sizes: Tensor  # (m,)
    sources: Tensor  # (pieces,) where each piece begins in the arena
    targets: Tensor  # (pieces + 1,) and of the rows numbered through; at last their number

    @property
    def rows(self) -> int:
        return int(self.targets[-1])


@record
class Block:
    """Part of the lists on a device; the others are empty there."""

    lists: Ragged  # its ids mean nothing: a search asks for (list, position) pairs
    first: Tensor  # (nlist,) how many entries of each list came in blocks before
    columns: tuple[Tensor, ...]  # what else travelled with the rows
    spans: Tensor  # (3, m) of each list that travels, on the host: where it begins in the arena, in the block, and how many rows are here

    def places(self) -> tuple[Tensor, Tensor]:
        """For each row that holds an entry, where it comes from in the arena and where it is in the block; on the host."""
        in_arena, in_block, n = self.spans.unbind(0)
        origin, which = runs(in_arena, n)
        return origin, origin + (in_block - in_arena)[which]


def route(lists: Ragged, names: Tensor, row_bytes: int) -> Route:
    """How some lists of the host travel; of lists without entries nothing does."""
    names = names[lists.sizes[names] > 0]
    names = names[lists.offsets[names].argsort()]
    starts, sizes = lists.offsets[names], lists.sizes[names]
    ends = starts + sizes
    apart = torch.ones_like(names, dtype=torch.bool)
    apart[1:] = starts[1:] - ends[:-1] > _GAP // max(1, row_bytes)
    heads = apart.nonzero()[:, 0]
    tails = torch.cat([heads[1:] - 1, heads.new_full((1 if heads.shape[0] else 0,), names.shape[0] - 1)])
    sources = starts[heads]
    targets = torch.cat([heads.new_zeros(1), (ends[tails] - sources).cumsum(0)])
    piece = apart.cumsum(0) - 1
    return Route(names, starts - sources[piece] + targets[piece], sizes, sources, targets)


class _Rooms:
    """Two rooms on a device, filled in turn, on a stream of their own where there are streams."""

    def __init__(self, sources: Sequence[Tensor], rows: int, device: torch.device) -> None:
        self.sources = sources
        self.rooms = [[s.new_empty(rows, *s.shape[1:], device=device) for s in sources] for _ in range(2)]
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.arrived: list[torch.cuda.Event | None] = [None, None]
        if self.side is not None:
            # What the allocator gave may still be read by work that was asked for before.
            self.side.wait_stream(torch.cuda.current_stream(device))
        self.device = device

    def send(self, number: int, pieces: list[tuple[int, int, int]]) -> None:
        """Begin to fill a room with pieces (row of the source, rows, row of the room)."""
        with torch.cuda.stream(self.side):
            for source, room in zip(self.sources, self.rooms[number % 2]):
                for origin, n, to in pieces:
                    room[to : to + n].copy_(source[origin : origin + n], non_blocking=True)
            if self.side is not None:
                self.arrived[number % 2] = self.side.record_event()

    def received(self, number: int) -> list[Tensor]:
        """A room whose content may be read by work on the current stream."""
        event = self.arrived[number % 2]
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)
        return self.rooms[number % 2]

    def free(self) -> None:
        """The room that was worked on may be filled again, after that work."""
        if self.side is not None:
            self.side.wait_stream(torch.cuda.current_stream(self.device))

    def close(self) -> None:
        """Wait for what is under way: the host's rows may change from now on, and the rooms go back."""
        if self.side is not None:
            self.side.synchronize()


def _pieces(way: Route, low: int, high: int) -> list[tuple[int, int, int]]:
    """What lies in rows low to high: (row of the arena, rows, row of the block)."""
    begin, end = way.targets[:-1].clamp(low, high), way.targets[1:].clamp(low, high)
    rows = torch.stack([way.sources + begin - way.targets[:-1], end - begin, begin - low], 1)
    return [(a, n, b) for a, n, b in rows[end > begin].tolist()]


def _block(way: Route, low: int, high: int, room: list[Tensor], ids: Tensor, lists: Ragged) -> Block:
    device, nlist = room[0].device, lists.nlist
    first = (low - way.begins).clamp(min=0).minimum(way.sizes)
    n = (high - way.begins).clamp(min=0).minimum(way.sizes) - first
    begin = (way.begins + first - low).clamp(min=0)
    table = torch.zeros(3, nlist, dtype=torch.int64)
    table[:, way.names] = torch.stack([begin, n, first])
    # Without waiting for the work on the block before.
    sent = (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)
    offsets, sizes, before = sent.unbind(0)
    here = Ragged(room[0], ids, offsets.contiguous(), sizes.contiguous(), {"widest": int(table[1].max()) if nlist else 0})
    return Block(here, before, tuple(room[1:]), torch.stack([lists.offsets[way.names] + first, begin, n]))


def blocks(lists: Ragged, names: Tensor, columns: Sequence[Tensor], rows: int, device: torch.device) -> Iterator[Block]:
    """Some lists of the host, with columns of the same rows, on a device in blocks of at most so many rows.

    A block is good until the next one is asked for.
    """
    sources = [lists.codes, *columns]
    way = route(lists, names, sum(s[:1].nbytes for s in sources))
    rows = min(rows, way.rows)
    if not rows:
        return
    rooms, ids = _Rooms(sources, rows, device), torch.zeros(rows, dtype=torch.int64, device=device)
    cuts = [(low, min(low + rows, way.rows)) for low in range(0, way.rows, rows)]
    try:
        rooms.send(0, _pieces(way, *cuts[0]))
        for number, (low, high) in enumerate(cuts):
            if number + 1 < len(cuts):
                rooms.send(number + 1, _pieces(way, *cuts[number + 1]))
            yield _block(way, low, high, rooms.received(number), ids, lists)
            rooms.free()
    finally:
        rooms.close()


def probe_of(keys: Tensor, list_nos: Tensor) -> Tensor:
    """Which of a query's probes each of its lists (nq, m) is; where a query probes none of the name, nothing that means anything."""
    in_order, order = keys.sort(dim=1)
    at = torch.searchsorted(in_order, list_nos.contiguous()).clamp(max=keys.shape[1] - 1)
    return order.gather(1, at)


@record
class Best:
    """The best k so far: costs (nq, k), (list, position) pairs, and where in the scan each was met."""

    costs: Tensor
    pairs: Tensor
    met: Tensor

    @staticmethod
    def none(nq: int, k: int, device: torch.device) -> Best:
        blank = torch.full((nq, k), -1, dtype=torch.int64, device=device)
        return Best(torch.full((nq, k), float("inf"), device=device), blank, blank)

    def and_also(self, values: Tensor, pairs: Tensor, first: Tensor, keys: Tensor, largest: bool) -> Best:
        """With an answer from a block, in which each list begins `first` entries late; of tied results the first met stay."""
        k, there = self.costs.shape[1], pairs >= 0
        list_nos = torch.where(there, pairs >> 32, 0)
        pairs = torch.where(there, pairs + first[list_nos], -1)
        met = torch.where(there, (probe_of(keys, list_nos) << 32) | (pairs & 0xFFFFFFFF), -1)
        costs = torch.where(there, -values if largest else values, float("inf"))
        costs, pairs = torch.cat([self.costs, costs], 1), torch.cat([self.pairs, pairs], 1)
        met, order = torch.cat([self.met, met], 1).sort(dim=1)
        costs, pairs = costs.gather(1, order), pairs.gather(1, order)
        costs, order = costs.sort(dim=1, stable=True)
        return Best(costs[:, :k], pairs.gather(1, order)[:, :k], met.gather(1, order)[:, :k])

    def answer(self, labels: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
        """Distances and labels, given those of the pairs, in FAISS's order."""
        worst = torch.finfo(torch.float32).max
        labels, order = labels.sort(dim=1, stable=True, descending=largest)
        costs, again = self.costs.gather(1, order).sort(dim=1, stable=True)
        values = torch.where(costs < worst, costs, worst)
        return -values if largest else values, torch.where(costs < worst, labels.gather(1, again), -1)
