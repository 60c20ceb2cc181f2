"""Options of GPU indexes that change what an index holds or answers, on virtual GPUs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components

import tsscompat as faiss
from tsscompat.algorithms import cagra
from tsscompat.algorithms.spanning import spanning_edges
from tsscompat.errors import FaissError

D, N = 16, 1500
IVF = ["IVF8,Flat", "IVF8,PQ8x4", "IVF8,SQ8"]


@pytest.fixture(autouse=True)
def virtual(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")


@pytest.fixture(scope="module")
def vectors():
    made = np.random.RandomState(4).randn(N + 50, D).astype(np.float32)
    return made[:N], made[N:]


def filled(kind, vectors, metric=faiss.METRIC_L2):
    index = faiss.index_factory(D, kind, metric)
    index.train(vectors[0])
    index.add_with_ids(vectors[0], np.arange(N)[::-1] * 3)
    index.nprobe = 4
    return index


def options(**given):
    made = faiss.GpuClonerOptions()
    for name, value in given.items():
        setattr(made, name, value)
    return made


def test_the_word_cuvs_stands_where_gpus_are(monkeypatch):
    assert {"GPU", "CUVS"} <= set(faiss.get_compile_options().split())
    if not torch.cuda.is_available():
        monkeypatch.delenv("TSSCOMPAT_VIRTUAL_GPUS")
        assert not {"GPU", "CUVS"} & set(faiss.get_compile_options().split())


# -- INDICES_IVF ------------------------------------------------------------------------------------------------------------------------


def names_by_place(index, labels):
    """The ids that an ordinary index holds at list << 32 | place."""
    lists = index.invlists
    held = [faiss.rev_swig_ptr(lists.get_ids(no), lists.list_size(no)) for no in range(index.nlist)]
    return np.array([[-1 if label < 0 else held[label >> 32][label & 0xFFFFFFFF] for label in row] for row in labels.tolist()])


@pytest.mark.parametrize("space", [faiss.MemorySpace_Device, faiss.MemorySpace_Unified])
@pytest.mark.parametrize("kind", IVF)
def test_results_name_places(vectors, kind, space):
    index = filled(kind, vectors)
    chosen = options(indicesOptions=faiss.INDICES_IVF, memorySpace=space)
    placed = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 1, index, chosen)
    for k, queries in ((5, vectors[1]), (400, vectors[1][:2]), (3, vectors[1][:1])):
        expected, found = index.search(queries, k), placed.search(queries, k)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        assert (names_by_place(index, found[1]) == expected[1]).mean() > 0.995  # but for ties
    assert found[1].max() >= 1 << 32


@pytest.mark.parametrize("kind", IVF)
def test_places_go_on_where_lists_end(vectors, kind):
    """Added in parts, with ids that are not asked for, entries are named as in an index that got all at once."""
    index = filled(kind, vectors)
    config = {"Fl": faiss.GpuIndexIVFFlatConfig, "PQ": faiss.GpuIndexIVFPQConfig, "SQ": faiss.GpuIndexIVFScalarQuantizerConfig}[
        kind[5:7]
    ]()
    config.indicesOptions = faiss.INDICES_IVF
    empty = copy.deepcopy(index)
    empty.reset()
    make = {
        "Fl": faiss.GpuIndexIVFFlat,
        "PQ": faiss.GpuIndexIVFPQ,
        "SQ": faiss.GpuIndexIVFScalarQuantizer,
    }[kind[5:7]]
    placed = make(faiss.StandardGpuResources(), empty, config)
    placed.nprobe = 4
    placed.add(vectors[0][:1])
    placed.add_with_ids(vectors[0][1:700], np.arange(699))
    placed.add(vectors[0][700:])
    assert placed.ntotal == N
    expected, found = index.search(vectors[1], 5), placed.search(vectors[1], 5)
    assert (names_by_place(index, found[1]) == expected[1]).mean() > 0.995
    for call in (
        lambda: faiss.index_gpu_to_cpu(placed),
        lambda: placed.copyTo(copy.deepcopy(empty)),
        lambda: placed.getListIndices(0),
        lambda: placed.remove_ids(np.array([3])),
    ):
        with pytest.raises(FaissError, match="keeps no ids"):
            call()
    assert np.array_equal(copy.deepcopy(placed).search(vectors[1], 5)[1], found[1])
    with pytest.raises(FaissError, match="indicesOptions"):
        faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options(indicesOptions=4))


# -- use_cuvs ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, padded", [("IVF8,Flat", True), ("IVF8,PQ8x4", True), ("IVF8,SQ8", True), ("IVF8,SQ4", False)])
@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy])
def test_a_query_with_nans_is_padded_as_by_cuvs(vectors, kind, padded, as_kind):
    """With the largest float, also by the inner product: by FAISS's own kernels, with the smallest."""
    index, queries = filled(kind, vectors, faiss.METRIC_INNER_PRODUCT), vectors[1][:3].copy()
    queries[1, 2] = np.nan
    largest = np.finfo(np.float32).max
    for cuvs in (False, True):
        placed = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options(use_cuvs=cuvs))
        distances, labels = (np.asarray(found) for found in placed.search(as_kind(queries), 4))
        assert (labels[1] == -1).all() and (distances[1] == (largest if cuvs and padded else -largest)).all()
        ordinary = index.search(queries, 4)
        assert np.array_equal(labels[[0, 2]], ordinary[1][[0, 2]])
        np.testing.assert_allclose(distances[[0, 2]], ordinary[0][[0, 2]], rtol=1e-5)


# -- CAGRA ------------------------------------------------------------------------------------------------------------------------------


def strong_parts(edges: torch.Tensor) -> int:
    """Parts of a graph within which a way leads from each node to each other."""
    n, degree = edges.shape
    source, target = torch.arange(n).repeat_interleave(degree), edges.reshape(-1)
    there = target >= 0
    table = scipy.sparse.coo_matrix((np.ones(int(there.sum())), (source[there], target[there])), shape=(n, n))
    return int(connected_components(table, directed=True, connection="strong")[0])


@pytest.mark.parametrize(
    "n, blobs, wide, degree",
    [(1, 1, 8, 4), (2, 1, 8, 4), (3, 1, 8, 4), (5, 1, 8, 2), (40, 5, 8, 4), (900, 30, 12, 8), (900, 150, 4, 2)],
)
def test_a_graph_of_groups_far_apart_is_connected(n, blobs, wide, degree):
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(blobs, 4, generator=generator) * 100
    x = centers[torch.arange(n) % blobs] + torch.randn(n, 4, generator=generator) / 10
    apart, made = (cagra.build(x, wide, degree, faiss.METRIC_L2, connected) for connected in (False, True))
    assert strong_parts(made) == 1 and (blobs == 1 or strong_parts(apart) >= blobs - (n < 100) * blobs)
    assert made.shape == (n, degree)
    for node, row in enumerate(made.tolist()):
        kept = [other for other in row if other >= 0]
        assert len(set(kept)) == len(kept) and node not in kept


@pytest.mark.parametrize("most", [2, 3, 8])
@pytest.mark.parametrize("n, degree", [(2, 1), (30, 3), (400, 6)])
def test_spanning_edges_are_a_tree(n, degree, most):
    generator = torch.Generator().manual_seed(n)
    graph = torch.randint(
        0, max(1, n // 10), (n, degree), generator=generator
    )  # all lead to few nodes, which have no room for all
    graph[graph == torch.arange(n)[:, None]] = -1
    edges = spanning_edges(graph, most)
    assert edges.shape == (n, most) and int((edges >= 0).sum()) == 2 * (n - 1) and strong_parts(edges) == 1
    for node, row in enumerate(edges.tolist()):
        assert all(node in edges[other].tolist() for other in row if other >= 0)


def far_groups():
    rs = np.random.RandomState(0)
    return (rs.randn(12, D)[np.arange(600) % 12] * 50 + rs.randn(600, D)).astype(np.float32)


def test_an_index_whose_graph_is_connected():
    x, config = far_groups(), faiss.GpuIndexCagraConfig()
    config.graph_degree, config.intermediate_graph_degree = 8, 12
    parts = []
    for config.guarantee_connectivity in (False, True):
        index = faiss.GpuIndexCagra(faiss.StandardGpuResources(), D, faiss.METRIC_L2, config)
        index.train(x)
        parts.append(strong_parts(index.get_knngraph().tensor.view(600, 8)))
        assert (index.search(x, 1)[1][:, 0] == np.arange(600)).mean() > 0.98
        codes = faiss.GpuIndexBinaryCagra(faiss.StandardGpuResources(), 64, config)
        codes.train(np.repeat((np.arange(600) % 12).astype(np.uint8) * 21, 8).reshape(600, 8))
        parts.append(strong_parts(codes.get_knngraph().tensor.view(600, 8)))
    assert parts[0] >= 12 and parts[2:] == [1, 1]


@pytest.mark.parametrize("binary", [False, True])
def test_vectors_that_are_not_stored_stay_the_callers(vectors, binary):
    x = (
        torch.from_numpy(vectors[0])
        if not binary
        else torch.from_numpy(np.random.RandomState(1).randint(0, 256, (N, D)).astype(np.uint8))
    )
    config = faiss.GpuIndexCagraConfig()
    config.graph_degree, config.intermediate_graph_degree = 8, 12
    found = []
    for config.store_dataset in (False, True):
        kind, size = (faiss.GpuIndexBinaryCagra, 8 * D) if binary else (faiss.GpuIndexCagra, D)
        index = kind(faiss.StandardGpuResources(), size, config)
        index.train(x)
        held = index.storage.xb if binary else index.storage.codes
        assert (held.tensor.data_ptr() == x.data_ptr()) == (not config.store_dataset)
        found.append(index.search(x[:20], 3))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    layered = (faiss.index_binary_gpu_to_cpu if binary else faiss.index_gpu_to_cpu)(index)
    assert (layered.search(x[:20], 1)[1] == found[0][1][:, :1]).float().mean() > 0.8
    index.reset()
    assert index.ntotal == 0 and x.shape == (N, D)
