"""Declared state: what assignment accepts, and how objects are copied and moved."""

from __future__ import annotations

import copy
import pickle

import faiss
import numpy as np
import pytest
import torch

import tsscompat
from tsscompat.faiss_compat.attributes import Stated, boolean, child, integer, real, size_t, text, vector
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels.singles import times


class Inner(Stated):
    data = vector(Float32Vector)


class Outer(Stated):
    _caches = ("_table",)
    count = size_t(3)
    level = integer(-1)
    ratio = real(0.5)
    on = boolean(True)
    name = text("x")
    inner = child(Inner)
    other = child(None)
    data = vector(Float32Vector)


def test_defaults_are_fresh_for_each_object():
    a, b = Outer(), Outer()
    assert (a.count, a.level, a.ratio, a.on, a.name, a.other) == (3, -1, 0.5, True, "x", None)
    a.data.push_back(1.0)
    a.inner.data.push_back(2.0)
    assert b.data.size() == 0 and b.inner.data.size() == 0


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("count", 1.5, TypeError),
        ("count", "3", TypeError),
        ("count", -1, OverflowError),
        ("count", 1 << 64, OverflowError),
        ("level", 1 << 31, OverflowError),
        ("level", None, TypeError),
        ("ratio", "much", TypeError),
        ("on", None, TypeError),
        ("name", 3, TypeError),
        ("cuont", 3, AttributeError),
    ],
)
def test_assignment_is_checked(name, value, error):
    thing = Outer()
    with pytest.raises(error):
        setattr(thing, name, value)


def test_faiss_raises_the_same_types():
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(4), 4, 2)
    for name, value, error in [("nprobe", 1.5, TypeError), ("nprobe", -1, OverflowError), ("nporbe", 1, AttributeError)]:
        with pytest.raises(error):
            setattr(index, name, value)


def test_numpy_numbers_are_numbers():
    thing = Outer()
    thing.count, thing.ratio = np.int64(7), np.float32(0.25)
    assert thing.count == 7 and type(thing.count) is int and thing.ratio == 0.25


def test_assigning_to_a_vector_copies():
    thing, source = Outer(), np.arange(3, dtype=np.float32)
    thing.data = source
    source[0] = 9
    assert list(thing.data) == [0, 1, 2]


@pytest.mark.parametrize("module", [faiss, tsscompat], ids=["faiss", "tsscompat"])
@pytest.mark.parametrize(
    "kind, name", [("ResidualQuantizer", "codebooks"), ("ProductQuantizer", "centroids"), ("HNSW", "levels")]
)
def test_assigning_a_vector_copies_its_content_into_ones_own(module, kind, name):
    a, b = getattr(module, kind)(), getattr(module, kind)()
    held = getattr(a, name)
    content = np.arange(4, dtype=np.int32 if kind == "HNSW" else np.float32)
    module.copy_array_to_vector(content, getattr(b, name))
    setattr(a, name, getattr(b, name))
    getattr(b, name).push_back(7)
    module.copy_array_to_vector(content[:1] + 5, getattr(b, name))
    assert module.vector_to_array(getattr(a, name)).tolist() == [0, 1, 2, 3]
    assert held.size() == 4, "the vector is the same as before, with other content"
    setattr(a, name, getattr(a, name))
    assert held.size() == 4


def test_vectors_of_objects_are_copied_too():
    a, b = tsscompat.IndexPreTransform(), tsscompat.IndexPreTransform()
    b.chain.push_back(tsscompat.NormalizationTransform(3))
    a.chain = b.chain
    b.chain.clear()
    assert len(a.chain) == 1


def test_a_vector_stays_on_its_device():
    thing, elsewhere = Outer(), Float32Vector(torch.empty(3, device="meta"))
    assert elsewhere.tensor.device.type == "meta"
    elsewhere.assign(torch.zeros(2))
    assert elsewhere.tensor.device.type == "meta" and elsewhere.size() == 2
    thing.data = torch.ones(2)
    assert thing.data.tensor.device == thing.device


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_share_nothing_and_drop_caches(duplicate):
    thing = Outer()
    thing.inner.data.push_back(1.0)
    thing._table = torch.zeros(3)
    twin = duplicate(thing)
    twin.inner.data.push_back(2.0)
    assert thing.inner.data.size() == 1 and twin.inner.data.size() == 2
    assert twin._table is None and thing._table is not None


def test_a_shared_child_stays_shared_in_a_copy():
    thing = Outer()
    thing.other = thing.inner
    twin = copy.deepcopy(thing)
    assert twin.other is twin.inner and twin.inner is not thing.inner


def test_moving_moves_everything(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")
    index = tsscompat.Index(4)
    assert index.to("cuda:1").getDevice() == 1
    assert index.cuda(0).getDevice() == 0
    assert index.cpu().getDevice() == -1
    with pytest.raises(RuntimeError, match="no GPU 2"):
        index.to(2)


def test_unknown_device_is_refused():
    with pytest.raises(RuntimeError, match="unknown device"):
        tsscompat.Index(4).to("quantum")


def test_what_was_pickled_on_a_gpu_is_read_without_one(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")
    index = tsscompat.IndexFlatL2(4).to(1)
    index.add(np.zeros((3, 4), dtype=np.float32))
    data = pickle.dumps(index)
    assert pickle.loads(data).getDevice() == 1
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "0")
    read = pickle.loads(data)
    assert read.getDevice() == -1 and read.search(np.zeros((1, 4), dtype=np.float32), 1)[1][0, 0] >= 0


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda f: f.IndexFlat(4), "metric_arg"),
        (lambda f: f.IndexRefineFlat(f.IndexFlat(4)), "k_factor"),
        (lambda f: f.ScalarQuantizer(4, f.ScalarQuantizer.QT_8bit), "rangestat_arg"),
        (lambda f: f.LocalSearchQuantizer(4, 2, 2), "lambd"),
        (lambda f: f.PCAMatrix(4, 2), "eigen_power"),
        (lambda f: f.ClusteringParameters(), "early_stop_threshold"),  # a double
    ],
)
def test_floats_are_read_back_in_their_own_digits(make, name):
    ours, theirs = make(tsscompat), make(faiss)
    assert getattr(ours, name) == getattr(theirs, name)
    for value in (0.1, 7, -0.0, 1e-46, float("inf")):
        setattr(ours, name, value)
        setattr(theirs, name, value)
        assert repr(getattr(ours, name)) == repr(getattr(theirs, name))


def test_a_number_beyond_float32_is_refused():
    for library in (tsscompat, faiss):
        index = library.IndexFlat(4)
        with pytest.raises(OverflowError):
            index.metric_arg = 1e39


@pytest.mark.parametrize("value", [[1], np.ones(1), np.int64(1), 1])
def test_what_only_looks_true_is_no_bool(value):
    for library in (tsscompat, faiss):
        with pytest.raises(TypeError):
            library.IndexFlat(4).verbose = value


def test_chars_are_read_as_characters():
    for library in (tsscompat, faiss):
        graph = library.IndexNSGFlat(4, 4)
        assert graph.build_type == "\x01"
        graph.build_type = 0
        assert graph.build_type == "\0"


def test_products_are_those_of_floats():
    from_numpy = [
        (n, f, int(np.float32(n) * np.float32(f))) for n in (1, 3, 7, 10, 30, 100, 300) for f in (1.1, 1.2, 1.3, 2.3, 0.02)
    ]
    assert [(n, f, times(n, f)) for n, f, _ in from_numpy] == from_numpy
    assert any(int(n * float(np.float32(f))) != wanted for n, f, wanted in from_numpy)  # doubles would not do
