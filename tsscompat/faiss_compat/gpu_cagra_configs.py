"""How CAGRA's graphs are made and walked: FAISS's configurations, parameters and names of choices."""

from __future__ import annotations

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, enum, int64, real, size_t
from tsscompat.faiss_compat.gpu_configs import GpuIndexConfig
from tsscompat.faiss_compat.params import SearchParameters

graph_build_algo_IVF_PQ, graph_build_algo_NN_DESCENT, graph_build_algo_ITERATIVE_SEARCH = range(3)
codebook_gen_PER_SUBSPACE, codebook_gen_PER_CLUSTER = range(2)
search_algo_SINGLE_CTA, search_algo_MULTI_CTA, search_algo_MULTI_KERNEL, search_algo_AUTO = 0, 1, 2, 100
hash_mode_HASH, hash_mode_SMALL, hash_mode_AUTO = 0, 1, 100
CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_8I, CUDA_R_8U = 0, 1, 2, 3, 8


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
    store_dataset = boolean(
        True, "False: rows that are on the GPU already stay the caller's memory, which must outlive the index"
    )
    guarantee_connectivity = boolean(False, "a tree of all nodes comes first among the edges")

    def _check(self) -> None:
        super()._check()
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


__all__ = [name for name in dict(globals()) if name.endswith(("CagraConfig", "Cagra"))] + [
    name
    for name in dict(globals())
    if name.startswith(("graph_build_algo_", "codebook_gen_", "search_algo_", "hash_mode_", "CUDA_R_"))
]
