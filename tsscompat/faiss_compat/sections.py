"""FAISS's file format as tables: for every tag the class, its fields, and what must hold of them.

A row is `section(tag, class, fields)`. `finish` cross-checks the sizes that a file claims, so that whatever loads can be searched, and
works out what the file does not hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat import enums
from tsscompat.wire.codecs import (
    doubles,
    f32,
    flag,
    floats,
    fourcc,
    i32,
    i64,
    int32s,
    int64s,
    octets,
    octets_by_4,
    u8,
    u32,
    u64,
    uint64s,
    write_fourcc,
)
from tsscompat.wire.cursor import Reader, Writer, bytes_of
from tsscompat.wire.tables import Field, Sections, fields, part, reserved

_NONE_TAG, _ARRAY_TAG = "il00", "ilar"
# Lists are gathered from the file in blocks of about this many bytes.
_BLOCK = 1 << 26


def _class(name: str) -> type:
    from tsscompat import faiss_compat

    found = getattr(faiss_compat, name)
    assert isinstance(found, type)
    return found


index = Sections("index", _class)
transform = Sections("transform", _class)

# ---- odd shapes ----------------------------------------------------------------------------------------------------------------------


class InvertedListsCodec:
    """Lists: their sizes (of all, or of those that are not empty), then for each the codes and the ids."""

    def read(self, reader: Reader, obj: Any) -> Any:
        tag = fourcc(reader)
        if tag == _NONE_TAG:
            return None
        reader.check(tag == _ARRAY_TAG, "inverted lists of type {!r} are not known", tag)
        nlist, code_size = u64.read(reader, obj), u64.read(reader, obj)
        reader.check(nlist < 1 << 31 and code_size < 1 << 31, "{} lists of codes of {} bytes", nlist, code_size)
        reader.check_count(nlist, "lists")
        sizes = self._sizes(reader, nlist)
        total = int(sizes.sum())
        reader.check(total < 1 << 40, "lists of {} entries", total)
        reader.need(total * (code_size + 8))
        lists = _class("ArrayInvertedLists")(nlist, code_size)
        lists._load(sizes, *_scatter(reader, sizes, code_size, total))
        return lists

    @staticmethod
    def _sizes(reader: Reader, nlist: int) -> Tensor:
        kind = fourcc(reader)
        reader.check(kind in ("full", "sprs"), "lists stored as {!r} are not known", kind)
        left = reader.source.left()
        # Sizes of all lists stand in the file when it is full; of a sparse one nothing but the count bounds them.
        reader.check(kind == "sprs" or left is None or nlist * 8 <= left, "{} lists, {} bytes left", nlist, left)
        given = int64s.read(reader, None)
        reader.check(bool((given >= 0).all()), "a negative size of a list")
        if kind == "full":
            reader.check(given.shape[0] == nlist, "{} sizes for {} lists", given.shape[0], nlist)
            return given
        reader.check(given.shape[0] % 2 == 0, "sparse sizes come in pairs")
        pairs = given.view(-1, 2)
        reader.check(bool((pairs[:, 0] < nlist).all()), "a list number beyond {}", nlist)
        sizes = torch.zeros(nlist, dtype=torch.int64)
        sizes[pairs[:, 0]] = pairs[:, 1]
        reader.check(int(sizes.sum()) == int(pairs[:, 1].sum()), "a list named twice")
        return sizes

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        if value is None:
            write_fourcc(writer, _NONE_TAG)
            return
        sizes, codes, ids = value._dump()
        sizes, codes, ids = sizes.cpu(), codes.cpu(), ids.cpu()
        write_fourcc(writer, _ARRAY_TAG)
        u64.write(writer, value.nlist, obj)
        u64.write(writer, value.code_size, obj)
        used = sizes.nonzero()[:, 0]
        if used.shape[0] > value.nlist // 2:
            write_fourcc(writer, "full")
            int64s.write(writer, sizes, obj)
        else:
            write_fourcc(writer, "sprs")
            int64s.write(writer, torch.stack([used, sizes[used]], 1).reshape(-1), obj)
        _interleave(writer, sizes, codes, ids)


def _spans(sizes: Tensor, row_bytes: int) -> list[tuple[int, int]]:
    """Blocks of consecutive lists of about _BLOCK bytes each."""
    if not sizes.shape[0]:
        return []
    block = (sizes.cumsum(0) * row_bytes) // _BLOCK
    ends = (block.diff() > 0).nonzero()[:, 0].add(1).tolist()
    return list(zip([0, *ends], [*ends, sizes.shape[0]]))


def _places(sizes: Tensor, code_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each entry of a block of lists where in the file its code and its id begin, and how many bytes the block takes."""
    begin = (sizes * (code_size + 8)).cumsum(0) - sizes * (code_size + 8)
    owner = torch.repeat_interleave(sizes)
    rank = torch.arange(owner.shape[0]) - (sizes.cumsum(0) - sizes)[owner]
    code_at = begin[owner] + rank * code_size
    id_at = begin[owner] + sizes[owner] * code_size + rank * 8
    return code_at, id_at, (sizes * (code_size + 8)).sum()


def _copy_lists(sizes: Tensor, code_size: int, raw: Tensor, codes: Tensor, ids: Tensor, out: bool) -> None:
    """Copy between a block of the file and tables of codes and ids, list by list (few, long lists) or by address (many, short ones)."""
    n = ids.shape[0]
    if sizes.shape[0] * 64 <= n or code_size == 0:
        # numpy's copy stays on this thread: torch's wakes its pool for each list, which costs more than the copy.
        whole, code_table, id_table_bytes = raw.numpy(), codes.reshape(-1).numpy(), ids.view(torch.uint8).numpy()
        at = row = 0
        for size in sizes.tolist():
            if not size:
                continue
            mid, end = at + size * code_size, at + size * (code_size + 8)
            in_codes = code_table[row * code_size : (row + size) * code_size]
            in_ids = id_table_bytes[row * 8 : (row + size) * 8]
            if out:
                whole[at:mid], whole[mid:end] = in_codes, in_ids
            else:
                in_codes[:], in_ids[:] = whole[at:mid], whole[mid:end]
            at, row = end, row + size
        return
    code_at, id_at, _ = _places(sizes, code_size)
    code_bytes = code_at[:, None] + torch.arange(code_size)
    id_bytes = id_at[:, None] + torch.arange(8)
    id_table = ids.view(torch.uint8).view(n, 8)
    if out:
        raw[code_bytes] = codes
        raw[id_bytes] = id_table
    else:
        codes.copy_(raw[code_bytes])
        id_table.copy_(raw[id_bytes])


def _scatter(reader: Reader, sizes: Tensor, code_size: int, total: int) -> tuple[Tensor, Tensor]:
    """Codes and ids in list order, from lists in which each list's codes come before its ids."""
    codes, ids, row = torch.empty(total, code_size, dtype=torch.uint8), torch.empty(total, dtype=torch.int64), 0
    for start, stop in _spans(sizes, code_size + 8):
        part_sizes = sizes[start:stop]
        n = int(part_sizes.sum())
        raw = reader.array(n * (code_size + 8), torch.uint8)
        _copy_lists(part_sizes, code_size, raw, codes[row : row + n], ids[row : row + n], out=False)
        row += n
    return codes, ids


def _interleave(writer: Writer, sizes: Tensor, codes: Tensor, ids: Tensor) -> None:
    row, code_size = 0, codes.shape[1]
    for start, stop in _spans(sizes, code_size + 8):
        part_sizes = sizes[start:stop]
        n = int(part_sizes.sum())
        raw = torch.empty(n * (code_size + 8), dtype=torch.uint8)
        _copy_lists(part_sizes, code_size, raw, codes[row : row + n], ids[row : row + n], out=True)
        writer.array(raw)
        row += n


class DirectMapCodec:
    """The kind as a byte, the array, and for a hash table its pairs (in no order that a file promises; ours: by id)."""

    def read(self, reader: Reader, obj: Any) -> Any:
        held = obj.direct_map
        kind = u8.read(reader, obj)
        reader.check(kind in (0, 1, 2), "direct map of kind {}", kind)
        held.array.tensor = int64s.read(reader, obj)
        if kind == 2:
            count = u64.read(reader, obj)
            reader.check(count < 1 << 60, "a count of {}", count)
            pairs = reader.array(2 * count, torch.int64).view(-1, 2)
            held.hashtable.update(zip(pairs[:, 0].tolist(), pairs[:, 1].tolist()))
        held.type = kind
        return held

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        u8.write(writer, value.type, obj)
        int64s.write(writer, value.array, obj)
        if value.type == 2:
            pairs = torch.tensor(list(value.hashtable.items()), dtype=torch.int64).reshape(-1, 2)
            u64.write(writer, pairs.shape[0], obj)
            writer.array(pairs)


class ChainCodec:
    """A count and so many transforms."""

    def read(self, reader: Reader, obj: Any) -> Any:
        count = i32.read(reader, obj)
        reader.check(0 <= count <= 1000, "{} transforms", count)
        reader.check_count(count, "transforms")
        obj.chain.assign([transform.read(reader) for _ in range(count)])
        return obj.chain

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        i32.write(writer, len(value), obj)
        for item in value:
            transform.write(writer, item)


class InstancesCodec:
    """Pairs of ids: the vector that is kept, and one that is the same."""

    def read(self, reader: Reader, obj: Any) -> Any:
        pairs = int64s.read(reader, obj)
        reader.check(pairs.shape[0] % 2 == 0, "instances come in pairs")
        for kept, other in pairs.view(-1, 2).tolist():
            obj.instances.setdefault(kept, []).append(other)
        return obj.instances

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        flat = [i for kept, others in value.items() for other in others for i in (kept, other)]
        int64s.write(writer, torch.tensor(flat, dtype=torch.int64), obj)


class OptionalTransform:
    """A flag, and a transform if it is set."""

    def read(self, reader: Reader, obj: Any) -> Any:
        return transform.read(reader) if flag.read(reader, obj) else None

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        flag.write(writer, value is not None, obj)
        if value is not None:
            transform.write(writer, value)


class StorageCodec:
    """A graph's storage; nothing where the writer was told to leave it out."""

    def read(self, reader: Reader, obj: Any) -> Any:
        return index.read(reader)

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        index.write(writer, None if getattr(writer, "skip_storage", False) else value)


LISTS = Field("invlists", InvertedListsCodec())

# ---- shared parts --------------------------------------------------------------------------------------------------------------------


def _unusual_metric(obj: Any) -> bool:
    return bool(obj.metric_type > 1)


HEADER = (
    *fields(("d", i32), ("ntotal", i64)),
    reserved(i64, 1 << 20),
    reserved(i64, 1 << 20),
    *fields(("is_trained", flag), ("metric_type", i32), ("metric_arg", f32, _unusual_metric)),
)


def check_header(obj: Any, reader: Reader) -> None:
    """What must hold of every index."""
    reader.check(0 <= obj.d < 1 << 24, "dimension {}", obj.d)
    reader.check(0 <= obj.ntotal < 1 << 48, "{} vectors", obj.ntotal)
    reader.check(obj.metric_type in enums.METRICS, "metric {}", obj.metric_type)


def _finish_pq(pq: Any, reader: Reader) -> None:
    reader.check(
        pq.M > 0 and pq.d % pq.M == 0 and 0 <= pq.nbits <= 24, "PQ of {} parts of {} bits for dimension {}", pq.M, pq.nbits, pq.d
    )
    reader.check(
        pq.centroids.size() == pq.d << pq.nbits, "{} numbers of PQ centroids, expected {}", pq.centroids.size(), pq.d << pq.nbits
    )
    pq.set_derived_values()


PQ = fields(("d", u64), ("M", u64), ("nbits", u64), ("centroids", floats))
SQ = fields(("qtype", i32), ("rangestat", i32), ("rangestat_arg", f32), ("d", u64), ("code_size", u64), ("trained", floats))
_PQ_PART = part("pq", PQ, _finish_pq)


def _finish_sq(sq: Any, reader: Reader) -> None:
    from tsscompat.algorithms import scalar

    claimed = sq.code_size
    reader.check(sq.qtype in scalar.KINDS, "scalar quantiser type {}", sq.qtype)
    sq.set_derived_sizes()
    reader.check(claimed == sq.code_size, "scalar codes of {} bytes, expected {}", claimed, sq.code_size)
    wanted = scalar.trained_size(sq.qtype, sq.d)
    reader.check(sq.trained.size() in (0, wanted), "{} trained numbers, expected {}", sq.trained.size(), wanted)


_SQ_PART = part("sq", SQ, _finish_sq)


def _codes_fit(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    have, wanted = obj.codes.size(), obj.ntotal * obj.code_size
    reader.check(have == wanted, "{} bytes of codes, expected {}", have, wanted)


# ---- flat indexes --------------------------------------------------------------------------------------------------------------------


def _finish_flat(obj: Any, reader: Reader) -> None:
    obj.code_size = 4 * obj.d
    _codes_fit(obj, reader)


_FLAT = HEADER + fields(("codes", octets_by_4))
index.section("IxF2", "IndexFlatL2", _FLAT, finish=_finish_flat)
index.section("IxFI", "IndexFlatIP", _FLAT, finish=_finish_flat)
index.section("IxFl", "IndexFlat", _FLAT, finish=_finish_flat, written=_unusual_metric)
for _tag, _metric in (("IxF2", enums.METRIC_L2), ("IxFI", enums.METRIC_INNER_PRODUCT)):
    # An IndexFlat is written by its metric, whatever its class.
    _row = index.by_tag[_tag]
    index.section(_tag, "IndexFlat", _FLAT, finish=_finish_flat, written=lambda obj, m=_metric: obj.metric_type == m)
    index.by_tag[_tag] = _row


def _finish_pq_index(obj: Any, reader: Reader) -> None:
    obj.code_size = obj.pq.code_size
    reader.check(obj.pq.d == obj.d, "PQ of dimension {} in an index of {}", obj.pq.d, obj.d)
    _codes_fit(obj, reader)


_SEARCH = fields(("search_type", i32), ("encode_signs", flag), ("polysemous_ht", i32))
index.section("IxPq", "IndexPQ", (*HEADER, _PQ_PART, *fields(("codes", octets)), *_SEARCH), finish=_finish_pq_index)
index.section("IxPo", "IndexPQ", (*HEADER, _PQ_PART, *fields(("codes", octets)), *_SEARCH), finish=_finish_pq_index, legacy=True)
index.section("IxPQ", "IndexPQ", (*HEADER, _PQ_PART, *fields(("codes", octets))), finish=_finish_pq_index, legacy=True)


def _finish_sq_index(obj: Any, reader: Reader) -> None:
    obj.code_size = obj.sq.code_size
    reader.check(obj.sq.d == obj.d, "scalar quantiser of dimension {} in an index of {}", obj.sq.d, obj.d)
    _codes_fit(obj, reader)


index.section("IxSQ", "IndexScalarQuantizer", (*HEADER, _SQ_PART, *fields(("codes", octets))), finish=_finish_sq_index)


def _finish_miq(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    reader.check(obj.pq.d == obj.d, "PQ of dimension {} in an index of {}", obj.pq.d, obj.d)
    obj.ntotal = obj.pq.ksub**obj.pq.M


index.section("Imiq", "MultiIndexQuantizer", (*HEADER, _PQ_PART), finish=_finish_miq)

_Q1 = fields(("quantizer", index), ("nlist", u64), ("quantizer_trains_alone", u8))
index.section(
    "Ix2L",
    "Index2Layer",
    (
        *HEADER,
        part("q1", _Q1),
        _PQ_PART,
        *fields(("code_size_1", u64), ("code_size_2", u64), ("code_size", u64), ("codes", octets)),
    ),
    finish=_codes_fit,
)

# ---- inverted lists ------------------------------------------------------------------------------------------------------------------

IVF = HEADER + fields(("nlist", u64), ("nprobe", u64), ("quantizer", index), ("direct_map", DirectMapCodec()))


def _finish_ivf(obj: Any, reader: Reader, code_size: int | None) -> None:
    check_header(obj, reader)
    reader.check(obj.quantizer is not None, "no coarse quantizer")
    reader.check(obj.quantizer.d == obj.d, "coarse quantizer of dimension {} in an index of {}", obj.quantizer.d, obj.d)
    reader.check(
        not obj.is_trained or obj.quantizer.ntotal >= obj.nlist, "{} centroids for {} lists", obj.quantizer.ntotal, obj.nlist
    )
    if code_size is not None:
        obj.code_size = code_size
    if obj.invlists is not None:
        lists = obj.invlists
        reader.check(lists.nlist == obj.nlist, "{} lists in an index of {}", lists.nlist, obj.nlist)
        reader.check(
            lists.code_size == obj.code_size, "codes of {} bytes in lists, {} in the index", lists.code_size, obj.code_size
        )
    obj.own_fields = obj.own_invlists = True


def _finish_ivf_flat(obj: Any, reader: Reader) -> None:
    obj.by_residual = False
    _finish_ivf(obj, reader, 4 * obj.d)


index.section("IwFl", "IndexIVFFlat", (*IVF, LISTS), finish=_finish_ivf_flat)
index.section("IwFd", "IndexIVFFlatDedup", (*IVF, Field("instances", InstancesCodec()), LISTS), finish=_finish_ivf_flat)


def _finish_ivf_sq(obj: Any, reader: Reader) -> None:
    reader.check(obj.code_size == obj.sq.code_size, "codes of {} bytes, the quantiser makes {}", obj.code_size, obj.sq.code_size)
    reader.check(obj.sq.d == obj.d, "scalar quantiser of dimension {} in an index of {}", obj.sq.d, obj.d)
    _finish_ivf(obj, reader, None)


index.section(
    "IwSq",
    "IndexIVFScalarQuantizer",
    (*IVF, _SQ_PART, *fields(("code_size", u64), ("by_residual", flag)), LISTS),
    finish=_finish_ivf_sq,
)
index.section(
    "IwSQ", "IndexIVFScalarQuantizer", (*IVF, _SQ_PART, *fields(("code_size", u64)), LISTS), finish=_finish_ivf_sq, legacy=True
)


class EdenCodec:
    """An EDEN index's quantiser: dimension, bytes of a code, metric, bits, and, in newer files, the kind of scale."""

    def __init__(self, with_scale: bool = True) -> None:
        self.with_scale = with_scale

    def read(self, reader: Reader, obj: Any) -> Any:
        d, size, metric = u64.read(reader, obj), u64.read(reader, obj), i32.read(reader, obj)
        bits = u64.read(reader, obj)
        scale = i32.read(reader, obj) or 1 if self.with_scale else 1
        reader.check(d == obj.d, "an EDEN quantiser of dimension {} in an index of {}", d, obj.d)
        reader.check(metric == obj.metric_type, "an EDEN quantiser of metric {} in an index of {}", metric, obj.metric_type)
        reader.check(1 <= bits <= 8, "EDEN codes of {} bits", bits)
        reader.check(scale in (1, 2), "EDEN scale type {}", scale)
        obj._set_up(bits, scale)
        reader.check(size == obj.code_size, "EDEN codes of {} bytes, expected {}", size, obj.code_size)
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        u64.write(writer, obj.sq.d, obj)
        u64.write(writer, obj.code_size, obj)
        i32.write(writer, obj.metric_type, obj)
        u64.write(writer, obj.sq.bits, obj)
        i32.write(writer, obj.scale_type, obj)


def _finish_eden(obj: Any, reader: Reader) -> None:
    _codes_fit(obj, reader)
    wanted = obj.d if obj.is_trained else 0
    reader.check(obj.center.size() == wanted, "a center of {} numbers, expected {}", obj.center.size(), wanted)


def _finish_ivf_eden(obj: Any, reader: Reader) -> None:
    size = obj.sq.code_size + 8
    reader.check(obj.code_size == size, "codes of {} bytes, expected {}", obj.code_size, size)
    _finish_ivf(obj, reader, None)


for _tag, _eden in (("IxEe", Field("this", EdenCodec())), ("IxEd", Field("this", EdenCodec(False)))):
    _table = (*HEADER, _eden, *fields(("codes", octets), ("center", floats)))
    index.section(_tag, "IndexEDEN", _table, finish=_finish_eden, legacy=_tag == "IxEd")
for _tag, _eden in (("IwEe", Field("this", EdenCodec())), ("IwEd", Field("this", EdenCodec(False)))):
    _table = (*IVF, _eden, *fields(("code_size", u64), ("by_residual", flag)), LISTS)
    index.section(_tag, "IndexIVFEDEN", _table, finish=_finish_ivf_eden, legacy=_tag == "IwEd")


def _finish_ivf_pq(obj: Any, reader: Reader) -> None:
    reader.check(obj.pq.d == obj.d, "PQ of dimension {} in an index of {}", obj.pq.d, obj.d)
    reader.check(obj.code_size == obj.pq.code_size, "codes of {} bytes, the PQ makes {}", obj.code_size, obj.pq.code_size)
    _finish_ivf(obj, reader, None)
    obj.use_precomputed_table = 0
    if obj.is_trained and obj.by_residual and not getattr(reader, "skip_precompute", False):
        obj.precompute_table()


def _finish_ivf_pqr(obj: Any, reader: Reader) -> None:
    _finish_ivf_pq(obj, reader)
    have, wanted = obj.refine_codes.size(), obj.ntotal * obj.refine_pq.code_size
    reader.check(have == wanted, "{} bytes of second codes, expected {}", have, wanted)
    reader.check(1 <= obj.k_factor <= 1000, "k_factor {}", obj.k_factor)


_IVF_PQ = (*IVF, *fields(("by_residual", flag), ("code_size", u64)), _PQ_PART, LISTS)
index.section("IwPQ", "IndexIVFPQ", _IVF_PQ, finish=_finish_ivf_pq)
_REFINE_PQ = part("refine_pq", PQ, _finish_pq)
index.section(
    "IwQR", "IndexIVFPQR", (*_IVF_PQ, _REFINE_PQ, *fields(("refine_codes", octets), ("k_factor", f32))), finish=_finish_ivf_pqr
)


class IndependentTail:
    """How IVFPQ computes distances, if the lists are of that kind."""

    def read(self, reader: Reader, obj: Any) -> Any:
        if hasattr(obj.index_ivf, "use_precomputed_table"):
            obj.index_ivf.use_precomputed_table = i32.read(reader, obj)
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        if hasattr(obj.index_ivf, "use_precomputed_table"):
            i32.write(writer, obj.index_ivf.use_precomputed_table, obj)


def _finish_independent(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    reader.check(obj.quantizer is not None and hasattr(obj.index_ivf, "invlists"), "quantizer or lists missing")
    d_in, d_out = (obj.d, obj.d) if obj.vt is None else (obj.vt.d_in, obj.vt.d_out)
    reader.check(d_in == obj.d and d_out == obj.index_ivf.d, "dimensions {} > {} > {} > {}", obj.d, d_in, d_out, obj.index_ivf.d)
    obj.own_fields = True


index.section(
    "IwIQ",
    "IndexIVFIndependentQuantizer",
    (
        *HEADER,
        *fields(("quantizer", index), ("vt", OptionalTransform()), ("index_ivf", index)),
        Field("this", IndependentTail()),
    ),
    finish=_finish_independent,
)

# ---- graphs --------------------------------------------------------------------------------------------------------------------------

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


def _finish_hnsw(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    graph, n = obj.hnsw, obj.ntotal
    graph.is_similarity = enums.is_similarity_metric(obj.metric_type)
    levels, offsets, edges = graph.levels.tensor, graph.offsets.tensor.view(torch.int64), graph.neighbors.tensor
    reader.check(levels.shape[0] == n and offsets.shape[0] == n + 1, "a graph of {} nodes for {} vectors", levels.shape[0], n)
    ends = graph.cum_nneighbor_per_level.tensor.long()
    reader.check(ends.shape[0] > 0 and bool((ends.diff() >= 0).all()) and int(ends[0]) == 0, "level sizes out of order")
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
    index.section(_tag, _name, _HNSW_INDEX, finish=_finish_hnsw)
_CAGRA = fields(("keep_max_size_level0", flag), ("base_level_only", flag), ("num_base_level_search_entrypoints", i32))
_NUMERIC = fields(("numeric_type_", i32))
index.section("IHc2", "IndexHNSWCagra", (*HEADER, *_CAGRA, *_NUMERIC, *_HNSW_INDEX[len(HEADER) :]), finish=_finish_hnsw)
index.section("IHNc", "IndexHNSWCagra", (*HEADER, *_CAGRA, *_HNSW_INDEX[len(HEADER) :]), finish=_finish_hnsw, legacy=True)

# ---- wrappers ------------------------------------------------------------------------------------------------------------------------


def _finish_pretransform(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    reader.check(obj.index is not None, "no index behind the transforms")
    d = obj.d
    for step in obj.chain:
        reader.check(
            step is not None and step.d_in == d, "a transform from dimension {} where {} comes in", getattr(step, "d_in", None), d
        )
        d = step.d_out
    reader.check(obj.index.d == d, "an index of dimension {} behind transforms to {}", obj.index.d, d)
    reader.check(obj.index.ntotal == obj.ntotal, "{} vectors, the index holds {}", obj.ntotal, obj.index.ntotal)
    obj.own_fields = True


index.section(
    "IxPT", "IndexPreTransform", (*HEADER, Field("chain", ChainCodec()), *fields(("index", index))), finish=_finish_pretransform
)


def _finish_refine(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    base, refine = obj.base_index, obj.refine_index
    reader.check(base is not None and refine is not None, "an index is missing")
    reader.check(base.d == obj.d == refine.d, "dimensions {}, {} and {}", obj.d, base.d, refine.d)
    reader.check(base.ntotal == obj.ntotal == refine.ntotal, "{}, {} and {} vectors", obj.ntotal, base.ntotal, refine.ntotal)
    reader.check(1 <= obj.k_factor <= 1000, "k_factor {}", obj.k_factor)
    if isinstance(refine, _class("IndexFlat")):
        object.__setattr__(obj, "__class__", _class("IndexRefineFlat"))
    obj.own_fields = obj.own_refine_index = True


index.section(
    "IxRF",
    "IndexRefine",
    (*HEADER, *fields(("base_index", index), ("refine_index", index), ("k_factor", f32))),
    finish=_finish_refine,
)


def _finish_idmap(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    reader.check(obj.index is not None and obj.index.d == obj.d, "no index of dimension {} under the ids", obj.d)
    n = obj.index.ntotal
    reader.check(obj.ntotal == n == obj.id_map.size(), "{} vectors, {} in the index, {} ids", obj.ntotal, n, obj.id_map.size())
    obj.own_fields = True
    if hasattr(obj, "construct_rev_map"):
        obj.construct_rev_map()


for _tag, _name in (("IxMp", "IndexIDMap"), ("IxM2", "IndexIDMap2")):
    index.section(_tag, _name, (*HEADER, *fields(("index", index), ("id_map", int64s))), finish=_finish_idmap)

# ---- transforms: a class's own fields come before what all share ---------------------------------------------------------------------

SHARED = fields(("d_in", i32), ("d_out", i32), ("is_trained", flag))
LINEAR = (*fields(("have_bias", flag), ("A", floats), ("b", floats)), *SHARED)


def _check_transform(obj: Any, reader: Reader) -> None:
    reader.check(0 < obj.d_in < 1 << 24 and 0 < obj.d_out < 1 << 24, "a transform from dimension {} to {}", obj.d_in, obj.d_out)


def _finish_linear(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    sizes = (obj.A.size(), obj.b.size())
    if obj.is_trained:
        reader.check(sizes[0] == obj.d_in * obj.d_out, "a matrix of {} numbers for {} x {}", sizes[0], obj.d_out, obj.d_in)
        reader.check(not obj.have_bias or sizes[1] == obj.d_out, "{} offsets for dimension {}", sizes[1], obj.d_out)
    obj.set_is_orthonormal()


_PCA = fields(("eigen_power", f32), ("epsilon", f32), ("random_rotation", flag), ("balanced_bins", i32))
_PCA_OLD = (_PCA[0], *_PCA[2:])
_PCA_DATA = fields(("mean", floats), ("eigenvalues", floats), ("PCAMat", floats))
transform.section("LTra", "LinearTransform", LINEAR, finish=_finish_linear)
transform.section("rrot", "RandomRotationMatrix", LINEAR, finish=_finish_linear)
transform.section("Pcam", "PCAMatrix", (*_PCA, *_PCA_DATA, *LINEAR), finish=_finish_linear)
transform.section("PcAm", "PCAMatrix", (*_PCA_OLD, *_PCA_DATA, *LINEAR), finish=_finish_linear, legacy=True)
transform.section("Viqm", "ITQMatrix", (*fields(("max_iter", i32), ("seed", i32)), *LINEAR), finish=_finish_linear)


def _finish_hadamard(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    reader.check(obj.d_out < 1 << 20, "a Hadamard rotation to dimension {}", obj.d_out)
    obj.init(obj.seed)


def _finish_remap(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    table = obj.map.tensor
    reader.check(table.shape[0] == obj.d_out, "a map of {} for dimension {}", table.shape[0], obj.d_out)
    reader.check(bool(((table >= -1) & (table < obj.d_in)).all()), "a map from a dimension that does not exist")


def _finish_centering(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    reader.check(not obj.is_trained or obj.mean.size() == obj.d_in, "a mean of {} for dimension {}", obj.mean.size(), obj.d_in)


transform.section("HRot", "HadamardRotation", (*fields(("seed", u32)), *SHARED), finish=_finish_hadamard)
transform.section("RmDT", "RemapDimensionsTransform", (*fields(("map", int32s)), *SHARED), finish=_finish_remap)
transform.section("VNrm", "NormalizationTransform", (*fields(("norm", f32)), *SHARED), finish=_check_transform)
transform.section("VCnt", "CenteringTransform", (*fields(("mean", floats)), *SHARED), finish=_finish_centering)
transform.section(
    "Viqt",
    "ITQTransform",
    (*fields(("mean", floats), ("do_pca", flag), ("itq", transform), ("pca_then_itq", transform)), *SHARED),
    finish=_check_transform,
)

__all__ = ["InvertedListsCodec", "PQ", "SQ", "bytes_of", "index", "transform"]
