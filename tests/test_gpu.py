"""FAISS's GPU names on virtual GPUs: options that are honoured, CAGRA, half precision, and how content gets to a device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import faiss as real
import numpy as np
import pytest
import torch

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
    for name, value in (("store_dataset", False), ("guarantee_connectivity", True), ("graph_degree", 7)):
        config = faiss.GpuIndexCagraConfig()
        setattr(config, name, value)
        with pytest.raises(FaissError, match=name):
            faiss.GpuIndexCagra(faiss.StandardGpuResources(), D, faiss.METRIC_L2, config)
    with pytest.raises(FaissError, match="not trained"):
        faiss.GpuIndexCagra(faiss.StandardGpuResources(), D).copyTo(faiss.IndexHNSWCagra())


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
        "wide|means",
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(folder.parent)}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["case"] for row in rows} == {"wide Flat", "k-means iteration"}
    assert all(row["ms"] > 0 and row["recall"] > 0.99 for row in rows)
    assert len((tmp_path / "gpu.csv").read_text().splitlines()) >= len(rows) + 1


@pytest.mark.parametrize("n", [0, 1, 99, 100, 101, 350])
def test_pieces_make_the_whole(n):
    source = torch.arange(n, dtype=torch.int16)
    assert in_pieces(source, torch.full_like(source, -1), 200).equal(source)
