"""GpuIndexBinary*: binary indexes under FAISS's GPU names: Flat, and the graph that CAGRA makes of exact neighbours."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import cagra
from tsscompat.devices import CPU, Placement, gpu
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import anything
from tsscompat.faiss_compat.binary import IndexBinary, IndexBinaryFlat
from tsscompat.faiss_compat.binary_graph import IndexBinaryHNSWCagra, as_floats
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.gpu_cagra import (
    GpuIndexCagraConfig,
    SearchParametersCagra,
    bottom_edges,
    flat_graph,
    set_bottom_edges,
    starts,
    walk_of,
)
from tsscompat.faiss_compat.gpu_indexes import GpuIndexConfig, recast, split_config
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import Int64Vector
from tsscompat.kernels import graph as kernel
from tsscompat.kernels.hamming import WORST
from tsscompat.kernels.metrics import HAMMING


class GpuIndexBinaryFlatConfig(GpuIndexConfig):
    """Where a binary flat index goes."""


class GpuIndexBinary(IndexBinary):
    """What binary GPU indexes have besides the methods of their kind."""

    _gpu_resources = anything(None)

    def getResources(self) -> Any:
        """The resources that the index was made with."""
        return self._gpu_resources

    @classmethod
    def _plain_class(cls) -> type:
        """The ordinary class of the same kind."""
        return cls.__mro__[cls.__mro__.index(GpuIndexBinary) + 1]

    def copyFrom(self, index: Any) -> None:
        """Become a copy of an index, on the device where this one is."""
        self._expect(index)
        twin = recast(copy.deepcopy(index).to(Placement(self.device, self.getDevice())), self._plain_class())
        self.__dict__.update({name: value for name, value in vars(twin).items() if name != "_gpu_resources"})

    def copyTo(self, index: Any) -> None:
        """Make another index a copy of this one, on the CPU."""
        twin = plain_copy(self)
        check(isinstance(index, IndexBinary) and isinstance(twin, type(index)), "cannot copy to a {}", type(index).__name__)
        index.__dict__.update({name: value for name, value in vars(twin).items() if name in vars(index)})
        index._drop_caches()

    def _expect(self, index: Any) -> None:
        kind = self._plain_class()
        check(isinstance(index, kind), "expected an {}, got {}", kind.__name__, type(index).__name__)

    def _begin(self, provider: Any, first: Any, config: GpuIndexConfig) -> None:
        """Note the resources, go to the device, and be a copy where one was given."""
        config._check()
        self._gpu_resources = provider
        self._move(gpu(config.device))
        if isinstance(first, IndexBinary):
            self.copyFrom(first)


def plain_copy(index: Any) -> Any:
    """A copy of a binary index on the CPU, under its ordinary class."""
    twin = copy.deepcopy(index).to(Placement(CPU))
    return recast(twin, twin._plain_class()) if isinstance(twin, GpuIndexBinary) else twin


class GpuIndexBinaryFlat(GpuIndexBinary, IndexBinaryFlat):
    """IndexBinaryFlat on a GPU: (resources, bits or index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexBinaryFlatConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexBinaryFlatConfig)
        first = arguments[0] if arguments else 0
        IndexBinaryFlat.__init__(self, first.d if isinstance(first, IndexBinary) else first)
        self._begin(provider, first, config)


class GpuIndexBinaryCagra(GpuIndexBinary, IndexBinaryHNSWCagra):
    """A graph of binary codes on a GPU: (resources, bits or index, config). Training takes the codes and makes the graph, once."""

    _degrees: tuple[int, int] = (128, 64)

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexCagraConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexCagraConfig)
        first = arguments[0] if arguments else 0
        config._check()
        self._degrees = (int(config.intermediate_graph_degree), int(config.graph_degree))
        d = first.d if isinstance(first, IndexBinary) else first
        IndexBinaryHNSWCagra.__init__(self, d, max(1, self._degrees[1] // 2))
        self.base_level_only, self.is_trained = True, False
        self._begin(provider, first, config)

    def _train(self, x: Tensor) -> None:
        if not self.is_trained:
            wide, degree = self._degrees
            self._take(x, cagra.build(x, max(wide, degree), degree, HAMMING))

    def add(self, x: Any) -> None:
        """Training under another name, as in FAISS."""
        self.train(x)

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._train(x)

    def _take(self, x: Tensor, edges: Tensor) -> None:
        """Become the graph of these codes."""
        storage = IndexBinaryFlat(self.d)
        storage._move(Placement(self.device, self.getDevice()))
        storage._add(x, None)
        self.storage, self.own_fields, self.ntotal = storage, True, x.shape[0]
        flat_graph(self.hnsw, edges)
        self._drop_caches()
        self.is_trained = True

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before a search", type(self).__name__)
        given = params if isinstance(params, SearchParametersCagra) else SearchParametersCagra()
        allowed = None if params is None or params.sel is None else allowed_rows(params, self.ntotal, self.device)
        begin = starts(self.ntotal, given, self.device)
        distances, labels, counts = kernel.search(
            as_floats(x), self._vectors(), self.hnsw._arrays(), walk_of(given, k), k, HAMMING, 0.0, allowed, begin
        )
        cvar.hnsw_stats._add_later(("ndis", "nhops"), torch.as_tensor(counts, device=x.device))
        missing = labels < 0
        return distances.masked_fill(missing, 0).int().masked_fill(missing, WORST), labels

    def _reset(self) -> None:
        nothing = torch.empty(0, self.code_size, dtype=torch.uint8, device=self.device)
        self._take(nothing, torch.empty(0, self._degrees[1], device=self.device))
        self.is_trained = False

    def get_knngraph(self) -> Int64Vector:
        """The edges, node by node."""
        return Int64Vector(bottom_edges(self.hnsw).reshape(-1))

    def copyFrom(self, index: Any) -> None:
        """Take codes and bottom level of an IndexBinaryHNSWCagra."""
        self._expect(index)
        self.d, self.code_size = index.d, index.code_size
        edges = bottom_edges(index.hnsw).to(self.device)
        self._degrees = (max(self._degrees[0], edges.shape[1]), edges.shape[1])
        self._take(index._flat()._rows.to(self.device), edges)

    def copyTo(self, index: Any) -> None:
        """Make an IndexBinaryHNSWCagra of the graph, on the CPU; with upper levels, unless it has `base_level_only` set."""
        check(isinstance(index, IndexBinaryHNSWCagra), "expected an IndexBinaryHNSWCagra, got {}", type(index).__name__)
        check(self.is_trained, "nothing to copy: the index is not trained")
        codes, edges, base_only = self._flat()._rows.cpu(), bottom_edges(self.hnsw).cpu(), bool(index.base_level_only)
        IndexBinaryHNSWCagra.__init__(index, self.d, max(1, edges.shape[1] // 2))
        index._move(Placement(CPU))
        index.base_level_only = base_only
        if base_only:
            index.storage._add(codes, None)
            index.ntotal = codes.shape[0]
            flat_graph(index.hnsw, edges)
        else:
            index.init_level0 = False
            IndexBinaryHNSWCagra._add(index, codes, None)
            index.init_level0 = True
            set_bottom_edges(index.hnsw, edges)
        index.keep_max_size_level0 = False
        index._drop_caches()


__all__ = ["GpuIndexBinaryCagra", "GpuIndexBinaryFlat", "GpuIndexBinaryFlatConfig"]
