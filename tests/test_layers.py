"""Imports point one way only, read from the sources by `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tsscompat"

# What each part may import of tsscompat besides itself; the longest matching prefix of a module's name counts.
FOUNDATION = {"tsscompat.errors", "tsscompat.interrupts", "tsscompat.records"}
MAY_IMPORT = {
    "tsscompat": {
        "tsscompat.faiss_compat",
        "tsscompat.devices",
        "tsscompat.errors",
        "tsscompat.standin",
        "tsscompat.cli",
        "tsscompat.modules",
        "tsscompat.advice",
    },
    "tsscompat.standin": {"tsscompat"},
    "tsscompat.children": {"tsscompat.standin"},
    "tsscompat.errors": set(),
    "tsscompat.interrupts": {"tsscompat.errors"},
    "tsscompat.arrays": FOUNDATION,
    "tsscompat.devices": FOUNDATION,
    "tsscompat.kernels": FOUNDATION,
    "tsscompat.algorithms": FOUNDATION | {"tsscompat.kernels"},
    "tsscompat.wire": FOUNDATION,
    "tsscompat.faiss_compat": FOUNDATION
    | {"tsscompat.arrays", "tsscompat.devices", "tsscompat.algorithms", "tsscompat.kernels", "tsscompat.wire"},
    "tsscompat.contrib": {"tsscompat"},
    "tsscompat.cli": {"tsscompat"},
    "tsscompat.modules": {"tsscompat"},
    "tsscompat.advice": {"tsscompat"},
    "tsscompat.cluster": {"tsscompat"},
}
# Third-party packages that only some places may import, and whether even there only inside a function.
CONFINED = {
    "numba": ("tsscompat.kernels.numba",),
    "llvmlite": ("tsscompat.kernels.numba",),
    "triton": ("tsscompat.kernels.triton",),
    # algorithms.random draws from numpy's Mersenne twister, which is FAISS's.
    "numpy": (
        "tsscompat.kernels.numba",
        "tsscompat.algorithms.random",
        "tsscompat.faiss_compat",
        "tsscompat.arrays",
        "tsscompat.contrib",
        "tsscompat.cli",
    ),
    "faiss": (),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Each module that a source names in an import statement outside `if TYPE_CHECKING`, with its line."""
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def part_of(name: str) -> str:
    return max((p for p in MAY_IMPORT if within(name, p)), key=len, default="")


def offences(module: str, source: str) -> list[str]:
    """The imports of a module that its layer does not allow."""
    home = part_of(module)
    found = []
    for line, name in imports(source):
        top = name.partition(".")[0]
        if top in CONFINED and not any(within(module, place) for place in CONFINED[top]):
            found.append(f"{module}:{line} imports {top}")
        if top == "tsscompat":
            allowed = {home} | MAY_IMPORT[home]
            if home == "tsscompat":  # the bare package, not all that lies under it
                allowed = MAY_IMPORT[home]
            if not any(within(name, prefix) for prefix in allowed):
                found.append(f"{module}:{line} imports {name}")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_downward(path: Path):
    assert offences(module_name(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tsscompat.kernels.flat", "from tsscompat.algorithms import kmeans"),
        ("tsscompat.kernels.flat", "import numpy as np"),
        ("tsscompat.kernels.flat", "def f():\n    import numba"),
        ("tsscompat.algorithms.kmeans", "from tsscompat.faiss_compat.base import Index"),
        ("tsscompat.wire.cursor", "from tsscompat.kernels import bits"),
        ("tsscompat.errors", "from tsscompat import devices"),
        ("tsscompat.faiss_compat.flat", "import faiss"),
        ("tsscompat.faiss_compat.flat", "from tsscompat.cli import demo"),
    ],
)
def test_an_upward_import_is_seen(module: str, source: str):
    assert offences(module, source)


def test_there_is_something_to_read():
    assert len(MODULES) > 20
