"""The contrib modules: searches by list, variants of k-means, servers, lists merged on disk."""

from __future__ import annotations

import importlib
import itertools
import pickle
import socket
import threading

import numpy as np
import pytest
import scipy.sparse
import torch

import tsscompat
from tsscompat.contrib import big_batch_search, client_server, clustering, ondisk, rpc

D = 8


def vectors(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def filled(key: str = "IVF16,Flat", n: int = 600):
    index = tsscompat.index_factory(D, key)
    index.train(vectors(800))
    index.add(vectors(n, 2))
    index.nprobe = 6
    return index


@pytest.mark.parametrize("threaded", [0, 1, 2])
@pytest.mark.parametrize("method", big_batch_search.METHODS)
@pytest.mark.parametrize("key", ["IVF16,Flat", "IVF16,PQ4x4", "IVF16,SQ8"])
def test_a_search_by_list_is_a_search(key, method, threaded):
    index, queries = filled(key), vectors(70, 3)
    expected = index.search(queries, 5)
    found = big_batch_search.big_batch_search(index, queries, 5, method=method, threaded=threaded)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-3)
    assert (found[1] == expected[1]).mean() > 0.99


def test_a_search_by_list_goes_on_where_it_stopped(tmp_path):
    index, queries, path = filled(), vectors(30, 3), str(tmp_path / "checkpoint")
    seen = []

    def knn(x, y, k, **more):
        seen.append(len(y))
        return tsscompat.knn(x, y, k, **more)

    with pytest.raises(ZeroDivisionError):
        big_batch_search.big_batch_search(index, queries, 4, knn=knn, checkpoint=path, checkpoint_freq=-1, crash_at=9)
    before = len(seen)
    found = big_batch_search.big_batch_search(index, queries, 4, knn=knn, checkpoint=path)
    assert before == 10 and len(seen) - before == 16 - 9
    np.testing.assert_array_equal(found[1], index.search(queries, 4)[1])
    index.nprobe = 3
    with pytest.raises(AssertionError):
        big_batch_search.big_batch_search(index, queries, 4, checkpoint=path)


def test_threads_are_told_apart():
    index, queries, told = filled(), vectors(30, 3), set()

    def knn(x, y, k, metric, thread_id):
        told.add(thread_id)
        return tsscompat.knn(x, y, k, metric=metric)

    found = big_batch_search.big_batch_search(index, queries, 4, knn=knn, threaded=2, computation_threads=3)
    np.testing.assert_array_equal(found[1], index.search(queries, 4)[1])
    assert told <= {0, 1, 2}


@pytest.mark.parametrize("rebalance", [False, True])
def test_two_levels_of_clusters(rebalance):
    x = vectors(2000)
    centroids, stats = clustering.two_level_clustering(x, 5, 40, rebalance=rebalance)
    assert centroids.shape == (40, D) and len(stats) == 6
    whole = tsscompat.Kmeans(D, 40)
    whole.train(x)
    assert tsscompat.knn(x, centroids, 1)[0].sum() < 1.2 * whole.obj[-1]
    index = tsscompat.index_factory(D, "PCA4,IVF16,Flat")
    clustering.train_ivf_index_with_2level(index, x)
    assert index.is_trained and index.index.quantizer.ntotal == 16


@pytest.mark.parametrize("kind", ["dense", "sparse", "gpu"])
def test_kmeans_over_anything_that_assigns(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "1")
    x = np.maximum(vectors(1000), 0)
    data = {
        "dense": lambda: clustering.DatasetAssign(x),
        "sparse": lambda: clustering.DatasetAssignSparse(scipy.sparse.csr_matrix(x)),
        "gpu": lambda: clustering.DatasetAssignGPU(x, 0),
    }[kind]()
    centroids, stats = clustering.kmeans(20, data, 8, verbose=False, return_stats=True, checkpoint=str(tmp_path / "c.npy"))
    assert all(a["obj"] >= b["obj"] * 0.999 for a, b in itertools.pairwise(stats))
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), centroids)
    reference = tsscompat.Kmeans(D, 20, niter=8)
    reference.train(x)
    assert stats[-1]["obj"] < 1.1 * reference.obj[-1]
    weighted = data.assign_to(centroids, np.full(1000, 2, dtype=np.float32))[2]
    np.testing.assert_allclose(weighted, 2 * data.assign_to(centroids)[2], rtol=1e-4)


@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_centroids_without_vectors_take_half_of_another_s(make):
    sizes, centroids = np.array([0, 10, 0, 5, 0]), make((5, 4))
    assert clustering.reassign_centroids(sizes, centroids, np.random.RandomState(1)) == 3
    assert sizes.sum() == 15 and (sizes > 0).all()


def test_balanced_clusters_are_more_equal():
    x = np.concatenate([vectors(800), 0.2 * vectors(800, 2)])
    centroids = x[::40].copy()
    plain = tsscompat.knn(x, centroids, 1)[1][:, 0]
    assigned, stats = clustering.balanced_assignment_with_penalties(x, centroids, maxk=20)
    assert stats["imf"] < clustering.imbalance_factor(40, plain) and stats["binsize_max"] == np.bincount(assigned).max()


def serve(index) -> int:
    """A server of an index on a port of its own, for one client."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1)

    def work() -> None:
        connection, _ = listening.accept()
        listening.close()
        client_server.SearchServer(connection, index).exec_loop()

    threading.Thread(target=work, daemon=True).start()
    return listening.getsockname()[1]


def test_indexes_behind_sockets_are_searched_as_one(capfd):
    whole, parts = filled(n=400), [filled(n=0) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 150), slice(150, 400))):
        part.add_with_ids(vectors(400, 2)[rows], np.arange(400)[rows])
    client = client_server.ClientIndex([("127.0.0.1", serve(part)) for part in parts])
    assert client.ntotal == 400
    client.set_nprobe(3)
    whole.nprobe = 3
    found, expected = client.search(vectors(9, 3), 4), whole.search(vectors(9, 3), 4)
    np.testing.assert_array_equal(found[1], expected[1])
    with pytest.raises(rpc.ServerException, match=r"dimension|shape"):
        client.sub_indexes[0].search(vectors(3)[:, :4], 2)


@pytest.mark.parametrize("message", [b"cos\nsystem\n(S'true'\ntR.", pickle.dumps(np.random.default_rng)])
def test_a_message_cannot_name_code(message):
    ours, theirs = socket.socketpair()
    theirs.sendall(message)
    theirs.close()
    with pytest.raises(pickle.UnpicklingError):
        rpc.RestrictedUnpickler(rpc.FileSock(ours)).load()


def test_methods_that_are_not_public_are_not_called():
    ours, theirs = socket.socketpair()
    threading.Thread(target=client_server.SearchServer(ours, filled()).exec_loop, daemon=True).start()
    pickle.dump(("__getattr__", ("search",)), client := rpc.FileSock(theirs), protocol=4)
    assert "unknown method" in rpc.RestrictedUnpickler(client).load()[0]


@pytest.mark.parametrize("shift", [False, True])
def test_shards_become_one_index_on_disk(tmp_path, shift):
    names, merged = [], filled(n=0)
    for i, part in enumerate(np.split(vectors(300, 2), 3)):
        shard = filled(n=0)
        shard.add_with_ids(part, np.arange(100) + (0 if shift else 100 * i))
        names.append(str(tmp_path / f"shard{i}"))
        tsscompat.write_index(shard, names[-1])
    ondisk.merge_ondisk(merged, names, str(tmp_path / "lists"), shift_ids=shift)
    expected = filled(n=300)
    np.testing.assert_array_equal(merged.search(vectors(9, 3), 4)[1], expected.search(vectors(9, 3), 4)[1])
    with pytest.raises(AssertionError):
        ondisk.merge_ondisk(expected, names, str(tmp_path / "other"))


def test_two_levels_begin_where_faiss_begins():
    """Rows of a cluster are taken in the order of numpy's argsort, which k-means' first centroids go by."""
    contrib = [importlib.import_module(f"{name}.contrib.clustering") for name in ("faiss", "tsscompat")]
    x = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    theirs, ours = (module.two_level_clustering(x, 3, 9)[0] for module in contrib)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("metric", [tsscompat.METRIC_L2, tsscompat.METRIC_INNER_PRODUCT, tsscompat.METRIC_Jaccard])
def test_the_best_are_kept_where_there_are_too_many(metric):
    from tsscompat.contrib.exhaustive_search import range_search_max_results

    x = np.random.RandomState(0).rand(200, 8).astype(np.float32)
    index = tsscompat.IndexFlat(8, metric)
    index.add(x)
    every = index.search(x[:20], 200)[0]
    similar = tsscompat.is_similarity_metric(metric)
    radius, lims, distances, _ = range_search_max_results(
        index, [x[:20]], -1.0 if similar else 1e9, max_results=100, min_results=50
    )
    assert lims[-1] == len(distances) == 50 and radius == pytest.approx(
        float(np.sort(every.ravel())[-51 if similar else 50]), rel=1e-5
    )
    assert (distances > radius).all() if similar else (distances < radius).all()
