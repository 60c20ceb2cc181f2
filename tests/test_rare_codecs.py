"""Lattices, row-wise scaling, split and random indexes, Panorama: against FAISS."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import tsscompat

faiss = pytest.importorskip("faiss")


def vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    # Most of the length in the first dimensions.
    return (np.random.default_rng(seed).standard_normal((n, d)) * np.exp(-np.arange(d) / 6)).astype(np.float32)


def bytes_of(f, index) -> bytes:
    return bytes(np.asarray(f.serialize_index(index)))


# -- lattices ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "r2"), [(2, 5), (8, 5), (16, 9), (24, 14), (5, 7), (33, 6)])
def test_points_have_faiss_numbers(d, r2):
    theirs, mine = (f.ZnSphereCodecAlt(d, r2) for f in (faiss, tsscompat))
    assert (mine.nv, mine.natom, mine.code_size) == (theirs.nv, theirs.natom, theirs.code_size)
    np.testing.assert_array_equal(faiss.vector_to_array(theirs.voc), mine.voc.tensor.numpy())
    codes = np.random.default_rng(0).integers(0, theirs.nv, 40, dtype=np.uint64)
    expected, got = np.empty((40, d), np.float32), np.empty((40, d), np.float32)
    theirs.decode_multi(40, faiss.swig_ptr(codes), faiss.swig_ptr(expected))
    mine.decode_multi(40, tsscompat.swig_ptr(codes), tsscompat.swig_ptr(got))
    np.testing.assert_array_equal(expected, got)
    assert ((got**2).sum(1) == r2).all()
    again = np.empty(40, np.uint64)
    mine.encode_multi(40, tsscompat.swig_ptr(got), tsscompat.swig_ptr(again))
    np.testing.assert_array_equal(again, codes)


def test_what_is_no_point_has_no_number():
    codec = tsscompat.ZnSphereCodecRec(4, 3)
    for wrong in ([1, 1, 1, 1], [9e9, 0, 0, 0], [1, 1, 1, 0.5], [float("nan"), 0, 0, 0]):
        assert codec.encode(tsscompat.swig_ptr(np.array(wrong, np.float32))) == 2**64 - 1
    with pytest.raises(RuntimeError):
        tsscompat.ZnSphereCodecRec(6, 3)


def test_permutations_are_numbered_as_faiss_numbers_them():
    rng = np.random.default_rng(1)
    for _ in range(30):
        vector = np.floor(rng.random(12) ** 4 * 4).astype(np.float32)
        atom = np.sort(vector)
        theirs, mine = (f.Repeats(12, f.swig_ptr(atom)) for f in (faiss, tsscompat))
        code = theirs.encode(faiss.swig_ptr(vector))
        assert mine.count() == theirs.count() and mine.encode(tsscompat.swig_ptr(vector)) == code
        back = np.zeros(12, np.float32)
        mine.decode(code, tsscompat.swig_ptr(back))
        np.testing.assert_array_equal(back, vector)


@pytest.mark.parametrize("key", ["ZnLattice3x10_4", "ZnLattice6x12_7"])
def test_lattice_index_is_faiss_lattice_index(key):
    x = vectors(200, 48)
    theirs, mine = (f.index_factory(48, key) for f in (faiss, tsscompat))
    theirs.train(x)
    mine.train(x)
    codes = theirs.sa_encode(x)
    assert (mine.sa_encode(x) == codes).all(1).mean() > 0.99
    np.testing.assert_allclose(mine.sa_decode(codes), theirs.sa_decode(codes), rtol=1e-5, atol=1e-5)
    data = bytes_of(faiss, theirs)
    read = tsscompat.deserialize_index(np.frombuffer(data, np.uint8))
    assert bytes_of(tsscompat, read) == data
    mine.add(x)
    distances, labels = mine.search(x[:5], 3)
    np.testing.assert_allclose(
        distances[:, 0], ((mine.reconstruct_batch(labels[:, 0]) - x[:5]) ** 2).sum(1), rtol=1e-3, atol=1e-4
    )


def test_a_file_cannot_ask_for_a_huge_lattice():
    codec = tsscompat.index_factory(64, "ZnLattice1x10_4")
    codec.train(vectors(9, 64))
    data = bytes_of(tsscompat, codec)
    large = data[:16] + struct.pack("<i", 512) + data[20:]
    with pytest.raises(RuntimeError, match="too many"):
        tsscompat.deserialize_index(np.frombuffer(large, np.uint8))
    tsscompat.set_deserialization_lattice_r2_limit(9)
    try:
        with pytest.raises(RuntimeError, match="at most 9"):
            tsscompat.deserialize_index(np.frombuffer(data, np.uint8))
    finally:
        tsscompat.set_deserialization_lattice_r2_limit(0)


# -- row-wise scaling, split and random indexes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["MinMax,SQ8", "MinMaxFP16,SQ8", "MinMaxFP16,Flat"])
def test_rows_are_scaled_as_faiss_scales_them(key):
    x = vectors(300, 20)
    x[3] = 0.25
    theirs, mine = (f.index_factory(20, key) for f in (faiss, tsscompat))
    theirs.train(x)
    mine.train(x)
    codes = theirs.sa_encode(x)
    assert (mine.sa_encode(x) == codes).all(1).mean() > 0.98
    np.testing.assert_allclose(mine.sa_decode(codes), theirs.sa_decode(codes), atol=2e-3)
    assert bytes_of(tsscompat, tsscompat.deserialize_index(faiss.serialize_index(theirs))) == bytes_of(faiss, theirs)
    with pytest.raises(RuntimeError):
        mine.add(x)
    with pytest.raises(RuntimeError):
        mine.search(x, 1)


def test_training_in_place_leaves_the_data_but_for_rounding():
    x = vectors(300, 20)
    given = x.copy()
    mine = tsscompat.index_factory(20, "MinMaxFP16,SQ8")
    mine.train_inplace(given)
    assert (given != x).any()
    np.testing.assert_allclose(given, x, atol=5e-3)


def test_split_vectors_join_the_nearest_parts():
    x, queries, found, kept = vectors(9, 12), vectors(5, 12, 1), [], []
    for f in (faiss, tsscompat):
        index = f.IndexSplitVectors(12)
        for a in (0, 4, 8):
            part = f.IndexFlatL2(4)
            part.add(np.ascontiguousarray(x[:, a : a + 4]))
            index.add_sub_index(part)
            kept.append(part)
        found.append(index.search(queries, 1))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    with pytest.raises(RuntimeError):
        index.search(queries, 2)


def test_random_answers_are_faiss_random_answers():
    queries = vectors(6, 10)
    theirs, mine = (f.IndexRandom(10, 500) for f in (faiss, tsscompat))
    np.testing.assert_array_equal(theirs.search(queries, 7)[1], mine.search(queries, 7)[1])
    np.testing.assert_allclose(theirs.search(queries, 7)[0], mine.search(queries, 7)[0], rtol=1e-6)
    np.testing.assert_array_equal(theirs.reconstruct(3), mine.reconstruct(3))


# -- Panorama -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def panorama(f, kind: str, metric: int, x: np.ndarray):
    d = x.shape[1]
    if kind == "flat":
        index = f.IndexFlatPanorama(d, metric, 5, 64)
    else:
        quantizer = (f.IndexFlatL2 if metric == 1 else f.IndexFlatIP)(d)
        index = f.IndexIVFFlatPanorama(quantizer, d, 8, 5, metric, True, 32)
        index.nprobe = 4
        index.train(x)
    index.add(x)
    return index


@pytest.mark.parametrize("metric", [1, 0])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_as_much_is_compared_as_in_faiss(kind, metric, one_thread):
    x, queries = vectors(700, 37), vectors(9, 37, 1)
    theirs = panorama(faiss, kind, metric, x)
    mine = tsscompat.deserialize_index(faiss.serialize_index(theirs))
    assert bytes_of(tsscompat, mine) == bytes_of(faiss, theirs)
    looked = []
    for f, index in ((faiss, theirs), (tsscompat, mine)):
        f.cvar.indexPanorama_stats.reset()
        found = index.search(queries, 7)
        stats = f.cvar.indexPanorama_stats
        looked.append((found, stats.total_dims_scanned, stats.total_dims))
    np.testing.assert_array_equal(looked[0][0][1], looked[1][0][1])
    assert looked[0][2] == looked[1][2] and looked[0][1] == pytest.approx(looked[1][1], abs=5)
    assert looked[1][1] < 0.5 * looked[1][2]
    assert stats.ratio_dims_scanned == pytest.approx(looked[1][1] / looked[1][2])


@pytest.mark.parametrize("batch, n", [(1, 9), (7, 60), (64, 200)])
def test_vectors_and_lengths_are_held_in_batches_as_in_faiss(batch, n):
    x = vectors(n, 13)
    theirs, mine = (f.IndexFlatPanorama(13, 1, 4, batch) for f in (faiss, tsscompat))
    for first, last in ((0, 2), (2, n // 2), (n // 2, n)):
        theirs.add(x[first:last])
        mine.add(x[first:last])
        for name in ("codes", "cum_sums"):
            held = tsscompat.vector_to_array(getattr(mine, name))
            np.testing.assert_array_equal(held, faiss.vector_to_array(getattr(theirs, name)))
    gone = np.array([0, n // 2, n - 1])
    assert theirs.remove_ids(gone) == mine.remove_ids(gone)
    np.testing.assert_array_equal(mine.reconstruct_n(0, mine.ntotal), np.delete(x, gone, 0))
    np.testing.assert_array_equal(mine.reconstruct(3), theirs.reconstruct(3))
    other = tsscompat.IndexFlatPanorama(13, 1, 4, batch)
    other.add(x[:5])
    mine.merge_from(other, 0)
    np.testing.assert_array_equal(mine.reconstruct_n(0, mine.ntotal), np.concatenate([np.delete(x, gone, 0), x[:5]]))
    assert other.ntotal == 0 and other.codes.size() == other.cum_sums.size() == 0
    perm = np.arange(mine.ntotal)[::-1].copy()
    before = mine.reconstruct_n(0, mine.ntotal)
    mine.permute_entries(perm)
    np.testing.assert_array_equal(mine.reconstruct_n(0, mine.ntotal), before[perm])
    mine.update_vectors(np.array([1]), x[7:8])
    distances, labels = mine.search(x[7:8], 1)
    assert distances[0, 0] == 0 and mine.reconstruct(labels[0, 0]).tolist() == x[7].tolist()


def test_old_lists_have_batches_of_128():
    x, queries = vectors(700, 16), vectors(5, 16, 1)
    quantizer = faiss.IndexFlatL2(16)
    index = faiss.IndexIVFFlatPanorama(quantizer, 16, 4, 4, 1, True, 128)
    index.train(x)
    index.add(x)
    data = bytes_of(faiss, index)
    levels, lists = data.rindex(struct.pack("<QQ", 4, 128) + b"ilp2"), data.index(b"ilp2")
    numbers = lists + 4 + 24  # nlist, code_size, n_levels
    old = b"IwPn" + data[4 : levels + 8] + b"ilpn" + data[lists + 4 : numbers] + data[numbers + 8 :]
    read = tsscompat.deserialize_index(np.frombuffer(old, np.uint8))
    assert read.batch_size == 128 and bytes_of(tsscompat, read) == data
    np.testing.assert_array_equal(read.search(queries, 5)[1], index.search(queries, 5)[1])


def test_levels_refine_candidates():
    x, queries = vectors(400, 24), vectors(8, 24, 1)
    index = tsscompat.index_factory(24, "IVF4,SQ4,RefinePanorama(FlatL2Panorama6_1)")
    index.train(x)
    index.add(x)
    index.base_index.nprobe, index.k_factor = 4, 8
    exact = tsscompat.IndexFlatL2(24)
    exact.add(x)
    np.testing.assert_array_equal(index.search(queries, 4)[1], exact.search(queries, 4)[1])
    read = tsscompat.deserialize_index(tsscompat.serialize_index(index))
    assert type(read) is tsscompat.IndexRefinePanorama
    flat = tsscompat.IndexFlatL2Panorama(24, 6, 2)
    flat.add(x)
    with pytest.raises(RuntimeError, match="batches of 1"):
        flat.search_subset(8, queries, 3, np.zeros((8, 3), np.int64), 2, np.zeros((8, 2), np.float32), np.zeros((8, 2), np.int64))
    with pytest.raises(RuntimeError):
        flat.search(queries, 3)  # more than a batch


def test_a_graph_keeps_lengths():
    x = vectors(200, 20)
    theirs, mine = (f.IndexHNSWFlatPanorama(20, 8, 4) for f in (faiss, tsscompat))
    theirs.add(x)
    mine.add(x)
    np.testing.assert_array_equal(faiss.vector_to_array(theirs.cum_sums), mine.cum_sums.tensor.numpy())
    assert bytes_of(tsscompat, tsscompat.deserialize_index(faiss.serialize_index(theirs))) == bytes_of(faiss, theirs)
    assert (mine.search(x[:9], 1)[1][:, 0] == np.arange(9)).mean() > 0.8


@pytest.mark.parametrize("levels", [1, 5])
def test_a_graph_compares_less_and_answers_as_without_levels(levels):
    x, queries = (
        vectors(600, 20) * 0.7 ** np.arange(20, dtype=np.float32),
        vectors(20, 20, 1) * 0.7 ** np.arange(20, dtype=np.float32),
    )
    plain, mine = tsscompat.IndexHNSWFlat(20, 8), tsscompat.IndexHNSWFlatPanorama(20, 8, levels)
    threads = tsscompat.omp_get_max_threads()
    tsscompat.omp_set_num_threads(1)  # for the same graph
    plain.add(x)
    mine.add(x)
    tsscompat.omp_set_num_threads(threads)
    for params in (None, tsscompat.SearchParametersHNSW(efSearch=30, sel=tsscompat.IDSelectorRange(100, 400))):
        tsscompat.cvar.indexPanorama_stats.reset()
        expected, found = plain.search(queries, 5, params=params), mine.search(queries, 5, params=params)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
        stats = tsscompat.cvar.indexPanorama_stats
        assert 0 < stats.total_dims_scanned <= stats.total_dims and (stats.ratio_dims_scanned < 0.8) == (levels > 1)
