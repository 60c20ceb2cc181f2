"""What importing costs, and that nothing but torch and numpy is needed: no numba, no twins, no writable place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from cases import ROWS, filled, shelf
from compare import assert_same_neighbours

HEAVY = ["numba", "llvmlite", "triton", "scipy", "faiss", "ray", "fsspec.implementations", "onnx", "matplotlib", "pandas"]

SEARCH_ALL = """
import sys
{before}
import numpy as np
import tsscompat
for path in sys.argv[1:]:
    index = tsscompat.read_index(path)
    queries = np.load(path + ".queries.npy")
    distances, ids = index.search(queries, 5)
    np.savez(path + ".answer.npz", distances=distances, ids=ids)
loaded = sorted(m for m in ("numba", "triton") if sys.modules.get(m))
assert not loaded, loaded
"""


def python(code: str, *arguments: str, cwd: Path, **environment: str) -> str:
    """Run a fresh interpreter away from the checkout; what it printed."""
    path = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def test_import_loads_nothing_heavy(tmp_path):
    code = f"import sys, tsscompat\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    before = python(code.replace(", tsscompat", ", torch"), cwd=tmp_path)
    assert python(code, cwd=tmp_path) == before


def test_import_adds_little_to_torch(tmp_path):
    """By processor time, torch and numpy aside, the best of five."""
    code = """
import time, torch, numpy
start = time.process_time()
import tsscompat
print(time.process_time() - start)
"""
    assert min(float(python(code, cwd=tmp_path)) for _ in range(5)) < 0.15


@pytest.mark.parametrize(
    ("before", "environment"),
    [("sys.modules['numba'] = None", {}), ("", {"TSSCOMPAT_TWINS": "0"})],
    ids=["numba-absent", "twins-off"],
)
def test_the_torch_definitions_answer_alike(tmp_path, before, environment):
    """Without a compiled twin every index type answers FAISS's file as FAISS does."""
    paths = []
    for i, row in enumerate(ROWS):
        path = tmp_path / f"{i}.faiss"
        shelf(row).filled.tofile(path)
        np.save(f"{path}.queries.npy", shelf(row).queries)
        paths.append(str(path))
    python(SEARCH_ALL.format(before=before), *paths, cwd=tmp_path, **environment)
    for row, path in zip(ROWS, paths):
        answer = np.load(f"{path}.answer.npz")
        assert_same_neighbours(
            filled(faiss, row).search(shelf(row).queries, 5), (answer["distances"], answer["ids"]), rtol=1e-3, atol=1e-3
        )


def test_compiled_code_needs_no_writable_place(tmp_path):
    """An install directory and a home that cannot be written: kernels are compiled in memory."""
    code = """
import numpy as np
import tsscompat
from numba.core.caching import CacheImpl

CacheImpl._locator_classes = []
x = np.random.default_rng(0).standard_normal((50, 8)).astype("float32")
index = tsscompat.IndexFlatL2(8)
index.add(x)
assert (index.search(x, 1)[1][:, 0] == np.arange(50)).all()
from tsscompat.kernels.numba import flat
compiled = [f for f in vars(flat).values() if getattr(f, "signatures", None)]
assert compiled and not any(f.stats.cache_path for f in compiled)
"""
    python(code, cwd=tmp_path)
