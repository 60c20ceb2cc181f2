"""Wrappers of binary indexes: ids of the caller's, shards, replicas."""

from __future__ import annotations

from torch import Tensor

from tsscompat.faiss_compat.binary import IndexBinary
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.idmap import IDMapped, ReverseMapped
from tsscompat.faiss_compat.meta import Replicated, Sharded, Threaded
from tsscompat.kernels.hamming import WORST
from tsscompat.kernels.select import merge


class IndexBinaryIDMap(IDMapped, IndexBinary):
    """A binary index whose codes have ids of the caller's."""

    def __init__(self, index: IndexBinary | None = None) -> None:
        super().__init__(0 if index is None else index.d, METRIC_L2 if index is None else index.metric_type)
        if index is not None:
            self._over(index)


class IndexBinaryIDMap2(ReverseMapped, IndexBinaryIDMap):
    """An IndexBinaryIDMap that also finds a code by its id."""


class ThreadedIndexBaseBinary(Threaded, IndexBinary):
    """A binary index of binary indexes."""

    def _measured(self, d: int) -> None:
        self.d, self.code_size = d, d // 8


class IndexBinaryShards(Sharded, ThreadedIndexBaseBinary):
    """Shards of binary codes."""

    def _best(self, distances: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        # Distances are below 2^24, so that float32 holds them exactly.
        best, ids = merge(distances.float(), labels, k, False)
        return best.masked_fill(ids < 0, 0).int().masked_fill(ids < 0, WORST), ids


class IndexBinaryReplicas(Replicated, ThreadedIndexBaseBinary):
    """Replicas of binary codes."""


__all__ = ["IndexBinaryIDMap", "IndexBinaryIDMap2", "IndexBinaryReplicas", "IndexBinaryShards", "ThreadedIndexBaseBinary"]
