"""Wrappers: modules around a searcher that change its queries, its labels, or the order of its answers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tsscompat.modules.codecs import signs
from tsscompat.modules.distances import best_of
from tsscompat.modules.part import Part
from tsscompat.modules.searcher import Searcher


class Named(Searcher):
    """Labels are ids of the caller's."""

    SETTINGS = ("metric", "k")
    names: Tensor

    def __init__(self, index: Searcher, metric: int, k: int = 10) -> None:
        super().__init__(metric, k)
        self.index = index
        self.hold(names=torch.zeros(0, dtype=torch.int64))

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        distances, labels = self.index.found(queries, k, nprobe, efSearch)
        if self.names.shape[0] == 0:
            return distances, labels
        return distances, torch.where(labels >= 0, self.names[labels.clamp(min=0)], -1)


class Transform(Part):
    """x to A (x - center) + b, with x - center made of norm 1 first where `unit`."""

    SETTINGS = ("unit", "linear")
    center: Tensor
    matrix: Tensor
    bias: Tensor

    def __init__(self, unit: bool = False, linear: bool = True) -> None:
        super().__init__()
        self.unit, self.linear = bool(unit), bool(linear)
        self.hold(center=torch.zeros(0), matrix=torch.zeros(0, 0), bias=torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() - self.center.float()
        if self.unit:
            squares = (x * x).sum(-1, keepdim=True)
            x = x * torch.where(squares > 0, 1 / torch.where(squares > 0, squares, 1.0).sqrt(), 1.0)
        return torch.addmm(self.bias.float(), x, self.matrix.float().t()) if self.linear else x


class Transformed(Searcher):
    """Queries pass a chain of transforms first."""

    SETTINGS = ("metric", "k")

    def __init__(self, chain: Sequence[Part], index: Searcher, metric: int, k: int = 10) -> None:
        super().__init__(metric, k)
        self.chain, self.index = nn.ModuleList(chain), index

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        x = queries.float()
        for transform in self.chain:
            x = transform(x)
        return self.index.found(x, k, nprobe, efSearch)


class Refined(Searcher):
    """One searcher proposes k * factor rows, the distances of another decide."""

    SETTINGS = ("metric", "k", "factor")

    def __init__(self, base: Searcher, refine: Searcher, metric: int, k: int = 10, factor: float = 1.0) -> None:
        super().__init__(metric, k)
        self.base, self.refine, self.factor = base, refine, float(factor)
        # A whole number, of 2 ** -30: torch.compile would make a symbol of a float, and no size can be that. From the digits that
        # float32 has, as FAISS's product of floats gives: ten times 1.3 are 13.
        self.proposals = math.ceil(float(f"{self.factor:.7g}") * (1 << 30))

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        labels = self.base.found(queries.detach(), (k * self.proposals) >> 30, nprobe, efSearch)[1]
        return best_of(self.refine.again(queries, labels), labels, k, self.metric)


class Binary(Searcher):
    """Queries are bytes, distances the number of bits that differ, int32."""

    SETTINGS = ("metric", "k", "nothing")

    def __init__(self, index: Searcher, metric: int, k: int = 10, nothing: int = 2**31 - 1) -> None:
        super().__init__(metric, k)
        self.index, self.nothing = index, int(nothing)

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        distances, labels = self.index.found(signs(queries), k, nprobe, efSearch)
        differing = torch.where(labels >= 0, distances / 4, 0.0).round().to(torch.int32)
        return torch.where(labels >= 0, differing, self.nothing), labels
