"""Sections of indexes over inverted lists."""

from __future__ import annotations

from typing import Any

import torch

from tsscompat.faiss_compat.io_streams import IO_FLAG_SKIP_PRECOMPUTE_TABLE
from tsscompat.faiss_compat.sections.common import (
    HEADER,
    PQ,
    PQ_PART,
    SQ_PART,
    check_header,
    finish_pq,
    index,
    labels_within,
    transform,
)
from tsscompat.faiss_compat.sections.lists import LISTS, DirectMapCodec
from tsscompat.wire.codecs import f32, flag, i32, int64s, octets, u64
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields, part


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


IVF = HEADER + fields(("nlist", u64), ("nprobe", u64), ("quantizer", index), ("direct_map", DirectMapCodec()))


def check_coarse(obj: Any, lists: Any, reader: Reader) -> None:
    """The coarse quantizer of an index must name its lists."""
    quantizer = obj.quantizer
    reader.check(quantizer is not None, "no coarse quantizer")
    reader.check(quantizer.d == obj.d, "coarse quantizer of dimension {} in an index of {}", quantizer.d, obj.d)
    # FAISS writes shards of centroids with more of them than lists, or fewer, but then the lists are empty.
    if lists is not None and lists.compute_ntotal():
        wanted = quantizer.ntotal == obj.nlist or not obj.is_trained
        reader.check(wanted, "{} centroids for {} lists", quantizer.ntotal, obj.nlist)
        reader.check(labels_within(quantizer, obj.nlist), "a coarse quantizer with numbers beyond {} lists", obj.nlist)


def finish_ivf(obj: Any, reader: Reader, code_size: int | None) -> None:
    check_header(obj, reader)
    check_coarse(obj, obj.invlists, reader)
    if code_size is not None:
        obj.code_size = code_size
    if obj.invlists is not None:
        lists = obj.invlists
        reader.check(lists.nlist == obj.nlist, "{} lists in an index of {}", lists.nlist, obj.nlist)
        reader.check(
            lists.code_size == obj.code_size, "codes of {} bytes in lists, {} in the index", lists.code_size, obj.code_size
        )
    obj.own_fields = obj.own_invlists = True


def finish_ivf_flat(obj: Any, reader: Reader) -> None:
    obj.by_residual = False
    finish_ivf(obj, reader, 4 * obj.d)


index.section("IwFl", "IndexIVFFlat", (*IVF, LISTS), finish=finish_ivf_flat)
index.section("IwFd", "IndexIVFFlatDedup", (*IVF, Field("instances", InstancesCodec()), LISTS), finish=finish_ivf_flat)


def finish_ivf_sq(obj: Any, reader: Reader) -> None:
    reader.check(obj.code_size == obj.sq.code_size, "codes of {} bytes, the quantiser makes {}", obj.code_size, obj.sq.code_size)
    reader.check(obj.sq.d == obj.d, "scalar quantiser of dimension {} in an index of {}", obj.sq.d, obj.d)
    finish_ivf(obj, reader, None)


index.section(
    "IwSq",
    "IndexIVFScalarQuantizer",
    (*IVF, SQ_PART, *fields(("code_size", u64), ("by_residual", flag)), LISTS),
    finish=finish_ivf_sq,
)
index.section(
    "IwSQ", "IndexIVFScalarQuantizer", (*IVF, SQ_PART, *fields(("code_size", u64)), LISTS), finish=finish_ivf_sq, legacy=True
)


def finish_ivf_pq(obj: Any, reader: Reader) -> None:
    reader.check(obj.pq.d == obj.d, "PQ of dimension {} in an index of {}", obj.pq.d, obj.d)
    reader.check(obj.code_size == obj.pq.code_size, "codes of {} bytes, the PQ makes {}", obj.code_size, obj.pq.code_size)
    finish_ivf(obj, reader, None)
    obj.use_precomputed_table = 0
    if obj.is_trained and obj.by_residual and not reader.flags & IO_FLAG_SKIP_PRECOMPUTE_TABLE:
        obj.precompute_table()


def finish_ivf_pqr(obj: Any, reader: Reader) -> None:
    finish_ivf_pq(obj, reader)
    have, wanted = obj.refine_codes.size(), obj.ntotal * obj.refine_pq.code_size
    reader.check(have == wanted, "{} bytes of second codes, expected {}", have, wanted)
    reader.check(1 <= obj.k_factor <= 1000, "k_factor {}", obj.k_factor)


_IVF_PQ = (*IVF, *fields(("by_residual", flag), ("code_size", u64)), PQ_PART, LISTS)
index.section("IwPQ", "IndexIVFPQ", _IVF_PQ, finish=finish_ivf_pq)
_REFINE_PQ = part("refine_pq", PQ, finish_pq)
index.section(
    "IwQR", "IndexIVFPQR", (*_IVF_PQ, _REFINE_PQ, *fields(("refine_codes", octets), ("k_factor", f32))), finish=finish_ivf_pqr
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
    nlist, quantizer, lists = obj.index_ivf.nlist, obj.quantizer, obj.index_ivf.invlists
    reader.check(quantizer.d == obj.d, "coarse quantizer of dimension {} in an index of {}", quantizer.d, obj.d)
    fits = lists is None or not lists.compute_ntotal() or (quantizer.ntotal == nlist and labels_within(quantizer, nlist))
    reader.check(fits, "a coarse quantizer of other numbers than those of {} lists", nlist)
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
