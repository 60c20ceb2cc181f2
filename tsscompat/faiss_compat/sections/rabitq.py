"""Sections of RaBitQ indexes."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.sections.common import HEADER, codes_fit, index
from tsscompat.faiss_compat.sections.ivf import IVF, finish_ivf
from tsscompat.faiss_compat.sections.lists import LISTS
from tsscompat.wire.codecs import flag, floats, i32, octets, u8, u64
from tsscompat.wire.cursor import Reader
from tsscompat.wire.tables import fields, part


def one_bit(obj: Any) -> bool:
    return bool(obj.rabitq.nb_bits == 1)


def several_bits(obj: Any) -> bool:
    return not one_bit(obj)


def _finish_quantizer(quantizer: Any, reader: Reader) -> None:
    reader.check(1 <= quantizer.nb_bits <= 9, "RaBitQ codes of {} bits", quantizer.nb_bits)
    wanted = quantizer.compute_code_size(quantizer.d, quantizer.nb_bits)
    reader.check(quantizer.code_size == wanted, "RaBitQ codes of {} bytes, expected {}", quantizer.code_size, wanted)


_ONE = fields(("d", u64), ("code_size", u64), ("metric_type", i32))
RABITQ_ONE = part("rabitq", _ONE, _finish_quantizer)
RABITQ = part("rabitq", (*_ONE, *fields(("nb_bits", u64))), _finish_quantizer)


def check_rabitq(obj: Any, reader: Reader, least_qb: int = 0) -> None:
    """What must hold of every index of RaBitQ codes."""
    quantizer = obj.rabitq
    reader.check(quantizer.d == obj.d, "a RaBitQ quantiser of dimension {} in an index of {}", quantizer.d, obj.d)
    reader.check(
        quantizer.metric_type == obj.metric_type,
        "a RaBitQ quantiser of metric {} in an index of {}",
        quantizer.metric_type,
        obj.metric_type,
    )
    reader.check(least_qb <= obj.qb <= 8, "queries rounded to {} bits", obj.qb)


def check_center(obj: Any, reader: Reader) -> None:
    wanted = obj.d if obj.is_trained else 0
    reader.check(obj.center.size() == wanted, "a center of {} numbers, expected {}", obj.center.size(), wanted)


def _finish_flat(obj: Any, reader: Reader) -> None:
    check_rabitq(obj, reader)
    check_center(obj, reader)
    obj.code_size = obj.rabitq.code_size
    codes_fit(obj, reader)


def _finish_ivf(obj: Any, reader: Reader) -> None:
    check_rabitq(obj, reader)
    finish_ivf(obj, reader, obj.rabitq.code_size)


for _flat, _lists, _part, _written in (("Ixrq", "Iwrq", RABITQ_ONE, one_bit), ("Ixrr", "Iwrr", RABITQ, several_bits)):
    _table = (*HEADER, _part, *fields(("codes", octets), ("center", floats), ("qb", u8)))
    index.section(_flat, "IndexRaBitQ", _table, finish=_finish_flat, written=_written)
    _table = (*IVF, _part, *fields(("code_size", u64), ("by_residual", flag), ("qb", u8)), LISTS)
    index.section(_lists, "IndexIVFRaBitQ", _table, finish=_finish_ivf, written=_written)
