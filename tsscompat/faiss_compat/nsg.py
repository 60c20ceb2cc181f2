"""NSG and NN-descent indexes: graphs that are built at once, over vectors that a flat index stores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import nndescent as neighbours
from tsscompat.algorithms import nsg as spread
from tsscompat.algorithms.random import RandomGenerator
from tsscompat.arrays import Array, matrix, rows
from tsscompat.devices import CPU
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, child, integer, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.flat import IndexFlat
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import IndexPQ, IndexScalarQuantizer
from tsscompat.faiss_compat.stored_graph import StoredGraph
from tsscompat.faiss_compat.vectors import Int32Vector
from tsscompat.faiss_compat.visited import VisitedTable
from tsscompat.kernels import nsg as kernel
from tsscompat.kernels.graph import Graph
from tsscompat.kernels.metrics import INNER_PRODUCT

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


class IndexNSG(StoredGraph):
    """A graph of few edges in which every node can be reached from one; it is built once."""

    nsg = child(NSG, "the graph")
    is_built = boolean(False)
    GK = integer(64, "neighbours of a node in the table that the graph is built from")
    build_type = integer(0, "how that table is made: 0 by search, 1 by NN-descent")
    nndescent_S = integer(10)
    nndescent_R = integer(100)
    nndescent_L = integer(114)
    nndescent_iter = integer(10)

    def __init__(self, first: Any = 0, R: int = 32, metric: int = enums.METRIC_L2) -> None:
        if isinstance(first, Index):
            self._over(first)
            self.build_type = 1
        else:
            super().__init__(first, metric)
        self.nsg = NSG(R)

    @property
    def base_index(self) -> Any:
        """The storage, under the name of FAISS's stub."""
        return self.storage

    def build(self, x: Array, graph: Array) -> None:
        """Add vectors, and build the graph from a table (n, K) of the neighbours of each."""
        batch = rows(x, self.d, self.device)
        near = matrix(graph, batch.tensor.shape[0], graph.shape[1], torch.int64, self.device, "neighbours")
        check(not self.is_built and self.ntotal == 0, "The IndexNSG is already built")
        self._need_storage()
        self._check_table(near)
        self.storage._add(batch.tensor, None)
        self._spread(near)

    def build_c(self, n: int, x: Any, knn_graph: Any, GK: int) -> None:
        """FAISS's signature."""
        self.build(behind(x, n, self.d), behind(knn_graph, n, GK))

    def check_knn_graph(self, knn_graph: Any, n: int, K: int) -> None:
        """Raise unless most of a table's entries are other nodes."""
        self._check_table(behind(knn_graph, n, K))

    def _check_table(self, near: Tensor) -> None:
        n = near.shape[0]
        invalid = int(((near < 0) | (near >= n) | (near == torch.arange(n, device=near.device)[:, None])).sum())
        check(
            invalid < n // 10,
            "There are too many invalid entries in the knn graph: {} of {}, for {} nodes",
            invalid,
            near.numel(),
            n,
        )

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._need_storage()
        check(not self.is_built and self.ntotal == 0, "NSG does not support incremental addition")
        check(self.build_type in (0, 1), "build_type should be 0 or 1, got {}", self.build_type)
        self.storage._add(x, None)
        try:
            near = self._searched(x) if self.build_type == 0 else self._descended()
            self._check_table(near)
            self._spread(near)
        except BaseException:
            self._reset()
            raise

    def _searched(self, x: Tensor) -> Tensor:
        near: Tensor = self.storage._assign(x, self.GK + 1)
        if self.metric_type != INNER_PRODUCT:
            return near[:, 1:]
        # A vector need not be its own best: it is left out where it stands.
        other = near != torch.arange(near.shape[0], device=near.device)[:, None]
        other[:, -1] &= other[:, :-1].sum(1) < self.GK
        return near[other].view(-1, self.GK)

    def _descended(self) -> Tensor:
        made = NNDescent(self.d, self.GK)
        made.S, made.R, made.iter = self.nndescent_S, self.nndescent_R, self.nndescent_iter
        made.L = max(self.nndescent_L, self.GK + 50)
        made._build(self._vectors(), self.metric_type, self.metric_arg)
        return made._edges().long().to(self.device)

    def _spread(self, near: Tensor) -> None:
        """Build the graph from a table of the stored vectors' neighbours; on the CPU, where threads share the lists."""
        self._drop_caches()
        attached = self.nsg._build(self._vectors().to(CPU), near.to(CPU), self.metric_type, self.metric_arg)
        self.ntotal, self.is_built = self.storage.ntotal, True
        if self.verbose:
            degrees = (self.nsg._edges() >= 0).sum(1).float()
            print(f"NSG: {self.ntotal} nodes of {float(degrees.mean()):.1f} edges, {attached} attached")

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        self._need_storage()
        size = max(self.nsg.search_L, k)
        return self.nsg._walk(x, self._vectors(), size, k, self.metric_type, self.metric_arg)

    def _reset(self) -> None:
        self._need_storage()
        self.nsg.reset()
        self.storage._reset()
        self.ntotal, self.is_built = 0, False
        self._drop_caches()


class IndexNSGFlat(IndexNSG):
    """A graph over the vectors themselves."""

    def __init__(self, d: int = 0, R: int = 32, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, R, metric)
        if d:
            self._own(IndexFlat(d, metric))
            self.build_type = 1
        self.is_trained = True


class IndexNSGPQ(IndexNSG):
    """A graph over product codes."""

    def __init__(self, d: int = 0, pq_m: int = 1, M: int = 32, pq_nbits: int = 8) -> None:
        super().__init__(d, M)
        if d:
            self._own(IndexPQ(d, pq_m, pq_nbits))
            self.build_type = 1
        self.is_trained = False

    @property
    def pq(self) -> Any:
        """The storage's quantizer."""
        return self.storage.pq

    def _train(self, x: Tensor) -> None:
        super()._train(x)
        self.storage.pq.compute_sdc_table()


class IndexNSGSQ(IndexNSG):
    """A graph over scalar-quantised vectors."""

    def __init__(self, d: int = 0, qtype: int = 0, M: int = 32, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, M, metric)
        if d:
            self._own(IndexScalarQuantizer(d, qtype, metric))
            self.build_type = 1

    @property
    def sq(self) -> Any:
        """The storage's quantizer."""
        return self.storage.sq


class IndexNNDescent(StoredGraph):
    """A table of nearest neighbours that walks read; adding builds it anew."""

    nndescent = child(NNDescent, "the table")

    def __init__(self, first: Any = 0, K: int = 32, metric: int = enums.METRIC_L2) -> None:
        if isinstance(first, Index):
            self._over(first)
        else:
            super().__init__(first, metric)
        self.nndescent = NNDescent(self.d, K)

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._need_storage()
        self.nndescent._check_build(self.storage.ntotal + x.shape[0])
        self.storage._add(x, None)
        self._drop_caches()
        self.ntotal = self.storage.ntotal
        self.nndescent._drop_caches()
        self.nndescent._build(self._vectors(), self.metric_type, self.metric_arg)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        self._need_storage()
        size = max(self.nndescent.search_L, k)
        return self.nndescent._walk(x, self._vectors(), size, k, self.metric_type, self.metric_arg)

    def _reset(self) -> None:
        self._need_storage()
        self.nndescent.reset()
        self.storage._reset()
        self.ntotal = 0
        self._drop_caches()


class IndexNNDescentFlat(IndexNNDescent):
    """The same over the vectors themselves."""

    def __init__(self, d: int = 0, K: int = 32, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, K, metric)
        if d:
            self._own(IndexFlat(d, metric))
        self.is_trained = True


__all__ = [
    "NSG",
    "IndexNNDescent",
    "IndexNNDescentFlat",
    "IndexNSG",
    "IndexNSGFlat",
    "IndexNSGPQ",
    "IndexNSGSQ",
    "NNDescent",
    "NSG_Graph_int",
]
