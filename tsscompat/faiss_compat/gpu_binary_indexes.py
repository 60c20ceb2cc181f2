"""GpuIndexBinary*: binary indexes under FAISS's GPU names: Flat, and the graph that CAGRA makes of exact neighbours."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from tsscompat.devices import CPU, Placement, gpu
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import anything
from tsscompat.faiss_compat.binary import IndexBinary, IndexBinaryFlat
from tsscompat.faiss_compat.binary_graph import IndexBinaryHNSWCagra, as_floats
from tsscompat.faiss_compat.gpu_cagra_configs import GpuIndexCagraConfig
from tsscompat.faiss_compat.gpu_cagra_graph import CagraGraph
from tsscompat.faiss_compat.gpu_configs import GpuIndexConfig, split_config
from tsscompat.faiss_compat.gpu_index import recast
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.vectors import Vector
from tsscompat.kernels.hamming import WORST


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


class GpuIndexBinaryCagra(CagraGraph, GpuIndexBinary, IndexBinaryHNSWCagra):
    """A graph of binary codes on a GPU: (resources, bits or index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexCagraConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexCagraConfig)
        first = arguments[0] if arguments else 0
        config._check()
        d = first.d if isinstance(first, IndexBinary) else first
        IndexBinaryHNSWCagra.__init__(self, d, max(1, config.graph_degree // 2))
        self._configure(config)
        self._begin(provider, first, config)

    def _new_storage(self) -> tuple[Any, Vector]:
        storage = IndexBinaryFlat(self.d)
        return storage, storage.xb

    def _rows_held(self) -> Tensor:
        return self._flat()._rows

    def _walked(self, x: Tensor) -> Tensor:
        return as_floats(x)

    def add(self, x: Any) -> None:
        """Training under another name, as in FAISS."""
        self.train(x)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        distances, labels = self._nearest_nodes(x, k, params)
        missing = labels < 0
        return distances.masked_fill(missing, 0).int().masked_fill(missing, WORST), labels

    def copyFrom(self, index: Any) -> None:
        """Take codes and bottom level of an IndexBinaryHNSWCagra."""
        self._expect(index)
        self.d, self.code_size = index.d, index.code_size
        self._copy_graph(index, index._flat()._rows)

    def copyTo(self, index: Any) -> None:
        """Make an IndexBinaryHNSWCagra of the graph, on the CPU; with upper levels, unless it has `base_level_only` set."""
        rows, edges, base_only = self._bottom_on_cpu(index)
        IndexBinaryHNSWCagra.__init__(index, self.d, max(1, edges.shape[1] // 2))
        self._layered_copy(index, rows, edges, base_only)
        index.keep_max_size_level0 = False


__all__ = ["GpuIndexBinaryCagra", "GpuIndexBinaryFlat", "GpuIndexBinaryFlatConfig"]
