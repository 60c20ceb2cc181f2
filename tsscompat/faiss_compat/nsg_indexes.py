"""NSG and NN-descent indexes: graphs that are built at once, over vectors that a flat index stores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array, matrix, rows
from tsscompat.devices import CPU
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import boolean, char, child, integer
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.flat import IndexFlat
from tsscompat.faiss_compat.nsg import NSG, NNDescent
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import IndexPQ, IndexScalarQuantizer
from tsscompat.faiss_compat.stored_graph import OverProductCodes, OverScalarCodes, StoredGraph
from tsscompat.kernels.metrics import INNER_PRODUCT


class IndexNSG(StoredGraph):
    """A graph of few edges in which every node can be reached from one; it is built once."""

    nsg = child(NSG, "the graph")
    is_built = boolean(False)
    GK = integer(64, "neighbours of a node in the table that the graph is built from")
    build_type = char(0, "how that table is made: 0 by search, 1 by NN-descent")
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
        by = int(self.build_type)
        check(by in (0, 1), "build_type should be 0 or 1, got {}", by)
        self.storage._add(x, None)
        try:
            near = self._searched(x) if by == 0 else self._descended()
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
        made._build(self._vectors(), self.metric_type, self._arg)
        return made._edges().long().to(self.device)

    def _spread(self, near: Tensor) -> None:
        """Build the graph from a table of the stored vectors' neighbours; on the CPU, where threads share the lists."""
        self._drop_caches()
        attached = self.nsg._build(self._vectors().to(CPU), near.to(CPU), self.metric_type, self._arg)
        self.ntotal, self.is_built = self.storage.ntotal, True
        if self.verbose:
            degrees = (self.nsg._edges() >= 0).sum(1).float()
            print(f"NSG: {self.ntotal} nodes of {float(degrees.mean()):.1f} edges, {attached} attached")

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        self._need_storage()
        size = max(self.nsg.search_L, k)
        return self.nsg._walk(x, self._vectors(), size, k, self.metric_type, self._arg)

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


class IndexNSGPQ(OverProductCodes, IndexNSG):
    """A graph over product codes."""

    def __init__(self, d: int = 0, pq_m: int = 1, M: int = 32, pq_nbits: int = 8) -> None:
        super().__init__(d, M)
        if d:
            self._own(IndexPQ(d, pq_m, pq_nbits))
            self.build_type = 1
        self.is_trained = False


class IndexNSGSQ(OverScalarCodes, IndexNSG):
    """A graph over scalar-quantised vectors."""

    def __init__(self, d: int = 0, qtype: int = 0, M: int = 32, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, M, metric)
        if d:
            self._own(IndexScalarQuantizer(d, qtype, metric))
            self.build_type = 1


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
        self.nndescent._build(self._vectors(), self.metric_type, self._arg)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        self._need_storage()
        size = max(self.nndescent.search_L, k)
        return self.nndescent._walk(x, self._vectors(), size, k, self.metric_type, self._arg)

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


__all__ = ["IndexNNDescent", "IndexNNDescentFlat", "IndexNSG", "IndexNSGFlat", "IndexNSGPQ", "IndexNSGSQ"]
