"""Sections of indexes around indexes."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.sections.common import HEADER, check_header, class_of, index, transform
from tsscompat.wire.codecs import f32, i32, int64s
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields


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


def finish_refine(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    base, refine = obj.base_index, obj.refine_index
    reader.check(base is not None and refine is not None, "an index is missing")
    reader.check(base.d == obj.d == refine.d, "dimensions {}, {} and {}", obj.d, base.d, refine.d)
    reader.check(base.ntotal == obj.ntotal == refine.ntotal, "{}, {} and {} vectors", obj.ntotal, base.ntotal, refine.ntotal)
    reader.check(1 <= obj.k_factor <= 1000, "k_factor {}", obj.k_factor)
    if isinstance(refine, class_of("IndexFlat")):
        object.__setattr__(obj, "__class__", class_of("IndexRefineFlat"))
    obj.own_fields = obj.own_refine_index = True


REFINE = (*HEADER, *fields(("base_index", index), ("refine_index", index), ("k_factor", f32)))
index.section("IxRF", "IndexRefine", REFINE, finish=finish_refine)


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
