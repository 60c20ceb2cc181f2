"""Sections of graph indexes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.io_streams import IO_FLAG_PQ_SKIP_SDC_TABLE, IO_FLAG_SKIP_STORAGE
from tsscompat.faiss_compat.sections.common import HEADER, check_header, class_of, index
from tsscompat.wire.codecs import doubles, flag, i32, int32s, uint64s
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields, part, reserved

_WIDEST, _MOST_ENTRIES = 1 << 20, 1 << 16


class StorageCodec:
    """A graph's storage; nothing where the writer was told to leave it out."""

    def read(self, reader: Reader, obj: Any) -> Any:
        return index.read(reader)

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        index.write(writer, None if writer.flags & IO_FLAG_SKIP_STORAGE else value)


HNSW = (
    *fields(
        ("assign_probas", doubles),
        ("cum_nneighbor_per_level", int32s),
        ("levels", int32s),
        ("offsets", uint64s),
        ("neighbors", int32s),
        ("entry_point", i32),
        ("max_level", i32),
        ("efConstruction", i32),
        ("efSearch", i32),
    ),
    reserved(i32, 1),
)


def finish_hnsw(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    obj.hnsw.is_similarity = enums.is_similarity_metric(obj.metric_type)
    finish_graph(obj, reader)
    pq = getattr(obj.storage, "pq", None)
    if isinstance(obj, class_of("IndexHNSWPQ")) and pq is not None and pq.nbits <= 8:
        if not reader.flags & IO_FLAG_PQ_SKIP_SDC_TABLE:
            pq.compute_sdc_table()


def finish_graph(obj: Any, reader: Reader) -> None:
    """What must hold of a layered graph and its storage, so that no walk leaves them."""
    graph, n = obj.hnsw, obj.ntotal
    levels, offsets, edges = graph.levels.tensor, graph.offsets.tensor.view(torch.int64), graph.neighbors.tensor
    reader.check(levels.shape[0] == n and offsets.shape[0] == n + 1, "a graph of {} nodes for {} vectors", levels.shape[0], n)
    ends = graph.cum_nneighbor_per_level.tensor.long()
    reader.check(ends.shape[0] > 0 and bool((ends.diff() >= 0).all()) and int(ends[0]) == 0, "level sizes out of order")
    # Walks take room for the widest list, also of a level that no node reaches and that no edges in the file bear out.
    widest = int(ends.diff().max()) if ends.shape[0] > 1 else 0
    reader.check(widest <= max(_WIDEST, edges.shape[0]), "lists of {} neighbours", widest)
    if n:
        reader.check(bool(((levels >= 1) & (levels < ends.shape[0])).all()), "a node on a level that the graph does not have")
        reader.check(
            int(offsets[0]) == 0 and bool((offsets.diff() == ends[levels.long()]).all()), "neighbour lists of the wrong length"
        )
        reader.check(int(offsets[-1]) == edges.shape[0], "{} edges, expected {}", edges.shape[0], int(offsets[-1]))
        reader.check(0 <= graph.entry_point < n, "entry point {} among {} nodes", graph.entry_point, n)
        reader.check(
            0 <= graph.max_level <= int(levels[graph.entry_point]) - 1, "top level {} beyond the entry point's", graph.max_level
        )
        reader.check(bool(((edges >= -1) & (edges < n)).all()), "an edge to a node that does not exist")
        _check_upper_edges(graph, levels.long(), offsets, edges.long(), ends, reader)
    else:
        reader.check(edges.shape[0] == 0, "edges in an empty graph")
    entries = getattr(obj, "num_base_level_search_entrypoints", 0)
    reader.check(0 <= entries <= _MOST_ENTRIES, "{} random nodes to enter at", entries)
    if obj.storage is not None:
        reader.check(
            obj.storage.ntotal == n and obj.storage.d == obj.d, "storage of {} vectors for {} nodes", obj.storage.ntotal, n
        )
    obj.own_fields = True


def _check_upper_edges(graph: Any, levels: Tensor, offsets: Tensor, edges: Tensor, ends: Tensor, reader: Reader) -> None:
    """Edges above the bottom must lead to nodes that reach that high, or a walk would read past their lists."""
    for level in range(1, int(levels.max())):
        nodes = (levels > level).nonzero()[:, 0]
        width = int(ends[level + 1] - ends[level])
        targets = edges[offsets[nodes, None] + ends[level] + torch.arange(width)]
        real = targets[targets >= 0]
        reader.check(bool((levels[real] > level).all()), "an edge on level {} to a node that is not there", level)


_HNSW_INDEX = (*HEADER, part("hnsw", HNSW), Field("storage", StorageCodec()))
for _tag, _name in (
    ("IHNf", "IndexHNSWFlat"),
    ("IHNp", "IndexHNSWPQ"),
    ("IHNs", "IndexHNSWSQ"),
    ("IHN2", "IndexHNSW2Level"),
    ("IH00", "IndexHNSW"),
):
    index.section(_tag, _name, _HNSW_INDEX, finish=finish_hnsw)
_CAGRA = fields(("keep_max_size_level0", flag), ("base_level_only", flag), ("num_base_level_search_entrypoints", i32))
_NUMERIC = fields(("numeric_type_", i32))
index.section("IHc2", "IndexHNSWCagra", (*HEADER, *_CAGRA, *_NUMERIC, *_HNSW_INDEX[len(HEADER) :]), finish=finish_hnsw)
index.section("IHNc", "IndexHNSWCagra", (*HEADER, *_CAGRA, *_HNSW_INDEX[len(HEADER) :]), finish=finish_hnsw, legacy=True)


class StagedCodec:
    """Whether FAISS walks by signs first, which it does for codes of several bits."""

    def read(self, reader: Reader, obj: Any) -> Any:
        staged = flag.read(reader, obj)
        reader.check(type(obj.storage).__name__ == "IndexRaBitQ", "a storage of {}", type(obj.storage).__name__)
        reader.check(
            staged == (obj.storage.rabitq.nb_bits > 1),
            "a search by signs first over codes of {} bits",
            obj.storage.rabitq.nb_bits,
        )
        obj.hnsw.search_method = obj.hnsw.SM_RABITQ if staged else obj.hnsw.SM_DEFAULT
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        flag.write(writer, obj.storage.rabitq.nb_bits > 1, obj)


index.section("IHNr", "IndexHNSWRaBitQ", (*_HNSW_INDEX, Field("this", StagedCodec())), finish=finish_hnsw)
