"""Sections of additive quantizers: flat, in lists, and as coarse quantizers."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.io_streams import IO_FLAG_SKIP_PRECOMPUTE_TABLE
from tsscompat.faiss_compat.local_search import LocalSearchQuantizer
from tsscompat.faiss_compat.residual import ResidualQuantizer
from tsscompat.faiss_compat.sections.common import HEADER, check_header, codes_fit, index
from tsscompat.faiss_compat.sections.ivf import IVF, finish_ivf
from tsscompat.faiss_compat.sections.lists import LISTS
from tsscompat.wire.codecs import f32, flag, floats, i32, octets, octets_by_4, u64, uint64s
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Table, fields, part, read_table, write_table

# A beam, or a number of iterations, beyond this is no wish but a mistake.
_MOST, _MOST_NORMS = 1 << 20, 1 << 28


def _named_norms(aq: Any) -> bool:
    return aq.search_type in AdditiveQuantizer._NORM_ENTRIES


def _tabled_norms(aq: Any) -> bool:
    return aq.search_type in (AdditiveQuantizer.ST_norm_lsq2x4, AdditiveQuantizer.ST_norm_rq2x4)


class NormsCodec:
    """The norms that codes name."""

    def read(self, reader: Reader, obj: Any) -> Any:
        norms = obj.qnorm
        norms.codes.tensor = octets_by_4.read(reader, obj).to(obj.device)
        norms.ntotal = norms.codes.size() // 4
        norms.update_permutation()
        return norms

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        octets_by_4.write(writer, value.codes, obj)


class PartsCodec:
    """The quantizers of a product's parts, of one kind."""

    def __init__(self, kind: type, table: Table, finish: Any) -> None:
        self.kind, self.table, self.finish = kind, table, finish

    def read(self, reader: Reader, obj: Any) -> Any:
        n = obj.nsplits
        reader.check(0 < n <= obj.M and obj.d % n == 0, "{} parts of dimension {} with {} codebooks", n, obj.d, obj.M)
        found = []
        for _ in range(n):
            aq = self.kind()
            read_table(reader, self.table, aq)
            self.finish(aq, reader)
            reader.check(aq.d == obj.d // n, "a part's quantizer of dimension {}, expected {}", aq.d, obj.d // n)
            found.append(aq)
        sizes = tuple(bits for aq in found for bits in aq._sizes)
        reader.check(sizes == obj._sizes, "the parts' codebooks have {} bits, the product's {}", sizes, obj._sizes)
        return found

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        for aq in value:
            write_table(writer, self.table, aq)


def _finish(aq: Any, reader: Reader, width: int) -> None:
    """What must hold of every additive quantizer, whose entries have `width` numbers."""
    reader.check(0 < aq.d < 1 << 24 and 0 < aq.M < 1 << 20, "{} codebooks of dimension {}", aq.M, aq.d)
    reader.check(aq.nbits.size() == aq.M, "bits of {} codebooks, expected {}", aq.nbits.size(), aq.M)
    reader.check(all(bits < 32 for bits in aq.nbits), "codebooks of {} bits", list(aq.nbits))
    reader.check(0 <= aq.search_type < AdditiveQuantizer.ST_count, "search type {}", aq.search_type)
    aq.set_derived_values()
    reader.check(aq.code_size > 0, "codes of no bits")
    have, wanted = aq.codebooks.size(), aq.total_codebook_size * width
    reader.check(have == wanted or (have == 0 and not aq.is_trained), "{} numbers in codebooks, expected {}", have, wanted)
    if _named_norms(aq) and aq.is_trained:
        reader.check(aq.qnorm.ntotal >= 1 << aq.norm_bits, "{} norms, expected {}", aq.qnorm.ntotal, 1 << aq.norm_bits)


def _finish_rq(rq: Any, reader: Reader) -> None:
    _finish(rq, reader, rq.d)
    reader.check(0 < rq.max_beam_size < _MOST, "a beam of {}", rq.max_beam_size)
    if rq.is_trained and not reader.flags & IO_FLAG_SKIP_PRECOMPUTE_TABLE:
        rq._want_tables()


def _finish_old_rq(rq: Any, reader: Reader) -> None:
    _finish(rq, reader, rq.d)
    reader.check(0 < rq.max_beam_size < _MOST, "a beam of {}", rq.max_beam_size)


def _finish_lsq(lsq: Any, reader: Reader) -> None:
    _finish(lsq, reader, lsq.d)
    reader.check(set(lsq._sizes) == {lsq._sizes[0]} and 1 << lsq._sizes[0] == lsq.K, "K is {}", lsq.K)
    reader.check(lsq.chunk_size > 0, "chunks of no vectors")
    counts = lsq.train_iters, lsq.encode_ils_iters, lsq.train_ils_iters, lsq.icm_iters, lsq.nperts
    reader.check(max(counts) < _MOST, "iterations or changes of {}", counts)


def _finish_product(aq: Any, reader: Reader) -> None:
    _finish(aq, reader, aq.d // aq.nsplits)
    reader.check(all(q.is_trained for q in aq.quantizers) or not aq.is_trained, "a part's quantizer is not trained")


_AQ = (
    *fields(("d", u64), ("M", u64), ("nbits", uint64s), ("is_trained", flag), ("codebooks", floats)),
    *fields(("search_type", i32), ("norm_min", f32), ("norm_max", f32)),
    *fields(("qnorm", NormsCodec(), _named_norms), ("norm_tabs", floats, _tabled_norms)),
)
_RQ = (*_AQ, *fields(("train_type", i32), ("max_beam_size", i32)))
_OLD_RQ = (
    *fields(("d", u64), ("M", u64), ("nbits", uint64s), ("is_trained", flag), ("train_type", i32), ("max_beam_size", i32)),
    *fields(("codebooks", floats), ("search_type", i32), ("norm_min", f32), ("norm_max", f32)),
)
_LSQ = (
    *_AQ,
    *fields(("K", u64), ("train_iters", u64), ("encode_ils_iters", u64), ("train_ils_iters", u64), ("icm_iters", u64)),
    *fields(("p", f32), ("lambd", f32), ("chunk_size", u64), ("random_seed", i32), ("nperts", u64)),
    *fields(("update_codebooks_with_double", flag)),
)
_PRQ = (*_AQ, *fields(("nsplits", u64), ("quantizers", PartsCodec(ResidualQuantizer, _RQ, _finish_rq))))
_PLSQ = (*_AQ, *fields(("nsplits", u64), ("quantizers", PartsCodec(LocalSearchQuantizer, _LSQ, _finish_lsq))))

# The quantizers as fields of whatever holds one.
RQ_PART, OLD_RQ_PART = part("rq", _RQ, _finish_rq), part("rq", _OLD_RQ, _finish_old_rq)
LSQ_PART = part("lsq", _LSQ, _finish_lsq)
PRQ_PART, PLSQ_PART = part("prq", _PRQ, _finish_product), part("plsq", _PLSQ, _finish_product)


def check_quantizer(obj: Any, reader: Reader) -> None:
    """What must hold between an index and its additive quantizer."""
    reader.check(obj.aq.d == obj.d, "a quantizer of dimension {} in an index of {}", obj.aq.d, obj.d)
    reader.check(obj.code_size == obj.aq.code_size, "codes of {} bytes, the quantizer makes {}", obj.code_size, obj.aq.code_size)
    reader.check(obj.aq.is_trained or not obj.is_trained, "the quantizer is not trained, the index is")


def _finish_flat(obj: Any, reader: Reader) -> None:
    codes_fit(obj, reader)
    check_quantizer(obj, reader)


def _finish_lists(obj: Any, reader: Reader) -> None:
    check_quantizer(obj, reader)
    finish_ivf(obj, reader, None)


_CODES = fields(("code_size", u64), ("codes", octets))
_END = fields(("by_residual", flag), ("use_precomputed_table", i32))
for _flat, _lists, _name, _part in (
    ("IxRq", "IwRQ", "ResidualQuantizer", RQ_PART),
    ("IxLS", "IwLS", "LocalSearchQuantizer", LSQ_PART),
    ("IxPR", "IwPR", "ProductResidualQuantizer", PRQ_PART),
    ("IxPL", "IwPL", "ProductLocalSearchQuantizer", PLSQ_PART),
):
    index.section(_flat, f"Index{_name}", (*HEADER, _part, *_CODES), finish=_finish_flat)
    index.section(_lists, f"IndexIVF{_name}", (*IVF, *fields(("code_size", u64)), _part, *_END, LISTS), finish=_finish_lists)
index.section("IxRQ", "IndexResidualQuantizer", (*HEADER, OLD_RQ_PART, *_CODES), finish=_finish_flat, legacy=True)


def _finish_coarse(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    rq = obj.rq
    reader.check(rq.d == obj.d, "a quantizer of dimension {} in an index of {}", rq.d, obj.d)
    reader.check(rq.is_trained or not obj.is_trained, "the quantizer is not trained, the index is")
    reader.check(rq.tot_bits <= 63, "centroids of {} bits", rq.tot_bits)
    reader.check(obj.ntotal == (1 << rq.tot_bits if rq.is_trained else 0), "{} centroids of {} bits", obj.ntotal, rq.tot_bits)
    factor = obj.beam_factor
    reader.check(factor <= 0 or 1 <= factor <= 1000, "beam factor {}", factor)
    if reader.flags & IO_FLAG_SKIP_PRECOMPUTE_TABLE:
        # As FAISS does: an exhaustive search needs no tables.
        obj.beam_factor = -1.0
    if rq.is_trained:
        # An exhaustive search holds a norm for each.
        reader.check(obj.beam_factor > 0 or obj.ntotal <= _MOST_NORMS, "{} centroids are to be compared one by one", obj.ntotal)
        obj.set_beam_factor(obj.beam_factor)


index.section("ImRQ", "ResidualCoarseQuantizer", (*HEADER, RQ_PART, *fields(("beam_factor", f32))), finish=_finish_coarse)
