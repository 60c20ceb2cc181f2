"""Sections of fast-scan indexes with product codes, and what all fast-scan sections check."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.sections.blocks import check_blocks
from tsscompat.faiss_compat.sections.common import HEADER, PQ_PART, check_header, index
from tsscompat.faiss_compat.sections.ivf import IVF, check_coarse, finish_ivf
from tsscompat.faiss_compat.sections.lists import LISTS
from tsscompat.wire.codecs import flag, i32, octets, u64
from tsscompat.wire.cursor import Reader
from tsscompat.wire.tables import fields


def check_layout(obj: Any, reader: Reader, any_metric: bool = False) -> None:
    """The sizes of codes and blocks."""
    reader.check(obj.M > 0 and obj.nbits == 4 and obj.ksub == 16, "fast-scan codes of {} parts of {} bits", obj.M, obj.nbits)
    reader.check(obj.M2 == obj.M + obj.M % 2, "{} parts rounded up to {}", obj.M, obj.M2)
    reader.check(0 < obj.bbs < 1 << 20 and obj.bbs % 32 == 0, "blocks of {} vectors", obj.bbs)
    reader.check(obj.qbs >= 0, "query blocks {}", obj.qbs)
    fits = any_metric or obj.metric_type in (enums.METRIC_L2, enums.METRIC_INNER_PRODUCT)
    reader.check(fits, "a fast-scan index of metric {}", obj.metric_type)


def finish_flat(obj: Any, reader: Reader, any_metric: bool = False) -> None:
    """The blocks of an index that has nothing else."""
    check_header(obj, reader)
    check_layout(obj, reader, any_metric)
    if obj.ntotal == 0 and obj.codes.size() == 0:
        # FAISS forgets this number when it empties an index.
        obj.ntotal2 = 0
    held, bbs = obj.ntotal2, obj.bbs
    reader.check(held % bbs == 0 and obj.ntotal <= held, "{} vectors in blocks for {}", obj.ntotal, held)
    have, wanted = obj.codes.size(), held // bbs * obj.get_block_stride()
    reader.check(have == wanted, "{} bytes of codes, expected {}", have, wanted)


def finish_lists(obj: Any, reader: Reader) -> None:
    """The lists of an index, which must be in its blocks."""
    check_layout(obj, reader)
    lists, obj.invlists = obj.invlists, None
    finish_ivf(obj, reader, obj.code_size)
    check_coarse(obj, lists, reader)
    if lists is not None:
        reader.check(lists.nlist == obj.nlist, "{} lists in an index of {}", lists.nlist, obj.nlist)
        check_blocks(lists, obj.get_CodePacker(), reader)
    obj.invlists = lists


def _from_pq(obj: Any, reader: Reader) -> None:
    reader.check(obj.pq.d == obj.d, "PQ of dimension {} in an index of {}", obj.pq.d, obj.d)
    obj.M, obj.nbits, obj.ksub, obj.code_size = obj.pq.M, obj.pq.nbits, obj.pq.ksub, obj.pq.code_size


def _finish_pq(obj: Any, reader: Reader) -> None:
    _from_pq(obj, reader)
    # FAISS makes them with any metric, and scores by products what is not L2.
    finish_flat(obj, reader, any_metric=True)


def _finish_ivf_pq(obj: Any, reader: Reader) -> None:
    _from_pq(obj, reader)
    finish_lists(obj, reader)
    if obj.is_trained and obj.by_residual:
        obj.precompute_table()


_BLOCKS = fields(("ntotal2", u64), ("M2", u64), ("codes", octets))
_SEARCH = fields(("implem", i32), ("bbs", i32), ("qbs", i32))
index.section("IPfs", "IndexPQFastScan", (*HEADER, PQ_PART, *_SEARCH, *_BLOCKS), finish=_finish_pq)
_SIZES = fields(("by_residual", flag), ("code_size", u64), ("bbs", i32), ("M2", u64), ("implem", i32), ("qbs2", u64))
index.section("IwPf", "IndexIVFPQFastScan", (*IVF, *_SIZES, PQ_PART, LISTS), finish=_finish_ivf_pq)
