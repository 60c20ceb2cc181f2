"""IndexSplitVectors, whose sub-indexes hold parts of the vectors, and IndexRandom, which answers at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import boolean, child, int64
from tsscompat.faiss_compat.base import Index, check_keys
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.vectors import ObjectVector
from tsscompat.kernels.metrics import is_similarity


class IndexSplitVectors(Index):
    """Finds the nearest of all combinations of the sub-indexes' vectors: of each sub-index the nearest."""

    own_fields = boolean(False)
    threaded = boolean(False, "accepted: kernels have threads of their own")
    sub_indexes = child(ObjectVector, "indexes of consecutive dimensions")
    sum_d = int64(0, "their dimensions together")

    def __init__(self, d: int = 0, threaded: bool = False) -> None:
        super().__init__(d)
        self.threaded = threaded

    def add_sub_index(self, index: Any) -> None:
        """Add an index of the dimensions that come next."""
        self.sub_indexes.push_back(index)
        self.sync_with_sub_indexes()

    def sync_with_sub_indexes(self) -> None:
        """Take metric, size and training from the sub-indexes, which must agree."""
        parts = list(self.sub_indexes)
        if not parts:
            return
        first = parts[0]
        check(all(part.metric_type == first.metric_type for part in parts), "the sub-indexes differ in metric")
        check(all(part.ntotal == first.ntotal for part in parts), "the sub-indexes differ in size")
        self.sum_d = sum(part.d for part in parts)
        self.metric_type, self.is_trained, self.ntotal = first.metric_type, first.is_trained, first.ntotal

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        check(k == 1, "search implemented only for k=1, got {}", k)
        check(self.sum_d == self.d, "the sub-indexes have {} of {} dimensions", self.sum_d, self.d)
        distances, labels = (
            torch.zeros(x.shape[0], 1, device=x.device),
            torch.zeros(x.shape[0], 1, dtype=torch.int64, device=x.device),
        )
        start, factor, known = 0, 1, torch.ones_like(labels, dtype=torch.bool)
        for part in self.sub_indexes:
            found = part._search(x[:, start : start + part.d].contiguous(), 1, None)
            distances, labels, known = distances + found[0], labels + factor * found[1], known & (found[1] >= 0)
            start, factor = start + part.d, factor * part.ntotal
        return torch.where(known, distances, float("nan")), torch.where(known, labels, -1)


class IndexRandom(Index):
    """Answers with vectors drawn at random, the same for the same query; made to time what is around it."""

    seed = int64(1234)

    def __init__(self, d: int = 0, ntotal: int = 0, seed: int = 1234, mt: int = METRIC_L2) -> None:
        super().__init__(d, mt)
        self.ntotal, self.seed = ntotal, seed

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self.ntotal += x.shape[0]

    def _reset(self) -> None:
        self.ntotal = 0

    def _drawn(self, words: list[int], k: int) -> tuple[list[int], list[float]]:
        checksum = 112909
        for word in reversed(words):
            checksum = (checksum * 65713 + (word & 0xFFFFFFFF) * 1686049) % (1 << 64)
        rng, chosen = RandomGenerator((self.seed + checksum) & 0xFFFFFFFF), list[int]()
        while len(chosen) < k:
            i = rng.rand_int64() % self.ntotal
            if i not in chosen:
                chosen.append(i)
        step = -1.0 if is_similarity(self.metric_type) else 1.0
        return chosen, [step * rng.rand_float() for _ in range(k)]

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        check(k <= self.ntotal, "{} results of {} vectors", k, self.ntotal)
        found = [self._drawn(words, k) for words in x.view(torch.int32).tolist()]
        labels = torch.tensor([f[0] for f in found], dtype=torch.int64, device=x.device).view(-1, k)
        steps = torch.tensor([f[1] for f in found], dtype=torch.float32, device=x.device).view(-1, k)
        return steps.cumsum(1), labels

    def _reconstruct(self, keys: Tensor) -> Tensor:
        drawn = []
        for key in check_keys(keys, self.ntotal).tolist():
            rng = RandomGenerator((self.seed + 123332 + key) & 0xFFFFFFFF)
            drawn.append([rng.rand_float() for _ in range(self.d)])
        return torch.tensor(drawn, device=keys.device).view(-1, self.d)


__all__ = ["IndexRandom", "IndexSplitVectors"]
