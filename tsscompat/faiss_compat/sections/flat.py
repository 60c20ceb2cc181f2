"""Sections of flat codes: vectors, PQ and SQ codes, and the coarse quantizers made of them."""

from __future__ import annotations

from typing import Any

from tsscompat.errors import FaissError
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.sections.common import HEADER, PQ_PART, SQ_PART, check_header, codes_fit, index, unusual_metric
from tsscompat.wire.codecs import flag, i32, octets, octets_by_4, u8, u64
from tsscompat.wire.cursor import Reader
from tsscompat.wire.tables import fields, part


def _finish_flat(obj: Any, reader: Reader) -> None:
    obj.code_size = 4 * obj.d
    codes_fit(obj, reader)


_FLAT = HEADER + fields(("codes", octets_by_4))
index.section("IxF2", "IndexFlatL2", _FLAT, finish=_finish_flat)
index.section("IxFI", "IndexFlatIP", _FLAT, finish=_finish_flat)
index.section("IxFl", "IndexFlat", _FLAT, finish=_finish_flat, written=unusual_metric)
for _tag, _metric in (("IxF2", enums.METRIC_L2), ("IxFI", enums.METRIC_INNER_PRODUCT)):
    # An IndexFlat is written by its metric, whatever its class.
    _row = index.by_tag[_tag]
    index.section(_tag, "IndexFlat", _FLAT, finish=_finish_flat, written=lambda obj, m=_metric: obj.metric_type == m)
    index.by_tag[_tag] = _row


def _finish_pq_index(obj: Any, reader: Reader) -> None:
    obj.code_size = obj.pq.code_size
    reader.check(obj.pq.d == obj.d, "PQ of dimension {} in an index of {}", obj.pq.d, obj.d)
    codes_fit(obj, reader)


_SEARCH = fields(("search_type", i32), ("encode_signs", flag), ("polysemous_ht", i32))
index.section("IxPq", "IndexPQ", (*HEADER, PQ_PART, *fields(("codes", octets)), *_SEARCH), finish=_finish_pq_index)
index.section("IxPo", "IndexPQ", (*HEADER, PQ_PART, *fields(("codes", octets)), *_SEARCH), finish=_finish_pq_index, legacy=True)
index.section("IxPQ", "IndexPQ", (*HEADER, PQ_PART, *fields(("codes", octets))), finish=_finish_pq_index, legacy=True)


def _finish_sq_index(obj: Any, reader: Reader) -> None:
    obj.code_size = obj.sq.code_size
    reader.check(obj.sq.d == obj.d, "scalar quantiser of dimension {} in an index of {}", obj.sq.d, obj.d)
    codes_fit(obj, reader)


index.section("IxSQ", "IndexScalarQuantizer", (*HEADER, SQ_PART, *fields(("codes", octets))), finish=_finish_sq_index)


def _finish_miq(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    reader.check(obj.pq.d == obj.d, "PQ of dimension {} in an index of {}", obj.pq.d, obj.d)
    obj.ntotal = obj.pq.ksub**obj.pq.M


index.section("Imiq", "MultiIndexQuantizer", (*HEADER, PQ_PART), finish=_finish_miq)


def _finish_two_layer(obj: Any, reader: Reader) -> None:
    coarse, pq = obj.q1.quantizer, obj.pq
    reader.check(coarse is not None and coarse.d == obj.d, "no coarse quantizer of dimension {}", obj.d)
    reader.check(pq.d == obj.d, "PQ of dimension {} in an index of {}", pq.d, obj.d)
    have, wanted = (obj.code_size_1, obj.code_size_2), (obj.q1.coarse_code_size(), pq.code_size)
    reader.check(have == wanted, "codes of {} bytes, the quantizers make {}", have, wanted)
    reader.check(obj.code_size == sum(wanted), "codes of {} bytes, the quantizers make {}", obj.code_size, wanted)
    codes_fit(obj, reader)
    if obj.ntotal:
        reader.check(coarse.ntotal == obj.q1.nlist, "{} centroids for {} lists", coarse.ntotal, obj.q1.nlist)
        try:
            obj.q1._listnos(obj._rows)
        except FaissError as e:
            raise reader.error(str(e)) from None


_Q1 = fields(("quantizer", index), ("nlist", u64), ("quantizer_trains_alone", u8))
index.section(
    "Ix2L",
    "Index2Layer",
    (
        *HEADER,
        part("q1", _Q1),
        PQ_PART,
        *fields(("code_size_1", u64), ("code_size_2", u64), ("code_size", u64), ("codes", octets)),
    ),
    finish=_finish_two_layer,
)
