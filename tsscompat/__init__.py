"""FAISS's Python API, computed by PyTorch: `import tsscompat as faiss`."""

import gc as _gc
import sys as _sys
from typing import Any as _Any

# Nothing that an import makes is garbage, but it is enough to set off a collection, which looks at all of torch's objects: 90 ms of 200.
_collecting = _gc.isenabled()
_gc.disable()
try:
    from tsscompat.devices import default_device as default_device
    from tsscompat.devices import set_default_device as set_default_device
    from tsscompat.faiss_compat import *
    from tsscompat.faiss_compat.base import Index as Index
    from tsscompat.faiss_compat.binary import IndexBinary as IndexBinary
    from tsscompat.faiss_compat.gaps import absent as __getattr__  # noqa: F401 - a missing name says why
    from tsscompat.faiss_compat.stats import Namespace as _Namespace
finally:
    if _collecting:
        # What was made counts as old without a look at it: 15 ms.
        _gc.freeze()
        _gc.unfreeze()
        _gc.enable()

_sys.modules[__name__].__class__ = _Namespace

__version__ = "0.1.0"


def install_as_faiss() -> _Any:
    """From now on `import faiss` in this process gives tsscompat (see tsscompat/standin.py)."""
    from tsscompat import standin

    return standin.install_as_faiss()


def from_faiss(index: _Any, **settings: _Any) -> _Any:
    """An index of tsscompat or FAISS, a file's path or its bytes as a static nn.Module (see tsscompat/modules)."""
    from tsscompat.modules import from_faiss as convert

    return convert(index, **settings)


def estimate_memory(*args: _Any, **settings: _Any) -> _Any:
    """What an index of a factory string will weigh (see tsscompat/advice)."""
    from tsscompat.advice import estimate_memory as estimate

    return estimate(*args, **settings)


def recommend(*args: _Any, **settings: _Any) -> _Any:
    """Which index to build for so many vectors (see tsscompat/advice)."""
    from tsscompat.advice import recommend as ranked

    return ranked(*args, **settings)


def _memory_usage(self: _Any) -> _Any:
    """What this index holds now: bytes by part (see tsscompat/advice)."""
    from tsscompat.advice import memory_usage

    return memory_usage(self)


# Methods that lead upward are added here, so that the layers below know of none above.
Index.module = IndexBinary.module = from_faiss  # type: ignore[attr-defined]
Index.memory_usage = IndexBinary.memory_usage = _memory_usage  # type: ignore[attr-defined]
