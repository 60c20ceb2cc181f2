"""FAISS's functions and small methods on plain arrays: what they write and give is what FAISS's write and give."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

import tsscompat

BOTH = pytest.mark.parametrize("module", [faiss, tsscompat], ids=["faiss", "tsscompat"])
X = np.random.RandomState(0).standard_normal((90, 4)).astype(np.float32)


def same(ask, rtol: float = 1e-5) -> None:
    """The same arrays and numbers come of both modules; what is asked gets the module and its swig_ptr."""
    wanted, found = ask(faiss, faiss.swig_ptr), ask(tsscompat, tsscompat.swig_ptr)
    assert len(wanted) == len(found)
    for a, b in zip(wanted, found):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(b, a, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("name", ["fvec_argsort", "fvec_argsort_parallel"])
def test_places_in_ascending_order(name):
    def ask(module, ptr):
        places = np.zeros(90, np.uint64)
        getattr(module, name)(90, ptr(X[:, 1].copy()), ptr(places))
        return (places,)

    same(ask)


def test_counts_of_values():
    def ask(module, ptr):
        counts = np.ones(4, np.int32)
        return module.ivec_hist(6, ptr(np.array([0, 1, 1, 3, 5, -1], np.int32)), 4, ptr(counts)), counts

    same(ask)


def test_exact_means_of_numbers():
    def ask(module, ptr):
        means = np.zeros(3, np.float32)
        return module.kmeans1d(ptr(X[:, 0].copy()), 90, 3, ptr(means)), means

    same(ask)


@pytest.mark.parametrize("most", [5, 90])
def test_vectors_drawn_where_there_are_too_many(most):
    def ask(module, ptr):
        count = np.array([90], np.uint64)
        drawn = module.fvecs_maybe_subsample(4, ptr(count), most, ptr(X))
        return count, module.rev_swig_ptr(drawn, most * 4).copy()

    same(ask)


def test_orthonormal_vectors():
    def ask(module, ptr):
        vectors = X[:3].copy()
        module.matrix_qr(4, 3, ptr(vectors))
        with pytest.raises(RuntimeError):
            module.matrix_qr(2, 3, ptr(vectors))
        return (vectors,)

    same(ask)


def test_squared_distances_from_inner_products():
    def ask(module, ptr):
        table, norms = (X[:3] @ X[:5].T).copy(), (X[:5] ** 2).sum(1)
        module.inner_product_to_L2sqr(ptr(table), ptr(norms[:3].copy()), ptr(norms), 3, 5)
        return (table,)

    same(ask)


@pytest.mark.parametrize("keep_min", [True, False])
def test_merged_tables_of_results(keep_min):
    draw = np.random.RandomState(3)
    scores = [np.sort(draw.randint(-2, 9, (4, 5)).astype(np.float32), 1) for _ in range(2)]
    names = [draw.randint(-1, 9, (4, 5)) for _ in range(2)]

    def ask(module, ptr):
        labels, distances = names[0].copy(), scores[0].copy()
        taken = module.merge_result_table_with(4, 5, ptr(labels), ptr(distances), ptr(names[1]), ptr(scores[1]), keep_min, 100)
        return taken, labels, distances

    same(ask)


@pytest.mark.parametrize("name", ["knn_L2sqr_by_idx", "knn_inner_products_by_idx"])
def test_neighbours_among_named_vectors(name):
    named = np.stack([np.random.RandomState(i).permutation(90)[:10] for i in range(3)])
    named[0, 4], named[1, 3] = -1, 95  # a row ends with what is no id

    def ask(module, ptr):
        distances, labels = np.zeros((3, 5), np.float32), np.zeros((3, 5), np.int64)
        getattr(module, name)(ptr(X[:3]), ptr(X), ptr(named), 4, 3, 90, 10, 5, ptr(distances), ptr(labels), 10)
        return distances, labels

    same(ask)


@pytest.mark.parametrize("name", ["fvec_L2sqr_batch_4", "fvec_inner_product_batch_4"])
def test_four_distances(name):
    def ask(module, ptr):
        out = [np.zeros(1, np.float32) for _ in range(4)]
        getattr(module, name)(*(ptr(X[i]) for i in range(5)), 4, *map(ptr, out))
        return out

    same(ask)


def test_tags_and_places_as_numbers():
    def ask(module, ptr):
        for wrong in ("IxF", "IxFl2"):
            with pytest.raises(RuntimeError):
                module.fourcc(wrong)
        number, place = module.fourcc("IxF2"), module.lo_build(3, 5)
        printable = module.fourcc_inv_printable(0x01FF4142)
        return number, module.fourcc_inv(number), printable, place, module.lo_listno(place), module.lo_offset(place)

    same(ask)


@pytest.mark.parametrize("metric", [1, 2, 3, 20, 23])
def test_computers_of_any_metric(metric):
    x = np.abs(X)

    def ask(module, ptr):
        computer = module.get_extra_distance_computer(4, metric, 0.0, ptr(x))
        computer.set_query(ptr(x[5]))
        return computer(2), computer.symmetric_dis(1, 7)

    same(ask)
    with pytest.raises(RuntimeError):
        tsscompat.get_extra_distance_computer(4, 99, 0.0, tsscompat.swig_ptr(x))


def test_computers_of_flat_codes():
    def ask(module, ptr):
        index = module.IndexFlatL2(4)
        index.add(X)
        computer, out = index.get_FlatCodesDistanceComputer(), [np.zeros(1, np.float32) for _ in range(8)]
        computer.set_query(ptr(X[0]))
        computer.distances_batch_4(1, 2, 3, 4, *map(ptr, out[:4]))
        computer.distance_to_code_batch_4(*map(ptr, index.sa_encode(X[4:8])), *map(ptr, out[4:]))
        return computer.code_size, computer.partial_dot_product(2, 1, 2), *out

    same(ask)


def test_a_computer_of_a_scalar_quantizer():
    sq = tsscompat.ScalarQuantizer(4, tsscompat.ScalarQuantizer.QT_8bit)
    sq.train(X)
    codes = sq.compute_codes(X)
    decoded, computer = sq.decode(codes), sq.get_distance_computer(tsscompat.METRIC_INNER_PRODUCT)
    computer.set_query(tsscompat.swig_ptr(X[0]))
    assert computer.distance_to_code(tsscompat.swig_ptr(codes[3])) == pytest.approx(float(X[0] @ decoded[3]), rel=1e-5)
    computer.codes = tsscompat.swig_ptr(codes)
    assert computer(3) == computer.query_to_code(codes_at := tsscompat.swig_ptr(codes[3])) == computer.distance_to_code(codes_at)
    assert computer.symmetric_dis(1, 2) == pytest.approx(float(decoded[1] @ decoded[2]), rel=1e-5)
    for module in (faiss, tsscompat):
        quantizer = module.ScalarQuantizer(4, module.ScalarQuantizer.QT_8bit)
        with pytest.raises(RuntimeError):
            quantizer.get_distance_computer(module.METRIC_L1)


@BOTH
def test_bytes_through_readers_and_writers(module, tmp_path):
    writer = module.VectorIOWriter()
    assert writer.write_bytes(b"abc") == 3 and writer.write_bytes(bytearray(b"de")) == 2 and writer(module.swig_ptr(b"f"), 1, 1)
    assert bytes(module.vector_to_array(writer.data)) == b"abcdef"
    reader = module.VectorIOReader()
    module.copy_array_to_vector(module.vector_to_array(writer.data), reader.data)
    assert [reader.read_bytes(n) for n in (4, 10, 1)] == [b"abcd", b"ef", b""]
    with pytest.raises(RuntimeError):
        reader.filedescriptor()
    file = module.FileIOWriter(str(tmp_path / "bytes"))
    assert file.filedescriptor() > 2 and file.write_bytes(b"0123456789") == 10
    del file
    buffered = module.BufferedIOReader(module.FileIOReader(str(tmp_path / "bytes")), 4)
    assert buffered.read_bytes(7) == b"0123456"
    collected = bytearray()
    assert module.PyCallbackIOWriter(collected.extend).write_bytes(b"xyz") == 3 and collected == b"xyz"


@BOTH
def test_pointers_to_vectors_of_a_type(module):
    index, ptr = module.IndexFlatL2(4), module.swig_ptr
    distances, labels = np.zeros((1, 2), np.float32), np.zeros((1, 2), np.int64)
    index.train_ex(3, ptr(X), module.Float32)
    index.add_ex(3, ptr(X), module.Float32)
    index.search_ex(1, ptr(X), module.Float32, 2, ptr(distances), ptr(labels))
    index.train_with_queries(3, ptr(X), 2, ptr(X))
    assert index.ntotal == 3 and labels[0, 0] == 0 and distances[0, 0] == 0 < distances[0, 1]
    with pytest.raises(RuntimeError):
        index.add_ex(3, ptr(X), 9)


def test_clustering_behind_pointers():
    def ask(module, ptr):
        clustering, index = module.Clustering(4, 3), module.IndexFlatL2(4)
        clustering.niter = 3
        clustering.train_c(90, ptr(X), index)
        return (module.vector_to_array(clustering.centroids),)

    same(ask, 1e-4)


@BOTH
def test_vectors_of_objects_and_tables(module):
    assert type(module.index_factory(4, "PCA2,Flat").chain) is module.VectorTransformVector
    assert type(module.Clustering(4, 2).iteration_stats) is module.ClusteringIterationStatsVector
    first, second = module.VectorTransformVector(), module.VectorTransformVector()
    first.push_back(module.LinearTransform(2, 2))
    first.swap(second)
    assert (first.size(), second.size()) == (0, 1)
    table = module.AlignedTableUint8(5)
    assert (table.numel, table.size()) == (5, 5)
    assert [module.AlignedTableFloat32.round_capacity(n) for n in (0, 1, 256, 257, 5000)] == [0, 256, 256, 512, 8192]


@BOTH
def test_counts_clocks_and_heaps(module):
    total, more = module.HNSWStats(), module.HNSWStats()
    total.n1, more.n1 = 3, 4
    total.combine(more)
    callback = module.TimeoutCallback()
    callback.set_timeout(100.0)
    assert total.n1 == 7 and callback.timeout == 100 and not callback.want_interrupt()
    assert module.getmillisecs() > 1.7e12 and module.get_cycles() < module.get_cycles()
    values, ids = np.arange(6, dtype=np.float32), np.arange(6)
    heaps = module.float_maxheap_array_t()
    heaps.nh, heaps.k, heaps.val, heaps.ids = 2, 3, module.swig_ptr(values), module.swig_ptr(ids)
    assert module.rev_swig_ptr(heaps.get_val(1), 3).tolist() == [3, 4, 5]
    assert module.rev_swig_ptr(heaps.get_ids(1), 3).tolist() == [3, 4, 5]
