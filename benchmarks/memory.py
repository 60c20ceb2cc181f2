"""Peak memory of one step, in a process of its own: `python memory.py MODULE CASE STEP N FOLDER` prints two numbers of bytes.

The first is the peak during the step over what the process held before it loaded anything: vectors, index and all that the step needs. The
second is the peak over what was resident just before the step. A rehearsal on little data comes first, so that the libraries' own memory,
compiled code and threads stay out of the account; what it freed is given back to the system.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cases

STEPS = ("train", "add", "search")


def status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def resident() -> int:
    ctypes.CDLL(None).malloc_trim(0)
    return status("VmRSS")


def step(module, case: cases.Case, name: str, n: int, folder: Path, small: bool):
    """The call to measure, on what it loads; or one that does the same on little."""
    if name == "train":
        x = cases.base(20_000 if small else n, case)
        index = cases.make(module, replace(case, key=case.key.replace("IVF1024", "IVF128")) if small else case)
        return lambda: index.train(x)
    if name == "add":
        x = cases.base(20_000 if small else n, case)
        index = read(module, case, folder / "trained.faiss")
        return lambda: index.add(x)
    index = read(module, case, folder / ("trained.faiss" if small else "filled.faiss"))
    if small:
        index.add(cases.base(20_000, case))
    cases.tune(module, index, case)
    q = cases.queries(1000, case)
    return lambda: index.search(q, 10)


def read(module, case: cases.Case, path: Path):
    return module.read_index_binary(str(path)) if case.binary else module.read_index(str(path))


def measure(module_name: str, case: cases.Case, name: str, n: int, folder: Path) -> tuple[int, int]:
    """The same, from another process."""
    command = [sys.executable, __file__, module_name, case.name, name, str(n), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"}, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    whole, working = run.stdout.split()[-2:]
    return int(whole), int(working)


def main() -> None:
    module_name, case_name, name, n, folder = sys.argv[1:]
    module = importlib.import_module(module_name)
    (case,) = (c for c in cases.CASES if c.name == case_name)
    step(module, case, name, int(n), Path(folder), small=True)()
    cases.vectors.cache_clear()
    empty = resident()
    call = step(module, case, name, int(n), Path(folder), small=False)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")
    call()
    peak = status("VmHWM")
    print(peak - empty, peak - before)


if __name__ == "__main__":
    main()
