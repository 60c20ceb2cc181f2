"""Codecs that scale each vector to 0..1 before another index encodes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.blocks import in_blocks
from tsscompat.algorithms.rowwise import restored, scaled
from tsscompat.arrays import Array, rows
from tsscompat.faiss_compat.attributes import boolean, child
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.pointers import behind
from tsscompat.kernels.bits import tail


class IndexRowwiseMinMaxBase(Index):
    """A codec: nothing can be added or searched."""

    index = child(None, "encodes the scaled vectors")
    own_fields = boolean(False)

    _stored = torch.float32

    def __init__(self, index: Any = None) -> None:
        super().__init__(0 if index is None else index.d, 1 if index is None else index.metric_type)
        self.index = index

    def _before(self) -> int:
        """Bytes of a range and a least number."""
        return 2 * self._stored.itemsize

    def _train(self, x: Tensor) -> None:
        self.index._train(scaled(x, self._stored)[0])

    def train_inplace(self, x: Array) -> None:
        """Train like `train`, writing x anew as it comes back from scaling, rounded."""
        given = rows(x, self.d, self.device).tensor
        small, limits = scaled(given, self._stored)
        self.index._train(small)
        given.copy_(restored(small, limits))

    def train_inplace_c(self, n: int, x: Any) -> None:
        self.train_inplace(behind(x, n, self.d))

    def _sa_code_size(self) -> int:
        return int(self.index._sa_code_size()) + self._before()

    def _coded(self, x: Tensor) -> Tensor:
        small, limits = scaled(x, self._stored)
        return torch.cat([limits.view(torch.uint8), self.index._sa_encode(small)], 1)

    def _sa_encode(self, x: Tensor) -> Tensor:
        return in_blocks(self._coded, x, width=self.d)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        limits = tail(codes[:, : self._before()], 0).view(self._stored)
        return restored(self.index._sa_decode(tail(codes, self._before())), limits)


class IndexRowwiseMinMax(IndexRowwiseMinMaxBase):
    """Ranges and least numbers in single precision."""


class IndexRowwiseMinMaxFP16(IndexRowwiseMinMaxBase):
    """Ranges and least numbers in half precision."""

    _stored = torch.float16


__all__ = ["IndexRowwiseMinMax", "IndexRowwiseMinMaxBase", "IndexRowwiseMinMaxFP16"]
