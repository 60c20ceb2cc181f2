"""std::vector stand-ins against FAISS's own."""

from __future__ import annotations

import pickle

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.vectors import Vector

NAMES = {
    "Float32Vector": np.float32,
    "Float64Vector": np.float64,
    "Int8Vector": np.int8,
    "Int16Vector": np.int16,
    "Int32Vector": np.int32,
    "Int64Vector": np.int64,
    "UInt8Vector": np.uint8,
    "UInt16Vector": np.uint16,
    "UInt32Vector": np.uint32,
    "UInt64Vector": np.uint64,
}


@pytest.mark.parametrize("name", NAMES)
def test_arrays_go_in_and_out(name):
    array = np.arange(5).astype(NAMES[name])
    for module in (tsscompat, faiss):
        vector = getattr(module, name)()
        module.copy_array_to_vector(array, vector)
        back = module.vector_to_array(vector)
        assert back.dtype == array.dtype and (back == array).all()
        assert vector.size() == 5 and vector.at(3) == 3
        vector.push_back(7)
        assert vector.size() == 6 and vector.at(5) == 7
        vector.resize(2)
        assert module.vector_to_array(vector).tolist() == [0, 1]
        vector.clear()
        assert vector.size() == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [[], [0, 3, 77]], ids=["empty", "filled"])
def test_pickling_keeps_type_and_content(name, content):
    vector = getattr(tsscompat, name)(content)
    again = pickle.loads(pickle.dumps(vector))
    assert type(again) is type(vector) and again.tensor.dtype == vector.dtype
    assert list(again) == content
    again.push_back(5)
    assert list(vector) == content, "the copy is its own"


def test_wrong_dtype_is_refused():
    with pytest.raises(AssertionError):
        tsscompat.copy_array_to_vector(np.zeros(3), tsscompat.Float32Vector())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=40))
def test_appending_keeps_content_and_little_slack(pieces):
    vector, expected = tsscompat.Int64Vector(), []
    for i, n in enumerate(pieces):
        vector.append(torch.full((n,), i))
        expected += [i] * n
    assert list(vector) == expected
    assert vector._buffer.shape[0] <= max(1.3 * len(expected) + 1, len(expected))


def test_a_pointer_is_a_view():
    array = np.arange(6, dtype=np.float32)
    pointer = tsscompat.swig_ptr(array)
    assert isinstance(pointer, Pointer)
    view = tsscompat.rev_swig_ptr(pointer, 4)
    view[0] = 9
    assert array[0] == 9
    assert tsscompat.rev_swig_ptr(pointer + 2, 2).tolist() == [2, 3]
    with pytest.raises(RuntimeError, match="wants 7"):
        tsscompat.rev_swig_ptr(pointer, 7)


def test_swig_ptr_refuses_what_faiss_refuses():
    for module in (tsscompat, faiss):
        with pytest.raises(ValueError):
            module.swig_ptr(np.zeros((4, 4), dtype=np.float32)[:, ::2])
        with pytest.raises(ValueError):
            module.swig_ptr(np.zeros(3, dtype=np.complex64))


def test_memcpy_between_vectors():
    a, b = tsscompat.Float32Vector(), tsscompat.Float32Vector()
    tsscompat.copy_array_to_vector(np.arange(4, dtype=np.float32), a)
    b.resize(4)
    tsscompat.memcpy(b.data(), a.data(), 16)
    assert list(b) == list(a)


def test_objects_in_a_vector():
    from tsscompat.faiss_compat.vectors import ObjectVector

    chain = ObjectVector()
    chain.push_back("a")
    chain.push_back("b")
    assert (chain.size(), chain.at(1), list(chain)) == (2, "b", ["a", "b"])
    with pytest.raises(IndexError):
        chain.at(2)


def test_every_vector_type_is_a_vector():
    for name in NAMES:
        assert issubclass(getattr(tsscompat, name), Vector)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("item", [300, -1, 2**40, 2**63, "x", None, float("nan")], ids=repr)
def test_items_are_taken_or_refused_as_by_faiss(name, item):
    outcomes = []
    for module in (tsscompat, faiss):
        vector = getattr(module, name)()
        try:
            vector.push_back(item)
        except (OverflowError, TypeError) as error:
            outcomes.append(type(error))
        else:
            outcomes.append(repr(module.vector_to_array(vector).tolist()))
    assert outcomes[0] == outcomes[1]


def test_what_is_no_content_is_refused():
    for module in (tsscompat, faiss):
        vector = module.Float32Vector()
        with pytest.raises(OverflowError):
            vector.resize(-1)
        with pytest.raises(TypeError):
            module.Float32Vector(5)
        with pytest.raises(ValueError):
            module.copy_array_to_vector(np.zeros((2, 3), np.float32), vector)
        with pytest.raises(ValueError):
            module.swig_ptr([1, 2])


@pytest.mark.parametrize("kind", ["Uint8", "Uint16", "Float32"])
def test_aligned_tables_are_made_with_a_size(kind):
    for module in (tsscompat, faiss):
        table = getattr(module, f"AlignedTable{kind}")(4)
        array = module.AlignedTable_to_array(table)
        assert (table.size(), array.shape, array.dtype) == (4, (4,), kind.lower())
        table.resize(7)
        assert table.size() == 7 and table.nbytes() == 7 * table.itemsize()
    assert isinstance(tsscompat.array_to_AlignedTable(np.zeros(3, np.uint16)), tsscompat.AlignedTableUint16)


@pytest.mark.filterwarnings("ignore:The class faiss")
def test_older_names_hold_the_same_items():
    for name in ("Float", "Double", "Char", "Int", "Long", "LongLong", "Byte", "Uint64"):
        dtypes = [module.vector_to_array(getattr(module, name + "Vector")()).dtype for module in (tsscompat, faiss)]
        assert dtypes[0] == dtypes[1], name
