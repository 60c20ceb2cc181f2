"""Sections of RaBitQ codes in fast-scan blocks; of the legacy ones factors and further bits stand apart, by vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat.sections.common import HEADER, index
from tsscompat.faiss_compat.sections.fastscan import finish_flat, finish_lists
from tsscompat.faiss_compat.sections.ivf import IVF
from tsscompat.faiss_compat.sections.lists import LISTS
from tsscompat.faiss_compat.sections.rabitq import RABITQ, check_center, check_rabitq
from tsscompat.kernels.ivf_lists import runs
from tsscompat.wire.codecs import flag, floats, i32, octets, u8, u64
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, fields


class Apart:
    """What FAISS once kept apart from the blocks: bytes for each vector."""

    def read(self, reader: Reader, obj: Any) -> Any:
        obj._apart = octets.read(reader, obj)
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        raise NotImplementedError  # legacy sections are only read


def _check(obj: Any, reader: Reader) -> None:
    check_rabitq(obj, reader, 1)
    size, parts = obj.code_size, obj.M2
    obj._sized()
    reader.check(size == obj.code_size, "codes of {} bytes, the quantiser makes {}", size, obj.code_size)
    reader.check(parts == obj.M2, "{} parts, expected {}", parts, obj.M2)
    reader.check(0 < obj.bbs < 1 << 20 and obj.bbs % 32 == 0, "blocks of {} vectors", obj.bbs)


def _joined(obj: Any, packed: Tensor, rows: Tensor, apart: Tensor) -> Tensor:
    """Blocks with what stood apart of the vectors in `rows`."""
    packer = obj.get_CodePacker()
    blocks = torch.zeros(packed.shape[0], packer.block_size, dtype=torch.uint8)
    blocks[:, : packed.shape[1]] = packed
    packer._behind(blocks)[rows // packer.nvec, rows % packer.nvec] = apart
    return blocks


def _table_apart(obj: Any, n: int, reader: Reader) -> Tensor:
    """What stood apart, a row for each of at least n vectors."""
    size, apart = obj.compute_per_vector_storage_size(), obj._apart
    del obj.__dict__["_apart"]
    reader.check(apart.shape[0] % size == 0 and apart.shape[0] >= n * size, "{} bytes for {} vectors", apart.shape[0], n)
    table: Tensor = apart.view(-1, size)
    return table


def _finish_flat(obj: Any, reader: Reader) -> None:
    _check(obj, reader)
    check_center(obj, reader) if obj.is_trained else None
    finish_flat(obj, reader)


def _finish_old_flat(obj: Any, reader: Reader) -> None:
    _check(obj, reader)
    width, n = obj.M2 // 2 * obj.bbs, obj.ntotal
    reader.check(0 <= n < 1 << 48 and obj.codes.size() % width == 0, "{} bytes in blocks of {}", obj.codes.size(), width)
    packed = obj.codes.tensor.view(-1, width)
    reader.check(n <= packed.shape[0] * obj.bbs, "{} vectors in {} blocks", n, packed.shape[0])
    apart = _table_apart(obj, n, reader)[:n]
    obj.codes.tensor = _joined(obj, packed, torch.arange(n), apart).reshape(-1)
    _finish_flat(obj, reader)


def _finish_lists(obj: Any, reader: Reader) -> None:
    _check(obj, reader)
    finish_lists(obj, reader)


def _finish_old_lists(obj: Any, reader: Reader) -> None:
    _check(obj, reader)
    lists, packer = obj.invlists, obj.get_CodePacker()
    apart = _table_apart(obj, 0, reader)
    if lists is not None and getattr(lists, "block_size", 0) == obj.M2 // 2 * obj.bbs and lists.n_per_block == obj.bbs:
        sizes, packed, ids = lists._stored()
        reader.check(bool(((ids >= 0) & (ids < apart.shape[0])).all()), "an id beyond {}", apart.shape[0])
        whole = (sizes + obj.bbs - 1) // obj.bbs * obj.bbs
        rows, _ = runs(whole.cumsum(0) - whole, sizes)
        obj.invlists = type(lists)(lists.nlist, packer)
        obj.invlists._load(sizes, _joined(obj, packed, rows, apart[ids]), ids)
    finish_lists(obj, reader)


_BLOCKS = fields(("bbs", i32), ("ntotal2", u64), ("M2", u64), ("code_size", u64), ("codes", octets))
_APART = (Field("this", Apart()),)
_CENTER = fields(("center", floats), ("qb", u8))
index.section("Irfn", "IndexRaBitQFastScan", (*HEADER, RABITQ, *_CENTER, *_BLOCKS), finish=_finish_flat)
index.section("Irfs", "IndexRaBitQFastScan", (*HEADER, RABITQ, *_CENTER, *_APART, *_BLOCKS), finish=_finish_old_flat, legacy=True)
_SIZES = fields(
    ("by_residual", flag),
    ("code_size", u64),
    ("bbs", i32),
    ("qbs2", u64),
    ("M2", u64),
    ("implem", i32),
    ("qb", u8),
    ("centered", flag),
)
_TABLE = (*IVF, RABITQ, *_SIZES)
index.section("Iwrn", "IndexIVFRaBitQFastScan", (*_TABLE, LISTS), finish=_finish_lists)
index.section("Iwrf", "IndexIVFRaBitQFastScan", (*_TABLE, *_APART, LISTS), finish=_finish_old_lists, legacy=True)
