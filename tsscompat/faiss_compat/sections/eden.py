"""Sections of EDEN indexes."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.sections.common import HEADER, codes_fit, index
from tsscompat.faiss_compat.sections.ivf import IVF, finish_ivf
from tsscompat.faiss_compat.sections.lists import LISTS
from tsscompat.wire.codecs import flag, floats, i32, octets, u64
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields


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
    codes_fit(obj, reader)
    wanted = obj.d if obj.is_trained else 0
    reader.check(obj.center.size() == wanted, "a center of {} numbers, expected {}", obj.center.size(), wanted)


def _finish_ivf_eden(obj: Any, reader: Reader) -> None:
    size = obj.sq.code_size + 8
    reader.check(obj.code_size == size, "codes of {} bytes, expected {}", obj.code_size, size)
    finish_ivf(obj, reader, None)


for _tag, _eden in (("IxEe", Field("this", EdenCodec())), ("IxEd", Field("this", EdenCodec(False)))):
    _table = (*HEADER, _eden, *fields(("codes", octets), ("center", floats)))
    index.section(_tag, "IndexEDEN", _table, finish=_finish_eden, legacy=_tag == "IxEd")
for _tag, _eden in (("IwEe", Field("this", EdenCodec())), ("IwEd", Field("this", EdenCodec(False)))):
    _table = (*IVF, _eden, *fields(("code_size", u64), ("by_residual", flag)), LISTS)
    index.section(_tag, "IndexIVFEDEN", _table, finish=_finish_ivf_eden, legacy=_tag == "IwEd")
