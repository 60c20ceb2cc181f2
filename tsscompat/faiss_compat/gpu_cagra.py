"""GpuIndexCagra: a flat graph on a GPU, made of exact nearest neighbours and pruned as CAGRA prunes; and what turns it into HNSW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.flat import IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.gpu_cagra_configs import GpuIndexCagraConfig
from tsscompat.faiss_compat.gpu_cagra_graph import CagraGraph
from tsscompat.faiss_compat.gpu_configs import split_config
from tsscompat.faiss_compat.gpu_index import GpuIndex
from tsscompat.faiss_compat.graph import IndexHNSWCagra
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import IndexScalarQuantizer
from tsscompat.faiss_compat.quantizers import ScalarQuantizer
from tsscompat.faiss_compat.vectors import Vector


def storage_of(d: int, metric: int, numeric_type: int) -> Index:
    """An empty index that keeps vectors of a numeric type."""
    if numeric_type == enums.Float32:
        return IndexFlatL2(d) if metric == enums.METRIC_L2 else IndexFlatIP(d)
    kind = ScalarQuantizer.QT_fp16 if numeric_type == enums.Float16 else ScalarQuantizer.QT_8bit_direct_signed
    return IndexScalarQuantizer(d, kind, metric)


class GpuIndexCagra(CagraGraph, GpuIndex, IndexHNSWCagra):
    """A graph of vectors on a GPU: (resources, dimension, metric, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexCagraConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexCagraConfig)
        d, metric = (*arguments, 0, enums.METRIC_L2)[:2] if not arguments else (arguments[0], *arguments[1:], enums.METRIC_L2)[:2]
        config._check()
        IndexHNSWCagra.__init__(self, d, max(1, config.graph_degree // 2), metric)
        self._configure(config)
        self._settle(provider, config)

    def _need_storage(self) -> None:
        check(self.storage is not None, "{} has no storage", type(self).__name__)

    def _new_storage(self) -> tuple[Any, Vector]:
        storage: Any = storage_of(self.d, self.metric_type, enums.Float32)
        return storage, storage.codes

    def _rows_held(self) -> Tensor:
        return self._vectors() if self.storage is not None else torch.empty(0, self.d, device=self.device)

    def train(self, x: Array, *, numeric_type: int = enums.Float32, xq_train: Array | None = None) -> None:
        """Take the vectors, and make the graph; without effect where there is one, as in FAISS."""
        self.numeric_type_ = numeric_type
        super().train(x, numeric_type=numeric_type, xq_train=xq_train)

    def add(self, x: Array, numeric_type: int = enums.Float32) -> None:
        """Training under another name, as in FAISS."""
        self.train(x, numeric_type=numeric_type)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        return self._nearest_nodes(x, k, params)

    def trainMultiGpu(self, n: int, x: Any, providers: Any, devices: Any, *stitching: int) -> None:
        """Train on n vectors behind a pointer; one graph of all of them, which needs no stitching, is made on this index's GPU."""
        check(not self.is_trained, "index is already trained")
        check(
            len(list(providers)) == len(list(devices)) > 0,
            "{} resources for {} devices",
            len(list(providers)),
            len(list(devices)),
        )
        self.train(behind(x, n, self.d))

    def trainAllNeighbors(self, n: int, x: Any, devices: Any, *clusters: Any) -> None:
        """Train on n vectors behind a pointer; neighbours are exact, so that clusters are not needed."""
        check(not self.is_trained, "index is already trained")
        check(len(list(devices)) > 0, "there must be a device")
        self.train(behind(x, n, self.d))

    def copyTo(self, index: Index) -> None:
        """Make an IndexHNSWCagra of the graph, on the CPU; with upper levels, unless it has `base_level_only` set."""
        target: Any = index
        rows, edges, base_only = self._bottom_on_cpu(target)
        IndexHNSWCagra.__init__(target, 0, max(1, edges.shape[1] // 2))
        target.d, target.metric_type, target.numeric_type_ = self.d, self.metric_type, self.numeric_type_
        target.hnsw.is_similarity = enums.is_similarity_metric(self.metric_type)
        target._own(storage_of(self.d, self.metric_type, int(self.numeric_type_)))
        target.keep_max_size_level0, target.is_trained, target.storage.is_trained = True, True, True
        self._layered_copy(target, rows, edges, base_only)

    def copyFrom(self, index: Index, numeric_type: int | None = None) -> None:
        """Take vectors and bottom level of an IndexHNSWCagra."""
        check(isinstance(index, IndexHNSWCagra), "expected an IndexHNSWCagra, got {}", type(index).__name__)
        source: Any = index
        kind = int(source.numeric_type_) if numeric_type is None else numeric_type
        self.d, self.metric_type, self.metric_arg, self.numeric_type_ = source.d, source.metric_type, source.metric_arg, kind
        self._copy_graph(source, source._vectors().float())

    def copyFrom_ex(self, index: Index, numeric_type: int) -> None:
        """copyFrom, with the numeric type that vectors are taken for."""
        self.copyFrom(index, numeric_type)


__all__ = ["GpuIndexCagra"]
