"""Files from anywhere: through every kind of reader and writer, cut short or tampered with."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat
from tsscompat.errors import FormatError

oracle = pytest.importorskip("faiss")

D = 8
KEYS = [
    "Flat",
    "IDMap2,Flat",
    "PQ4x4np",
    "SQ8",
    "IVF4,Flat",
    "IVF4,PQ4x4np",
    "IVF4,PQ2+2",
    "IVF4,SQ4",
    "HNSW4,Flat",
    "PCA4,IVF4,Flat,RFlat",
]


@cache
def file_of(key: str) -> bytes:
    """What FAISS writes for a small index of a type."""
    x = np.random.default_rng(0).random((300, D), dtype=np.float32)
    index = oracle.index_factory(D, key)
    index.train(x)
    index.add_with_ids(x[:40], np.arange(40) * 3) if "IDMap" in key else index.add(x[:40])
    return oracle.serialize_index(index).tobytes()


def pieces(data: bytes):
    """A callback that hands bytes out a few at a time, and what is left."""
    stream = io.BytesIO(data)
    return lambda n: stream.read(min(n, 7)), stream


def through_a_vector(faiss, data):
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(data, dtype=np.uint8), reader.data)
    return faiss.read_index(reader)


def through_a_file_reader(faiss, data, path):
    path.write_bytes(data)
    return faiss.read_index(faiss.FileIOReader(str(path)))


def through_a_buffer(faiss, data):
    reader = faiss.PyCallbackIOReader(pieces(data)[0])
    return faiss.read_index(faiss.BufferedIOReader(reader))


@pytest.mark.parametrize("key", KEYS)
def test_every_reader_gives_the_index(faiss, key, tmp_path):
    data = file_of(key)
    (tmp_path / "a").write_bytes(data)
    ways = [
        lambda: faiss.read_index(str(tmp_path / "a")),
        lambda: faiss.read_index(faiss.PyCallbackIOReader(pieces(data)[0])),
        lambda: through_a_vector(faiss, data),
        lambda: through_a_file_reader(faiss, data, tmp_path / "b"),
        lambda: through_a_buffer(faiss, data),
        lambda: faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8)),
    ]
    for way in ways:
        assert faiss.serialize_index(way()).tobytes() == data


@pytest.mark.parametrize("key", KEYS)
def test_every_writer_gives_the_bytes(faiss, key, tmp_path):
    data = file_of(key)
    index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
    faiss.write_index(index, str(tmp_path / "a"))
    vector, parts = faiss.VectorIOWriter(), []
    faiss.write_index(index, vector)
    faiss.write_index(index, faiss.PyCallbackIOWriter(parts.append))
    held: list[bytes] = []
    buffered = faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(held.append), 100)
    faiss.write_index(index, buffered)
    del buffered
    assert (tmp_path / "a").read_bytes() == data == b"".join(parts) == b"".join(held)
    assert faiss.vector_to_array(vector.data).tobytes() == data


@given(key=st.sampled_from(KEYS), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=80)
def test_a_file_cut_short_says_where(key, share):
    data = file_of(key)
    with pytest.raises(FormatError, match="at byte"):
        tsscompat.deserialize_index(np.frombuffer(data[: int(share * len(data))], dtype=np.uint8))


@pytest.fixture
def allocations(monkeypatch):
    """The bytes of all tensors that reading asks for."""
    seen, empty, zeros, full = [], torch.empty, torch.zeros, torch.full

    def counting(make):
        def made(*args, **kwargs):
            tensor = make(*args, **{**kwargs, "device": "meta"})
            seen.append(tensor.numel() * tensor.element_size())
            if seen[-1] > 1 << 26:
                raise MemoryError(f"a tensor of {seen[-1]} bytes")
            return make(*args, **kwargs)

        return made

    monkeypatch.setattr(torch, "empty", counting(empty))
    monkeypatch.setattr(torch, "zeros", counting(zeros))
    monkeypatch.setattr(torch, "full", counting(full))
    return seen


@pytest.mark.parametrize("key", KEYS)
def test_a_tampered_file_is_read_or_refused_cheaply(key, allocations):
    data = file_of(key)

    @given(at=st.integers(0, 400), values=st.binary(min_size=1, max_size=8))
    @settings(max_examples=50)
    def tamper(at, values):
        hostile = bytearray(data)
        at %= max(1, len(data) - len(values))
        hostile[at : at + len(values)] = values
        allocations.clear()
        try:
            index = tsscompat.deserialize_index(np.frombuffer(bytes(hostile), dtype=np.uint8))
        except FormatError:
            index = None
        assert max(allocations, default=0) <= 64 * len(data) + (1 << 16), (at, values)
        if index is not None and index.is_trained and index.d == D:
            try:
                index.search(np.zeros((1, D), dtype=np.float32), 3)
            except RuntimeError:
                pass

    tamper()


@given(data=st.binary(max_size=64))
def test_noise_is_no_index(data):
    with pytest.raises(FormatError):
        tsscompat.deserialize_index(np.frombuffer(data, dtype=np.uint8))


def test_unknown_types_and_missing_files(faiss, tmp_path):
    for tag in (b"Ixxx", b"IxSV"):
        with pytest.raises(RuntimeError):
            faiss.deserialize_index(np.frombuffer(tag + bytes(64), dtype=np.uint8))
    with pytest.raises(RuntimeError):
        faiss.read_index(str(tmp_path / "nowhere"))
    with pytest.raises(RuntimeError):
        faiss.write_index(faiss.IndexFlatL2(4), str(tmp_path / "no" / "folder"))


def test_limits_of_reading(faiss):
    data = np.frombuffer(file_of("IVF4,Flat"), dtype=np.uint8)
    before = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
    try:
        faiss.set_deserialization_loop_limit(3)
        with pytest.raises(RuntimeError):
            faiss.deserialize_index(data)
        faiss.set_deserialization_loop_limit(0)
        faiss.set_deserialization_vector_byte_limit(64)
        with pytest.raises(RuntimeError):
            faiss.deserialize_index(data)
    finally:
        faiss.set_deserialization_loop_limit(before[0])
        faiss.set_deserialization_vector_byte_limit(before[1])
    assert faiss.deserialize_index(data).ntotal == 40


def test_transforms_quantizers_and_lists_have_files_of_their_own():
    x = np.random.default_rng(0).random((600, D), dtype=np.float32)
    theirs = oracle.index_factory(D, "OPQ2_4,IVF4,PQ2x4np")
    theirs.train(x)
    theirs.add(x[:50])
    ivf = oracle.downcast_index(oracle.extract_index_ivf(theirs))
    parts = {
        "VectorTransform": oracle.downcast_VectorTransform(theirs.chain.at(0)),
        "ProductQuantizer": ivf.pq,
        "InvertedLists": ivf.invlists,
    }
    for name, part in parts.items():
        writer = oracle.VectorIOWriter()
        getattr(oracle, f"write_{name}")(part, writer)
        written = oracle.vector_to_array(writer.data)
        reader, again = tsscompat.VectorIOReader(), tsscompat.VectorIOWriter()
        tsscompat.copy_array_to_vector(written, reader.data)
        getattr(tsscompat, f"write_{name}")(getattr(tsscompat, f"read_{name}")(reader), again)
        np.testing.assert_array_equal(tsscompat.vector_to_array(again.data), written, err_msg=name)


def test_what_is_no_file_and_no_bytes_is_refused_as_by_faiss(faiss):
    index = faiss.IndexFlatL2(3)
    octets = faiss.serialize_index(index)
    with pytest.raises(AssertionError):
        faiss.deserialize_index(octets.astype(np.int32))
    with pytest.raises(ValueError):
        faiss.deserialize_index(octets[None])
    for file in (3, b"name"):
        with pytest.raises(TypeError):
            faiss.write_index(index, file)
    with pytest.raises(TypeError):
        faiss.read_index(3)


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.serialize_index(f.LinearTransform(2, 2)),
        lambda f: f.serialize_index_binary(f.IndexFlat(2)),
        lambda f: f.write_ProductQuantizer(f.ScalarQuantizer(4, 0), "/nowhere/x"),
        lambda f: f.write_VectorTransform(f.IndexFlat(2), "/nowhere/x"),
        lambda f: f.clone_index(f.IndexBinaryFlat(8)),
        lambda f: f.clone_binary_index(f.IndexFlat(2)),
        lambda f: f.clone_Quantizer(f.IndexFlat(2)),
        lambda f: f.cast_integer_to_float_ptr(1.5),
    ],
)
def test_another_kind_of_thing_is_a_type_error(call, faiss):
    with pytest.raises(TypeError):
        call(faiss)
