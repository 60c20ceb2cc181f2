"""Selectors: the same ids as FAISS's, by any construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat

IDS = st.integers(-5, 70)


def simple(faiss, draw):
    kind, a, b, listed = draw
    if kind == "range":
        return faiss.IDSelectorRange(min(a, b), max(a, b))
    if kind == "batch":
        return faiss.IDSelectorBatch(np.array(listed, dtype=np.int64))
    if kind == "array":
        return faiss.IDSelectorArray(np.array(listed, dtype=np.int64))
    if kind == "bitmap":
        return faiss.IDSelectorBitmap(np.array([i % 256 for i in listed] or [0], dtype=np.uint8))
    return faiss.IDSelectorAll()


DRAWS = st.tuples(
    st.sampled_from(["range", "batch", "array", "bitmap", "all"]), IDS, IDS, st.lists(st.integers(0, 60), max_size=9)
)


@settings(max_examples=60, deadline=None)
@given(DRAWS, DRAWS, st.sampled_from(["first", "not", "and", "or", "xor"]))
def test_members_are_faiss_members(first, second, how):
    import faiss as oracle

    def build(faiss):
        a, b = simple(faiss, first), simple(faiss, second)
        held = {
            "first": lambda: a,
            "not": lambda: faiss.IDSelectorNot(a),
            "and": lambda: faiss.IDSelectorAnd(a, b),
            "or": lambda: faiss.IDSelectorOr(a, b),
            "xor": lambda: faiss.IDSelectorXOr(a, b),
        }[how]()
        return held, (a, b)

    ours, _ = build(tsscompat)
    theirs, _keep = build(oracle)
    ids = range(75)
    expected = [theirs.is_member(i) for i in ids]
    assert [ours.is_member(i) for i in ids] == expected
    assert ours._mask(torch.arange(75)).tolist() == expected


def test_both_constructions():
    ids = np.array([3, 1, 4], dtype=np.int64)
    for make in (lambda s: s(ids), lambda s: s(3, tsscompat.swig_ptr(ids)), lambda s: s([3, 1, 4])):
        for kind in (tsscompat.IDSelectorBatch, tsscompat.IDSelectorArray):
            assert [i for i in range(6) if make(kind).is_member(i)] == [1, 3, 4]


def test_a_python_function_selects():
    selector = tsscompat.PyCallbackIDSelector(lambda i: i % 3 == 0)
    assert selector._mask(torch.arange(7)).tolist() == [True, False, False, True, False, False, True]


def test_sorted_range_bounds():
    selector = tsscompat.IDSelectorRange(3, 8, True)
    ids = np.array([0, 3, 4, 7, 8, 9], dtype=np.int64)
    assert selector.find_sorted_ids_bounds(6, ids) == (1, 4)


def test_parameters_take_keywords_and_refuse_others():
    params = tsscompat.SearchParametersIVF(nprobe=4, sel=tsscompat.IDSelectorAll())
    assert params.nprobe == 4 and isinstance(params.sel, tsscompat.IDSelectorAll)
    with pytest.raises(TypeError):
        tsscompat.SearchParametersIVF(nprboe=4)
    with pytest.raises(AttributeError):
        params.nprboe = 4
