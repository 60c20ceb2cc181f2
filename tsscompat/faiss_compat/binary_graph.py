"""HNSW over binary codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import boolean, child, integer
from tsscompat.faiss_compat.binary import IndexBinary, IndexBinaryFlat
from tsscompat.faiss_compat.graph import HNSW, Layered
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersHNSW
from tsscompat.faiss_compat.pointers import behind
from tsscompat.kernels import graph as kernel
from tsscompat.kernels.hamming import WORST, hamming
from tsscompat.kernels.metrics import HAMMING


def as_floats(codes: Tensor) -> Tensor:
    """Codes filled up to whole words of 8 bytes and taken for floats, as walks of a graph take rows."""
    missing = -codes.shape[1] % 8
    return (torch.nn.functional.pad(codes, (0, missing)) if missing else codes.contiguous()).view(torch.float32)


class BinaryDistanceComputer:
    """The Hamming distance of a query, set beforehand, to the codes of an index, by number."""

    def __init__(self, index: IndexBinary) -> None:
        self.index = index
        self._query = torch.zeros(1, index.code_size, dtype=torch.uint8, device=index.device)

    def set_query(self, x: Any) -> None:
        """The query of the calls that follow."""
        self._query = behind(x, 1, self.index.code_size).to(self.index.device)

    def _code(self, i: int) -> Tensor:
        return self.index._reconstruct(torch.tensor([i], device=self.index.device))

    def __call__(self, i: int) -> float:
        """The query's distance to code i."""
        return float(hamming(self._query, self._code(i))[0, 0])

    def symmetric_dis(self, i: int, j: int) -> float:
        """The distance between codes i and j."""
        return float(hamming(self._code(i), self._code(j))[0, 0])


class IndexBinaryHNSW(Layered, IndexBinary):
    """A graph over the codes of `storage`, an IndexBinaryFlat."""

    _caches = ("_floats",)

    own_fields = boolean(False)
    storage = child(None, "holds the codes")

    def __init__(self, first: IndexBinary | int = 0, M: int = 32) -> None:
        given = first if isinstance(first, IndexBinary) else None
        super().__init__(first.d if isinstance(first, IndexBinary) else first)
        self.hnsw = HNSW(M)
        if given is not None:
            self.storage = given
            self.__dict__["_device"], self.__dict__["_gpu"] = given.device, given.getDevice()
        elif self.d:
            self.storage, self.own_fields = IndexBinaryFlat(self.d), True

    def _flat(self) -> IndexBinaryFlat:
        storage: Any = self.storage
        check(isinstance(storage, IndexBinaryFlat), "IndexBinaryHNSW requires IndexBinaryFlat storage")
        flat: IndexBinaryFlat = storage
        return flat

    def _scale(self) -> tuple[int, float]:
        return HAMMING, 0.0

    def _vectors(self) -> Tensor:
        """The codes as floats, the same tensor until something is added."""
        codes, kept = self._flat().xb, self.__dict__["_floats"]
        if kept is None or kept[0] is not codes._buffer or kept[1] != codes._n:
            kept = self._floats = codes._buffer, codes._n, as_floats(self._flat()._rows)
        floats: Tensor = kept[2]
        return floats

    def get_distance_computer(self) -> BinaryDistanceComputer:
        """Distances to single codes, for a query set on it."""
        return BinaryDistanceComputer(self._flat())

    def _train(self, x: Tensor) -> None:
        self._flat()._train(x)
        self.is_trained = True

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        first, storage = self.ntotal, self._flat()
        if not x.shape[0]:
            return
        storage._add(x, None)
        self.ntotal = storage.ntotal
        self._drop_caches()
        self._link(first, self.hnsw.levels.size() == self.ntotal)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        return self._counted(x, k, params, None)

    def _counted(self, x: Tensor, k: int, params: SearchParameters | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        right = params is None or isinstance(params, SearchParametersHNSW)
        check(right, "IndexBinaryHNSW params have incorrect type: {}", type(params).__name__)
        distances, labels = self._found(as_floats(x), k, params, starts)
        missing = labels < 0
        return distances.masked_fill(missing, 0).int().masked_fill(missing, WORST), labels

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self._flat()._reconstruct(keys)

    def _reset(self) -> None:
        self.hnsw.reset()
        self._flat()._reset()
        self.ntotal = 0
        self._drop_caches()


class IndexBinaryHNSWCagra(IndexBinaryHNSW):
    """A graph whose bottom level may have been made elsewhere; walks of it begin at random nodes."""

    base_level_only = boolean(False, "there is only the bottom level")
    num_base_level_search_entrypoints = integer(32, "random nodes of which walks begin at the best")

    def __init__(self, d: int = 0, M: int = 32) -> None:
        super().__init__(d, M)
        self.keep_max_size_level0 = bool(d)

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        check(not self.base_level_only, "Cannot add vectors when base_level_only is set to True")
        super()._add(x, ids)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        if not self.base_level_only:
            return super()._search(x, k, params)
        check(self.ntotal > 0, "IndexBinaryHNSWCagra: cannot search empty index")
        wanted = self.num_base_level_search_entrypoints
        check(wanted > 0, "num_base_level_search_entrypoints must be > 0, got {}", wanted)
        drawn = torch.randint(self.ntotal, (x.shape[0], wanted), device=x.device)
        costs = kernel._costs(as_floats(x), self._vectors(), drawn, HAMMING, 0.0)
        return self._counted(x, k, params, drawn.gather(1, costs.argmin(1, keepdim=True)))


__all__ = ["IndexBinaryHNSW", "IndexBinaryHNSWCagra"]
