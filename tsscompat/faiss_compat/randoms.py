"""Random arrays from FAISS's own streams: the same seed gives the same numbers, whatever the platform."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import index
from typing import Any

import numpy as np
from torch import Tensor

from tsscompat.algorithms import random
from tsscompat.faiss_compat.pointers import behind


def _shape(n: int | tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(index(i) for i in n) if isinstance(n, (tuple, list)) else (index(n),)
    if min(shape, default=0) < 0:
        raise ValueError(f"expected no negative dimensions, got {n}")
    return shape


def _drawn(stream: Callable[[int, int], Tensor], n: int | tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """A stream's beginning in a shape; no fraction of a count or a seed is dropped."""
    shape = _shape(n)
    return stream(math.prod(shape), index(seed)).numpy().reshape(shape)


def rand(n: int | tuple[int, ...], seed: int = 12345) -> np.ndarray[Any, Any]:
    """Floats in [0, 1], in a shape."""
    return _drawn(random.float_rand, n, seed)


def randn(n: int | tuple[int, ...], seed: int = 12345) -> np.ndarray[Any, Any]:
    """Normally distributed floats, in a shape."""
    return _drawn(random.float_randn, n, seed)


def randint(n: int | tuple[int, ...], seed: int = 12345, vmax: int | None = None) -> np.ndarray[Any, Any]:
    """Integers below vmax (of 62 bits when None), in a shape."""
    if vmax is None:
        return _drawn(random.int64_rand, n, seed)
    most = index(vmax)
    if most < 0:
        raise OverflowError(f"vmax must be at least 0, got {vmax}")
    return _drawn(lambda count, seed: random.int64_rand_max(count, most, seed), n, seed)


lrand = randint


def rand_smooth_vectors(n: int, d: int, seed: int = 1234) -> np.ndarray[Any, Any]:
    """Vectors on a smooth surface of 10 dimensions: data that quantizers like."""
    return random.rand_smooth_vectors(int(n), int(d), int(seed)).numpy()


def float_rand(x: Any, n: int, seed: int) -> None:
    behind(x, n).copy_(random.float_rand(n, seed))


def float_randn(x: Any, n: int, seed: int) -> None:
    behind(x, n).copy_(random.float_randn(n, seed))


def int64_rand(x: Any, n: int, seed: int) -> None:
    behind(x, n).copy_(random.int64_rand(n, seed))


def int64_rand_max(x: Any, n: int, max: int, seed: int) -> None:
    behind(x, n).copy_(random.int64_rand_max(n, max, seed))


def byte_rand(x: Any, n: int, seed: int) -> None:
    behind(x, n).copy_(random.byte_rand(n, seed))


def rand_perm(perm: Any, n: int, seed: int) -> None:
    behind(perm, n).copy_(random.rand_perm(n, seed))


def rand_perm_splitmix64(perm: Any, n: int, seed: int) -> None:
    behind(perm, n).copy_(random.rand_perm_splitmix64(n, seed))


def rand_smooth_vectors_c(n: int, d: int, x: Any, seed: int) -> None:
    behind(x, n, d).copy_(random.rand_smooth_vectors(n, d, seed))


class RandomGenerator(random.RandomGenerator):
    """std::mt19937 with FAISS's ways of drawing from it."""


class SplitMix64RandomGenerator(random.SplitMix64RandomGenerator):
    """SplitMix64 with FAISS's ways of drawing from it."""


__all__ = [
    "RandomGenerator",
    "SplitMix64RandomGenerator",
    "byte_rand",
    "float_rand",
    "float_randn",
    "int64_rand",
    "int64_rand_max",
    "lrand",
    "rand",
    "rand_perm",
    "rand_perm_splitmix64",
    "rand_smooth_vectors",
    "rand_smooth_vectors_c",
    "randint",
    "randn",
]
