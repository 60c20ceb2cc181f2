"""RaBitQ codes in fast-scan blocks: the signs of bbs vectors as parts of 4 bits, then their factors and further bits, vector after vector.

Taken out of its block a code is RaBitQuantizer's. Codes are taken out before the first search that follows a change, and scored as those
of IndexRaBitQ are; FAISS scores signs by tables of bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import rows
from tsscompat.algorithms.ivf import ListCodec, Options
from tsscompat.algorithms.rabitq import RaBitQ
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import boolean, byte, child, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.fastscan import IndexFastScan
from tsscompat.faiss_compat.ivf_fastscan import IndexIVFFastScan
from tsscompat.faiss_compat.packers import CodePackerPQ4
from tsscompat.faiss_compat.params import IVFRaBitQSearchParameters, SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.rabitq import IndexIVFRaBitQ, IndexRaBitQ, RaBitQuantizer, mean_in_order
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels.ivf import Range, Top
from tsscompat.kernels.ivf_lists import Ragged


class CodePackerRaBitQ(CodePackerPQ4):
    """Signs as parts of 4 bits in blocks, behind which `storage` bytes of each vector stand one after the other."""

    def __init__(self, nsq: int, bbs: int, storage: int) -> None:
        super().__init__(nsq, bbs)
        self.storage, self._signs = storage, self.code_size
        self.code_size += storage
        self.block_size += storage * bbs

    def _behind(self, blocks: Tensor) -> Tensor:
        """What stands behind the signs, (blocks, nvec, storage)."""
        return blocks[:, self._signs * self.nvec :].unflatten(1, (self.nvec, self.storage))

    def _take(self, blocks: Tensor, rows: Tensor) -> Tensor:
        rows = rows.to(blocks.device)
        signs = super()._take(blocks[:, : self._signs * self.nvec].contiguous(), rows)
        return torch.cat([signs, self._behind(blocks)[rows // self.nvec, rows % self.nvec]], 1)

    def _put(self, blocks: Tensor, rows: Tensor, codes: Tensor) -> None:
        rows = rows.to(blocks.device)
        # Of the blocks that change, the signs are packed apart and put back.
        touched, place = torch.unique(rows // self.nvec, return_inverse=True)
        packed = blocks[touched, : self._signs * self.nvec].contiguous()
        super()._put(packed, place * self.nvec + rows % self.nvec, codes[:, : self._signs])
        blocks[touched, : self._signs * self.nvec] = packed
        self._behind(blocks)[rows // self.nvec, rows % self.nvec] = codes[:, self._signs :]


class _RaBitQBlocks:
    """What the flat index and the one of lists share: the quantizer and how its codes lie."""

    def compute_per_vector_storage_size(self: Any) -> int:
        """Bytes of a code besides its signs."""
        return int(self.rabitq.code_size - (self.d + 7) // 8)

    def get_CodePacker(self: Any) -> CodePackerRaBitQ:
        """What lays out the codes of a block."""
        return CodePackerRaBitQ(self.M2, self.bbs, self.compute_per_vector_storage_size())

    def fast_scan_code_size(self: Any) -> int:
        """Bytes of a code that are signs."""
        return int((self.d + 7) // 8)

    def _sized(self: Any) -> None:
        """Set the sizes that follow from d and the quantizer."""
        self.M, self.nbits, self.ksub = (self.d + 3) // 4, 4, 16
        self.M2, self.code_size = self.M + self.M % 2, self.rabitq.code_size


def _check_qb(qb: int) -> None:
    check(1 <= qb <= 8, "fast scan takes queries rounded to 1 to 8 bits, not {}", qb)


class IndexRaBitQFastScan(_RaBitQBlocks, IndexFastScan):
    """RaBitQ codes around the mean of the training vectors, in blocks."""

    _caches = ("_unpacked",)

    rabitq = child(RaBitQuantizer, "makes the codes")
    center = vector(Float32Vector, "mean of the training vectors")
    qb = byte(8, "bits that queries are rounded to")
    centered = boolean(False, "queries are rounded symmetrically around 0")

    def __init__(self, d: int | IndexRaBitQ | None = None, metric: int = METRIC_L2, bbs: int = 32, nb_bits: int = 1) -> None:
        if isinstance(d, IndexRaBitQ):
            orig = d
            super().__init__(orig.d, orig.metric_type)
            self._begin(orig.d, orig.metric_type, 32 if metric == METRIC_L2 else metric, orig.rabitq.nb_bits)
            self.qb, self.centered, self.center = orig.qb, orig.centered, orig.center
            self._take_from(orig)
            return
        super().__init__(d or 0, metric)
        if d is not None:
            check(d > 0, "Dimension must be positive, got {}", d)
            self._begin(d, metric, bbs, nb_bits)

    def _begin(self, d: int, metric: int, bbs: int, nb_bits: int) -> None:
        check(metric in (0, 1), "RaBitQ FastScan only supports L2 and Inner Product metrics")
        self.rabitq = RaBitQuantizer(d, metric, nb_bits)
        self._init_fastscan(d, (d + 3) // 4, 4, metric, bbs)
        self._sized()
        self.center.tensor = torch.zeros(d, device=self.device)

    def _train(self, x: Tensor) -> None:
        self.center.tensor = mean_in_order(x)
        self.is_trained = True

    def _sa_encode(self, x: Tensor) -> Tensor:
        return self.rabitq._coded(x, self.center.tensor)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self.rabitq._uncoded(codes, self.center.tensor)

    def _as_rows(self) -> Ragged:
        kept: Any = self.__dict__["_unpacked"]
        if kept is None:
            kept = self._unpacked = rows.as_lists(self._all_codes())
        lists: Ragged = kept
        return lists

    def _codec(self, filtered: bool) -> RaBitQ:
        _check_qb(self.qb)
        return RaBitQ(self.rabitq._coder(self.center.tensor.view(1, -1), self.qb, self.centered, filtered))

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        return rows.top(self._codec(True), x, self._as_rows(), k, None)


@dataclass(frozen=True)
class _Unblocked:
    """RaBitQ codes in lists of blocks, taken out of these first."""

    codec: RaBitQ
    unpacked: Callable[[], Ragged]

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> None:
        return None

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        return self.codec.top(x, keys, coarse, self.unpacked(), k, options)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        return self.codec.within(x, keys, coarse, self.unpacked(), radius, options)


class IndexIVFRaBitQFastScan(_RaBitQBlocks, IndexIVFFastScan):
    """Lists of RaBitQ codes around the lists' centroids, in blocks."""

    _caches = ("_unpacked",)

    rabitq = child(RaBitQuantizer, "makes the codes")
    centered = boolean(False, "queries are rounded symmetrically around 0")
    qb = byte(8, "bits that queries are rounded to")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        metric: int = METRIC_L2,
        bbs: int = 32,
        own_invlists: bool = True,
        nb_bits: int = 1,
    ) -> None:
        if isinstance(quantizer, IndexIVFRaBitQ):
            orig = quantizer
            super().__init__(orig.quantizer, orig.d, orig.nlist, 0, orig.metric_type, True)
            self._begin(orig.d, orig.metric_type, d or 32, orig.rabitq.nb_bits)
            self._take_from(orig)
            self.qb = orig.qb
        else:
            super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
            if quantizer is not None:
                self._begin(d, metric, bbs, nb_bits)
        self.by_residual = True

    def _begin(self, d: int, metric: int, bbs: int, nb_bits: int) -> None:
        self.rabitq = RaBitQuantizer(d, metric, nb_bits)
        self._init_fastscan((d + 3) // 4, 4, bbs)
        self._sized()

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        self.is_trained = True

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        codes = self.rabitq._coded(x, self._coarse()._reconstruct(list_nos.clamp(min=0)))
        return codes.masked_fill((list_nos < 0)[:, None], 0)

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        return self.rabitq._uncoded(codes, self._coarse()._reconstruct(list_nos))

    def _rows(self) -> Ragged:
        """The lists with their codes taken out of the blocks."""
        lists, kept = self._lists(), self.__dict__["_unpacked"]
        if kept is None or kept[0] != (id(lists), lists._stamp()):
            held = lists._ragged()
            self._unpacked = kept = (id(lists), lists._stamp()), Ragged(held.codes[:], held.ids, held.offsets, held.sizes)
        unpacked: Ragged = kept[1]
        return unpacked

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        asked: Any = params if isinstance(params, IVFRaBitQSearchParameters) else self
        _check_qb(asked.qb)
        return _Unblocked(RaBitQ(self.rabitq._coder(self._centers(), asked.qb, asked.centered)), self._rows)

    def compute_codes(self, codes: Any, n: int, x: Any, list_nos: Any) -> None:
        """Write the codes of n vectors that go to lists."""
        behind(codes, n, self.code_size).copy_(self._encode_vectors(behind(x, n, self.d), behind(list_nos, n)))


__all__ = ["CodePackerRaBitQ", "IndexIVFRaBitQFastScan", "IndexRaBitQFastScan"]
