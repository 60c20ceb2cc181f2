"""Sections of Panorama indexes: vectors in batches, each batch level by level, and lengths in the same order."""

from __future__ import annotations

from typing import Any

import torch

from tsscompat.faiss_compat.sections.common import HEADER, check_lists, class_of, index
from tsscompat.faiss_compat.sections.graphs import HNSW, StorageCodec, finish_hnsw
from tsscompat.faiss_compat.sections.ivf import IVF, finish_ivf
from tsscompat.faiss_compat.sections.lists import InvertedListsCodec
from tsscompat.faiss_compat.sections.wrappers import REFINE, finish_refine
from tsscompat.wire.codecs import flag, floats, fourcc, i32, i64, int64s, octets, u64, write_fourcc
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields, part


def _check_levels(levels: int, batch: int, d: int, reader: Reader) -> None:
    reader.check(0 < d < 1 << 24, "dimension {}", d)
    reader.check(0 < levels <= d, "{} levels of {} dimensions", levels, d)
    reader.check(0 < batch < 1 << 31, "batches of {} vectors", batch)


class FlatPanoramaCodec:
    """All of a flat index: it has no header."""

    def read(self, reader: Reader, obj: Any) -> Any:
        d, levels, batch = i32.read(reader, obj), u64.read(reader, obj), u64.read(reader, obj)
        _check_levels(levels, batch, d, reader)
        n, obj.is_trained = i64.read(reader, obj), flag.read(reader, obj)
        reader.check(0 <= n < 1 << 48, "{} vectors", n)
        obj.d = d
        obj._set_up(levels, batch)
        layout = obj.pano._layout()
        codes, lengths = octets.read(reader, obj), floats.read(reader, obj)
        slots = layout.slots(n)
        reader.check(codes.shape[0] == slots * 4 * d, "{} bytes of codes, expected {}", codes.shape[0], slots * 4 * d)
        wanted = slots * (layout.levels + 1)
        reader.check(lengths.shape[0] == wanted, "{} lengths, expected {}", lengths.shape[0], wanted)
        obj.codes.tensor, obj.ntotal = codes, n
        # What lengths there are follows from the vectors; those of a file may be anything.
        obj.cum_sums.tensor = layout.pack_norms(layout.norms(layout.unpack(codes.view(torch.float32), n)))
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        for codec, number in ((i32, obj.d), (u64, obj.n_levels), (u64, obj.batch_size), (i64, obj.ntotal)):
            codec.write(writer, number, obj)
        flag.write(writer, obj.is_trained, obj)
        octets.write(writer, obj.codes.tensor.cpu(), obj)
        floats.write(writer, obj.cum_sums.tensor.cpu(), obj)


_FLAT = (Field("this", FlatPanoramaCodec()),)
index.section("IxFP", "IndexFlatL2Panorama", _FLAT)
index.section("IxFp", "IndexFlatIPPanorama", _FLAT)
for _tag, _metric in (("IxFP", 1), ("IxFp", 0)):
    # The general class is written by its metric, and read as the class of that metric.
    _row = index.by_tag[_tag]
    index.section(_tag, "IndexFlatPanorama", _FLAT, written=lambda obj, m=_metric: obj.metric_type == m)
    index.by_tag[_tag] = _row


class PanoramaLists:
    """Lists whose vectors are in batches and levels: sizes of all, then for each the vectors, the ids and the lengths."""

    def read(self, reader: Reader, obj: Any) -> Any:
        tag = fourcc(reader)
        if tag == "il00":
            return None
        reader.check(tag in ("ilp2", "ilpn"), "inverted lists of type {!r} are not Panorama's", tag)
        nlist, code_size, levels = (u64.read(reader, obj) for _ in range(3))
        batch = u64.read(reader, obj) if tag == "ilp2" else class_of("Panorama").kLegacyBatchSize  # type: ignore[attr-defined]
        check_lists(nlist, code_size, obj, reader)
        reader.check(code_size == 4 * obj.d, "codes of {} bytes", code_size)
        _check_levels(levels, batch, obj.d, reader)
        lists = class_of("ArrayInvertedListsPanorama")(nlist, code_size, levels, batch)
        sizes, layout = InvertedListsCodec._sizes(reader, nlist), lists.pano._layout()
        slots = (sizes + (batch - 1)) // batch * batch
        reader.check(int(sizes.max()) < 1 << 40 if nlist else True, "lists of {} entries", sizes)
        reader.need(int((slots * (code_size + 4 * levels + 4) + sizes * 8).sum()))
        codes, ids = [torch.empty(0, code_size, dtype=torch.uint8)], [torch.empty(0, dtype=torch.int64)]
        for n, room in zip(sizes.tolist(), slots.tolist()):
            if n:
                packed = reader.array(room * obj.d, torch.float32)
                codes.append(layout.unpack(packed, n).view(torch.uint8))
                ids.append(reader.array(n, torch.int64))
                reader.array(room * (levels + 1), torch.float32)
        lists._load(sizes, torch.cat(codes), torch.cat(ids))
        return lists

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        if value is None:
            write_fourcc(writer, "il00")
            return
        layout, (sizes, codes, ids) = value.pano._layout(), (t.cpu() for t in value._dump())
        write_fourcc(writer, "ilp2")
        for number in (value.nlist, value.code_size, value.n_levels, value.pano.batch_size):
            u64.write(writer, number, obj)
        write_fourcc(writer, "full")
        int64s.write(writer, sizes, obj)
        counts = sizes.tolist()
        for vectors, names in zip(codes.view(torch.float32).split(counts), ids.split(counts)):
            if names.shape[0]:
                writer.array(layout.pack(vectors))
                writer.array(names)
                lengths = layout.pack_norms(layout.norms(vectors))
                # Where levels were too many, FAISS keeps room for those that went.
                room = layout.slots(vectors.shape[0]) * (value.n_levels + 1)
                writer.array(torch.nn.functional.pad(lengths, (0, room - lengths.shape[0])))


def _finish_ivf(obj: Any, reader: Reader) -> None:
    obj.by_residual = False
    finish_ivf(obj, reader, 4 * obj.d)
    lists = obj.invlists
    if lists is not None:
        reader.check(lists.n_levels == obj.n_levels, "{} levels in lists, {} in the index", lists.n_levels, obj.n_levels)
        reader.check(lists.pano.batch_size == obj.batch_size, "batches of {} and {}", lists.pano.batch_size, obj.batch_size)


def _finish_old_ivf(obj: Any, reader: Reader) -> None:
    obj.batch_size = class_of("Panorama").kLegacyBatchSize  # type: ignore[attr-defined]
    _finish_ivf(obj, reader)


_LISTS = Field("invlists", PanoramaLists())
_IVF_TABLE = (*IVF, *fields(("n_levels", u64), ("batch_size", u64)), _LISTS)
index.section("IwP2", "IndexIVFFlatPanorama", _IVF_TABLE, finish=_finish_ivf)
_OLD_TABLE = (*IVF, *fields(("n_levels", u64)), _LISTS)
index.section("IwPn", "IndexIVFFlatPanorama", _OLD_TABLE, finish=_finish_old_ivf, legacy=True)


class GraphLevels:
    """The number of levels, and the lengths."""

    def read(self, reader: Reader, obj: Any) -> Any:
        levels = u64.read(reader, obj)
        _check_levels(levels, 1, obj.d, reader)
        obj._set_up(levels)
        count, wanted = floats.read(reader, obj).shape[0], obj.ntotal * (obj.pano.n_levels + 1)
        reader.check(count == wanted, "{} lengths, expected {}", count, wanted)
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        u64.write(writer, obj.num_panorama_levels, obj)
        floats.write(writer, obj.cum_sums.tensor.cpu(), obj)


def _finish_graph(obj: Any, reader: Reader) -> None:
    finish_hnsw(obj, reader)
    reader.check(isinstance(obj.storage, class_of("IndexFlat")), "a storage that is not flat")


_GRAPH = (*HEADER, Field("this", GraphLevels()), part("hnsw", HNSW), Field("storage", StorageCodec()))
index.section("IHfP", "IndexHNSWFlatPanorama", _GRAPH, finish=_finish_graph)


def _finish_refine(obj: Any, reader: Reader) -> None:
    kind = type(obj)
    finish_refine(obj, reader)
    # An exact second index does not make it an IndexRefineFlat.
    object.__setattr__(obj, "__class__", kind)


index.section("IxRP", "IndexRefinePanorama", REFINE, finish=_finish_refine)
