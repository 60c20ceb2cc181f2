"""Work on many rows in blocks, so that temporaries stay small however many rows are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Numbers of a block: on a CPU a few temporaries of them stay in the last cache, on a GPU they occupy it.
_CPU, _GPU = 1 << 20, 1 << 26


def block_rows(x: Tensor, width: int) -> int:
    """How many rows of `width` numbers make a block where x is."""
    return max(1, (_CPU if x.device.type == "cpu" else _GPU) // max(1, width))


def blocks(*tables: Tensor, width: int) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of all tables, block by block."""
    step = block_rows(tables[0], width)
    for i in range(0, tables[0].shape[0], step):
        yield tuple(t[i : i + step] for t in tables)


def in_blocks(call: Callable[..., Tensor], *tables: Tensor, width: int) -> Tensor:
    """call(*tables), whose result has a row for each of theirs, put together from blocks."""
    n, step = tables[0].shape[0], block_rows(tables[0], width)
    if n <= step:
        return call(*tables)
    out: Tensor | None = None
    for i, part in zip(range(0, n, step), blocks(*tables, width=width)):
        made = call(*part)
        if out is None:
            out = made.new_empty(n, *made.shape[1:])
        out[i : i + step] = made
    assert out is not None
    return out


def squared_norms(x: Tensor) -> Tensor:
    """The squared length of each row."""
    return in_blocks(lambda part: part.square().sum(1), x, width=x.shape[1])


def finite(x: Tensor) -> bool:
    """Whether no number of a table is infinite or NaN."""
    # The extremes of a block say it, and need no table of their own.
    extremes = (torch.aminmax(part) for (part,) in blocks(x, width=x[:1].numel()) if part.numel())
    return all(math.isfinite(lowest) and math.isfinite(highest) for lowest, highest in extremes)
