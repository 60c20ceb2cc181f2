"""contrib.torch_utils: what the import changes, in FAISS and here, in processes of their own, since it changes all indexes for good."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tsscompat

HERE = Path(__file__).resolve().parent
CHECKS = re.findall(r"^def (check_\w+)", (HERE / "after_torch_utils.py").read_text(), re.MULTILINE)
# FAISS's CPU indexes take no float16 there.
LACKS = {"check_half_precision"}


def process(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@functools.cache
def outcomes(module: str) -> dict[str, str | None]:
    return json.loads(process(str(HERE / "after_torch_utils.py"), module))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("module", ["faiss", "tsscompat"])
def test_after_the_import(module, check):
    error = outcomes(module)[check]
    if module == "faiss" and check in LACKS:
        assert error is not None and "unsupported numeric type" in error
    else:
        assert error is None, error


def test_without_the_import_nothing_changes():
    """Other contrib modules do not bring it along."""
    out = process(
        "-c",
        "import sys, numpy as np, torch, tsscompat, tsscompat.contrib, tsscompat.contrib.datasets\n"
        "index = tsscompat.IndexFlatL2(4); index.add(torch.zeros(4, 3).t())\n"
        "print(type(index.reconstruct(0)).__name__, hasattr(index, 'search_numpy'), 'tsscompat.contrib.torch_utils' in sys.modules)",
    )
    assert out.split() == ["ndarray", "False", "False"]
    assert not hasattr(tsscompat.Index, "search_numpy"), "a test has imported contrib.torch_utils into this process"
    index = tsscompat.IndexFlatL2(4)
    index.add(torch.zeros(4, 3).t())
    assert index.remove_ids(torch.tensor([1])) == 1 and isinstance(index.reconstruct_n(), np.ndarray)


def test_the_stand_in_has_the_import_too():
    code = (
        "import tsscompat; tsscompat.install_as_faiss()\n"
        "import faiss, torch\n"
        "before = faiss.IndexFlatL2(4); before.add(torch.eye(4))\n"
        "import faiss.contrib.torch_utils as changed\n"
        "assert changed is __import__('tsscompat.contrib.torch_utils').contrib.torch_utils\n"
        "print(type(before.reconstruct(1)).__name__, type(faiss.IndexFlatL2(4).reconstruct_n()).__name__)"
    )
    assert process("-c", code).split() == ["Tensor", "Tensor"]


def test_on_a_gpu(monkeypatch):
    monkeypatch.setenv("TSSCOMPAT_VIRTUAL_GPUS", "2")
    code = (
        "import tsscompat as faiss, torch, tsscompat.contrib.torch_utils\n"
        "config = faiss.GpuIndexCagraConfig(); config.graph_degree, config.intermediate_graph_degree = 8, 8\n"
        "cagra = faiss.GpuIndexCagra(faiss.StandardGpuResources(), 4, faiss.METRIC_L2, config)\n"
        "x = torch.rand(50, 4)\n"
        "cagra.add(x); cagra.train(x, faiss.Float32)\n"
        "placed = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 1, faiss.IndexFlatL2(4)); placed.add(x)\n"
        "assert placed.reconstruct(3).device == placed.device and torch.equal(placed.reconstruct_n(2, 3), x[2:5])\n"
        "d, i = torch.zeros(5, 1), torch.zeros(5, 1, dtype=torch.int64)\n"
        "cagra.search(x[:5], 1, d, i)\n"
        "print(i.flatten().tolist())"
    )
    assert json.loads(process("-c", code)) == [0, 1, 2, 3, 4]
