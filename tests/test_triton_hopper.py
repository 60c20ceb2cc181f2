"""What the compiler makes of Triton's kernels for a Hopper GPU at the sizes of benchmarks/gpu.py, and how they are launched there.

Tensors are torch's `meta` ones, so that ten million vectors take no memory. docs/gpu.md has the figures.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton here")

FRAME = """
import json, torch
from compiled import compiling
from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.triton import codes, flat, graph, hamming, ivf, list_scan, metrics, pick, screen, segments, select

def some(*size, dtype=torch.float32):
    return torch.empty(*size, dtype=dtype, device="meta")

def lists_of(n, width, longest=1100):
    codes, ids, where = some(n, width, dtype=torch.uint8), some(n, dtype=torch.int64), some(4096, dtype=torch.int64)
    return Ragged(codes, ids, where, where, dict(widest=longest))

def keys_of(nq, nprobe):
    return some(nq, nprobe, dtype=torch.int64)

with compiling({build}) as made:
{body}
print(json.dumps(made))
"""
MAIN = """
half = torch.float16
for d, n in ((128, 1_000_000), (768, 1_000_000)):
    asked = screen.Asked(some(10_000, d, dtype=half), some(10_000), some(10_000), some(10_000), some(1))
    screen.bounds(asked, screen.Table(some(n, d, dtype=half), some(n), some(n // 32), some(n // 32), some(d), some(1), 32, 1))
flat.least(some(1, 128), some(1_000_000, 128), None, 1, 64, some(1, 15632), None, None)
pick.pick(some(10_000, 31264), None, 28, spans=(some(10_000, 977), 32))
screen.nearest_rows(some(1_000_000, 128), some(1024, 128), 1)
rows = codes.Codes(codes.VECTORS, some(1_200_000, 128), 128, 1, False, some(10_000, 128))
parts = codes.Codes(codes.PARTS, some(1_200_000, 16, dtype=torch.uint8), 128, 0, False, some(10_000, 128), lo=some(16, 256, 8),
                    dsub=8, ksub=256, shift=some(128), base=some(10_000, 32), terms=some(1_200_000), scale=-2.0)
sums = [codes.Codes(codes.SUMS, some(1_200_000, 16, dtype=torch.uint8), 128 // bits, 0, False, bits=bits, ksub=1 << bits,
                    base=some(1, 32), terms=some(1_200_000), tables=some(1, 128 // bits, 1 << bits)) for bits in (4, 8)]
for one in sums:
    list_scan.Scan(one, lists_of(1_200_000, 16), keys_of(1, 32), None, None, False).least(False)
for one in (rows, parts):
    list_scan.Scan(one, lists_of(1_200_000, 16), keys_of(10_000, 32), None, None, False).least(True)
linked = Graph(some(1, dtype=torch.int32), some(2, dtype=torch.int64), some(64_000_000, dtype=torch.int32),
               some(2, dtype=torch.int32), 0, 0, dict(widest=64))
graph.search(some(8000, 128), some(1_000_000, 128), linked, Walk(64, 64), 10, 1, 0.0, None, keys_of(1, 32))
"""
LARGE = """
x, y = some(16, 128), some(10_000_000, 128)
for k in (10, 100_000):
    flat.knn(x, y, k, 1)
    flat.knn(x[:1], y, k, 1)
metrics.pairwise(x, y, 2)
metrics.named(x[:1], y, keys_of(1, 10_000_000), 1, 0.0, 0.0)
hamming.hamming(some(16, 16, dtype=torch.uint8), some(10_000_000, 16, dtype=torch.uint8))
select.select(some(1, 100_000_000), None, 40_000, False)
ivf.scan_flat(x[:2], y, lists_of(10_000_000, 512, 9000), keys_of(2, 4096), 100_000, 1)
segments.segment_sums(y, keys_of(1, 10_000_000)[0], None, 100_000)
"""


def launched(body: str, build: bool) -> dict[str, dict]:
    program = FRAME.format(build=build, body="\n".join(f"    {line}" for line in body.strip().splitlines()))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def built():
    return launched(MAIN, True)


def of(built: dict[str, dict], name: str, mark: str = "") -> list[dict]:
    found = [needs for key, needs in built.items() if key.startswith(f"{name} ") and mark in key]
    assert found
    return found


def test_products_are_asked_of_the_tensor_cores(built):
    dots = {name: {dot for needs in of(built, name) for dot in needs["dots"]} for name in ("_bounds", "_nearest", "least_shared")}
    assert all("wgmma" in dot and ".f16.f16" in dot for dot in dots["_bounds"])
    assert all("wgmma" in dot and ".tf32.tf32" in dot for dot in dots["_nearest"] | dots["least_shared"])
    assert all(dots.values())


def test_registers_and_shared_memory_suffice(built):
    """No spills but a few in walks, which are held to 128 registers; multiprocessors have 65,536 and 227 KiB."""
    for name, needs in built.items():
        assert needs["spilled"] <= (320 if name.startswith("_walk") else 0), name
        assert needs["shared"] <= 227 << 10, name
    narrow, walk = *of(built, "_bounds", "('WIDTH', 128)"), *of(built, "_walk")
    assert 2 * 32 * narrow["warps"] * narrow["registers"] <= 1 << 16 and 2 * (narrow["shared"] + 1024) <= 228 << 10
    assert 4 * 32 * walk["warps"] * walk["registers"] <= 1 << 16


def test_loads_are_wide(built):
    """Vectors sixteen bytes at a time, codes no byte by itself."""
    assert any(
        load.startswith("ld.global.v4.b32") for needs in of(built, "_least") + of(built, "_walk") for load in needs["loads"]
    )
    assert not any("ld.global.b8" in needs["loads"] for needs in of(built, "least_few"))
    for name in ("_bounds", "_nearest", "least_shared"):
        assert all("cp.async.cg.shared.global" in needs["loads"] for needs in of(built, name)), name


def test_nothing_waits_for_all_of_memory(built):
    assert not [name for name, needs in built.items() if needs["ordering"]]


def test_grids_stay_within_what_cuda_launches():
    """Blocks along the second and third axes of a grid are 65,535 at most; none is launched empty."""
    grids = {(name, tuple(grid)) for name, needs in launched(LARGE, False).items() for grid in needs["grids"]}
    assert len(grids) > 20
    for name, grid in grids:
        assert min(grid) > 0 and grid[0] < 1 << 31 and max(grid[1:], default=1) <= 65_535, name
