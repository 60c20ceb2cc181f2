"""Promises, made of every index type in cases.py, by tsscompat and by FAISS itself."""

from __future__ import annotations

import contextlib
import copy
import pickle

import cases
import numpy as np
import pytest
from cases import N_BASE, N_QUERY, N_TRAIN, ROWS, D, Row, fill, filled, shelf, trained
from compare import assert_as_good

FLOAT_MAX = np.finfo(np.float32).max


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


def asking(faiss, row: Row, method: str) -> contextlib.AbstractContextManager:
    """What FAISS does not have it refuses with a RuntimeError; tsscompat refuses it likewise, or keeps the promise."""
    if method in row.avoid:
        pytest.skip("FAISS leaves this undefined")
    if method not in row.lacks:
        return contextlib.nullcontext()
    return pytest.raises(RuntimeError) if faiss.__name__ == "faiss" else contextlib.suppress(RuntimeError)


def with_direct_map(faiss, index):
    """The index, able to find a vector by its id."""
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.make_direct_map()
    return index


def similarity(index) -> bool:
    return index.metric_type in (0, 23)


# -- search


def test_answers_have_faiss_types_and_shapes(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    assert index.is_trained and index.ntotal == N_BASE and index.d == D
    distances, ids = index.search(s.queries, 5)
    assert (distances.dtype, ids.dtype) == (np.float32, np.int64)
    assert distances.shape == ids.shape == (N_QUERY, 5)
    assert np.isin(ids[ids >= 0], s.ids).all()
    order = -distances if similarity(index) else distances
    assert (np.diff(order, axis=1) >= 0).all(), "best first"


def test_k_beyond_ntotal_is_padded(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    if faiss.__name__ == "faiss" and "beyond" in row.avoid:
        pytest.skip("FAISS never answers this")
    distances, ids = index.search(s.queries[:2], N_BASE + 3)
    assert (ids[:, -3:] == -1).all()
    # Refining and two-stage searches pad with other values than the plain scan.
    if not row.two_stage:
        assert (np.abs(distances[:, -3:]) >= FLOAT_MAX).all()
    if row.exhaustive:
        assert all(set(found) == {-1, *s.ids} for found in ids.tolist())


def test_an_empty_batch_is_answered(faiss, row):
    index = filled(faiss, row)
    distances, ids = index.search(np.empty((0, D), dtype=np.float32), 4)
    assert distances.shape == ids.shape == (0, 4)


def test_an_empty_index_gives_padding(faiss, row):
    index = trained(faiss, row)
    assert index.ntotal == 0
    with asking(faiss, row, "empty"):
        _, ids = index.search(shelf(row).queries, 3)
        assert (ids == -1).all()


def test_one_query_is_answered_as_in_a_batch(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    whole, _ = index.search(s.queries, 4)
    single = np.concatenate([index.search(q[None], 4)[0] for q in s.queries])
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-4)


def test_wrong_arguments_are_refused(faiss, row):
    index = filled(faiss, row)
    queries = shelf(row).queries
    for k in (0, -1):
        with pytest.raises(AssertionError):
            index.search(queries, k)
    for call in (lambda x: index.search(x, 3), index.add, index.train, index.assign):
        with pytest.raises((AssertionError, TypeError)):
            call(queries[:, :-1], 3) if call is index.assign else call(queries[:, :-1].copy())
    with pytest.raises((AttributeError, TypeError)):
        index.search([[0.0] * D], 3)
    with pytest.raises(AssertionError):
        index.add_with_ids(queries, np.arange(N_QUERY - 1))


def test_attributes_are_checked(faiss, row):
    index = filled(faiss, row)
    with pytest.raises(AttributeError):
        index.no_such_attribute = 1
    with pytest.raises(TypeError):
        index.ntotal = 1.5


def test_output_arrays_are_filled(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    distances, ids = np.empty((N_QUERY, 3), np.float32), np.empty((N_QUERY, 3), np.int64)
    returned = index.search(s.queries, 3, D=distances, I=ids)
    assert returned[0] is distances and returned[1] is ids
    np.testing.assert_array_equal(ids, index.search(s.queries, 3)[1])


def test_other_layouts_are_converted(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    _, expected = index.search(s.queries, 3)
    wide = np.repeat(s.queries, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(index.search(wide, 3)[1], expected)
    np.testing.assert_array_equal(index.search(s.queries.astype(np.float64), 3)[1], expected)


def test_assign_is_search_without_distances(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    np.testing.assert_array_equal(index.assign(s.queries, 3), index.search(s.queries, 3)[1])


def test_range_search_is_search_cut_at_the_radius(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    with asking(faiss, row, "range_search"):
        distances, ids = index.search(s.queries, N_BASE)
        radius = float(np.median(distances[np.abs(distances) < FLOAT_MAX]))
        lims, range_distances, range_ids = index.range_search(s.queries, radius)
        assert (lims.dtype, range_distances.dtype, range_ids.dtype) == (np.uint64, np.float32, np.int64)
        assert len(lims) == N_QUERY + 1 and lims[0] == 0 and lims[-1] == len(range_ids) == len(range_distances)
        inside = range_distances > radius if similarity(index) else range_distances < radius
        assert inside.all()
        if row.exhaustive and not row.two_stage:
            # A distance on the radius may fall to either side by its last bit.
            margin = 1e-4 * abs(radius) + 1e-5
            for q in range(N_QUERY):
                beyond = distances[q] - radius if similarity(index) else radius - distances[q]
                got = set(range_ids[int(lims[q]) : int(lims[q + 1])].tolist())
                assert set(ids[q][beyond > margin].tolist()) <= got <= set(ids[q][beyond > -margin].tolist())


# -- selectors and parameters


def selectors(faiss, ids: np.ndarray):
    """One selector of each kind, with the ids of `ids` that it lets through; arrays that it may only borrow come along."""
    some = np.ascontiguousarray(ids[::3])
    low, high = int(ids[50]), int(ids[200])
    between = ids[(ids >= low) & (ids < high)]
    bits = np.zeros(int(ids.max()) // 8 + 1, np.uint8)
    np.bitwise_or.at(bits, some // 8, (1 << (some % 8)).astype(np.uint8))
    span, batch = faiss.IDSelectorRange(low, high), faiss.IDSelectorBatch(some)
    yield "range", span, between, ()
    yield "batch", batch, some, ()
    yield "array", faiss.IDSelectorArray(some), some, (some,)
    yield "bitmap", faiss.IDSelectorBitmap(bits), some, (bits,)
    yield "not", faiss.IDSelectorNot(batch), np.setdiff1d(ids, some), (batch,)
    yield "all", faiss.IDSelectorAll(), ids, ()
    yield "and", faiss.IDSelectorAnd(span, batch), np.intersect1d(between, some), (span, batch)
    yield "or", faiss.IDSelectorOr(span, batch), np.union1d(between, some), (span, batch)
    yield "xor", faiss.IDSelectorXOr(span, batch), np.setxor1d(between, some), (span, batch)


def test_selectors_let_only_their_ids_through(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    with asking(faiss, row, "sel"):
        for kind, sel, allowed, _borrowed in selectors(faiss, s.ids):
            _, ids = index.search(s.queries, 6, params=row.params(faiss, sel))
            assert np.isin(ids[ids >= 0], allowed).all(), kind
            if row.exhaustive and not row.two_stage:
                assert (ids >= 0).all(), kind


def test_parameters_of_another_kind_are_refused_or_ignored(faiss, row):
    """FAISS takes plain parameters, or says that it does not; it never answers with something else."""
    index, s = filled(faiss, row), shelf(row)
    try:
        _, ids = index.search(s.queries, 3, params=faiss.SearchParameters())
    except RuntimeError:
        return
    assert ids.shape == (N_QUERY, 3)


# -- content


def test_ids_given_are_ids_returned(faiss, row):
    index, s = trained(faiss, row), shelf(row)
    given = np.random.default_rng(4).permutation(N_BASE) * 7 + 10**10
    with asking(faiss, row, "add_with_ids"):
        index.add_with_ids(s.base, given)
        assert index.ntotal == N_BASE
        _, ids = index.search(s.base, 1)
        assert np.isin(ids[ids >= 0], given).all() and (ids >= 0).mean() > 0.9


def test_adding_in_parts_is_adding_at_once(faiss, row):
    index, s = trained(faiss, row), shelf(row)
    with asking(faiss, row, "parts"):
        for lo, hi in ((0, 1), (1, 130), (130, N_BASE)):
            fill(row, index, s.base[lo:hi], s.ids[lo:hi])
        assert index.ntotal == N_BASE
        assert_as_good(filled(faiss, row).search(s.queries, 5)[0], index.search(s.queries, 5)[0], exact=row.exhaustive)


def test_untrained_indexes_refuse_vectors(faiss, row):
    index = row.make(faiss)
    if index.is_trained:
        return
    with asking(faiss, row, "untrained"), pytest.raises(RuntimeError):
        fill(row, index, shelf(row).base, shelf(row).ids)


def test_remove_ids(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    gone = s.ids[[3, 50, 51, N_BASE - 1]]
    with asking(faiss, row, "remove_ids"):
        assert index.remove_ids(gone) == len(gone)
        assert index.ntotal == N_BASE - len(gone)
        assert index.remove_ids(faiss.IDSelectorRange(10**8, 10**9)) == 0
        ids = index.search(s.queries, N_BASE)[1]
        renumbered = "add_with_ids" in row.lacks and "add" not in row.lacks
        if renumbered:
            assert ids.max() < N_BASE - len(gone)
        else:
            assert not np.isin(ids, gone).any()


def test_reconstruct(faiss, row):
    index, s = with_direct_map(faiss, filled(faiss, row)), shelf(row)
    with asking(faiss, row, "reconstruct"):
        keys = s.ids[[7, 0, N_BASE - 1]]
        one_by_one = np.stack([index.reconstruct(int(i)) for i in keys])
        assert one_by_one.shape == (3, D) and one_by_one.dtype == np.float32
        np.testing.assert_allclose(index.reconstruct_batch(keys), one_by_one, rtol=1e-5, atol=1e-5)
        if "IDMap" not in row.name:
            np.testing.assert_allclose(index.reconstruct_n(7, 2)[0], one_by_one[0], rtol=1e-5, atol=1e-5)
        with pytest.raises(RuntimeError):
            index.reconstruct(10**7)


def test_search_and_reconstruct(faiss, row):
    index, s = with_direct_map(faiss, filled(faiss, row)), shelf(row)
    with asking(faiss, row, "search_and_reconstruct"):
        distances, ids, vectors = index.search_and_reconstruct(s.queries, 4)
        np.testing.assert_array_equal(ids, index.search(s.queries, 4)[1])
        assert vectors.shape == (N_QUERY, 4, D)
        if row.symmetric and index.metric_type == 1 and "IDMap" not in row.name:
            np.testing.assert_allclose(((vectors - s.queries[:, None]) ** 2).sum(-1), distances, rtol=1e-2, atol=1e-2)


def test_codes_go_out_and_come_back(faiss, row):
    index, s = trained(faiss, row), shelf(row)
    with asking(faiss, row, "sa_encode"):
        codes = index.sa_encode(s.base)
        assert codes.dtype == np.uint8 and codes.shape == (N_BASE, index.sa_code_size())
        decoded = index.sa_decode(codes)
        assert decoded.shape == (N_BASE, D)
        if row.symmetric and row.data is cases.clusters:
            assert ((decoded - s.base) ** 2).sum() < 0.6 * (s.base**2).sum()


def test_codes_can_be_added(faiss, row):
    index, s = trained(faiss, row), shelf(row)
    with asking(faiss, row, "add_sa_codes"):
        index.add_sa_codes(index.sa_encode(s.base), s.ids if "add_with_ids" not in row.lacks else None)
        assert index.ntotal == N_BASE
        if "+" in row.name:
            return  # the refinement codes of IndexIVFPQR are not part of its stand-alone codes' search
        expected = filled(faiss, row).search(s.queries, 4)[0]
        np.testing.assert_allclose(index.search(s.queries, 4)[0], expected, rtol=1e-3, atol=1e-3)


def test_reset_forgets_vectors_and_keeps_training(faiss, row):
    index, s = filled(faiss, row), shelf(row)
    index.reset()
    assert index.ntotal == 0 and index.is_trained
    with asking(faiss, row, "empty"):
        assert (index.search(s.queries, 2)[1] == -1).all()
    fill(row, index, s.base, s.ids)
    assert index.ntotal == N_BASE


def test_merge_from_moves_all(faiss, row):
    s = shelf(row)
    one, other = trained(faiss, row), trained(faiss, row)
    fill(row, one, s.base[:200], s.ids[:200])
    fill(row, other, s.base[200:], s.ids[200:] if "add" in row.lacks else None)
    with asking(faiss, row, "merge_from"):
        takes_shift = "add_with_ids" not in row.lacks and "add" not in row.lacks
        one.merge_from(other, 200 if takes_shift else 0)
        assert one.ntotal == N_BASE
        np.testing.assert_allclose(one.search(s.queries, 5)[0], filled(faiss, row).search(s.queries, 5)[0], rtol=1e-4, atol=1e-4)


# -- copies and files


@pytest.mark.parametrize("how", ["clone", "pickle", "deepcopy"])
def test_copies_answer_alike_and_live_alone(faiss, row, how):
    index, s = filled(faiss, row), shelf(row)
    if how == "clone" and "clone" in row.avoid:
        pytest.skip("FAISS cannot clone this")
    duplicate = {"clone": faiss.clone_index, "pickle": lambda i: pickle.loads(pickle.dumps(i)), "deepcopy": copy.deepcopy}[how](
        index
    )
    assert type(duplicate) is type(index)
    expected = index.search(s.queries, 5)
    index.reset()
    got = duplicate.search(s.queries, 5)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_a_file_is_what_was_written(faiss, row, tmp_path):
    index, s = filled(faiss, row), shelf(row)
    path = str(tmp_path / "x.faiss")
    faiss.write_index(index, path)
    assert (np.fromfile(path, np.uint8) == s.filled).all()
    again = faiss.read_index(path)
    np.testing.assert_array_equal(again.search(s.queries, 5)[1], index.search(s.queries, 5)[1])


def test_a_truncated_file_is_refused(faiss, row):
    whole = shelf(row).filled
    for length in (0, 3, 20, len(whole) // 2, len(whole) - 1):
        with pytest.raises(RuntimeError):
            faiss.deserialize_index(whole[:length].copy())


def test_training_finds_the_neighbours(faiss, row):
    """Trained on its own, an index recalls what one that FAISS trained recalls, within a hundredth."""
    s = shelf(row)
    index = row.make(faiss)
    index.train(s.train)
    fill(row, index, s.base, s.ids)
    queries = row.data(200, 9)
    exact = faiss.IndexFlat(D, index.metric_type)
    exact.metric_arg = index.metric_arg
    exact.add(s.base)
    truth = s.ids[exact.search(queries, 10)[1]]
    native, reference = (i.search(queries, 10)[1] for i in (index, filled(faiss, row)))
    hits = [np.mean([len(np.intersect1d(t, f)) for t, f in zip(truth, found)]) / 10 for found in (native, reference)]
    assert hits[0] >= hits[1] - 0.01
    assert N_TRAIN > 1000
