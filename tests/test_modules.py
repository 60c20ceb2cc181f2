"""Indexes as nn.Modules: every type through every route answers as its index does, and none of it needs FAISS."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_same_neighbours
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tsscompat
from tsscompat.errors import FaissError, FormatError
from tsscompat.kernels import fastscan as kernels
from tsscompat.kernels.metrics import FORMULAS
from tsscompat.modules import from_spec, load
from tsscompat.modules.distances import order_of
from tsscompat.modules.fastscan import rounded
from tsscompat.modules.structures import Lists

D, N, K = 8, 300, 4
L2, IP = tsscompat.METRIC_L2, tsscompat.METRIC_INNER_PRODUCT
BIG = 1 << 40
Search = Callable[[Tensor], tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def without_faiss(monkeypatch):
    """Importing FAISS fails."""
    monkeypatch.setitem(sys.modules, "faiss", None)


def data(n: int, seed: int, d: int = D) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=draw) + torch.randint(3, (n, 1), generator=draw)


def rows_of(key: str, n: int, seed: int) -> Tensor:
    """Vectors, or codes of 32 bits, for an index of a factory string."""
    if "B" not in key.split(",")[-1][:1]:
        return data(n, seed)
    return torch.randint(256, (n, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@functools.cache
def built(key: str, metric: int = L2, tune: str = "") -> Any:
    """An index of N vectors, nprobe 2; ids beyond 32 bits where it takes ids."""
    named, binary = key.startswith("IDMap"), rows_of(key, 1, 1).dtype == torch.uint8
    index = tsscompat.index_binary_factory(32, key) if binary else tsscompat.index_factory(D, key, metric)
    for assignment in filter(None, tune.split(";")):
        name, value = assignment.split("=")
        setattr(index, name, eval(value))
    index.train(rows_of(key, N, 1))
    index.add_with_ids(rows_of(key, N, 2), torch.arange(N) + BIG) if named else index.add(rows_of(key, N, 2))
    return index


def asked_of(name: str, n: int) -> Tensor:
    """Queries for a type."""
    return rows_of(TYPES[name][0], n, 3)


# name -> (factory string, metric, settings): every class of modules, every codec, their nests.
TYPES: dict[str, tuple[str, int, str]] = {
    "Flat": ("Flat", L2, ""),
    "Flat-IP": ("Flat", IP, ""),
    "Flat-L1": ("Flat", tsscompat.METRIC_L1, ""),
    "Flat-Linf": ("Flat", tsscompat.METRIC_Linf, ""),
    "Flat-Lp": ("Flat", tsscompat.METRIC_Lp, "metric_arg=1.5"),
    "Flat-Canberra": ("Flat", tsscompat.METRIC_Canberra, ""),
    "Flat-BrayCurtis": ("Flat", tsscompat.METRIC_BrayCurtis, ""),
    "Flat-JensenShannon": ("Flat", tsscompat.METRIC_JensenShannon, ""),
    "Flat-Jaccard": ("Flat", tsscompat.METRIC_Jaccard, ""),
    "IVFFlat": ("IVF4,Flat", L2, "nprobe=2"),
    "IVFFlat-IP": ("IVF4,Flat", IP, "nprobe=2"),
    "IVFFlat-L1": ("IVF4,Flat", tsscompat.METRIC_L1, "nprobe=2"),
    "IVFPQ": ("IVF4,PQ2x4np", L2, "nprobe=2"),
    "IVFPQ-IP": ("IVF4,PQ2x4np", IP, "nprobe=2"),
    "IVFPQ-raw": ("IVF4,PQ4x3np", L2, "nprobe=2;by_residual=False"),
    "IVFSQ": ("IVF4,SQ8", L2, "nprobe=2"),
    "IVFSQ-IP": ("IVF4,SQ4", IP, "nprobe=2"),
    "IVFSQ-half": ("IVF4,SQfp16", L2, "nprobe=2"),
    "IVF of HNSW": ("IVF8_HNSW4,Flat", L2, "nprobe=2"),
    "IMI": ("IMI2x2,Flat", L2, "nprobe=5"),
    "PQ": ("PQ2x4np", L2, ""),
    "PQ-IP": ("PQ4x5np", IP, ""),
    "SQ8": ("SQ8", L2, ""),
    "SQ6-IP": ("SQ6", IP, ""),
    "SQ4": ("SQ4", L2, ""),
    "SQbf16": ("SQbf16", L2, ""),
    "SQtqmse4": ("SQtqmse4", L2, ""),
    "PQfs": ("PQ4x4fs", L2, ""),
    "PQfs-IP": ("PQ4x4fs", IP, ""),
    "IVFPQfs": ("IVF4,PQ4x4fs", L2, "nprobe=2"),
    "IVFPQfsr": ("IVF4,PQ4x4fsr", L2, "nprobe=2"),
    "IVFPQfsr-IP": ("IVF4,PQ4x4fsr", IP, "nprobe=2"),
    "RQfs": ("RQ2x4fs_Nrq2x4", L2, ""),
    "IVFRQfs": ("IVF4,RQ2x4fsr_Nrq2x4", L2, "nprobe=2"),
    "RQ": ("RQ2x4", L2, ""),
    "LSQ-IP": ("LSQ2x4", IP, ""),
    "IVFRQ": ("IVF4,RQ2x4", L2, "nprobe=2"),
    "IDMap": ("IDMap,Flat", L2, ""),
    "IDMap2": ("IDMap2,SQ8", IP, ""),
    "PCA": ("PCA4,Flat", L2, ""),
    "PreTransform": ("OPQ2_4,IVF4,PQ2x4np", L2, ""),
    "ITQ": ("ITQ4,SQ8", L2, ""),
    "Hadamard": ("HR,SQ8", L2, ""),
    "L2norm": ("L2norm,Flat", L2, ""),
    "Refine": ("SQ4,Refine(SQ8)", L2, "k_factor=3"),
    "RefineFlat": ("IVF4,SQ6,RFlat", IP, "k_factor=3"),
    "HNSW": ("HNSW4,Flat", L2, ""),
    "HNSW-IP": ("HNSW4,SQ8", IP, ""),
    "binary Flat": ("BFlat", L2, ""),
    "binary IVF": ("BIVF4", L2, "nprobe=2"),
    "binary HNSW": ("BHNSW4", L2, ""),
    "binary IDMap": ("IDMap,BFlat", L2, ""),
    "names of lists": ("IDMap,IVF4,SQ8", L2, ""),
    "names of refined lists of a rotation": ("IDMap2,OPQ2_4,IVF4,PQ2x4np,RFlat", L2, ""),
}
# A row of the table of docs/serving.md each.
KINDS = {
    "Flat": [name for name in TYPES if name.startswith("Flat")],
    "IVFFlat": ["IVFFlat", "IVFFlat-IP", "IVFFlat-L1"],
    "IVFPQ": ["IVFPQ", "IVFPQ-IP", "IVFPQ-raw"],
    "IVFSQ": ["IVFSQ", "IVFSQ-IP", "IVFSQ-half"],
    "PQ": ["PQ", "PQ-IP"],
    "SQ": ["SQ8", "SQ6-IP", "SQ4", "SQbf16", "SQtqmse4"],
    "PQ, RQ fast scan": ["PQfs", "PQfs-IP", "RQfs"],
    "IVF of fast scan": ["IVFPQfs", "IVFPQfsr", "IVFPQfsr-IP", "IVFRQfs"],
    "RQ, LSQ, IVF of RQ": ["RQ", "LSQ-IP", "IVFRQ"],
    "IDMap, IDMap2": ["IDMap", "IDMap2"],
    "PreTransform": ["PCA", "PreTransform", "ITQ", "Hadamard", "L2norm"],
    "Refine": ["Refine", "RefineFlat"],
    "HNSW": ["HNSW", "HNSW-IP"],
    "IVF of HNSW, of IMI": ["IVF of HNSW", "IMI"],
    "binary Flat, IVF, HNSW, IDMap": ["binary Flat", "binary IVF", "binary HNSW", "binary IDMap"],
    "nests of three to five": ["names of lists", "names of refined lists of a rotation"],
}
# Types whose export takes seconds are exported in `nox -s serving`; these have all that must be exported in a nest of few.
EXPORTED = ["Flat", "IVFFlat", "PreTransform", "PQ", "IDMap2", "Refine"]


def scripted(module: nn.Module, folder: Path) -> Search:
    path = str(folder / "scripted.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(path)
        return torch.jit.load(path)


def saved(module: Any, folder: Path, name: str = "index.pt") -> Search:
    module.save(folder / name)
    return load(folder / name)


def safetensors(module: Any, folder: Path) -> Search:
    pytest.importorskip("safetensors")
    return saved(module, folder, "index.safetensors")


def reloaded(module: Any, folder: Path) -> Search:
    torch.save(module.state_dict(), folder / "state.pt")
    fresh = module.fresh()
    fresh.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return fresh


@functools.cache
def program(name: str) -> torch.export.ExportedProgram:
    """A type's module as an exported program for batches of any size."""
    module = built(*TYPES[name]).module(k=K)
    return torch.export.export(module, (asked_of(name, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def exported(name: str, folder: Path) -> Search:
    torch.export.save(program(name), folder / "program.pt2")
    return torch.export.load(folder / "program.pt2").module()


def compiled(name: str, folder: Path) -> Search:
    """The whole graph, as torch.compile takes it in; what inductor makes of it is for `nox -s serving`."""
    torch._dynamo.reset()
    return torch.compile(built(*TYPES[name]).module(k=K), fullgraph=True, dynamic=True, backend="eager")


def inductor(name: str, folder: Path) -> Search:
    torch._dynamo.reset()
    return torch.compile(built(*TYPES[name]).module(k=K), fullgraph=True, dynamic=True)


def onnx(name: str, folder: Path) -> Search:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = folder / "index.onnx"
    written = torch.onnx.export(program(name), dynamo=True, verbose=False)
    assert written is not None
    written.save(path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options)

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        distances, labels = session.run(None, {session.get_inputs()[0].name: queries.numpy()})
        return torch.from_numpy(distances), torch.from_numpy(labels)

    return search


def aoti(name: str, folder: Path) -> Search:
    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        pytest.skip("this torch makes no AOTInductor packages")
    package = torch._inductor.aoti_compile_and_package(program(name), package_path=str(folder / "index.pt2"))
    return torch._inductor.aoti_load_package(package)


ROUTES = {
    "module": lambda module, folder: module,
    "script": scripted,
    "pt": saved,
    "safetensors": safetensors,
    "state_dict": reloaded,
}
TRACED = {"export": exported, "compile": compiled, "onnx": onnx}


def assert_answers_alike(name: str, search: Search) -> None:
    index = built(*TYPES[name])
    for n in (5, 1):
        queries = asked_of(name, n)
        assert_same_neighbours(index.search(queries, K), search(queries), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", TYPES)
def test_it_answers_as_its_index(name, route, tmp_path):
    assert_answers_alike(name, ROUTES[route](built(*TYPES[name]).module(k=K), tmp_path))


@pytest.mark.parametrize("route", TRACED)
@pytest.mark.parametrize("name", EXPORTED)
def test_it_can_be_exported(name, route, tmp_path):
    assert_answers_alike(name, TRACED[route](name, tmp_path))


@pytest.mark.serving
@pytest.mark.parametrize("route", TRACED)
@pytest.mark.parametrize("name", [name for name in TYPES if name not in EXPORTED])
def test_the_others_can_be_exported(name, route, tmp_path):
    assert_answers_alike(name, TRACED[route](name, tmp_path))


COMPILED = [*EXPORTED, "IVFPQ", "SQ8", "HNSW"]


@pytest.mark.serving
@pytest.mark.parametrize("route", [inductor, aoti])
@pytest.mark.parametrize("name", COMPILED)
def test_it_can_be_compiled_to_machine_code(name, route, tmp_path):
    needs_a_compiler()
    assert_answers_alike(name, route(name, tmp_path))


def needs_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("inductor needs a C++ compiler")


def test_the_documents_table():
    """docs/serving.md names every kind, and every route that is tried here; what it calls compiled is."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "serving.md").read_text()
    head, _, *rows = re.search(r"(\| type \|.*\n(?:\|.*\n)+)", text).group(1).strip().split("\n")
    table = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)}
    assert head == "| type | script | export | compile | ONNX | `.pt` | safetensors | `state_dict` | AOTInductor |"
    assert list(table) == list(KINDS) and sorted(name for names in KINDS.values() for name in names) == sorted(TYPES)
    for kind, cells in table.items():
        some = [name for name in KINDS[kind] if name in COMPILED]
        assert cells == ["yes"] * 7 + ["yes" if some else "not tried"], kind


# What has to be exported, and a module in each.
WITHOUT = ["Flat", "IVFFlat", "IVFPQ", "PQ", "SQ8", "PreTransform", "IDMap2", "Refine"]
APART = """
import sys, warnings
folder, routes, names = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
sys.modules["tsscompat"] = sys.modules["faiss"] = sys.modules["numba"] = None
warnings.simplefilter("ignore")
import torch
answers, batches = {}, torch.load(folder + "/batches.pt")
for name in names:
    for route in routes:
        if route == "aoti":
            search = torch._inductor.aoti_load_package(f"{folder}/{name}/index.pt2")
        elif route == "exported":
            search = torch.export.load(f"{folder}/{name}/program.pt2").module()
        else:
            search = torch.jit.load(f"{folder}/{name}/scripted.pt")
        answers[name + "/" + route] = [search(queries) for queries in batches]
torch.save(answers, folder + "/answers.pt")
"""


def run_apart(code: str, *arguments: str) -> None:
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]


def assert_right_apart(names: list[str], routes: dict[str, Callable[[str, Path], Any]], folder: Path) -> None:
    """What some routes write answers as the index in a process in which neither tsscompat nor FAISS nor numba can be imported."""
    batches = [data(5, 3), data(1, 4)]
    torch.save(batches, folder / "batches.pt")
    for name in names:
        (folder / name).mkdir()
        for write in routes.values():
            write(name, folder / name)
    run_apart(APART, str(folder), ",".join(routes), ",".join(names))
    answers = torch.load(folder / "answers.pt", weights_only=True)
    assert len(answers) == len(names) * len(routes)
    for key, found in answers.items():
        for queries, answer in zip(batches, found):
            expected = built(*TYPES[key.split("/")[0]]).search(queries, K)
            assert_same_neighbours(expected, answer, rtol=1e-4, atol=1e-5)


def test_programs_run_without_tsscompat(tmp_path):
    script = lambda name, folder: scripted(built(*TYPES[name]).module(k=K), folder)  # noqa: E731
    assert_right_apart(WITHOUT, {"scripted": script, "exported": exported}, tmp_path)


@pytest.mark.serving
def test_scripts_of_all_types_run_without_tsscompat(tmp_path):
    names = [name for name in TYPES if not name.startswith("binary")]
    assert_right_apart(names, {"scripted": lambda name, folder: scripted(built(*TYPES[name]).module(k=K), folder)}, tmp_path)


@pytest.mark.serving
def test_packages_run_without_tsscompat(tmp_path):
    needs_a_compiler()
    assert_right_apart(["IVFFlat", "PreTransform"], {"aoti": aoti}, tmp_path)


@pytest.mark.serving
@pytest.mark.parametrize("name", WITHOUT)
def test_onnx_runs_without_torch(name, tmp_path):
    """onnxruntime and numpy are all that an ONNX file needs."""
    onnx(name, tmp_path)
    queries = asked_of(name, 5)
    np.save(tmp_path / "queries.npy", queries.numpy())
    code = """
import sys
sys.modules.update(dict.fromkeys(["tsscompat", "faiss", "torch"]))
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1] + "/index.onnx", options)
distances, labels = session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[1] + "/queries.npy")})
numpy.savez(sys.argv[1] + "/answer.npz", distances=distances, labels=labels)
"""
    run_apart(code, str(tmp_path))
    answer = np.load(tmp_path / "answer.npz")
    got = torch.from_numpy(answer["distances"]), torch.from_numpy(answer["labels"])
    assert_same_neighbours(built(*TYPES[name]).search(queries, K), got, rtol=1e-4, atol=1e-5)


def test_sources(tmp_path):
    """A path, bytes and an index give the same module."""
    index = built(*TYPES["IVFPQ"])
    path = tmp_path / "index.faiss"
    tsscompat.write_index(index, str(path))
    expected = index.module(k=K)(data(5, 3))
    for source in (path, str(path), path.read_bytes(), index):
        got = tsscompat.from_faiss(source, k=K)(data(5, 3))
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    with pytest.raises(FaissError, match="expected an index"):
        tsscompat.from_faiss(3)
    with pytest.raises(FaissError, match="no module"):
        tsscompat.from_faiss(tsscompat.index_factory(D, "IVF4,FlatDedup"))


@pytest.mark.parametrize("name", ["IVFFlat", "PreTransform", "HNSW", "RefineFlat"])
def test_settings_are_given_or_fixed(name):
    """k, nprobe and efSearch of a call, of the module, of the index."""
    index, queries = built(*TYPES[name]), data(6, 4)
    own = index.module()
    for k, effort in ((1, 1), (7, 3), (N + 5, 4)):
        fixed = index.module(k=k, nprobe=effort, efSearch=max(8, 4 * effort))
        given = own.search(queries, k, nprobe=effort, efSearch=max(8, 4 * effort))
        assert torch.equal(fixed(queries)[1], given[1]) and torch.equal(fixed(queries)[0], given[0])
        assert given[1].shape == (6, k) and given[1].dtype == torch.int64
        space = tsscompat.ParameterSpace()
        twin = tsscompat.clone_index(index)
        space.set_index_parameter(
            twin, "efSearch" if name == "HNSW" else "nprobe", max(8, 4 * effort) if name == "HNSW" else effort
        )
        assert_same_neighbours(twin.search(queries, k), given, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Flat", "IVFFlat", "IVFPQ", "SQ8", "HNSW", "PCA"])
def test_half_precision_and_modes(name):
    """half() keeps distances right to half precision, even where squared norms would not fit; train() and eval() change nothing."""
    scale = 100.0
    index = tsscompat.index_factory(D, TYPES[name][0], TYPES[name][1])
    index.train(scale * data(N, 1))
    index.add(scale * data(N, 2))
    module, queries = index.module(k=K), scale * data(5, 3)
    expected = module(queries)
    for mode in (module.train(), module.eval()):
        assert torch.equal(mode(queries)[1], expected[1])
    half = module.half()
    assert all(t.dtype != torch.float32 for n, t in half.state_dict().items() if n.rsplit(".", 1)[-1] in ("rows", "centroids"))
    distances, labels = half(queries.half())
    assert distances.dtype == torch.float32 and (labels >= 0).all() and distances.isfinite().all()
    assert float((distances - expected[0]).abs().max()) <= 0.02 * float(expected[0].abs().max())


def test_behind_a_model_in_one_sequential(tmp_path):
    """An embedding model and an index are one module, and one exported program."""
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, D), built(*TYPES["IVFFlat"]).module(k=K)).eval()
    texts = torch.rand(6, 3)
    expected = model[-1](model[:3](texts))
    held = torch.export.export(model, (texts[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert torch.equal(held.module()(texts)[1], expected[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.jit.script(model)(texts)[1], expected[1])


@pytest.mark.parametrize(
    "name", ["Flat", "Flat-IP", "Flat-L1", "IVFFlat", "IVFPQ", "PQ", "PreTransform", "RefineFlat", "HNSW", "IDMap"]
)
def test_gradients_reach_the_queries(name):
    """Of each distance: the gradient that autograd finds for the vector that the index stores."""
    index, queries = built(*TYPES[name]), data(5, 3).requires_grad_()
    distances, labels = index.module().search(queries, 3, grad=True)
    distances.sum().backward()
    found = queries.grad
    again = queries.detach().clone().requires_grad_()
    inner, x = index, again
    if name == "PreTransform":
        inner, x = index.index, again @ index.chain.at(0)._matrix.t()
    elif name == "RefineFlat":
        inner = index.refine_index
    elif name == "IDMap":
        inner, labels = index.index, labels - BIG
    if hasattr(inner, "make_direct_map"):
        inner.make_direct_map()
    vectors = inner.reconstruct_batch(labels.flatten()).view(5, 3, -1)
    FORMULAS[index.metric_type](x[:, None], vectors, 0.0).sum().backward()
    torch.testing.assert_close(found, again.grad, rtol=1e-3, atol=1e-4)
    assert not index.module().search(queries, 3)[0].requires_grad


@pytest.mark.parametrize("key", ["BFlat", "BIVF4", "BHNSW4", "IDMap,BFlat"])
def test_binary_codes(key, tmp_path):
    """Distances are exact whole numbers; ids may differ where they are tied."""
    base = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (N, 4), dtype=np.uint8))
    queries = base[:6] ^ 5
    index = tsscompat.index_binary_factory(32, "BFlat" if "," in key else key)
    index = tsscompat.IndexBinaryIDMap(index) if "," in key else index
    index.train(base)
    index.add_with_ids(base, torch.arange(N) + BIG) if "," in key else index.add(base)
    if hasattr(index, "nprobe"):
        index.nprobe = 2
    expected, module = index.search(queries, K), index.module(k=K)
    of_bytes = tsscompat.from_faiss(tsscompat.serialize_index_binary(index).tobytes(), k=K)
    for search in (module, scripted(module, tmp_path), saved(module, tmp_path), of_bytes):
        distances, labels = search(queries)
        assert distances.dtype == torch.int32 and torch.equal(distances, expected[0])
        assert_same_neighbours(expected, (distances, labels))


@pytest.mark.parametrize("name", ["PQfs", "PQfs-IP", "IVFPQfsr", "IVFPQfsr-IP"])
def test_gradients_of_a_fast_scan_are_those_of_what_it_rounds(name):
    """Distances are the index's, rounded; their gradients are those of the distances to what the codes stand for."""
    index, queries = built(*TYPES[name]), data(5, 3).requires_grad_()
    distances, labels = index.module().search(queries, 3, grad=True)
    distances.sum().backward()
    again = queries.detach().clone().requires_grad_()
    if "IVF" in name:
        index.make_direct_map()
    vectors = index.reconstruct_batch(labels.flatten()).view(5, 3, -1)
    FORMULAS[index.metric_type](again[:, None], vectors, 0.0).sum().backward()
    torch.testing.assert_close(queries.grad, again.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("parts", "norms", "weight"), [(4, 0, 1), (5, 2, 3)])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["a table a query", "a table a probe"])
def test_tables_are_rounded_as_the_kernel_rounds_them(parts, norms, weight, shape):
    draw = torch.Generator().manual_seed(parts)
    tables, biases = torch.randn(20, *shape, parts, 16, generator=draw), torch.randn(20, 3, generator=draw)
    expected = kernels.quantize(tables, biases, norms, weight if norms else 0)
    there = torch.ones(20, 3, dtype=torch.bool)
    got = rounded(tables if shape else tables[:, None], biases, there, norms, weight)
    assert torch.equal(got[0].reshape(-1, parts, 16), expected.whole()[:, :parts]) and torch.equal(
        got[1], expected.biases.float()
    )
    assert torch.equal(got[2], expected.scale) and torch.equal(got[3], expected.start)


@pytest.mark.parametrize("name", ["Flat", "Flat-IP", "IVFFlat", "IVFFlat-IP", "IDMap", "PCA", "RefineFlat", "HNSW", "IVFSQ-half"])
def test_gradients_reach_stored_vectors(name):
    """The gradient of a stored vector is that of the distances of which it is an end."""
    module, queries = built(*TYPES[name]).module(), data(5, 3)
    inner, x = module, queries
    if name == "PCA":
        inner, x = module.index, module.chain[0](queries)
    elif name in ("IDMap", "RefineFlat"):
        inner = module.index if name == "IDMap" else module.refine
    rows = inner.codec.rows.requires_grad_()
    distances, labels = module.search(queries, 3, grad=True)
    distances.sum().backward()
    places = labels - BIG if name == "IDMap" else labels
    if "IVF" in name:
        places = (inner.ids == labels[..., None]).long().argmax(-1)
    again = rows.detach().clone().float().requires_grad_()
    stored = again[places]
    if name == "IVFSQ-half":
        stored = stored + inner.coarse.vectors((inner.offsets[1:] <= places[..., None]).sum(-1))
    FORMULAS[module.metric](x[:, None], stored, 0.0).sum().backward()
    torch.testing.assert_close(rows.grad.float(), again.grad, rtol=1e-3, atol=1e-2 if "half" in name else 1e-4)
    assert 3 <= int((rows.grad.abs().sum(1) > 0).sum()) <= 15
    assert not module.search(queries, 3)[0].requires_grad


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, Tensor) and one._base is None:
                self.elements = max(self.elements, one.numel())
        return out


@pytest.mark.parametrize("key", ["IVF4,Flat", "IVF4,PQ2x4np", "IVF4,SQ8"])
def test_no_search_gathers_everything(key):
    """All lists of a large index for a batch: no tensor comes near batch x rows x d numbers."""
    n, batch = 40_000, 64
    index = tsscompat.index_factory(D, key)
    index.train(data(2000, 1))
    index.add(data(n, 2))
    module = index.module(nprobe=4)
    with Largest() as largest:
        module(data(batch, 3))
    assert 0 < largest.elements <= 2 * module.STEP < batch * n * D / 2


@pytest.mark.parametrize("key", ["IVF4,Flat", "IVF4,PQ2x4np", "IVF4,SQ8", "IVF4,PQ4x4fs", "IVF4,RQ2x4"])
def test_one_query_gathers_no_more_than_a_step(key, monkeypatch):
    """A query of its own looks at its rows at once where they fit a step, else page by page, with the same answer."""
    index = tsscompat.index_factory(D, key)
    index.train(data(600, 1))
    index.add(data(20_000, 2))
    module, queries = index.module(k=K, nprobe=3), data(3, 3)
    expected = [module(query[None]) for query in queries]
    monkeypatch.setattr(Lists, "STEP", 1 << 13)
    for query, whole in zip(queries, expected):
        with Largest() as largest:
            distances, labels = module(query[None])
        assert 0 < largest.elements <= 2 * module.STEP
        assert torch.equal(labels, whole[1]) and torch.equal(distances, whole[0])


def test_an_exported_loop_holds_a_step():
    """The body of an exported program's loop is for as many rows as a step has, however many there are."""
    held = program("IVFFlat")
    names = [node.target for node in held.graph.nodes if node.op == "call_function"]
    assert any("while_loop" in str(name) for name in names)
    (body,) = [part for name, part in held.graph_module.named_children() if "body" in name]
    shapes = [node.meta["val"].shape for node in body.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    rows = built(*TYPES["IVFFlat"]).module()
    most = max(shape[1] for shape in shapes if len(shape) > 1 and isinstance(shape[1], int))
    assert most <= rows.PAGE * rows.PAGES + K + rows.EXTRA


@pytest.mark.parametrize("descending", [False, True])
def test_equal_numbers_stay_in_order_when_traced(descending):
    """Programs order ties as they come, also where torch's sort does not."""
    torch._dynamo.reset()
    traced = torch.compile(lambda x: order_of(x, descending), fullgraph=True, dynamic=True, backend="eager")
    for columns in (2, 18, 40, 300):
        x = torch.randint(4, (30, columns), generator=torch.Generator().manual_seed(columns))
        for values in (x, x.float(), torch.where(x == 3, float("inf"), x.float())):
            assert torch.equal(traced(values), torch.sort(values, dim=1, descending=descending, stable=True)[1])


@pytest.mark.parametrize("key", ["Flat", "IVF4,Flat"])
def test_traced_ties_are_in_order_of_id(key):
    """Each vector is there twice; 20 results."""
    torch._dynamo.reset()
    index = tsscompat.index_factory(D, key)
    index.train(data(N, 1))
    index.add(data(N, 2).repeat(2, 1))
    expected = index.search(data(6, 3), 20)
    search = torch.compile(index.module(k=20), fullgraph=True, dynamic=True, backend="eager")
    labels = search(data(6, 3))[1]
    assert torch.equal(labels, expected[1]) and (expected[0][:, ::2] == expected[0][:, 1::2]).all()


@pytest.mark.parametrize("key", ["Flat", "IVF4,Flat", "HNSW4", "PQ2x4np"])
def test_an_empty_index(key):
    index = tsscompat.index_factory(D, key)
    index.train(data(N, 1))
    distances, labels = index.module(k=2)(data(3, 3))
    assert (labels == -1).all() and (distances == torch.finfo(torch.float32).max).all()


def test_files_are_checked(tmp_path):
    torch.save({"format": "other"}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="was not written"):
        load(tmp_path / "a.pt")
    floats = {"type": "Floats", "settings": {}, "parts": {}}
    for spec in (None, {"type": "os.system"}, {**floats, "type": "Named"}, {**floats, "parts": {"other": floats}}):
        with pytest.raises(FormatError):
            from_spec(spec)


def test_the_numpy_door_stays_shut():
    """A module takes tensors; an index takes arrays."""
    with pytest.raises((TypeError, AttributeError)):
        built(*TYPES["Flat"]).module()(np.zeros((1, D), np.float32))


def test_the_documents_example(tmp_path):
    """docs/serving.md: the first program exports, the second one runs what it wrote without tsscompat."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "serving.md").read_text()
    export, serve = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:2]
    path = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    blocked = "import sys\nsys.modules['tsscompat'] = sys.modules['faiss'] = None\n"
    for code in (export, blocked + serve):
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr[-2000:]
    assert "torch.Size([3, 5])" in run.stdout
