"""HNSW against FAISS: the levels it draws, the walks on one graph, the graphs that both build."""

from __future__ import annotations

import functools

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat
from tsscompat.algorithms.hnsw import insertion_order
from tsscompat.kernels import graph_link

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
N = 1500


@functools.cache
def vectors(n: int, d: int, seed: int) -> np.ndarray:
    """Points near a plane of six dimensions, so that neighbours are near."""
    plane = np.random.default_rng(0).standard_normal((6, d), dtype=np.float32)
    drawn = np.random.default_rng(seed)
    return drawn.standard_normal((n, 6), dtype=np.float32) @ plane + 0.2 * drawn.standard_normal((n, d), dtype=np.float32)


def ours(index):
    return tsscompat.deserialize_index(faiss.serialize_index(index))


def theirs(index):
    return faiss.deserialize_index(tsscompat.serialize_index(index))


@functools.cache
def pair(d: int, m: int, metric: int):
    """FAISS's index, and ours read from its file."""
    index = faiss.IndexHNSWFlat(d, m, metric)
    index.add(vectors(N, d, 1))
    return index, ours(index)


def same(one, other, nearly: float = 1.0) -> None:
    """Distances and ids of two answers; ids may differ where sums are rounded in another order."""
    np.testing.assert_allclose(one[0], other[0], rtol=1e-4, atol=1e-4)
    assert (one[1] == other[1]).mean() >= nearly


def recall(index, x, queries, metric) -> float:
    _, truth = faiss.knn(queries, x, 10, metric)
    _, found = index.search(queries, 10)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth)]))


# -- one graph --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.sampled_from([(16, 8), (13, 8), (37, 4)]),
    st.sampled_from([L2, IP]),
    st.sampled_from([1, 2, 9, 40]),
    st.sampled_from([1, 10, 60]),
    st.sampled_from([1, 16, 50, 200]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_the_same_graph_gives_the_same_answers(shape, metric, nq, k, ef, relative, bounded, selected):
    index, read = pair(*shape, metric)
    queries = vectors(100, shape[0], 2)[:nq]
    answers = []
    for module, searched in ((faiss, index), (tsscompat, read)):
        # FAISS forgets the selector where its queue is not bounded.
        chosen = {"sel": module.IDSelectorRange(100, 900)} if selected and bounded else {}
        params = module.SearchParametersHNSW(efSearch=ef, check_relative_distance=relative, bounded_queue=bounded, **chosen)
        answers.append(searched.search(queries, k, params=params))
    same(*answers, nearly=0.995)


@given(st.sampled_from([L2, IP]), st.sampled_from([1, 16, 100]), st.floats(0.2, 3.0), st.booleans())
def test_the_same_graph_gives_the_same_ranges(metric, ef, part, selected):
    index, read = pair(16, 8, metric)
    queries = vectors(100, 16, 2)[:20]
    radius = float(np.median(index.search(queries, 10)[0])) * part
    answers = []
    for module, searched in ((faiss, index), (tsscompat, read)):
        chosen = {"sel": module.IDSelectorRange(100, 900)} if selected else {}
        answers.append(searched.range_search(queries, radius, params=module.SearchParametersHNSW(efSearch=ef, **chosen)))
    (lims, distances, labels), (our_lims, our_distances, our_labels) = answers
    assert lims.tolist() == our_lims.tolist()
    for a, b in zip(lims[:-1].astype(int), lims[1:].astype(int)):
        assert set(labels[a:b]) == set(our_labels[a:b])
        np.testing.assert_allclose(np.sort(distances[a:b]), np.sort(our_distances[a:b]), rtol=1e-4, atol=1e-4)


def test_a_selector_is_heeded_whatever_the_queue():
    read = pair(16, 8, L2)[1]
    params = tsscompat.SearchParametersHNSW(efSearch=64, bounded_queue=False, sel=tsscompat.IDSelectorRange(100, 900))
    labels = read.search(vectors(100, 16, 2), 5, params=params)[1]
    assert ((labels >= 100) & (labels < 900)).all()


@pytest.mark.parametrize("metric", [faiss.METRIC_L1, faiss.METRIC_Linf, faiss.METRIC_Canberra, faiss.METRIC_Jaccard])
def test_other_metrics(metric):
    x = np.abs(vectors(600, 16, 3))
    index = faiss.IndexHNSWFlat(16, 8, metric)
    index.add(x)
    queries = np.abs(vectors(40, 16, 4))
    same(index.search(queries, 10), ours(index).search(queries, 10), nearly=0.99)


def test_a_query_alone_is_answered_as_among_others():
    read = pair(16, 8, L2)[1]
    queries = vectors(100, 16, 2)
    together = read.search(queries, 10)
    for i in range(0, 100, 7):
        alone = read.search(queries[i : i + 1], 10)
        assert alone[1].tolist() == together[1][i : i + 1].tolist() and (alone[0] == together[0][i : i + 1]).all()


def test_marks_come_round():
    """Nodes are marked with one byte: more walks than a byte counts give what the first gave."""
    read, queries = pair(16, 8, L2)[1], vectors(100, 16, 2)[:1]
    first = read.search(queries, 10)[1].tolist()
    assert all(read.search(queries, 10)[1].tolist() == first for _ in range(600))


def test_efsearch_of_the_index_is_used():
    index, read = pair(16, 8, L2)
    queries = vectors(100, 16, 2)
    try:
        for ef in (1, 5, 120):
            index.hnsw.efSearch = read.hnsw.efSearch = ef
            same(index.search(queries, 10), read.search(queries, 10), nearly=0.995)
    finally:
        index.hnsw.efSearch = read.hnsw.efSearch = 16


def test_walks_are_counted_as_faiss_counts_them():
    index, read = pair(16, 8, L2)
    for module, searched in ((faiss, index), (tsscompat, read)):
        module.cvar.hnsw_stats.reset()
        searched.search(vectors(100, 16, 2), 10)
    assert tsscompat.cvar.hnsw_stats.n1 == 100
    assert abs(tsscompat.cvar.hnsw_stats.nhops / faiss.cvar.hnsw_stats.nhops - 1) < 0.3


def test_vectors_that_are_no_numbers():
    """NaN is never an answer, nor does it hide others."""
    x = vectors(400, 16, 5).copy()
    x[::40] = np.nan
    index = tsscompat.IndexHNSWFlat(16, 16)
    index.add(x)
    distances, labels = index.search(vectors(30, 16, 6), 10)
    assert not np.isnan(distances).any() and not np.isin(labels, np.arange(0, 400, 40)).any()
    known = np.flatnonzero(~np.isnan(x).any(1))
    truth = known[faiss.knn(vectors(30, 16, 6), x[known], 10)[1]]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(labels, truth)]) > 0.8
    asked = np.full((2, 16), np.nan, dtype=np.float32)
    assert (index.search(asked, 3)[1] == -1).all()


# -- building ---------------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.lists(st.integers(1, 300), min_size=1, max_size=3))
def test_levels_are_faiss_s(m, counts):
    index, made = faiss.IndexHNSWFlat(4, m), tsscompat.IndexHNSWFlat(4, m)
    for i, n in enumerate(counts):
        x = vectors(n, 4, i)
        index.add(x)
        made.add(x)
    assert faiss.vector_to_array(index.hnsw.levels).tolist() == np.asarray(made.hnsw.levels).tolist()
    assert faiss.vector_to_array(index.hnsw.offsets).tolist() == np.asarray(made.hnsw.offsets).tolist()
    assert index.hnsw.max_level == made.hnsw.max_level
    ends = faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level)
    assert ends.tolist() == np.asarray(made.hnsw.cum_nneighbor_per_level).tolist()


def lists(module, index) -> np.ndarray:
    """The neighbour lists of all nodes, one behind the other."""
    return np.asarray(module.vector_to_array(index.hnsw.neighbors))


@pytest.mark.parametrize("key", ["HNSW8", "HNSW3", "HNSW8,SQ8", "HNSW16,PQ6x6np"])
@given(st.sampled_from([L2, IP]), st.integers(1, 900), st.integers(1, 4), st.booleans(), st.sampled_from([0.0, 0.3]))
@settings(max_examples=6)
def test_our_graph_is_faiss_s(key, metric, n, parts, fill, headroom):
    """List by list, from one vector to batches of eighteen, in one go and in several, some of which bring a higher top level."""
    x, made = vectors(n, 12, n), []
    for module in (faiss, tsscompat):
        index = module.index_factory(12, key, metric)
        index.train(vectors(600, 12, 3))
        index.keep_max_size_level0, index.hnsw.prune_headroom = fill, headroom
        for part in np.array_split(x, parts):
            index.add(part)
        made.append(index)
    same_lists = lists(faiss, made[0]) == lists(tsscompat, made[1])
    assert same_lists.mean() > 0.998  # distances may be rounded another way where one neighbour shuts another out
    assert (made[0].hnsw.entry_point, made[0].hnsw.max_level) == (made[1].hnsw.entry_point, made[1].hnsw.max_level)


@pytest.mark.parametrize("kind", ["float", "binary"])
def test_threads_do_not_change_the_graph(kind):
    """Batches of up to 120 nodes, linked by one thread and shared by four."""
    made, before = [], tsscompat.omp_get_max_threads()
    x = vectors(6000, 8, 7) if kind == "float" else np.random.default_rng(7).integers(0, 256, (6000, 8), dtype=np.uint8)
    try:
        for threads in (1, 4):
            tsscompat.omp_set_num_threads(threads)
            index = tsscompat.IndexHNSWFlat(8, 8) if kind == "float" else tsscompat.IndexBinaryHNSW(64, 8)
            index.add(x)
            made.append(lists(tsscompat, index))
    finally:
        tsscompat.omp_set_num_threads(before)
    np.testing.assert_array_equal(made[0], made[1])


def test_the_definition_links_in_the_same_batches():
    """In batches of up to three, where drawn inputs have one node each."""
    x = torch.from_numpy(vectors(160, 6, 1))
    made = []
    for build in (graph_link.build, graph_link.build.definition):
        hnsw = tsscompat.HNSW(4)
        hnsw.prepare_level_tab(160)
        arrays = hnsw._arrays()
        ends = build(x, arrays, *insertion_order(hnsw.levels.tensor, 0, 0), 12, L2)
        made.append((ends, arrays.neighbors.tolist()))
    assert made[0] == made[1]


@given(st.sampled_from([L2, IP]), st.sampled_from([5, 60, 700]), st.sampled_from([3, 16, 20]))
def test_faiss_searches_our_graph(metric, n, d):
    index = tsscompat.IndexHNSWFlat(d, 8, metric)
    index.add(vectors(n, d, 9))
    queries = vectors(30, d, 10)
    same(theirs(index).search(queries, 10), index.search(queries, 10), nearly=0.99)


def test_lists_hold_neighbours_once():
    made = tsscompat.IndexHNSWFlat(24, 6)
    made.add(vectors(3000, 24, 7))
    neighbors, offsets = np.asarray(made.hnsw.neighbors), np.asarray(made.hnsw.offsets).astype(int)
    for node in range(3000):
        bottom = neighbors[offsets[node] : offsets[node] + 12]
        used = bottom[bottom >= 0]
        assert len(set(used)) == len(used) and node not in used and (bottom[len(used) :] == -1).all()


def test_a_full_list_is_chosen_anew_with_room_left():
    lists = []
    for headroom in (0.0, 0.5):
        made = tsscompat.IndexHNSWFlat(24, 6)
        made.hnsw.prune_headroom = headroom
        made.add(vectors(3000, 24, 7))
        lists.append((np.asarray(made.hnsw.neighbors) >= 0).sum())
    assert lists[1] < lists[0]


# -- kinds ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["HNSW8,SQ8", "HNSW8,PQ4np", "HNSW8,16+PQ4"])
def test_coded_storage_is_searched_as_faiss_searches_it(key):
    x, queries = vectors(1200, 16, 11), vectors(40, 16, 12)
    index = tsscompat.index_factory(16, key)
    index.train(x)
    index.add(x)
    same(theirs(index).search(queries, 5), index.search(queries, 5), nearly=0.9)


def test_cagra():
    x, queries = vectors(1200, 16, 11), vectors(40, 16, 12)
    index, made = (module.IndexHNSWCagra(16, 8) for module in (faiss, tsscompat))
    index.add(x)
    made.add(x)
    read = ours(index)
    assert (
        type(read).__name__ == "IndexHNSWCagra"
        and read.num_base_level_search_entrypoints == made.num_base_level_search_entrypoints == 256
    )
    same(index.search(queries, 5), read.search(queries, 5), nearly=0.99)
    assert recall(made, x, queries, L2) > recall(index, x, queries, L2) - 0.05
    made.base_level_only = True
    assert recall(made, x, queries, L2) > 0.6
    with pytest.raises(RuntimeError):
        made.add(x)


# -- one vector at a time -----------------------------------------------------------------------------------------------------------


def edges(module, index) -> list[set[int]]:
    """The neighbours of each node on all levels."""
    begin, near = (module.vector_to_array(v) for v in (index.hnsw.offsets, index.hnsw.neighbors))
    return [set(near[a:b].tolist()) for a, b in zip(begin[:-1].astype(int), begin[1:].astype(int))]


def ours_again(index):
    return tsscompat.deserialize_index(tsscompat.serialize_index(index))


@pytest.mark.parametrize("key", ["HNSW8", "HNSW8_SQ8"])
def test_adding_one_vector_at_a_time(key):
    """The graph is FAISS's, and what is kept of the codes decoded so far is what all of them decode to."""
    x, made = vectors(250, 12, 4), []
    for module in (faiss, tsscompat):
        index = module.index_factory(12, key)
        index.train(x)
        for i in range(len(x)):
            index.add(x[i : i + 1])
        made.append((edges(module, index), index))
    (wanted, _), (got, index) = made
    alike = np.mean([a == b for a, b in zip(wanted, got)])
    assert alike > 0.97  # distances may be rounded another way where one neighbour shuts another out
    same(index.search(x, 5), ours_again(index).search(x, 5))


@pytest.mark.parametrize("key", ["HNSW8", "HNSW8_SQ8", "PQ4x4fs"])
def test_room_for_one_more_is_not_made_each_time(key):
    """Memory that grows by one vector is copied a few times, not once for each."""
    x = vectors(400, 12, 5)
    index = tsscompat.index_factory(12, key)
    index.train(x)
    held = index.codes if key == "PQ4x4fs" else index.hnsw.neighbors
    moves = set()
    for i in range(400):
        index.add(x[i : i + 1])
        moves.add(held.tensor.data_ptr())
    assert len(moves) < 50


def test_the_argument_of_a_metric_is_the_storage_s():
    x, q = np.abs(vectors(400, 8, 6)), np.abs(vectors(9, 8, 7))
    index = faiss.IndexHNSWFlat(8, 8, faiss.METRIC_Lp)
    index.storage.metric_arg = 3
    index.add(x)
    same(index.search(q, 5), ours(index).search(q, 5))
    made = tsscompat.IndexHNSWFlat(8, 8, tsscompat.METRIC_Lp)
    made.storage.metric_arg = 3
    made.add(x)
    assert made.storage.metric_arg == 3 and made.metric_arg == 0
    exact = tsscompat.IndexFlat(8, tsscompat.METRIC_Lp)
    exact.metric_arg = 3
    exact.add(x)
    same(made.search(q, 1), exact.search(q, 1))


def test_chances_of_levels():
    """They are FAISS's to the last bit, for any fall from level to level; one that is not positive is refused."""
    for m, fall in ((4, 0.5), (16, 1 / np.log(16)), (32, 1.0)):
        one, other = faiss.HNSW(m), tsscompat.HNSW(m)
        np.testing.assert_array_equal(faiss.vector_to_array(one.assign_probas), tsscompat.vector_to_array(other.assign_probas))
        one.assign_probas.clear()
        one.cum_nneighbor_per_level.clear()
        one.set_default_probas(m, fall)
        other.set_default_probas(m, fall)
        np.testing.assert_array_equal(faiss.vector_to_array(one.assign_probas), tsscompat.vector_to_array(other.assign_probas))
    for fall in (0.0, -1.0):
        with pytest.raises(RuntimeError, match="levelMult"):
            tsscompat.HNSW(8).set_default_probas(8, fall)
