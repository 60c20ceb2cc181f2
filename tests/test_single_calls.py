"""One vector at a time: adding, reconstructing, removing and searching, as FAISS does and as many at once do."""

from __future__ import annotations

import functools

import faiss
import numpy as np
import pytest
import torch

import tsscompat.faiss_compat as ours
from tsscompat.kernels import entries
from tsscompat.kernels.accelerate import REGISTRY, find_twin

D = 16
KEYS = [
    "Flat",
    "SQ8",
    "SQ6",
    "SQ4",
    "PQ4np",
    "PQ4x4np",
    "SQfp16",
    "IVF8,Flat",
    "IVF8,SQ8",
    "IVF8,SQ4",
    "IVF8,PQ4np",
    "IVF8,PQ4x4np",
    "HNSW8",
    "LSH",
    "PCA8,IVF8,PQ4np",
    "IVF8,PQ4np,RFlat",
    "IDMap,SQ8",
    "IDMap2,IVF8,SQ8",
    "IDMap2,HNSW8",
]


def numbers(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D)).astype("float32")


@functools.cache
def trained(key: str, metric: int) -> np.ndarray:
    made = faiss.index_factory(D, key, metric)
    made.train(numbers(2600))
    return faiss.serialize_index(made)


def pair(key: str, metric: int = faiss.METRIC_L2):
    """The same trained index on both sides."""
    made = trained(key, metric)
    return faiss.deserialize_index(made), ours.deserialize_index(made)


def same_bytes(theirs, mine) -> None:
    assert np.array_equal(faiss.serialize_index(theirs), ours.serialize_index(mine))


def add_parts(index, parts, ids) -> None:
    at = 0
    for part in parts:
        if ids is None:
            index.add(part)
        else:
            index.add_with_ids(part, ids[at : at + len(part)])
        at += len(part)


def in_parts(x: np.ndarray) -> list[np.ndarray]:
    """Mostly single rows; also a few, and more than go the short way."""
    sizes, parts, at = [1, 1, 2, 1, 9, 1, 3, 1, 1], [], 0
    while at < len(x):
        n = sizes[len(parts) % len(sizes)]
        parts.append(x[at : at + n])
        at += n
    return parts


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("key", KEYS)
def test_adding_one_at_a_time_makes_faiss_index(key, metric):
    if key == "LSH" and metric != faiss.METRIC_L2:
        pytest.skip("has L2 only")
    theirs, mine = pair(key, metric)
    x = numbers(150, 1)
    if "HNSW" not in key:  # among equal distances graphs may choose other neighbours
        x[7] = x[3]
    ids = np.random.default_rng(2).permutation(1000)[: len(x)] if key.startswith("IDMap") else None
    for index in (theirs, mine):
        add_parts(index, in_parts(x), ids)
    same_bytes(theirs, mine)


@pytest.mark.parametrize("key", [key for key in KEYS if "IVF" in key and "RFlat" not in key])
def test_ids_of_the_callers(key):
    theirs, mine = pair(key)
    x, ids = numbers(60, 1), np.random.default_rng(2).permutation(1 << 40 >> 20)[:60]
    for index in (theirs, mine):
        add_parts(index, in_parts(x), ids)
    same_bytes(theirs, mine)


@pytest.mark.parametrize("kind", ["NoMap", "Array", "Hashtable"])
@pytest.mark.parametrize("key", ["IVF8,Flat", "IVF8,SQ8", "IVF8,PQ4np"])
def test_direct_maps_are_kept_up(key, kind):
    theirs, mine = pair(key)
    x = numbers(80, 1)
    for library, index in ((faiss, theirs), (ours, mine)):
        index.set_direct_map_type(getattr(library.DirectMap, kind))
        add_parts(index, in_parts(x), np.arange(80) * 3 if kind == "Hashtable" else None)
    if kind != "Hashtable":  # whose order in a file is nobody's business
        same_bytes(theirs, mine)
    if kind == "NoMap":
        return
    batch = mine.reconstruct_batch(np.array([0, 33, 78]))
    for name, one in zip((0, 33, 78), batch):
        np.testing.assert_array_equal(mine.reconstruct(name), one)
        np.testing.assert_allclose(one, theirs.reconstruct(name), rtol=1e-5, atol=1e-5)
    for wrong in (-1, 500):
        with pytest.raises(RuntimeError):
            mine.reconstruct(wrong)
    if kind == "Array":
        with pytest.raises(RuntimeError):
            mine.add_with_ids(x[:1], np.array([7]))


@pytest.mark.parametrize("key", [key for key in KEYS if "IVF" not in key and key not in ("LSH", "IDMap,SQ8")])
def test_one_vector_back(key):
    theirs, mine = pair(key)
    x = numbers(40, 1)
    for index in (theirs, mine):
        add_parts(index, in_parts(x), np.arange(40) * 5 if key.startswith("IDMap") else None)
    step = 5 if key.startswith("IDMap") else 1
    for name in (0, 11 * step, 39 * step):
        one = mine.reconstruct(name)
        np.testing.assert_array_equal(one, mine.reconstruct_batch(np.array([name]))[0])
        np.testing.assert_allclose(one, theirs.reconstruct(name), rtol=1e-5, atol=1e-5)
    given = mine.reconstruct(0)
    given[:] = 7
    assert not np.array_equal(mine.reconstruct(0), given), "a copy, not the stored vector"
    for wrong in (-1, 1000):
        with pytest.raises(RuntimeError):
            mine.reconstruct(wrong)


def test_a_vector_that_has_no_list_is_counted_and_kept_nowhere():
    theirs, mine = pair("IVF8,SQ8")
    x = numbers(3, 1)
    x[1, 4] = np.nan
    for index in (theirs, mine):
        for row in x:
            index.add(row[None])
    assert mine.ntotal == theirs.ntotal == 3
    same_bytes(theirs, mine)


def test_what_is_no_plain_array_goes_the_long_way():
    for key in ("Flat", "SQ8", "IVF8,PQ4np"):
        one, other = pair(key)[1], pair(key)[1]
        x = numbers(8, 1)
        for i in range(8):
            one.add(x[i : i + 1])
            other.add(np.asfortranarray(np.repeat(x, 2, 0))[2 * i : 2 * i + 1].astype("float64"))
        assert np.array_equal(ours.serialize_index(one), ours.serialize_index(other))
        for wrong in (x[:, :5], x[0], x[:1, None]):
            with pytest.raises(ValueError):
                one.add(wrong)
        assert one.ntotal == 8


def test_a_class_with_hooks_of_its_own_is_asked():
    class Doubled(ours.IndexFlatL2):
        def _add(self, x, ids):
            super()._add(2 * x, ids)

    index, x = Doubled(D), numbers(1)
    index.add(x)
    np.testing.assert_array_equal(index.reconstruct(0), 2 * x[0])


def test_untrained_indexes_refuse_single_vectors():
    for key in ("SQ8", "PQ4np", "IVF8,Flat", "IVF8,PQ4np"):
        with pytest.raises(RuntimeError):
            ours.index_factory(D, key).add(numbers(1))


def test_training_again_changes_the_codes():
    for key in ("SQ8", "PQ4np", "IVF8,SQ8"):
        mine, x = pair(key)[1], numbers(4, 3)
        mine.add(x[:1])
        mine.reset()
        mine.train(3 * numbers(2600, 5))
        mine.add(x[:1])
        other = ours.deserialize_index(ours.serialize_index(mine))
        other.reset()
        other.add(np.repeat(x, 5, 0)[::5][:1].copy())
        np.testing.assert_array_equal(ours.serialize_index(mine), ours.serialize_index(other))


@pytest.mark.parametrize("key", ["SQ8", "PQ4np", "IVF8,Flat", "IVF8,SQ4", "IVF8,PQ4np"])
def test_definitions_store_the_same(key, monkeypatch):
    mine, x = pair(key)[1], numbers(30, 1)
    plain = ours.deserialize_index(ours.serialize_index(mine))
    add_parts(mine, in_parts(x), None)
    for name in ("write_codes", "enter"):
        monkeypatch.setitem(vars(entries), name, REGISTRY[f"entries.{name}"].definition)
    for module in (ours.codes, ours.invlists):
        for name in ("write_codes", "enter"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, REGISTRY[f"entries.{name}"].definition)
    add_parts(plain, in_parts(x), None)
    assert np.array_equal(ours.serialize_index(mine), ours.serialize_index(plain))


@pytest.mark.parametrize("key", [*KEYS, "IDMap2,HNSW8", "IVF8,PQ4np,RFlat", "HNSW8_SQ8", "PCA8,Flat"])
def test_one_query_is_answered_as_many_are(key):
    theirs, mine = pair(key)
    x, ids = numbers(300, 1), np.random.default_rng(2).permutation(5000)[:300]
    for index in (theirs, mine):
        add_parts(index, [x], ids if key.startswith("IDMap") else None)
    queries = numbers(6, 9)
    many = mine.search(queries, 7)
    for i in range(6):
        one = mine.search(queries[i : i + 1], 7)
        assert one[0].dtype == np.float32 and one[1].dtype == np.int64
        np.testing.assert_array_equal(one[1][0], many[1][i])
        np.testing.assert_allclose(one[0][0], many[0][i], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(many[0], theirs.search(queries, 7)[0], rtol=1e-4, atol=1e-4)
    beyond = mine.search(queries[:1], 400)[1][0]
    assert set(beyond) <= set((ids if key.startswith("IDMap") else np.arange(300)).tolist()) | {-1}


def test_a_graph_is_linked_one_at_a_time_as_its_definition_links_it(monkeypatch):
    x = numbers(60, 4)
    one, other = ours.IndexHNSWFlat(D, 4), ours.IndexHNSWFlat(D, 4)
    for row in x:
        one.add(row[None])
    monkeypatch.setattr(ours.graph.linking, "link_one", REGISTRY["graph_link.link_one"].definition)
    for row in x:
        other.add(row[None])
    assert np.array_equal(ours.serialize_index(one), ours.serialize_index(other))


def test_searches_and_additions_in_turns():
    for key in ("IDMap2,HNSW8", "IDMap2,IVF8,SQ8", "LSH", "IVF8,PQ4np,RFlat"):
        theirs, mine = pair(key)
        x = numbers(80, 1)
        for i, row in enumerate(x):
            for index in (theirs, mine):
                index.add_with_ids(row[None], np.array([1000 - i])) if key.startswith("IDMap") else index.add(row[None])
            if i % 9 == 8:
                found = [index.search(x[i : i + 1], 5) for index in (theirs, mine)]
                np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4, atol=1e-4)
                assert found[0][1][0][0] == found[1][1][0][0]


@pytest.mark.parametrize("key", ["IVF8,PQ4np", "IVF8,FlatPanorama4", "IVF8,RQ2x4", "IVF8,Flat"])
def test_what_is_kept_for_searches_keeps_up_with_additions(key):
    mine, x = pair(key)[1], numbers(120, 1)
    x[40:] = x[40:41] + 0.01 * x[40:]  # one list outgrows its room again and again
    mine.nprobe = 8
    for i, row in enumerate(x):
        mine.add(row[None])
        if i % 3 == 2:
            fresh = ours.deserialize_index(ours.serialize_index(mine))
            one, other = mine.search(x[i : i + 1], 5), fresh.search(x[i : i + 1], 5)
            np.testing.assert_allclose(one[0], other[0], rtol=1e-4, atol=1e-4)
            assert set(one[1][0]) == set(other[1][0]) or "PQ" in key or "RQ" in key, "codes may be tied"


REMOVED = [[5], [0], [149], [3, 4, 5, 77], list(range(0, 150, 2)), [900], list(range(150))]


@pytest.mark.parametrize("names", REMOVED, ids=[str(len(names)) + "_" + str(names[0]) for names in REMOVED])
@pytest.mark.parametrize(
    "key", ["Flat", "SQ8", "PQ4np", "LSH", "IVF8,Flat", "IVF8,SQ4", "IDMap,Flat", "IDMap2,SQ8", "IDMap2,IVF8,Flat"]
)
def test_ids_are_removed_as_faiss_removes_them(key, names):
    theirs, mine = pair(key)
    x, ids = numbers(150, 1), 7 * np.random.default_rng(2).permutation(150)
    mapped = key.startswith("IDMap")
    for index in (theirs, mine):
        add_parts(index, [x], ids if mapped else None)
        given = np.array(names) * 7 if mapped else np.array(names)
        removed = index.remove_ids(given)
        assert removed == len([n for n in names if n < 150])
        if mapped:
            index.add_with_ids(x[:1], np.array([5000]))
        else:
            index.add(x[:1])
    same_bytes(theirs, mine)
    np.testing.assert_allclose(mine.search(x[:3], 4)[0], theirs.search(x[:3], 4)[0], rtol=1e-4, atol=1e-4)


def test_removing_leaves_an_array_of_the_callers_alone():
    mine, x = ours.IndexFlatL2(D), numbers(20)
    memory = torch.from_numpy(x.copy()).view(torch.uint8).reshape(-1)
    mine.codes.lend(memory)
    mine.ntotal = 20
    before = memory.clone()
    assert mine.remove_ids(np.array([3])) == 1
    assert torch.equal(memory, before)
    np.testing.assert_array_equal(mine.reconstruct(3), x[4])


@pytest.mark.parametrize("key", [key for key in KEYS if "x4" not in key and "fp16" not in key])
def test_single_vectors_go_the_short_way(key, monkeypatch):
    if "IVF" in key and find_twin("tsscompat.kernels.entries", "enter", "cpu") is None:
        pytest.skip("only the twin finds room for a list that is full")
    mine, mapped = pair(key)[1], key.startswith("IDMap")
    add_parts(mine, [numbers(40)], np.arange(40) if mapped else None)  # lists make room

    def refuse(*_):
        raise AssertionError("the long way")

    inner = mine
    while inner is not None:
        monkeypatch.setattr(type(inner), "_add", refuse)
        inner = inner.__dict__.get("index")
    add_parts(mine, [numbers(1)], np.array([50]) if mapped else None)
    assert mine.ntotal == 41
