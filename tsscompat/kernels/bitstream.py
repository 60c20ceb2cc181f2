"""Streams of bits in which each number has a width of its own, lowest bit first."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated

# Numbers are taken apart in blocks of about this many bits.
_BLOCK = 1 << 22


def _bit_places(widths: Tensor) -> tuple[Tensor, Tensor]:
    """For each bit of some numbers whose it is, and which."""
    which = torch.repeat_interleave(widths)
    return which, torch.arange(which.shape[0], device=widths.device) - (widths.cumsum(0) - widths)[which]


@accelerated
def write_bits(values: Tensor, widths: Tensor) -> Tensor:
    """Numbers (int64), each cut to its width (int64, up to 64), one after another, as bytes."""
    begins = widths.cumsum(0) - widths
    total = int(widths.sum())
    bits = torch.zeros(-(-total // 8) * 8, dtype=torch.uint8, device=values.device)
    step = max(1, _BLOCK // 64)
    for start in range(0, values.shape[0], step):
        part = slice(start, start + step)
        which, place = _bit_places(widths[part])
        bits[begins[part][which] + place] = (values[part][which] >> place & 1).to(torch.uint8)
    weights = (1 << torch.arange(8, device=values.device)).to(torch.uint8)
    return (bits.view(-1, 8) * weights).sum(1, dtype=torch.uint8)


@accelerated
def read_bits(stream: Tensor, widths: Tensor) -> Tensor:
    """The numbers (int64) of some widths at the start of a stream, which must be long enough."""
    begins = widths.cumsum(0) - widths
    out = torch.zeros_like(widths)
    step = max(1, _BLOCK // 64)
    for start in range(0, widths.shape[0], step):
        part = slice(start, start + step)
        which, place = _bit_places(widths[part])
        at = begins[part][which] + place
        # Different bits, so that their sum is their union.
        out[part].index_add_(0, which, (stream[at >> 3] >> (at & 7).to(torch.uint8) & 1).long() << place)
    return out


@accelerated
def read_groups(stream: Tensor, n: int, key_bits: int, size_bits: int, id_bits: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, sizes and ids of n groups in a stream: key, size, then as many ids (none if `id_bits` is 0).

    A stream that ends before, or has more than `most` ids, gives fewer groups.
    """
    data, left = bytes(stream.cpu().numpy().tobytes()), 8 * stream.shape[0]
    at = 0
    keys: list[int] = []
    sizes: list[int] = []
    ids: list[int] = []

    def take(width: int) -> int:
        nonlocal at
        word = int.from_bytes(data[at // 8 : (at + width + 7) // 8], "little") >> at % 8 & (1 << width) - 1
        at += width
        return word - (1 << 64) if word >> 63 else word

    for _ in range(n):
        if at + key_bits + size_bits > left:
            break
        key, size = take(key_bits), take(size_bits)
        if id_bits and not 0 <= size <= min(most - len(ids), (left - at) // id_bits):
            break
        keys.append(key)
        sizes.append(size)
        ids.extend(take(id_bits) for _ in range(size if id_bits else 0))
    return tuple(torch.tensor(part, dtype=torch.int64, device=stream.device) for part in (keys, sizes, ids))  # type: ignore[return-value]
