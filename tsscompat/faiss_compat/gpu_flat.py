"""GpuIndexFlat: flat indexes on a GPU, and the coarse quantizers that GPU indexes make for themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.devices import Placement
from tsscompat.errors import check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import boolean
from tsscompat.faiss_compat.base import Index, check_keys
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.flat_streamed import HostBytes, rows_within, search_rows
from tsscompat.faiss_compat.gpu_configs import GpuIndexFlatConfig, MemorySpace_Device, MemorySpace_Unified, split_config
from tsscompat.faiss_compat.gpu_index import GpuIndex
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.selectors import IDSelector


class GpuIndexFlat(GpuIndex, IndexFlat):
    """IndexFlat on a GPU: (resources, dimension, metric, config) or (resources, index, config)."""

    useFloat16 = boolean(False, "vectors are stored as float16")
    _gpu_space: int = MemorySpace_Device

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexFlatConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexFlatConfig)
        given = arguments[0] if arguments else 0
        copy_of = given if isinstance(given, Index) else None
        metric = copy_of.metric_type if copy_of is not None else arguments[1] if len(arguments) > 1 else METRIC_L2
        IndexFlat.__init__(self, copy_of.d if copy_of is not None else given, metric)
        self.useFloat16 = config.useFloat16
        self.code_size = self.d * (2 if self.useFloat16 else 4)
        self._keep(config)
        self._settle(provider, config)
        if copy_of is not None:
            self.copyFrom(copy_of)

    def _keep(self, config: GpuIndexFlatConfig) -> None:
        """Note what a configuration says of where vectors are."""
        self.__dict__["_gpu_space"] = config.memorySpace
        if self._in_host:
            self.__dict__["codes"] = HostBytes()

    @property
    def _in_host(self) -> bool:
        """Whether the vectors stay in the host's memory, from where searches fetch them."""
        return bool(self._gpu_space == MemorySpace_Unified)

    def copyFrom(self, index: Index) -> None:
        """Become a copy of a flat index, on the device where this one is."""
        check(isinstance(index, IndexFlat), "expected a flat index, got {}", type(index).__name__)
        source: Any = index
        self._reset()
        self.d, self.metric_type, self.metric_arg = source.d, source.metric_type, source.metric_arg
        self.code_size = self.d * (2 if self.useFloat16 else 4)
        self._add(source._vectors, None)

    def _ordinary(self) -> Index:
        made = coarse_quantizer(self.d, self.metric_type).to(Placement(self.device, self.getDevice()))
        made.metric_arg = self.metric_arg
        made._add(self._vectors.to(self.device), None)
        return made

    @property
    def _stored(self) -> torch.dtype:
        return torch.float16 if self.useFloat16 else torch.float32

    @property
    def _vectors(self) -> Tensor:
        """The vectors, where they are stored."""
        return self.codes.tensor.view(self._stored).view(self.ntotal, self.d).float()

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        if x.shape[0]:
            self._add_sa_codes(self._sa_encode(x), None)

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        super()._add_sa_codes(codes.to(self._home), ids)

    @property
    def _home(self) -> torch.device:
        """Where the vectors are stored."""
        return self.codes.tensor.device

    def _sa_encode(self, x: Tensor) -> Tensor:
        return x.to(self._stored).contiguous().view(torch.uint8).view(x.shape[0], self.code_size)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return codes.contiguous().view(self._stored).view(codes.shape[0], self.d).float()

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        if not self._in_host:
            return super()._search(x, k, params)
        return search_rows(self, x, k, allowed_rows(params, self.ntotal, self._home))

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        if not self._in_host:
            return super()._range_search(x, radius, params)
        return rows_within(self, x, radius, allowed_rows(params, self.ntotal, self._home))

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self._sa_decode(self._rows[check_keys(keys, self.ntotal).to(self._home)]).to(self.device)

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._sa_decode(self._rows[n0 : n0 + ni].clone()).to(self.device)

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        self._rows[check_keys(keys, self.ntotal).to(self._home)] = self._sa_encode(x).to(self._home)
        self._drop_caches()

    def _remove(self, sel: IDSelector) -> int:
        gone = sel._mask(torch.arange(self.ntotal, device=self._home))
        removed = int(gone.sum())
        if removed:
            self._held(self._rows[~gone])
        return removed

    def _permute_entries(self, perm: Tensor) -> None:
        super()._permute_entries(perm.to(self._home))

    def compute_distance_subset(self, n: int, x: Any, k: int, distances: Any, labels: Any) -> None:
        """Distances of n queries to k vectors each, named by `labels`, written into `distances`."""
        check(not self._in_host, "compute_distance_subset: the vectors are in the host's memory")
        super().compute_distance_subset(n, x, k, distances, labels)

    def get_xb(self) -> Pointer:
        return Pointer(self._vectors)

    def _gpu_content(self) -> dict[str, list[Tensor]]:
        return {"FlatData": [] if self._in_host else [self.codes.tensor]}

    def getNumVecs(self) -> int:
        """How many vectors there are."""
        return int(self.ntotal)


class GpuIndexFlatL2(GpuIndexFlat):
    """GpuIndexFlat with squared L2: (resources, dimension or index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexFlatConfig | None = None) -> None:
        super().__init__(provider, *_with_metric(arguments, METRIC_L2), config=config)


class GpuIndexFlatIP(GpuIndexFlat):
    """GpuIndexFlat with the inner product: (resources, dimension or index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexFlatConfig | None = None) -> None:
        super().__init__(provider, *_with_metric(arguments, METRIC_INNER_PRODUCT), config=config)


def _with_metric(arguments: tuple[Any, ...], metric: int) -> tuple[Any, ...]:
    whole = bool(arguments) and not isinstance(arguments[0], Index)
    return (arguments[0], metric, *arguments[1:]) if whole else arguments


def coarse_quantizer(d: int, metric: int) -> IndexFlat:
    """The flat index that a GPU index makes for itself."""
    return {METRIC_L2: IndexFlatL2, METRIC_INNER_PRODUCT: IndexFlatIP}.get(metric, lambda d: IndexFlat(d, metric))(d)


def halve_quantizer(index: Any, config: GpuIndexFlatConfig) -> None:
    """Store a flat coarse quantizer as float16 where the configuration asks for it."""
    if config.useFloat16 and isinstance(index.quantizer, IndexFlat):
        half = GpuIndexFlatConfig()
        half.useFloat16, half.device = True, max(0, index.getDevice())
        index.quantizer = GpuIndexFlat(index.getResources(), index.quantizer, half)


__all__ = ["GpuIndexFlat", "GpuIndexFlatIP", "GpuIndexFlatL2"]
