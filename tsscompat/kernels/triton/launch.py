"""Launching Triton kernels: on the device of the tensors given; block sizes; what to do when memory runs out.

Atomic operations are relaxed: nothing is handed over through them, and Triton's default orders all of a program's memory, for which it
waits, and empties the L1 cache.

Kernels here never read a number back from the device: what depends on the data (how many rows fall back, which list a tile belongs to) is
decided by the kernels. Each also runs on the CPU under TRITON_INTERPRET=1, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsscompat.errors import OutOfDeviceMemory

R = TypeVar("R")

# Numbers that a stage may hold for the next one: 1 GiB of float32.
BUDGET = 1 << 28
# How often a search that ran out of memory is tried again, each time with an eighth of the budget.
_TRIES = 3


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def on(tensor: Tensor) -> Any:
    """The context in which kernels for this tensor are launched: its device is the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def power_of_two(n: int, least: int = 1, most: int = 1 << 30) -> int:
    """The least power of two that is at least n, within limits."""
    return min(most, max(least, 1 << max(0, n - 1).bit_length()))


def blocks_of(n: int, size: int) -> int:
    """How many blocks of a size n items make."""
    return -(-n // size)


def within_memory(call: Callable[[int], R]) -> R:
    """call(budget), again with less when the device's memory runs out; an error that says so when too little is left for any."""
    budget = BUDGET
    while True:
        try:
            return call(budget)
        except torch.OutOfMemoryError as e:
            if budget <= BUDGET >> 3 * _TRIES:
                raise OutOfDeviceMemory(
                    f"there is no room for a search's tables, even of {4 * budget >> 10} KiB each: {e}"
                ) from e
        # What the failed call held is free by now; the cache is given back so that smaller blocks find contiguous room.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget >>= 3
