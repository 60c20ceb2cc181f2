"""Searches wait for no device: nothing on their way reads a number back.

A process of its own gives CPU tensors to what a GPU would run, Triton's kernels (interpreted) and definitions, and notes each operation of
torch whose result or shape is read from data, for which a GPU would be waited for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tsscompat as faiss

# Reductions to Python numbers, and what makes tensors whose sizes depend on data.
WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "bincount",
    "repeat_interleave",
    "unique",
    "is_nonzero",
    "equal.default",
)

PROGRAM = """
import json, sys
import interpreter
import torch
from torch.utils._python_dispatch import TorchDispatchMode
import tsscompat as faiss

waiting = json.loads(sys.argv[2])

class Noted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        masked = name.startswith("aten.index.") and any(t is not None and t.dtype == torch.bool for t in args[1])
        if masked or any(f"aten.{part}" in name for part in waiting):
            self.names.append(name)
        return func(*args, **(kwargs or {}))

index, xq = faiss.read_index(sys.argv[1]), torch.randn(int(sys.argv[3]), 8)
if hasattr(index, "nprobe"):
    index.nprobe = 2
expected = index.search(xq, 3)  # what is kept between searches is made in the first one
with Noted() as noted:
    found = index.search(xq, 3)
assert torch.equal(found[1], expected[1])
quiet = list(noted.names)
with noted:
    bool(found[0].sum() > 0)
print(json.dumps([quiet, noted.names]))
"""


@pytest.fixture
def operations(tmp_path):
    """The operations of a search that a GPU would be waited for; and those when a number is read back on purpose."""

    def run(kind: str, nq: int) -> list[list[str]]:
        index, path = faiss.index_factory(8, kind), tmp_path / "index"
        vectors = np.random.RandomState(1).randn(200, 8).astype(np.float32)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(path))
        environment = os.environ | {"TSSCOMPAT_TWINS": "triton", "TRITON_INTERPRET": "1", "TSSCOMPAT_DEVICE": "cpu"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(path), json.dumps(WAITING), str(nq)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton here")


@pytest.mark.parametrize("kind,nq", [("Flat", 2), ("IVF4,Flat", 7), ("IVF4,PQ2x4", 1), ("IVF4,PQ2x4fs", 1)])
def test_a_search_reads_nothing_back(operations, kind, nq):
    quiet, loud = operations(kind, nq)
    assert quiet == [] and loud != []
