"""Files that once got past the checks, files cut short at every length, and a writer killed at work."""

from __future__ import annotations

import io
import signal
import subprocess
import sys

import fuzzing
import numpy as np
import pytest

import tsscompat
from tsscompat.errors import FormatError

# Golden file, field (and which of that name), item, what is put there, what the refusal says.
REFUSED = [
    ("HNSW4,4+PQ2", "nlist", 0, 0, (1 << 64) - 4, "quantizers make"),
    ("HNSW4,4+PQ2", "code_size_1", 0, 0, 3, "quantizers make"),
    ("HNSW4,4+PQ2", "code_size", 0, 0, 0, "quantizers make"),
    ("HNSW4,RaBitQ", "cum_nneighbor_per_level", 1, -1, (1 << 31) - 1, "lists of 2147"),
    ("IVFFlatPanorama@IP", "invlists", 1, 0, (1 << 31) - 1, "lists in an index of 2"),
    ("IVFFlat,few", "invlists", 1, 0, (1 << 31) - 1, "lists in an index of 16"),
    ("IVF4,PQ2x4fs", "invlists", 1, 0, (1 << 31) - 1, "lists in an index of 4"),
    ("HNSWCagra", "num_base_level_search_entrypoints", 0, 0, 1 << 30, "random nodes"),
    ("BinaryHNSWCagra", "num_base_level_search_entrypoints", 0, 0, 1 << 30, "random nodes"),
    ("HNSW,no storage", "cum_nneighbor_per_level", 1, -1, 1 << 30, "lists of 1073"),
]


def put(name: str, field: str, nth: int, item: int, value: int) -> bytes:
    """A golden file with another value in a field."""
    place = [place for place in fuzzing.places(name) if place.field == field][nth]
    data, at = bytearray(fuzzing.files()[name]), place.at + place.size * (item % place.count)
    data[at : at + place.size] = value.to_bytes(place.size, "little")
    return bytes(data)


def read(data: bytes, binary: bool | None = None):
    binary = data[:2] == b"IB" if binary is None else binary
    how = tsscompat.deserialize_index_binary if binary else tsscompat.deserialize_index
    return how(np.frombuffer(data, np.uint8))


def test_a_file_of_no_lists_gets_no_room_for_billions():
    data = bytearray(fuzzing.files()["IVFFlat,few"])
    for place in fuzzing.places("IVFFlat,few"):
        if place.field == "nlist" or (place.field == "invlists" and data[place.at - 4 : place.at] == b"ilar"):
            data[place.at : place.at + 8] = (1 << 30).to_bytes(8, "little")
    with pytest.raises(FormatError, match="lists of 16 centroids"):
        read(bytes(data))


@pytest.mark.parametrize(("name", "field", "nth", "item", "value", "says"), REFUSED)
def test_it_is_refused(name, field, nth, item, value, says):
    read(fuzzing.files()[name])
    with pytest.raises(FormatError, match=says):
        read(put(name, field, nth, item, value))


# Golden file, the tag of the first object within it that goes, that of what comes in its place, what the refusal says.
SWAPPED = [
    ("ITQ4,LSH", b"LTra", b"null", "no matrices"),
    ("ITQ4,LSH", b"LTra", b"Viqm", "no matrices"),
    ("ITQ4,LSH", b"Viqm", b"null", "no matrices"),
    ("IVFIndependentQuantizer", b"IxF2", b"IHNf", "coarse quantizer"),
    ("IVF4,LSQ2x4fs_Nlsq2x4", b"IxF2", b"IwIQ", "centroids for 4 lists"),
]


def swapped(name: str, old: bytes, new: bytes) -> bytes:
    """A golden file with another object in the place of one."""
    data = fuzzing.files()[name]
    begin, end = next(part for part in fuzzing.parts(name) if data[part[0] : part[0] + 4] == old)
    return data[:begin] + next(spare for spare in fuzzing.spares() if spare[:4] == new) + data[end:]


@pytest.mark.parametrize(("name", "old", "new", "says"), SWAPPED)
def test_another_object_within_is_refused(name, old, new, says):
    with pytest.raises(FormatError, match=says):
        read(swapped(name, old, new))


@pytest.mark.parametrize("hidden", ["Flat", "IVF4,Flat", "IDMap,Flat"])
def test_a_coarse_quantizer_must_name_lists(hidden):
    """Of as many entries as there are lists, but with numbers of its own."""
    x = np.random.default_rng(0).random((40, 8), dtype=np.float32)
    coarse = tsscompat.index_factory(8, hidden)
    coarse.train(x)
    coarse.add(x[:4]) if hidden == "Flat" else coarse.add_with_ids(x[:4], np.array([0, 1, 2, 1 << 40]))
    index = tsscompat.IndexIVFFlat(tsscompat.IndexFlatL2(8), 8, 4)
    index.train(x)
    index.add(x)
    index.quantizer = coarse
    data = tsscompat.serialize_index(index).tobytes()
    if hidden == "Flat":
        assert (read(data).search(x, 3)[1] < 40).all()
    else:
        with pytest.raises(FormatError, match="numbers beyond 4 lists"):
            read(data)


def test_a_graph_may_refine():
    x = np.random.default_rng(0).random((60, 8), dtype=np.float32)
    base, second = tsscompat.IndexFlatL2(8), tsscompat.IndexHNSWFlat(8, 4)
    index = tsscompat.IndexRefine(base, second)
    index.add(x)
    np.testing.assert_array_equal(index.search(x, 3)[1][:, 0], np.arange(60))


SMALL = ["ZnLattice2x4_4", "LSH", "BFlat", "MinMax,SQ8", "MultiIndexQuantizer", "IVFFlat,no lists", "BHash2x4", "SQ4"]


@pytest.mark.parametrize("name", SMALL)
def test_a_file_cut_anywhere_says_where(name, tmp_path):
    data, path = fuzzing.files()[name], tmp_path / "index"
    binary = data[:2] == b"IB"
    from_file = tsscompat.read_index_binary if binary else tsscompat.read_index
    tag = data[:4].decode()
    for n in range(len(data)):
        path.write_bytes(data[:n])
        said = []
        for way in (
            lambda: read(data[:n], binary),
            lambda: from_file(str(path)),
            lambda: from_file(io.BytesIO(data[:n])),
        ):
            with pytest.raises(RuntimeError) as caught:
                way()
            assert type(caught.value) is FormatError and caught.value.__cause__ is None, n
            said.append(str(caught.value).replace(str(path), "the file"))
        for text in said:
            where = text.partition(", at byte ")[2]
            assert int(where.split()[0]) <= n
            trail = where.split(" > ")
            assert n < 4 or (trail[1] == tag and (n < 8 or len(trail) > 2)), (n, text)


KILLED = """
import os, sys, time
import numpy as np, tsscompat
from tsscompat.faiss_compat import io

def stop(*given):
    print("midway", flush=True)
    time.sleep(600)

def half(file, data):
    file.write(data[: len(data) // 2])
    stop()

if sys.argv[2] == "writing":
    io._write_all = half
else:
    os.fsync = stop
index = tsscompat.IndexFlatL2(64)
index.add(np.ones((1000, 64), dtype="float32"))
tsscompat.write_index(index, sys.argv[1])
"""


@pytest.mark.parametrize("when", ["writing", "syncing"])
def test_a_writer_killed_midway_leaves_the_old_file(when, tmp_path):
    path = tmp_path / "index"
    before = fuzzing.files()["Flat"]
    path.write_bytes(before)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path), when], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "midway\n"
    finally:
        child.kill()
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    # What it leaves beside the file is in nobody's way.
    again = tsscompat.read_index(str(path))
    tsscompat.write_index(again, str(path))
    assert path.read_bytes() == before
