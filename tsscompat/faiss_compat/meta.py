"""Indexes made of whole indexes: shards, each with a part of the vectors, and replicas, each with all of them.

The parts may live on different devices. Queries go to each part's device, answers come back to the first part's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import Stated, boolean, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.ivf_coarse import IndexIVFInterface, Level1Quantizer
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.vectors import ObjectVector
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.select import merge

T = TypeVar("T")


def _raised(errors: list[tuple[int, Exception]]) -> None:
    """Raise what parts raised: a single error as it is, several as one that tells them all."""
    if len(errors) == 1:
        raise errors[0][1]
    if errors:
        raise FaissError("\n".join(f"Exception thrown from index {no}: {error}" for no, error in errors)) from errors[0][1]


class Threaded(Stated):
    """Indexes that are asked one after the other or, `threaded`, at once; of vectors or of binary codes."""

    d: Any
    ntotal: Any
    metric_type: Any
    is_trained: Any

    threaded = boolean(False, "ask the parts at once")
    own_indices = boolean(False)
    own_fields = boolean(False)
    indices_ = vector(ObjectVector, "the parts")

    def _measured(self, d: int) -> None:
        """Take on a dimension."""
        self.d = d

    def count(self) -> int:
        """How many parts there are."""
        return len(self.indices_)

    def at(self, i: int) -> Any:
        """A part."""
        return self.indices_.at(i)

    def addIndex(self, index: Any) -> None:
        """Take on a part; the first one gives the dimension where none was given."""
        if not self.count():
            self._measured(self.d or index.d)
            self.__dict__["_device"], self.__dict__["_gpu"] = index.device, index.getDevice()
        check(self.d == index.d, "addIndex: dimension mismatch for newly added index; expecting dim {}, got {}", self.d, index.d)
        for part in self.indices_:
            check(part is not index, "addIndex: attempting to add index that is already in the collection")
            check(part.metric_type == index.metric_type, "addIndex: newly added index is of different metric type than old index")
        self._check_part(index)
        self.indices_.push_back(index)
        self.syncWithSubIndexes()

    def removeIndex(self, index: Any) -> None:
        """Let go of a part."""
        kept = [part for part in self.indices_ if part is not index]
        check(len(kept) == self.count() - 1, "removeIndex: index not found")
        self.indices_.assign(kept)
        self.syncWithSubIndexes()

    def runOnIndex(self, f: Callable[[int, Any], T]) -> list[T]:
        """Call f(number, part) for each part; all are called even when one raises."""
        errors: list[tuple[int, Exception]] = []

        def call(no: int) -> Any:
            try:
                return f(no, self.at(no))
            except Exception as error:
                errors.append((no, error))
                return None

        numbers = range(self.count())
        if self.threaded and self.count() > 1:
            with ThreadPoolExecutor(self.count()) as pool:
                answers = list(pool.map(call, numbers))
        else:
            answers = [call(no) for no in numbers]
        _raised(sorted(errors, key=lambda e: e[0]))
        return answers

    def _told(self, part: Any, no: int, what: str, n: int) -> None:
        if part.verbose:
            print(f"{what} part {no} on {n} points")

    def _check_part(self, index: Any) -> None:
        """Raise unless an index can be a part."""
        if self.count():
            check(index.is_trained == self.at(0).is_trained, "newly added index does not have same train status as prior index")

    def syncWithSubIndexes(self) -> None:
        """Take over what the parts now hold."""
        if not self.count():
            self.is_trained, self.ntotal = False, 0
            return
        first = self.at(0)
        for part in self.indices_:
            same = (part.metric_type, part.d, part.is_trained) == (first.metric_type, first.d, first.is_trained)
            check(same, "the parts differ in metric, dimension or training")
        self._measured(first.d)
        self.metric_type, self.is_trained = first.metric_type, first.is_trained
        self.ntotal = self._total()

    def _total(self) -> int:
        return sum(part.ntotal for part in self.indices_)

    def _train(self, x: Tensor) -> None:
        def train(no: int, part: Any) -> None:
            self._told(part, no, "train", x.shape[0])
            part._train(x.to(part.device))

        self.runOnIndex(train)
        self.syncWithSubIndexes()

    def _reset(self) -> None:
        self.runOnIndex(lambda no, part: part._reset())
        self.syncWithSubIndexes()


class Sharded(Threaded):
    """Each part holds some of the vectors; an answer is the best of the parts' answers.

    With `successive_ids` the parts number their vectors from 0 on, and part i's ids are shifted by what the parts before it hold.
    """

    successive_ids = boolean(True)

    def __init__(self, d: int | bool = 0, threaded: bool | None = None, successive_ids: bool = True) -> None:
        if isinstance(d, bool):  # FAISS's overload without a dimension: (threaded, successive_ids)
            threaded, successive_ids, d = d, successive_ids if threaded is None else threaded, 0
        super().__init__(d)  # type: ignore[call-arg]  # the index's
        self.threaded, self.successive_ids = bool(threaded), successive_ids

    def add_shard(self, index: Any) -> None:
        """Take on a part."""
        self.addIndex(index)

    def remove_shard(self, index: Any) -> None:
        """Let go of a part."""
        self.removeIndex(index)

    def _shares(self, n: int, ids: Tensor | None) -> tuple[list[int], Tensor | None]:
        """Where the parts' shares of n new vectors begin and end, and the ids of these."""
        if self.successive_ids:
            check(ids is None, "It makes no sense to pass in ids and request them to be shifted")
            check(self.ntotal == 0, "when adding to IndexShards with successive_ids, only add() in a single pass is supported")
        elif ids is None:
            ids = torch.arange(self.ntotal, self.ntotal + n, device=self.device)
        check(self.count() > 0, "no shards in index")
        return [no * n // self.count() for no in range(self.count() + 1)], ids

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        bounds, ids = self._shares(x.shape[0], ids)

        def add(no: int, part: Any) -> None:
            own = slice(bounds[no], bounds[no + 1])
            self._told(part, no, "add", bounds[no + 1] - bounds[no])
            if ids is None:
                part._add(x[own].to(part.device), None)
            else:
                part._add_with_ids(x[own].to(part.device), ids[own].to(part.device))

        self.runOnIndex(add)
        self.syncWithSubIndexes()

    def _add_with_ids(self, x: Tensor, ids: Tensor) -> None:
        self._add(x, ids)

    def _gathered(self, k: int, ask: Callable[[int, Any], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The best k of what the parts answer."""
        check(self.count() > 0, "no shards in index")
        shifts = [0]
        for part in self.indices_:
            shifts.append(shifts[-1] + (part.ntotal if self.successive_ids else 0))

        def answer(no: int, part: Any) -> tuple[Tensor, Tensor]:
            distances, labels = ask(no, part)
            return distances.to(self.device), torch.where(labels >= 0, labels + shifts[no], labels).to(self.device)

        answers = self.runOnIndex(answer)
        distances, labels = (torch.cat([a[i] for a in answers], 1) for i in (0, 1))
        return self._best(distances, labels, k)

    def _best(self, distances: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best of answers side by side."""
        return merge(distances, labels, k, is_similarity(self.metric_type))

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        def ask(no: int, part: Any) -> tuple[Tensor, Tensor]:
            self._told(part, no, "search", x.shape[0])
            found: tuple[Tensor, Tensor] = part._search(x.to(part.device), k, params)
            return found

        return self._gathered(k, ask)

    def _reconstruct(self, keys: Tensor) -> Tensor:
        check(self.successive_ids, "reconstruct: only with successive_ids does an id tell its shard")
        check(self.count() > 0, "no shards in index")
        check(bool(((keys >= 0) & (keys < self.ntotal)).all()), "ids must be within the {} vectors", self.ntotal)
        none = self.at(0)._reconstruct(keys[:0].to(self.at(0).device))
        found = torch.empty(keys.shape[0], none.shape[1], dtype=none.dtype, device=self.device)
        start = 0
        for part in self.indices_:
            own = (keys >= start) & (keys < start + part.ntotal)
            found[own] = part._reconstruct((keys[own] - start).to(part.device)).to(self.device)
            start += part.ntotal
        return found


class Replicated(Threaded):
    """Each part holds all vectors; the queries are shared out."""

    def __init__(self, d: int | bool = 0, threaded: bool = True) -> None:
        if isinstance(d, bool):
            threaded, d = d, 0
        super().__init__(d)  # type: ignore[call-arg]  # the index's
        self.threaded = threaded

    add_replica = Threaded.addIndex
    remove_replica = Threaded.removeIndex

    def _check_part(self, index: Any) -> None:
        super()._check_part(index)
        if self.count():
            held = self.at(0).ntotal
            check(index.ntotal == held, "replicas: prior index has {} vectors, newly added index has {}", held, index.ntotal)

    def _total(self) -> int:
        held = {part.ntotal for part in self.indices_}
        check(len(held) == 1, "the replicas hold different numbers of vectors: {}", sorted(held))
        return int(held.pop())

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        def add(no: int, part: Any) -> None:
            self._told(part, no, "add", x.shape[0])
            part._add(x.to(part.device), None)

        self.runOnIndex(add)
        self.syncWithSubIndexes()

    def _first(self) -> Any:
        check(self.count() > 0, "no replicas in index")
        return self.at(0)

    def _reconstruct(self, keys: Tensor) -> Tensor:
        first = self._first()
        found: Tensor = first._reconstruct(keys.to(first.device)).to(self.device)
        return found

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        self._first()
        share = max(1, -(-x.shape[0] // self.count()))

        def ask(no: int, part: Any) -> tuple[Tensor, Tensor]:
            own = x[no * share : (no + 1) * share]
            self._told(part, no, "search", own.shape[0])
            distances, labels = part._search(own.to(part.device), k, None)
            return distances.to(self.device), labels.to(self.device)

        answers = self.runOnIndex(ask)
        return torch.cat([a[0] for a in answers]), torch.cat([a[1] for a in answers])


class ThreadedIndex(Threaded, Index):
    """An index of indexes."""


class IndexShards(Sharded, ThreadedIndex):
    """Shards of vectors."""


class IndexReplicas(Replicated, ThreadedIndex):
    """Replicas of vectors."""


class IndexShardsIVF(IndexShards, Level1Quantizer):
    """Shards of one IVF index, with a coarse quantizer in common: it is asked once."""

    def __init__(
        self, quantizer: Index | None = None, nlist: int = 0, threaded: bool = False, successive_ids: bool = True
    ) -> None:
        IndexShards.__init__(self, 0 if quantizer is None else quantizer.d, threaded, successive_ids)
        if quantizer is not None:
            self.quantizer, self.nlist = quantizer, nlist
            self.cp.niter = 10
            self.is_trained = quantizer.is_trained and quantizer.ntotal == nlist
            self.metric_type = METRIC_L2

    def addIndex(self, index: Any) -> None:
        check(isinstance(index, IndexIVFInterface), "can only add IndexIVFs")
        check(index.nlist == self.nlist, "expected {} lists, got {}", self.nlist, index.nlist)
        super().addIndex(index)

    def _train(self, x: Tensor) -> None:
        if self.verbose:
            print("Training level-1 quantizer")
        self._train_q1(x, self.verbose, self.metric_type)
        centroids = self.quantizer._reconstruct_n(0, self.nlist)
        for part in self.indices_:
            own = part.quantizer
            if own is not self.quantizer and own.ntotal == 0:
                if not own.is_trained:
                    own._train(centroids.to(own.device))
                own._add(centroids.to(own.device), None)
            part._train(x.to(part.device))
        self.syncWithSubIndexes()

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        if not all(isinstance(part, IndexIVF) for part in self.indices_):
            super()._add(x, ids)
            return
        bounds, ids = self._shares(x.shape[0], ids)
        list_nos = self._coarse()._assign(x.to(self.quantizer.device), 1).reshape(-1)

        def add(no: int, part: Any) -> None:
            own = slice(bounds[no], bounds[no + 1])
            self._told(part, no, "add", bounds[no + 1] - bounds[no])
            named = None if ids is None else ids[own].to(part.device)
            part._add_core(x[own].to(part.device), named, list_nos[own].to(part.device))

        self.runOnIndex(add)
        self.syncWithSubIndexes()

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.count() > 0, "no shards in index")
        check(params is None or isinstance(params, SearchParametersIVF), "IndexIVF params have incorrect type")
        given: Any = params
        nprobe = int(self.at(0).nprobe if given is None else given.nprobe)
        coarse, keys = self._coarse()._search(x.to(self.quantizer.device), min(nprobe, self.nlist), None)

        def ask(no: int, part: Any) -> tuple[Tensor, Tensor]:
            check(given is not None or part.nprobe == nprobe, "inconsistent nprobe")
            self._told(part, no, "search", x.shape[0])
            there = part.device
            found: tuple[Tensor, Tensor] = part._search_preassigned(
                x.to(there), k, keys.to(there), coarse.to(there), given, False
            )
            return found

        return self._gathered(k, ask)


# FAISS's older name.
IndexProxy = IndexReplicas

__all__ = ["IndexProxy", "IndexReplicas", "IndexShards", "IndexShardsIVF", "ThreadedIndex"]
