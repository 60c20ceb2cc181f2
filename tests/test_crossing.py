"""tsscompat and FAISS side by side, on every index type of cases.py: one file, one answer; files cross in both directions."""

from __future__ import annotations

import cases
import faiss
import numpy as np
import pytest
import torch
from cases import N_BASE, ROWS, Row, fill, filled, shelf, trained
from compare import assert_as_good, assert_no_worse, assert_same_neighbours, assert_same_ranges
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat

TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(params=ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


def alike(row: Row, index, expected, got) -> None:
    if row.apart:  # both find what they find; how good it is, is for test_what_we_train_faiss_reads_and_answers_alike
        assert got[0].shape == expected[0].shape and ((got[1] == -1) == (expected[1] == -1)).all()
    elif row.passes_over:
        assert_no_worse(expected[0], got[0], similar=index.metric_type == faiss.METRIC_INNER_PRODUCT)
    else:
        assert_same_neighbours(expected, got, **TOLERANCE)


@pytest.mark.parametrize("row", ROWS, ids=str)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([1, 3, 33]), k=st.sampled_from([1, 2, 10, 100]))
def test_one_file_gives_one_answer(row, seed, n, k):
    queries = row.data(n, seed)
    theirs, ours = filled(faiss, row), filled(tsscompat, row)
    alike(row, theirs, theirs.search(queries, k), ours.search(queries, k))


@pytest.mark.parametrize("row", [r for r in ROWS if "range_search" not in r.lacks | r.avoid], ids=str)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([1, 5]), share=st.floats(0.01, 0.8))
def test_one_file_gives_one_range(row, seed, n, share):
    queries = row.data(n, seed)
    theirs, ours = filled(faiss, row), filled(tsscompat, row)
    distances = theirs.search(queries, N_BASE)[0].ravel()
    radius = float(np.quantile(distances[np.abs(distances) < 1e30], share))
    assert_same_ranges(theirs.range_search(queries, radius), ours.range_search(queries, radius), radius, **TOLERANCE)


@pytest.mark.parametrize("row", [r for r in ROWS if "sel" not in r.lacks], ids=str)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([1, 5]), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_one_selector_gives_one_answer(row, seed, n, share):
    queries, ids = row.data(n, seed), shelf(row).ids
    some = ids[np.random.default_rng(seed).random(len(ids)) < share]
    answers = []
    for module in (faiss, tsscompat):
        sel = module.IDSelectorBatch(some)
        distances, found = filled(module, row).search(queries, 7, params=row.params(module, sel))
        answers.append((distances if row.padded else np.where(found < 0, 0, distances), found))
    alike(row, filled(faiss, row), *answers)


def test_what_we_train_faiss_reads_and_answers_alike(row):
    s = shelf(row)
    index = row.make(tsscompat)
    index.train(s.train)
    fill(row, index, s.base, s.ids)
    ours = tsscompat.serialize_index(index)
    read = faiss.deserialize_index(np.asarray(ours))
    assert read.ntotal == N_BASE
    assert_same_neighbours(read.search(s.queries, 5), index.search(s.queries, 5), **TOLERANCE)
    np.testing.assert_array_equal(faiss.serialize_index(read), ours)


def test_what_we_add_to_faiss_finds(row):
    """FAISS's training, our encoding: FAISS reads it and finds what it would have found."""
    s = shelf(row)
    index = trained(tsscompat, row)
    fill(row, index, s.base, s.ids)
    read = faiss.deserialize_index(np.asarray(tsscompat.serialize_index(index)))
    found, expected = read.search(s.queries, 5)[0], filled(faiss, row).search(s.queries, 5)[0]
    assert_as_good(expected, found, exact=row.exhaustive)


def test_torch_tensors_come_back_as_they_went_in(row):
    index, s = filled(tsscompat, row), shelf(row)
    expected = index.search(s.queries, 4)
    distances, ids = index.search(torch.from_numpy(s.queries), 4)
    assert isinstance(distances, torch.Tensor) and distances.dtype == torch.float32 and ids.dtype == torch.int64
    np.testing.assert_array_equal(ids.numpy(), expected[1])
    distances, ids = torch.empty(cases.N_QUERY, 4), torch.empty(cases.N_QUERY, 4, dtype=torch.int64)
    index.search(torch.from_numpy(s.queries), 4, D=distances, I=ids)
    np.testing.assert_array_equal(ids.numpy(), expected[1])


def test_a_virtual_gpu_answers_alike(row, monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")
    index, s = filled(tsscompat, row), shelf(row)
    expected = index.search(s.queries, 4)
    assert tsscompat.get_num_gpus() == 2
    moved = index.to("cuda:1")
    assert moved.ntotal == N_BASE
    got = moved.search(s.queries, 4)
    assert isinstance(got[0], np.ndarray)
    np.testing.assert_array_equal(got[1], expected[1])
    np.testing.assert_array_equal(moved.cpu().search(s.queries, 4)[1], expected[1])
