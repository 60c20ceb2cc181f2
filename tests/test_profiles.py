"""Search profiles: exact ones answer bit for bit as a plain search, budgets are kept, caches follow the index."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tsscompat
from tsscompat import SearchParams
from tsscompat.algorithms import budgets, parts
from tsscompat.errors import FaissError

D, N = 12, 3000
L2, IP = tsscompat.METRIC_L2, tsscompat.METRIC_INNER_PRODUCT
# The last is answered by a plain search: what it stores is not what its lists hold.
KEYS = ["IVF16,Flat", "IVF16,PQ4x4np", "IVF16,SQ8", "IVF16,FlatDedup"]


def data(n: int, seed: int, kind: str = "clusters") -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        return torch.rand(n, D, generator=draw)
    if kind == "whole":  # whole numbers: exact ties
        return torch.randint(0, 3, (n, D), generator=draw).float()
    centers = 3 * torch.randn(60, D, generator=torch.Generator().manual_seed(7))
    return centers[torch.randint(60, (n,), generator=draw)] + 0.3 * torch.randn(n, D, generator=draw)


def made(key: str, metric: int = L2, kind: str = "clusters") -> Any:
    index = tsscompat.index_factory(D, key, metric)
    index.train(data(N, 1, kind))
    index.add(data(N, 2, kind))
    index.nprobe = 8
    return index


built = functools.cache(made)


def assert_bit_equal(index: Any, queries: Tensor, k: int, params: SearchParams, **plain: Any) -> None:
    expected = index.search(queries, k, params=tsscompat.SearchParametersIVF(**{"nprobe": index.nprobe, **plain}))
    got = index.search(queries, k, params=params)
    assert torch.equal(got[1], expected[1]) and torch.equal(got[0], expected[0])


@pytest.mark.parametrize("metric", [L2, IP], ids=["L2", "IP"])
@pytest.mark.parametrize("key", KEYS)
@given(
    st.sampled_from(["clusters", "uniform", "whole"]), st.integers(1, 16), st.sampled_from([1, 3, 40, 700]), st.integers(1, 30)
)
def test_the_exact_profile_changes_no_bit(key, metric, kind, nprobe, k, nq):
    index = built(key, metric, kind)
    assert_bit_equal(index, data(nq, 3, kind), k, SearchParams(nprobe=nprobe), nprobe=nprobe)


def test_pruning_saves_codes():
    index, queries = built("IVF16,Flat"), data(100, 3)
    assert_bit_equal(index, queries, 5, SearchParams())
    stats = index.last_search_stats
    assert stats["codes_visited"] < 0.5 * stats["codes_in_lists"]
    assert stats["parts_pruned"] > 0 and stats["codes_pruned"] == stats["codes_in_lists"] - stats["codes_visited"]
    assert stats["lists_visited"] + stats["lists_pruned"] == stats["lists_probed"] == 100 * 8
    assert {"coarse", "bounds", "scan", "total"} <= stats["seconds"].keys()
    index.search(queries, 5, params=SearchParams(safe_pruning=False))
    assert index.last_search_stats["codes_visited"] == index.last_search_stats["codes_in_lists"]


def test_a_selector_holds():
    index, queries = built("IVF16,Flat"), data(20, 3)
    selector = tsscompat.IDSelectorRange(500, 1500)
    assert_bit_equal(index, queries, 5, SearchParams(sel=selector), sel=selector)
    labels = index.search(queries, 5, params=SearchParams(profile="approx", sel=selector))[1]
    assert ((labels == -1) | ((labels >= 500) & (labels < 1500))).all() and (labels >= 0).any()


@pytest.mark.parametrize("metric", [L2, IP], ids=["L2", "IP"])
@pytest.mark.parametrize("key", KEYS[:3])
@pytest.mark.parametrize("ordering", [None, "none", "residual_norm_asc", "proj_desc"])
def test_a_whole_budget_finds_everything(key, metric, ordering):
    """With a budget for all codes, an approximate search finds what an exact one does, whatever the order."""
    index, queries = built(key, metric), data(30, 3)
    expected = index.search(queries, 5)
    for strategy in ("uniform", "distance_weighted"):
        given_ = SearchParams(
            profile="approx", candidate_budget=N, budget_strategy=strategy, list_ordering=ordering, dynamic_nprobe=False
        )
        distances, _ = index.search(queries, 5, params=given_)
        assert torch.equal(distances, expected[0])


@pytest.mark.parametrize("key", KEYS[:3])
@pytest.mark.parametrize("ordering", [None, "residual_norm_asc", "proj_desc"])
@pytest.mark.parametrize("strategy", ["uniform", "distance_weighted"])
def test_a_strict_budget_is_kept(key, ordering, strategy):
    index, queries = built(key), data(40, 3)
    for budget in (1, 50, 400):
        params = SearchParams(
            profile="approx",
            candidate_budget=budget,
            budget_strategy=strategy,
            list_ordering=ordering,
            dynamic_nprobe=False,
            strict_budget=True,
            min_codes_per_list=3,
            debug_stats=True,
        )
        index.search(queries, 5, params=params)
        stats = index.last_search_stats
        assert stats["codes_visited"] == stats["budget_spent"] <= 40 * budget
        assert (stats["shares"].sum(1) <= budget).all() and stats["budget"] == budget


@pytest.mark.parametrize("metric", [L2, IP], ids=["L2", "IP"])
@pytest.mark.parametrize("key", ["IVF16,PQ4x4fs", "IVF16,PQ4x4fsr", "IVF16,RaBitQ", "IVF16,FlatPanorama2"])
def test_codes_that_are_not_cut_into_parts_keep_a_budget_too(key, metric):
    """Fast scans, estimates, layouts of their own: exact profiles answer as a plain search, budgets are spent list by list."""
    index, queries = built(key, metric), data(40, 3)
    assert_bit_equal(index, queries, 5, SearchParams())
    for strategy in ("uniform", "distance_weighted"):
        params = SearchParams(
            profile="approx", candidate_budget=200, budget_strategy=strategy, max_codes_cap_per_list=60, strict_budget=True
        )
        index.search(queries, 5, params=params)
        stats = index.last_search_stats
        assert 0 < stats["codes_visited"] == stats["budget_spent"] <= 40 * 200
    whole = SearchParams(profile="approx", candidate_budget=2 * N, dynamic_nprobe=False)
    assert torch.equal(index.search(queries, 5, params=whole)[0], index.search(queries, 5)[0])


SAID = {
    "profile", "nprobe", "nq", "lists_probed", "lists_visited", "lists_pruned", "codes_in_lists", "codes_visited", "codes_pruned",
    "seconds",
}  # fmt: skip
# All classes of inverted lists, several codes of some; beside factory strings, what the factory has no word for.
EVERY: dict[str, Any] = dict.fromkeys([
    "Flat", "FlatDedup", "FlatPanorama2", "SQ8", "SQ4", "SQ6", "SQfp16", "SQbf16", "SQ8_direct", "SQtqmse4", "SQtq4", "PQ4x4np",
    "PQ4x4fs", "PQ4x4fsr", "RQ3x4", "RQ3x4_Nqint8", "RQ3x4fs_Nrq2x4", "LSQ2x4", "LSQ2x4fs_Nlsq2x4", "PRQ2x2x4", "PRQ2x2x4fs", "PLSQ2x1x4",
    "RaBitQ", "RaBitQ4", "RaBitQfs", "EDEN",
])  # fmt: skip
EVERY |= {
    "PQR": lambda metric: tsscompat.IndexIVFPQR(tsscompat.IndexFlatL2(D), D, 16, 4, 4, 4, 4),
    "SpectralHash": lambda metric: tsscompat.IndexIVFSpectralHash(tsscompat.IndexFlatL2(D), D, 16, 16, 1.0),
}


@pytest.mark.parametrize("metric", [L2, IP], ids=["L2", "IP"])
@pytest.mark.parametrize("key", EVERY)
def test_every_ivf_index_takes_profiles(key, metric):
    """Exact ones change no bit, a strict budget is kept whatever the strategy and order, and each search says what it did."""
    try:
        index = EVERY[key](metric) if EVERY[key] else tsscompat.index_factory(D, f"IVF16,{key}", metric)
    except FaissError:
        assert "fs" in key  # additive codes are scanned for one metric only
        return
    if index.metric_type != metric:
        return
    index.train(data(1200, 1))
    index.add(data(1000, 2))
    index.nprobe, queries = 8, data(20, 3)
    assert_bit_equal(index, queries, 5, SearchParams())
    assert index.last_search_stats.keys() >= SAID
    for strategy in ("uniform", "distance_weighted"):
        for ordering in (None, "none", "residual_norm_asc", "proj_desc"):
            params = SearchParams(
                profile="speed", candidate_budget=60, budget_strategy=strategy, list_ordering=ordering, strict_budget=True
            )
            _, labels = index.search(queries, 5, params=params)
            stats = index.last_search_stats
            assert (labels[:, 0] >= 0).all() and stats.keys() >= SAID | {"budget", "budget_spent"}
            assert 0 < stats["codes_visited"] == stats["budget_spent"] <= 20 * 60 and stats["budget"] == 60
            assert stats["codes_pruned"] == stats["codes_in_lists"] - stats["codes_visited"] > 0


def test_lists_on_disk_take_profiles(tmp_path):
    """Exact ones are plain searches, a budget is a limit of codes."""
    index, queries = made("IVF16,Flat"), data(20, 3)
    expected = index.search(queries, 5)
    limited = index.search(queries, 5, params=tsscompat.SearchParametersIVF(nprobe=8, max_codes=150))
    lists = tsscompat.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / "lists"))
    lists.merge_from_1(index.invlists)
    index.replace_invlists(lists)
    found = index.search(queries, 5, params=SearchParams())
    assert torch.equal(found[1], expected[1]) and torch.equal(found[0], expected[0])
    found = index.search(queries, 5, params=SearchParams(profile="approx", candidate_budget=150))
    assert torch.equal(found[1], limited[1]) and index.last_search_stats.keys() >= SAID | {"budget"}


def test_what_is_more_than_a_scan_spends_a_budget_on_the_nearest_lists():
    """Vectors kept once and second codes: a budget is a limit of codes, list after list."""
    index, queries = built("IVF16,FlatDedup"), data(40, 3)
    found = index.search(queries, 5, params=SearchParams(profile="approx", candidate_budget=150))
    limited = index.search(queries, 5, params=tsscompat.SearchParametersIVF(nprobe=8, max_codes=150))
    assert torch.equal(found[1], limited[1]) and index.last_search_stats["codes_visited"] <= 40 * 150


def test_exact_searches_rest_where_bounds_are_of_no_use():
    """After a search that pruned next to nothing, the following ones do what a plain search does."""
    index, queries = made("IVF16,Flat", L2, "uniform"), data(40, 3, "uniform")
    seen = []
    for _ in range(20):
        assert_bit_equal(index, queries, 5, SearchParams())
        seen.append("bounds" in index.last_search_stats["seconds"])
        stats = index.last_search_stats
        assert seen[-1] or (stats["codes_visited"] == stats["codes_in_lists"] and stats["codes_pruned"] == 0)
    assert seen[0] and sum(seen) == 2


def test_more_budget_finds_more():
    index, queries = built("IVF16,Flat", L2, "uniform"), data(100, 3, "uniform")
    truth = index.search(queries, 10)[1]
    found = []
    for budget in (30, 150, 600, 3000):
        labels = index.search(queries, 10, params=SearchParams(profile="approx", candidate_budget=budget))[1]
        found.append(float((truth[:, :, None] == labels[:, None]).any(2).float().mean()))
    assert found == sorted(found) and found[0] < 0.7 < 0.9 < found[-1]


@given(
    st.integers(1, 6), st.integers(1, 9), st.integers(0, 300), st.booleans(), st.integers(0, 9), st.integers(0, 40), st.booleans(),
)  # fmt: skip
def test_shares(nq, nprobe, budget, by_size, least, most, strict):
    draw = torch.Generator().manual_seed(nq * 31 + nprobe)
    sizes = torch.randint(0, 60, (nq, nprobe), generator=draw)
    weights = torch.rand(nq, nprobe, generator=draw)
    share = budgets.shares(sizes, weights, budget, by_size, least, most, strict)
    roof = sizes.clamp(max=most) if most else sizes
    assert (share >= 0).all() and (share <= roof).all()
    if strict:
        assert (share.sum(1) <= budget).all()
    else:
        assert (share >= torch.minimum(roof, torch.tensor(least))).all()
    if least == 0:  # nothing is left over while a list has room
        assert ((share.sum(1) == budget) | (share == roof).all(1)).all()


@given(st.integers(1, 400), st.integers(1, 70), st.booleans())
def test_halves_cover_their_groups(n, most, equal):
    x = torch.zeros(n, 3) if equal else data(n, n)[:, :3]
    groups = torch.arange(n) // 150
    finer = parts.halved(x, groups, most)
    assert int(torch.bincount(finer).max()) <= most
    for part in range(int(finer.max()) + 1):
        assert groups[finer == part].unique().shape[0] == 1
    assert (groups[torch.argsort(finer, stable=True)].diff() >= 0).all()


@pytest.mark.parametrize("key", KEYS[:3])
def test_caches_follow_the_index(key):
    """After adding, removing and moving lists, searches answer for what is there now."""
    index, queries = made(key), data(20, 3)
    approx = SearchParams(profile="approx", candidate_budget=2 * N, list_ordering="residual_norm_asc", dynamic_nprobe=False)
    changes = [
        lambda: index.add(data(300, 4)),
        lambda: index.remove_ids(tsscompat.IDSelectorRange(0, 900)),
        lambda: index.reset(),
        lambda: index.add(data(200, 5)),
    ]
    for change in [lambda: None, *changes]:
        change()
        assert_bit_equal(index, queries, 5, SearchParams())
        assert torch.equal(index.search(queries, 5, params=approx)[0], index.search(queries, 5)[0])


@pytest.mark.parametrize("by_hand", [False, True])
def test_orders_are_rebuilt_by_policy(by_hand):
    index, queries = made("IVF16,Flat"), data(50, 3)

    def finds_new(**more: Any) -> bool:
        params = SearchParams(
            profile="approx", candidate_budget=40, list_ordering="residual_norm_asc", strict_budget=True, **more
        )
        return bool((index.search(queries, 5, params=params)[1] >= N).any())

    assert not finds_new()
    # Entries at the very centers: first in the order, once it is made anew.
    index.add(torch.from_numpy(index.quantizer.reconstruct_n(0, 16)).repeat(8, 1))
    assert not finds_new(rebuild_policy="manual")
    assert not finds_new(rebuild_policy="auto_threshold", rebuild_threshold_adds=1000)
    if by_hand:
        index.rebuild_list_orderings()
        assert finds_new(rebuild_policy="manual")
    else:
        assert finds_new(rebuild_policy="auto_threshold", rebuild_threshold_adds=100)


def test_resolution():
    """The profile's defaults, the index's settings, what is given."""
    index = built("IVF16,Flat")
    assert SearchParams()._resolved(index).nprobe == index.nprobe
    assert SearchParams(nprobe=3)._resolved(index).nprobe == 3
    assert SearchParams(profile="approx")._resolved(index).approximate
    assert not SearchParams(profile="approx", approximate=False)._resolved(index).approximate
    assert SearchParams(profile="approx", budget_strategy="uniform")._resolved(index).dynamic_nprobe is False
    assert SearchParams(profile="approx", candidate_budget=900, max_codes=100)._resolved(index).candidate_budget == 100
    with pytest.raises(FaissError, match="distance_weighted"):
        SearchParams(dynamic_nprobe=True, budget_strategy="uniform")._resolved(index)
    for wrong in (
        {"profile": "fast"},
        {"budget_strategy": "even"},
        {"list_ordering": "random"},
        {"rebuild_policy": "never"},
        {"nprobe": 0},
    ):
        with pytest.raises(FaissError):
            SearchParams(**wrong)
    for wrong in ({"nprobe": 1.5}, {"safe_pruning": 1}, {"candidate_budget": "all"}, {"nothing": 1}):
        with pytest.raises(TypeError):
            SearchParams(**wrong)


def test_dynamic_nprobe_probes_no_more():
    index, queries = built("IVF16,Flat"), data(100, 3)
    params = SearchParams(profile="approx", dynamic_nprobe=True, budget_strategy="distance_weighted")
    index.search(queries, 5, params=params)
    stats = index.last_search_stats
    assert stats["lists_pruned"] > 0 and stats["lists_visited"] < stats["lists_probed"] == 100 * index.nprobe


def test_behind_wrappers():
    index = tsscompat.index_factory(D, "PCA8,IVF16,Flat")
    index.train(data(N, 1))
    index.add(data(N, 2))
    params = tsscompat.SearchParametersPreTransform(index_params=SearchParams(nprobe=4))
    plain = tsscompat.SearchParametersPreTransform(index_params=tsscompat.SearchParametersIVF(nprobe=4))
    got, expected = (index.search(data(20, 3), 5, params=p) for p in (params, plain))
    assert torch.equal(got[1], expected[1])


def test_threads():
    """Searches of several threads, the first of which make the caches, answer alike."""
    index, queries = made("IVF16,Flat"), data(200, 3)
    expected = index.search(queries, 5)[1]
    exact, approx = SearchParams(), SearchParams(profile="approx", candidate_budget=2 * N, dynamic_nprobe=False)

    def search(i: int) -> bool:
        some = slice(10 * (i % 20), 10 * (i % 20) + 10)
        return torch.equal(index.search(queries[some], 5, params=(exact, approx)[i % 2])[1], expected[some])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(search, range(80)))


def test_there_are_no_stats_before_a_search():
    with pytest.raises(FaissError, match="no search"):
        _ = made("IVF16,Flat").last_search_stats
