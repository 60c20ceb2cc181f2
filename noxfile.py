"""The project's chores: `nox -s tests`, `nox -s lint`, ..., each in an environment of its own, at the versions of constraints.txt."""

from __future__ import annotations

import ast
import os
import zipfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests", "typing"]
nox.options.reuse_existing_virtualenvs = True

CONSTRAINTS = Path(__file__).resolve().with_name("constraints.txt")
FILE_LINES, FUNCTION_LINES = 400, 50
WHEEL_BYTES = 1_000_000


def install(session: nox.Session, *what: str) -> None:
    """pip install at the pinned versions."""
    session.install("-c", str(CONSTRAINTS), *what)


def install_package(session: nox.Session, extras: str) -> None:
    """The checkout's own wheel, made anew, with what the extras name."""
    install(session, f".[{extras}]")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff's rules and format; then, as guidance only, what outgrew the size that reads well."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    for size, place in oversized(Path("tsscompat")):
        session.log("%d lines: %s", size, place)


def oversized(root: Path) -> list[tuple[int, str]]:
    """Files and functions longer than the guidance, longest first."""
    found = []
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > FILE_LINES:
            found.append((lines, str(path)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found.append((lines, f"{path}:{node.lineno} {node.name}"))
    return sorted(found, reverse=True)


@nox.session
def typing(session: nox.Session) -> None:
    """mypy, strictly, against the torch and numpy of the tests' environment where that is already made."""
    install(session, "mypy")
    python = Path(session.virtualenv.location).with_name("tests") / "bin" / "python"
    if not python.exists():
        install_package(session, "test")
        python = Path(session.virtualenv.location) / "bin" / "python"
    session.run("mypy", "--python-executable", str(python))


@nox.session
def tests(session: nox.Session) -> None:
    """Everything under tests/, on the installed package, with FAISS itself as the judge; arguments go to pytest."""
    install_package(session, "test,oracle,onnx,safetensors,triton")
    # Two processes: most of the time goes into compiling kernels and into FAISS's training, one thread each.
    shared = ["-n", "2", "--dist", "worksteal"]
    session.run("pytest", *(session.posargs or shared), env={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")})


@nox.session
def fuzz(session: nox.Session) -> None:
    """A million hostile files, and every bit of the first bytes of each kind; arguments go to tests/fuzzing.py."""
    install_package(session, "test")
    session.run("python", "tests/fuzzing.py", "--sweep")
    session.run("python", "tests/fuzzing.py", *(session.posargs or ["--count", "1000000"]))


@nox.session
def serving(session: nox.Session) -> None:
    """Every search module through every route, the slow ones too, where FAISS is not installed."""
    install_package(session, "test,onnx,safetensors")
    session.run("pytest", "-m", "", "tests/test_modules.py", "tests/test_module_routes.py", *session.posargs)


@nox.session
def placing(session: nox.Session) -> None:
    """Every index type on a GPU that is pretended, told apart from the host: without a card."""
    install_package(session, "test,oracle")
    session.run("pytest", "-m", "", "-n", "2", "--dist", "worksteal", "tests/test_on_cuda.py", *session.posargs)


@nox.session
def oracle(session: nox.Session) -> None:
    """The promises that the tests make of tsscompat, made of FAISS itself."""
    install_package(session, "test,oracle")
    session.run("pytest", "--subject=faiss", "tests/test_conformance.py", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """FAISS's own Python tests on tsscompat: `nox -s conformance -- FAISS_CHECKOUT [pytest arguments]`."""
    if not session.posargs:
        session.error("say where a checkout of FAISS is: nox -s conformance -- PATH [pytest arguments]")
    checkout, *more = session.posargs
    install_package(session, "test")
    folder = Path(checkout).resolve() / "tests"
    session.run("python", "-m", "tsscompat", "run", "-m", "pytest", *(more or [str(folder)]), env={"PYTHONPATH": str(folder)})


@nox.session
def wheel(session: nox.Session) -> None:
    """One pure-Python wheel, small, with the package and nothing else in it."""
    out = Path(session.create_tmp())
    for old in out.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "--no-deps", "-w", str(out), ".")
    (built,) = out.glob("*.whl")
    if not built.name.endswith("-py3-none-any.whl") or built.stat().st_size >= WHEEL_BYTES:
        session.error(f"{built.name}, {built.stat().st_size} bytes")
    names = zipfile.ZipFile(built).namelist()
    strangers = [n for n in names if not n.startswith(("tsscompat/", "tsscompat-"))]
    if strangers or "tsscompat/py.typed" not in names:
        session.error(f"packed besides the package: {strangers}")
    session.log("%s: %d files, %d bytes", built.name, len(names), built.stat().st_size)


@nox.session
def bench(session: nox.Session) -> None:
    """tsscompat against FAISS on this machine; arguments go to benchmarks/run.py."""
    install_package(session, "oracle,plot")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests that need a CUDA device, and those of Triton's kernels with all their sizes."""
    install_package(session, "test,oracle,triton,plot")
    session.run("pytest", "-m", "gpu", *session.posargs, success_codes=[0, 5])
    session.run("pytest", "tests/test_triton.py", "tests/test_triton_sizes.py", *session.posargs)
