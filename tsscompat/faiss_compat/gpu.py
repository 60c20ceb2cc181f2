"""FAISS's GPU functions as placements: a copy of an index on a device, on several, or back on the CPU.

Every index type can be placed, not only the four with a GpuIndex* name; an index that only wraps others (IDMap, PreTransform, Refine) is
placed by placing what it wraps. GPU numbers are CUDA's, or virtual ones (see devices.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from tsscompat.devices import CPU, Placement, gpu, require_memory
from tsscompat.errors import check
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.binary import IndexBinary
from tsscompat.faiss_compat.codes import IndexFlatCodes
from tsscompat.faiss_compat.direct_map import DirectMap
from tsscompat.faiss_compat.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.gpu_binary import index_binary_cpu_to_gpu_multiple
from tsscompat.faiss_compat.gpu_cagra import GpuIndexCagra
from tsscompat.faiss_compat.gpu_cagra_configs import GpuIndexCagraConfig
from tsscompat.faiss_compat.gpu_configs import GpuIndexFlatConfig, MemorySpace_Unified
from tsscompat.faiss_compat.gpu_flat import GpuIndexFlat, coarse_quantizer, halve_quantizer
from tsscompat.faiss_compat.gpu_index import copy_on, noted, recast
from tsscompat.faiss_compat.gpu_ivf import GpuIndexIVF, GpuIndexIVFFlat, GpuIndexIVFPQ, GpuIndexIVFScalarQuantizer
from tsscompat.faiss_compat.gpu_resources import (
    GpuClonerOptions,
    GpuMultipleClonerOptions,
    GpuResourcesVector,
    StandardGpuResources,
    footprint,
    get_num_gpus,
)
from tsscompat.faiss_compat.graph import IndexHNSWCagra
from tsscompat.faiss_compat.invlists import ArrayInvertedLists, InvertedLists
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.ivf_flat import IndexIVFFlat
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQ
from tsscompat.faiss_compat.ivf_sq import IndexIVFScalarQuantizer
from tsscompat.faiss_compat.meta import IndexReplicas, IndexShards, IndexShardsIVF, ThreadedIndex
from tsscompat.faiss_compat.quantized import IndexScalarQuantizer
from tsscompat.faiss_compat.quantizers import ScalarQuantizer
from tsscompat.faiss_compat.vectors import Int32Vector

# The GPU names of ordinary classes. Only these very classes: a subclass keeps its own name on the GPU.
_NAMED: dict[type, type] = {
    IndexFlat: GpuIndexFlat,
    IndexFlatL2: GpuIndexFlat,
    IndexFlatIP: GpuIndexFlat,
    IndexIVFFlat: GpuIndexIVFFlat,
    IndexIVFPQ: GpuIndexIVFPQ,
    IndexIVFScalarQuantizer: GpuIndexIVFScalarQuantizer,
}
# What a wrapper wraps: placed as an index of its own.
_WRAPPED = ("index", "base_index", "refine_index")


# -- copies on other devices --------------------------------------------------------------------------------------------------------


def _rewrapped(index: Any, where: Placement, each: Callable[[Any], Any]) -> Any:
    """A copy of an index on a device, where `each` made the copies of the indexes that it wraps."""
    inner = {name: each(vars(index)[name]) for name in _WRAPPED if isinstance(vars(index).get(name), Index)}
    twin = copy.deepcopy(index, {id(vars(index)[name]): made for name, made in inner.items()})
    twin._drop_caches()
    for held in twin._children():
        if not any(held is made for made in inner.values()):
            held._move(where)
    first = next(iter(inner.values()), None)
    twin.__dict__["_device"] = where.device if first is None else first.device
    twin.__dict__["_gpu"] = where.gpu if first is None else first.getDevice()
    return twin


def _is_wrapper(index: Any) -> bool:
    return any(isinstance(vars(index).get(name), Index) for name in _WRAPPED) and not isinstance(index, IndexIVF)


def _named_on_gpu(twin: Any, resources: Any, options: GpuClonerOptions) -> Any:
    """A placed copy under its GPU name, with the options that concern its kind."""
    kind = _NAMED.get(type(twin))
    if kind is None:
        return twin
    if kind is GpuIndexFlat and options.useFloat16:
        return GpuIndexFlat(resources, twin, _flat_config(twin.getDevice(), options))
    made = recast(twin, kind)
    made._gpu_resources = resources
    noted(made, resources)
    if isinstance(made, GpuIndexIVF):
        made._keep(options)
        half = GpuIndexFlatConfig()
        half.useFloat16 = options.useFloat16CoarseQuantizer
        halve_quantizer(made, half)
    if isinstance(made, GpuIndexIVFPQ) and options.usePrecomputed:
        made.setPrecomputedCodes(True)
    return made


def index_cpu_to_gpu(provider: Any, device: int, index: Any, options: GpuClonerOptions | None = None) -> Any:
    """A copy of an index on a GPU."""
    options = GpuClonerOptions() if options is None else options
    options._check()
    where = gpu(int(device))
    if options.verbose:
        print(f"  {type(index).__name__} size {index.ntotal} -> GPU {where.gpu} on {where.device}")
    if isinstance(index, ThreadedIndex):
        index = index_gpu_to_cpu(index)
    if _is_wrapper(index):
        return _rewrapped(index, where, lambda inner: index_cpu_to_gpu(provider, device, inner, options))
    unified, held = options.memorySpace == MemorySpace_Unified, _fetchable(index)
    check(held is not None or not unified, "memorySpace: {} has no inverted lists and is not flat", type(index).__name__)
    needed = footprint(index) - (footprint(held) if unified else 0)
    what = "lists" if isinstance(index, IndexIVF) else "vectors"
    advice = "" if held is None or unified else f"; memorySpace = MemorySpace_Unified leaves its {what} in the host's memory"
    require_memory(needed, where.device, type(index).__name__, advice)
    if type(index) is IndexScalarQuantizer and index.sq.qtype == ScalarQuantizer.QT_fp16:
        index, options = _halves(index), copy.copy(options)
        options.useFloat16 = True
    if isinstance(index, IndexHNSWCagra):
        return _cagra(provider, where, index)
    if unified and held is vars(index).get("codes"):
        return GpuIndexFlat(provider, index, _flat_config(where.gpu, options))
    return _named_on_gpu(copy_on(index, where, options.memorySpace), provider, options)


def _fetchable(index: Any) -> Any:
    """What of an index searches can fetch from the host's memory: its inverted lists, or its vectors; None where there is neither."""
    if isinstance(index, IndexIVF):
        return index.invlists
    return index.codes if _NAMED.get(type(index)) is GpuIndexFlat or isinstance(index, GpuIndexFlat) else None


def _flat_config(number: int, options: GpuClonerOptions) -> GpuIndexFlatConfig:
    config = GpuIndexFlatConfig()
    config.device, config.useFloat16, config.memorySpace = number, options.useFloat16, options.memorySpace
    return config


def _halves(index: IndexScalarQuantizer) -> IndexFlat:
    """A flat index of the vectors that float16 codes stand for."""
    flat = coarse_quantizer(index.d, index.metric_type).to(Placement(index.device, index.getDevice()))
    flat._add(index._reconstruct_n(0, index.ntotal), None)
    return flat


def _cagra(provider: Any, where: Placement, index: IndexHNSWCagra) -> GpuIndexCagra:
    """A CAGRA graph on a GPU, of the bottom level of one on the CPU."""
    config = GpuIndexCagraConfig()
    config.device = where.gpu
    made = GpuIndexCagra(provider, index.d, index.metric_type, config)
    made.copyFrom(index)
    return made


def index_gpu_to_cpu(gpu_index: Any) -> Any:
    """A copy of an index on the CPU, under its ordinary class; shards are merged, of replicas one is taken."""
    if isinstance(gpu_index, IndexShards):
        check(gpu_index.count() > 0, "no shards in index")
        whole = index_gpu_to_cpu(gpu_index.at(0))
        for no in range(1, gpu_index.count()):
            part = index_gpu_to_cpu(gpu_index.at(no))
            numbered = isinstance(whole, IndexFlatCodes)
            whole.merge_from(part, whole.ntotal if gpu_index.successive_ids and not numbered else 0)
        return whole
    if isinstance(gpu_index, ThreadedIndex):
        check(gpu_index.count() > 0, "no replicas in index")
        return index_gpu_to_cpu(gpu_index.at(0))
    if _is_wrapper(gpu_index):
        return _rewrapped(gpu_index, Placement(CPU), index_gpu_to_cpu)
    if isinstance(gpu_index, GpuIndexCagra):
        layered = IndexHNSWCagra()
        gpu_index.copyTo(layered)
        return layered
    return copy_on(gpu_index, Placement(CPU))


# -- several GPUs -------------------------------------------------------------------------------------------------------------------


def copy_shard(index: Any, part: Any, kind: int, n: int, no: int) -> None:
    """Copy the share of one shard of n from an IVF index into another."""
    whole, lists = index.ntotal, index.nlist
    ranges = {
        1: (InvertedLists.SUBSET_TYPE_ID_MOD, n, no),
        2: (InvertedLists.SUBSET_TYPE_ID_RANGE, no * whole // n, (no + 1) * whole // n),
        4: (InvertedLists.SUBSET_TYPE_INVLIST, no * lists // n, (no + 1) * lists // n),
    }
    check(kind in ranges, "shard_type {} not implemented", kind)
    index.copy_subset_to(part, *ranges[kind])


def _part_of_lists(index: Any, kind: int, no: int, n: int, quantizer: Any) -> Any:
    """The shard of an IVF index: its state, and the entries that are its share."""
    part = object.__new__(type(index))
    part.__dict__.update(vars(index))
    part._drop_caches()
    part.__dict__.update(
        quantizer=quantizer,
        invlists=ArrayInvertedLists(index.nlist, index.code_size).to(index.device),
        direct_map=DirectMap(),
        own_fields=False,
        ntotal=0,
    )
    copy_shard(index, part, kind, n, no)
    return part


def sharded(index: Any, options: GpuMultipleClonerOptions, place: Sequence[Callable[[Any], Any]]) -> Any:
    """An index cut into a part for each GPU."""
    n = len(place)
    flat = isinstance(index, IndexFlatCodes)
    check(flat or isinstance(index, IndexIVF), "sharding is for flat codes and inverted lists, not {}", type(index).__name__)
    parts = []
    for no, put in enumerate(place):
        if flat:
            # The state without the codes is copied, then the share of the codes.
            part = object.__new__(type(index))
            part.__dict__.update(vars(index))
            part.__dict__["codes"] = type(index.codes)()
            part._held(index._rows[no * index.ntotal // n : (no + 1) * index.ntotal // n].clone())
        else:
            part = _part_of_lists(index, options.shard_type, no, n, index.quantizer)
        parts.append(put(part))
    if options.common_ivf_quantizer and not flat:
        quantizer = place[0](index.quantizer)
        shards: IndexShards = IndexShardsIVF(quantizer, index.nlist, True, False)
        shards.own_fields, shards.metric_type = True, index.metric_type
    else:
        shards = IndexShards(index.d, True, flat)
    shards.own_indices = True
    for part in parts:
        shards.add_shard(part)
    return shards


def index_cpu_to_gpu_multiple(resources: Any, devices: Any, index: Any, co: GpuMultipleClonerOptions | None = None) -> Any:
    """Copies of an index on several GPUs: replicas, or shards when the options say so."""
    numbers = [int(number) for number in devices]
    providers = list(resources)
    check(len(numbers) == len(providers) > 0, "{} resources for {} devices", len(providers), len(numbers))
    options = GpuMultipleClonerOptions() if co is None else co
    return on_several(index, options, [_placer(*each, options) for each in zip(providers, numbers)], numbers[0])


def on_several(index: Any, options: GpuClonerOptions, place: Sequence[Callable[[Any], Any]], first: int) -> Any:
    """Replicas or shards of an index, each placed by a function of its own; wrappers of them go to the first GPU."""
    if len(place) == 1:
        return place[0](index)
    options._check()
    if isinstance(index, ThreadedIndex):
        index = index_gpu_to_cpu(index)
    if _is_wrapper(index):
        return _rewrapped(index, gpu(first), lambda inner: on_several(inner, options, place, first))
    if isinstance(options, GpuMultipleClonerOptions) and options.shard:
        return sharded(index, options, place)
    replicas = IndexReplicas()
    for put in place:
        replicas.addIndex(put(index))
    replicas.own_indices = True
    return replicas


def _placer(provider: Any, number: int, options: GpuClonerOptions) -> Callable[[Any], Any]:
    return lambda index: index_cpu_to_gpu(provider, number, index, options)


def index_cpu_to_gpu_multiple_py(
    resources: Sequence[Any], index: Any, co: GpuMultipleClonerOptions | None = None, gpus: Sequence[int] | None = None
) -> Any:
    """index_cpu_to_gpu_multiple with lists; the i-th resources are for the i-th GPU."""
    numbers = list(range(len(resources)) if gpus is None else gpus)
    place = index_binary_cpu_to_gpu_multiple if isinstance(index, IndexBinary) else index_cpu_to_gpu_multiple
    return place(GpuResourcesVector(resources), Int32Vector(numbers), index, co)


def index_cpu_to_gpus_list(
    index: Any, co: GpuMultipleClonerOptions | None = None, gpus: Sequence[int] | None = None, ngpu: int = -1
) -> Any:
    """Copies on the GPUs listed, or on the first `ngpu`, or on all."""
    numbers = list(range(get_num_gpus() if ngpu == -1 else ngpu)) if gpus is None else list(gpus)
    return index_cpu_to_gpu_multiple_py([StandardGpuResources() for _ in numbers], index, co, numbers)


def index_cpu_to_all_gpus(index: Any, co: GpuMultipleClonerOptions | None = None, ngpu: int = -1) -> Any:
    """Copies on the first `ngpu` GPUs, or on all."""
    return index_cpu_to_gpus_list(index, co=co, gpus=None, ngpu=ngpu)


__all__ = [
    "index_cpu_to_all_gpus",
    "index_cpu_to_gpu",
    "index_cpu_to_gpu_multiple",
    "index_cpu_to_gpu_multiple_py",
    "index_cpu_to_gpus_list",
    "index_gpu_to_cpu",
]
