"""The graphs of NSG and NN-descent, which are built at once; nsg_indexes.py puts them over stored vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import nndescent as neighbours
from tsscompat.algorithms import nsg as spread
from tsscompat.algorithms.random import RandomGenerator
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, child, integer, vector
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Int32Vector
from tsscompat.faiss_compat.visited import VisitedTable
from tsscompat.kernels import nsg as kernel
from tsscompat.kernels.graph import Graph

# FAISS's NN-descent looks at so many nodes to judge itself, and wants more than that.
_FEWEST = 100


class NSG_Graph_int(Stated):
    """A table of neighbours: N rows of K node numbers, ended by -1."""

    data = vector(Int32Vector, "the table, row after row")
    K = integer(0, "neighbours of a node")
    N = integer(0, "nodes")
    own_fields = boolean(True)

    def __init__(self, N_in: int = 0, K_in: int = 0) -> None:
        super().__init__()
        self.N, self.K = N_in, K_in
        self.data.resize(N_in * K_in, -1)

    def at(self, i: int, j: int) -> int:
        """The j-th neighbour of node i."""
        return int(self.data.at(i * self.K + j))

    def get_neighbors(self, i: int, neighbors: Any) -> int:
        """Write node i's neighbours behind a pointer; gives how many there are."""
        held = [other for other in self._table()[i].tolist() if other >= 0]
        behind(neighbors, self.K)[: len(held)] = torch.tensor(held, dtype=torch.int32)
        return len(held)

    def _table(self) -> Tensor:
        return self.data.tensor.view(self.N, self.K)


class _Walked(Stated):
    """A table of edges that walks with a pool read; what they share is kept as long as nothing changes."""

    _caches = ("_kept",)
    _kept: Any

    def _edges(self) -> Tensor:
        raise NotImplementedError

    def _stamp(self) -> tuple[Any, ...]:
        """What the edges and the begin of a walk depend on; raises unless there are edges."""
        raise NotImplementedError

    def _drawn(self, size: int) -> Tensor:
        """Where walks with a pool of `size` begin."""
        raise NotImplementedError

    def _walk(self, x: Tensor, vectors: Tensor, size: int, k: int, metric: int, arg: float) -> tuple[Tensor, Tensor]:
        """The k best nodes that walks with a pool of `size` meet; as many as there are, if that is less."""
        stamp = self._stamp()
        kept: tuple[Any, Graph, dict[int, Tensor]] | None = self.__dict__["_kept"]
        if kept is None or any(a is not b for a, b in zip(kept[0], stamp)):
            kept = self._kept = stamp, spread.as_graph(self._edges()), {}
        begin = kept[2].get(size)
        if begin is None:
            begin = kept[2][size] = self._drawn(min(size, kept[1].offsets.shape[0] - 1))[None]
        return spread.walk(x, vectors, kept[1], begin, k, metric, arg)


class NSG(_Walked):
    """The graph: every node's neighbours, and where walks begin."""

    ntotal = integer(0, "nodes")
    R = integer(32, "neighbours of a node")
    L = integer(64, "candidates of the walks that build it")
    C = integer(132, "candidates that a node's neighbours are chosen from")
    search_L = integer(16, "candidates while searching")
    use_visited_hashset = anything(None, "accepted: our visited table is one of generations")
    enterpoint = integer(0, "the node next to the mean")
    final_graph = child(None, "the neighbours, once it is built")
    is_built = boolean(False)
    rng = anything(None, "draws where the search for the mean begins, and nodes to attach others to")

    def __init__(self, R: int = 32) -> None:
        super().__init__()
        self.R, self.L, self.C = R, R + 32, R + 100
        self.rng = RandomGenerator(0x0903)

    def get_final_graph(self) -> NSG_Graph_int | None:
        """The neighbours, once it is built."""
        graph: NSG_Graph_int | None = self.final_graph
        return graph

    def reset(self) -> None:
        """Remove all nodes."""
        self.final_graph, self.ntotal, self.is_built = None, 0, False
        self._drop_caches()

    def check_graph(self) -> None:
        """Raise unless every edge leads to a node."""
        edges = self._edges()
        check(bool(((edges >= -1) & (edges < self.ntotal)).all()), "an edge to a node that does not exist")

    def dfs(self, vt: VisitedTable, root: int, cnt: int) -> int:
        """Mark all nodes that edges lead to from `root`; gives cnt and the number of new ones."""
        return cnt + kernel.reach(self._edges().cpu(), root, vt._met)

    def _edges(self) -> Tensor:
        self._stamp()
        edges: Tensor = self.final_graph._table()
        return edges

    def _stamp(self) -> tuple[Any, ...]:
        graph = self.final_graph
        check(self.is_built and graph is not None, "the NSG graph is not built")
        return graph.data._buffer, self.enterpoint

    def _drawn(self, size: int) -> Tensor:
        return spread.starts(self._edges(), self.enterpoint, size)

    def _build(self, vectors: Tensor, near: Tensor, metric: int, arg: float) -> int:
        """Choose edges from a table of neighbours; gives how many nodes had to be attached."""
        check(not self.is_built and self.ntotal == 0, "NSG graph must be empty and not yet built")
        check(self.R > 0 and self.L > 0 and self.C > 0 and self.search_L > 0, "R, L, C and search_L must be positive")
        how = spread.Settings(self.R, self.L, self.C, self.search_L, metric, arg)
        edges, self.enterpoint, attached = spread.build(vectors, near, how, self.rng)
        self._take(edges)
        return attached

    def _take(self, edges: Tensor) -> None:
        """Have these edges (n, R)."""
        self.final_graph = NSG_Graph_int()
        self.final_graph.N, self.final_graph.K = edges.shape
        self.final_graph.data.tensor = edges.to(self.device)
        self.ntotal, self.is_built = edges.shape[0], True


class NNDescent(_Walked):
    """The nearest neighbours of every node, found by NN-descent."""

    has_built = boolean(False)
    S = integer(10, "candidates sampled for a node in each round")
    R = integer(100, "edges followed back; 0 for none")
    iter = integer(10, "rounds")
    search_L = integer(0, "candidates while searching")
    random_seed = integer(2021)
    K = integer(32, "neighbours of a node")
    d = integer(0, "dimension of the vectors")
    L = integer(82, "candidates of a node while building")
    ntotal = integer(0, "nodes")
    final_graph = vector(Int32Vector, "K neighbours of each node")

    def __init__(self, d: int = 0, K: int = 32) -> None:
        super().__init__()
        self.d, self.K, self.L = d, K, K + 50

    def reset(self) -> None:
        """Remove all nodes."""
        self.has_built, self.ntotal = False, 0
        self.final_graph.clear()
        self._drop_caches()

    def _check_build(self, n: int) -> None:
        check(self.L >= self.K, "L should be >= K in NNDescent.build, got {} and {}", self.L, self.K)
        check(n > _FEWEST, "NNDescent.build cannot build a graph smaller than {}, got {}", _FEWEST, n)
        check(self.K > 0 and self.S > 0 and self.R >= 0 and self.iter >= 0, "K and S must be positive, R and iter not negative")
        check(n >= 2 * self.S, "S must be at most half of the {} vectors, got {}", n, self.S)

    def _build(self, vectors: Tensor, metric: int, arg: float) -> None:
        self._check_build(vectors.shape[0])
        how = neighbours.Settings(self.K, self.L, self.S, self.R, self.iter, self.random_seed, metric, arg)
        self.final_graph.tensor = neighbours.build(vectors.cpu(), how).to(self.device)
        self.ntotal, self.has_built = vectors.shape[0], True

    def _edges(self) -> Tensor:
        self._stamp()
        return self.final_graph.tensor.view(self.ntotal, self.K)

    def _stamp(self) -> tuple[Any, ...]:
        check(self.has_built, "The index is not build yet.")
        return self.final_graph._buffer, self.random_seed

    def _drawn(self, size: int) -> Tensor:
        return neighbours.drawn(RandomGenerator(self.random_seed), 1, size, self.ntotal)[0].to(self.device)


__all__ = ["NSG", "NNDescent", "NSG_Graph_int"]
