"""Every type of module through every route answers as its index does; what has been written runs where tsscompat cannot be imported."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_same_neighbours
from module_types import KINDS, TYPES, K, asked_of, built
from torch import Tensor

from tsscompat.modules import load

pytestmark = pytest.mark.usefixtures("without_faiss")
Search = Callable[[Tensor], Any]

# Answers with what a file holds, for what is asked on stdin; what is named first cannot be imported.
APART = """
import sys, warnings
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
warnings.simplefilter("ignore")
import numpy

def opened(route, path):
    if route == "onnx":
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options)
        return lambda queries: session.run(None, {session.get_inputs()[0].name: queries})
    import torch
    if route == "script":
        search = torch.jit.load(path)
    elif route == "export":
        search = torch.export.load(path).module()
    else:
        search = torch._inductor.aoti_load_package(path)
    return lambda queries: [one.numpy() for one in search(torch.from_numpy(queries))]

held = search = None
for line in sys.stdin:
    route, path = line.strip().split(" ", 1)
    if held != path:
        held, search = path, opened(route, path)
    distances, labels = search(numpy.load(path + ".queries.npy"))
    numpy.savez(path + ".answer.npz", distances=distances, labels=labels)
    print("answered", flush=True)
"""


class Apart:
    """A process of its own."""

    def __init__(self, folder: Path, *blocked: str) -> None:
        self.errors = open(folder / "errors.txt", "w+")  # noqa: SIM115 - closed by the fixture
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", APART, ",".join(blocked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip

    def search(self, route: str, path: Path) -> Search:
        """The search that a file holds."""

        def search(queries: Tensor) -> tuple[Tensor, Tensor]:
            assert self.process.stdin is not None and self.process.stdout is not None
            np.save(f"{path}.queries.npy", queries.numpy())
            self.process.stdin.write(f"{route} {path}\n")
            self.process.stdin.flush()
            said = self.process.stdout.readline()
            self.errors.seek(0)
            assert said == "answered\n", f"{said}{self.errors.read()[-2000:]}"
            with np.load(f"{path}.answer.npz") as answer:
                return torch.from_numpy(answer["distances"]), torch.from_numpy(answer["labels"])

        return search

    def close(self) -> None:
        self.process.communicate(timeout=60)
        self.errors.close()


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Iterator[Callable[[str], Apart]]:
    """A process without tsscompat, FAISS and numba for a route, without torch too for ONNX; a new one where the last has died."""
    running: dict[bool, Apart] = {}

    def of(route: str) -> Apart:
        bare = route == "onnx"
        if bare not in running or running[bare].process.poll() is not None:
            more = ("torch",) if bare else ()
            running[bare] = Apart(tmp_path_factory.mktemp("apart"), "tsscompat", "faiss", "numba", *more)
        return running[bare]

    yield of
    for one in running.values():
        one.close()


# -- the routes: (name of a type, folder, process apart) -> its search ------------------------------------------------------------------


def module_of(name: str) -> Any:
    return built(*TYPES[name]).module(k=K)


@functools.lru_cache(2)
def program(name: str) -> torch.export.ExportedProgram:
    """A type's module as an exported program for batches of any size; routes that need one come one after the other."""
    return torch.export.export(module_of(name), (asked_of(name, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def itself(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    return module_of(name)


def scripted(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module_of(name)).save(str(folder / "script.pt"))
    return apart("script").search("script", folder / "script.pt")


def saved(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    module_of(name).save(folder / "index.pt")
    return load(folder / "index.pt")


def safetensors(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    pytest.importorskip("safetensors")
    module_of(name).save(folder / "index.safetensors")
    return load(folder / "index.safetensors")


def reloaded(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    torch.save(module_of(name).state_dict(), folder / "state.pt")
    fresh = module_of(name).fresh()
    fresh.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return fresh


def exported(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    torch.export.save(program(name), folder / "program.pt2")
    return apart("export").search("export", folder / "program.pt2")


def compiled(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    """The whole graph, as torch.compile takes it in; what inductor makes of it is for `nox -s serving`."""
    torch._dynamo.reset()
    return torch.compile(module_of(name), fullgraph=True, dynamic=True, backend="eager")


def inductor(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    needs_a_compiler()
    torch._dynamo.reset()
    return torch.compile(module_of(name), fullgraph=True, dynamic=True)


def onnx(name: str, folder: Path, apart: Callable[[str], Apart], optimize: bool = True) -> Search:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    written = torch.onnx.export(program(name), dynamo=True, verbose=False, optimize=optimize)
    assert written is not None
    written.save(folder / "index.onnx")
    return apart("onnx").search("onnx", folder / "index.onnx")


def onnx_unoptimized(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    """Without the exporter's rewriting, which takes as long as the export."""
    return onnx(name, folder, apart, optimize=False)


def aoti(name: str, folder: Path, apart: Callable[[str], Apart]) -> Search:
    needs_a_compiler()
    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        pytest.skip("this torch makes no AOTInductor packages")
    path = torch._inductor.aoti_compile_and_package(program(name), package_path=str(folder / "index.pt2"))
    return apart("aoti").search("aoti", Path(path))


def needs_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("inductor needs a C++ compiler")


HELD = {"module": itself, "script": scripted, "pt": saved, "safetensors": safetensors, "state_dict": reloaded}
TRACED = {"export": exported, "onnx": onnx_unoptimized, "compile": compiled}
# Of torch.compile, batches of one and of none are programs of their own: `test_few_queries_compile`.
SIZES = {"export": (5, 1, 0), "onnx": (5, 1), "compile": (5, 3)}
# A type of each kind or two; half a minute or more each.
COMPILED = [
    "Flat", "IVFFlat", "IVFPQ", "IVFSQ", "PQ", "SQ8", "PQfs", "IVFPQfs", "RQ", "IVFRQ", "IDMap2", "PreTransform", "Refine", "HNSW",
    "IVF of HNSW", "binary Flat", "binary IVF", "names of lists",
]  # fmt: skip


def assert_answers_alike(name: str, search: Search, sizes: tuple[int, ...] = (5, 1)) -> None:
    for n in sizes:
        queries = asked_of(name, n)
        expected, found = built(*TYPES[name]).search(queries, K), search(queries)
        assert found[0].dtype == expected[0].dtype and found[1].dtype == torch.int64
        assert_same_neighbours(expected, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("route", HELD)
@pytest.mark.parametrize("name", TYPES)
def test_it_answers_as_its_index(name, route, tmp_path, apart):
    assert_answers_alike(name, HELD[route](name, tmp_path, apart), (5, 1, 0))


@pytest.mark.parametrize("route", TRACED)
@pytest.mark.parametrize("name", TYPES)
def test_it_can_be_exported(name, route, tmp_path, apart):
    assert_answers_alike(name, TRACED[route](name, tmp_path, apart), SIZES[route])


@pytest.mark.parametrize("name", ["Flat", "IVFPQ"])
def test_few_queries_compile(name, tmp_path, apart):
    assert_answers_alike(name, compiled(name, tmp_path, apart), (1, 0))


@pytest.mark.serving
@pytest.mark.parametrize("name", TYPES)
def test_the_exporter_can_rewrite_it(name, tmp_path, apart):
    """ONNX files as torch makes them when nothing is said."""
    assert_answers_alike(name, onnx(name, tmp_path, apart))


@pytest.mark.serving
@pytest.mark.parametrize("route", [aoti, inductor])
@pytest.mark.parametrize("name", COMPILED)
def test_it_can_be_compiled_to_machine_code(name, route, tmp_path, apart):
    assert_answers_alike(name, route(name, tmp_path, apart))


def test_the_process_apart_has_no_more_than_it_says(apart, tmp_path):
    """A route that needs torch fails where ONNX files are run."""
    scripted("Flat", tmp_path, apart)
    with pytest.raises(AssertionError, match="import of torch halted"):
        apart("onnx").search("script", tmp_path / "script.pt")(asked_of("Flat", 1))


def test_the_documents_table():
    """docs/serving.md names every kind, and every route that is tried here; what it calls compiled is."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "serving.md").read_text()
    head, _, *rows = re.search(r"(\| type \|.*\n(?:\|.*\n)+)", text).group(1).strip().split("\n")
    table = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)}
    assert head == "| type | script | export | compile | ONNX | `.pt` | safetensors | `state_dict` | AOTInductor |"
    assert list(table) == list(KINDS) and sorted(name for names in KINDS.values() for name in names) == sorted(TYPES)
    for kind, cells in table.items():
        assert cells == ["yes"] * 8 and set(KINDS[kind]) & set(COMPILED), kind


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
