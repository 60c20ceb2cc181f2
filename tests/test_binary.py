"""Binary indexes: promises that tsscompat and FAISS both keep, and answers that are FAISS's."""

from __future__ import annotations

import copy
import functools
import importlib
import pickle
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat

D, N = 72, 400
INT_MAX = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Row:
    """A binary index: its factory string, what is set on it, what FAISS refuses, whether its answers are determined to the last id."""

    key: str
    tune: tuple[tuple[str, object], ...] = ()
    lacks: frozenset[str] = frozenset()
    exact: bool = True
    exhaustive: bool = True

    def __str__(self) -> str:
        return self.key + "".join(f"-{name}" for name, _ in self.tune)


def row(key: str, lacks: str = "", exact: bool = True, exhaustive: bool = True, **tune: object) -> Row:
    return Row(key, tuple(tune.items()), frozenset(lacks.split()), exact, exhaustive)


HASH = "remove_ids reconstruct selector merge"
ROWS = [
    row("BFlat", "add_with_ids merge"),
    row("BFlat", "add_with_ids merge", use_heap=False),
    row("BIVF6", "selector", nprobe=6),
    row("BIVF6", "selector", exhaustive=False, nprobe=2),
    row("BIVF6", "selector", nprobe=6, use_heap=False, max_codes=10_000),
    row("BIVF6_HNSW4", "selector", exact=False, exhaustive=False, nprobe=2),
    row("BHNSW8", "add_with_ids remove_ids range_search merge", exact=False, exhaustive=False),
    row("BHash5", HASH, nflip=5),
    row("BHash5", HASH, exhaustive=False, nflip=1),
    row("BHash3x4", f"add_with_ids {HASH}", exact=False, exhaustive=False, nflip=1),
    row("IDMap,BFlat", "add reconstruct merge"),
    row("IDMap2,BFlat", "add merge"),
    row("IDMap2,BIVF6", "add selector merge", exact=False, exhaustive=False),
]


def codes(n: int, seed: int, d: int = D) -> np.ndarray:
    """Codes around 12 centres, some twice, so that distances are tied."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).integers(0, 256, (12, d // 8), dtype=np.uint8)
    noise = np.packbits(rng.random((n, d)) < 0.15, axis=1)
    made = centres[rng.integers(12, size=n)] ^ noise
    made[n // 2 : n // 2 + n // 10] = made[: n // 10]
    return made


XT, XB, XQ = codes(600, 1), codes(N, 2), codes(7, 3)
IDS = np.arange(N) * 3 + 50


def tuned(index, of: Row):
    for name, value in of.tune:
        setattr(index, name, value)
    return index


def made(faiss, of: Row):
    index = faiss.index_binary_factory(D, of.key)
    if hasattr(index, "cp"):
        index.cp.min_points_per_centroid = 1
    return tuned(index, of)


def ids_of(of: Row) -> np.ndarray:
    return IDS if "add" in of.lacks else np.arange(N)


@functools.cache
def file_of(of: Row, full: bool = True) -> bytes:
    """What FAISS made of a row, as a file."""
    faiss = importlib.import_module("faiss")
    index = made(faiss, of)
    index.train(XT)
    if full:
        index.add_with_ids(XB, IDS) if "add" in of.lacks else index.add(XB)
    return faiss.serialize_index_binary(index).tobytes()


def loaded(faiss, of: Row, full: bool = True):
    index = faiss.deserialize_index_binary(np.frombuffer(file_of(of, full), np.uint8))
    return tuned(index, of)


@pytest.fixture(params=ROWS, ids=str)
def of(request) -> Row:
    return request.param


def same_up_to_ties(expected, got) -> None:
    np.testing.assert_array_equal(expected[0], got[0])
    for d, a, b in zip(expected[0], expected[1], got[1]):
        inner = d < d[-1]
        assert set(a[inner]) == set(b[inner])


# -- promises ----------------------------------------------------------------------------------------------------------------------


def test_answers_have_types_shapes_and_true_distances(faiss, of):
    index = loaded(faiss, of)
    assert (index.d, index.code_size, index.ntotal, index.is_trained) == (D, D // 8, N, True)
    distances, ids = index.search(XQ, 5)
    assert (distances.dtype, ids.dtype) == (np.int32, np.int64)
    assert distances.shape == ids.shape == (len(XQ), 5) and (np.diff(distances, axis=1) >= 0).all()
    numbers = np.searchsorted(ids_of(of), ids)
    true = np.unpackbits(XQ[:, None] ^ XB[numbers], axis=2).sum(2)
    np.testing.assert_array_equal(distances, true)


def test_k_beyond_ntotal_is_padded(faiss, of):
    distances, ids = loaded(faiss, of).search(XQ[:2], N + 3)
    assert (ids[:, -3:] == -1).all()
    if "BHNSW" not in of.key:  # FAISS converts the largest float there
        assert (distances[:, -3:] == INT_MAX).all()
    if of.exhaustive:
        assert all(set(found) == {-1, *ids_of(of)} for found in ids.tolist())


def test_an_empty_index_and_an_empty_batch(faiss, of):
    assert (loaded(faiss, of, full=False).search(XQ, 3)[1] == -1).all()
    assert loaded(faiss, of).search(XQ[:0], 4)[1].shape == (0, 4)


def test_wrong_arguments_are_refused(faiss, of):
    index = loaded(faiss, of)
    with pytest.raises(AssertionError):
        index.search(XQ, 0)
    for call in (lambda x: index.search(x, 3), lambda x: index.range_search(x, 9), index.add, index.train):
        with pytest.raises((AssertionError, ValueError)):
            call(XQ[:, :-1].copy())
        with pytest.raises(TypeError):
            call(XQ.astype(np.float32))
    with pytest.raises(AssertionError):
        index.add_with_ids(XQ, np.arange(len(XQ) - 1))


def test_anything_can_be_kept_with_an_index(faiss, of):
    """FAISS refuses unknown names of float indexes only."""
    index = loaded(faiss, of)
    index.kept_alive = XQ
    assert index.kept_alive is XQ
    with pytest.raises(TypeError):
        index.ntotal = 1.5
    assert (index.search(XQ, 3)[0] == loaded(faiss, of).search(XQ, 3)[0]).all()
    if faiss is tsscompat:
        assert np.array_equal(copy.deepcopy(index).kept_alive, XQ) and len(faiss.serialize_index_binary(index)) == len(
            file_of(of, True)
        )


def test_a_range_search_finds_what_is_nearer(faiss, of):
    index, radius = loaded(faiss, of), 22
    if "range_search" in of.lacks:
        with pytest.raises(RuntimeError):
            index.range_search(XQ, radius)
        return
    lims, distances, ids = index.range_search(XQ, radius)
    assert (lims.dtype, distances.dtype, ids.dtype) == (np.uint64, np.float32, np.int64)
    table = np.unpackbits(XQ[:, None] ^ XB[None], axis=2).sum(2)
    for q in range(len(XQ)):
        found = slice(int(lims[q]), int(lims[q + 1]))
        numbers = np.searchsorted(ids_of(of), ids[found])
        np.testing.assert_array_equal(distances[found], table[q, numbers])
        assert (distances[found] < radius).all() and len(set(numbers)) == len(numbers)
        if of.exhaustive:
            assert len(numbers) == (table[q] < radius).sum()
    assert lims[-1] > 0


def test_ids_are_the_callers(faiss, of):
    index = loaded(faiss, of, full=False)
    if "add_with_ids" in of.lacks:
        with pytest.raises(RuntimeError):
            index.add_with_ids(XB, IDS)
        return
    index.add_with_ids(XB, IDS)
    assert np.isin(index.search(XQ, 3)[1], IDS).all()


def test_codes_are_reconstructed(faiss, of):
    index, ids = loaded(faiss, of), ids_of(of)
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    if "reconstruct" in of.lacks or "IDMap2,BIVF" in of.key:
        return
    np.testing.assert_array_equal(index.reconstruct(int(ids[7])), XB[7])
    if "IDMap" not in of.key:
        np.testing.assert_array_equal(index.reconstruct_n(3, 20), XB[3:23])


def test_what_is_removed_is_not_found(faiss, of):
    index, gone = loaded(faiss, of), ids_of(of)[::3]
    if "remove_ids" in of.lacks:
        with pytest.raises(RuntimeError):
            index.remove_ids(gone)
        return
    assert index.remove_ids(gone) == len(gone)
    assert index.ntotal == N - len(gone)
    if of.key == "BFlat":  # which numbers anew
        np.testing.assert_array_equal(index.reconstruct_n(), np.delete(XB, gone, axis=0))
    else:
        assert not np.isin(gone, index.search(XQ, 60)[1]).any()


def test_a_selector_restricts(faiss, of):
    index, wanted = loaded(faiss, of), ids_of(of)[5:60:4]
    params = faiss.SearchParametersHNSW if "BHNSW" in of.key else faiss.SearchParameters
    if "selector" in of.lacks:
        params = faiss.SearchParametersIVF if "IVF" in of.key else params
        with pytest.raises(RuntimeError):
            index.search(XQ, 4, params=params(sel=faiss.IDSelectorBatch(wanted)))
        return
    ids = index.search(XQ, 4, params=params(sel=faiss.IDSelectorBatch(wanted)))[1]
    assert np.isin(ids[ids >= 0], wanted).all()
    if of.exhaustive:
        assert (ids >= 0).all()


def test_a_reset_index_is_empty(faiss, of):
    index = loaded(faiss, of)
    index.reset()
    assert index.ntotal == 0 and (index.search(XQ, 2)[1] == -1).all()


def test_merging_moves_all(faiss, of):
    one, other = loaded(faiss, of), loaded(faiss, of)
    if "merge" in of.lacks and "IDMap" not in of.key:
        with pytest.raises(RuntimeError):
            one.merge_from(other, N)
        return
    if "merge" not in of.lacks:
        one.merge_from(other, 10_000)
        assert (one.ntotal, other.ntotal) == (2 * N, 0)
        assert one.search(XQ, 9)[1].max() >= 10_000


# -- FAISS's answers and files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 13])
@pytest.mark.parametrize("nq", [1, 7])
def test_answers_are_faiss_answers(of, nq, k):
    expected = loaded(importlib.import_module("faiss"), of).search(XQ[:nq], k)
    got = loaded(tsscompat, of).search(XQ[:nq], k)
    if of.exact:
        np.testing.assert_array_equal(expected[0], got[0])
        np.testing.assert_array_equal(expected[1], got[1])
    elif "HNSW" in of.key:  # walks part at ties
        assert abs(expected[0].mean() - got[0].mean()) <= 0.1 * expected[0].mean()
    else:
        same_up_to_ties(expected, got)


def test_files_come_back_byte_for_byte(of):
    raw = file_of(of)
    assert tsscompat.serialize_index_binary(tsscompat.deserialize_index_binary(raw)).tobytes() == raw


def test_faiss_reads_what_was_made_here(of):
    faiss = importlib.import_module("faiss")
    index = made(tsscompat, of)
    index.train(XT)
    index.add_with_ids(XB, IDS) if "add" in of.lacks else index.add(XB)
    there = tuned(faiss.deserialize_index_binary(tsscompat.serialize_index_binary(index)), of)
    assert type(there).__name__ == type(index).__name__
    expected, got = there.search(XQ, 9), index.search(XQ, 9)
    if "HNSW" in of.key:
        assert abs(expected[0].mean() - got[0].mean()) <= 0.1 * expected[0].mean()
    else:
        same_up_to_ties(expected, got)


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, copy.copy, tsscompat.clone_binary_index, lambda i: pickle.loads(pickle.dumps(i))]
)
def test_copies_stand_alone(of, twin):
    index = loaded(tsscompat, of)
    other = twin(index)
    before = index.search(XQ, 5)
    index.reset()
    assert other.ntotal == N
    for a, b in zip(before, other.search(XQ, 5)):
        np.testing.assert_array_equal(a, b)


def test_training_gives_faiss_centroids():
    faiss, found = importlib.import_module("faiss"), []
    for module in (faiss, tsscompat):
        index = made(module, row("BIVF6"))
        index.train(XT)
        found.append(index.quantizer.reconstruct_n(0, 6))
    np.testing.assert_array_equal(*found)


def test_a_file_cut_anywhere_is_refused(of):
    raw = file_of(of)
    for stop in [*range(0, min(len(raw), 120), 3), *range(120, len(raw) - 1, len(raw) // 40), len(raw) - 1]:
        with pytest.raises(RuntimeError):
            tsscompat.deserialize_index_binary(raw[:stop])


def test_a_flipped_bit_is_refused_or_harmless(of):
    """What loads with a bit of its first bytes flipped gives ids that a valid file could."""
    raw = file_of(of)
    for bit in range(32, 8 * 64, 7):
        data = bytearray(raw)
        data[bit // 8] ^= 1 << bit % 8
        try:
            index = tsscompat.deserialize_index_binary(bytes(data))
            queries = np.zeros((2, index.code_size), np.uint8)
            ids = index.search(queries, 3)[1]
        except RuntimeError:
            continue
        assert ((ids >= -1) & (ids <= IDS.max())).all()


# -- IVF ---------------------------------------------------------------------------------------------------------------------------


def lists(module, **tune):
    return tuned(loaded(module, row("BIVF6")), row("", **tune))


def test_given_lists_are_searched(faiss):
    index = lists(faiss, nprobe=2)
    keys = index.quantizer.search(XQ, 2)[1]
    np.testing.assert_array_equal(index.search_preassigned(XQ, 4, keys, None)[1], index.search(XQ, 4)[1])
    for a, b in zip(index.range_search_preassigned(XQ, 20, keys, np.zeros(keys.shape, np.int32)), index.range_search(XQ, 20)):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AssertionError):
        index.search_preassigned(XQ, 4, keys[:, :1], None)


def test_a_budget_of_codes_is_kept(faiss):
    index, stats = lists(faiss, nprobe=6, max_codes=90), faiss.cvar.indexIVF_stats
    stats.reset()
    index.search(XQ, 5)
    assert 0 < stats.ndis <= 90 * len(XQ) and stats.nq == len(XQ)


def test_direct_maps_and_hash_tables(faiss):
    index = lists(faiss)
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    assert index.remove_ids(faiss.IDSelectorArray(np.array([3, 8]))) == 2
    np.testing.assert_array_equal(index.reconstruct(9), XB[9])
    with pytest.raises(RuntimeError):
        index.reconstruct(8)
    others = faiss.ArrayInvertedLists(6, D // 8)
    index.replace_invlists(others)
    assert (index.search(XQ, 2)[1] == -1).all()


@given(st.integers(0, 2**20), st.sampled_from([8, 24, 64, 136]), st.integers(1, 70), st.integers(1, 3))
@settings(max_examples=15)
def test_lists_answer_as_faiss_does(seed, d, k, nprobe):
    rng, faiss = np.random.default_rng(seed), importlib.import_module("faiss")
    xb, xq = (rng.integers(0, 4, (n, d // 8), dtype=np.uint8) for n in (150, 40))
    answers = []
    for module in (faiss, tsscompat):
        quantizer = module.IndexBinaryFlat(d)
        quantizer.add(xb[:5])
        index = module.IndexBinaryIVF(quantizer, d, 5)
        index.nprobe = nprobe
        index.add(xb)
        answers.append([index.search(xq, k), index.search(xq[:1], k), index.range_search(xq, 3)[:2]])
        index.use_heap, index.max_codes = False, 10**6
        answers[-1].append(index.search(xq, k))
    for expected, got in zip(*answers):
        for a, b in zip(expected, got):
            np.testing.assert_array_equal(a, b)


# -- graphs, hashes, wrappers ------------------------------------------------------------------------------------------------------


def test_a_graph_finds_most_of_the_nearest(faiss):
    index = faiss.IndexBinaryHNSW(D, 16)
    index.add(XB)
    flat = faiss.IndexBinaryFlat(D)
    flat.add(XB)
    index.hnsw.efSearch = 64
    assert (index.search(XQ, 5)[0] == flat.search(XQ, 5)[0]).mean() > 0.9


def test_a_base_level_alone_is_searched():
    index = tsscompat.IndexBinaryHNSWCagra(D, 16)
    index.add(XB)
    assert index.keep_max_size_level0 and (index.search(XB, 1)[0] == 0).mean() > 0.9
    index.base_level_only, index.num_base_level_search_entrypoints = True, 100
    again = tsscompat.deserialize_index_binary(tsscompat.serialize_index_binary(index))
    assert (again.search(XB, 1)[0] == 0).mean() > 0.9
    with pytest.raises(RuntimeError):
        again.add(XB)


@given(st.integers(0, 2**20), st.integers(1, 16), st.integers(0, 3))
@settings(max_examples=10)
def test_hashes_count_and_find_as_faiss_does(seed, b, nflip):
    rng, faiss = np.random.default_rng(seed), importlib.import_module("faiss")
    xb, xq = (rng.integers(0, 256, (n, 2), dtype=np.uint8) for n in (60, 5))
    for make in (lambda module: module.IndexBinaryHash(16, b), lambda module: module.IndexBinaryMultiHash(16, 16 // b, b)):
        found = []
        for module in (faiss, tsscompat):
            index = make(module)
            index.add(xb)
            index.nflip = min(nflip, b)
            stats = module.cvar.indexBinaryHash_stats
            stats.reset()
            lims, distances, ids = index.range_search(xq, 7)
            hits = [sorted(zip(distances[a:z], ids[a:z])) for a, z in pairwise(lims)]
            found.append(
                (hits, index.search(xq, 4)[0].tolist(), index.hashtable_size(), stats.nq, stats.nlist, stats.n0, stats.ndis)
            )
        assert found[0] == found[1]


def test_shards_and_replicas(faiss):
    flat = faiss.IndexBinaryFlat(D)
    flat.add(XB)
    expected = flat.search(XQ, 6)
    shards, replicas = faiss.IndexBinaryShards(D), faiss.IndexBinaryReplicas(D)
    for _ in range(3):
        shards.add_shard(faiss.IndexBinaryFlat(D))
        replicas.addIndex(faiss.IndexBinaryFlat(D))
    shards.add(XB)
    replicas.add(XB)
    assert shards.ntotal == replicas.ntotal == N
    np.testing.assert_array_equal(shards.search(XQ, 6)[0], expected[0])
    np.testing.assert_array_equal(replicas.search(XQ, 6)[1], expected[1])
    distances, ids = shards.search(XQ, N + 2)
    assert (ids[:, -2:] == -1).all() and (distances[:, -2:] == INT_MAX).all()


def test_codes_in_an_index_of_vectors(faiss):
    index = faiss.IndexBinaryFromFloat(faiss.IndexFlatL2(D))
    index.train(XT)
    index.add(XB)
    flat = faiss.IndexBinaryFlat(D)
    flat.add(XB)
    np.testing.assert_array_equal(index.search(XQ, 5)[0], flat.search(XQ, 5)[0])
    again = faiss.deserialize_index_binary(faiss.serialize_index_binary(index))
    np.testing.assert_array_equal(again.search(XQ, 5)[1], index.search(XQ, 5)[1])


def test_factory_strings_are_refused_as_faiss_refuses_them(faiss):
    for key in ("Flat", "BFlatx", "BHNSW", "", "IDMap,Flat", "BHash30x30"):
        with pytest.raises(RuntimeError):
            faiss.index_binary_factory(D, key)
    with pytest.raises(RuntimeError):
        faiss.IndexBinaryFlat(12)


def test_tensors_in_give_tensors_back():
    index = loaded(tsscompat, row("BFlat"))
    distances, ids = index.search(torch.from_numpy(XQ), 3)
    assert isinstance(ids, torch.Tensor) and distances.dtype == torch.int32
    np.testing.assert_array_equal(ids.numpy(), index.search(XQ, 3)[1])


def test_gpus_are_placements(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")
    resources, index = tsscompat.StandardGpuResources(), loaded(tsscompat, row("BFlat"))
    placed = tsscompat.index_binary_cpu_to_gpu(resources, 1, index)
    assert isinstance(placed, tsscompat.GpuIndexBinaryFlat) and placed.getDevice() == 1
    both = tsscompat.index_binary_cpu_to_gpu_multiple([resources] * 2, [0, 1], index)
    own = tsscompat.GpuIndexBinaryFlat(resources, D)
    own.add(XB)
    target = tsscompat.IndexBinaryFlat(D)
    own.copyTo(target)
    for other in (placed, both, own, target, tsscompat.index_binary_gpu_to_cpu(placed), tsscompat.index_binary_gpu_to_cpu(both)):
        np.testing.assert_array_equal(other.search(XQ, 4)[1], index.search(XQ, 4)[1])
    assert type(tsscompat.index_binary_gpu_to_cpu(placed)) is tsscompat.IndexBinaryFlat


def test_removing_twice_beneath_an_id_map():
    """Lists are not renumbered, so some vectors are beyond the map's end: that is said, and is no IndexError."""
    index = tsscompat.index_binary_factory(16, "IDMap2,BIVF4")
    codes = np.random.default_rng(0).integers(0, 256, (40, 2), dtype=np.uint8)
    index.train(codes)
    index.add_with_ids(codes, np.arange(40))
    assert index.remove_ids(np.arange(10)) == 10
    with pytest.raises(RuntimeError):
        index.remove_ids(np.arange(10, 12))
    assert index.search(codes, 3)[1].max() < 40
