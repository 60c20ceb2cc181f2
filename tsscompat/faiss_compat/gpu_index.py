"""GpuIndex: an ordinary index under a GPU name; and copies of indexes from one class and place to another."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from tsscompat.devices import CPU, Placement, gpu
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import anything, size_t
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.gpu_configs import GpuIndexConfig, MemorySpace_Device, MemorySpace_Unified
from tsscompat.faiss_compat.invlists import ArrayInvertedLists
from tsscompat.faiss_compat.invlists_host import HostInvertedLists
from tsscompat.faiss_compat.ivf_flat import IndexIVFFlat
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQ
from tsscompat.faiss_compat.ivf_sq import IndexIVFScalarQuantizer

# Whose lists can be fetched from the host's memory by searches.
_STREAMED = (IndexIVFFlat, IndexIVFPQ, IndexIVFScalarQuantizer)
# What GPU indexes hold besides the state of their ordinary class.
GPU_STATE = ("_gpu_resources", "_gpu_paging", "_gpu_indices", "_gpu_space", "_gpu_cuvs")


class GpuIndex(Index):
    """What GPU indexes have besides the methods of their kind."""

    _gpu_resources = anything(None)
    _gpu_paging = size_t(256 << 20)

    def getResources(self) -> Any:
        """The resources that the index was made with."""
        return self._gpu_resources

    def setMinPagingSize(self, size: int) -> None:
        """From how many bytes on FAISS would copy vectors piecewise; kept, of no consequence."""
        self._gpu_paging = size

    def getMinPagingSize(self) -> int:
        return int(self._gpu_paging)

    def copyFrom(self, index: Index) -> None:
        """Become a copy of an index, on the device where this one is."""
        kind = self._plain_class()
        check(isinstance(index, kind), "expected a {}, got {}", kind.__name__, type(index).__name__)
        twin = copy_on(index, Placement(self.device, self.getDevice()), getattr(self, "_gpu_space", MemorySpace_Device))
        self.__dict__.update({name: value for name, value in vars(twin).items() if name not in GPU_STATE})

    def copyTo(self, index: Index) -> None:
        """Make another index a copy of this one, on the CPU."""
        twin = copy_on(self, Placement(CPU))
        check(isinstance(twin, type(index)) or isinstance(index, type(twin)), "cannot copy to a {}", type(index).__name__)
        index.__dict__.update({name: value for name, value in vars(twin).items() if name in index.__dict__})
        index._drop_caches()

    @classmethod
    def _plain_class(cls) -> type:
        """The ordinary class of the same kind."""
        return cls.__mro__[cls.__mro__.index(GpuIndex) + 1]

    def _ordinary(self) -> Index:
        """This state under the ordinary class; an index is copied first."""
        made: Index = recast(self, self._plain_class())
        return made

    def _settle(self, resources: Any, config: GpuIndexConfig) -> None:
        """Note resources and configuration, and go to the device."""
        config._check()
        self._gpu_resources = resources
        self._move(gpu(config.device))
        noted(self, resources)

    def _gpu_content(self) -> dict[str, list[Tensor]]:
        """The tensors held on the GPU, under FAISS's names of kinds."""
        return {}


def noted(index: Any, resources: Any) -> None:
    """Let resources know of an index that was placed with them."""
    note = getattr(resources, "_note", None)
    if note is not None:
        note(index)


def copy_on(index: Any, where: Placement, space: int = MemorySpace_Device) -> Any:
    """A copy of an index on a device, under its ordinary class; with MemorySpace_Unified its lists stay in the host's memory."""
    lists = vars(index).get("invlists")
    memo: dict[int, Any] = {}
    if space == MemorySpace_Unified:
        kind = index._plain_class() if isinstance(index, GpuIndex) else type(index)
        fits = kind in _STREAMED and isinstance(lists, ArrayInvertedLists)
        check(fits, "memorySpace: lists of {} cannot be fetched from the host's memory", type(index).__name__)
        memo[id(lists)] = HostInvertedLists.holding(lists)
    elif isinstance(lists, HostInvertedLists):
        memo[id(lists)] = lists.resident()
    return plain(copy.deepcopy(index, memo).to(where))


def recast(index: Any, kind: type) -> Any:
    """The same state as another class, which adds declared attributes at most."""
    made: Any = object.__new__(kind)
    kept = {name: value for name, value in vars(index).items() if name in kind._declared or name not in GPU_STATE}  # type: ignore[attr-defined]
    missing = {name: declared.make() for name, declared in kind._declared.items() if name not in kept}  # type: ignore[attr-defined]
    missing.pop("referenced_objects", None)
    made.__dict__.update(missing | kept)
    return made


def plain(index: Any) -> Any:
    """An index under its ordinary class: what a GPU name stands for, quantizer included."""
    for name, value in list(vars(index).items()):
        if isinstance(value, Index):
            index.__dict__[name] = plain(value)
    return index._ordinary() if isinstance(index, GpuIndex) else index


__all__ = ["GpuIndex"]
