"""FAISS's C signatures (`add_c(n, swig_ptr(x))` and so on), for ported code that hands addresses on.

Each takes what swig_ptr gave, makes arrays of it and calls the Python method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.vector_arrays import swig_ptr


def behind(pointer: Any, *shape: int) -> Tensor:
    """The array behind a pointer, in a shape."""
    n = 1
    for s in shape:
        n *= int(s)
    return swig_ptr(pointer).take(n).view(*[int(s) for s in shape])


def _typed(pointer: Any, n: int, d: int, numeric_type: int) -> Tensor:
    """Vectors behind a pointer, of the type that the caller says they have."""
    given = behind(pointer, n, d)
    dtype = {enums.Float32: torch.float32, enums.Float16: torch.float16, enums.Int8: torch.int8}.get(numeric_type)
    check(dtype is not None, "there is no numeric type {}", numeric_type)
    return given.view(dtype) if given.dtype.itemsize == dtype.itemsize else given  # type: ignore[union-attr, arg-type]


class PointerMethods:
    """The `_c` twins of Index's methods."""

    d: int

    def train_c(self: Any, n: int, x: Any) -> None:
        self.train(behind(x, n, self.d))

    def add_c(self: Any, n: int, x: Any) -> None:
        self.add(behind(x, n, self.d))

    def add_with_ids_c(self: Any, n: int, x: Any, xids: Any) -> None:
        self.add_with_ids(behind(x, n, self.d), behind(xids, n))

    def search_c(self: Any, n: int, x: Any, k: int, distances: Any, labels: Any, params: Any = None) -> None:
        self.search(behind(x, n, self.d), k, params=params, D=behind(distances, n, k), I=behind(labels, n, k))

    def train_ex(self: Any, n: int, x: Any, numeric_type: int) -> None:
        self.train(_typed(x, n, self.d, numeric_type), numeric_type=numeric_type)

    def add_ex(self: Any, n: int, x: Any, numeric_type: int) -> None:
        self.add(_typed(x, n, self.d, numeric_type), numeric_type)

    def add_with_ids_ex(self: Any, n: int, x: Any, numeric_type: int, xids: Any) -> None:
        self.add_with_ids(_typed(x, n, self.d, numeric_type), behind(xids, n), numeric_type)

    def search_ex(self: Any, n: int, x: Any, numeric_type: int, k: int, distances: Any, labels: Any, params: Any = None) -> None:
        given = _typed(x, n, self.d, numeric_type)
        self.search(given, k, params=params, D=behind(distances, n, k), I=behind(labels, n, k), numeric_type=numeric_type)

    def train_with_queries(self: Any, n: int, x: Any, n_train_q: int, xq_train: Any) -> None:
        self.train(behind(x, n, self.d), xq_train=behind(xq_train, n_train_q, self.d))

    def assign_c(self: Any, n: int, x: Any, labels: Any, k: int = 1) -> None:
        self.assign(behind(x, n, self.d), k, labels=behind(labels, n, k))

    def range_search_c(self: Any, n: int, x: Any, radius: float, result: Any, params: Any = None) -> None:
        result.fill(*self.range_search(behind(x, n, self.d), radius, params=params))

    def reconstruct_c(self: Any, key: int, recons: Any) -> None:
        self.reconstruct(key, behind(recons, self.d))

    def reconstruct_batch_c(self: Any, n: int, keys: Any, recons: Any) -> None:
        self.reconstruct_batch(behind(keys, n), behind(recons, n, self.d))

    def reconstruct_n_c(self: Any, i0: int, ni: int, recons: Any) -> None:
        self.reconstruct_n(i0, ni, behind(recons, ni, self.d))

    def search_and_reconstruct_c(
        self: Any, n: int, x: Any, k: int, distances: Any, labels: Any, recons: Any, params: Any = None
    ) -> None:
        self.search_and_reconstruct(
            behind(x, n, self.d),
            k,
            params=params,
            D=behind(distances, n, k),
            I=behind(labels, n, k),
            R=behind(recons, n, k, self.d),
        )

    def search_subset(self: Any, n: int, x: Any, k_base: int, base_labels: Any, k: int, distances: Any, labels: Any) -> None:
        """The k best of k_base candidates given for each of n vectors."""
        given = behind(base_labels, n, k_base).to(self.device)
        found = self._search_subset(behind(x, n, self.d).to(self.device), given, int(k))
        behind(distances, n, k).copy_(found[0])
        behind(labels, n, k).copy_(found[1])

    def compute_residual(self: Any, x: Any, residual: Any, key: int) -> None:
        """What a vector differs by from the one with an id."""
        self.compute_residual_n(1, x, residual, torch.tensor([int(key)]))

    def compute_residual_n(self: Any, n: int, xs: Any, residuals: Any, keys: Any) -> None:
        """What n vectors differ by from those with some ids."""
        near = self._reconstruct(behind(keys, n).to(self.device))
        behind(residuals, n, self.d).copy_(behind(xs, n, self.d).to(self.device) - near)

    def remove_ids_c(self: Any, sel: Any) -> int:
        return int(self.remove_ids(sel))

    def update_vectors_c(self: Any, nv: int, idx: Any, v: Any) -> None:
        self.update_vectors(behind(idx, nv), behind(v, nv, self.d))

    def sa_encode_c(self: Any, n: int, x: Any, bytes: Any) -> None:
        self.sa_encode(behind(x, n, self.d), behind(bytes, n, self.sa_code_size()))

    def sa_decode_c(self: Any, n: int, bytes: Any, x: Any) -> None:
        self.sa_decode(behind(bytes, n, self.sa_code_size()), behind(x, n, self.d))

    def add_sa_codes_c(self: Any, n: int, codes: Any, xids: Any = None) -> None:
        self.add_sa_codes(behind(codes, n, self.sa_code_size()), None if xids is None else behind(xids, n))
