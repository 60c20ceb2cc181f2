"""FAISS's GPU functions as objects (see gpu.py), and what else makes things that live on GPUs."""

from __future__ import annotations

from typing import Any

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import anything, integer
from tsscompat.faiss_compat.clustering import ProgressiveDimIndexFactory
from tsscompat.faiss_compat.codes import IndexFlatCodes
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.gpu import (
    copy_shard,
    index_cpu_to_gpu,
    index_cpu_to_gpu_multiple,
    index_gpu_to_cpu,
    on_several,
    sharded,
)
from tsscompat.faiss_compat.gpu_ivf import GpuIndexIVFPQ
from tsscompat.faiss_compat.gpu_resources import (
    GpuClonerOptions,
    GpuMultipleClonerOptions,
    GpuResourcesVector,
    StandardGpuResources,
    get_num_gpus,
)
from tsscompat.faiss_compat.io import Cloner
from tsscompat.faiss_compat.local_search import IcmEncoder, IcmEncoderFactory, LocalSearchQuantizer
from tsscompat.faiss_compat.tuning import ParameterSpace
from tsscompat.faiss_compat.vectors import Int32Vector


class ToCPUCloner(Cloner):
    """index_gpu_to_cpu as an object."""

    def clone_Index(self, index: Any) -> Any:
        return index_gpu_to_cpu(index)

    def merge_index(self, dst: Any, src: Any, successive_ids: bool) -> None:
        """Move one index's vectors to the end of another."""
        dst.merge_from(src, dst.ntotal if successive_ids and not isinstance(dst, IndexFlatCodes) else 0)


class ToGpuCloner(Cloner, GpuClonerOptions):
    """index_cpu_to_gpu as an object, which is its own options: a copy of those given."""

    provider = anything(None, "resources of the GPU")
    device = integer(0, "the GPU's number")

    def __init__(self, provider: Any, device: int, options: GpuClonerOptions) -> None:
        super().__init__()
        self._take(options)
        self.provider, self.device = provider, device

    def clone_Index(self, index: Any) -> Any:
        return index_cpu_to_gpu(self.provider, self.device, index, self)


class ToGpuClonerMultiple(Cloner, GpuMultipleClonerOptions):
    """index_cpu_to_gpu_multiple as an object: (resources, devices, options) or (cloners, options); its options are a copy."""

    sub_cloners = anything(None, "one for each GPU, which has options of its own")

    def __init__(self, first: Any, second: Any, options: GpuMultipleClonerOptions | None = None) -> None:
        super().__init__()
        if options is None:
            self._take(second)
            self.sub_cloners = list(first)
        else:
            self._take(options)
            self.sub_cloners = [ToGpuCloner(provider, device, options) for provider, device in zip(first, second)]

    def clone_Index(self, index: Any) -> Any:
        check(self.sub_cloners, "there is no GPU to clone to")
        return on_several(index, self, [cloner.clone_Index for cloner in self.sub_cloners], self.sub_cloners[0].device)

    def clone_Index_to_shards(self, index: Any) -> Any:
        return sharded(index, self, [cloner.clone_Index for cloner in self.sub_cloners])

    def copy_ivf_shard(self, index_ivf: Any, idx2: Any, n: int, i: int) -> None:
        """Copy into another index what is the share of shard i of n, by `shard_type`."""
        copy_shard(index_ivf, idx2, self.shard_type, n, i)


class GpuProgressiveDimIndexFactory(ProgressiveDimIndexFactory):
    """Flat indexes on the first GPUs, for progressive-dimension clustering."""

    options: GpuMultipleClonerOptions
    vres: GpuResourcesVector
    devices: Int32Vector
    ncall: int

    def __init__(self, ngpu: int) -> None:
        super().__init__()
        check(ngpu >= 1, "expected at least one GPU, got {}", ngpu)
        self.options, self.ncall = GpuMultipleClonerOptions(), 0
        self.vres, self.devices = GpuResourcesVector(StandardGpuResources() for _ in range(ngpu)), Int32Vector(range(ngpu))

    def __call__(self, dim: int) -> Any:
        self.ncall += 1
        return index_cpu_to_gpu_multiple(self.vres, self.devices, IndexFlatL2(dim), self.options)


class GpuIcmEncoderFactory(IcmEncoderFactory):
    """Makes encoders for a quantizer on the GPU where that quantizer is; `ngpus` of them must be there."""

    def __init__(self, ngpus: int = 1) -> None:
        super().__init__()
        check(1 <= ngpus <= get_num_gpus(), "expected 1 to {} GPUs, got {}", get_num_gpus(), ngpus)

    def get(self, lsq: LocalSearchQuantizer) -> IcmEncoder:
        return IcmEncoder(lsq)


class GpuParameterSpace(ParameterSpace):
    """A ParameterSpace that also knows the tables of a placed IVFPQ index."""

    def set_index_parameter(self, index: Any, name: str, val: float) -> None:
        if name == "use_precomputed_table" and isinstance(index, GpuIndexIVFPQ):
            index.setPrecomputedCodes(bool(val))
        else:
            super().set_index_parameter(index, name, val)


__all__ = [
    "GpuIcmEncoderFactory",
    "GpuParameterSpace",
    "GpuProgressiveDimIndexFactory",
    "ToCPUCloner",
    "ToGpuCloner",
    "ToGpuClonerMultiple",
]
