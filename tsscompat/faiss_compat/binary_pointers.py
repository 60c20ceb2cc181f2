"""FAISS's C signatures of binary indexes (`add_c(n, swig_ptr(x))` and so on), for ported code that hands addresses on."""

from __future__ import annotations

from typing import Any

import torch

from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.pointers import behind


class BinaryPointerMethods:
    """The `_c` and `_ex` twins of IndexBinary's methods."""

    def train_c(self: Any, n: int, x: Any) -> None:
        self.train(behind(x, n, self.code_size))

    def add_c(self: Any, n: int, x: Any) -> None:
        self.add(behind(x, n, self.code_size))

    def add_with_ids_c(self: Any, n: int, x: Any, xids: Any) -> None:
        self.add_with_ids(behind(x, n, self.code_size), behind(xids, n))

    def search_c(self: Any, n: int, x: Any, k: int, distances: Any, labels: Any, params: Any = None) -> None:
        found = self.search(behind(x, n, self.code_size), k, params=params)
        behind(distances, n, k).copy_(found[0])
        behind(labels, n, k).copy_(found[1])

    def assign_c(self: Any, n: int, x: Any, labels: Any, k: int = 1) -> None:
        self.assign(behind(x, n, self.code_size), k, behind(labels, n, k))

    def range_search_c(self: Any, n: int, x: Any, radius: int, result: Any, params: Any = None) -> None:
        result.fill(*self.range_search(behind(x, n, self.code_size), radius, params=params))

    def reconstruct_c(self: Any, key: int, recons: Any) -> None:
        behind(recons, 1, self.code_size).copy_(self._reconstruct(torch.tensor([key], device=self.device)))

    def reconstruct_n_c(self: Any, i0: int, ni: int, recons: Any) -> None:
        self.reconstruct_n(i0, ni, behind(recons, ni, self.code_size))

    def remove_ids_c(self: Any, sel: Any) -> int:
        return int(self.remove_ids(sel))

    def _bytes(self: Any, what: str, numeric_type: int) -> None:
        check(numeric_type == enums.UInt8, "IndexBinary::{}: unsupported numeric type", what)

    def train_ex(self: Any, n: int, x: Any, numeric_type: int) -> None:
        self._bytes("train", numeric_type)
        self.train_c(n, x)

    def add_ex(self: Any, n: int, x: Any, numeric_type: int) -> None:
        self._bytes("add", numeric_type)
        self.add_c(n, x)

    def add_with_ids_ex(self: Any, n: int, x: Any, numeric_type: int, xids: Any) -> None:
        self._bytes("add_with_ids", numeric_type)
        self.add_with_ids_c(n, x, xids)

    def search_ex(self: Any, n: int, x: Any, numeric_type: int, k: int, distances: Any, labels: Any, params: Any = None) -> None:
        self._bytes("search", numeric_type)
        self.search_c(n, x, k, distances, labels, params)

    def add_sa_codes(self: Any, n: int, codes: Any, xids: Any) -> None:
        """Add n codes, with ids or None, from behind pointers."""
        ids = None if xids is None else behind(xids, n).to(self.device)
        self._add_sa_codes(behind(codes, n, self.code_size).to(self.device), ids)
