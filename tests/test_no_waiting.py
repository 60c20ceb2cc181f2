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

noted = Noted()

def told(owner, name):
    # What torch does not dispatch where tensors are on the CPU.
    plain = getattr(owner, name)
    def call(*args, **kwargs):
        if owner is torch.Tensor or not isinstance(args[0], torch.Tensor):
            noted.names.append(name)
        return plain(*args, **kwargs)
    setattr(owner, name, call)

for name in ("tolist", "numpy", "cpu", "__array__"):
    told(torch.Tensor, name)
for name in ("tensor", "as_tensor", "from_numpy", "asarray"):
    told(torch, name)
quiet = []
for path, nq in json.loads(sys.argv[1]):
    index, xq = faiss.read_index(path), torch.randn(nq, 8)
    if hasattr(index, "nprobe"):
        index.nprobe = 2
    expected = index.search(xq, 3)  # what is kept between searches is made in the first one
    noted.names.clear()
    with noted:
        found = index.search(xq, 3)
    quiet.append(list(noted.names))
    assert torch.equal(found[1], expected[1])
with noted:
    bool(found[0].sum() > 0), found[0].tolist()
print(json.dumps([quiet, noted.names]))
"""
# Two lists, probed by one query or by enough of them to decode each once for all.
SEARCHES = [("Flat", 2), ("Flat", 9)]
SEARCHES += [(f"IVF2,{codec}", nq) for codec in ("Flat", "PQ2x4", "PQ2x4fs", "SQ8", "SQfp16") for nq in (1, 3)]
SEARCHES += [("IVF2,EDEN4", 1), ("IVF2,RaBitQ", 1)]


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """The operations of each search that a GPU would be waited for; and those when a number is read back on purpose."""
    folder, cases = tmp_path_factory.mktemp("indexes"), []
    vectors = np.random.RandomState(1).randn(200, 8).astype(np.float32)
    for i, (kind, nq) in enumerate(SEARCHES):
        index = faiss.index_factory(8, kind)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(folder / str(i)))
        cases.append([str(folder / str(i)), nq])
    environment = os.environ | {"TSSCOMPAT_TWINS": "triton", "TRITON_INTERPRET": "1", "TSSCOMPAT_DEVICE": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(cases), json.dumps(WAITING)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton here")


@pytest.mark.parametrize("number", range(len(SEARCHES)), ids=[f"{kind}-{nq}" for kind, nq in SEARCHES])
def test_a_search_reads_nothing_back(operations, number):
    assert operations[0][number] == []


def test_what_reads_something_back_is_seen(operations):
    assert {"tolist", "aten._local_scalar_dense.default"} <= set(operations[1])
