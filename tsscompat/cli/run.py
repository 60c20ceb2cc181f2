"""`python -m tsscompat run script.py args...` or `... run -m module args...`: `import faiss` finds tsscompat."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

import tsscompat
from tsscompat.standin import CHILDREN

USAGE = "usage: python -m tsscompat run SCRIPT.py ARGUMENTS...\n       python -m tsscompat run -m MODULE ARGUMENTS..."


def main(arguments: Sequence[str]) -> int:
    """Run a script or a module as Python would, with tsscompat under FAISS's name."""
    asked = list(arguments)
    module = asked[:1] == ["-m"]
    rest = asked[1:] if module else asked
    if not rest or rest[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if rest else 2
    tsscompat.install_as_faiss()
    # Programs that this one starts with the same environment find it too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (CHILDREN, os.environ.get("PYTHONPATH"))))
    sys.argv = rest
    if module:
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(rest[0]))
        runpy.run_path(rest[0], run_name="__main__")
    return 0
