"""Triton's kernels compile for a Hopper GPU, on a machine without one: what the interpreter lets pass, the compiler may not.

Each program launches kernels on CPU tensors in a process of its own, where launching only compiles.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton here")

SCREENED = """
from tsscompat.kernels.triton import flat
flat.knn(torch.randn(300, 32), torch.randn(20_000, 32), 10, 1)
expected = {"_prepare", "_bounds", "_pick", "_scores", "_rank", "_unproven", "_least"}
"""
SHARED = """
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.triton import ivf_product
lists = Ragged(torch.zeros(640, 16, dtype=torch.uint8), torch.arange(640), torch.arange(8) * 80, torch.full((8,), 80))
x, keys, base = torch.randn(64, 128), torch.zeros(64, 2, dtype=torch.int64), torch.zeros(64, 2)
ivf_product.scan_product(x, torch.randn(16, 8, 256), 8, False, -2.0, x[0], torch.zeros(640), base, lists, keys, 10, 1)
expected = {"least_shared", "chunk_scores", "_pick", "_rank"}
"""
FEW = """
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.triton import hamming, ivf, ivf_terms
lists = Ragged(torch.zeros(640, 16, dtype=torch.uint8), torch.arange(640), torch.arange(8) * 80, torch.full((8,), 80))
keys, base, rows = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2), torch.randn(640, 24)
tables, signatures = torch.randn(2, 16, 256), torch.zeros(4, 16, dtype=torch.uint8)
ivf.scan_polysemous(tables, base, None, 8, signatures, 50, lists, keys, 10, False)
ivf.scan_flat(torch.randn(2, 24), rows, lists, keys, 10, 22)
hamming.scan(torch.zeros(2, 16, dtype=torch.uint8), lists, keys, 10)
ivf_terms.product_terms(lists.codes, torch.randn(16, 256, 8), 8, rows[:8].repeat(1, 6)[:, :128], keys[0], keys[0], base[0])
expected = {"least_few", "chunk_scores", "_terms"}
"""
BLOCKS = """
from tsscompat.kernels.fastscan import Tables
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.triton import fastscan
lists = Ragged(torch.zeros(8, 16 * 32, dtype=torch.uint8), torch.arange(256), torch.arange(4) * 64, torch.full((4,), 60))
tables = Tables(torch.zeros(200, 1, 32, 16, dtype=torch.uint8), None, torch.ones(200), torch.ones(200))
keys = torch.zeros(200, 2, dtype=torch.int64)
scan = fastscan.BlockScan(fastscan.codes_of(tables, None, lists, 32, keys, False), lists, keys, None, None, False)
scan.least(False), scan.least(True), scan.scores(torch.zeros(200, 4, dtype=torch.int32))
fastscan.quantize(torch.randn(2, 8, 32, 16), torch.randn(2, 8))
exact = {"_spans", "_reaches", "_entries"}
expected = {"least_of_blocks", "least_of_shared_blocks", "scores_of_blocks"} | exact
"""
LEVELS = """
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.triton import codes, levels, panorama
x, rows, lengths = torch.randn(2, 128), torch.randn(640, 128), torch.randn(640, 9)
lists = Ragged(rows, torch.arange(640), torch.arange(8) * 80, torch.full((8,), 80))
panorama.lengths_left(rows, 16)
exact = {"lengths_of_levels"}
given = levels.leveled(codes.Codes(codes.LEVELS, rows, 128, 1, False, x, dsub=16, ksub=64), lengths, 8, 16)
scan = levels.LevelScan(given, lists, torch.zeros(2, 3, dtype=torch.int64), None, None, True)
scan.least(False), scan.scores(torch.zeros(2, 4, dtype=torch.int32))
expected = {"least_by_levels", "lengths_of_levels", "chunk_scores"}
"""
WALK = """
from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.triton import graph
ones, ends = torch.ones(99, dtype=torch.int32), torch.tensor([0, 32, 48], dtype=torch.int32)
given = Graph(ones, torch.arange(100) * 32, torch.zeros(3168, dtype=torch.int32), ends, 0, 1)
graph.search(torch.randn(4, 64), torch.randn(99, 64), given, Walk(32, 32), 10, 1)
graph.search(torch.randn(4, 64), torch.randn(99, 64), given, Walk(32, 32, check=False), 10, 23, 0.0, torch.ones(99, dtype=bool))
graph.search(torch.randn(4, 16), torch.randn(99, 16), given, Walk(64, 64), 10, 1000)  # Hamming
expected = {"_walk"}
"""
ESTIMATES = """
from tsscompat.kernels.ivf_codebook import TURBO, Codebook
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.rabitq import Coder
from tsscompat.kernels.triton import ivf_codebook, rabitq
where = torch.arange(640), torch.arange(8) * 80, torch.full((8,), 80)
lists = [Ragged(torch.zeros(640, size, dtype=torch.uint8), *where) for size in (24, 56, 84)]
keys, base, x = torch.zeros(64, 2, dtype=torch.int64), torch.zeros(64, 2), torch.randn(64, 258)
ivf_codebook.scan_codebook(x, Codebook(TURBO, 3, base[0]), None, base, lists[1], keys, 10, 1)
rabitq.scan_rabitq(x[:2, :128], Coder(x[:8, :128], 1, 1, 4, False), lists[0], keys[:2], 10)
for nq in (2, 64):
    rabitq.scan_rabitq(x[:nq, :128], Coder(x[:8, :128], 4, 1, 4, False), lists[2], keys[:nq], 10)
rabitq.within_rabitq(x[:2, :128], Coder(x[:1, :128], 4, 0, 0, True), lists[2], keys[:2], 1.0)
exact = {"ask"}
expected = {"least_shared", "least_few", "chunk_scores", "estimates", "estimates_shared", "sieve"} | exact
"""
FRAME = """
import torch
from compiled import compiling
exact = set()  # of what is rounded step by step
with compiling() as made:
{body}
assert {{name.split()[0] for name in made}} >= expected, made
spilled = {{name: needs for name, needs in made.items() if needs.get("spilled", 0) > 256}}
assert not spilled, spilled
assert not any(needs["contracted"] for name, needs in made.items() if name.split()[0] in exact), made
"""


PROGRAMS = {
    "screened": SCREENED,
    "shared lists": SHARED,
    "few": FEW,
    "blocks": BLOCKS,
    "levels": LEVELS,
    "estimates": ESTIMATES,
    "walk": WALK,
}


@pytest.mark.parametrize("body", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_kernels_compile(body):
    program = FRAME.format(body="\n".join(f"    {line}" for line in body.strip().splitlines()))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
