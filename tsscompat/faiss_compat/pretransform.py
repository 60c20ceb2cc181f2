"""IndexPreTransform: an index behind a chain of vector transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tsscompat.arrays import Array, arrays_of, from_numpy, rows
from tsscompat.errors import check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import boolean, child, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.computers import DistanceComputer
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersPreTransform
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.faiss_compat.vectors import ObjectVector


class VectorTransformVector(ObjectVector):
    """std::vector of transforms."""


def _inner(params: SearchParameters | None) -> SearchParameters | None:
    """Parameters of the index behind the transforms: wrapped ones, or given for it directly."""
    if not isinstance(params, SearchParametersPreTransform):
        return params
    inner: SearchParameters | None = params.index_params
    return inner


class _Transformed(DistanceComputer):
    """Distances within an index whose queries come before the transforms."""

    def __init__(self, index: Any, d: int, apply: Callable[[Tensor], Tensor]) -> None:
        super().__init__(index)
        self._d, self._apply = d, apply

    def set_query(self, x: Any) -> None:
        self._query = self._apply(behind(x, 1, self._d).to(self.index.device))[0]


class IndexPreTransform(Index):
    """Vectors go through the chain, then to the index."""

    chain = vector(VectorTransformVector, "transforms, first applied first")
    index = child(None, "the index behind them")
    own_fields = boolean(False)

    def __init__(self, first: Any = None, index: Index | None = None) -> None:
        inner = first if index is None else index
        super().__init__(0 if inner is None else inner.d, METRIC_L2 if inner is None else inner.metric_type)
        if inner is None:
            return
        self.index, self.is_trained, self.ntotal, self.metric_arg = inner, inner.is_trained, inner.ntotal, inner.metric_arg
        self.__dict__["_device"], self.__dict__["_gpu"] = inner.device, inner.getDevice()
        if index is not None:
            self.prepend_transform(first)

    def prepend_transform(self, ltrans: Any) -> None:
        """Put a transform before all others."""
        check(ltrans.d_out == self.d, "a transform to dimension {} before one from {}", ltrans.d_out, self.d)
        self.is_trained = self.is_trained and ltrans.is_trained
        self.chain.items.insert(0, ltrans)
        self.d = ltrans.d_in

    def _apply(self, x: Tensor) -> Tensor:
        for step in self.chain:
            x = step._apply(x)
        return x.contiguous()

    def apply_chain(self, n: Any = None, x: Any = None) -> Any:
        """What the index behind gets for some vectors: of an array an array, of (count, address) an address."""
        if isinstance(n, int):
            return Pointer(self._apply(behind(x, n, self.d).to(self.device)))
        batch = rows(n if x is None else x, self.d, self.device)
        return batch.give_back(self._apply(batch.tensor))

    def reverse_chain(self, n: Any = None, xt: Any = None, x: Any = None) -> Any:
        """Vectors of which the index behind would get these: of an array an array; (count, address, address) fills the second."""
        if isinstance(n, int):
            behind(x, n, self.d).copy_(self._back(behind(xt, n, self.index.d).to(self.device)))
            return None
        given, out = (xt, x) if n is None else (n, xt)
        batch = rows(given, self.index.d, self.device)
        return batch.give_back(self._back(batch.tensor), out)

    def _back(self, x: Tensor) -> Tensor:
        for step in reversed(self.chain.items):
            x = step._reverse(x)
        return x

    def _train(self, x: Tensor) -> None:
        last = max((i for i, step in enumerate(self.chain) if not step.is_trained), default=-1)
        if not self.index.is_trained:
            last = len(self.chain)
        for i, step in enumerate(self.chain):
            if i > last:
                break
            if not step.is_trained:
                if self.verbose:
                    print(f"   Training chain component {i}/{len(self.chain)}")
                step._train(x)
            if i < last:
                x = step._apply(x).contiguous()
        if last == len(self.chain):
            self.index._train(x)
        self.is_trained = True

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self.index._add(self._apply(x), None)
        self.ntotal = self.index.ntotal

    def _add_with_ids(self, x: Tensor, ids: Tensor) -> None:
        self.index._add_with_ids(self._apply(x), ids)
        self.ntotal = self.index.ntotal

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        if not self.index.is_trained or not self.index._add_few(self._apply(from_numpy(x)).numpy(), ids):
            return False
        self.ntotal = self.index.ntotal
        return True

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        if self.device.type != "cpu" or not self.is_trained:
            return None
        transformed = self._apply(from_numpy(x))
        found = self.index._search_arrays(transformed.numpy(), k)
        return arrays_of(self.index._search(transformed, k, None)) if found is None else found

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "IndexPreTransform must be trained before it is searched")
        found: tuple[Tensor, Tensor] = self.index._search(self._apply(x), k, _inner(params))
        return found

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        check(self.is_trained, "IndexPreTransform must be trained before it is searched")
        found: tuple[Tensor, Tensor, Tensor] = self.index._range_search(self._apply(x), radius, _inner(params))
        return found

    def _search_and_reconstruct(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        distances, labels, vectors = self.index._search_and_reconstruct(self._apply(x), k, _inner(params))
        return distances, labels, self._back(vectors.view(-1, self.index.d)).view(*labels.shape, self.d)

    def get_distance_computer(self) -> DistanceComputer:
        """Distances to single vectors, for a query set on it."""
        return _Transformed(self.index, self.d, self._apply)

    def _reset(self) -> None:
        self.index._reset()
        self.ntotal = 0

    def _remove(self, sel: IDSelector) -> int:
        removed = int(self.index._remove(sel))
        self.ntotal = self.index.ntotal
        return removed

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self._back(self.index._reconstruct(keys))

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._back(self.index._reconstruct_n(n0, ni))

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        self.index._update_vectors(keys, self._apply(x))

    def _sa_code_size(self) -> int:
        return int(self.index._sa_code_size())

    def _sa_encode(self, x: Tensor) -> Tensor:
        codes: Tensor = self.index._sa_encode(self._apply(x))
        return codes

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self._back(self.index._sa_decode(codes))

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        self.index._add_sa_codes(codes, ids)
        self.ntotal = self.index.ntotal

    def _check_compatible_for_merge(self, other: Index) -> None:
        check(isinstance(other, IndexPreTransform), "cannot merge a {} into an IndexPreTransform", type(other).__name__)
        assert isinstance(other, IndexPreTransform)
        check(len(other.chain) == len(self.chain), "chains of {} and {} transforms", len(self.chain), len(other.chain))
        for mine, theirs in zip(self.chain, other.chain):
            mine.check_identical(theirs)
        self.index._check_compatible_for_merge(other.index)

    def _merge_from(self, other: Any, add_id: int) -> None:
        self.index._merge_from(other.index, add_id)
        self.ntotal, other.ntotal = self.index.ntotal, other.index.ntotal


__all__ = ["IndexPreTransform", "VectorTransformVector"]
