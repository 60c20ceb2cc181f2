"""TurboQuant's and EDEN's codes, and the scalar quantizer types around them, against FAISS."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat
from tsscompat.algorithms import in_place

SQ = faiss.ScalarQuantizer
TYPES = {name: getattr(SQ, name) for name in dir(SQ) if name.startswith("QT_") and name not in ("QT_count", "QT_0bit")}
TURBO = ["QT_2bit_tq", "QT_3bit_tq", "QT_4bit_tq", "QT_5bit_tq"]
LLOYD = [name for name in TYPES if name.endswith(("_tqmse", "_eden"))]
L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
FACTORS = 8  # bytes of the two numbers behind a TurboQuant or EDEN code
dimensions = st.sampled_from([1, 2, 3, 7, 8, 12, 16, 24, 31, 33])
seeds = st.integers(0, 10_000)
some = settings(max_examples=12, deadline=None)


def vectors(n: int, d: int, seed: int, shift: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


def both(make):
    return make(faiss), make(tsscompat)


def trained_numbers(module, quantizer) -> bytes:
    return module.vector_to_array(quantizer.trained).tobytes()


def quantizers(d: int, qtype: int, x: np.ndarray):
    made = both(lambda module: module.ScalarQuantizer(d, qtype))
    for quantizer in made:
        quantizer.train(x)
    return made


def test_every_type_has_faiss_number_bits_and_code_size() -> None:
    names = {name: getattr(tsscompat.ScalarQuantizer, name) for name in (*TYPES, "QT_0bit", "QT_count")}
    assert names == {name: getattr(SQ, name) for name in names}
    for name in (*TYPES, "QT_0bit"):
        for d in (1, 7, 8, 20):
            theirs, ours = both(lambda module: module.ScalarQuantizer(d, getattr(SQ, name)))
            assert (ours.bits, ours.code_size) == (theirs.bits, theirs.code_size), name


@pytest.mark.parametrize("name", LLOYD + TURBO)
@pytest.mark.parametrize("d", [1, 3, 8, 100])
def test_codebooks_are_faiss_own_to_the_bit(name: str, d: int) -> None:
    theirs, ours = quantizers(d, TYPES[name], vectors(3, d, 0))
    assert trained_numbers(tsscompat, ours) == trained_numbers(faiss, theirs)


@pytest.mark.parametrize("name", LLOYD)
@some
@given(d=dimensions, seed=seeds)
def test_lloyd_codes_are_faiss_own(name: str, d: int, seed: int) -> None:
    x = vectors(20, d, seed)
    theirs, ours = quantizers(d, TYPES[name], x)
    codes = theirs.compute_codes(x)
    np.testing.assert_array_equal(ours.compute_codes(x), codes)
    np.testing.assert_array_equal(ours.decode(codes), theirs.decode(codes))


@pytest.mark.parametrize("name", TURBO)
@some
@given(d=dimensions, seed=seeds)
def test_turbo_codes_are_faiss_own_but_for_rounding_of_the_factors(name: str, d: int, seed: int) -> None:
    x = vectors(20, d, seed)
    x[3] = 0
    theirs, ours = quantizers(d, TYPES[name], x)
    expected, got = theirs.compute_codes(x), ours.compute_codes(x)
    # A residual's sign may turn where its projection is as good as 0.
    differing = np.unpackbits(expected[:, :-FACTORS] ^ got[:, :-FACTORS]).sum()
    assert differing <= 2 if d > 1 else differing <= 20
    factors = [codes[:, -FACTORS:].copy().view(np.float32) for codes in (expected, got)]
    np.testing.assert_allclose(factors[1], factors[0], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours.decode(expected), theirs.decode(expected), rtol=2e-6, atol=2e-6)


def test_untrained_quantizers_refuse() -> None:
    # FAISS refuses TurboQuant's only, and reads past the end of nothing for the others.
    for name in ("QT_4bit_tq", "QT_8bit", "QT_3bit_eden"):
        with pytest.raises(RuntimeError):
            tsscompat.ScalarQuantizer(8, TYPES[name]).compute_codes(vectors(2, 8, 0))


def copies(key: str, d: int, metric: int, seed: int, nprobe: int = 0):
    """FAISS's index, trained and filled, and ours of its file, which must be written again byte for byte."""
    index = faiss.index_factory(d, key, metric)
    index.train(vectors(400, d, seed))
    index.add(vectors(150, d, seed + 1))
    if nprobe:
        index.nprobe = nprobe
    data = faiss.serialize_index(index)
    ours = tsscompat.deserialize_index(data)
    np.testing.assert_array_equal(tsscompat.serialize_index(ours), data)
    return index, ours


def check_same_answers(expected, got, rtol: float = 1e-5) -> None:
    """Equal distances up to rounding, and equal labels but where neighbours are as good as tied."""
    scale = np.abs(expected[0][expected[1] >= 0]).max() if (expected[1] >= 0).any() else 1
    np.testing.assert_allclose(got[0], expected[0], rtol=rtol, atol=rtol * scale)
    assert ((expected[1] >= 0) == (got[1] >= 0)).all()
    for row in np.argwhere(expected[1] != got[1]):
        near = np.abs(expected[0][row[0]] - expected[0][tuple(row)]) <= 2 * rtol * scale
        assert near.sum() > 1 or row[1] == expected[1].shape[1] - 1


FLAT = ["SQtq2", "SQtq3", "SQtq4", "SQtq5", "SQtqmse3", "EDEN", "EDEN3", "EDEN8", "EDENBIASED", "EDEN5BIASED"]
IN_LISTS = ["SQtq2", "SQtq5", "SQ0", "EDEN", "EDEN2BIASED", "EDEN6"]


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("key", FLAT)
@settings(max_examples=5, deadline=None)
@given(d=st.sampled_from([3, 8, 21, 32]), seed=seeds)
def test_flat_indexes_search_as_faiss(key: str, metric: int, d: int, seed: int) -> None:
    theirs, ours = copies(key, d, metric, seed)
    queries = vectors(5, d, seed + 2)
    check_same_answers(theirs.search(queries, 10), ours.search(queries, 10))
    np.testing.assert_allclose(ours.reconstruct_n(0, 9), theirs.reconstruct_n(0, 9), rtol=1e-5, atol=1e-5)
    chosen = [module.IDSelectorRange(20, 60) for module in (faiss, tsscompat)]
    params = [module.SearchParameters(sel=sel) for module, sel in zip((faiss, tsscompat), chosen)]
    check_same_answers(theirs.search(queries, 50, params=params[0]), ours.search(queries, 50, params=params[1]))
    computers = theirs.get_distance_computer(), ours.get_distance_computer()
    computers[0].set_query(faiss.swig_ptr(queries[0]))
    computers[1].set_query(tsscompat.swig_ptr(queries[0]))
    apart = [[computer(i) for i in range(7)] for computer in computers]
    np.testing.assert_allclose(apart[1], apart[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("key", IN_LISTS)
@settings(max_examples=4, deadline=None)
@given(d=st.sampled_from([3, 8, 21, 32]), seed=seeds, nprobe=st.integers(1, 6))
def test_inverted_lists_search_as_faiss(key: str, metric: int, d: int, seed: int, nprobe: int) -> None:
    theirs, ours = copies(f"IVF6,{key}", d, metric, seed, nprobe)
    queries = vectors(5, d, seed + 2)
    check_same_answers(theirs.search(queries, 10), ours.search(queries, 10))
    codes = theirs.sa_encode(queries)
    np.testing.assert_allclose(ours.sa_decode(codes), theirs.sa_decode(codes), rtol=1e-5, atol=1e-5)
    if not key.startswith("SQtq"):
        np.testing.assert_array_equal(ours.sa_encode(queries), codes)


@pytest.mark.parametrize("key", ["SQtq2", "SQtq4", "EDEN2", "IVF6,SQtq3", "IVF6,EDEN", "IVF6,SQ0"])
@pytest.mark.parametrize("metric", [L2, IP])
def test_range_search_as_faiss(key: str, metric: int) -> None:
    theirs, ours = copies(key, 16, metric, 5, 3 if key.startswith("IVF") else 0)
    queries = vectors(6, 16, 7)
    radius = float(theirs.search(queries, 30)[0][:, 20].mean())
    expected, got = theirs.range_search(queries, radius), ours.range_search(queries, radius)
    np.testing.assert_array_equal(got[0], expected[0])
    for i in range(6):
        part = slice(expected[0][i], expected[0][i + 1])
        order = [np.argsort(answer[2][part]) for answer in (expected, got)]
        np.testing.assert_array_equal(got[2][part][order[1]], expected[2][part][order[0]])
        np.testing.assert_allclose(got[1][part][order[1]], expected[1][part][order[0]], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("qb", [0, 3, 4, 8])
@pytest.mark.parametrize("int_qjl", [False, True])
@pytest.mark.parametrize("key", ["SQtq2", "SQtq4"])
@pytest.mark.parametrize("metric", [L2, IP])
def test_queries_are_rounded_as_faiss_rounds_them(qb: int, int_qjl: bool, key: str, metric: int) -> None:
    theirs, ours = copies(f"IVF6,{key}", 24, metric, 11)
    queries, answers = vectors(8, 24, 12), []
    for module, index in ((faiss, theirs), (tsscompat, ours)):
        params = module.IVFSQTurboQSearchParameters()
        params.nprobe, params.qb, params.int_qjl = 6, qb, int_qjl
        answers.append(index.search(queries, 10, params=params))
    check_same_answers(*answers)


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize(
    "key", ["EDEN3", "SQtq2", "SQtq4", *(f"IVF4,{code}" for code in ("EDEN", "EDEN4BIASED", "SQtqmse3", "SQtq3"))]
)
def test_codes_scanned_as_they_lie_are_scored_as_decoded(key: str, metric: int, monkeypatch) -> None:
    """What a GPU does, by the definitions of its kernels."""
    data, queries = vectors(200, 21, 1), vectors(5, 21, 2)
    index = tsscompat.index_factory(21, key, metric)
    index.train(data)
    index.add(data)
    if "IVF" in key:
        index.nprobe = 2
    expected = index.search(queries, 20)
    radius = float(np.sort(expected[0])[:, 9:11].mean())
    within = index.range_search(queries, radius)
    monkeypatch.setattr(in_place, "scanned_in_place", lambda known: True)
    index = tsscompat.clone_index(index)
    check_same_answers(expected, index.search(queries, 20))
    if not key.startswith("SQ"):  # which decodes for this
        np.testing.assert_array_equal(index.range_search(queries, radius)[0], within[0])


@pytest.mark.parametrize("key", ["EDEN", "EDEN4", "EDEN7BIASED"])
@pytest.mark.parametrize("metric", [L2, IP])
def test_eden_trains_and_encodes_to_faiss_bytes(key: str, metric: int) -> None:
    files = []
    for module in (faiss, tsscompat):
        index = module.index_factory(24, key, metric)
        index.train(vectors(300, 24, 1))
        index.add(vectors(100, 24, 2))
        files.append(module.serialize_index(index))
    np.testing.assert_array_equal(files[1], files[0])


def test_a_vector_at_the_center_has_an_empty_eden_code() -> None:
    index = tsscompat.IndexEDEN(8, L2, 3)
    x = np.ones((4, 8), np.float32)
    index.train(x)
    codes = index.sa_encode(x)
    assert not codes.any()
    np.testing.assert_array_equal(index.sa_decode(codes), x)


@pytest.mark.parametrize("module", [faiss, tsscompat])
def test_eden_refuses_what_it_cannot_do(module) -> None:
    for arguments in ((8, L2, 0), (8, L2, 9), (8, L2, 4, 3)):
        with pytest.raises(RuntimeError):
            module.IndexEDEN(*arguments)
    with pytest.raises(RuntimeError):
        module.IndexEDEN(8, L2, 4).add(vectors(2, 8, 0))


def test_damaged_eden_files_are_refused() -> None:
    index = tsscompat.index_factory(8, "EDEN3")
    index.train(vectors(10, 8, 0))
    index.add(vectors(5, 8, 1))
    data = tsscompat.serialize_index(index)
    header = 4 + 4 + 8 + 8 + 8 + 1 + 4
    for at, value in ((header, 9), (header + 8, 7), (header + 16, 0), (header + 20, 9), (header + 28, 3)):
        damaged = data.copy()
        damaged[at] = value
        with pytest.raises(RuntimeError):
            tsscompat.deserialize_index(damaged)
