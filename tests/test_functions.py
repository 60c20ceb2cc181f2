"""Functions on arrays: FAISS's answers, in the caller's kind of array; and its C signatures on what swig_ptr gives."""

from __future__ import annotations

from itertools import pairwise

import faiss as real
import numpy as np
import pytest
import torch
from compare import assert_same_neighbours, assert_same_ranges
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat

METRICS = [
    "L2",
    "INNER_PRODUCT",
    "L1",
    "Linf",
    "Lp",
    "Canberra",
    "BrayCurtis",
    "JensenShannon",
    "Jaccard",
    "NaNEuclidean",
    "GOWER",
]


@pytest.fixture(scope="module")
def oracle():
    return pytest.importorskip("faiss")


def positive(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((n, d), dtype=np.float32)


def whole(n: int, d: int, seed: int, high: int = 4) -> np.ndarray:
    """Few distinct distances, so that ties are everywhere."""
    return np.random.default_rng(seed).integers(0, high, (n, d)).astype(np.float32)


@pytest.mark.parametrize("name", METRICS)
@given(nq=st.integers(0, 40), nb=st.integers(1, 60), d=st.integers(1, 20), k=st.integers(1, 70), seed=st.integers(0, 99))
def test_knn_and_pairwise_distances(oracle, name, nq, nb, d, k, seed):
    xq, xb = positive(nq, d, seed), positive(nb, d, seed + 1)
    metric, arg = getattr(oracle, f"METRIC_{name}"), 1.5 if name == "Lp" else 0.0
    assert_same_neighbours(oracle.knn(xq, xb, k, metric, arg), tsscompat.knn(xq, xb, k, metric, arg))
    expected = oracle.pairwise_distances(xq, xb, metric, arg)
    np.testing.assert_allclose(tsscompat.pairwise_distances(xq, xb, metric, arg), expected, rtol=1e-4, atol=1e-5)


@given(nq=st.integers(1, 30), nb=st.integers(1, 80), k=st.integers(1, 12), seed=st.integers(0, 99), largest=st.booleans())
def test_ties_are_faiss_ties(oracle, nq, nb, k, seed, largest):
    xq, xb = whole(nq, 3, seed), whole(nb, 3, seed + 1)
    metric = oracle.METRIC_INNER_PRODUCT if largest else oracle.METRIC_L2
    expected, got = oracle.knn(xq, xb, k, metric), tsscompat.knn(xq, xb, k, metric)
    np.testing.assert_array_equal(got[0], expected[0])
    # With a reservoir or in blocks FAISS may keep another of the tied ids: those that are kept must have the distance they claim.
    every = tsscompat.pairwise_distances(xq, xb, metric)
    rows, columns = np.nonzero(got[1] >= 0)
    np.testing.assert_array_equal(every[rows, got[1][rows, columns]], got[0][rows, columns])


def test_other_kinds_of_arrays():
    xq, xb = positive(5, 8, 0), positive(40, 8, 1)
    expected = tsscompat.knn(xq, xb, 3)
    for convert in (
        lambda x: x.astype(np.float64),
        np.asfortranarray,
        lambda x: x.tolist(),
        lambda x: np.repeat(x, 2, axis=0)[::2],
    ):
        np.testing.assert_array_equal(tsscompat.knn(convert(xq), convert(xb), 3)[1], expected[1])
    distances, labels = tsscompat.knn(torch.from_numpy(xq), torch.from_numpy(xb), 3)
    assert isinstance(distances, torch.Tensor) and torch.equal(labels, torch.from_numpy(expected[1]))


def test_wrong_shapes_and_metrics(faiss):
    xq, xb = positive(5, 8, 0), positive(40, 7, 1)
    for call in (faiss.knn, faiss.pairwise_distances):
        with pytest.raises(AssertionError):
            call(xq, xb, 3) if call is faiss.knn else call(xq, xb)
    with pytest.raises(RuntimeError):
        faiss.knn(xq, xq, 3, 77)


@given(n=st.integers(0, 30), d=st.integers(1, 70), seed=st.integers(0, 99))
def test_normalize(oracle, n, d, seed):
    x = positive(n, d, seed)
    x[::3] = 0
    expected, got, tensor = x.copy(), x.copy(), torch.from_numpy(x.copy())
    oracle.normalize_L2(expected)
    tsscompat.normalize_L2(got)
    tsscompat.normalize_L2(tensor)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_normalize_refuses_what_it_could_not_change(faiss):
    for wrong in (positive(3, 4, 0).astype(np.float64), positive(3, 4, 0).T):
        with pytest.raises((TypeError, ValueError)):
            faiss.normalize_L2(wrong)


@settings(max_examples=10)
@given(n=st.integers(1, 300), d=st.integers(1, 9), seed=st.integers(-5, 2**31), vmax=st.integers(1, 2**40))
def test_random_arrays_are_faiss_streams(oracle, n, d, seed, vmax):
    for name in ("rand", "randn", "randint"):
        expected = getattr(oracle, name)((n, d), seed)
        got = getattr(tsscompat, name)((n, d), seed)
        assert got.dtype == expected.dtype and np.array_equal(got, expected), name
    np.testing.assert_array_equal(tsscompat.randint(n, seed, vmax), oracle.randint(n, seed, vmax))
    smooth = oracle.rand_smooth_vectors(n, d, seed)
    np.testing.assert_allclose(tsscompat.rand_smooth_vectors(n, d, seed), smooth, atol=2e-5)


@given(nq=st.integers(1, 6), k=st.integers(1, 8), parts=st.integers(1, 4), keep_max=st.booleans(), seed=st.integers(0, 99))
def test_results_in_parts(oracle, nq, k, parts, keep_max, seed):
    random = np.random.default_rng(seed)
    D = np.sort(random.integers(0, 6, (parts, nq, k)).astype(np.float32), axis=2)
    D = D[:, :, ::-1].copy() if keep_max else D
    names = random.permutation(parts * nq * k).reshape(parts, nq, k).astype(np.int64)
    I = names.copy()
    ends = random.integers(0, k + 1, (parts, nq))
    I[np.arange(k) >= ends[:, :, None]] = -1
    for got, expected in zip(tsscompat.merge_knn_results(D, I, keep_max), oracle.merge_knn_results(D, I, keep_max)):
        np.testing.assert_array_equal(got, expected)

    def heap(faiss):
        held = faiss.ResultHeap(nq, k, keep_max=keep_max)
        for part in range(parts):
            held.add_result(D[part], names[part])
        held.add_result_subset(np.array([0]), D[0, :1] + 0.5, np.arange(k) + 100_000)
        held.finalize()
        return held.D, held.I

    assert_same_neighbours(heap(oracle), heap(tsscompat))


@given(n=st.integers(1, 9), m=st.integers(1, 30), k=st.integers(1, 35), seed=st.integers(0, 99))
def test_extremes(oracle, n, m, k, seed):
    table = whole(n, m, seed, 1000)
    table[0, 0] = np.nan
    for name in ("kmin", "kmax"):
        assert_same_neighbours(getattr(oracle, name)(table, k), getattr(tsscompat, name)(table, k))


@given(n=st.integers(1, 60), columns=st.integers(1, 5), buckets=st.integers(1, 20), seed=st.integers(0, 99))
def test_buckets(oracle, n, columns, buckets, seed):
    table = np.random.default_rng(seed).integers(0, buckets, (n, columns))
    for nbucket in (None, buckets):
        expected, got = oracle.bucket_sort(table[:, 0], nbucket), tsscompat.bucket_sort(table[:, 0], nbucket)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
    for dtype in (np.int32, np.int64) if buckets < table.size else ():  # FAISS wants fewer buckets than numbers here
        a, b = table.astype(dtype), table.astype(dtype)
        limits = tsscompat.matrix_bucket_sort_inplace(a)
        np.testing.assert_array_equal(limits, oracle.matrix_bucket_sort_inplace(b))
        for lo, hi in pairwise(limits):
            np.testing.assert_array_equal(np.sort(a.ravel()[lo:hi]), np.sort(b.ravel()[lo:hi]))


@given(n=st.integers(1, 9), k1=st.integers(1, 9), k2=st.integers(1, 9), seed=st.integers(0, 99))
def test_intersections(oracle, n, k1, k2, seed):
    random = np.random.default_rng(seed)
    a, b = random.integers(-1, 12, (n, k1)), random.integers(-1, 12, (n, k2))
    assert tsscompat.eval_intersection(a, b) == oracle.eval_intersection(a, b)


@given(rows=st.integers(1, 5), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_checksums(oracle, rows, width, seed):
    raw = np.random.default_rng(seed).integers(0, 256, (rows, width)).astype(np.uint8)
    np.testing.assert_array_equal(tsscompat.checksum(raw), oracle.checksum(raw))
    assert tsscompat.checksum(raw[0]) == oracle.checksum(raw[0])
    floats = positive(rows, width, seed)
    np.testing.assert_array_equal(tsscompat.checksum(floats), oracle.checksum(floats))


@given(n=st.integers(1, 40), seed=st.integers(0, 99))
def test_maps_of_ids(oracle, n, seed):
    random = np.random.default_rng(seed)
    keys, values, asked = random.permutation(50)[:n], random.integers(0, 99, n), np.arange(60)

    def maps(faiss):
        small, large = faiss.MapInt64ToInt64(1024), faiss.MapLong2Long()
        for held in (small, large):
            held.add(keys, values)
            held.add(keys[::2].copy(), values[::2] + 100)
        return small.lookup(asked), large.search_multiple(asked), [large.search(int(i)) for i in asked[:5]]

    for got, expected in zip(maps(tsscompat), maps(oracle)):
        np.testing.assert_array_equal(got, expected)


def test_a_full_map_says_so(faiss):
    held = faiss.MapInt64ToInt64(4)
    with pytest.raises(RuntimeError, match="capacity"):
        held.add(np.arange(5), np.arange(5))


@given(n=st.integers(1, 30), d=st.integers(1, 12), seed=st.integers(0, 99))
def test_statistics_of_a_matrix(oracle, n, d, seed):
    x = whole(n, d, seed, 3)
    got, expected = tsscompat.MatrixStats(x), oracle.MatrixStats(x)
    for name in ("n", "d", "hash_value", "n_collision", "n_valid", "n0", "max_norm2"):
        assert getattr(got, name) == pytest.approx(getattr(expected, name)), name


def c_calls(faiss, x: np.ndarray, y: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """What FAISS's C signatures write, by name."""
    (nx, d), ny, p = x.shape, len(y), faiss.swig_ptr
    names = np.random.default_rng(0).integers(0, ny, (nx, 4))
    out: dict[str, np.ndarray] = {}

    def table(name: str, *shape: int, dtype=np.float32) -> np.ndarray:
        out[name] = np.zeros(shape, dtype=dtype)
        return out[name]

    faiss.pairwise_L2sqr(d, nx, p(x), ny, p(y), p(table("pairs", nx, ny)))
    faiss.fvec_L2sqr_ny(p(table("l2", ny)), p(x[0]), p(y), d, ny)
    faiss.fvec_inner_products_ny(p(table("ip", ny)), p(x[0]), p(y), d, ny)
    faiss.fvec_norms_L2(p(table("norms", ny)), p(y), d, ny)
    faiss.fvec_norms_L2sqr(p(table("squares", ny)), p(y), d, ny)
    faiss.fvec_madd(d, p(x[0]), 0.5, p(y[0]), p(table("madd", d)))
    faiss.fvec_add(d, p(x[0]), p(y[0]), p(table("sum", d)))
    faiss.fvec_sub(d, p(x[0]), p(y[0]), p(table("difference", d)))
    faiss.fvec_L2sqr_by_idx(p(table("l2 by id", nx, 4)), p(x), p(y), p(names), d, nx, 4)
    faiss.fvec_inner_products_by_idx(p(table("ip by id", nx, 4)), p(x), p(y), p(names), d, nx, 4)
    at_x, at_y = np.arange(nx) % nx, names[:, 0].copy()
    faiss.pairwise_indexed_L2sqr(d, nx, p(x), p(at_x), p(y), p(at_y), p(table("l2 of pairs", nx)))
    faiss.pairwise_indexed_inner_product(d, nx, p(x), p(at_x), p(y), p(at_y), p(table("ip of pairs", nx)))
    faiss.knn_L2sqr(p(x), p(y), d, nx, ny, k, p(table("knn", nx, k)), p(table("knn ids", nx, k, dtype=np.int64)))
    faiss.knn_inner_product(p(x), p(y), d, nx, ny, k, p(table("mips", nx, k)), p(table("mips ids", nx, k, dtype=np.int64)))
    numbers = [faiss.fvec_L2sqr, faiss.fvec_inner_product, faiss.fvec_L1, faiss.fvec_Linf]
    out["of two"] = np.array([f(p(x[0]), p(y[0]), d) for f in numbers] + [faiss.fvec_norm_L2sqr(p(y[0]), d)])
    return out


@given(nx=st.integers(1, 9), ny=st.integers(3, 40), d=st.integers(1, 33), seed=st.integers(0, 99))
def test_c_signatures(oracle, nx, ny, d, seed):
    x, y = positive(nx, d, seed), positive(ny, d, seed + 1)
    expected, got = c_calls(oracle, x, y, 3), c_calls(tsscompat, x, y, 3)
    for name, table in expected.items():
        np.testing.assert_allclose(got[name], table, rtol=1e-4, atol=1e-5, err_msg=name)


@given(nx=st.integers(1, 9), ny=st.integers(1, 40), radius=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_range_searches_on_pointers(oracle, nx, ny, radius, seed):
    x, y = positive(nx, 6, seed), positive(ny, 6, seed + 1)

    def search(faiss, name: str):
        result = faiss.RangeSearchResult(nx)
        getattr(faiss, name)(faiss.swig_ptr(x), faiss.swig_ptr(y), 6, nx, ny, radius, result)
        limits = faiss.rev_swig_ptr(result.lims, nx + 1).copy()
        total = int(limits[-1])
        return limits, faiss.rev_swig_ptr(result.distances, total).copy(), faiss.rev_swig_ptr(result.labels, total).copy()

    for name in ("range_search_L2sqr", "range_search_inner_product"):
        assert_same_ranges(search(oracle, name), search(tsscompat, name), radius)


def test_addresses():
    x = torch.arange(6, dtype=torch.float32)
    pointer = tsscompat.cast_integer_to_float_ptr(x.data_ptr())
    np.testing.assert_array_equal(tsscompat.rev_swig_ptr(pointer, 6), x.numpy())
    assert tsscompat.fvec_norm_L2sqr(pointer + 1, 2) == 1 + 4


def test_search_on_a_virtual_gpu(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "1")
    xq, xb = positive(5, 8, 0), positive(40, 8, 1)
    res = tsscompat.StandardGpuResources()
    expected = tsscompat.knn(xq, xb, 3)
    D, I = np.empty((5, 3), np.float32), np.empty((5, 3), np.int32)
    got = tsscompat.knn_gpu(res, xq.astype(np.float16), np.asfortranarray(xb), 3, D=D, I=I)
    assert got[0] is D and got[1] is I
    np.testing.assert_allclose(D, expected[0], atol=1e-2)
    np.testing.assert_array_equal(I[:, 0], expected[1][:, 0])
    np.testing.assert_allclose(tsscompat.pairwise_distance_gpu(res, xq, xb), tsscompat.pairwise_distances(xq, xb), rtol=1e-6)
    with pytest.raises(TypeError):
        tsscompat.knn_gpu(res, xq.astype(np.int32), xb, 3)
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "0")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError):
            tsscompat.knn_gpu(res, xq, xb, 3)


def test_threads_and_versions(faiss):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    assert faiss.omp_get_max_threads() == 1
    faiss.omp_set_num_threads(before)
    assert faiss.get_mem_usage_kb() > 1000
    assert faiss.SIMDConfig.is_simd_level_available(faiss.SIMDConfig.get_level())
    assert isinstance(faiss.get_compile_options(), str) and faiss.FAISS_VERSION_MAJOR == 1


def test_a_timeout_stops_training(faiss):
    x = positive(20_000, 64, 0)
    kmeans = faiss.Clustering(64, 2000)
    kmeans.niter = 1_000_000
    with pytest.raises(RuntimeError), faiss.TimeoutGuard(0.01):
        kmeans.train(x, faiss.IndexFlatL2(64))
    faiss.knn(x[:2], x, 3)


def test_counts_and_seeds_are_whole_numbers(faiss):
    for wrong in ((5, 1.5), (2.0, 1), (5, None)):
        for draw in (faiss.rand, faiss.randn, faiss.randint):
            with pytest.raises(TypeError):
                draw(*wrong)
    with pytest.raises(OverflowError):
        faiss.randint(5, vmax=-5)
    with pytest.raises(TypeError):
        faiss.randint(5, vmax=1.5)
    with pytest.raises(ValueError):
        faiss.rand(-1)


def test_ids_below_zero_are_beyond_everything(faiss):
    p, x, y, names = faiss.swig_ptr, positive(1, 3, 0), positive(2, 3, 1), np.array([[1, -1]])
    for name, worst in (("L2sqr", np.inf), ("inner_product", -np.inf)):
        found, pairs = np.zeros((1, 2), np.float32), np.zeros(2, np.float32)
        getattr(faiss, "fvec_L2sqr_by_idx" if name == "L2sqr" else "fvec_inner_products_by_idx")(
            p(found), p(x), p(y), p(names), 3, 1, 2
        )
        at = np.zeros(2, np.int64)
        getattr(faiss, f"pairwise_indexed_{name}")(3, 2, p(x), p(at), p(y), p(names[0]), p(pairs))
        assert found[0, 1] == pairs[1] == worst and found[0, 0] == pairs[0] != worst


@pytest.mark.parametrize(
    "wrong",
    [
        {"vectors": None},
        {"queries": None},
        {"outDistances": None},
        {"outIndices": None},
        {"k": 0},
        {"dims": 0},
        {"numVectors": 0},
    ],
)
def test_what_a_search_on_a_gpu_lacks_is_said(monkeypatch, wrong):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "1")
    p, x, y = tsscompat.swig_ptr, positive(2, 5, 0), positive(9, 5, 1)
    args, distances, labels = tsscompat.GpuDistanceParams(), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int64)
    given = {"vectors": p(y), "queries": p(x), "outDistances": p(distances), "outIndices": p(labels), "k": 3, "dims": 5}
    for name, value in {**given, "numVectors": 9, "numQueries": 2, **wrong}.items():
        setattr(args, name, value)
    with pytest.raises(RuntimeError, match=next(iter(wrong))):
        tsscompat.bfKnn(tsscompat.StandardGpuResources(), args)
    with pytest.raises(AssertionError):
        tsscompat.knn_gpu(None, x, y, 3, D=distances.astype(np.float64))


def test_a_gap_that_is_no_number_is_never_the_largest():
    x = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    x[3, 0] = x[5, -1] = np.nan
    for build in (lambda f: f.IndexFlat(9, f.METRIC_Linf), lambda f: f.IndexIVFFlat(f.IndexFlatL2(9), 9, 1, f.METRIC_Linf)):
        answers = []
        for library in (real, tsscompat):
            index = build(library)
            index.train(x[10:])
            index.add(x)
            answers.append(index.search(x[:8], 4))
        np.testing.assert_array_equal(answers[1][1], answers[0][1])
        np.testing.assert_allclose(answers[1][0], answers[0][0], rtol=1e-6)


def test_numbers_beyond_64_bits_and_other_kinds_are_refused_by_type():
    for library in (real, tsscompat):
        index = library.IndexFlatL2(2)
        index.add(np.zeros((3, 2), dtype=np.float32))
        for call in (lambda: index.reconstruct(1 << 63), lambda: library.IDSelectorRange(0, 3).is_member(1 << 63)):
            with pytest.raises(OverflowError):
                call()
        for call in (lambda: index.check_compatible_for_merge(3), lambda: library.IDSelectorRange(0, 3).is_member("1")):
            with pytest.raises(TypeError):
                call()


def test_a_lowered_threshold_asks_for_products():
    """Far from the origin the product formula loses digits, in FAISS as here; who does not ask for it loses none."""
    base = np.zeros((100, 4), np.float32)
    base[:, 0] = np.arange(100) + 12345
    x, right = base[:25] + 0.3, np.arange(25)
    for library in (real, tsscompat):
        index = library.IndexFlatL2(4)
        index.add(base)
        assert (index.search(x, 1)[1][:, 0] == right).all()
        before = library.cvar.distance_compute_blas_threshold
        library.cvar.distance_compute_blas_threshold = 1
        try:
            assert not (index.search(x, 1)[1][:, 0] == right).all()
        finally:
            library.cvar.distance_compute_blas_threshold = before
        assert (index.search(x, 1)[1][:, 0] == right).all()
