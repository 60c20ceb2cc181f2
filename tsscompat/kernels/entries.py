"""Vectors that come, and go out, one or a few at a time: between them and the storage is one call.

Adding a vector takes FAISS 3 to 20 us, of which a call into torch is one already: so codes are written where they are kept, and vectors may
come as an array.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import pack, unpack
from tsscompat.kernels.ivf import nearest_lists, residuals
from tsscompat.kernels.ivf_lists import Ragged, append
from tsscompat.kernels.pq import nearest_parts
from tsscompat.kernels.scalar import middles_of, steps_of
from tsscompat.records import record

# As it is; in steps of ranges; by the nearest centroid of each part, a byte for each.
PLAIN, STEPS, PRODUCT = range(3)


@record
class Coder:
    """How a vector becomes a code, and back."""

    kind: int
    d: int
    code_size: int
    bits: int = 0  # of a step
    low: Tensor | None = None  # (d,) or (1,)
    extent: Tensor | None = None
    centroids: Tensor | None = None  # (M, 256, dsub)
    # Whatever a twin keeps with these very tensors.
    kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


def codes_of(x: Tensor, coder: Coder) -> Tensor:
    """Codes (n, code_size) of vectors."""
    if coder.low is not None and coder.extent is not None:
        steps = steps_of(x, coder.low, coder.extent, (1 << coder.bits) - 1)
        return steps if coder.bits == 8 else pack(steps, coder.bits)
    return x.contiguous().view(torch.uint8) if coder.centroids is None else pack(nearest_parts(x, coder.centroids), 8)


def _vectors_of(codes: Tensor, coder: Coder) -> Tensor:
    if coder.low is not None and coder.extent is not None:
        return middles_of(unpack(codes, coder.d, coder.bits), coder.low, coder.extent, (1 << coder.bits) - 1)
    if coder.centroids is None:
        return codes.contiguous().view(torch.float32)
    parts = torch.arange(coder.centroids.shape[0], device=codes.device)
    return coder.centroids[parts, codes.long()].reshape(codes.shape[0], -1)


@accelerated
def write_codes(x: Any, coder: Coder, room: Any, at: int) -> None:
    """Write the codes of vectors into bytes, from one on."""
    codes = codes_of(torch.as_tensor(x), coder)
    torch.as_tensor(room)[at : at + codes.numel()] = codes.view(-1)


@accelerated
def read_code(codes: Any, at: int, coder: Coder, out: Any) -> None:
    """Write the vector of the code that begins at a byte."""
    code = torch.as_tensor(codes)[at : at + coder.code_size]
    torch.as_tensor(out).copy_(_vectors_of(code[None], coder)[0])


@accelerated
def enter(
    x: Any,
    names: Any,
    coder: Coder,
    centers: Tensor,
    metric: int,
    residual: bool,
    lists: Ragged,
    rooms: Tensor,
    tail: Tensor,
    places: Any,
) -> int:
    """Put vectors under their names into the lists of their nearest centers; says how many were before room ran out.

    `rooms` and `tail` are those of ivf_lists.append; `places` receives list << 32 | position, or -1 for a vector that no
    center is near.
    """
    x, names, places = torch.as_tensor(x), torch.as_tensor(names), torch.as_tensor(places)
    list_nos = nearest_lists(x, centers, 1, metric)[1].view(-1)
    codes = codes_of(residuals(x, centers, list_nos) if residual else x, coder)
    done = append(lists, rooms, tail, list_nos, codes, names, places)
    places[:done] = torch.where(list_nos >= 0, list_nos << 32 | places, -1)[:done]
    return done


@accelerated
def recall(lists: Ragged, place: int, coder: Coder, centers: Tensor | None, out: Any) -> bool:
    """Write the vector at list << 32 | position, where there is one; `centers` where codes are of residuals."""
    list_no, at = place >> 32, place & 0xFFFFFFFF
    known = lists.nlist if centers is None else min(lists.nlist, centers.shape[0])
    if not 0 <= list_no < known or at >= int(lists.sizes[list_no]):
        return False
    row = int(lists.offsets[list_no]) + at
    vector = _vectors_of(lists.codes[row : row + 1], coder)[0]
    torch.as_tensor(out).copy_(vector if centers is None else vector + centers[list_no])
    return True
