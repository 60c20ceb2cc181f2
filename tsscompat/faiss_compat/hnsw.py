"""HNSW: the layered graph that indexes walk, without their vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import hnsw as levels_of
from tsscompat.algorithms.random import RandomGenerator
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, integer, single, vector
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import Float64Vector, Int32Vector, UInt64Vector
from tsscompat.kernels.graph import Graph


class HNSW(Stated):
    """The graph: levels of the nodes, their neighbours, where walks begin."""

    _caches = ("_graph",)

    assign_probas = vector(Float64Vector, "how likely each level is")
    cum_nneighbor_per_level = vector(Int32Vector, "neighbours of a node up to each level")
    levels = vector(Int32Vector, "the number of levels of each node")
    offsets = vector(UInt64Vector, "where each node's neighbours begin")
    neighbors = vector(Int32Vector, "the neighbours, -1 for none")
    entry_point = integer(-1, "where walks begin")
    max_level = integer(-1, "the entry point's level")
    efConstruction = integer(40, "candidates while building")
    efSearch = integer(16, "candidates while searching")
    check_relative_distance = boolean(True, "stop when enough better nodes were found")
    prune_headroom = single(0.2, "the share of its places that a list leaves free when it is chosen anew")
    search_bounded_queue = boolean(True, "keep no more candidates than efSearch")
    is_panorama = boolean(False)
    is_similarity = boolean(False, "whether larger is better; follows the index's metric, is not in files")
    search_method = integer(0, "only SM_DEFAULT")
    use_visited_hashset = anything(None, "accepted: our visited table is one of generations")
    rng = anything(None, "draws the levels")

    SM_DEFAULT, SM_PANORAMA, SM_RABITQ = 0, 1, 2

    @property
    def graph(self) -> Int32Vector:
        """The neighbours, under the name of FAISS's stub."""
        edges: Int32Vector = self.neighbors
        return edges

    @property
    def hnsw_stats(self) -> Any:
        """What searches did, which FAISS counts for all graphs together."""
        return cvar.hnsw_stats

    def __init__(self, M: int = 32) -> None:
        super().__init__()
        self.rng = RandomGenerator(12345)
        self.offsets.push_back(0)
        self.set_default_probas(M, 1.0 / math.log(max(2, M)))

    def set_default_probas(self, M: int, levelMult: float) -> None:
        """Set the levels' chances and widths for M neighbours a node; chances fall by exp(-1 / levelMult) from level to level."""
        check(levelMult > 0, "levelMult must be positive, got {}", levelMult)
        chances, ends = levels_of.probabilities(max(2, M), levelMult)
        self.assign_probas = chances
        self.cum_nneighbor_per_level = ends

    def nb_neighbors(self, layer_no: int) -> int:
        """How many neighbours a node can have on a level."""
        ends = self.cum_nneighbor_per_level
        return int(ends.at(layer_no + 1) - ends.at(layer_no))

    def cum_nb_neighbors(self, layer_no: int) -> int:
        """How many neighbours a node can have below a level."""
        return int(self.cum_nneighbor_per_level.at(layer_no))

    def set_nb_neighbors(self, level_no: int, n: int) -> None:
        """Change how many neighbours a node can have on a level; before anything is added."""
        check(self.levels.size() == 0, "the graph holds nodes already")
        ends = self.cum_nneighbor_per_level.tensor
        ends[level_no + 1 :] += n - self.nb_neighbors(level_no)

    def neighbor_range(self, no: int, layer_no: int, begin: Any = None, end: Any = None) -> tuple[int, int]:
        """Where a node's neighbours on a level stand."""
        start = int(self.offsets.at(no))
        first, last = start + self.cum_nb_neighbors(layer_no), start + self.cum_nb_neighbors(layer_no + 1)
        if begin is not None and end is not None:
            begin[0], end[0] = first, last
        return first, last

    def random_level(self) -> int:
        """Draw a level."""
        return int(levels_of.draw_levels(1, self.assign_probas.tensor.tolist(), self.rng)[0])

    def prepare_level_tab(self, n: int, preset_levels: bool = False) -> int:
        """Make room for n more nodes, drawing their levels unless they are there; gives the highest."""
        held = self.offsets.size() - 1
        if preset_levels:
            check(held + n == self.levels.size(), "{} levels are there for {} nodes", self.levels.size(), held + n)
        else:
            check(held == self.levels.size(), "{} levels are there for {} nodes", self.levels.size(), held)
            self.levels.append(levels_of.draw_levels(n, self.assign_probas.tensor.tolist(), self.rng) + 1)
        begin = int(self.offsets.at(held))
        new = self.levels.tensor[held:].long()
        widths = self.cum_nneighbor_per_level.tensor.long()[new]
        self.offsets.append((begin + widths.cumsum(0)).to(torch.uint64))
        self.neighbors.resize(begin + int(widths.sum()), -1)
        return int(new.max()) - 1 if n else 0

    def _one_more(self) -> None:
        """The same for one node of a graph on the CPU, without tensors."""
        chances = self.assign_probas
        level = levels_of.draw_level(chances.array[: chances._n].tolist(), self.rng) + 1
        begin = self.offsets.array.item(self.offsets._n - 1)
        end = begin + self.cum_nneighbor_per_level.array.item(level)
        for held, value, upto in ((self.levels, level, None), (self.offsets, end, None), (self.neighbors, -1, end)):
            more = 1 if upto is None else upto - held._n
            room, at = held.extended(more)
            room[at : at + more] = value
            held._n = at + more

    def fill_with_random_links(self, n: int) -> None:
        """Link n nodes at random."""
        self.prepare_level_tab(n)
        rng = RandomGenerator(456)
        for level in range(int(self.levels.tensor.max()) - 1, -1, -1):
            nodes = (self.levels.tensor > level).nonzero()[:, 0].tolist()
            for node in nodes:
                first, last = self.neighbor_range(node, level)
                for at in range(first, last):
                    other = node
                    while other == node and len(nodes) > 1:
                        other = nodes[rng.rand_int(len(nodes))]
                    self.neighbors.tensor[at] = other if other != node else -1

    def reset(self) -> None:
        """Remove all nodes."""
        self.max_level = self.entry_point = -1
        self.offsets.clear()
        self.offsets.push_back(0)
        self.levels.clear()
        self.neighbors.clear()

    def clear_neighbor_tables(self, level: int) -> None:
        """Remove all edges of a level."""
        for node in (self.levels.tensor > level).nonzero()[:, 0].tolist():
            first, last = self.neighbor_range(node, level)
            self.neighbors.tensor[first:last] = -1

    def print_neighbor_stats(self, level: int) -> None:
        """Print how many neighbours nodes have on a level."""
        counts = [
            int((self.neighbors.tensor[slice(*self.neighbor_range(node, level))] >= 0).sum())
            for node in (self.levels.tensor > level).nonzero()[:, 0].tolist()
        ]
        print(f"stats on level {level}, max {self.nb_neighbors(level)} neighbors per vertex:")
        print(f"   nodes {len(counts)}, neighbors per node {sum(counts) / max(1, len(counts)):.2f}")

    def permute_entries(self, map: Any) -> None:
        """Renumber the nodes: the i-th becomes the one that was at map[i]."""
        self._permute(behind(map, self.levels.size()))

    def _permute(self, old: Tensor) -> None:
        inverse = torch.empty_like(old)
        inverse[old] = torch.arange(old.shape[0], device=old.device)
        begin = self.offsets.tensor.view(torch.int64)
        widths = begin.diff()[old]
        starts = torch.cat([widths.new_zeros(1), widths.cumsum(0)])
        within = torch.arange(int(starts[-1]), device=old.device) - torch.repeat_interleave(starts[:-1], widths)
        moved = self.neighbors.tensor[torch.repeat_interleave(begin[old], widths) + within].long()
        moved = torch.where(moved >= 0, inverse[moved.clamp(min=0)], moved)
        self.levels.tensor, self.offsets.tensor = self.levels.tensor[old], starts.view(torch.uint64)
        self.neighbors.tensor = moved.int()
        if self.entry_point >= 0:
            self.entry_point = int(inverse[self.entry_point])

    def _arrays(self) -> Graph:
        """The graph as the kernels take it; the same record as long as nothing changes."""
        levels, offsets, neighbors, ends = self.levels, self.offsets, self.neighbors, self.cum_nneighbor_per_level
        stamp = (levels._n, neighbors._n, self.entry_point, self.max_level)
        kept = self.__dict__["_graph"]
        if (
            kept is None
            or kept[0] != stamp
            or kept[1] is not levels._buffer
            or kept[2] is not offsets._buffer
            or kept[3] is not neighbors._buffer
            or kept[4] is not ends._buffer
        ):
            begin = offsets.tensor.view(torch.int64)
            graph = Graph(levels.tensor, begin, neighbors.tensor, ends.tensor, self.entry_point, self.max_level)
            kept = self._graph = stamp, levels._buffer, offsets._buffer, neighbors._buffer, ends._buffer, graph
        arrays: Graph = kept[5]
        return arrays


__all__ = ["HNSW"]
