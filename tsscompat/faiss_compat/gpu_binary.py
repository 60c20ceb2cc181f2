"""Binary indexes as placements on GPUs: every kind can be placed; Flat and the Cagra graph also have FAISS's GPU names."""

from __future__ import annotations

import copy
from typing import Any

from tsscompat.devices import gpu, require_memory
from tsscompat.errors import check
from tsscompat.faiss_compat.binary import IndexBinaryFlat
from tsscompat.faiss_compat.binary_graph import IndexBinaryHNSWCagra
from tsscompat.faiss_compat.binary_meta import IndexBinaryReplicas, IndexBinaryShards, ThreadedIndexBaseBinary
from tsscompat.faiss_compat.gpu_binary_indexes import (
    GpuIndexBinaryCagra,
    GpuIndexBinaryFlat,
    GpuIndexBinaryFlatConfig,
    plain_copy,
)
from tsscompat.faiss_compat.gpu_cagra_configs import GpuIndexCagraConfig
from tsscompat.faiss_compat.gpu_configs import MemorySpace_Device
from tsscompat.faiss_compat.gpu_index import recast
from tsscompat.faiss_compat.gpu_resources import GpuClonerOptions, GpuMultipleClonerOptions, footprint


def index_binary_cpu_to_gpu(provider: Any, device: int, index: Any, options: GpuClonerOptions | None = None) -> Any:
    """A copy of a binary index on a GPU."""
    where = gpu(int(device))
    if options is not None:
        options._check()
        check(
            options.memorySpace == MemorySpace_Device, "memorySpace: {} cannot be left in the host's memory", type(index).__name__
        )
    require_memory(footprint(index), where.device, type(index).__name__)
    if type(index) is IndexBinaryHNSWCagra:
        config = GpuIndexCagraConfig()
        config.device = where.gpu
        return GpuIndexBinaryCagra(provider, index, config)
    twin = copy.deepcopy(index).to(where)
    if type(twin) is not IndexBinaryFlat:
        return twin
    made = recast(twin, GpuIndexBinaryFlat)
    made._gpu_resources = provider
    return made


def index_binary_gpu_to_cpu(gpu_index: Any) -> Any:
    """A copy of a binary index on the CPU, under its ordinary class; of replicas one is taken."""
    if isinstance(gpu_index, ThreadedIndexBaseBinary):
        check(not isinstance(gpu_index, IndexBinaryShards), "shards of binary codes are not put together")
        check(gpu_index.count() > 0, "no replicas in index")
        return index_binary_gpu_to_cpu(gpu_index.at(0))
    if isinstance(gpu_index, GpuIndexBinaryCagra):
        layered = IndexBinaryHNSWCagra()
        gpu_index.copyTo(layered)
        return layered
    return plain_copy(gpu_index)


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
