"""What the tables of sections share: the registries, the header of every index, the parts that several have."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat import enums
from tsscompat.wire.codecs import f32, flag, floats, i32, i64, u64
from tsscompat.wire.cursor import Reader
from tsscompat.wire.tables import Sections, fields, part, reserved


def class_of(name: str) -> type:
    from tsscompat import faiss_compat

    found = getattr(faiss_compat, name)
    assert isinstance(found, type)
    return found


index = Sections("index", class_of)
transform = Sections("transform", class_of)


def unusual_metric(obj: Any) -> bool:
    return bool(obj.metric_type > 1)


HEADER = (
    *fields(("d", i32), ("ntotal", i64)),
    reserved(i64, 1 << 20),
    reserved(i64, 1 << 20),
    *fields(("is_trained", flag), ("metric_type", i32), ("metric_arg", f32, unusual_metric)),
)


def check_header(obj: Any, reader: Reader) -> None:
    """What must hold of every index."""
    reader.check(0 <= obj.d < 1 << 24, "dimension {}", obj.d)
    reader.check(0 <= obj.ntotal < 1 << 48, "{} vectors", obj.ntotal)
    reader.check(obj.metric_type in enums.METRICS, "metric {}", obj.metric_type)


def labels_within(index: Any, n: int) -> bool:
    """Whether a search of an index, a coarse quantizer say, can give no other numbers than those below n."""
    others: list[int] = []
    lists = getattr(index, "invlists", None)
    if hasattr(index, "id_map"):
        ids = index.id_map.tensor
    elif hasattr(lists, "_dump"):
        ids = index.invlists._dump()[2]
        others = [other for some in getattr(index, "instances", {}).values() for other in some]
    elif hasattr(lists, "ids"):  # hash tables
        ids = index.invlists.ids.tensor
    else:
        inner = [getattr(index, name, None) for name in ("index", "base_index", "index_ivf")]
        return index.ntotal <= n and all(labels_within(one, n) for one in inner if one is not None)
    return bool(((ids >= -1) & (ids < n)).all()) and all(-1 <= other < n for other in others)


# Room for so many empty lists is taken without centroids for them.
_LISTS = 1 << 24


def check_lists(nlist: int, code_size: int, obj: Any, reader: Reader) -> None:
    """What must hold of the number of lists of an index, of None for lists alone, before memory is taken for them."""
    reader.check(nlist < 1 << 31 and code_size < 1 << 31, "{} lists of codes of {} bytes", nlist, code_size)
    reader.check_count(nlist, "lists")
    if obj is None:
        return
    reader.check(nlist == obj.nlist, "{} lists in an index of {}", nlist, obj.nlist)
    centroids = 0 if obj.quantizer is None else obj.quantizer.ntotal
    reader.check(nlist <= max(_LISTS, centroids), "{} lists of {} centroids", nlist, centroids)


def finish_pq(pq: Any, reader: Reader) -> None:
    reader.check(
        pq.M > 0 and pq.d % pq.M == 0 and 0 <= pq.nbits <= 24, "PQ of {} parts of {} bits for dimension {}", pq.M, pq.nbits, pq.d
    )
    reader.check(
        pq.centroids.size() == pq.d << pq.nbits, "{} numbers of PQ centroids, expected {}", pq.centroids.size(), pq.d << pq.nbits
    )
    pq.set_derived_values()


PQ = fields(("d", u64), ("M", u64), ("nbits", u64), ("centroids", floats))
SQ = fields(("qtype", i32), ("rangestat", i32), ("rangestat_arg", f32), ("d", u64), ("code_size", u64), ("trained", floats))
PQ_PART = part("pq", PQ, finish_pq)


def finish_sq(sq: Any, reader: Reader) -> None:
    from tsscompat.algorithms import scalar

    claimed = sq.code_size
    reader.check(sq.qtype in scalar.KINDS, "scalar quantiser type {}", sq.qtype)
    sq.set_derived_sizes()
    reader.check(claimed == sq.code_size, "scalar codes of {} bytes, expected {}", claimed, sq.code_size)
    wanted = scalar.trained_size(sq.qtype, sq.d)
    reader.check(sq.trained.size() in (0, wanted), "{} trained numbers, expected {}", sq.trained.size(), wanted)


SQ_PART = part("sq", SQ, finish_sq)


def codes_fit(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    have, wanted = obj.codes.size(), obj.ntotal * obj.code_size
    reader.check(have == wanted, "{} bytes of codes, expected {}", have, wanted)
