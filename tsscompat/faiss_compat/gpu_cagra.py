"""GpuIndexCagra: a flat graph on a GPU, made of exact nearest neighbours and pruned as CAGRA prunes; and what turns it into HNSW.

Its neighbours are found exactly: on tensor cores that costs less than the approximations (`build_algo` and what tunes them) that FAISS
offers for it, so those settings are permissions. Walks begin at the nearest of random nodes, drawn from the parameters' seed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import cagra
from tsscompat.arrays import Array
from tsscompat.devices import CPU, Placement
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, enum, int64, real, size_t
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.flat import IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.gpu_indexes import GpuIndex, GpuIndexConfig, split_config
from tsscompat.faiss_compat.graph import HNSW, IndexHNSWCagra
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import IndexScalarQuantizer
from tsscompat.faiss_compat.quantizers import ScalarQuantizer
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import Int64Vector
from tsscompat.kernels import graph as kernel
from tsscompat.kernels.graph import Walk

graph_build_algo_IVF_PQ, graph_build_algo_NN_DESCENT, graph_build_algo_ITERATIVE_SEARCH = range(3)
codebook_gen_PER_SUBSPACE, codebook_gen_PER_CLUSTER = range(2)
search_algo_SINGLE_CTA, search_algo_MULTI_CTA, search_algo_MULTI_KERNEL, search_algo_AUTO = 0, 1, 2, 100
hash_mode_HASH, hash_mode_SMALL, hash_mode_AUTO = 0, 1, 100
CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_8I, CUDA_R_8U = 0, 1, 2, 3, 8

# Random nodes among which a walk looks for where to begin, for each sampling that is asked for.
_STARTS = 128


class IVFPQBuildCagraConfig(Stated):
    """How neighbours would be found by IVFPQ; permissions, since they are found exactly."""

    n_lists = size_t(1024)
    kmeans_n_iters = size_t(20)
    kmeans_trainset_fraction = real(0.5)
    pq_bits = size_t(8)
    pq_dim = size_t(0)
    codebook_kind = enum(int, codebook_gen_PER_SUBSPACE)
    force_random_rotation = boolean(False)
    conservative_memory_allocation = boolean(False)


class IVFPQSearchCagraConfig(Stated):
    """How neighbours would be searched by IVFPQ; permissions, since they are found exactly."""

    n_probes = size_t(20)
    lut_dtype = enum(int, CUDA_R_32F)
    internal_distance_dtype = enum(int, CUDA_R_32F)
    preferred_shmem_carveout = real(1.0)
    max_internal_batch_size = size_t(4096)


class GpuIndexCagraConfig(GpuIndexConfig):
    """How a graph is made."""

    intermediate_graph_degree = size_t(128, "neighbours of a node before pruning")
    graph_degree = size_t(64, "neighbours of a node")
    build_algo = enum(int, graph_build_algo_IVF_PQ, "a permission: neighbours are found exactly")
    nn_descent_niter = size_t(20, "a permission")
    ivf_pq_params = anything(None, "a permission")
    ivf_pq_search_params = anything(None, "a permission")
    refine_rate = real(2.0, "a permission")
    store_dataset = boolean(True, "only True")
    guarantee_connectivity = boolean(False, "only False")

    def _check(self) -> None:
        super()._check()
        check(self.store_dataset, "store_dataset: the vectors are always kept with the graph")
        check(not self.guarantee_connectivity, "guarantee_connectivity: no spanning tree is made")
        check(self.graph_degree > 0 and self.graph_degree % 2 == 0, "graph_degree must be even, got {}", self.graph_degree)


class SearchParametersCagra(SearchParameters):
    """How to walk: `itopk_size` candidates, at most `max_iterations` steps (0: as many as it takes); the rest is about cuVS's launches."""

    max_queries = size_t(0, "a permission")
    itopk_size = size_t(64, "candidates kept")
    max_iterations = size_t(0, "steps at most; 0: until no candidate is left")
    algo = enum(int, search_algo_AUTO, "a permission")
    team_size = size_t(0, "a permission")
    search_width = size_t(1, "a permission: one node is expanded at a time")
    min_iterations = size_t(0, "a permission: walks end when no candidate is left")
    thread_block_size = size_t(0, "a permission")
    hashmap_mode = enum(int, hash_mode_AUTO, "a permission")
    hashmap_min_bitlen = size_t(0, "a permission")
    hashmap_max_fill_rate = real(0.5, "a permission")
    num_random_samplings = size_t(1, "times so many random nodes to begin among")
    seed = int64(0x128394, "of the random nodes")


def starts(n: int, params: SearchParametersCagra, device: torch.device) -> Tensor:
    """Random nodes, the same for all queries: (1, some)."""
    generator = torch.Generator().manual_seed(int(params.seed))
    some = min(n, _STARTS * max(1, int(params.num_random_samplings)))
    return torch.randperm(n, generator=generator)[:some][None].to(device)


def walk_of(params: SearchParametersCagra, k: int) -> Walk:
    """The walk that the parameters ask for."""
    ef = max(int(params.itopk_size), k)
    steps = int(params.max_iterations)
    return Walk(ef, steps - 1 if steps else ef, not steps)


def flat_graph(hnsw: HNSW, edges: Tensor) -> None:
    """Make a graph of one level with these edges (n, degree)."""
    n, degree = edges.shape
    hnsw.set_default_probas(max(1, degree // 2), 1.0 / math.log(max(2, degree // 2)))
    hnsw.levels.tensor = torch.ones(n, dtype=torch.int32, device=edges.device)
    hnsw.offsets.tensor = (torch.arange(n + 1, device=edges.device) * degree).view(torch.uint64)
    hnsw.neighbors.tensor = edges.to(torch.int32).reshape(-1)
    hnsw.entry_point, hnsw.max_level = (0, 0) if n else (-1, -1)


def bottom_edges(hnsw: HNSW) -> Tensor:
    """The edges of the bottom level: (n, degree)."""
    begin = hnsw.offsets.tensor.view(torch.int64)[:-1]
    span = torch.arange(hnsw.nb_neighbors(0), device=begin.device)
    return hnsw.neighbors.tensor[begin[:, None] + span].long()


def set_bottom_edges(hnsw: HNSW, edges: Tensor) -> None:
    """Replace the edges of the bottom level."""
    begin = hnsw.offsets.tensor.view(torch.int64)[:-1]
    span = torch.arange(edges.shape[1], device=begin.device)
    hnsw.neighbors.tensor[begin[:, None] + span] = edges.to(torch.int32)


def storage_of(d: int, metric: int, numeric_type: int) -> Index:
    """An empty index that keeps vectors of a numeric type."""
    if numeric_type == enums.Float32:
        return IndexFlatL2(d) if metric == enums.METRIC_L2 else IndexFlatIP(d)
    kind = ScalarQuantizer.QT_fp16 if numeric_type == enums.Float16 else ScalarQuantizer.QT_8bit_direct_signed
    return IndexScalarQuantizer(d, kind, metric)


class GpuIndexCagra(GpuIndex, IndexHNSWCagra):
    """A graph on a GPU: (resources, dimension, metric, config). Training, or adding, takes the vectors and makes the graph, once."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexCagraConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexCagraConfig)
        d, metric = (*arguments, 0, enums.METRIC_L2)[:2] if not arguments else (arguments[0], *arguments[1:], enums.METRIC_L2)[:2]
        config._check()
        IndexHNSWCagra.__init__(self, d, max(1, config.graph_degree // 2), metric)
        self.base_level_only, self.is_trained = True, False
        self._degrees = (int(config.intermediate_graph_degree), int(config.graph_degree))
        self._settle(provider, config)

    _degrees: tuple[int, int] = (128, 64)

    def _need_storage(self) -> None:
        check(self.storage is not None, "{} has no storage", type(self).__name__)

    def train(self, x: Array, *, numeric_type: int = enums.Float32, xq_train: Array | None = None) -> None:
        """Take the vectors, and make the graph; without effect where there is one, as in FAISS."""
        self.numeric_type_ = numeric_type
        super().train(x, numeric_type=numeric_type, xq_train=xq_train)

    def add(self, x: Array, numeric_type: int = enums.Float32) -> None:
        """Training under another name, as in FAISS."""
        self.train(x, numeric_type=numeric_type)

    def _train(self, x: Tensor) -> None:
        if self.is_trained:
            return
        wide, degree = self._degrees
        self._take(x, cagra.build(x, max(wide, degree), degree, self.metric_type))

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._train(x)

    def _take(self, x: Tensor, edges: Tensor) -> None:
        """Become the graph of these vectors."""
        storage = storage_of(self.d, self.metric_type, enums.Float32)
        storage._move(Placement(self.device, self.getDevice()))
        storage._add(x, None)
        self.storage, self.own_fields, self.ntotal = storage, True, x.shape[0]
        flat_graph(self.hnsw, edges)
        self._drop_caches()
        self.is_trained = True

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before a search", type(self).__name__)
        given = params if isinstance(params, SearchParametersCagra) else SearchParametersCagra()
        allowed = None if params is None or params.sel is None else allowed_rows(params, self.ntotal, self.device)
        begin = starts(self.ntotal, given, self.device)
        distances, labels, counts = kernel.search(
            x, self._vectors(), self.hnsw._arrays(), walk_of(given, k), k, *self._scale(), allowed, begin
        )
        cvar.hnsw_stats._add_later(("ndis", "nhops"), torch.as_tensor(counts, device=x.device))
        return distances, labels

    def _reset(self) -> None:
        self._take(torch.empty(0, self.d, device=self.device), torch.empty(0, self._degrees[1], device=self.device))
        self.is_trained = False

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

    def get_knngraph(self) -> Int64Vector:
        """The edges, node by node."""
        return Int64Vector(bottom_edges(self.hnsw).reshape(-1))

    def copyTo(self, index: Index) -> None:
        """Make an IndexHNSWCagra of the graph, on the CPU; with upper levels, unless it has `base_level_only` set."""
        check(isinstance(index, IndexHNSWCagra), "expected an IndexHNSWCagra, got {}", type(index).__name__)
        target: Any = index
        check(self.is_trained, "nothing to copy: the index is not trained")
        x, edges, base_only = self._vectors().cpu(), bottom_edges(self.hnsw).cpu(), bool(target.base_level_only)
        IndexHNSWCagra.__init__(target, 0, max(1, edges.shape[1] // 2))
        target._move(Placement(CPU))
        target.d, target.metric_type, target.numeric_type_ = self.d, self.metric_type, self.numeric_type_
        target.hnsw.is_similarity = enums.is_similarity_metric(self.metric_type)
        target._own(storage_of(self.d, self.metric_type, int(self.numeric_type_)))
        target.keep_max_size_level0, target.is_trained, target.base_level_only = True, True, base_only
        target.storage.is_trained = True
        if base_only:
            target.storage._add(x, None)
            target.ntotal = x.shape[0]
            flat_graph(target.hnsw, edges)
        else:
            target.init_level0 = False
            IndexHNSWCagra._add(target, x, None)
            target.init_level0 = True
            set_bottom_edges(target.hnsw, edges)
        target._drop_caches()

    def copyFrom(self, index: Index, numeric_type: int | None = None) -> None:
        """Take vectors and bottom level of an IndexHNSWCagra."""
        check(isinstance(index, IndexHNSWCagra), "expected an IndexHNSWCagra, got {}", type(index).__name__)
        source: Any = index
        kind = int(source.numeric_type_) if numeric_type is None else numeric_type
        self.d, self.metric_type, self.metric_arg, self.numeric_type_ = source.d, source.metric_type, source.metric_arg, kind
        edges = bottom_edges(source.hnsw).to(self.device)
        self._degrees = (max(self._degrees[0], edges.shape[1]), edges.shape[1])
        self._take(source._vectors().to(self.device, torch.float32), edges)

    def copyFrom_ex(self, index: Index, numeric_type: int) -> None:
        """copyFrom, with the numeric type that vectors are taken for."""
        self.copyFrom(index, numeric_type)


__all__ = [name for name in dict(globals()) if name.endswith(("CagraConfig", "Cagra")) and name != "IndexHNSWCagra"] + [
    name
    for name in dict(globals())
    if name.startswith(("graph_build_algo_", "codebook_gen_", "search_algo_", "hash_mode_", "CUDA_R_"))
]
