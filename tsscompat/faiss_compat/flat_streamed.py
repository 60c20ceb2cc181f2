"""Searches of a flat index on a GPU whose vectors are in the host's memory: one block of them travels while another is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.streamed import blocks
from tsscompat.devices import CPU, Placement, pinned
from tsscompat.faiss_compat.ivf_streamed import within_rooms
from tsscompat.faiss_compat.vectors import UInt8Vector
from tsscompat.kernels import flat
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.select import merge


class HostBytes(UInt8Vector):
    """Bytes that stay in the host's memory when what they belong to moves."""

    def __init__(self, content: Any = None) -> None:
        super().__init__(content)
        super()._move(Placement(CPU))

    def _move(self, where: Placement) -> None:
        """They stay where they are."""


def _parts(index: Any, rows: int, allowed: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Blocks of vectors on the device: the number of the first, the vectors, which of them a search considers."""
    pinned(index.codes._buffer)
    one = torch.zeros(1, dtype=torch.int64)
    table = Ragged(index._rows, one[:0], one, one + index.ntotal)
    columns = () if allowed is None else (pinned(allowed),)
    for block in blocks(table, one, columns, rows, index.device):
        first, _, n = block.spans[:, 0].tolist()
        chosen = block.columns[0][:n] if block.columns else None
        yield first, index._sa_decode(block.lists.codes[:n]), chosen


def _in_rooms(index: Any, call: Callable[[int], Any]) -> Any:
    # A row of float32 is made of each that is stored in another way, and 9 bytes go beside it.
    return within_rooms(index, index.code_size + (0 if index.code_size == 4 * index.d else 4 * index.d) + 9, call)


def search_rows(index: Any, x: Tensor, k: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """The k best vectors for each row of x, of those allowed; ties in order of id."""
    metric, argument = int(index.metric_type), float(index.metric_arg)

    def call(rows: int) -> tuple[Tensor, Tensor]:
        best = flat.knn(x, x.new_empty(0, index.d), k, metric, argument)
        for first, vectors, chosen in _parts(index, rows, allowed):
            distances, labels = flat.knn(x, vectors, k, metric, argument, chosen)
            labels = torch.where(labels >= 0, labels + first, -1)
            together = torch.cat([best[0], distances], 1), torch.cat([best[1], labels], 1)
            best = merge(*together, k, is_similarity(metric))
        return best

    found: tuple[Tensor, Tensor] = _in_rooms(index, call)
    return found


def rows_within(index: Any, x: Tensor, radius: float, allowed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All vectors within a radius of each row of x, of those allowed."""
    metric, argument = int(index.metric_type), float(index.metric_arg)

    def call(rows: int) -> list[tuple[Tensor, ...]]:
        found: list[tuple[Tensor, ...]] = []
        for first, vectors, chosen in _parts(index, rows, allowed):
            lims, distances, labels = flat.within(x, vectors, radius, metric, argument, chosen)
            found.append((torch.repeat_interleave(lims.diff()), distances, labels + first))
        return found

    none = torch.empty(0, dtype=torch.int64, device=x.device)
    query, distances, labels = (torch.cat(each) for each in zip((none, x.new_empty(0), none), *_in_rooms(index, call)))
    query, order = query.sort(stable=True)
    hits = torch.bincount(query, minlength=x.shape[0])
    return torch.cat([none.new_zeros(1), hits.cumsum(0)]), distances[order], labels[order]


__all__: list[str] = []
