"""Product and scalar quantizers: tables, codes and decoded vectors are FAISS's, from the same data or the same tables."""

from __future__ import annotations

import faiss as oracle
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tsscompat

D = 12
MODULES = (oracle, tsscompat)


def data(n: int = 900, seed: int = 1, d: int = D) -> np.ndarray:
    """Clusters well apart, more or less wide."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(6).standard_normal((14, d)) * 3
    return (centres[rng.integers(14, size=n)] + rng.standard_normal((n, d)) * 0.7).astype(np.float32)


def array(faiss, vector) -> np.ndarray:
    return faiss.vector_to_array(vector)


def pair(M: int, nbits: int, d: int = D, seed: int = 0):
    """FAISS's product quantizer and ours with the same random centroids."""
    made = [faiss.ProductQuantizer(d, M, nbits) for faiss in MODULES]
    table = np.random.default_rng(seed).standard_normal(d << nbits).astype(np.float32)
    for faiss, pq in zip(MODULES, made):
        faiss.copy_array_to_vector(table, pq.centroids)
    return made


def trained(faiss, M: int, nbits: int, x, kind: str = "default", **cp):
    pq = faiss.ProductQuantizer(x.shape[1], M, nbits)
    pq.train_type = getattr(pq, f"Train_{kind}")
    for name, value in cp.items():
        setattr(pq.cp, name, value)
    if kind == "hot_start":
        faiss.copy_array_to_vector(np.random.default_rng(3).standard_normal(x.shape[1] << nbits).astype("f4"), pq.centroids)
    pq.train(x)
    return pq


# -- product quantizers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["default", "hot_start", "shared", "hypercube", "hypercube_pca"])
@pytest.mark.parametrize("nbits", [2, 3])
def test_training_finds_faiss_s_centroids(kind, nbits):
    theirs, ours = (trained(faiss, 3, nbits, data(), kind, niter=5) for faiss in MODULES)
    expected, got = array(oracle, theirs.centroids), array(tsscompat, ours.centroids)
    if kind == "hypercube_pca":
        # The axes' signs are free, and with them the order of the corners.
        assert reconstruction_error(ours) == pytest.approx(reconstruction_error(theirs), rel=0.05)
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def reconstruction_error(pq) -> float:
    x = data(400, 9)
    return float(np.square(pq.decode(pq.compute_codes(x)) - x).mean())


def test_a_hypercube_needs_dimensions():
    theirs, ours = (trained(faiss, 6, 4, data(), "hypercube", niter=3) for faiss in MODULES)
    np.testing.assert_allclose(array(tsscompat, ours.centroids), array(oracle, theirs.centroids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("nbits", range(1, 17))
@settings(max_examples=5)
@given(M=st.integers(1, 5), dsub=st.integers(1, 3), seed=st.integers(0, 1000), n=st.integers(0, 40))
def test_codes_of_the_same_tables(nbits, M, dsub, seed, n):
    theirs, ours = pair(M, nbits, M * dsub, seed)
    assert (ours.code_size, ours.dsub, ours.ksub) == (theirs.code_size, theirs.dsub, theirs.ksub)
    x = np.random.default_rng(seed + 1).standard_normal((n, M * dsub)).astype(np.float32)
    expected, got = theirs.compute_codes(x), ours.compute_codes(x)
    assert got.dtype == np.uint8 and got.shape == expected.shape
    # Where a point is nearly as close to another centroid, rounding may choose that.
    np.testing.assert_allclose(
        np.square(theirs.decode(got) - x).sum(1), np.square(theirs.decode(expected) - x).sum(1), rtol=1e-4, atol=1e-5
    )
    assert (got == expected).all(1).mean() > 0.9 if n else True
    np.testing.assert_array_equal(ours.decode(expected), theirs.decode(expected))


@given(M=st.sampled_from([1, 2, 3, 4, 6, 12]), nbits=st.integers(1, 10), n=st.integers(1, 30), seed=st.integers(0, 1000))
def test_distance_tables(M, nbits, n, seed):
    # Two numbers a part: FAISS takes multiples of 8 centroids only.
    assume(M != 6 or nbits >= 3)
    x, found = data(n, seed), []
    for faiss, pq in zip(MODULES, pair(M, nbits)):
        tables = [np.empty((n, M, pq.ksub), dtype=np.float32) for _ in range(2)]
        pq.compute_distance_tables(n, faiss.swig_ptr(x), faiss.swig_ptr(tables[0]))
        pq.compute_inner_prod_tables(n, faiss.swig_ptr(x), faiss.swig_ptr(tables[1]))
        single = [np.empty((M, pq.ksub), dtype=np.float32) for _ in range(2)]
        pq.compute_distance_table(faiss.swig_ptr(x), faiss.swig_ptr(single[0]))
        pq.compute_inner_prod_table(faiss.swig_ptr(x), faiss.swig_ptr(single[1]))
        code = np.empty(pq.code_size, dtype=np.uint8)
        pq.compute_code_from_distance_table(faiss.swig_ptr(tables[0]), faiss.swig_ptr(code))
        pq.sync_transposed_centroids()
        transposed = [array(faiss, pq.transposed_centroids), array(faiss, pq.centroids_sq_lengths)]
        pq.clear_transposed_centroids()
        assert pq.transposed_centroids.size() == 0
        found.append([*tables, *single, *transposed, code])
    for theirs, ours in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found[1][-1], found[0][-1])


def test_a_code_from_a_table_of_nothing_near():
    codes = []
    for faiss, pq in zip(MODULES, pair(3, 4)):
        table = np.stack([np.full(16, np.nan), np.full(16, 1e21), np.arange(16) % 15 + 1]).astype(np.float32)
        table[2, 7] = np.nan
        code = np.empty(2, dtype=np.uint8)
        pq.compute_code_from_distance_table(faiss.swig_ptr(table), faiss.swig_ptr(code))
        codes.append(code)
    np.testing.assert_array_equal(*codes)


def heap(faiss, kind: str, nh: int, k: int):
    values, ids = np.empty((nh, k), dtype=np.float32), np.empty((nh, k), dtype=np.int64)
    held = getattr(faiss, f"float_{kind}heap_array_t")()
    held.nh, held.k, held.val, held.ids = nh, k, faiss.swig_ptr(values), faiss.swig_ptr(ids)
    return held, values, ids


@pytest.mark.parametrize("method", ["search", "search_ip", "search_sdc"])
@given(n=st.integers(1, 80), k=st.integers(1, 9), seed=st.integers(0, 1000))
def test_search_in_codes(method, n, k, seed):
    rng = np.random.default_rng(seed)
    codes, queries = rng.integers(0, 256, (n, 4), dtype=np.uint8), rng.integers(0, 256, (5, 4), dtype=np.uint8)
    found = []
    for faiss, pq in zip(MODULES, pair(4, 8)):
        held, values, ids = heap(faiss, "min" if method == "search_ip" else "max", 5, k)
        given_queries = queries
        if method == "search_sdc":
            pq.compute_sdc_table()
            assert pq.sdc_table.size() == 4 * 256 * 256
        else:
            given_queries = data(5, seed)
        getattr(pq, method)(faiss.swig_ptr(given_queries), 5, faiss.swig_ptr(codes), n, held)
        found.append((values, ids))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-3, atol=1e-3)
    assert (found[1][1] == found[0][1]).mean() > 0.9


def test_a_heap_that_is_gone_on_with():
    x, codes = data(5), np.random.default_rng(2).integers(0, 256, (60, 4), dtype=np.uint8)
    pq = pair(4, 8)[1]
    whole, parts = heap(tsscompat, "max", 5, 7), heap(tsscompat, "max", 5, 7)
    pq.search(tsscompat.swig_ptr(x), 5, tsscompat.swig_ptr(codes), 60, whole[0])
    pq.search(tsscompat.swig_ptr(x), 5, tsscompat.swig_ptr(codes[:25]), 25, parts[0])
    pq.search(tsscompat.swig_ptr(x), 5, tsscompat.swig_ptr(codes[25:]), 35, parts[0], False)
    np.testing.assert_array_equal(parts[1], whole[1])


def test_assignment_by_an_index():
    x, codes = data(), []
    for faiss, pq in zip(MODULES, pair(3, 4)):
        index = faiss.IndexFlatL2(4)
        pq.assign_index = index
        out = np.empty((len(x), pq.code_size), dtype=np.uint8)
        pq.compute_codes_with_assign_index(faiss.swig_ptr(x), faiss.swig_ptr(out), len(x))
        codes.append(out)
    assert (codes[1] == codes[0]).mean() > 0.99
    np.testing.assert_array_equal(codes[1], pair(3, 4)[1].compute_codes(x))


REFUSED = {
    "parts that do not divide": lambda faiss: faiss.ProductQuantizer(10, 3, 8),
    "25 bits": lambda faiss: faiss.ProductQuantizer(4, 2, 25),
    "no table": lambda faiss: faiss.ProductQuantizer(8, 2, 8).search_sdc(None, 0, None, 0, heap(faiss, "max", 1, 1)[0]),
    "fewer points than centroids": lambda faiss: faiss.ProductQuantizer(D, 3, 8).train(data(100)),
    "ranking by 4 bits": lambda faiss: polysemous(faiss, 4, optimization_type=2, n_iter=2),
    "little memory": lambda faiss: polysemous(faiss, 4, max_memory=100),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(faiss, name):
    with pytest.raises(RuntimeError):
        REFUSED[name](faiss)


def test_codes_of_another_size_are_refused(faiss):
    pq = faiss.ProductQuantizer(D, 3, 8)
    for attempt in (lambda: pq.decode(np.zeros((2, 4), dtype=np.uint8)), lambda: pq.compute_codes(data(2, d=D + 1))):
        with pytest.raises(AssertionError):
            attempt()


# -- polysemous training ----------------------------------------------------------------------------------------------------------


def centroids(nbits: int) -> np.ndarray:
    pq = pair(2, nbits)[1]
    return array(tsscompat, pq.centroids)


def polysemous(faiss, nbits: int, n: int = 0, **fields):
    pq = pair(2, nbits)[MODULES.index(faiss)]
    training = faiss.PolysemousTraining()
    for name, value in fields.items():
        setattr(training, name, value)
    x = data(n or 1)
    training.optimize_pq_for_hamming(pq, n, faiss.swig_ptr(x))
    return array(faiss, pq.centroids).copy(), array(faiss, pq.sdc_table)


@given(
    # With fewer bits FAISS wants one Hamming distance for all, and rounding decides.
    nbits=st.integers(4, 7),
    n_iter=st.integers(0, 400),
    n_redo=st.integers(1, 3),
    seed=st.integers(0, 1000),
    only_bit_flips=st.booleans(),
    init_random=st.booleans(),
    init_temperature=st.floats(0, 1),
    dis_weight_factor=st.floats(0.1, 2),
)
def test_numbering_by_distance(nbits, **fields):
    theirs, ours = (polysemous(faiss, nbits, **fields) for faiss in MODULES)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "flips"), [(0, False), (60, False), (60, True)])
def test_numbering_by_order(n, flips):
    theirs, ours = (polysemous(faiss, 8, n, optimization_type=2, n_iter=15, n_redo=2, only_bit_flips=flips) for faiss in MODULES)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert not np.array_equal(ours[0], centroids(8))


def test_no_numbering_makes_the_table_only(faiss):
    table, sdc = polysemous(faiss, 4, optimization_type=faiss.PolysemousTraining.OT_None)
    np.testing.assert_array_equal(table, centroids(4))
    parts = table.reshape(2, 16, 6)
    expected = np.square(parts[:, :, None] - parts[:, None]).sum(-1)
    np.testing.assert_allclose(sdc.reshape(2, 16, 16), expected, rtol=1e-4, atol=1e-4)


# -- scalar quantizers ------------------------------------------------------------------------------------------------------------

TYPES = [name for name in vars(oracle.ScalarQuantizer) if name.startswith("QT_") and name != "QT_count"]
# Codes of a random rotation of the whole vector.
ROTATED = {name for name in TYPES if name.endswith(("_tq", "_eden")) or name == "QT_0bit"}
PLAIN = [name for name in TYPES if name not in ROTATED]


def numbers(name: str, n: int, seed: int, d: int) -> np.ndarray:
    x = data(n, seed, d)
    if name.startswith("QT_8bit_direct"):
        return np.clip(
            np.round(x * 8 + (0 if name.endswith("signed") else 128)), *((-128, 127) if name.endswith("signed") else (0, 255))
        )
    return x / np.linalg.norm(x, axis=1, keepdims=True) if "tqmse" in name else x


@pytest.fixture
def one_thread():
    """FAISS's threads share the two numbers that they train a dimension's range into."""
    before = oracle.omp_get_max_threads()
    oracle.omp_set_num_threads(1)
    yield
    oracle.omp_set_num_threads(before)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.usefixtures("one_thread")
@settings(max_examples=8)
@given(d=st.sampled_from([3, 8, 16, 24]), seed=st.integers(0, 1000), rangestat=st.integers(0, 3))
def test_scalar_codes(name, d, seed, rangestat):
    x, fresh = numbers(name, 300, seed, d), numbers(name, 40, seed + 1, d)
    made = []
    for faiss in MODULES:
        sq = faiss.ScalarQuantizer(d, getattr(faiss.ScalarQuantizer, name))
        sq.rangestat, sq.rangestat_arg = rangestat, [0.1, 2.0, 0.02, 3.0][rangestat]
        sq.train(x)
        made.append(sq)
    theirs, ours = made
    assert (ours.code_size, ours.bits) == (theirs.code_size, theirs.bits)
    table = array(oracle, theirs.trained)
    np.testing.assert_allclose(array(tsscompat, ours.trained), table, rtol=1e-3, atol=1e-3)
    # From here on with the same table: the rest is exact but for a number that lies between two codes.
    tsscompat.copy_array_to_vector(table, ours.trained)
    expected, got = theirs.compute_codes(fresh), ours.compute_codes(fresh)
    assert (got == expected).mean() > 0.99
    np.testing.assert_allclose(ours.decode(expected), theirs.decode(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_sizes_of_every_type(name):
    theirs, ours = (faiss.ScalarQuantizer(D, getattr(faiss.ScalarQuantizer, name)) for faiss in MODULES)
    assert ours.qtype == theirs.qtype
    assert (ours.code_size, ours.bits) == (theirs.code_size, theirs.bits)


@pytest.mark.parametrize("module", MODULES)
def test_product_codes_refuse_the_parameters_of_other_indexes(module):
    index = module.IndexPQ(D, 3, 4)
    index.train(data())
    index.add(data(50))
    for params in (module.SearchParametersHNSW(efSearch=5), module.SearchParametersIVF(nprobe=2)):
        with pytest.raises(RuntimeError):
            index.search(data(3), 2, params=params)
    assert index.search(data(3), 2, params=module.SearchParametersPQ())[1].shape == (3, 2)
