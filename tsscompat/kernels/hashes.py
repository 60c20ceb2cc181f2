"""FAISS's hashes of byte strings, as int64 with the bits of its uint64."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def byte_hashes(rows: Tensor) -> Tensor:
    """The hash of each row (n, m) of bytes: multiplied by 1000003 and xor-ed with the next byte, over the row."""
    n, m = rows.shape
    state = rows[:, 0].long() << 7 if m else torch.zeros(n, dtype=torch.int64, device=rows.device)
    for column in range(m):
        state = (state * 1000003) ^ rows[:, column].long()
    return state ^ m


def checksums(rows: Tensor) -> Tensor:
    """The checksum of each row (n, m) of bytes: a polynomial in 65713 of its little-endian words from the last to the first, then of
    the bytes that are left from first to last."""
    m = rows.shape[1]
    words = rows[:, : m // 4 * 4].reshape(-1).view(torch.int32).view(rows.shape[0], m // 4).long()
    # FAISS multiplies in 32 bits.
    terms = torch.cat([(words.flip(1) * 1686049) & 0xFFFFFFFF, rows[:, m // 4 * 4 :].long() * 1686049], 1)
    powers = torch.full((terms.shape[1] + 1,), 65713, dtype=torch.int64, device=rows.device)
    powers[0] = 1
    powers = powers.cumprod(0).flip(0)  # 65713^count ... 65713^0; int64 wraps round as uint64 does
    return powers[0] * 112909 + (terms * powers[1:]).sum(1)
