"""CAGRA's graph as an index: what GpuIndexCagra, of vectors, and GpuIndexBinaryCagra, of codes, have in common.

Neighbours are found exactly: on tensor cores that costs less than the approximations (`build_algo` and what tunes them) that FAISS offers
for it, so those settings are permissions. Walks begin at the nearest of random nodes, drawn from the parameters' seed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import cagra
from tsscompat.devices import CPU, Placement
from tsscompat.errors import check
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.gpu_cagra_configs import GpuIndexCagraConfig, SearchParametersCagra
from tsscompat.faiss_compat.graph import HNSW
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import Int64Vector, Vector
from tsscompat.kernels import graph as kernel
from tsscompat.kernels.graph import Walk

# Random nodes among which a walk looks for where to begin, for each sampling that is asked for.
_STARTS = 128


def starts(n: int, params: SearchParametersCagra, device: torch.device) -> Tensor:
    """Random nodes, the same for all queries: (1, some)."""
    generator = torch.Generator().manual_seed(int(params.seed))
    some = min(n, _STARTS * max(1, int(params.num_random_samplings)))
    return torch.randperm(n, generator=generator)[:some][None].to(device)


def walk_of(params: SearchParametersCagra, k: int) -> Walk:
    """The walk that the parameters ask for."""
    ef = max(int(params.itopk_size), k)
    steps = int(params.max_iterations)
    return Walk(ef, steps - 1 if steps else ef, not steps)


def flat_graph(hnsw: HNSW, edges: Tensor) -> None:
    """Make a graph of one level with these edges (n, degree)."""
    n, degree = edges.shape
    hnsw.set_default_probas(max(1, degree // 2), 1.0 / math.log(max(2, degree // 2)))
    hnsw.levels.tensor = torch.ones(n, dtype=torch.int32, device=edges.device)
    hnsw.offsets.tensor = (torch.arange(n + 1, device=edges.device) * degree).view(torch.uint64)
    hnsw.neighbors.tensor = edges.to(torch.int32).reshape(-1)
    hnsw.entry_point, hnsw.max_level = (0, 0) if n else (-1, -1)


def bottom_edges(hnsw: HNSW) -> Tensor:
    """The edges of the bottom level: (n, degree)."""
    begin = hnsw.offsets.tensor.view(torch.int64)[:-1]
    span = torch.arange(hnsw.nb_neighbors(0), device=begin.device)
    return hnsw.neighbors.tensor[begin[:, None] + span].long()


def set_bottom_edges(hnsw: HNSW, edges: Tensor) -> None:
    """Replace the edges of the bottom level."""
    begin = hnsw.offsets.tensor.view(torch.int64)[:-1]
    span = torch.arange(edges.shape[1], device=begin.device)
    hnsw.neighbors.tensor[begin[:, None] + span] = edges.to(torch.int32)


class CagraGraph:
    """Training, or adding, takes the rows and makes the graph, once; `reset` lets another be made."""

    _degrees: tuple[int, int] = (128, 64)
    _connected: bool = False
    _stores: bool = True

    # What the ordinary classes beside this one in a kind's bases have.
    device: torch.device
    hnsw: HNSW
    is_trained: bool
    ntotal: int

    # -- what vectors and codes differ in ---------------------------------------------------------------------------------------------

    def _new_storage(self: Any) -> tuple[Any, Vector]:
        """An empty index for the rows, on the CPU, and the vector in which it will hold them."""
        raise NotImplementedError

    def _rows_held(self: Any) -> Tensor:
        """The rows as they were taken."""
        raise NotImplementedError

    def _walked(self: Any, x: Tensor) -> Tensor:
        """Rows as walks take them."""
        return x

    # -- what they have in common -----------------------------------------------------------------------------------------------------

    def _configure(self: Any, config: GpuIndexCagraConfig) -> None:
        self._degrees = int(config.intermediate_graph_degree), int(config.graph_degree)
        self._connected, self._stores = bool(config.guarantee_connectivity), bool(config.store_dataset)
        self.base_level_only, self.is_trained = True, False

    def _train(self: Any, x: Tensor) -> None:
        if not self.is_trained:
            wide, degree = self._degrees
            self._take(x, cagra.build(x, max(wide, degree), degree, self._scale()[0], self._connected))

    def _add(self: Any, x: Tensor, ids: Tensor | None) -> None:
        self._train(x)

    def _take(self: Any, x: Tensor, edges: Tensor) -> None:
        """Become the graph of these rows, which stay the caller's memory where the configuration says so and they are on the device."""
        storage, content = self._new_storage()
        storage._move(Placement(self.device, self.getDevice()))
        if self._stores:
            storage._add(x, None)
        else:
            content.lend(x.contiguous().view(-1).view(torch.uint8))
            storage.ntotal = x.shape[0]
        self.storage, self.own_fields, self.ntotal = storage, True, x.shape[0]
        flat_graph(self.hnsw, edges)
        self._drop_caches()
        self.is_trained = True

    def _nearest_nodes(self: Any, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        """The k nearest nodes that walks meet."""
        check(self.is_trained, "{} must be trained before a search", type(self).__name__)
        given = params if isinstance(params, SearchParametersCagra) else SearchParametersCagra()
        allowed = None if params is None or params.sel is None else allowed_rows(params, self.ntotal, self.device)
        begin = starts(self.ntotal, given, self.device)
        rows, walk, (metric, argument) = self._vectors(), walk_of(given, k), self._scale()
        distances, labels, counts = kernel.search(
            self._walked(x), rows, self.hnsw._arrays(), walk, k, metric, argument, allowed, begin
        )
        cvar.hnsw_stats._add_later(("ndis", "nhops"), torch.as_tensor(counts, device=x.device))
        return distances, labels

    def _reset(self: Any) -> None:
        self._take(self._rows_held()[:0].clone(), torch.empty(0, self._degrees[1], device=self.device))
        self.is_trained = False

    def get_knngraph(self) -> Int64Vector:
        """The edges, node by node."""
        return Int64Vector(bottom_edges(self.hnsw).reshape(-1))

    def _copy_graph(self: Any, source: Any, rows: Tensor) -> None:
        """Take rows and the bottom level of a layered graph."""
        edges = bottom_edges(source.hnsw).to(self.device)
        self._degrees = max(self._degrees[0], edges.shape[1]), edges.shape[1]
        self._take(rows.to(self.device), edges)

    def _layered_copy(self: Any, target: Any, rows: Tensor, edges: Tensor, base_only: bool) -> None:
        """Let an empty layered graph on the CPU have these rows and edges; with upper levels, unless there is to be the bottom only."""
        target.base_level_only = base_only
        if base_only:
            target.storage._add(rows, None)
            target.ntotal = rows.shape[0]
            flat_graph(target.hnsw, edges)
        else:
            target.init_level0 = False
            self._plain_class()._add(target, rows, None)
            target.init_level0 = True
            set_bottom_edges(target.hnsw, edges)
        target._drop_caches()

    def _bottom_on_cpu(self: Any, target: Any) -> tuple[Tensor, Tensor, bool]:
        """Rows, edges, and whether a graph that is to be a copy wants the bottom level only; the target is on the CPU from now on."""
        kind = self._plain_class()
        check(isinstance(target, kind), "expected an {}, got {}", kind.__name__, type(target).__name__)
        check(self.is_trained, "nothing to copy: the index is not trained")
        target._move(Placement(CPU))
        return self._rows_held().cpu(), bottom_edges(self.hnsw).cpu(), bool(target.base_level_only)


__all__: list[str] = []
