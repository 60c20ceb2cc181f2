"""Compiles each Triton kernel that a call launches for a Hopper GPU, without having one; nothing is run.

`compiling()` makes launches compile: the code around them runs as it is, on CPU tensors whose content is then nonsense, or on torch's
`meta` ones, which have a size and no memory. Kernels are specialised as Triton does it: for sizes that 16 divides, and for ones. It is for
processes of its own: Triton's driver is replaced.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas

TARGET = GPUTarget("cuda", 90, 32)
# What the tensor cores are asked for, copies to shared memory and loads by their bytes, operations that order all memory, and products
# that are added without being rounded.
MARKS = {
    "dots": r"(wgmma\.mma_async|mma\.sync)\S*",
    "loads": r"(cp\.async\.c[ag]|ld\.global)\S*",
    "ordering": r"acq_rel",
    "contracted": r"fma\.rn\S*",
}


class Hopper:
    """What Triton asks a driver before it launches, answered for a GPU that is not there."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _resources(ptx: str) -> dict[str, int]:
    """What the assembler says of a kernel: registers and bytes spilled."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as source:
        source.write(ptx)
        source.flush()
        arch = re.search(r"\.target (sm_\w+)", ptx)
        out = subprocess.run(
            [get_ptxas(90).path, "-v", f"--gpu-name={arch[1] if arch else 'sm_90a'}", source.name, "-o", "/dev/null"],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    found = {
        name: int(m[1])
        for name, rx in (("registers", r"Used (\d+) reg"), ("spilled", r"(\d+) bytes spill stores"))
        if (m := re.search(rx, out))
    }
    return found


@contextlib.contextmanager
def compiling(build: bool = True) -> Iterator[dict[str, dict[str, Any]]]:
    """Within it, launches compile; gives what each kernel needs and has, by name and constants, and the grids that it was launched on.

    Without `build` only the grids.
    """
    made: dict[str, dict[str, Any]] = {}

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        constants = {name: value for name, value in kwargs.items() if name.isupper()}
        built = old(self, *args, grid=grid, warmup=True, **kwargs) if build else None
        key = f"{self.fn.__name__} {sorted(constants.items())} {hash(built)}"
        if key not in made:
            made[key] = {"grids": []}
            if built is not None:
                ptx = built.asm["ptx"]
                found = {name: sorted({m[0] for m in re.finditer(rx, ptx)}) for name, rx in MARKS.items()}
                made[key] |= {"shared": built.metadata.shared, "warps": built.metadata.num_warps, **_resources(ptx), **found}
        made[key]["grids"].append(tuple(grid))

    kind = triton.runtime.jit.JITFunction
    old, kind.run = kind.run, run
    triton.runtime.driver.set_active(Hopper())
    try:
        yield made
    finally:
        kind.run = old
