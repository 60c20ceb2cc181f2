"""FAISS's GPU names on virtual GPUs: options that are honoured, CAGRA, half precision, and how content gets to a device."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import faiss as real
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tsscompat as faiss
from tsscompat.algorithms import cagra
from tsscompat.devices import in_pieces
from tsscompat.errors import FaissError

D = 16


@pytest.fixture(autouse=True)
def virtual(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")


@pytest.fixture(scope="module")
def vectors():
    made = np.random.RandomState(3).randn(1500, D).astype(np.float32)
    return made[:1400], made[1400:]


def recall(found, truth) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist())]))


def exact(xb, xq, k, metric):
    return real.knn(xq, xb, k, metric)[1]


@pytest.fixture(scope="module", params=[faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT], ids=["L2", "IP"])
def graph(request, vectors):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")
        config = faiss.GpuIndexCagraConfig()
        config.graph_degree, config.intermediate_graph_degree, config.device = 16, 24, 1
        index = faiss.GpuIndexCagra(faiss.StandardGpuResources(), D, request.param, config)
        assert not index.is_trained
        index.train(vectors[0])
        return index


def test_cagra_finds_neighbours(graph, vectors):
    xb, xq = vectors
    assert graph.getDevice() == 1 and graph.ntotal == len(xb)
    truth = exact(xb, xq, 10, graph.metric_type)
    assert recall(graph.search(xq, 10)[1], truth) > 0.95
    few = faiss.SearchParametersCagra(itopk_size=10, max_iterations=3)
    many = faiss.SearchParametersCagra(itopk_size=200)
    assert recall(graph.search(xq, 10, params=few)[1], truth) < recall(graph.search(xq, 10, params=many)[1], truth)
    allowed = faiss.SearchParametersCagra(itopk_size=100, sel=faiss.IDSelectorRange(0, 700))
    labels = graph.search(xq, 10, params=allowed)[1]
    assert labels.max() < 700 and (labels >= 0).all()


@pytest.mark.parametrize("base_only", [False, True])
def test_a_graph_copied_out_is_read_by_faiss(graph, vectors, tmp_path, base_only):
    xb, xq = vectors
    layered = faiss.IndexHNSWCagra()
    layered.base_level_only = base_only
    graph.copyTo(layered)
    faiss.write_index(layered, str(tmp_path / "graph"))
    theirs = real.read_index(str(tmp_path / "graph"))
    assert type(theirs) is real.IndexHNSWCagra and theirs.ntotal == len(xb) and theirs.base_level_only == base_only
    theirs.hnsw.efSearch = 100
    assert recall(theirs.search(xq, 10)[1], exact(xb, xq, 10, graph.metric_type)) > 0.9


def test_a_graph_copied_in_is_the_same(graph, vectors):
    back = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.index_gpu_to_cpu(graph))
    assert type(back) is faiss.GpuIndexCagra and back.getDevice() == 0
    assert back.get_knngraph().tensor.equal(graph.get_knngraph().tensor)
    assert np.array_equal(back.search(vectors[1], 5)[1], graph.search(vectors[1], 5)[1])


def test_cagra_refuses_what_it_does_not_do():
    config = faiss.GpuIndexCagraConfig()
    config.graph_degree = 7
    with pytest.raises(FaissError, match="graph_degree"):
        faiss.GpuIndexCagra(faiss.StandardGpuResources(), D, faiss.METRIC_L2, config)
    with pytest.raises(FaissError, match="not trained"):
        faiss.GpuIndexCagra(faiss.StandardGpuResources(), D).copyTo(faiss.IndexHNSWCagra())


@pytest.fixture(scope="module")
def codes():
    """Codes of vectors of few dimensions: which side of hyperplanes they are on."""
    rs = np.random.RandomState(5)
    made = np.packbits(rs.randn(1500, 5) @ rs.randn(5, 96) > rs.randn(96), axis=1)
    return made[:1400], made[1400:]


@pytest.fixture(scope="module")
def binary_graph(codes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")
        config = faiss.GpuIndexCagraConfig()
        config.graph_degree, config.intermediate_graph_degree, config.device = 16, 32, 1
        index = faiss.GpuIndexBinaryCagra(faiss.StandardGpuResources(), 96, config)
        assert not index.is_trained
        index.train(codes[0])
        index.train(codes[0][:3])  # without effect, as in FAISS
        return index


def true_distances(codes, k: int):
    flat = real.IndexBinaryFlat(96)
    flat.add(codes[0])
    return flat.search(codes[1], k)[0]


def test_binary_cagra_finds_neighbours(binary_graph, codes):
    assert (binary_graph.getDevice(), binary_graph.ntotal) == (1, 1400)
    truth, shares = true_distances(codes, 10), []
    for asked in ({"itopk_size": 10, "max_iterations": 2}, {"itopk_size": 200}):
        distances, labels = binary_graph.search(codes[1], 10, params=faiss.SearchParametersCagra(**asked))
        assert (distances.dtype, labels.dtype) == (np.int32, np.int64)
        shares.append((distances == truth).mean())
    assert shares[0] < shares[1] and shares[1] > 0.95
    chosen = faiss.SearchParametersCagra(itopk_size=100, sel=faiss.IDSelectorRange(0, 700))
    labels = binary_graph.search(codes[1], 10, params=chosen)[1]
    assert labels.max() < 700 and (labels >= 0).all()


@pytest.mark.parametrize("base_only", [False, True])
def test_a_binary_graph_copied_out_is_read_by_faiss(binary_graph, codes, tmp_path, base_only):
    layered = faiss.IndexBinaryHNSWCagra()
    layered.base_level_only = base_only
    binary_graph.copyTo(layered)
    faiss.write_index_binary(layered, str(tmp_path / "graph"))
    theirs = real.read_index_binary(str(tmp_path / "graph"))
    assert type(theirs) is real.IndexBinaryHNSWCagra and theirs.ntotal == 1400 and theirs.base_level_only == base_only
    theirs.hnsw.efSearch = 200
    # One query at a time: FAISS's walks of a base level alone take the nodes that the queries before met for visited.
    found = np.concatenate([theirs.search(codes[1][i : i + 1], 10)[0] for i in range(100)])
    assert (found == true_distances(codes, 10)).mean() > 0.9


def test_a_binary_graph_copied_in_is_the_same(binary_graph, codes):
    back = faiss.index_binary_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.index_binary_gpu_to_cpu(binary_graph))
    assert type(back) is faiss.GpuIndexBinaryCagra and back.getDevice() == 0
    assert back.get_knngraph().tensor.equal(binary_graph.get_knngraph().tensor)
    assert np.array_equal(back.search(codes[1], 5)[0], binary_graph.search(codes[1], 5)[0])
    back.reset()
    assert (back.ntotal, back.is_trained) == (0, False)
    back.add(codes[0][:50])
    assert back.ntotal == 50 and (back.search(codes[0][:50], 1)[0] == 0).all()


def test_a_graph_is_made_once(vectors):
    index = faiss.GpuIndexCagra(faiss.StandardGpuResources(), D)
    index.train(vectors[0][:300])
    edges = index.get_knngraph().tensor.clone()
    index.train(vectors[0][:50])
    index.add(vectors[0][:50])
    assert index.ntotal == 300 and index.get_knngraph().tensor.equal(edges)
    with pytest.raises(FaissError, match="already trained"):
        index.trainAllNeighbors(50, faiss.swig_ptr(vectors[0]), [0])
    index.reset()
    index.add(vectors[0][:50])
    assert index.ntotal == 50 and (index.search(vectors[0][:50], 1)[1][:, 0] == np.arange(50)).all()


def test_pruning_keeps_edges_and_leads_back():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    near = cagra.neighbours(x, 12, faiss.METRIC_L2)
    assert (near != torch.arange(200)[:, None]).all() and near.unique(dim=1).shape == near.shape
    graph = cagra.pruned(near, 8)
    assert graph.shape == (200, 8) and (graph >= 0).all()
    assert all(len(set(row)) == 8 and i not in row for i, row in enumerate(graph.tolist()))
    assert (graph[:, 0] == near[:, 0]).all(), "nothing leads to the nearest by a shorter way"
    assert cagra.build(x[:3], 12, 8, faiss.METRIC_L2)[:, 2:].eq(-1).all()


def test_ids_of_32_bits_lose_their_upper_half(vectors):
    config = faiss.GpuIndexIVFFlatConfig()
    config.indicesOptions = faiss.INDICES_32_BIT
    index = faiss.GpuIndexIVFFlat(faiss.StandardGpuResources(), D, 4, faiss.METRIC_L2, config)
    index.train(vectors[0])
    index.add_with_ids(vectors[0], np.arange(len(vectors[0])) + (1 << 32))
    assert np.array_equal(index.search(vectors[0][:5], 1)[1][:, 0], np.arange(5))


def test_resources_say_what_is_held(vectors):
    resources = faiss.StandardGpuResources()
    flat = faiss.index_cpu_to_gpu(resources, 1, faiss.IndexFlatL2(D))
    flat.add(vectors[0])
    assert resources.getMemoryInfo()[1]["FlatData"] == (1, vectors[0].nbytes)
    del flat
    assert resources.getMemoryInfo()[1]["FlatData"] == (0, 0)


def test_resources_give_memory_and_take_it_back():
    resources = faiss.StandardGpuResourcesImpl()
    resources.initializeForDevice(1)
    pointer = resources.allocMemory(SimpleNamespace(device=1, size=100))
    assert pointer.take(100).dtype == torch.uint8 and resources.getMemoryInfo()[1]["Other"] == (1, 100)
    with pytest.raises(RuntimeError, match="no memory of GPU 0"):
        resources.deallocMemory(0, pointer)
    resources.deallocMemory(1, pointer)
    assert "Other" not in resources.getMemoryInfo()[1]
    resources.deallocMemory(1, None)
    with pytest.raises(RuntimeError):
        resources.initializeForDevice(7)


def test_a_virtual_gpu_has_no_streams():
    resources = faiss.StandardGpuResourcesImpl()
    assert resources.getAlternateStreams(0) == [] and resources.getBlasHandle(0) == resources.getAsyncCopyStream(0) == 0
    assert resources.getPinnedMemory() == (None, 0)
    with pytest.raises(TypeError):
        faiss.GpuResourcesVector().push_back(3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams are CUDA's")
def test_a_gpu_has_streams(monkeypatch):
    monkeypatch.delenv("TSSCOMPAT_VIRTUAL_GPUS")
    resources = faiss.StandardGpuResourcesImpl()
    streams = [*resources.getAlternateStreams(0), resources.getAsyncCopyStream(0)]
    assert len(set(streams)) == 3 and all(streams) and resources.getBlasHandle(0)
    pointer = resources.allocMemory(SimpleNamespace(device=0, size=64))
    assert pointer.take(64).is_cuda
    resources.deallocMemory(0, pointer)


def test_cloners_have_options_of_their_own(vectors):
    index = faiss.IndexFlatL2(D)
    index.add(vectors[0])
    options = faiss.GpuMultipleClonerOptions()
    cloner = faiss.ToGpuCloner(faiss.StandardGpuResources(), 1, options)
    assert (cloner.device, cloner.useFloat16) == (1, False) and cloner.clone_Index(index).getDevice() == 1
    cloner.useFloat16 = True
    assert not options.useFloat16, "a copy of the options"
    assert cloner.clone_Index(index).ntotal == index.ntotal
    several = faiss.ToGpuClonerMultiple([cloner, faiss.ToGpuCloner(cloner.provider, 0, options)], options)
    replicas = several.clone_Index(index)
    assert [replicas.at(i).getDevice() for i in range(2)] == [1, 0]
    several.shard = True
    shards = several.clone_Index(index)
    assert [shards.at(i).ntotal for i in range(2)] == [700, 700]
    assert np.array_equal(shards.search(vectors[1], 3)[1], index.search(vectors[1], 3)[1])


@pytest.mark.parametrize("shard_type, held", [(1, 700), (2, 700), (4, None)])
def test_a_cloner_copies_a_shard(vectors, shard_type, held):
    index = faiss.index_factory(D, "IVF4,Flat")
    index.train(vectors[0])
    index.add(vectors[0])
    options = faiss.GpuMultipleClonerOptions()
    options.shard_type = shard_type
    cloner = faiss.ToGpuClonerMultiple([faiss.StandardGpuResources()] * 2, [0, 1], options)
    parts = [faiss.IndexIVFFlat(index.quantizer, D, 4) for _ in range(2)]
    for i, part in enumerate(parts):
        cloner.copy_ivf_shard(index, part, 2, i)
    counted = [part.ntotal for part in parts]
    assert sum(counted) == 1400 and (held is None or counted == [held, held])
    cloner.shard_type = 3
    with pytest.raises(RuntimeError, match="shard_type 3"):
        cloner.copy_ivf_shard(index, parts[0], 2, 0)


def test_a_factory_of_steps_counts_them():
    factory = faiss.GpuProgressiveDimIndexFactory(2)
    assert (factory.ncall, list(factory.devices), factory.vres.size()) == (0, [0, 1], 2)
    factory.options.shard = True
    assert isinstance(factory(4), faiss.IndexShards) and factory.ncall == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat"])
def test_vectors_in_half_precision(vectors, dtype, kind):
    index = faiss.index_factory(D, kind)
    index.train(vectors[0])
    index.add(vectors[0])
    half = index.to(dtype=dtype)
    assert index.to(dtype=torch.float32) is index and index.code_size == 2 * half.code_size
    rounded = torch.from_numpy(vectors[0]).to(dtype).float().numpy()
    assert np.array_equal(
        half.reconstruct(7) if kind == "Flat" else half.search(rounded[7:8], 1)[0][0] * 0 + rounded[7], rounded[7]
    )
    if hasattr(half, "nprobe"):
        half.nprobe = 4
    assert recall(half.search(vectors[1], 10)[1], exact(rounded, vectors[1], 10, faiss.METRIC_L2)) > 0.999
    with pytest.raises(FaissError, match="int8"):
        index.to(dtype=torch.int8)
    with pytest.raises(FaissError, match="does not store"):
        faiss.IndexPQ(D, 4, 4).to(dtype=dtype)


def test_the_benchmark_runs_and_checks(tmp_path):
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    command = [
        sys.executable,
        str(folder / "gpu.py"),
        "--tiny",
        "--rows",
        "wide|means|CAGRA",
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(folder.parent)}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole = json.loads((tmp_path / "gpu.json").read_text())
    rows, means = whole["rows"], "k-means iteration"
    assert {row["case"].partition(" itopk")[0] for row in rows} == {
        "wide Flat",
        f"{means}, device data",
        f"{means}, host data",
        "CAGRA",
    }
    assert all(row["ms"] > 0 and row["recall"] > (0.94 if row["case"].startswith("CAGRA") else 0.99) for row in rows)
    assert all(row["peers_ms"]["faiss-cpu"] > 0 for row in rows if means not in row["case"])
    assert [line for line in whole["not compared"] if line.startswith("flash-kmeans")], "peers that are not there are named"
    assert len((tmp_path / "gpu.csv").read_text().splitlines()) >= len(rows) + 1


class Short(TorchDispatchMode):
    """A device whose memory runs out at the `at`-th operation that needs some."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made._base is None and not any(made is given for given in args):
            self.seen += 1
            if self.seen == self.at:
                raise torch.OutOfMemoryError("no room")
        return made


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat", "IVF4,PQ4x4"])
@pytest.mark.parametrize("at", [1, 3, 9, 20])
def test_an_index_outlives_memory_that_runs_out(vectors, kind, at):
    """Whatever step of an addition or of a search finds none, the index is as it was, and the next try succeeds."""
    index = faiss.index_factory(D, kind)
    index.train(vectors[0])
    index.add(vectors[0][:700])
    placed = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 1, index)
    for call in (lambda: placed.add(vectors[0][700:]), lambda: placed.search(vectors[1], 5)):
        held, before = placed.ntotal, placed.search(vectors[1], 5)
        with Short(at) as short, contextlib.suppress(RuntimeError):
            call()
        if short.seen >= at:
            after = placed.search(vectors[1], 5)
            assert placed.ntotal == held and all(np.array_equal(a, b) for a, b in zip(before, after))
    if placed.ntotal == 700:
        placed.add(vectors[0][700:])
    index.add(vectors[0][700:])
    assert np.array_equal(placed.search(vectors[1], 5)[1], index.search(vectors[1], 5)[1])


@pytest.mark.parametrize("kind", ["Flat", "IVF4,PQ4x4", "HNSW8"])
def test_a_file_is_read_onto_a_device(vectors, kind, tmp_path, monkeypatch):
    index = faiss.index_factory(D, kind)
    index.train(vectors[0])
    index.add(vectors[0])
    faiss.write_index(index, str(tmp_path / "index"))
    read = faiss.read_index(str(tmp_path / "index"), device=1)
    assert read.getDevice() == 1
    assert np.array_equal(read.search(vectors[1], 5)[1], index.search(vectors[1], 5)[1])
    with pytest.raises(FaissError, match="no GPU 7"):
        faiss.read_index(str(tmp_path / "index"), device=7)


def test_tensors_come_back_as_tensors(vectors):
    """On the device of the index, without a way over numpy."""
    x = torch.from_numpy(vectors[0])
    placed = faiss.GpuIndexIVFFlat(faiss.StandardGpuResources(), D, 4, faiss.METRIC_L2)
    placed.train(x)
    placed.add(x)
    distances, labels = placed.search(x[:5], 1)
    assert isinstance(distances, torch.Tensor) and distances.device == placed.device
    assert labels.dtype == torch.int64 and torch.equal(labels[:, 0].cpu(), torch.arange(5))


@pytest.mark.parametrize("n", [0, 1, 99, 100, 101, 350])
def test_pieces_make_the_whole(n):
    source = torch.arange(n, dtype=torch.int16)
    assert in_pieces(source, torch.full_like(source, -1), 200).equal(source)
