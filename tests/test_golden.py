"""Files that FAISS wrote, one of each section, and of sections that it wrote once: read, searched, written back."""

from __future__ import annotations

import json

import faiss
import golden_files
import numpy as np
import pytest
from fuzzing import files, places
from golden_files import HERE, K, queries, read, widened

import tsscompat
from tsscompat.faiss_compat import sections
from tsscompat.faiss_compat.sections import describe

EXPECTED = json.loads((HERE / "expected.json").read_text())
NAMES = sorted(EXPECTED)
# Distances estimated from codes, in whose sums FAISS rounds otherwise.
ROUNDED = ("RaBitQ", "fs", "Iwrf")
# Distances that many vectors have.
TIED = ("Q", "LSH", "B")


def data_of(name: str) -> bytes:
    return (HERE / f"{name}.faiss").read_bytes()


def written(index) -> bytes:
    write = tsscompat.serialize_index_binary if "Binary" in type(index).__name__ else tsscompat.serialize_index
    return write(index).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_search_finds_what_faiss_finds(name):
    data, expected = data_of(name), EXPECTED[name]
    index = widened(read(tsscompat, data))
    if expected is None:
        return
    distances, ids = index.search(queries(index), K)
    theirs = widened(read(faiss, data)).search(queries(index), K)[0]
    rough = any(part in name for part in ROUNDED)
    np.testing.assert_allclose(distances, theirs, rtol=0.2 if rough else 1e-3, atol=2 if rough else 1e-3)
    assert (ids == np.array(expected)).mean() >= (0.6 if rough or any(part in name for part in TIED) else 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_written_back_as_faiss_writes_it(name):
    data = data_of(name)
    again = written(read(tsscompat, data))
    if name.startswith("old,"):
        index = faiss.deserialize_index(np.frombuffer(data, np.uint8).copy())
        assert again == faiss.serialize_index(index).tobytes()
    else:
        assert again == data


def test_every_section_is_here():
    """First or within another; lists in a file of their own are tried in test_ondisk.py."""
    held = {
        files()[name][place.at : place.at + 4].decode("latin-1")
        for name in NAMES
        for place in places(name)
        if place.kind == "tag"
    }
    parts = {"null", "il00", "ilar", "ilbl", "ilp2", "ilpn", "full", "sprs"}
    known = {*sections.index.by_tag, *sections.binary.by_tag, *sections.transform.by_tag, *parts}
    assert known - held == set(), "sections without a file"


def test_the_document_of_the_format_is_up_to_date():
    assert (HERE.parents[1] / "docs" / "format.md").read_text(encoding="utf-8") == describe.document()


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in HERE.iterdir()) < 1 << 20


def test_a_file_is_what_the_recipe_makes():
    """Of types whose training and order of adding do not depend on threads."""
    made = dict(zip(["Flat", "Flat@IP"], golden_files.all_files(faiss)))
    for name, (_, data) in made.items():
        assert data == data_of(name)
