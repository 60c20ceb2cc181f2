"""k-means: centroids, objectives and refusals are FAISS's, from the same data and seed."""

from __future__ import annotations

import faiss as oracle
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tsscompat

D, K, N = 12, 9, 700
MODULES = (oracle, tsscompat)


def data(n: int = N, seed: int = 1, d: int = D) -> np.ndarray:
    """Clusters well apart, so that rounding does not move a point."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(8).standard_normal((14, d)) * 4
    return (centres[rng.integers(14, size=n)] + rng.standard_normal((n, d))).astype(np.float32)


def clustered(faiss, x, k: int = K, index=None, weights=None, start=None, **parameters):
    clus = faiss.Clustering(x.shape[1], k)
    for name, value in parameters.items():
        setattr(clus, name, value)
    if start is not None:
        faiss.copy_array_to_vector(start.ravel(), clus.centroids)
    index = index(faiss) if index else faiss.IndexFlatL2(x.shape[1])
    clus.train(x, index, weights)
    return clus, index


def table(faiss, clus) -> np.ndarray:
    return faiss.vector_to_array(clus.centroids).reshape(clus.k, -1)


def stats(clus, name: str) -> list[float]:
    return [getattr(clus.iteration_stats.at(i), name) for i in range(clus.iteration_stats.size())]


def assert_same(x, **arguments) -> tuple:
    """FAISS and tsscompat come to one result; returns tsscompat's."""
    theirs, ours = (clustered(faiss, x, **arguments) for faiss in MODULES)
    np.testing.assert_allclose(table(tsscompat, ours[0]), table(oracle, theirs[0]), rtol=1e-4, atol=1e-4)
    # Both sides compute a distance as a difference of squares, each with its own last bits of those.
    bits = 1e-6 * float(np.square(x).sum())
    for name, atol in (("obj", bits), ("imbalance_factor", 0), ("nsplit", 0)):
        np.testing.assert_allclose(stats(ours[0], name), stats(theirs[0], name), rtol=1e-4, atol=atol)
    assert ours[1].ntotal == theirs[1].ntotal == ours[0].k
    np.testing.assert_allclose(ours[1].reconstruct_n(0, ours[0].k), table(tsscompat, ours[0]), rtol=1e-6)
    return ours


PARAMETERS = {
    "defaults": {},
    "spherical": {"spherical": True},
    "integers": {"int_centroids": True},
    "redo": {"nredo": 3, "niter": 4},
    "update": {"update_index": True},
    "subsampling": {"max_points_per_centroid": 20},
    "fast subsampling": {"max_points_per_centroid": 20, "use_faster_subsampling": True},
    "k-means++": {"init_method": oracle.ClusteringInitMethod_KMEANS_PLUS_PLUS},
    "AFK-MC2": {"init_method": oracle.ClusteringInitMethod_AFK_MC2, "afkmc2_chain_length": 20},
    "early stop": {"early_stop_threshold": 0.05},
    "no iterations": {"niter": 0},
}


@pytest.mark.parametrize("name", PARAMETERS)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**31 - 1))
def test_every_parameter_has_faiss_s_effect(name, seed):
    assert_same(data(), **{"niter": 8, "seed": seed} | PARAMETERS[name])


@given(k=st.integers(1, 30), n=st.integers(30, 300), d=st.integers(1, 20), seed=st.integers(0, 2**31 - 1))
def test_any_size(k, n, d, seed):
    assert_same(data(n, seed % 1000, d), k=k, niter=2, seed=seed)


@given(seed=st.integers(0, 1000), zeros=st.booleans())
def test_weights(seed, zeros):
    weights = np.random.default_rng(seed).random(N).astype(np.float32)
    weights[: 200 * zeros] = 0
    x = data()
    assert_same(x, weights=weights, niter=4, seed=seed)
    # A weight is as good as that many copies, up to the choice of the first centroids.
    start = x[300 : 300 + K]
    counts = (weights * 4).astype(int)
    assume(len(x) > K and counts.sum() > K)
    heavy = clustered(tsscompat, x, weights=counts.astype(np.float32), start=start, niter=1)[0]
    copies = clustered(tsscompat, np.repeat(x, counts, axis=0), start=start, niter=1, max_points_per_centroid=10000)[0]
    filled = np.array([(tsscompat.knn(x[counts > 0], start, 1)[1] == j).any() for j in range(K)])
    np.testing.assert_allclose(table(tsscompat, heavy)[filled], table(tsscompat, copies)[filled], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("given_centroids", [3, K])
@pytest.mark.parametrize("init_method", [0, 1, 2])
def test_centroids_to_begin_with(frozen, given_centroids, init_method):
    start = data(given_centroids, seed=5)
    clus, _ = assert_same(data(), start=start, frozen_centroids=frozen, init_method=init_method, niter=5)
    kept = np.array_equal(table(tsscompat, clus)[:given_centroids], start)
    assert kept == frozen


def test_inner_product_takes_the_largest_objective_of_several_runs():
    assert_same(data(), index=lambda faiss: faiss.IndexFlatIP(D), nredo=3, spherical=True, niter=5)


def test_empty_clusters_are_filled():
    x = np.concatenate([np.tile(data(1), (300, 1)), data(30, seed=3)])
    # One iteration: from then on most points are tied between the halves of a cluster.
    clus, _ = assert_same(x, k=12, niter=1)
    assert sum(stats(clus, "nsplit")) > 0


def test_nearly_all_clusters_are_empty():
    # Hundreds of thousands of draws, so that the first block of random words is not enough.
    clus, _ = assert_same(np.tile(data(1), (3000, 1)), k=1000, niter=1)
    assert stats(clus, "nsplit") == [999]


def test_as_many_points_as_clusters_are_copied():
    x = data(K)
    clus, _ = assert_same(x)
    np.testing.assert_array_equal(table(tsscompat, clus), x)


def test_encoded_vectors():
    x, found = data(), []
    for faiss in MODULES:
        codec = faiss.index_factory(D, "SQ8")
        codec.train(x)
        clus, index = faiss.Clustering(D, K), faiss.IndexFlatL2(D)
        clus.niter, clus.decode_block_size = 5, 100
        clus.train_encoded(codec.sa_encode(x), codec, index)
        found.append(table(faiss, clus))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def with_nan() -> np.ndarray:
    x = data()
    x[3, 4] = np.nan
    return x


REFUSALS = {
    "fewer points than clusters": (lambda faiss: clustered(faiss, data(K - 1)), RuntimeError),
    "NaN": (lambda faiss: clustered(faiss, with_nan()), RuntimeError),
    "an index of another dimension": (lambda faiss: clustered(faiss, data(), index=lambda f: f.IndexFlatL2(D + 1)), RuntimeError),
    "vectors of another dimension": (
        lambda faiss: faiss.Clustering(D + 1, K).train(data(), faiss.IndexFlatL2(D + 1)),
        AssertionError,
    ),
    "weights of another length": (lambda faiss: clustered(faiss, data(), weights=np.ones(3, dtype=np.float32)), AssertionError),
    "an unknown parameter": (lambda faiss: faiss.Kmeans(D, K, iterations=3), AttributeError),
    "weights of SuperKmeans": (lambda faiss: faiss.SuperKmeans(32, K).train(data(d=32), np.ones(N, dtype="f4")), AssertionError),
    "SuperKMeans: too few dimensions": (lambda faiss: faiss.SuperKMeans(31, K), RuntimeError),
    "SuperKMeans: too few points": (lambda faiss: faiss.SuperKMeans(32, K).train(data(K - 1, d=32)), RuntimeError),
    "SuperKmeans on a GPU": (lambda faiss: faiss.SuperKmeans(32, K, gpu=True), AttributeError),
    "init: fewer points": (lambda faiss: initial(faiss, data(3), K, 0, 1), RuntimeError),
    "init: unknown method": (lambda faiss: initial(faiss, data(), K, 7, 1), RuntimeError),
    "thresholds": (lambda faiss: faiss.precompute_ad_thresholds(16, 1.0), RuntimeError),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(faiss, name):
    attempt, kind = REFUSALS[name]
    with pytest.raises(kind):
        attempt(faiss)


def test_too_many_first_centroids_are_refused():
    # FAISS writes beyond its memory.
    with pytest.raises(RuntimeError):
        clustered(tsscompat, data(), start=data(K + 1))


def test_an_early_stop_leaves_out_iterations(faiss):
    counts = [clustered(faiss, data(), niter=50, early_stop_threshold=t)[0].iteration_stats.size() for t in (0.0, 0.1)]
    assert counts[1] < counts[0] < 50


# -- the fronts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, {"spherical": True}, {"nredo": 2}, {"progressive_dim_steps": 3, "apply_pca": False}])
def test_kmeans(parameters):
    found = []
    for faiss in MODULES:
        km = faiss.Kmeans(D, K, niter=5, **parameters)
        assert km.train(data()) == km.obj[-1]
        distances, labels = km.assign(data(50, seed=4)) if getattr(km, "index", None) is not None else (None, None)
        found.append((km.centroids, km.obj, distances, labels, [s["nsplit"] for s in km.iteration_stats]))
    for theirs, ours in zip(*found):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_kmeans_gives_torch_tensors_for_torch_tensors():
    km = tsscompat.Kmeans(D, K, niter=3)
    km.train(torch.from_numpy(data()))
    assert isinstance(km.centroids, torch.Tensor) and km.centroids.shape == (K, D)
    plain = tsscompat.Kmeans(D, K, niter=3)
    plain.train(data())
    np.testing.assert_array_equal(km.centroids.numpy(), plain.centroids)


@given(k=st.integers(1, 40), n=st.integers(40, 400), seed=st.integers(0, 1000), places=st.integers(1, 6))
def test_numbers_are_clustered_exactly(k, n, seed, places):
    x = np.random.default_rng(seed).standard_normal((n, 1)).round(places).astype(np.float32)
    assume(len(np.unique(x)) > k)
    costs = []
    for faiss in MODULES:
        clus = faiss.Clustering1D(k)
        clus.train_exact(x)
        centroids = faiss.vector_to_array(clus.centroids)
        costs.append(np.square(x.astype(np.float64) - centroids).min(1).sum())
        assert clus.iteration_stats.size() == 1
    # FAISS adds costs up as floats, so ours may be the better.
    assert costs[1] <= costs[0] * (1 + 1e-5) + 1e-5


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_progressive_dimensions(steps):
    # Without PCA, whose axes have free signs.
    found = []
    for faiss in MODULES:
        cp = faiss.ProgressiveDimClusteringParameters()
        cp.progressive_dim_steps, cp.apply_pca, cp.niter = steps, False, 3
        clus = faiss.ProgressiveDimClustering(D, K, cp)
        x = data()
        clus.train(N, faiss.swig_ptr(x), faiss.ProgressiveDimIndexFactory())
        found.append(table(faiss, clus))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_kmeans_clustering_with_pointers():
    found = []
    for faiss in MODULES:
        x, centroids = data(), np.empty((K, D), dtype=np.float32)
        error = faiss.kmeans_clustering(D, N, K, faiss.swig_ptr(x), faiss.swig_ptr(centroids))
        found.append((error, centroids))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4, atol=1e-4)


# -- the choice of first centroids ------------------------------------------------------------------------------------------------


def initial(faiss, x, k: int, method: int, seed: int, existing: np.ndarray | None = None, chain: int = 50) -> np.ndarray:
    init = faiss.ClusteringInitialization(x.shape[1], k)
    init.method, init.seed, init.afkmc2_chain_length = method, seed, chain
    out = np.zeros((k, x.shape[1]), dtype=np.float32)
    known = () if existing is None else (len(existing), faiss.swig_ptr(existing))
    init.init_centroids(len(x), faiss.swig_ptr(x), faiss.swig_ptr(out), *known)
    return out


@pytest.mark.parametrize("method", [0, 1, 2])
@given(
    seed=st.integers(0, 2**31 - 1),
    k=st.integers(1, 25),
    n_existing=st.sampled_from([0, 1, 6]),
    chain=st.integers(0, 30),
    alike=st.booleans(),
)
def test_first_centroids_are_those_of_faiss(method, seed, k, n_existing, chain, alike):
    # Small whole numbers: distances are exact.
    x = np.random.default_rng(seed).integers(-4, 5, (60, 5)).astype(np.float32) * (not alike)
    existing = x[:n_existing] + 9 if n_existing else None
    theirs, ours = (initial(faiss, x, k, method, seed, existing, chain) for faiss in MODULES)
    np.testing.assert_array_equal(ours, theirs)


# -- SuperKMeans ------------------------------------------------------------------------------------------------------------------


def super_clustered(faiss, x, k: int, **parameters):
    cp = faiss.SuperKMeansParameters()
    for name, value in {"niter": 5, **parameters}.items():
        setattr(cp, name, value)
    clus = faiss.SuperKMeans(x.shape[1], k, cp)
    clus.train(x)
    return clus


def unit(x: np.ndarray) -> np.ndarray:
    """On the sphere: spherical centroids of long vectors are all at much the same distance, and rounding decides."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


SUPER = {
    "defaults": (64, {}),
    "spherical": (64, {"spherical": True}),
    "spherical, not a power of two": (48, {"spherical": True}),
    "subsampling": (32, {"max_points_per_centroid": 20}),
    "fast subsampling": (32, {"max_points_per_centroid": 20, "use_faster_subsampling": True}),
    "tiles": (96, {"x_batch": 300, "y_batch": 11, "pdx_block_size": 10}),
    "more at once": (128, {"d_prime_fraction": 0.4, "d_prime_adjust": 0.5, "ad_epsilon_factor": 3.0}),
    "a low target": (64, {"pruning_target_low": 0.1, "pruning_target_high": 0.2, "d_prime_fraction": 0.5}),
    "without effect": (64, {"nredo": 3, "int_centroids": True, "init_method": 1, "early_stop_threshold": 0.9}),
    "no iterations": (64, {"niter": 0}),
}


@pytest.mark.parametrize("name", SUPER)
@settings(max_examples=2)
@given(seed=st.integers(0, 10000))
def test_super_kmeans(name, seed):
    d, parameters = SUPER[name]
    x = unit(data(800, seed, d))
    theirs, ours = (super_clustered(faiss, x, 30, seed=seed, **parameters) for faiss in MODULES)
    np.testing.assert_allclose(table(tsscompat, ours), table(oracle, theirs), rtol=1e-3, atol=1e-4)
    rates = [faiss.vector_to_array(clus.gemm_pruning_rates) for faiss, clus in zip(MODULES, (theirs, ours))]
    np.testing.assert_allclose(rates[1], rates[0], atol=2e-4)
    np.testing.assert_allclose(stats(ours, "obj"), stats(theirs, "obj"), rtol=1e-4)
    assert stats(ours, "nsplit") == stats(theirs, "nsplit") and np.isnan(stats(ours, "imbalance_factor")).all()


def test_the_super_kmeans_front():
    found = []
    for faiss in MODULES:
        km = faiss.SuperKmeans(64, 20, niter=4, seed=3)
        assert km.train(data(900, d=64)) == km.obj[-1]
        found.append((km.centroids, km.obj, km.gemm_pruning_rates, *km.assign(data(40, seed=2, d=64))))
    for theirs, ours in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@given(d=st.integers(2, 200), part=st.floats(0.01, 0.99))
def test_thresholds(d, part):
    theirs, ours = (faiss.vector_to_array(faiss.precompute_ad_thresholds(d, part)) for faiss in MODULES)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@given(n=st.integers(1, 60), k=st.integers(1, 40), d_prime=st.integers(1, 31), seed=st.integers(0, 1000), far=st.booleans())
def test_a_pruned_assignment(n, k, d_prime, seed, far):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 32)).astype(np.float32), rng.standard_normal((k, 32)).astype(np.float32)
    bounds = oracle.vector_to_array(oracle.precompute_ad_thresholds(32, 1 / 32))
    found = []
    for faiss in MODULES:
        owner = np.zeros(n, dtype=np.int32)
        tau = np.full(n, 1e30, dtype=np.float32) if far else np.square(x - y[0]).sum(1)
        counts = faiss.super_kmeans_assign_iteration(x, y, tau, owner, d_prime, bounds, faiss.SuperKMeansParameters())
        found.append((tau, owner, counts))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4)
    np.testing.assert_array_equal(found[1][1], found[0][1])
    assert found[1][2] == found[0][2]


@pytest.mark.parametrize("metric", ["METRIC_L2", "METRIC_INNER_PRODUCT"])
def test_ivf_trains_with_super_kmeans(metric):
    found = []
    for faiss in MODULES:
        quantizer = faiss.IndexFlat(64, getattr(faiss, metric))
        index = faiss.IndexIVFFlat(quantizer, 64, 20, getattr(faiss, metric))
        index.cp.use_super_kmeans, index.cp.niter = True, 4
        index.train(unit(data(900, d=64)))
        found.append(quantizer.reconstruct_n(0, 20))
        index.cp.use_super_kmeans, index.clustering_index = True, faiss.IndexFlatL2(64)
        quantizer.reset()
        with pytest.raises(RuntimeError):
            index.train(data(900, d=64))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_as_many_samples_as_clusters():
    """A sample of k points is not looked at: the first k points become the centroids."""
    assert_same(data(50), max_points_per_centroid=1)


def test_no_run_of_kmeans_is_refused():
    for faiss in MODULES:
        with pytest.raises(ValueError):
            faiss.Kmeans(D, K, nredo=0).train(data())
