"""Walks on a layered proximity graph (HNSW); the queries of a batch take a step at a time."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tsscompat.modules.codecs import Codec
from tsscompat.modules.distances import best_of, distance, is_similarity, nothing, order_of
from tsscompat.modules.part import empty_ints
from tsscompat.modules.searcher import Searcher
from tsscompat.modules.structures import kept, started


class Graph(Searcher):
    """Node i has its neighbours of all levels at neighbors[offsets[i]:], level l's from ends[l] to ends[l + 1], unused places -1."""

    SETTINGS = ("metric", "arg", "k", "efSearch", "ends", "entry", "top", "relative", "bounded")
    # Visited flags of a block of queries take up to this many bytes; an exported program holds those of its batch.
    SEEN: Final[int] = 1 << 27
    offsets: Tensor
    neighbors: Tensor

    def __init__(
        self,
        codec: Codec,
        metric: int,
        ends: Sequence[int],
        entry: int,
        top: int,
        arg: float = 0.0,
        k: int = 10,
        efSearch: int = 16,
        relative: bool = True,
        bounded: bool = True,
    ) -> None:
        super().__init__(metric, k)
        self.codec, self.arg, self.efSearch, self.ends = codec, float(arg), int(efSearch), [int(e) for e in ends]
        self.entry, self.top, self.relative, self.bounded = int(entry), int(top), bool(relative), bool(bounded)
        self.hold(offsets=empty_ints(1), neighbors=torch.zeros(0, dtype=torch.int32))

    def costs(self, x: Tensor, nodes: Tensor) -> Tensor:
        """What nodes (n, m) cost; infinite for -1."""
        values = distance(x[:, None], self.codec.decode(nodes.clamp(min=0)), self.metric, self.arg)
        values = -values if is_similarity(self.metric) else values
        return torch.where((nodes >= 0) & ~values.isnan(), values, float("inf"))

    def neighbours(self, nodes: Tensor, level: int) -> Tensor:
        """The neighbours of nodes (n,) on a level, (n, width)."""
        span = torch.arange(self.ends[level], self.ends[level + 1], device=nodes.device)
        return self.neighbors[self.offsets[nodes][:, None] + span].long()

    def down(self, x: Tensor, level: int, nodes: Tensor, best: Tensor, moving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A greedy step on a level."""
        near = self.neighbours(nodes, level)
        cost, at = self.costs(x, near).min(1)
        moving = moving & (cost < best)
        return torch.where(moving, near.gather(1, at[:, None])[:, 0], nodes), torch.where(moving, cost, best), moving

    def step(self, x: Tensor, stop: int, state: list[Tensor]) -> list[Tensor]:
        """Look at the neighbours of each query's best candidate; the state is described in `begun`."""
        costs, nodes, done, seen, best, found, active, steps = (
            state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7],
        )  # fmt: skip
        waiting = (~done).long()
        first = waiting.argmax(1, keepdim=True)
        here = costs.gather(1, first)
        active = active & (waiting.sum(1) > 0)
        if self.relative or not self.bounded:
            active = active & ((costs < here).sum(1) < stop)
        else:
            active = active & (steps <= stop)
        done = done.scatter(1, first, done.gather(1, first) | active[:, None])
        near = torch.where(active[:, None], self.neighbours(nodes.gather(1, first)[:, 0].clamp(min=0), 0), -1)
        column = torch.where(near >= 0, near, seen.shape[1] - 1)
        near = torch.where(seen.gather(1, column), -1, near)
        seen = seen.scatter(1, column, True)
        cost = self.costs(x, near)
        best, found = kept(best, found, cost, near, best.shape[1])
        order = order_of(torch.cat([costs, cost], 1))[:, : costs.shape[1]]
        costs = torch.cat([costs, cost], 1).gather(1, order)
        nodes = torch.cat([nodes, near], 1).gather(1, order)
        done = torch.cat([done, near < 0], 1).gather(1, order)
        return [costs, nodes, done, seen, best, found, active, steps + 1]

    def begun(self, x: Tensor, node: Tensor, cost: Tensor, ef: int, k: int) -> list[Tensor]:
        """The state of a walk: candidates (cost, node, done), nodes seen, the best found, whether it goes on, its steps."""
        costs, nodes = started(x, ef)
        costs, nodes = torch.cat([cost[:, None], costs[:, 1:]], 1), torch.cat([node[:, None], nodes[:, 1:]], 1)
        seen = torch.zeros((x.shape[0], self.offsets.shape[0]), dtype=torch.bool, device=x.device)
        best, found = started(x, k)
        best, found = torch.cat([cost[:, None], best[:, 1:]], 1), torch.cat([node[:, None], found[:, 1:]], 1)
        active = torch.ones_like(node, dtype=torch.bool)
        seen = seen.scatter(1, node[:, None], True)
        return [costs, nodes, costs.isinf(), seen, best, found, active, torch.zeros((), dtype=torch.int64, device=x.device)]

    @torch.jit.unused
    def traced(self, x: Tensor, nodes: Tensor, best: Tensor, ef: int, stop: int, k: int) -> Tensor:
        """The walk as loops of the program that torch.export, torch.compile or ONNX make."""
        for level in range(self.top, 0, -1):

            def lower(nodes: Tensor, best: Tensor, moving: Tensor, level: int = level) -> tuple[Tensor, Tensor, Tensor]:
                return self.down(x, level, nodes, best, moving)

            moving = torch.ones_like(nodes, dtype=torch.bool)
            nodes, best, moving = torch.while_loop(lambda n, b, m: m.any(), lower, (nodes, best, moving))
        state = self.begun(x, nodes, best, ef, k)
        found: Tensor = torch.while_loop(lambda *s: s[6].any(), lambda *s: tuple(self.step(x, stop, list(s))), tuple(state))[5]
        return found

    def walked(self, x: Tensor, nodes: Tensor, best: Tensor, ef: int, stop: int, k: int) -> Tensor:
        """The k best nodes that walks from nodes (n,) meet."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if torch.compiler.is_compiling():
                return self.traced(x, nodes, best, ef, stop, k)
        parts: list[Tensor] = []
        block = max(1, self.SEEN // self.offsets.shape[0])
        for i in range(0, x.shape[0], block):
            asked, node, cost = x[i : i + block], nodes[i : i + block], best[i : i + block]
            for level in range(self.top, 0, -1):
                moving = torch.ones_like(node, dtype=torch.bool)
                while bool(moving.any()):
                    node, cost, moving = self.down(asked, level, node, cost, moving)
            state = self.begun(asked, node, cost, ef, k)
            while bool(state[6].any()):
                state = self.step(asked, stop, state)
            parts.append(state[5])
        return torch.cat(parts) if len(parts) > 0 else torch.zeros((0, k), dtype=torch.int64, device=x.device)

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        x = queries.float()
        if self.offsets.shape[0] == 1 or self.entry < 0:
            return nothing(x, k, self.metric)
        ef = efSearch if efSearch > 0 else self.efSearch
        room = max(ef, k)
        nodes = torch.full((x.shape[0],), self.entry, dtype=torch.int64, device=x.device)
        cost = self.costs(x.detach(), nodes[:, None])[:, 0]
        rows = self.walked(x.detach(), nodes, cost, room, ef if self.bounded else room, k)
        return best_of(self.again(x, rows), rows, k, self.metric)

    def again(self, queries: Tensor, labels: Tensor) -> Tensor:
        return distance(queries.float()[:, None], self.vectors(labels.clamp(min=0)), self.metric, self.arg)

    def vectors(self, rows: Tensor) -> Tensor:
        return self.codec.decode(rows)
