"""The cache of compiled kernels: used again when nothing changed, never when a file they are inlined from did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tsscompat

SOURCE = Path(tsscompat.__file__).parent / "kernels" / "numba" / "jit.py"
SCALED = """
from kernels.numba.jit import jit
from kernels.numba.factor import factor

@jit
def scaled(x):
    return factor(x)
"""
FACTOR = """
from kernels.numba.jit import inline

@inline
def factor(x):
    return {} * x
"""
RUN = """
from kernels.numba.scaled import scaled
print(scaled(3), sum(scaled.stats.cache_hits.values()), scaled.stats.cache_path)
"""


@pytest.fixture
def kernels(tmp_path):
    """A small package that compiles as the kernels do."""
    package = tmp_path / "kernels" / "numba"
    package.mkdir(parents=True)
    shutil.copy(SOURCE, package / "jit.py")
    (package / "scaled.py").write_text(SCALED)
    (package / "factor.py").write_text(FACTOR.format(2))
    return package


def run(package: Path, **environment: str) -> tuple[int, int, str]:
    """What a fresh interpreter answers, how much of it came from the cache, and where that is."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", RUN],
        cwd=package.parent.parent,
        env={**inherited, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer, hits, where = done.stdout.split(maxsplit=2)
    return int(answer), int(hits), where.strip()


def test_a_change_in_an_inlined_file_compiles_anew(kernels):
    assert run(kernels) == (6, 0, str(kernels / "__pycache__"))
    assert run(kernels)[:2] == (6, 1)
    # Of the same size and time, as an upgrade may leave it.
    factor, before = kernels / "factor.py", (kernels / "factor.py").stat()
    factor.write_text(FACTOR.format(5))
    os.utime(factor, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(kernels)[:2] == (15, 0)
    assert run(kernels)[:2] == (15, 1)


def test_a_constant_of_the_definitions_compiles_anew(kernels):
    metrics = kernels.parent / "metrics.py"
    (kernels / "factor.py").write_text("from kernels.metrics import L2\n" + FACTOR.format("L2"))
    for value in (1, 7):
        metrics.write_text(f"L2 = {value}\n")
        assert run(kernels)[:2] == (3 * value, 0)


def test_numbas_own_setting_of_the_place_is_kept(kernels, tmp_path):
    place = tmp_path / "elsewhere"
    for hits in (0, 1):
        answer, found, where = run(kernels, NUMBA_CACHE_DIR=str(place))
        assert (answer, found) == (6, hits) and Path(where).parent == place
    assert not (kernels / "__pycache__").exists()
