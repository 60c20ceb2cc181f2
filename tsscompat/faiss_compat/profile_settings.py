"""What a search of an IVF index with a profile is asked for.

It is resolved in this order: the profile's defaults, the index's settings (nprobe, max_codes), what is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Declared
from tsscompat.faiss_compat.params import SearchParametersIVF

__all__ = ["SearchParams"]

ORDERINGS = ("none", "residual_norm_asc", "proj_desc")


@dataclass(frozen=True)
class Settings:
    """What a search does, with nothing left open; the fields are those of SearchParams."""

    profile: str = "exact"
    safe_pruning: bool = True
    approximate: bool = False
    nprobe: int = 1
    max_codes: int = 0
    candidate_budget: int = 0
    budget_strategy: str = "uniform"
    list_ordering: str | None = None
    rebuild_policy: str = "auto_threshold"
    rebuild_threshold_adds: int = 10_000
    dynamic_nprobe: bool = False
    min_codes_per_list: int = 0
    max_codes_cap_per_list: int = 0
    strict_budget: bool = False
    use_per_list_sizes: bool = True
    debug_stats: bool = False


# What each profile does where neither the index nor the caller says otherwise; `share` of the codes in the lists probed is its budget.
PROFILES: dict[str, dict[str, Any]] = {
    "exact": {},
    "speed": {"approximate": True, "budget_strategy": "distance_weighted", "share": 0.4},
    "approx": {"approximate": True, "budget_strategy": "distance_weighted", "dynamic_nprobe": True, "share": 0.15},
}


def _choice(*allowed: Any) -> Any:
    def convert(value: Any, name: str) -> Any:
        check(value in allowed, "{} must be one of {}, got {!r}", name, allowed, value)
        return value

    return convert


def _count(value: Any, name: str) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    number = value.__index__()
    check(number >= (1 if name == "nprobe" else 0), "{} must not be {}", name, number)
    return number


def _flag(value: Any, name: str) -> Any:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, got {value!r}")
    return value


def _open(convert: Any, doc: str) -> Any:
    """A field that may be left open."""
    return Declared(lambda: None, convert, doc)


class SearchParams(SearchParametersIVF):
    """How an IVF index is searched; a field that is None is left to the profile and the index."""

    profile = Declared(lambda: "exact", _choice(*PROFILES), "what the other fields are where nobody says: exact, speed or approx")
    safe_pruning = _open(
        _flag, "skip lists, and parts of lists, that by their radius hold nothing better; the answer is the same"
    )
    approximate = _open(_flag, "score no more codes than the budget")
    nprobe = _open(_count, "lists probed for each query")
    max_codes = _open(_count, "codes visited for each query at most, in the order of the lists (0: no limit)")
    candidate_budget = _open(_count, "codes scored for each query (0: the profile's share of those in the lists probed)")
    budget_strategy = _open(_choice(None, "uniform", "distance_weighted"), "lists share the budget alike, or by their distance")
    list_ordering = _open(_choice(None, *ORDERINGS), "which entries of a list a budget is spent on: None: the nearest parts")
    rebuild_policy = _open(_choice(None, "manual", "auto_threshold"), "when an order is made anew after entries were added")
    rebuild_threshold_adds = _open(_count, "entries added until auto_threshold makes an order anew")
    dynamic_nprobe = _open(_flag, "leave out far lists of little weight; distance_weighted only")
    min_codes_per_list = _open(_count, "no list's share is smaller")
    max_codes_cap_per_list = _open(_count, "no list's share is larger (0: no limit)")
    strict_budget = _open(_flag, "count every code: neither whole parts nor min_codes_per_list go beyond the budget")
    use_per_list_sizes = _open(_flag, "long lists get more")
    debug_stats = _open(_flag, "numbers for each query too")

    def _resolved(self, index: Any) -> Settings:
        """With nothing left open, for an index."""
        values = dict(PROFILES[self.profile])
        share = values.pop("share", 1.0)
        values["nprobe"], values["max_codes"] = index.nprobe, index.max_codes
        given = {name: getattr(self, name) for name in Settings.__dataclass_fields__}
        values.update({name: value for name, value in given.items() if value is not None})
        s = replace(Settings(**values), nprobe=min(values["nprobe"], index.nlist))
        check(s.nprobe > 0, "nprobe must be positive")
        check(
            not self.dynamic_nprobe or s.budget_strategy == "distance_weighted",
            "dynamic_nprobe goes with budget_strategy='distance_weighted', got {!r}",
            s.budget_strategy,
        )
        if s.budget_strategy != "distance_weighted":
            s = replace(s, dynamic_nprobe=False)
        if not s.approximate:
            return s
        budget = s.candidate_budget or max(1, int(share * s.nprobe * index.ntotal / max(1, index.nlist)))
        return replace(s, candidate_budget=min(budget, s.max_codes) if s.max_codes else budget)

    def _plain(self, index: Any) -> SearchParametersIVF:
        """The parameters of the search that exact pruning gives the answer of."""
        return self._plain_of(self._resolved(index))

    def _plain_of(self, s: Settings) -> SearchParametersIVF:
        return SearchParametersIVF(
            sel=self.sel, nprobe=s.nprobe, max_codes=0 if s.approximate else s.max_codes, quantizer_params=self.quantizer_params
        )
