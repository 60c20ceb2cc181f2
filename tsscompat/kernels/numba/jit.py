"""`@jit`: numba with the GIL released, compiled code cached on disk where a directory can be written.

Numba takes cached code for fresh when the one file that holds the function is unchanged. Kernels are compiled together with what they call
and with constants from other files, so here it is fresh when no file of this directory, nor the metric numbers, changed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and contracted, which lets LLVM vectorise them; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


@functools.cache
def fingerprint() -> str:
    """Of all sources that compiled code is made of."""
    here = Path(__file__).parent
    contents = hashlib.sha256()
    # By content, as installers and version control set any time they like: 1 ms for all files.
    for path in sorted([*here.glob("*.py"), *here.parent.glob("metrics.py")]):
        contents.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return contents.hexdigest()


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    """Numba's, with the fingerprint in the stamp that says whether cached code is fresh."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self.locator.get_source_stamp()
        self.locator.get_source_stamp = lambda: (stamp, fingerprint())


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Implementation


def jit(function: F) -> F:
    """Compile lazily, without the GIL; cache beside the source or in the user's cache directory, or not at all if neither is writable."""
    dispatcher: Any = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", boundscheck=False)(function)
    try:
        dispatcher._cache = _Cache(function)
    except RuntimeError:  # numba found no place to cache
        pass
    return cast(F, dispatcher)


def inline(function: F) -> F:
    """A small device function, inlined by LLVM into the kernels that call it."""
    return cast(F, numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", boundscheck=False)(function))
