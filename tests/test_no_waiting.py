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

import pytest

# Reductions to Python numbers, and what makes tensors whose sizes depend on data.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "repeat_interleave", "unique", "is_nonzero", "equal.default")

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

torch.manual_seed(0)
kind, nq = sys.argv[1], int(sys.argv[3])
xb, xq = torch.randn(400, 8), torch.randn(nq, 8)
index = faiss.index_factory(8, kind)
index.train(xb)
index.add(xb)
if hasattr(index, "nprobe"):
    index.nprobe = 2
expected = index.search(xq, 3)  # what is kept between searches is made in the first one
with Noted() as noted:
    found = index.search(xq, 3)
assert torch.equal(found[1], expected[1])
if sys.argv[4] == "broken":
    with noted:
        bool(found[0].sum() > 0)
print(json.dumps(noted.names))
"""


def operations(kind: str, nq: int, how: str = "whole") -> list[str]:
    """The operations of a search that a GPU would be waited for."""
    here = str(Path(__file__).parent)
    environment = os.environ | {"TSSCOMPAT_TWINS": "triton", "TRITON_INTERPRET": "1", "PYTHONPATH": here, "TSSCOMPAT_DEVICE": "cpu"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, kind, json.dumps(WAITING), str(nq), how]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton here")


@pytest.mark.parametrize("kind,nq", [("Flat", 2), ("IVF4,Flat", 7), ("IVF4,PQ2x4", 1)])
def test_a_search_reads_nothing_back(kind, nq):
    assert operations(kind, nq) == []


def test_what_is_read_back_is_seen():
    assert operations("Flat", 1, "broken") != []
