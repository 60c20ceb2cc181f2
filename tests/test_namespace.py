"""FAISS's names: each one that its stub declares is here, or is a gap with a reason; a gap that was filled is no row any more."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import tsscompat
from tsscompat.faiss_compat.gaps import GAPS, known_gap

ROOT = Path(__file__).resolve().parents[1]
# Names of the stub that are no part of FAISS's interface.
NOT_FAISS = {"idx_t", "annotations", "Any", "Callable", "Literal", "overload", "np", "npt", "torch"}


def stub() -> list[ast.stmt]:
    spec = importlib.util.find_spec("faiss")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("FAISS's stub comes with faiss-cpu")
    path = Path(spec.submodule_search_locations[0]) / "__init__.pyi"
    return ast.parse(path.read_text(encoding="utf-8")).body


def declared() -> set[str]:
    names = set()
    for node in stub():
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {n for n in names - NOT_FAISS if not n.startswith("_")}


def test_every_name_is_here_or_has_a_reason():
    missing = sorted(n for n in declared() if not hasattr(tsscompat, n) and known_gap(n) is None)
    assert not missing


def test_no_reason_is_given_for_what_is_here():
    filled = sorted(n for n in declared() if hasattr(tsscompat, n) and known_gap(n) is not None)
    assert not filled


def test_every_gap_names_something():
    names = declared() | set(dir(pytest.importorskip("faiss")))
    for pattern, _ in GAPS:
        assert any(re.fullmatch(pattern, n) and not hasattr(tsscompat, n) for n in names), pattern


def test_a_missing_name_says_why():
    name = next(n for n in sorted(declared()) if known_gap(n))
    assert not hasattr(tsscompat, name)
    with pytest.raises(AttributeError, match=re.escape(known_gap(name)[:20])):
        getattr(tsscompat, name)
    with pytest.raises(RuntimeError):
        getattr(tsscompat, name)
    with pytest.raises(AttributeError, match="no attribute"):
        tsscompat.IndexThatNobodyHas  # noqa: B018 - the access is the test


def test_the_documents_list_every_gap():
    text = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    for _, why in GAPS:
        assert f"| {why} |" in text, f"docs/differences.md lacks the row of: {why}"


def methods(node: ast.ClassDef) -> list[str]:
    return [f.name for f in node.body if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")]


# What FAISS's own wheel does not have either, though its stub says so.
STUB_ONLY = {"IndexIVF.set_beam_factor"}


def test_every_method_is_here():
    missing = set()
    for node in stub():
        cls = getattr(tsscompat, node.name, None) if isinstance(node, ast.ClassDef) else None
        if inspect.isclass(cls):
            missing |= {f"{node.name}.{m}" for m in methods(node) if not hasattr(cls, m)}
    assert missing == STUB_ONLY
