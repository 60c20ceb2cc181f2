"""Sections of NSG and NN-descent indexes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat.sections.common import HEADER, check_header, index
from tsscompat.faiss_compat.sections.graphs import StorageCodec
from tsscompat.wire.codecs import flag, i32, int32s, u8
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields, part

# A table of edges takes up to this many bytes, or this many for each byte of the file, whatever width the file claims.
_ROOM, _RATIO = 1 << 22, 64


class EdgesCodec:
    """If the graph is built, each node's neighbours and -1."""

    def read(self, reader: Reader, obj: Any) -> Any:
        n, width = obj.ntotal, obj.R
        reader.check(n >= 0 and width > 0, "a graph of {} nodes with {} neighbours each", n, width)
        if not obj.is_built:
            return None
        reader.check_count(n, "nodes")
        reader.check_count(width, "neighbours")
        obj._take(_rows(reader, n, width))
        return obj.final_graph

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        if not obj.is_built:
            return
        table = obj._edges().cpu()
        closed = torch.cat([table, table.new_full((table.shape[0], 1), -1)], 1)
        ended = (closed == -1).int().cumsum(1)
        writer.array(closed[(ended == 0) | ((ended == 1) & (closed == -1))])


def _rows(reader: Reader, n: int, width: int) -> Tensor:
    """A table (n, width) from rows that each end with -1."""
    parts, ended = [torch.empty(0, dtype=torch.int32)], 0
    while ended < n:  # a row that is not ended takes one more number at least
        parts.append(reader.array(n - ended, torch.int32))
        ended += int((parts[-1] == -1).sum())
    flat = torch.cat(parts)
    places = max(n, 1) * width
    reader.check(places * 4 <= max(_ROOM, _RATIO * 4 * flat.shape[0]), "{} places for {} edges", places, flat.shape[0] - n)
    ends = (flat == -1).nonzero()[:, 0]
    begins = torch.cat([ends.new_zeros(1), ends[:-1] + 1])[:n]
    counts = ends - begins
    reader.check(bool((counts <= width).all()), "a node with more than {} neighbours", width)
    reader.check(bool(((flat >= -1) & (flat < n)).all()), "an edge to a node that does not exist")
    table = torch.full((n, width), -1, dtype=torch.int32)
    table[torch.arange(width) < counts[:, None]] = flat[flat >= 0]
    return table


_NSG = (
    *fields(("ntotal", i32), ("R", i32), ("L", i32), ("C", i32), ("search_L", i32), ("enterpoint", i32), ("is_built", flag)),
    Field("final_graph", EdgesCodec()),
)
_NSG_INDEX = (
    *HEADER,
    *fields(
        ("GK", i32), ("build_type", u8), ("nndescent_S", i32), ("nndescent_R", i32), ("nndescent_L", i32), ("nndescent_iter", i32)
    ),
    part("nsg", _NSG),
    Field("storage", StorageCodec()),
)


def _finish_storage(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    held = obj.storage
    if held is not None:
        reader.check(held.d == obj.d, "storage of dimension {} in an index of {}", held.d, obj.d)
        reader.check(held.ntotal == obj.ntotal, "storage of {} vectors for {} nodes", held.ntotal, obj.ntotal)
    obj.own_fields = True


def _finish_nsg(obj: Any, reader: Reader) -> None:
    _finish_storage(obj, reader)
    graph = obj.nsg
    if graph.is_built:
        reader.check(graph.ntotal == obj.ntotal, "a graph of {} nodes for {} vectors", graph.ntotal, obj.ntotal)
        reader.check(
            0 <= graph.enterpoint < max(1, graph.ntotal), "entry point {} among {} nodes", graph.enterpoint, graph.ntotal
        )
    obj.is_built = graph.is_built


for _tag, _name in (("INSf", "IndexNSGFlat"), ("INSp", "IndexNSGPQ"), ("INSs", "IndexNSGSQ")):
    index.section(_tag, _name, _NSG_INDEX, finish=_finish_nsg)

_NNDESCENT = fields(
    ("ntotal", i32),
    ("d", i32),
    ("K", i32),
    ("S", i32),
    ("R", i32),
    ("L", i32),
    ("iter", i32),
    ("search_L", i32),
    ("random_seed", i32),
    ("has_built", flag),
    ("final_graph", int32s),
)


def _finish_nndescent(obj: Any, reader: Reader) -> None:
    _finish_storage(obj, reader)
    table = obj.nndescent
    if not table.has_built:
        return
    n, edges = obj.ntotal, table.final_graph.tensor
    reader.check(table.ntotal == n and table.K > 0, "{} neighbours of {} nodes for {} vectors", table.K, table.ntotal, n)
    reader.check(edges.shape[0] == n * table.K, "{} neighbours, expected {}", edges.shape[0], n * table.K)
    reader.check(bool(((edges >= -1) & (edges < n)).all()), "a neighbour that does not exist")


index.section(
    "INNf",
    "IndexNNDescentFlat",
    (*HEADER, part("nndescent", _NNDESCENT), Field("storage", StorageCodec())),
    finish=_finish_nndescent,
)
