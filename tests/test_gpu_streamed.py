"""Lists in the host's memory, fetched block by block: answers are those of resident lists, whatever the blocks and the memory.

Virtual GPUs are the CPU, where a tensor of the host's is as good as one of the GPU's; `two_devices.py` tells them apart.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from two_devices import GPU, HOST, TwoDevices

import tsscompat as faiss
from tsscompat import devices
from tsscompat.algorithms import streamed
from tsscompat.errors import FaissError, OutOfDeviceMemory
from tsscompat.faiss_compat.invlists_host import HostInvertedLists
from tsscompat.kernels import accelerate

D, N, NQ = 16, 3000, 40
KINDS = ["IVF24,Flat", "IVF24,PQ4x6", "IVF24,SQ8", "IVF24,SQfp16", "IVF24,PQ8x4fsr"]
STREAMED = KINDS[:4]


@pytest.fixture(autouse=True)
def virtual(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")


@pytest.fixture(scope="module")
def vectors():
    made = np.random.RandomState(5).randn(N + NQ, D).astype(np.float32)
    return made[:N], made[N:]


@pytest.fixture(scope="module")
def trained(vectors):
    made = {}
    for kind in KINDS:
        for metric in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
            index = faiss.index_factory(D, kind, metric)
            index.train(vectors[0])
            index.add_with_ids(vectors[0], np.arange(N) * 7 + 3)
            index.nprobe = 6
            made[kind, metric] = index
    return made


def options(unified: bool = True):
    made = faiss.GpuClonerOptions()
    made.memorySpace = faiss.MemorySpace_Unified if unified else faiss.MemorySpace_Device
    return made


def both(index, memory: int | None = None):
    """The index with its lists on a GPU, and with its lists in the host's memory."""
    resources = faiss.StandardGpuResources()
    if memory is not None:
        resources.setTempMemory(memory)
    return faiss.index_cpu_to_gpu(resources, 1, index), faiss.index_cpu_to_gpu(resources, 1, index, options())


def same(one, other) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        else:
            assert np.array_equal(a, b)


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT], ids=["L2", "IP"])
@pytest.mark.parametrize("kind", STREAMED)
@pytest.mark.parametrize("memory", [None, 40_000, 900])
def test_answers_are_those_of_resident_lists(trained, vectors, kind, metric, memory):
    index, queries = trained[kind, metric], vectors[1][: 4 if memory == 900 else NQ]
    resident, host = both(index, memory)
    assert type(host.invlists) is HostInvertedLists and host.getDevice() == 1
    faiss.cvar.indexIVF_stats.reset()
    expected = resident.search(queries, 9)
    stats = faiss.cvar.indexIVF_stats.ndis, faiss.cvar.indexIVF_stats.nlist
    faiss.cvar.indexIVF_stats.reset()
    same(host.search(queries, 9), expected)
    assert (faiss.cvar.indexIVF_stats.ndis, faiss.cvar.indexIVF_stats.nlist) == stats
    same(host.search(queries[:1], 400), resident.search(queries[:1], 400))
    radius = float(np.median(expected[0]))
    same(host.range_search(queries, radius), resident.range_search(queries, radius))


@pytest.mark.parametrize("kind", STREAMED)
def test_what_parameters_restrict(trained, vectors, kind):
    resident, host = both(trained[kind, faiss.METRIC_L2], 6000)
    queries = vectors[1][:8]
    for given in (
        {"sel": faiss.IDSelectorRange(0, 9000)},
        {"nprobe": 11, "max_codes": 150},
        {"nprobe": 11, "max_codes": 150, "sel": faiss.IDSelectorRange(0, 9000)},
    ):
        params = faiss.SearchParametersIVF(**{"nprobe": 5, **given})
        same(host.search(queries, 7, params=params), resident.search(queries, 7, params=params))
    params = faiss.SearchParametersIVF(nprobe=20, max_empty_result_buckets=1)
    radius = float(resident.search(queries, 3)[0].mean())
    same(host.range_search(queries, radius, params=params), resident.range_search(queries, radius, params=params))


def test_ties_keep_the_order_of_the_scan(vectors):
    """Of tied results those met first stay, wherever blocks are cut."""
    repeated = np.repeat(np.round(vectors[0][:60]), 20, axis=0)
    index = faiss.index_factory(D, "IVF8,Flat")
    index.train(vectors[0])
    index.add(repeated)
    index.nprobe = 8
    for memory in (1000, 20_000, None):
        resident, host = both(index, memory)
        found, expected = host.search(repeated[::100], 30), resident.search(repeated[::100], 30)
        same(found[:1], expected[:1])
        for row, labels in zip(*found):
            assert (np.diff(labels)[np.diff(row) == 0] > 0).all() and len(set(labels)) == 30


@pytest.mark.parametrize("kind", STREAMED)
def test_lists_change_on_the_host(trained, vectors, kind):
    resident, host = both(trained[kind, faiss.METRIC_L2], 9000)
    for index in (resident, host):
        index.search(vectors[1], 2)  # what is kept between searches must not outlive a change
        index.add_with_ids(vectors[1], np.arange(NQ) + 100_000)
    same(host.search(vectors[1], 5), resident.search(vectors[1], 5))
    for index in (resident, host):
        assert index.remove_ids(faiss.IDSelectorRange(0, 5000)) == 714
    same(host.search(vectors[1], 5), resident.search(vectors[1], 5))
    one, other = host.search_and_reconstruct(vectors[1][:3], 4), resident.search_and_reconstruct(vectors[1][:3], 4)
    same(one, other)
    back = faiss.index_gpu_to_cpu(host)
    assert type(back) is type(trained[kind, faiss.METRIC_L2]) and type(back.invlists) is faiss.ArrayInvertedLists
    same(back.search(vectors[1], 5), resident.search(vectors[1], 5))
    assert np.array_equal(faiss.serialize_index(back), faiss.serialize_index(faiss.index_gpu_to_cpu(resident)))
    host.reset()
    assert (host.search(vectors[1], 2)[1] == -1).all()


def test_an_index_made_with_unified_memory(vectors):
    config = faiss.GpuIndexIVFPQConfig()
    config.memorySpace, config.device = faiss.MemorySpace_Unified, 1
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(5000)
    made = faiss.GpuIndexIVFPQ(resources, D, 16, 4, 8, faiss.METRIC_L2, config)
    assert type(made.invlists) is HostInvertedLists
    made.train(vectors[0])
    made.add(vectors[0])
    plain = faiss.IndexIVFPQ(faiss.IndexFlatL2(D), D, 16, 4, 8)
    made.copyTo(plain)
    made.nprobe = plain.nprobe = 4
    same(made.search(vectors[1], 5), plain.search(vectors[1], 5))
    assert resources.getMemoryInfo()[1]["IVFLists"] == (0, 0)
    again = faiss.GpuIndexIVFPQ(resources, plain, config)
    assert type(again.invlists) is HostInvertedLists
    same(again.search(vectors[1], 5), plain.search(vectors[1], 5))


def test_what_has_no_such_lists_refuses(trained):
    resources = faiss.StandardGpuResources()
    for index in (faiss.IndexPQ(D, 4, 4), faiss.IndexHNSWFlat(D, 4), trained["IVF24,PQ8x4fsr", faiss.METRIC_L2]):
        with pytest.raises(FaissError, match="memorySpace"):
            faiss.index_cpu_to_gpu(resources, 0, index, options())
    with pytest.raises(FaissError, match="memorySpace"):
        faiss.index_binary_cpu_to_gpu(resources, 0, faiss.IndexBinaryFlat(16), options())
    config = faiss.GpuIndexIVFFlatConfig()
    config.flatConfig.memorySpace = faiss.MemorySpace_Unified
    with pytest.raises(FaissError, match="memorySpace"):
        faiss.GpuIndexIVFFlat(resources, D, 4, faiss.METRIC_L2, config)
    graph = faiss.GpuIndexCagraConfig()
    graph.memorySpace = faiss.MemorySpace_Unified
    with pytest.raises(FaissError, match="memorySpace"):
        faiss.GpuIndexCagra(resources, D, faiss.METRIC_L2, graph)


def test_what_does_not_fit_says_what_would_help(trained, monkeypatch):
    index, resources = trained["IVF24,Flat", faiss.METRIC_L2], faiss.StandardGpuResources()
    monkeypatch.setattr(devices, "free_memory", lambda device: 100_000)
    with pytest.raises(OutOfDeviceMemory, match="MemorySpace_Unified leaves its lists in the host's memory"):
        faiss.index_cpu_to_gpu(resources, 0, index)
    assert faiss.index_cpu_to_gpu(resources, 0, index, options()).ntotal == N


@pytest.mark.parametrize("kind", STREAMED[:2])
def test_such_an_index_is_like_any_other(trained, vectors, kind):
    """Maps, merging, copies, pickling, and the way to the CPU."""
    resident, host = both(trained[kind, faiss.METRIC_L2], 9000)
    expected = resident.search(vectors[1], 5)
    same(copy.deepcopy(host).search(vectors[1], 5), expected)
    same(pickle.loads(pickle.dumps(host)).search(vectors[1], 5), expected)
    host.set_direct_map_type(faiss.DirectMap.Hashtable)
    np.testing.assert_allclose(host.reconstruct(7 * 11 + 3), resident.reconstruct_n(0, 100)[80], rtol=1e-5, atol=1e-5)
    host.set_direct_map_type(faiss.DirectMap.NoMap)
    host.merge_from(copy.deepcopy(resident), 0)
    assert host.ntotal == 2 * N and (host.search(vectors[1], 2)[1][:, 0] == host.search(vectors[1], 2)[1][:, 1]).all()
    assert host.memory_usage().parts["codes"] >= 2 * N * host.code_size
    moved = both(trained[kind, faiss.METRIC_L2])[1].cpu()
    assert moved.getDevice() == -1
    same(moved.search(vectors[1], 5), expected)


@pytest.fixture
def card(monkeypatch):
    """A device on which no room of a block may be larger than so many rows; counts the blocks that were asked for."""
    made = streamed._Rooms.__init__
    seen = {"limit": 0, "asked": []}

    def rooms(self, sources, rows, device):
        seen["asked"].append(rows)
        if rows > seen["limit"]:
            raise torch.OutOfMemoryError("no room")
        made(self, sources, rows, device)

    monkeypatch.setattr(streamed._Rooms, "__init__", rooms)
    return seen


@pytest.mark.parametrize("kind", STREAMED[:2])
def test_memory_that_runs_out_is_met_with_smaller_blocks(trained, vectors, kind, card):
    resident, host = both(trained[kind, faiss.METRIC_L2], 200_000)
    card["limit"] = 200
    same(host.search(vectors[1], 5), resident.search(vectors[1], 5))
    assert min(card["asked"]) <= 200 < max(card["asked"])
    card["limit"] = 0
    with pytest.raises(OutOfDeviceMemory, match="no room for blocks of lists"):
        host.search(vectors[1], 5)
    card["limit"] = 1 << 30
    same(host.search(vectors[1], 5), resident.search(vectors[1], 5))


def tensors_of(thing, seen=None):
    """Every tensor that an index holds, but for what its lists and its map hold."""
    seen = {} if seen is None else seen
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, (list, tuple, dict)) or hasattr(thing, "__dict__"):
        if id(thing) in seen or isinstance(thing, (HostInvertedLists, faiss.DirectMap, type)):
            return
        seen[id(thing)] = thing
        parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else vars(thing).values()
        for part in list(parts):
            yield from tensors_of(part, seen)


@pytest.mark.parametrize("kind", STREAMED)
def test_host_and_device_are_not_mixed(trained, vectors, kind, monkeypatch):
    """All that a search, an addition and a removal do, with a host and a GPU that are told apart."""
    monkeypatch.setattr(accelerate, "_device_type", lambda args, kwargs: "a kind of device that has no twins")
    _, host = both(trained[kind, faiss.METRIC_L2], 9000)
    queries, more = torch.from_numpy(vectors[1]), torch.from_numpy(vectors[0][:5].copy())
    expected = host._search(queries, 5, None)
    params = faiss.SearchParametersIVF(nprobe=5, max_codes=150, sel=faiss.IDSelectorRange(0, 9000))
    with TwoDevices() as both_kinds:
        both_kinds.put([queries, more, list(tensors_of(host))], GPU)
        lists = host.invlists
        both_kinds.put([lists._codes, lists._ids, lists._offsets, lists._sizes, lists._rooms, lists._tail], HOST)
        for held in (host, host.quantizer):
            held.__dict__["_device"] = GPU
        host._drop_caches()
        found = host._search(queries, 5, None)
        assert both_kinds.of(found[1]) == GPU and both_kinds.moved > 5
        host._search(queries, 5, params)
        host._range_search(queries, 8.0, None)
        host._search_and_reconstruct(queries, 3, None)
        host._add(more, torch.arange(5, device=GPU) + 50_000)
        host._reconstruct_n(3, 1)
        assert host._remove(faiss.IDSelectorRange(50_000, 50_002)) == 2
        again = host._search(queries, 5, None)
    assert torch.equal(found[1], expected[1])
    assert again[1].shape == found[1].shape


def test_mixing_fails():
    with TwoDevices() as both_kinds:
        ours, theirs = torch.ones(4, device=GPU), torch.ones(4)
        assert both_kinds.of(ours * 2) == GPU and both_kinds.of(theirs.to(GPU)) == GPU and both_kinds.of(ours.cpu()) == HOST
        with pytest.raises(AssertionError, match="add takes tensors of the host and of the GPU"):
            ours.add(theirs)
        with pytest.raises(AssertionError, match="__getitem__ takes"):
            theirs[torch.zeros(2, dtype=torch.int64, device=GPU)]


# -- flat indexes ---------------------------------------------------------------------------------------------------------------------


def flat_in_host(vectors, metric=faiss.METRIC_L2, memory=None, half=False):
    """A flat index on a GPU, and one whose vectors are in the host's memory."""
    resources, made = faiss.StandardGpuResources(), []
    if memory is not None:
        resources.setTempMemory(memory)
    index = faiss.IndexFlat(D, metric)
    index.add(vectors[0])
    for unified in (False, True):
        given = options(unified)
        given.useFloat16 = half
        made.append(faiss.index_cpu_to_gpu(resources, 1, index, given))
    assert [type(i) for i in made] == [faiss.GpuIndexFlat] * 2 and made[1].getDevice() == 1
    return made


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L1], ids=["L2", "IP", "L1"])
@pytest.mark.parametrize("memory, half", [(None, False), (90_000, False), (90_000, True), (4000, False)])
def test_flat_answers_are_those_of_resident_vectors(vectors, metric, memory, half):
    queries = vectors[1][: 3 if memory == 4000 else NQ]
    resident, host = flat_in_host(vectors, metric, memory, half)
    expected = resident.search(queries, 9)
    same(host.search(queries, 9), expected)
    same(host.search(queries[:2], N + 5), resident.search(queries[:2], N + 5))
    radius = float(np.median(expected[0]))
    same(host.range_search(queries, radius), resident.range_search(queries, radius))
    some = faiss.SearchParameters(sel=faiss.IDSelectorRange(700, 1900))
    same(host.search(queries, 5, params=some), resident.search(queries, 5, params=some))
    same(host.range_search(queries, radius, params=some), resident.range_search(queries, radius, params=some))


def test_flat_vectors_change_in_the_hosts_memory(vectors):
    resident, host = flat_in_host(vectors, memory=20_000)
    for index in (resident, host):
        index.add(vectors[1])
        index.update_vectors(np.array([3, 5]), vectors[1][:2])
        assert index.remove_ids(np.array([0, 1000])) == 2
        assert index.remove_ids(faiss.IDSelectorRange(10, 10)) == 0
    assert np.array_equal(host.reconstruct_n(), resident.reconstruct_n()) and np.array_equal(
        host.reconstruct(7), resident.reconstruct(7)
    )
    same(host.search(vectors[1], 4), resident.search(vectors[1], 4))
    for kept in (copy.deepcopy(host), faiss.index_gpu_to_cpu(host), pickle.loads(pickle.dumps(host))):
        same(kept.search(vectors[1], 4), resident.search(vectors[1], 4))
    assert type(faiss.index_gpu_to_cpu(host)) is faiss.IndexFlatL2 and host._gpu_content() == {"FlatData": []}
    back = faiss.GpuIndexFlat(faiss.StandardGpuResources(), host)
    assert not back._in_host and np.array_equal(back.reconstruct_n(), host.reconstruct_n())
    host.reset()
    assert host.ntotal == 0 and (host.search(vectors[1], 2)[1] == -1).all()
    config = faiss.GpuIndexFlatConfig()
    config.memorySpace = faiss.MemorySpace_Unified
    made = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), D, config)
    made.add(vectors[0])
    assert np.array_equal(
        made.search(vectors[1], 3)[1], flat_in_host(vectors, faiss.METRIC_INNER_PRODUCT)[0].search(vectors[1], 3)[1]
    )


def test_flat_host_and_device_are_not_mixed(vectors, monkeypatch):
    """All that a search and changes do, with a host and a GPU that are told apart."""
    monkeypatch.setattr(accelerate, "_device_type", lambda args, kwargs: "a kind of device that has no twins")
    _, host = flat_in_host(vectors, memory=9000)
    queries, more = torch.from_numpy(vectors[1]), torch.from_numpy(vectors[0][:5].copy())
    expected = host._search(queries, 5, None)
    with TwoDevices() as both_kinds:
        both_kinds.put([queries, more], GPU)
        both_kinds.put([host.codes._buffer], HOST)
        host.__dict__["_device"] = GPU
        found = host._search(queries, 5, None)
        assert both_kinds.of(found[1]) == GPU and both_kinds.of(host.codes._buffer) == HOST
        host._search(queries, 5, faiss.SearchParameters(sel=faiss.IDSelectorRange(0, 900)))
        host._range_search(queries, 8.0, None)
        host._add(more, None)
        host._update_vectors(torch.arange(2, device=GPU), more[:2])
        assert both_kinds.of(host._reconstruct(torch.arange(4, device=GPU))) == GPU
        assert both_kinds.of(host._reconstruct_n(3, 2)) == GPU
        assert host._remove(faiss.IDSelectorRange(3000, 3005)) == 5
        host._permute_entries(torch.arange(host.ntotal, device=GPU).flip(0))
    assert torch.equal(found[1], expected[1])
