"""Packing of small integers into bytes, compiled for the sizes that are not whole bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.threads import run_blocks


@jit
def pack_rows(values, nbits, codes, start, stop):
    m = values.shape[1]
    for i in range(start, stop):
        word, have, at = np.uint64(0), 0, 0
        for j in range(m):
            word |= np.uint64(values[i, j]) << np.uint64(have)
            have += nbits
            while have >= 8:
                codes[i, at] = np.uint8(word & np.uint64(255))
                word >>= np.uint64(8)
                have -= 8
                at += 1
        if have > 0:
            codes[i, at] = np.uint8(word & np.uint64(255))


@jit
def unpack_rows(codes, nbits, values, start, stop):
    m = values.shape[1]
    mask = np.uint64((1 << nbits) - 1)
    for i in range(start, stop):
        word, have, at = np.uint64(0), 0, 0
        for j in range(m):
            while have < nbits:
                word |= np.uint64(codes[i, at]) << np.uint64(have)
                have += 8
                at += 1
            values[i, j] = np.int32(word & mask)
            word >>= np.uint64(nbits)
            have -= nbits


def pack(values: Tensor, nbits: int) -> Tensor:
    if nbits == 8:
        return values.to(torch.uint8)
    n, m = values.shape
    table = values.to(torch.int32).contiguous().numpy()
    codes = np.empty((n, (m * nbits + 7) // 8), dtype=np.uint8)
    run_blocks(lambda a, b: pack_rows(table, nbits, codes, a, b), n, 4096)
    return torch.from_numpy(codes)


def unpack(codes: Tensor, m: int, nbits: int) -> Tensor:
    if nbits == 8:
        return codes[:, :m]
    table = codes.contiguous().numpy()
    values = np.empty((table.shape[0], m), dtype=np.int32)
    run_blocks(lambda a, b: unpack_rows(table, nbits, values, a, b), table.shape[0], 4096)
    return torch.from_numpy(values)
