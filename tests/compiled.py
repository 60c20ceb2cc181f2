"""Compiles each Triton kernel that a call launches for a Hopper GPU, without having one; nothing is run.

`compiling()` makes launches compile: the code around them runs as it is, on CPU tensors whose content is then nonsense.
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
from triton.compiler import ASTSource

TARGET = GPUTarget("cuda", 90, 32)
KINDS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
OPTIONS = ("num_warps", "num_stages")


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return KINDS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"


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
def compiling() -> Iterator[dict[str, dict[str, int]]]:
    """Within it, launches compile; gives what each kernel needs, by name and constants."""
    made: dict[str, dict[str, int]] = {}

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = self.arg_names
        given = dict(zip(names, args)) | {k: v for k, v in kwargs.items() if k in names}
        constants = {p.name: given[p.name] for p in self.params if p.is_constexpr}
        signature = {n: "constexpr" if n in constants else _kind(given[n]) for n in names}
        # Triton treats tensors as aligned to 16 bytes, whole numbers divisible by 16 as such.
        key = f"{self.fn.__name__} {sorted(constants.items())} {sorted(signature.values())}"
        if key in made:
            return
        aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if isinstance(given[n], torch.Tensor)}
        source = ASTSource(fn=self, signature=signature, constexprs=constants, attrs=aligned)
        built = triton.compile(source, target=TARGET, options={k: kwargs[k] for k in OPTIONS if k in kwargs})
        made[key] = {"shared": built.metadata.shared, **_resources(built.asm["ptx"])}

    kind = triton.runtime.jit.JITFunction
    old, kind.run = kind.run, run
    try:
        yield made
    finally:
        kind.run = old
