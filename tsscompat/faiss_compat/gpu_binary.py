"""Binary indexes as placements on GPUs: every kind can be placed; Flat and the Cagra graph also have FAISS's GPU names."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from tsscompat.devices import CPU, Placement, gpu, require_memory
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import anything, integer
from tsscompat.faiss_compat.binary import IndexBinary, IndexBinaryFlat
from tsscompat.faiss_compat.binary_graph import IndexBinaryHNSWCagra
from tsscompat.faiss_compat.binary_meta import IndexBinaryReplicas, IndexBinaryShards, ThreadedIndexBaseBinary
from tsscompat.faiss_compat.gpu_indexes import GpuIndexConfig, MemorySpace_Device, recast, split_config
from tsscompat.faiss_compat.gpu_resources import GpuClonerOptions, GpuMultipleClonerOptions, footprint


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
        kind = self._plain_class()
        check(isinstance(index, kind), "expected an {}, got {}", kind.__name__, type(index).__name__)
        twin = recast(copy.deepcopy(index).to(Placement(self.device, self.getDevice())), kind)
        self.__dict__.update({name: value for name, value in vars(twin).items() if name != "_gpu_resources"})

    def copyTo(self, index: Any) -> None:
        """Make another index a copy of this one, on the CPU."""
        twin = index_binary_gpu_to_cpu(self)
        check(isinstance(index, IndexBinary) and isinstance(twin, type(index)), "cannot copy to a {}", type(index).__name__)
        index.__dict__.update({name: value for name, value in vars(twin).items() if name in vars(index)})
        index._drop_caches()

    def _begin(self, provider: Any, first: Any, config: GpuIndexConfig) -> None:
        """Note the resources, go to the device, and be a copy where one was given."""
        config._check()
        self._gpu_resources = provider
        self._move(gpu(config.device))
        if isinstance(first, IndexBinary):
            self.copyFrom(first)


class GpuIndexBinaryFlat(GpuIndexBinary, IndexBinaryFlat):
    """IndexBinaryFlat on a GPU: (resources, bits or index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexBinaryFlatConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexBinaryFlatConfig)
        first = arguments[0] if arguments else 0
        IndexBinaryFlat.__init__(self, first.d if isinstance(first, IndexBinary) else first)
        self._begin(provider, first, config)


class GpuIndexBinaryCagra(GpuIndexBinary, IndexBinaryHNSWCagra):
    """A graph of binary codes on a GPU: (resources, bits or index, config). Built as HNSW is; training builds it of what it is given."""

    graph_degree = integer(64, "neighbours of a node on the bottom level")

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexConfig)
        first = arguments[0] if arguments else 0
        degree = int(getattr(config, "graph_degree", 64))
        IndexBinaryHNSWCagra.__init__(self, first.d if isinstance(first, IndexBinary) else first, max(2, degree // 2))
        self.graph_degree = degree
        self._begin(provider, first, config)

    def _train(self, x: Tensor) -> None:
        self._reset()
        self._add(x, None)


_NAMED: dict[type, type] = {IndexBinaryFlat: GpuIndexBinaryFlat, IndexBinaryHNSWCagra: GpuIndexBinaryCagra}


def index_binary_cpu_to_gpu(provider: Any, device: int, index: Any, options: GpuClonerOptions | None = None) -> Any:
    """A copy of a binary index on a GPU."""
    where = gpu(int(device))
    if options is not None:
        options._check()
        check(
            options.memorySpace == MemorySpace_Device, "memorySpace: {} cannot be left in the host's memory", type(index).__name__
        )
    require_memory(footprint(index), where.device, type(index).__name__)
    twin = copy.deepcopy(index).to(where)
    kind = _NAMED.get(type(twin))
    if kind is None:
        return twin
    made = recast(twin, kind)
    made._gpu_resources = provider
    return made


def index_binary_gpu_to_cpu(gpu_index: Any) -> Any:
    """A copy of a binary index on the CPU, under its ordinary class; of replicas one is taken."""
    if isinstance(gpu_index, ThreadedIndexBaseBinary):
        check(not isinstance(gpu_index, IndexBinaryShards), "shards of binary codes are not put together")
        check(gpu_index.count() > 0, "no replicas in index")
        return index_binary_gpu_to_cpu(gpu_index.at(0))
    twin = copy.deepcopy(gpu_index).to(Placement(CPU))
    return recast(twin, twin._plain_class()) if isinstance(twin, GpuIndexBinary) else twin


def index_binary_cpu_to_gpu_multiple(resources: Any, devices: Any, index: Any, co: GpuMultipleClonerOptions | None = None) -> Any:
    """Copies of a binary index on several GPUs, as replicas."""
    numbers, providers = [int(number) for number in devices], list(resources)
    check(len(numbers) == len(providers) > 0, "{} resources for {} devices", len(providers), len(numbers))
    check(not getattr(co, "shard", False), "binary indexes are placed on several GPUs as replicas only")
    copies = [index_binary_cpu_to_gpu(provider, number, index) for provider, number in zip(providers, numbers)]
    if len(copies) == 1:
        return copies[0]
    replicas = IndexBinaryReplicas()
    for part in copies:
        replicas.addIndex(part)
    replicas.own_indices = True
    return replicas


__all__ = [
    "GpuIndexBinaryCagra",
    "GpuIndexBinaryFlat",
    "GpuIndexBinaryFlatConfig",
    "index_binary_cpu_to_gpu",
    "index_binary_cpu_to_gpu_multiple",
    "index_binary_gpu_to_cpu",
]
