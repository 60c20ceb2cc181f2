"""NSG and NN-descent: on one thread FAISS's very graphs; every node within reach; what is refused."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat
from tsscompat.algorithms import nndescent
from tsscompat.algorithms.random import RandomGenerator

D, N, K = 12, 400, 24


def vectors(n: int = N, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


@pytest.fixture
def one_thread():
    before = faiss.omp_get_max_threads(), tsscompat.omp_get_max_threads()
    faiss.omp_set_num_threads(1), tsscompat.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before[0]), tsscompat.omp_set_num_threads(before[1])


def edges_of(library, index) -> np.ndarray:
    graph = index.nsg.get_final_graph()
    return library.rev_swig_ptr(graph.data, graph.N * graph.K).reshape(graph.N, graph.K).copy()


def built(library, metric: int, build_type: int, degree: int = 6):
    index = library.IndexNSGFlat(D, degree, metric)
    index.build_type, index.GK = build_type, K
    index.add(vectors())
    return index


@pytest.mark.parametrize("build_type", [0, 1])
@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_on_one_thread_the_graph_is_that_of_faiss(one_thread, metric, build_type):
    ours, theirs = built(tsscompat, metric, build_type), built(faiss, metric, build_type)
    assert ours.nsg.enterpoint == theirs.nsg.enterpoint
    same = (edges_of(tsscompat, ours) == edges_of(faiss, theirs)).mean()
    assert same > 0.98  # rounding may turn a choice
    queries = vectors(50, 2)
    assert (ours.search(queries, 5)[1] == theirs.search(queries, 5)[1]).mean() > 0.98


def test_on_one_thread_the_neighbours_are_those_of_faiss(one_thread):
    indexes = [library.IndexNNDescentFlat(D, 10) for library in (tsscompat, faiss)]
    for index in indexes:
        index.add(vectors())
    ours = indexes[0].nndescent.final_graph.tensor.numpy()
    assert (ours == faiss.vector_to_array(indexes[1].nndescent.final_graph)).mean() > 0.98


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_every_node_can_be_reached(keep):
    """Also where most of the table of neighbours says nothing, so that nodes have to be attached."""
    x, index = vectors(), tsscompat.IndexNSGFlat(D, 8)
    flat = tsscompat.IndexFlatL2(D)
    flat.add(x)
    near = flat.search(x, K + 1)[1][:, 1:]
    few = (np.arange(N)[:, None] // 40) * 40 + np.random.default_rng(3).integers(40, size=near.shape)
    near = near if keep == 1 else np.where(few == np.arange(N)[:, None], near, few)
    index.build(x, near)
    met = tsscompat.VisitedTableVector(N)
    assert index.nsg.dfs(met, index.nsg.enterpoint, 0) == N
    assert all(met.get(i) for i in range(N))
    assert index.search(x, 1)[1].min() >= 0


def test_many_threads_find_as_much():
    x, queries = vectors(1000), vectors(100, 2)
    flat = tsscompat.IndexFlatL2(D)
    flat.add(x)
    truth = flat.search(queries, 1)[1]
    before = tsscompat.omp_get_max_threads()
    hits = []
    for threads in (1, 4):
        tsscompat.omp_set_num_threads(threads)
        index = tsscompat.IndexNSGFlat(D, 12)
        index.nsg.search_L = 32
        index.add(x)
        hits.append((index.search(queries, 1)[1] == truth).mean())
    tsscompat.omp_set_num_threads(before)
    assert min(hits) > 0.9 and abs(hits[0] - hits[1]) < 0.05


@pytest.mark.parametrize("library", [faiss, tsscompat])
def test_refusals(library):
    index = built(library, faiss.METRIC_L2, 1)
    for refused in (
        lambda: index.add(vectors()),
        lambda: index.build(vectors(), np.zeros((N, 3), dtype=np.int64)),
        lambda: index.search(vectors(), 1, params=library.SearchParameters()),
        lambda: library.IndexNSGFlat(D, 8).search(vectors(), 1),
        lambda: library.IndexNSGFlat(D, 8).add(vectors(60)),
        lambda: library.IndexNSGFlat(D, 8).build(vectors(), np.full((N, 3), -1)),
        lambda: library.IndexNNDescentFlat(D, 8).add(vectors(100)),
        lambda: library.IndexNSG(D, 8).add(vectors()),
    ):
        with pytest.raises(RuntimeError):
            refused()


def test_a_refused_add_leaves_the_index_empty():
    index = tsscompat.IndexNSGFlat(D, 8)
    index.build_type = 0
    with pytest.raises(RuntimeError):
        index.add(np.zeros((300, D), dtype=np.float32))
    assert index.ntotal == index.storage.ntotal == 0
    index.add(vectors())
    assert index.ntotal == N


def test_k_beyond_what_there_is():
    for index in (built(tsscompat, 1, 0), tsscompat.IndexNNDescentFlat(D, 8)):
        if index.ntotal == 0:
            index.add(vectors())
        _, ids = index.search(vectors(3, 2), N + 5)
        assert (ids[:, N:] == -1).all() and all(len(set(row[:300])) == 300 for row in ids.tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_drawn_numbers_differ(size, more, seed):
    drawn = nndescent.drawn(RandomGenerator(seed), 3, size, size + more)
    assert all(len(set(row)) == size for row in drawn.tolist())
    assert bool(((drawn >= 0) & (drawn < size + more)).all())


def test_a_new_graph_is_walked_after_a_change():
    index = built(tsscompat, 1, 0)
    before = index.search(vectors(3, 2), 4)[1]
    index.reset()
    index.add(vectors(N, 7))
    again = index.search(vectors(3, 2), 4)[1]
    assert not (again == before).all()
    flat = tsscompat.IndexFlatL2(D)
    flat.add(vectors(N, 7))
    index.nsg.search_L = N
    np.testing.assert_array_equal(index.search(vectors(3, 2), 4)[1], flat.search(vectors(3, 2), 4)[1])
