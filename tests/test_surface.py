"""Names and keywords at the edge of FAISS's surface: they do what FAISS's do, or what its stub says where its library lacks them."""

from __future__ import annotations

import inspect
import re

import faiss
import numpy as np
import pytest

import tsscompat

D = 8
BOTH = pytest.mark.parametrize("module", [faiss, tsscompat], ids=["faiss", "tsscompat"])


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).rand(n, D).astype(np.float32)


# Methods whose keywords differ, each with the reason.
OTHER_KEYWORDS = {
    r".*\.(encode_vectors|decode_vectors|add_sa_codes(_c)?|reconstruct(_n)?_c|sa_(en|de)code_c|decode_c|pack_1)": "FAISS's classes differ",
    r".*InvertedLists(Panorama)?\.(prefetch_lists|release_codes)": "nlist_in and codes_in: the headers say nlist and codes",
    r"IndexBinary(IVF)?\.(search_and_reconstruct|merge_from)": "as IndexBinary's others have it",
    r"IndexIVFSpectralHash\.replace_vt": "it takes one of three things",
    r"IndexRowwiseMinMaxBase\.train_inplace": "the Python form of it; train_inplace_c is the other",
    r"HadamardRotation\.init": "seed_in: the header says seed",
    r"ZeroCopyIOReader\.get_data_view": "it gives the view instead of filling a pointer",
    r"clone_Quantizer|kmeans_clustering|fvec_.*_by_idx": "one function under several names",
}


def keywords(function) -> list[str] | None:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return None if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found) else [p.name for p in found]


def pairs():
    for name in dir(faiss):
        theirs, ours = getattr(faiss, name), getattr(tsscompat, name, None)
        if name.startswith("_") or "SVS" in name or ours is None or not callable(theirs):
            continue
        if not inspect.isclass(theirs):
            yield name, theirs, ours
        elif inspect.isclass(ours):
            for method in vars(theirs):
                if not method.startswith("__") and callable(getattr(theirs, method)) and callable(getattr(ours, method, None)):
                    yield f"{name}.{method}", getattr(theirs, method), getattr(ours, method)


def test_keywords_are_those_of_faiss():
    different, compared = set(), 0
    for name, theirs, ours in pairs():
        wanted, have = keywords(theirs), keywords(ours)
        if wanted is None or have is None:
            continue
        compared += 1
        if any(w not in have and not re.fullmatch(r"arg\d", w) for w in wanted):
            different.add(name)
    assert compared > 1500
    unexplained = {name for name in different if not any(re.fullmatch(pattern, name) for pattern in OTHER_KEYWORDS)}
    assert not unexplained
    for pattern in OTHER_KEYWORDS:
        assert any(re.fullmatch(pattern, name) for name in different), f"{pattern} is no difference"


def test_global_variables_begin_as_in_faiss():
    for name, value in vars(tsscompat.cvar).items():
        if isinstance(value, (bool, int, float)):
            assert getattr(faiss.cvar, name) == value, name


@pytest.mark.parametrize("name", ["distance_compute_blas_threshold", "distance_compute_min_k_reservoir", "index_factory_verbose"])
def test_global_variables_of_the_stub_are_those_of_cvar(name, monkeypatch, capsys):
    monkeypatch.setattr(tsscompat.cvar, name, 5)
    assert getattr(tsscompat, name) == 5
    monkeypatch.setattr(tsscompat, name, 1)
    assert getattr(tsscompat.cvar, name) == 1
    tsscompat.index_factory(D, "Flat")
    assert ("Flat" in capsys.readouterr().out) == (name == "index_factory_verbose")


@BOTH
def test_a_mapped_vector_is_not_owned(module, tmp_path):
    index = module.IndexFlatL2(D)
    index.add(vectors(5))
    assert index.codes.is_owned and module.MaybeOwnedVectorFloat32().is_owned
    module.write_index(index, str(tmp_path / "flat"))
    mapped = module.read_index(str(tmp_path / "flat"), module.IO_FLAG_MMAP_IFC)
    assert not mapped.codes.is_owned and mapped.codes.size() == 5 * D * 4
    assert module.read_index(str(tmp_path / "flat")).codes.is_owned
    if module is tsscompat:  # FAISS's ends the process
        mapped.add(vectors(1))
        assert mapped.codes.is_owned and mapped.ntotal == 6


@BOTH
def test_a_sliding_window_tells_what_it_slides_over(module):
    index = module.index_factory(D, "IVF4,Flat")
    index.train(vectors(100))
    window = module.SlidingIndexWindow(index)
    assert (window.nlist, window.n_slice, window.index.ntotal, window.ils.nlist) == (4, 0, 0, 4)
    part = module.clone_index(index)
    part.add(vectors(10))
    window.step(part, False)
    assert (window.n_slice, window.index.ntotal, window.ils.compute_ntotal()) == (1, 10, 10)


def test_graphs_show_what_codes_their_storage():
    scalar = tsscompat.IndexHNSWSQ(D, tsscompat.ScalarQuantizer.QT_8bit, 8)
    assert scalar.sq is scalar.storage.sq and scalar.sq.qtype == faiss.ScalarQuantizer.QT_8bit
    layered = tsscompat.IndexHNSW2Level(tsscompat.IndexFlatL2(D), 4, 2, 8)
    assert layered.q1 is layered.storage.q1 and layered.q1.nlist == 4 and layered.pq is layered.storage.pq and layered.pq.M == 2
    with pytest.raises(RuntimeError, match="storage"):
        tsscompat.IndexHNSWSQ().sq  # noqa: B018 - the access is the test


def test_other_names_for_the_same():
    lsh = tsscompat.IndexLSH(D, 16)
    lsh.add(vectors(3))
    assert lsh.bytes is lsh.codes and lsh.bytes.size() == 6
    points = tsscompat.IndexLattice(D, 2, 4, 5)
    assert (points.dsub, points.r2) == (4, 5.0) == (points.dsq, points.zn_sphere_codec.r2)


@pytest.mark.parametrize("key", ["Flat", "SQ8", "PQ4x4"])
def test_codes_of_what_a_flat_index_finds(key):
    index = tsscompat.index_factory(D, key)
    x = vectors(64)
    index.train(x)
    index.add(x)
    distances, labels, codes = index.search_and_return_codes(x[:3], 70)
    expected = index.search(x[:3], 70)
    assert np.array_equal(distances, expected[0]) and np.array_equal(labels, expected[1])
    assert np.array_equal(codes[:, :64], index.sa_encode(x)[labels[:, :64]]) and (codes[:, 64:] == 255).all()
    with pytest.raises(RuntimeError, match="no lists"):
        index.search_and_return_codes(x[:3], 1, include_listnos=True)
    with pytest.raises(RuntimeError, match="search_and_return_codes"):
        tsscompat.IndexHNSWFlat(D, 8).search_and_return_codes(x[:3], 1)


@BOTH
def test_residuals_behind_pointers(module):
    x, at = vectors(6), np.array([3, 0], dtype=np.int64)
    index, queries, out = module.IndexFlatL2(D), vectors(2, 1), np.zeros((2, D), np.float32)
    index.add(x)
    index.compute_residual_n(2, *(module.swig_ptr(a) for a in (queries, out, at)))
    assert np.array_equal(out, queries - x[at])
    index.compute_residual(module.swig_ptr(queries), module.swig_ptr(out), 5)
    assert np.array_equal(out[0], queries[0] - x[5])


@BOTH
def test_the_best_of_candidates_behind_pointers(module):
    x, queries = vectors(20), vectors(2, 1)
    index, candidates = module.IndexFlatL2Panorama(D, 2, 1), np.array([[1, 7, 3, 9], [4, 2, 0, 11]], dtype=np.int64)
    index.add(x)
    distances, labels = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int64)
    given, found = module.swig_ptr(queries), (module.swig_ptr(distances), module.swig_ptr(labels))
    index.search_subset(2, given, 4, module.swig_ptr(candidates), 2, *found)
    exact = ((queries[:, None] - x[candidates]) ** 2).sum(2)
    order = np.argsort(exact, 1)[:, :2]
    assert np.array_equal(labels, np.take_along_axis(candidates, order, 1))
    np.testing.assert_allclose(distances, np.take_along_axis(exact, order, 1), rtol=1e-5)


@BOTH
def test_chains_behind_pointers(module):
    index, x = module.index_factory(D, "PCA4,Flat"), vectors(50)
    index.train(x)
    turned = module.rev_swig_ptr(index.apply_chain(3, module.swig_ptr(x[:3])), 3 * 4).reshape(3, 4).copy()
    np.testing.assert_allclose(turned, module.downcast_VectorTransform(index.chain.at(0)).apply(x[:3]), rtol=1e-5)
    back = np.zeros((3, D), np.float32)
    index.reverse_chain(3, module.swig_ptr(turned), module.swig_ptr(back))
    np.testing.assert_allclose(back, module.downcast_VectorTransform(index.chain.at(0)).reverse_transform(turned), rtol=1e-5)
    if module is tsscompat:
        assert np.array_equal(index.apply_chain(x=x[:3]), turned) and np.array_equal(index.apply_chain(x[:3]), turned)
        assert np.array_equal(index.reverse_chain(turned), back)
        index.reverse_chain(xt=turned, x=turned.repeat(2, 1))


@BOTH
def test_what_signs_are_taken_of_behind_pointers(module):
    index, x = module.IndexLSH(D, 6, False, False), vectors(3)
    pointer = index.apply_preprocess(3, module.swig_ptr(x))
    assert np.array_equal(module.rev_swig_ptr(pointer, 18).reshape(3, 6), x[:, :6])


def filled(module, factory: str, metric: str = "L2"):
    index = module.index_factory(D, factory, getattr(module, f"METRIC_{metric}"))
    index.train(vectors(300))
    index.add(vectors(300))
    return index


@BOTH
@pytest.mark.parametrize(
    "call",
    [
        lambda index, x: index.search(x, 2.5),
        lambda index, x: index.search(x, 2, D=np.empty((3, 2))),
        lambda index, x: index.search(x, 2, I=np.empty((3, 2), dtype=np.int32)),
        lambda index, x: index.search_and_reconstruct(x, 2.5),
        lambda index, x: index.reconstruct(1.5),
        lambda index, x: index.reconstruct("a"),
        lambda index, x: setattr(index, "verbose", 1),
        lambda index, x: setattr(index, "is_trained", 0),
    ],
)
def test_kinds_of_numbers_that_are_refused(module, call):
    with pytest.raises(TypeError):
        call(filled(module, "SQ8"), vectors(3, 1))


@BOTH
@pytest.mark.parametrize("factory", ["SQ8", "HNSW4,Flat", "Flat,RFlat"])
def test_a_method_that_an_index_type_lacks_is_a_missing_attribute(module, factory):
    with pytest.raises(AttributeError):
        filled(module, factory).update_vectors(np.arange(3), vectors(3, 1))


@BOTH
@pytest.mark.parametrize("factory", ["IVF4,Flat", "SQ8", "PCA4,Flat"])
def test_no_vectors_can_be_reconstructed_from_any_index(module, factory):
    index = filled(module, factory)
    for none in ([], np.empty(0, dtype=np.int64)):
        assert index.reconstruct_batch(none).shape == (0, D)
    assert index.reconstruct_n(0, 0).shape == (0, D)


@BOTH
@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_no_neighbours_cannot_be_assigned(module, factory):
    with pytest.raises(RuntimeError):
        filled(module, factory).assign(vectors(3, 1), 0)


@BOTH
@pytest.mark.parametrize("factory", ["Flat", "SQ8"])
def test_flat_codes_pay_no_heed_to_ids(module, factory):
    index = filled(module, factory)
    index.add_sa_codes(index.sa_encode(vectors(3, 1)), np.arange(3) + 1000)
    assert index.ntotal == 303
    assert index.search(vectors(3, 1), 1)[1][:, 0].tolist() == [300, 301, 302]


@BOTH
@pytest.mark.parametrize("factory", ["LSQ2x4", "PLSQ2x2x4", "RQ2x4"])
def test_no_vectors_can_be_added_and_encoded(module, factory):
    index = filled(module, factory)
    index.add(vectors(0))
    assert index.ntotal == 300 and index.sa_encode(vectors(0)).shape == (0, index.sa_code_size())


@BOTH
def test_one_row_of_an_array_that_runs_backwards(module):
    x, index = vectors(1, 1), filled(module, "Flat")
    for answer, expected in zip(index.search(x[::-1], 3), index.search(x, 3)):
        np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("factory", ["PQ2x4", "PQ2x4fs"])
def test_product_codes_take_the_inner_product_for_metrics_that_they_do_not_know(factory):
    theirs = filled(faiss, factory, "L1")
    ours = tsscompat.deserialize_index(faiss.serialize_index(theirs))
    distances = ours.search(vectors(3, 1), 5)[0]
    expected = theirs.search(vectors(3, 1), 5)[0]
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    assert (np.diff(distances) <= 0).all()
    ours.reset()
    if factory == "PQ2x4":
        theirs.reset()
        np.testing.assert_array_equal(ours.search(vectors(3, 1), 2)[0], theirs.search(vectors(3, 1), 2)[0])


@BOTH
def test_scalar_codes_are_searched_by_two_metrics(module):
    with pytest.raises(RuntimeError):
        filled(module, "SQ8", "L1").search(vectors(3, 1), 2)


@pytest.mark.parametrize("params", [3, {"nprobe": 2}], ids=repr)
@pytest.mark.parametrize("key", ["Flat", "IVF1,Flat", "IDMap,Flat", "L2norm,Flat", "Flat,RFlat"])
def test_what_is_no_search_parameters_is_a_type_error(faiss, key, params):
    index = faiss.index_factory(4, key)
    x = np.eye(4, dtype=np.float32)
    index.train(x)
    index.add_with_ids(x, np.arange(4)) if "IDMap" in key else index.add(x)
    with pytest.raises(TypeError):
        index.search(x, 1, params=params)


@pytest.mark.parametrize("key", ["PQ2x4fs", "IVF1,Flat", "LSH"])
def test_every_type_that_reconstructs_measures_single_distances(key):
    x, found = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32), []
    for module in (faiss, tsscompat):
        index = module.index_factory(4, key)
        index.train(x)
        index.add(x)
        if key == "IVF1,Flat":
            index.make_direct_map()
        computer = index.get_distance_computer()
        computer.set_query(module.swig_ptr(x[0]))
        found.append([computer(i) for i in (0, 7, 49)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError):
        tsscompat.index_factory(4, "IVF1,Flat", tsscompat.METRIC_INNER_PRODUCT).get_distance_computer()


def test_binary_searches_check_types(faiss):
    index, codes = faiss.IndexBinaryFlat(16), np.zeros((3, 2), np.uint8)
    index.add(codes)
    for wrong in (2.0, "2", None):
        with pytest.raises(TypeError):
            index.search(codes, wrong)
    with pytest.raises(TypeError):
        index.search(codes, 1, params={"nprobe": 1})


@BOTH
def test_no_fewer_than_no_vectors_are_reconstructed(module):
    for index in (module.IndexFlatL2(D), module.IndexBinaryFlat(D)):
        for first, count in ((2, -1), (0, -5)):
            with pytest.raises(ValueError):
                index.reconstruct_n(first, count)


@BOTH
def test_settings_are_numbers_as_c_reads_them(module):
    index, space = module.IndexIVFFlat(module.IndexFlatL2(D), D, 8), module.ParameterSpace()
    for text, lists in {"0x1F": 31, "0x1p3": 8, "+4": 4, ".7e1": 7, "3.": 3, "5.9": 5}.items():
        space.set_index_parameters(index, f"nprobe={text}")
        assert index.nprobe == lists, text
    space.set_index_parameters(index, "max_codes=INFINITY")
    assert index.max_codes == 0
    for text in ("0x", "e3", ""):
        with pytest.raises(RuntimeError):
            space.set_index_parameters(index, f"nprobe={text}")


@BOTH
@pytest.mark.parametrize("radius", ["a", "1", None, 2.5])
def test_codes_are_within_whole_numbers(module, radius):
    index, codes = module.IndexBinaryFlat(16), np.zeros((2, 2), np.uint8)
    index.add(codes)
    assert index.range_search(codes, 1)[0].tolist() == [0, 2, 4]
    with pytest.raises(TypeError):
        index.range_search(codes, radius)
