"""Kernels: every compiled twin answers as its definition in torch does, whatever the sizes, the masks and the limits."""

from __future__ import annotations

import copy
import importlib
import pkgutil

import pytest
import torch
from compare import assert_same_neighbours, assert_same_ranges
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_inputs import INPUTS, NLIST, D, of_vectors
from torch import Tensor

from tsscompat import kernels
from tsscompat.kernels import ivf
from tsscompat.kernels.accelerate import REGISTRY, find_twin
from tsscompat.kernels.metrics import INNER_PRODUCT, L2

for module in pkgutil.iter_modules(kernels.__path__):
    if not module.ispkg:
        importlib.import_module(f"{kernels.__name__}.{module.name}")

# What a machine does best is asked of the twin itself.
CHOICES = {"coded.worth_decoding", "ivf_codebook.scanned_in_place"}
# Kernels without a twin for the CPU yet: their definitions run there too.
DEFINED_ONLY = {
    "ivf.scan_polysemous",
    "ivf_codebook.scan_codebook",
    "ivf_codebook.within_codebook",
    "ivf_product.scan_product",
}


def same(one, other) -> None:
    """Equal up to the rounding of floats, whatever the nesting."""
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            same(a, b)
    elif hasattr(type(one), "__record_fields__"):
        same(*([getattr(o, name) for name in one.__record_fields__ if name != "kept"] for o in (one, other)))
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    elif not callable(one):
        assert one == other


def same_neighbours(one, other, given) -> None:
    assert_same_neighbours(other[:2], one[:2])


def same_scan(one, other, given) -> None:
    assert_same_neighbours(other[:2], one[:2])
    assert one[2][:2] == other[2][:2], "lists visited and codes scored"


def same_ranges(one, other, given) -> None:
    assert_same_ranges(other, one, next(value for value in given if isinstance(value, float)))


def same_within(one, other, given) -> None:
    radius = next(value for value in given if isinstance(value, float))
    assert_same_ranges(other[:3], one[:3], radius)
    assert one[3][:2] == other[3][:2]


def same_ranges_first(one, other, given) -> None:
    same_ranges(one[:3], other[:3], given)


def same_sums(one, other, given) -> None:
    """The same sums, made of different terms where they are tied."""
    same(one[0], other[0])
    parts, places = given[0], one[1]
    same(parts.gather(2, places.transpose(1, 2)).sum(1), one[0])
    for row in places.tolist():
        assert len(set(map(tuple, row))) == len(row)


# Answers in which ties and roundings may change the order.
COMPARERS = {
    "coded.knn_decoded": same_neighbours,
    "flat.knn": same_neighbours,
    "flat.within": same_ranges,
    "graph.search": same_neighbours,  # only the twin counts the distances of the way down
    "graph_levels.search_levels": same_neighbours,
    "hamming.scan": same_scan,
    "hamming.search_lists": same_scan,
    "fastscan.few_rows": same_neighbours,
    "ivf.nearest_lists": same_neighbours,
    "named.best_named": same_neighbours,
    "panorama.rank_levels": same_neighbours,
    "panorama.scan_batches": same_neighbours,
    "panorama.within_batches": same_ranges_first,
    "sums.least_sums": same_sums,
} | {
    name: same_within if "within" in name else same_scan
    for name in INPUTS
    if name.startswith(
        (
            "ivf.scan",
            "panorama_lists",
            "ivf.within",
            "ivf_codebook",
            "ivf_few",
            "ivf_product",
            "rabitq.few",
            "rabitq.scan",
            "rabitq.within",
            "fastscan.scan",
            "fastscan.within",
            "fastscan.few_lists",
        )
    )
}


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_twin_answers_as_its_definition(name):
    module, _, function = name.rpartition(".")
    twin = find_twin(f"tsscompat.kernels.{module}", function, "cpu")
    assert (twin is None) == (name in DEFINED_ONLY)
    if twin is None:
        pytest.skip("has no twin")
    answered = 0

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        nonlocal answered
        ours = INPUTS[name](data.draw)
        theirs = copy.deepcopy(ours)
        answer = twin(*ours)
        if answer is NotImplemented:
            return
        answered += 1
        expected = REGISTRY[name].definition(*theirs)
        if name in COMPARERS:
            COMPARERS[name](answer, expected, ours)
        else:
            same(answer, expected)
        same(ours, theirs)  # what is written in place, and what must not be

    check()
    assert answered, "the twin declined all"


def test_every_kernel_has_a_row():
    assert set(REGISTRY) - CHOICES == set(INPUTS)


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError):
        same((torch.ones(2),), (torch.tensor([1.0, 1.1]),))
    with pytest.raises(AssertionError):
        same((1, torch.ones(2)), (1, torch.ones(2, dtype=torch.float64)))
    with pytest.raises(AssertionError):
        same([(1, 2)], [(1, 3)])


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
def test_an_answer_does_not_depend_on_its_batch(metric):
    torch.manual_seed(3)
    lists = of_vectors()
    rows = lists.codes.view(torch.float32)
    x = torch.randn(300, D)
    keys = torch.rand(300, NLIST).argsort(1)[:, :9]
    together = ivf.scan_flat(x, rows, lists, keys, 5, metric)
    for i in range(0, 300, 37):
        alone = ivf.scan_flat(x[i : i + 1], rows, lists, keys[i : i + 1], 5, metric)
        assert torch.equal(alone[0][0], together[0][i]) and torch.equal(alone[1][0], together[1][i])
