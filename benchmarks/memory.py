"""Peak memory of one step, in a process of its own: `python memory.py MODULE CASE STEP N FOLDER` prints the bytes.

The kernel's high-water mark is reset after imports, data, and a rehearsal on little data, so that the libraries' own memory, compiled
code and pools stay out of the account.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np

STEPS = ("train", "add", "search")


def status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def peak_of(call) -> int:
    """Bytes above what was resident before, at the worst moment of the call."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    call()
    return max(0, status("VmHWM") - before)


def step(module, case: cases.Case, name: str, n: int, folder: Path):
    """The call to measure, and a smaller one that rehearses it."""
    x, q = cases.base(n, case.d), cases.queries(1000, case.d)
    if name == "train":
        index, small = cases.make(module, case), module.index_factory(case.d, case.key.replace("IVF1024", "IVF4"))
        return lambda: index.train(x), lambda: small.train(x[:2000])
    if name == "add":
        index, small = (module.read_index(str(folder / "trained.faiss")) for _ in range(2))
        return lambda: index.add(x), lambda: small.add(x[:2000])
    index = module.read_index(str(folder / "filled.faiss"))
    cases.tune(module, index, case)
    return lambda: index.search(q, 10), lambda: index.search(q[:32], 10)


def measure(module_name: str, case: cases.Case, name: str, n: int, folder: Path) -> int:
    """The same, from another process."""
    command = [sys.executable, __file__, module_name, case.name, name, str(n), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"}, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return int(run.stdout.split()[-1])


def main() -> None:
    module_name, case_name, name, n, folder = sys.argv[1:]
    module = importlib.import_module(module_name)
    (case,) = (c for c in cases.CASES if c.name == case_name)
    call, rehearsal = step(module, case, name, int(n), Path(folder))
    rehearsal()
    np.empty(0)
    print(peak_of(call))


if __name__ == "__main__":
    main()
