"""GPU resources and the options of placing: which do something, which are permissions, which raise (see gpu_configs.py)."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from tsscompat.devices import free_memory, gpu, gpu_count
from tsscompat.errors import check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, boolean, enum, int64, integer
from tsscompat.faiss_compat.gpu_configs import INDICES_64_BIT, GpuIndexIVFConfig, MemorySpace_Device
from tsscompat.faiss_compat.vectors import ObjectVector, Vector


def get_num_gpus() -> int:
    """How many GPUs an index can be placed on."""
    return gpu_count()


def gpu_sync_all_devices() -> None:
    """Wait until every GPU has done what it was asked to do."""
    for number in range(gpu_count()):
        if gpu(number).device.type == "cuda":
            torch.cuda.synchronize(number)


def gpu_profiler_start() -> None:
    """Start CUDA's profiler, where there is CUDA."""
    if torch.cuda.is_available():
        torch.cuda.profiler.start()


def gpu_profiler_stop() -> None:
    """Stop CUDA's profiler, where there is CUDA."""
    if torch.cuda.is_available():
        torch.cuda.profiler.stop()


class GpuResourcesProvider:
    """Something that GPU resources come from."""


class StandardGpuResources(GpuResourcesProvider):
    """FAISS's handle on streams and temporary memory.

    Torch manages both: work runs on torch's current stream of a device, memory comes from its caching allocator. Temporary memory is what
    blocks of lists that are fetched from the host's memory may take; other amounts of memory are hints that need no action. Asking for
    another stream, or for a log of allocations, raises.
    """

    _temp_memory: int | None = None

    def getResources(self) -> StandardGpuResources:
        return self

    def noTempMemory(self) -> None:
        """Blocks of streamed lists take what they take by default; elsewhere a hint: torch's allocator caches."""
        self._temp_memory = None

    def setTempMemory(self, size: int) -> None:
        """What the blocks of streamed lists may take together; elsewhere torch's allocator takes what it needs."""
        check(size >= 0, "cannot set {} bytes of memory", size)
        self._temp_memory = size

    def setPinnedMemory(self, size: int) -> None:
        """A hint: nothing is pinned ahead."""
        check(size >= 0, "cannot set {} bytes of memory", size)

    def getTempMemoryAvailable(self, device: int) -> int:
        """Bytes free on a GPU (0 where nobody can tell)."""
        return free_memory(gpu(device).device) or 0

    def getMemoryInfo(self) -> dict[int, dict[str, tuple[int, int]]]:
        """For each GPU by kind of content: how many tensors are there of indexes placed with these resources, of how many bytes."""
        found: dict[int, dict[str, tuple[int, int]]] = {number: {"FlatData": (0, 0)} for number in range(gpu_count())}
        for index in list(self.__dict__.get("_placed", ())):
            held = found.setdefault(max(0, index.getDevice()), {})
            for kind, tensors in index._gpu_content().items():
                count, size = held.get(kind, (0, 0))
                held[kind] = count + len(tensors), size + sum(t.nbytes for t in tensors)
        for (number, _), made in self.__dict__.get("_allocated", {}).items():
            held = found.setdefault(number, {})
            count, size = held.get("Other", (0, 0))
            held["Other"] = count + 1, size + made.tensor.nbytes
        return found

    def _note(self, index: Any) -> None:
        """Remember, weakly, an index that was placed with these resources."""
        self.__dict__.setdefault("_placed", weakref.WeakSet()).add(index)

    def getDefaultStream(self, device: int) -> int:
        """The CUDA stream that work on a GPU is ordered on; 0 for a virtual GPU."""
        return torch.cuda.current_stream(device).cuda_stream if gpu(device).device.type == "cuda" else 0

    def setDefaultStream(self, device: int, stream: Any) -> None:
        """Agree to torch's current stream; any other must be made current with torch.cuda.stream(...)."""
        wanted, current = int(getattr(stream, "cuda_stream", stream) or 0), self.getDefaultStream(device)
        check(wanted == current, "work runs on torch's current stream {}: make stream {} current with torch", current, wanted)

    def revertDefaultStream(self, device: int) -> None:
        """Nothing was set that could be reverted."""
        gpu(device)

    def setDefaultNullStreamAllDevices(self) -> None:
        """Agree to the null stream, where that is torch's current one."""
        for device in range(gpu_count()):
            self.setDefaultStream(device, 0)

    def syncDefaultStreamCurrentDevice(self) -> None:
        """Wait until the current GPU has done what it was asked to do."""
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

    def setLogMemoryAllocations(self, enable: bool) -> None:
        check(not enable, "allocations are torch's: see torch.cuda.memory._record_memory_history")

    def supportsBFloat16(self, device: int) -> bool:
        """Whether a GPU computes in bfloat16."""
        return gpu(device).device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)

    def supportsBFloat16CurrentDevice(self) -> bool:
        return self.supportsBFloat16(torch.cuda.current_device() if torch.cuda.is_available() else 0)

    # -- what FAISS's GPU code asks for itself --------------------------------------------------------------------------------------

    def initializeForDevice(self, device: int) -> None:
        """Make a GPU ready, which torch does at its first use at the latest; raises where there is none."""
        torch.empty(0, device=gpu(device).device)

    def getBlasHandle(self, device: int) -> int:
        """The cuBLAS handle that torch's products use on a GPU now; 0 for a virtual GPU."""
        if gpu(device).device.type != "cuda":
            return 0
        with torch.cuda.device(device):
            return int(torch.cuda.current_blas_handle())

    def _streams(self, device: int) -> list[int]:
        """Three streams of our own on a GPU, made when first asked for; none on a virtual GPU."""
        if gpu(device).device.type != "cuda":
            return []
        made = self.__dict__.setdefault("_made_streams", {})
        if device not in made:
            made[device] = [torch.cuda.Stream(device) for _ in range(3)]
        return [int(stream.cuda_stream) for stream in made[device]]

    def getAlternateStreams(self, device: int) -> list[int]:
        """Two more CUDA streams of a GPU; none of a virtual GPU."""
        return self._streams(device)[:2]

    def getAsyncCopyStream(self, device: int) -> int:
        """A CUDA stream for copies to and from a GPU; 0 for a virtual GPU."""
        return (self._streams(device) or [0])[-1]

    def getPinnedMemory(self) -> tuple[None, int]:
        """No buffer of 0 bytes: torch pins what is copied when it is copied."""
        return None, 0

    def allocMemory(self, req: Any) -> Pointer:
        """So many bytes (`req.size`) on a GPU (`req.device`), held until they are given back."""
        made = Pointer(torch.empty(int(req.size), dtype=torch.uint8, device=gpu(int(req.device)).device))
        self.__dict__.setdefault("_allocated", {})[int(req.device), int(made)] = made
        return made

    def deallocMemory(self, device: int, ptr: Any) -> None:
        """Give back what allocMemory gave; None is nothing."""
        if ptr is not None and int(ptr):
            known = self.__dict__.get("_allocated", {}).pop((int(device), int(ptr)), None)
            check(known is not None, "no memory of GPU {} was allocated at {}", device, int(ptr))

    def __deepcopy__(self, memo: dict[int, Any]) -> StandardGpuResources:
        return self

    def __getstate__(self) -> dict[str, Any]:
        # What is held on GPUs stays with the process.
        return {name: value for name, value in self.__dict__.items() if name not in ("_placed", "_allocated")}


StandardGpuResourcesImpl = StandardGpuResources


class GpuResourcesVector(ObjectVector):
    """std::vector of resources."""

    def push_back(self, res: GpuResourcesProvider) -> None:
        if not isinstance(res, GpuResourcesProvider):
            raise TypeError(f"expected GPU resources, got {type(res).__name__}")
        super().push_back(res)


class GpuClonerOptions(Stated):
    """How an index is placed on a GPU; see gpu_configs.py for what is done, what is only permitted, and what is refused."""

    indicesOptions = enum(int, INDICES_64_BIT)
    useFloat16CoarseQuantizer = boolean(False, "store a flat coarse quantizer as float16")
    useFloat16 = boolean(False, "store a flat index as float16; permits float16 tables elsewhere")
    usePrecomputed = boolean(False, "precompute IVFPQ tables")
    reserveVecs = int64(0, "permission to allocate ahead")
    storeTransposed = boolean(False, "without effect, as in FAISS")
    verbose = boolean(False, "say what is placed where")
    use_cuvs = boolean(False, "our kernels answer either way; lists pad the results of a query with NaNs as cuVS does")
    allowCpuCoarseQuantizer = boolean(False, "every coarse quantizer lives on the GPU")
    memorySpace = enum(
        int,
        MemorySpace_Device,
        "MemorySpace_Unified: lists, or flat vectors, stay in the host's memory (not an option of FAISS's)",
    )

    def _take(self, other: GpuClonerOptions) -> None:
        """Copy what another has of these options."""
        for name in set(self._declared) & set(GpuMultipleClonerOptions._declared) - {"referenced_objects"}:
            if name in vars(other):
                setattr(self, name, vars(other)[name])

    def _check(self) -> None:
        config = GpuIndexIVFConfig()
        config.indicesOptions, config.memorySpace = self.indicesOptions, self.memorySpace
        config._check()


class GpuMultipleClonerOptions(GpuClonerOptions):
    """How an index is placed on several GPUs."""

    shard = boolean(False, "each GPU gets a part of the vectors, not all of them")
    shard_type = integer(1, "of an IVF index: 1 by id modulo, 2 by ranges of ids, 4 by lists")
    common_ivf_quantizer = boolean(False, "the shards of an IVF index share a coarse quantizer")


def footprint(thing: Any) -> int:
    """Bytes of the tensors that a thing holds."""
    if isinstance(thing, Tensor):
        return thing.nbytes
    if isinstance(thing, Vector):
        return thing.byte_size()
    held: Any = ()
    if isinstance(thing, (Stated, ObjectVector)):
        held = vars(thing).values()
    elif isinstance(thing, dict):
        held = thing.values()
    elif isinstance(thing, (list, tuple)):
        held = thing
    elif hasattr(thing, "__record_fields__"):
        held = vars(thing).values()
    return sum(footprint(part) for part in held)


__all__ = [
    "GpuClonerOptions",
    "GpuMultipleClonerOptions",
    "GpuResourcesProvider",
    "GpuResourcesVector",
    "StandardGpuResources",
    "StandardGpuResourcesImpl",
    "get_num_gpus",
    "gpu_profiler_start",
    "gpu_profiler_stop",
    "gpu_sync_all_devices",
]
