"""Threads share an index, and processes fork, after kernels have run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import N_BASE, ROWS, Row, filled, shelf

import tsscompat
from tsscompat.kernels.threads import run_blocks

SHARED = [
    r
    for r in ROWS
    if r.name in {"Flat", "IVF8,Flat", "IVF8,PQ4np", "IVF8,SQ8", "HNSW8,Flat", "PQ4np-IP", "SQ8", "OPQ4_8,IVF8,PQ4np"}
]


def growing(stop: threading.Event, rounds: list[int]) -> None:
    """Adds to an index of its own until told to stop."""
    index = tsscompat.IndexFlatL2(16)
    x = np.ones((64, 16), np.float32)
    while not stop.is_set():
        index.add(x)
        rounds.append(index.ntotal)
        if index.ntotal > 50_000:
            index.reset()


@pytest.mark.parametrize("row", SHARED, ids=str)
def test_eight_threads_get_the_answers_of_one(row: Row):
    index, s = filled(tsscompat, row), shelf(row)
    batches = [row.data(n, 100 + n) for n in (1, 3, 17, 40)]
    expected = [index.search(b, 7) for b in batches]
    stop, rounds, wrong = threading.Event(), [], []

    def searching(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(12):
                which = int(rng.integers(len(batches)))
                distances, ids = index.search(batches[which], 7)
                if not (
                    np.array_equal(ids, expected[which][1]) and np.allclose(distances, expected[which][0], rtol=1e-5, atol=1e-5)
                ):
                    wrong.append(which)
        except Exception as error:
            wrong.append(error)

    adder = threading.Thread(target=growing, args=(stop, rounds))
    searchers = [threading.Thread(target=searching, args=(seed,)) for seed in range(8)]
    for thread in [adder, *searchers]:
        thread.start()
    for thread in searchers:
        thread.join()
    stop.set()
    adder.join()
    assert wrong == []
    assert rounds and s.base.shape == (N_BASE, 16)


FORK = """
import os, sys
import numpy as np
import tsscompat
tsscompat.omp_set_num_threads(2)
x = np.random.default_rng(0).standard_normal((3000, 16)).astype("float32")
index = tsscompat.index_factory(16, "IVF16,Flat")
index.train(x)
index.add(x)
index.nprobe = 4
before = index.search(x, 3)
child = os.fork()
if child == 0:
    after = index.search(x, 3)
    os._exit(0 if np.array_equal(after[1], before[1]) else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert np.array_equal(index.search(x, 3)[1], before[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_searches(tmp_path):
    path = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    run = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_on_single_threads_torch_uses_no_others():
    """Each thread of the pool has its own number of torch threads, and keeps it through operations; the caller's stays."""
    before, seen = torch.get_num_threads(), []

    def work(start: int, stop: int) -> None:
        table = torch.randn(300, 300)
        torch.mm(table, table)
        seen.append(torch.get_num_threads())

    tsscompat.omp_set_num_threads(2)
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            run_blocks(work, 8, 1, single=True)
        assert seen and set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
