"""ProductAdditiveQuantizer and its two kinds: parts of a vector, each with an additive quantizer of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.additive import Codebooks
from tsscompat.algorithms.blocks import squared_norms
from tsscompat.errors import check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.attributes import size_t, vector
from tsscompat.faiss_compat.local_search import LocalSearchQuantizer
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.residual import ResidualQuantizer
from tsscompat.faiss_compat.vectors import ObjectVector


class ProductAdditiveQuantizer(AdditiveQuantizer):
    """Additive quantizers side by side; their codebooks follow one another, each of its own quantizer's dimension."""

    nsplits = size_t(0, "parts of a vector")
    quantizers = vector(ObjectVector, "one for each part")

    def __init__(self, d: int = 0, aqs: Iterable[AdditiveQuantizer] = (), search_type: int = 0) -> None:
        super().__init__()
        self.init(d, aqs, search_type)

    def init(self, d: int, aqs: Iterable[AdditiveQuantizer], search_type: int) -> None:
        """Take copies of additive quantizers as the parts'."""
        check(not len(self.quantizers), "the quantizers are set already")
        own = [copy.deepcopy(aq) for aq in aqs]
        self.d, self.search_type, self.nsplits = d, search_type, len(own)
        self.quantizers = own
        self.nbits = [bits for aq in own for bits in aq._sizes]
        self.M = self.nbits.size()
        self.set_derived_values()

    def subquantizer(self, m: int) -> Any:
        """The quantizer of a part."""
        return self.quantizers[m]

    def _gathered(self) -> Codebooks:
        # Zero outside their part, the codebooks of the parts are those of one additive quantizer.
        table = torch.zeros(self.total_codebook_size, self.d, device=self.device)
        at = row = column = 0
        wanted = sum(aq.total_codebook_size * aq.d for aq in self.quantizers)
        check(self.codebooks.size() >= wanted, "codebooks of {} numbers, expected {}", self.codebooks.size(), wanted)
        for aq in self.quantizers:
            size = aq.total_codebook_size
            own = self.codebooks.tensor[at : at + size * aq.d].view(size, aq.d)
            table[row : row + size, column : column + aq.d] = own
            at, row, column = at + size * aq.d, row + size, column + aq.d
        return Codebooks(table, self._sizes)

    def _train(self, x: Tensor) -> None:
        if self.is_trained:
            return
        for aq, part in zip(self.quantizers, self._split(x)):
            aq._train(part)
        self.codebooks.tensor = torch.cat([aq.codebooks.tensor for aq in self.quantizers])
        self.is_trained = True
        self._train_norm(squared_norms(self._sums(self._parts(x)[0])))

    def _split(self, x: Tensor) -> list[Tensor]:
        return [part.contiguous() for part in x.split([aq.d for aq in self.quantizers], 1)]

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        found = []
        for aq, part in zip(self.quantizers, self._split(x)):
            aq._needs_training()
            found.append(aq._parts(part)[0])
        return torch.cat(found, 1), None

    def compute_unpacked_codes(self, x: Any, codes: Any, n: int, centroids: Any = None) -> None:
        """The entries' numbers (n, M) of vectors, as int32."""
        behind(codes, n, self.M).copy_(self._parts(behind(x, n, self.d).to(self.device))[0])


def _alike(kind: type, d: int, nsplits: int, Msub: int, nbits: int) -> list[Any]:
    check(nsplits == 0 or d % nsplits == 0, "dimension {} does not split into {} equal parts", d, nsplits)
    return [kind(d // nsplits, Msub, nbits) for _ in range(nsplits)]


class ProductResidualQuantizer(ProductAdditiveQuantizer):
    """Residual quantizers side by side."""

    def __init__(self, d: int = 0, nsplits: int = 0, Msub: int = 0, nbits: int = 0, search_type: int = 0) -> None:
        super().__init__(d, _alike(ResidualQuantizer, d, nsplits, Msub, nbits), search_type)


class ProductLocalSearchQuantizer(ProductAdditiveQuantizer):
    """Local search quantizers side by side."""

    def __init__(self, d: int = 0, nsplits: int = 0, Msub: int = 0, nbits: int = 0, search_type: int = 0) -> None:
        super().__init__(d, _alike(LocalSearchQuantizer, d, nsplits, Msub, nbits), search_type)


__all__ = ["ProductAdditiveQuantizer", "ProductLocalSearchQuantizer", "ProductResidualQuantizer"]
