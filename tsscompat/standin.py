"""tsscompat under FAISS's name, for code that says `import faiss` and cannot be changed.

`install_as_faiss()` puts a module `faiss` into this process whose names are tsscompat's. It is a module of its own because
`faiss.__version__` tells the release of FAISS that is implemented. `faiss.contrib.x` is `tsscompat.contrib.x`; the other modules of
FAISS's package, which scripts import for the names in them, are the stand-in itself. The real FAISS and the stand-in do not mix: whichever
of them a process imports first stays, and asking for the other raises.

Processes that `multiprocessing` spawns get this one's module search path, which names a directory whose `faiss` installs the stand-in
there. Clients that ask for the installed version of `faiss-cpu` are told the one that is implemented.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import tsscompat
from tsscompat.errors import FaissError
from tsscompat.faiss_compat.gaps import missing
from tsscompat.faiss_compat.machine import get_version
from tsscompat.faiss_compat.stats import Namespace

# Modules of FAISS's package whose names its top level repeats.
_FLAT = ("swigfaiss", "loader", "array_conversions", "class_wrappers", "extra_wrappers", "gpu_wrappers")
# On the search path of processes started from here.
CHILDREN = str(Path(tsscompat.__file__).parent / "children")


class StandIn(Namespace):
    """The module `faiss`: tsscompat's names, FAISS's version."""

    def __init__(self) -> None:
        super().__init__("faiss", tsscompat.__doc__)
        self.__dict__.update({name: value for name, value in vars(tsscompat).items() if not name.startswith("__")})
        self.__version__ = get_version()
        self.__file__ = tsscompat.__file__
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module 'faiss' has no attribute {name!r}")
        missing("faiss", name)


class Installed(Distribution):
    """What `importlib.metadata` tells of faiss-cpu."""

    def read_text(self, filename: str) -> str | None:
        texts = {"METADATA": f"Metadata-Version: 2.1\nName: faiss-cpu\nVersion: {get_version()}\n", "top_level.txt": "faiss\n"}
        return texts.get(filename)

    def locate_file(self, path: Any) -> Path:
        return Path(tsscompat.__file__).parent / path


class Finder(MetaPathFinder, Loader):
    """Finds `faiss` and its submodules in tsscompat."""

    def __init__(self) -> None:
        self.module = StandIn()

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        if top != "faiss":
            return None
        if rest in ("_swigfaiss", "_swigfaiss_avx2", "_swigfaiss_avx512"):
            raise ImportError("tsscompat stands in for faiss in this process: the real FAISS cannot be imported beside it")
        if rest and rest not in _FLAT and importlib.util.find_spec(f"tsscompat.{rest}") is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=not rest or rest == "contrib")

    def find_distributions(self, context: DistributionFinder.Context) -> Iterator[Distribution]:
        if context.name is None or context.name.lower().replace("_", "-") == "faiss-cpu":
            yield Installed()

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.module if spec.name == "faiss" else None

    def exec_module(self, module: ModuleType) -> None:
        rest = module.__name__.partition(".")[2]
        if rest:  # the very module, not a second one with its names
            sys.modules[module.__name__] = self.module if rest in _FLAT else importlib.import_module(f"tsscompat.{rest}")


def installed() -> bool:
    """Whether tsscompat stands in for faiss in this process."""
    return any(isinstance(finder, Finder) for finder in sys.meta_path)


def install_as_faiss() -> ModuleType:
    """From now on `import faiss` in this process gives tsscompat; returns that module. FAISS must not have been imported before."""
    if not installed():
        if "faiss" in sys.modules:
            raise FaissError(
                f"FAISS itself is already imported here, from {getattr(sys.modules['faiss'], '__file__', 'an unknown place')}: "
                "call install_as_faiss() before anything imports it"
            )
        sys.meta_path.insert(0, Finder())
        if CHILDREN not in sys.path:
            sys.path.insert(1, CHILDREN)  # behind the script's own directory
    return importlib.import_module("faiss")
