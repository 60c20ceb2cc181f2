"""Sections that FAISS reads but writes no more, of indexes over inverted lists whose ids and codes stand apart, and of an old PCA."""

from __future__ import annotations

from typing import Any

import torch

from tsscompat.faiss_compat.sections.common import PQ, PQ_PART, SQ_PART, class_of, finish_pq, index, transform
from tsscompat.faiss_compat.sections.ivf import IVF, finish_ivf_flat, finish_ivf_pq, finish_ivf_pqr, finish_ivf_sq
from tsscompat.faiss_compat.sections.transforms import LINEAR, PCA_DATA, finish_linear
from tsscompat.wire.codecs import Items, f32, flag, floats, int64s, octets, u64
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields, part


class OldIds:
    """The ids of every list, each list a vector; they wait for their codes."""

    def read(self, reader: Reader, obj: Any) -> Any:
        reader.check_count(obj.nlist, "lists")
        reader.need(8 * obj.nlist)  # each list has a count at least
        obj._old_ids = [int64s.read(reader, obj) for _ in range(obj.nlist)]
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        raise TypeError("old sections are not written")


class OldCodes:
    """The codes of every list, and with them the lists."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def read(self, reader: Reader, obj: Any) -> Any:
        ids = obj._old_ids
        del obj._old_ids
        codes = [self.items.read(reader, obj).view(torch.uint8) for _ in ids]
        size = obj.code_size or 4 * obj.d
        for some_ids, some_codes in zip(ids, codes):
            have, wanted = some_codes.shape[0], some_ids.shape[0] * size
            reader.check(have == wanted, "a list of {} bytes of codes, expected {}", have, wanted)
        lists = class_of("ArrayInvertedLists")(obj.nlist, size)
        none = torch.empty(0, dtype=torch.int64)
        sizes = torch.tensor([i.shape[0] for i in ids], dtype=torch.int64)
        lists._load(sizes, torch.cat([none.view(torch.uint8), *codes]).view(-1, size), torch.cat([none, *ids]))
        obj.invlists = lists
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        raise TypeError("old sections are not written")


_OLD_IVF = (*IVF[:-1], Field("this", OldIds()), IVF[-1])
_FLOATS, _BYTES = Field("this", OldCodes(floats)), Field("this", OldCodes(octets))
_PQ_CODES = (*_OLD_IVF, *fields(("by_residual", flag), ("code_size", u64)), PQ_PART, _BYTES)
_REFINE = (part("refine_pq", PQ, finish_pq), *fields(("refine_codes", octets), ("k_factor", f32)))

for _tag, _cls, _table, _finish in (
    ("IvFl", "IndexIVFFlat", (*_OLD_IVF, _FLOATS), finish_ivf_flat),
    ("IvFL", "IndexIVFFlat", (*_OLD_IVF, _BYTES), finish_ivf_flat),
    ("IvSQ", "IndexIVFScalarQuantizer", (*_OLD_IVF, SQ_PART, *fields(("code_size", u64)), _BYTES), finish_ivf_sq),
    ("IvPQ", "IndexIVFPQ", _PQ_CODES, finish_ivf_pq),
    ("IvQR", "IndexIVFPQR", (*_PQ_CODES, *_REFINE), finish_ivf_pqr),
):
    index.section(_tag, _cls, _table, finish=_finish, legacy=True)

_PCA = fields(("eigen_power", f32), ("random_rotation", flag))
transform.section("PCAm", "PCAMatrix", (*_PCA, *PCA_DATA, *LINEAR), finish=finish_linear, legacy=True)
