"""`@jit`: numba with the GIL released, compiled code cached on disk where a directory can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and contracted, which lets LLVM vectorise them; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def jit(function: F) -> F:
    """Compile lazily, without the GIL; cache beside the source or in the user's cache directory, or not at all if neither is writable."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "boundscheck": False}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba found no place to cache
        return cast(F, numba.njit(**options)(function))


def inline(function: F) -> F:
    """A small device function, inlined by LLVM into the kernels that call it."""
    return cast(F, numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", boundscheck=False)(function))
