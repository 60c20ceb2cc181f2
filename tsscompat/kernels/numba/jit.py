"""`@jit`: numba with the GIL released, compiled code cached on disk where a directory can be written.

Numba takes cached code for fresh when the one file that holds the function is unchanged. Kernels are compiled together with what they call
and with constants from other files, so here it is fresh when none of the files that its file imports from this directory changed either.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and contracted, which lets LLVM vectorise them; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


_IMPORT = re.compile(r"^(?:from|import) [^(\n]*(?:\([^)]*\))?", re.MULTILINE)


@functools.cache
def _sources(directory: Path) -> dict[str, tuple[bytes, set[str]]]:
    """For each file of a directory its content, and which files beside it are named in its imports."""
    contents = {path.stem: path.read_bytes() for path in sorted(directory.glob("*.py"))}
    imports = {name: " ".join(_IMPORT.findall(content.decode())) for name, content in contents.items()}
    return {name: (content, contents.keys() & set(re.findall(r"\w+", imports[name]))) for name, content in contents.items()}


@functools.cache
def fingerprint(path: Path) -> str:
    """Of a file, all files beside it that it imports, at whatever remove, and the metric numbers."""
    sources, reached, waiting = _sources(path.parent), set(), {path.stem}
    while waiting:
        reached |= waiting
        waiting = {other for name in waiting & sources.keys() for other in sources[name][1]} - reached
    # By content, as installers and version control set any time they like: 9 ms for all kernels.
    contents = [sources[name][0] for name in sorted(reached & sources.keys())]
    contents += [metrics.read_bytes() for metrics in path.parent.parent.glob("metrics.py")]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    """Numba's, with the fingerprint in the stamp that says whether cached code is fresh."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self.locator.get_source_stamp(), fingerprint(Path(function.__code__.co_filename))
        self.locator.get_source_stamp = lambda: stamp


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


def in_order(function: F) -> F:
    """The same for sums of look-ups: allowed to reorder them, LLVM gathers numbers into vectors one by one (84 ns where 14 do)."""
    return cast(F, numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function))


def in_columns(function: F) -> F:
    """The same for sums that are taken in order, but with a product and an addition rounded at once, as `lanes.py` takes them."""
    return cast(F, numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy", boundscheck=False)(function))


def exact(function: F) -> F:
    """A device function that rounds as it is written; said so, because else it takes over what its caller may do."""
    return cast(F, numba.njit(nogil=True, fastmath=False, error_model="numpy", boundscheck=False)(function))


def inline(function: F) -> F:
    """A small device function, inlined by LLVM into the kernels that call it."""
    return cast(F, numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", boundscheck=False)(function))
