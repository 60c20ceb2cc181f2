"""Search profiles of IVF indexes: the same answer with less work, or less exactness for more speed, and what a search did.

index.search(x, k, params=SearchParams(profile="approx", candidate_budget=2000))
index.last_search_stats["codes_visited"]
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import budgets
from tsscompat.algorithms.ivf import ListCodec, Options, combined, limits_of, rows_allowed
from tsscompat.algorithms.parts import Parts, carried, understood
from tsscompat.errors import check
from tsscompat.faiss_compat.profile_parts import REST, kept_of, ordered_lists, parts_of
from tsscompat.faiss_compat.profile_settings import SearchParams
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2, is_similarity
from tsscompat.kernels.parts import near_parts
from tsscompat.kernels.select import WORST

# Bounds that leave more than this share of the codes cost more than they save: then so many searches go without (REST), and each time that
# the next try is no better, twice as many up to a limit.
_POOR, _LONGEST = 0.6, 1024


class Profiled:
    """One search with settings; `stats` is what it did."""

    def __init__(self, index: Any, params: SearchParams) -> None:
        self.index, self.params = index, params
        self.s = params._resolved(index)
        self.plain = params._plain_of(self.s)
        self.largest = is_similarity(index.metric_type)
        self.stats: dict[str, Any] = {"profile": self.s.profile, "nprobe": self.s.nprobe}
        self.seconds: dict[str, float] = {}
        # Lists visited, codes scored, results that entered a heap.
        self.counted: list[Any] | None = [0, 0, 0]

    def _took(self, stage: str, started: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - started

    def run(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The search."""
        began, index, s = perf_counter(), self.index, self.s
        check(index.is_trained, "IVF index is not trained")
        if self._resting():
            return self._without_bounds(x, k)
        coarse, keys = index._nearest_lists(x, self.plain)
        self._took("coarse", began)
        lists, at_hand = index._lists(), index._lists()._at_hand
        codec: Any = index._list_codec(self.plain) if at_hand else None
        in_lists = torch.where(keys >= 0, lists._ragged().sizes[keys.clamp(min=0)], 0) if at_hand else keys.new_zeros(0)
        self.stats.update(nq=x.shape[0], lists_probed=int((keys >= 0).sum()), codes_in_lists=int(in_lists.sum()))
        clear = at_hand and index._quick and understood(codec) and index.metric_type in (L2, INNER_PRODUCT) and x.shape[0] > 0
        if s.approximate and at_hand and index._only_scans and x.shape[0] > 0:
            answer = self._approximate(x, k, keys, coarse, codec, in_lists, clear)
        elif clear and s.safe_pruning and not s.max_codes and s.nprobe > 1:
            answer = self._pruned(x, k, keys, coarse, codec, in_lists)
        else:
            answer = self._all(x, k, keys, coarse)
        self._took("total", began)
        self._report(x.shape[0], in_lists)
        return answer

    def _resting(self) -> bool:
        """Whether an exact search goes without bounds, for they were of no use lately."""
        s, kept = self.s, self.index.__dict__.get("_profiles")
        plain = not (s.approximate or s.max_codes or s.debug_stats) and self.params.sel is None
        if kept is None or kept.idle <= 0 or not plain or not s.safe_pruning or not self.index._lists()._at_hand:
            return False
        kept.idle -= 1
        return True

    def _without_bounds(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """What a plain search does, and no more: it is not to be slower."""
        began, index = perf_counter(), self.index
        coarse, keys = index._nearest_lists(x, self.plain)
        self._took("coarse", began)
        codec, lists = index._list_codec(self.plain), index._lists()._ragged()
        distances, labels, counts = codec.top(x, keys, coarse, lists, k, Options(None, None))
        self._took("total", began)
        index._count(x.shape[0], counts)
        index._time(self.seconds["coarse"], self.seconds["total"])
        visited, scored, _ = (int(count) for count in counts)
        self.stats.update(nq=x.shape[0], lists_probed=visited, lists_visited=visited, lists_pruned=0)
        self.stats.update(codes_in_lists=scored, codes_visited=scored, codes_pruned=0, seconds=self.seconds)
        index._last_stats = self.stats
        return distances, labels

    def _report(self, nq: int, in_lists: Tensor) -> None:
        visited, scored = self.stats["lists_probed"], self.stats.pop("codes_scored", self.stats["codes_in_lists"])
        if self.counted is not None:
            visited, scored, entered = (int(count) for count in self.counted)
            self.index._count(nq, (visited, scored, entered))
        self.index._time(self.seconds["coarse"], self.seconds["total"])
        pruned = max(0, self.stats["codes_in_lists"] - scored)
        self.stats.update(codes_visited=scored, codes_pruned=pruned, seconds=self.seconds)
        self.stats.setdefault("lists_visited", visited)
        self.stats.setdefault("lists_pruned", max(0, self.stats["lists_probed"] - self.stats["lists_visited"]))
        if self.s.debug_stats:
            self.stats["codes_in_lists_by_query"] = in_lists.sum(1) if in_lists.ndim == 2 else None
        self.index._last_stats = self.stats

    def _counted(self, found: tuple[Tensor, Tensor, tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        self.counted = [a + b for a, b in zip(self.counted or [0, 0, 0], found[2])]
        return found[0], found[1]

    def _all(self, x: Tensor, k: int, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        started = perf_counter()
        if self.s.approximate:
            # The nearest lists in turn, until the budget is spent.
            self.plain.max_codes = self.s.candidate_budget
            self.stats.update(budget=self.s.candidate_budget)
        found: tuple[Tensor, Tensor] = self.index._search_preassigned(x, k, keys, coarse, self.plain, False)
        self.counted = None  # that counted itself
        if self.plain.max_codes and self.index._lists()._at_hand:
            limits = limits_of(self.index._lists()._ragged(), keys, None, self.plain.max_codes, False)
            self.stats["codes_scored"] = int(limits.sum())
            if self.s.approximate:
                self.stats["budget_spent"] = self.stats["codes_scored"]
        self._took("scan", started)
        return found

    def _scan(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, codec: ListCodec, lists: Ragged, limits: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        started, sel = perf_counter(), self.params.sel
        allowed = None if sel is None else rows_allowed(lists, keys, sel._mask)
        found = self._counted(codec.top(x, keys.contiguous(), coarse.contiguous(), lists, k, Options(allowed, limits)))
        self._took("scan", started)
        return found

    # -- the same answer -----------------------------------------------------------------------------------------------------------------

    def _pruned(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, codec: ListCodec, in_lists: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The nearest lists first; of the others what may hold something better than the k-th best found there."""
        kept, lists = kept_of(self.index), self.index._lists()._ragged()
        begin = max(1, self.s.nprobe // 8)
        first = self._scan(x, k, keys[:, :begin], coarse[:, :begin], codec, lists)
        parts = parts_of(self.index)
        started = perf_counter()
        bound = first[0][:, k - 1].contiguous()
        rest = keys[:, begin:].contiguous()
        tables = (parts.first, parts.centers, parts.radii, parts.lists.sizes)
        chosen, probes, rooms, n_lists = near_parts(x, rest, bound, None, *tables, self.largest)
        left, could = int(rooms.sum()), int(in_lists[:, begin:].sum())
        self.stats.update(lists_visited=n_lists + int((keys[:, :begin] >= 0).sum()))
        self._note(parts, rest, chosen)
        self._took("bounds", started)
        if left > _POOR * could:
            kept.idle, kept.rest = kept.rest, min(2 * kept.rest, _LONGEST)
        else:
            kept.rest = REST
        near = coarse.gather(1, probes + begin)
        second = self._scan(x, k, chosen, near, carried(codec, parts.order, parts.home), parts.lists)
        return self._joined(x, k, keys, coarse, codec, lists, first, second)

    def _note(self, parts: Parts, keys: Tensor, chosen: Tensor) -> None:
        """Parts looked at and passed over."""
        known, visited = keys.clamp(min=0), int((chosen >= 0).sum())
        there = int(torch.where(keys >= 0, parts.first[known + 1] - parts.first[known], 0).sum())
        self.stats.update(parts_visited=visited, parts_pruned=there - visited)

    def _joined(
        self,
        x: Tensor,
        k: int,
        keys: Tensor,
        coarse: Tensor,
        codec: ListCodec,
        lists: Ragged,
        first: tuple[Tensor, Tensor],
        second: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """One answer of two; queries whose last place is tied are searched whole, as which of the tied stays depends on the scan."""
        distances, labels = combined(first, second, self.largest)
        sign = -1.0 if self.largest else 1.0
        values = torch.where(labels >= 0, sign * distances, float("inf"))
        # Ties within the answer go by label.
        by_label = torch.argsort(labels, dim=1, stable=True, descending=self.largest)
        order = by_label.gather(1, torch.argsort(values.gather(1, by_label), dim=1, stable=True))
        distances, labels = distances.gather(1, order), labels.gather(1, order)
        last = values.amax(1, keepdim=True)
        both = torch.cat([first[0], second[0]], 1) * sign
        there = torch.cat([first[1], second[1]], 1) >= 0
        tied = ((both == last) & there).sum(1) - ((values == last) & (labels >= 0)).sum(1) > 0
        full = (second[1][:, -1] >= 0) & (sign * second[0][:, -1] == last[:, 0])
        full |= (first[1][:, -1] >= 0) & (sign * first[0][:, -1] == last[:, 0])
        more = ((second[1] >= 0) & (sign * second[0] <= last)).any(1)
        unclear = (more & (tied | full) & last.isfinite()[:, 0]).nonzero()[:, 0]
        self.stats["queries_searched_again"] = int(unclear.shape[0])
        if unclear.shape[0]:
            again = self._scan(x[unclear], k, keys[unclear], coarse[unclear], codec, lists)
            distances[unclear], labels[unclear] = again
        return distances, labels

    # -- a budget ------------------------------------------------------------------------------------------------------------------------

    def _approximate(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, codec: ListCodec, in_lists: Tensor, clear: bool
    ) -> tuple[Tensor, Tensor]:
        """As many codes as the budget allows: of each list its first ones in an order, or its parts nearest to the query; or its first
        ones as they are, where codes are not `clear` enough to make orders and parts of."""
        s, started = self.s, perf_counter()
        weights = budgets.weights_of(coarse, self.largest)
        if s.dynamic_nprobe:
            keys = budgets.fewer_lists(keys, weights)
            in_lists = torch.where(keys >= 0, in_lists, 0)
        if s.budget_strategy == "uniform":
            weights = torch.ones_like(weights)
        limits = (s.candidate_budget, s.use_per_list_sizes, s.min_codes_per_list, s.max_codes_cap_per_list, s.strict_budget)
        share = budgets.shares(in_lists, torch.where(keys >= 0, weights, 0), *limits)
        self.stats.update(budget=s.candidate_budget, budget_spent=int(share.sum()), lists_pruned=int((keys < 0).sum()))
        if s.debug_stats:
            self.stats["shares"] = share
        if not clear:
            return self._scan(x, k, torch.where(share > 0, keys, -1), coarse, codec, self.index._lists()._ragged(), share)
        if s.list_ordering is not None:
            lists, order = ordered_lists(self.index, s)
            self._took("bounds", started)
            return self._scan(x, k, torch.where(share > 0, keys, -1), coarse, carried(codec, order, None), lists, share)
        parts = parts_of(self.index)
        worst = torch.full((x.shape[0],), -WORST if self.largest else WORST, device=x.device)
        tables = (parts.first, parts.centers, parts.radii, parts.lists.sizes)
        chosen, probes, rooms, n_lists = near_parts(x, keys.contiguous(), worst, share, *tables, self.largest)
        self._note(parts, keys, chosen)
        self.stats.update(lists_visited=n_lists, budget_spent=int(rooms.sum()))
        near, scorer = coarse.gather(1, probes), carried(codec, parts.order, parts.home)
        self._took("bounds", started)
        return self._scan(x, k, chosen, near, scorer, parts.lists, rooms if s.strict_budget else None)


class ProfileMethods:
    """What profiles add to an IVF index."""

    _only_scans = True  # whether a search is a scan of lists, with nothing done afterwards

    @property
    def last_search_stats(self: Any) -> dict[str, Any]:
        """What the last search with SearchParams did; of searches in several threads, of one of them."""
        stats = self.__dict__.get("_last_stats")
        check(stats is not None, "no search with SearchParams was made yet")
        return dict(stats)

    def rebuild_list_orderings(self: Any) -> None:
        """Make the orders of lists anew at their next use, as rebuild_policy='manual' leaves to the caller."""
        kept = kept_of(self)
        kept.ranks, kept.ordered = {}, {}


__all__ = ["Profiled", "ProfileMethods"]
