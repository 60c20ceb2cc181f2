"""Sections of fast-scan indexes with additive codes."""

from __future__ import annotations

from typing import Any

from tsscompat.errors import FaissError
from tsscompat.faiss_compat.additive_fastscan import check_quantizer as parts_of
from tsscompat.faiss_compat.sections.additive import LSQ_PART, PLSQ_PART, PRQ_PART, RQ_PART, check_quantizer
from tsscompat.faiss_compat.sections.common import HEADER, index
from tsscompat.faiss_compat.sections.fastscan import finish_flat, finish_lists
from tsscompat.faiss_compat.sections.ivf import IVF
from tsscompat.faiss_compat.sections.lists import LISTS
from tsscompat.wire.codecs import flag, i32, octets, u64
from tsscompat.wire.cursor import Reader
from tsscompat.wire.tables import fields


def _fits(obj: Any, reader: Reader) -> None:
    """The index and its quantizer make the same codes."""
    check_quantizer(obj, reader)
    try:
        parts = parts_of(obj.aq, obj.metric_type)
    except FaissError as e:
        raise reader.error(str(e)) from None
    reader.check(parts == obj.M, "{} parts, the quantizer has {}", obj.M, parts)
    reader.check(obj.code_size == (obj.M + 1) // 2, "codes of {} bytes, expected {}", obj.code_size, (obj.M + 1) // 2)
    reader.check(1 <= obj.norm_scale < 1 << 15, "norms that count {} times", obj.norm_scale)


def _finish_flat(obj: Any, reader: Reader) -> None:
    _fits(obj, reader)
    finish_flat(obj, reader)


def _finish_lists(obj: Any, reader: Reader) -> None:
    _fits(obj, reader)
    finish_lists(obj, reader)


_SEARCH = fields(("implem", i32), ("bbs", i32), ("qbs", i32), ("M", u64), ("nbits", u64), ("ksub", u64), ("code_size", u64))
_SCALE = fields(("rescale_norm", flag), ("norm_scale", i32), ("max_train_points", u64))
_FLAT = (*_SEARCH, *fields(("ntotal2", u64), ("M2", u64)), *_SCALE, *fields(("codes", octets)))
_LISTS = (*fields(("by_residual", flag)), *_SEARCH, *fields(("qbs2", u64), ("M2", u64)), *_SCALE, LISTS)
for _flat, _lists, _name, _part in (
    ("IRfs", "IVRf", "ResidualQuantizer", RQ_PART),
    ("ILfs", "IVLf", "LocalSearchQuantizer", LSQ_PART),
    ("IPRf", "NPRf", "ProductResidualQuantizer", PRQ_PART),
    ("IPLf", "NPLf", "ProductLocalSearchQuantizer", PLSQ_PART),
):
    index.section(_flat, f"Index{_name}FastScan", (*HEADER, _part, *_FLAT), finish=_finish_flat)
    index.section(_lists, f"IndexIVF{_name}FastScan", (*IVF, _part, *_LISTS), finish=_finish_lists)
