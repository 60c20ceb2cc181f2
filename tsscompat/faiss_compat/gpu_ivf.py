"""GpuIndexIVF*: inverted lists on a GPU, or in the host's memory for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array
from tsscompat.errors import check
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.direct_map import DirectMap
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlat
from tsscompat.faiss_compat.gpu_configs import (
    INDICES_32_BIT,
    INDICES_64_BIT,
    INDICES_IVF,
    GpuIndexIVFFlatConfig,
    GpuIndexIVFPQConfig,
    GpuIndexIVFScalarQuantizerConfig,
    MemorySpace_Device,
    MemorySpace_Unified,
    split_config,
)
from tsscompat.faiss_compat.gpu_flat import coarse_quantizer, halve_quantizer
from tsscompat.faiss_compat.gpu_index import GpuIndex
from tsscompat.faiss_compat.invlists_host import HostInvertedLists
from tsscompat.faiss_compat.ivf_flat import IndexIVFFlat
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQ
from tsscompat.faiss_compat.ivf_sq import IndexIVFScalarQuantizer
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.quantizers import ScalarQuantizer
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.kernels.ivf_lists import ranks
from tsscompat.kernels.metrics import is_similarity


class GpuIndexIVF(GpuIndex):
    """Inverted lists on a GPU."""

    _gpu_indices: int = INDICES_64_BIT
    _gpu_space: int = MemorySpace_Device
    _gpu_cuvs: bool = False

    # What the ordinary classes beside this one in a kind's bases have.
    d: int
    nlist: int
    code_size: int
    quantizer: Any
    direct_map: DirectMap
    _lists: Callable[[], Any]
    get_list_size: Callable[[int], int]

    def _begin(self, provider: Any, arguments: tuple[Any, ...], config: Any, defaults: tuple[Any, ...]) -> None:
        """Be a copy of an index, or new from (quantizer?, dimension, nlist, ...)."""
        kind: Any = self._plain_class()
        self._keep(config)
        first = arguments[0] if arguments else None
        if isinstance(first, kind):
            kind.__init__(self)
            self._settle(provider, config)
            self.copyFrom(first)
        elif arguments:
            quantizer, rest = (first, arguments[1:]) if isinstance(first, Index) else (None, arguments)
            d, nlist, *more = [*rest, *defaults[len(rest) - 2 :]]
            metric = more[self._metric_at()]
            own = quantizer is None
            if quantizer is None:
                quantizer = coarse_quantizer(int(d), metric)
            kind.__init__(self, quantizer, d, nlist, *more)
            self.own_fields = own
            self._settle(provider, config)
            halve_quantizer(self, config.flatConfig)
        else:
            kind.__init__(self)
            self._settle(provider, config)
        if self._gpu_space == MemorySpace_Unified and not isinstance(first, kind):
            self.__dict__["invlists"] = HostInvertedLists(self.nlist, self.code_size)

    @staticmethod
    def _metric_at() -> int:
        """Which of the arguments after nlist is the metric."""
        return 0

    def _keep(self, options: Any) -> None:
        """Note what a configuration, or a cloner's options, say of lists."""
        self.__dict__["_gpu_indices"], self.__dict__["_gpu_space"] = options.indicesOptions, options.memorySpace
        self.__dict__["_gpu_cuvs"] = bool(options.use_cuvs)
        if vars(self).get("ntotal") and self._gpu_indices == INDICES_IVF:
            self._name_by_place()

    def copyFrom(self, index: Index) -> None:
        """Become a copy of an index, on the device where this one is."""
        super().copyFrom(index)
        if self._gpu_indices == INDICES_IVF:
            self._name_by_place()

    def _ordinary(self) -> Index:
        self._ask_for_ids("copies")
        return super()._ordinary()

    def _name_by_place(self) -> None:
        """Let entries be named by their list and their place in it, as INDICES_IVF wants them."""
        lists = self._lists()
        sizes, codes, _ = lists._dump()
        which = torch.repeat_interleave(torch.arange(self.nlist, device=sizes.device), sizes)
        lists._load(sizes, codes, which << 32 | ranks(which, self.nlist)[0])
        self.direct_map = DirectMap()

    def _ask_for_ids(self, what: str) -> None:
        check(self._gpu_indices != INDICES_IVF, "{}: the index keeps no ids (INDICES_IVF)", what)

    def _gpu_content(self) -> dict[str, list[Tensor]]:
        lists = self._lists()
        flat = self.quantizer
        held = [lists._ragged().codes, lists._ragged().ids] if lists._at_hand else []
        return {"IVFLists": held, "FlatData": [flat.codes.tensor] if isinstance(flat, IndexFlat) else []}

    def _add_codes(self, codes: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        if self._gpu_indices == INDICES_IVF:
            sizes = self._lists()._ragged().sizes.to(list_nos.device)
            kept = list_nos.clamp(min=0)
            ids = kept << 32 | (sizes[kept] + ranks(list_nos + 1, self.nlist + 1)[0])
        elif ids is not None and self._gpu_indices == INDICES_32_BIT:
            # FAISS keeps the lower half of each id; so do we, in 64 bits.
            ids = ids.to(torch.int32).to(torch.int64)
        super()._add_codes(codes, ids, list_nos)  # type: ignore[misc]

    def _remove(self, sel: IDSelector) -> int:
        self._ask_for_ids("remove_ids")
        return super()._remove(sel)

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        self._ask_for_ids("update_vectors")
        super()._update_vectors(keys, x)

    def _merge_from(self, other: Any, add_id: int) -> None:
        self._ask_for_ids("merge_from")
        super()._merge_from(other, add_id)

    def _pads_as_cuvs(self) -> bool:
        """Whether the results that a query with NaNs lacks have the largest float, which is cuVS's worst in any metric."""
        return self._gpu_cuvs and is_similarity(self.metric_type)

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        return None if self._pads_as_cuvs() else super()._search_arrays(x, k)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        distances, labels = super()._search(x, k, params)
        if self._pads_as_cuvs():
            distances = distances.masked_fill(x.isnan().any(1, keepdim=True), torch.finfo(torch.float32).max)
        return distances, labels

    def getNumLists(self) -> int:
        return int(self.nlist)

    def getListLength(self, listId: int) -> int:
        """How many vectors are in a list."""
        return int(self.get_list_size(listId))

    def getListIndices(self, listId: int) -> Any:
        """The ids in a list."""
        self._ask_for_ids("getListIndices")
        lists = self._lists()
        return lists._ragged().ids[lists._list_rows(listId)].cpu().numpy()

    def getListVectorData(self, listId: int, gpuFormat: bool = False) -> Any:
        """The codes in a list."""
        check(not gpuFormat, "gpuFormat: codes have one format, the CPU's")
        lists = self._lists()
        return lists._ragged().codes[lists._list_rows(listId)].cpu().numpy()

    def updateQuantizer(self) -> None:
        """Take note that the coarse quantizer was changed."""
        self._drop_caches()

    def reserveMemory(self, numVecs: int) -> None:
        """Permission to allocate ahead; lists grow by themselves."""
        check(numVecs >= 0, "cannot reserve memory for {} vectors", numVecs)

    def reclaimMemory(self) -> int:
        """Lay the lists out without room to spare; how many bytes that frees."""
        lists = self._lists()
        before = lists._ragged()
        held = before.codes.nbytes + before.ids.nbytes
        lists._load(*lists._dump())
        after = lists._ragged()
        return max(0, held - after.codes.nbytes - after.ids.nbytes)


class GpuIndexIVFFlat(GpuIndexIVF, IndexIVFFlat):
    """IndexIVFFlat on a GPU: (resources, [quantizer,] dimension, nlist, metric, config) or (resources, index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexIVFFlatConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexIVFFlatConfig)
        self._begin(provider, arguments, config, (METRIC_L2,))


class GpuIndexIVFPQ(GpuIndexIVF, IndexIVFPQ):
    """IndexIVFPQ on a GPU: (resources, [quantizer,] dimension, nlist, M, nbits, metric, config) or (resources, index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexIVFPQConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexIVFPQConfig)
        self._begin(provider, arguments, config, (8, 8, METRIC_L2))
        if config.usePrecomputedTables:
            self.setPrecomputedCodes(True)

    @staticmethod
    def _metric_at() -> int:
        return 2

    def setPrecomputedCodes(self, enable: bool) -> None:
        """Precompute tables, or never do."""
        self.use_precomputed_table = 0 if enable else -1
        if enable and self.is_trained and self.by_residual and self.metric_type == METRIC_L2:
            self.precompute_table()

    def getPrecomputedCodes(self) -> bool:
        return bool(self.use_precomputed_table >= 0)

    def getNumSubQuantizers(self) -> int:
        return int(self.pq.M)

    def getBitsPerCode(self) -> int:
        return int(self.pq.nbits)

    def getCentroidsPerSubQuantizer(self) -> int:
        return int(self.pq.ksub)


class GpuIndexIVFScalarQuantizer(GpuIndexIVF, IndexIVFScalarQuantizer):
    """IndexIVFScalarQuantizer on a GPU: (resources, [quantizer,] dimension, nlist, qtype, metric, residual, config) or of an index."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexIVFScalarQuantizerConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexIVFScalarQuantizerConfig)
        self._begin(provider, arguments, config, (0, METRIC_L2, True))

    @staticmethod
    def _metric_at() -> int:
        return 1

    def _pads_as_cuvs(self) -> bool:
        # cuVS does one kind of codes; FAISS's own kernels do the others.
        fits = self.sq.qtype == ScalarQuantizer.QT_8bit and self.by_residual and self._gpu_indices == INDICES_64_BIT
        return bool(fits) and super()._pads_as_cuvs()


__all__ = ["GpuIndexIVF", "GpuIndexIVFFlat", "GpuIndexIVFPQ", "GpuIndexIVFScalarQuantizer"]
