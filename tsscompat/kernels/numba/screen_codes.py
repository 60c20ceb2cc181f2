"""Vectors as integers of 8 bits with what they lose, and whether products of such are fast and exact on this machine."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.rounding import LANES, extent, rounded
from tsscompat.kernels.threads import max_threads, run_blocks

F = np.float32
# Magnitudes between which no square over- or underflows, also in units of another vector's scale.
_TINY, _HUGE = F(1e-9), F(1e9)


@dataclass
class Codes:
    """Vectors as 8-bit integers: x = scale * codes + a remainder no longer than `error`; |x| = `norm`."""

    codes: Tensor
    scale: np.ndarray
    error: np.ndarray
    norm: np.ndarray
    sound: bool


@jit
def _quantize(x, codes, scale, error, norm, start, stop):
    """Whether all rows from start to stop are of magnitudes that the bound holds for."""
    d, sound, found = x.shape[1], True, np.empty(2, np.float32)
    whole = d - d % LANES
    for i in range(start, stop):
        row, out = x[i], codes[i]
        extent(address(x) + 4 * d * i, whole, address(found))
        for j in range(whole, d):
            found[1] += row[j] * row[j]
            found[0] = max(found[0], abs(row[j]))
        top, total = found[0], found[1]
        # Neither NaN nor infinity passes: the sum has them where the maximum has not.
        sound &= (top == 0 and total == 0) or (_TINY < top and total < _HUGE * _HUGE)
        step = top / F(127) if _TINY < top < _HUGE else F(1)
        factor = F(1) / step
        rest = rounded(address(x) + 4 * d * i, whole, factor, step, address(codes) + d * i)
        for j in range(whole, d):
            number = np.rint(row[j] * factor)
            out[j] = np.int8(number)
            gap = row[j] - step * number
            rest += gap * gap
        norm[i] = np.sqrt(total)
        scale[i] = step
        error[i] = np.sqrt(rest) * F(1.001) + norm[i] * F(1e-5)
    return sound


def quantize(x: Tensor) -> Codes:
    """The codes of the rows of x."""
    n, d = x.shape
    rows, codes, sound = x.numpy(), torch.empty(n, d, dtype=torch.int8), []
    scale, error, norm = (np.empty(n, dtype=np.float32) for _ in range(3))
    out = codes.numpy()
    run_blocks(lambda a, b: sound.append(_quantize(rows, out, scale, error, norm, a, b)), n, max(1, (1 << 16) // max(1, d)))
    return Codes(codes, scale, error, norm, all(sound))


def _wins() -> bool:
    if not hasattr(torch, "_int_mm"):
        return False
    try:
        a, b = torch.randint(-127, 128, (512, 128), dtype=torch.int8), torch.randint(-127, 128, (1024, 128), dtype=torch.int8)
        # The largest sums: arithmetic that saturates on the way would show.
        a[:8], b[:8], b[8:16] = 127, 127, -127
        wide, table = a.float(), b.float()
        if not torch.equal(torch._int_mm(a, b.t()).float(), wide @ table.t()):
            return False
        times = []
        for call in (lambda: torch._int_mm(a, b.t()), lambda: torch.mm(wide, table.t())):
            best = float("inf")
            for _ in range(8):
                begun = time.perf_counter()
                call()
                best = min(best, time.perf_counter() - begun)
            times.append(best)
        return times[0] * 1.5 < times[1]
    except RuntimeError:
        return False


@functools.cache
def wins() -> bool:
    """Whether integer products are exact here, and faster than float32's by enough to pay for the rest; measured once, in 20 ms."""
    answers: list[bool] = []
    # On one thread: several on a busy machine wait for each other far longer than they work, whichever the numbers.
    run_blocks(lambda start, stop: answers.append(_wins()) if start == 0 else None, max_threads(), single=True)
    return answers[0]
