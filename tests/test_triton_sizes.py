"""Triton's kernels at awkward sizes: each twin answers as its definition; on a GPU at all of them.

In the interpreter, every kernel at half of the sizes that hold each number of rows, dimensions and results once. Ordering thousands of
results takes it minutes: there it is asked for up to a hundred here, and selection by itself for 3000 in test_triton.py.
"""

from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("there is no Triton here", allow_module_level=True)

import awkward
import test_triton
from test_kernels import COMPARERS, same
from test_triton import DEVICE, ON_GPU, put, settled, twin_of

from tsscompat.kernels.accelerate import REGISTRY

poisoned = test_triton.poisoned
# Results asked for in the interpreter, at most; and what declines single queries, for which tables cost less.
MOST, SHARING = 100, ("ivf_product.scan_product",)
NAMES = sorted(awkward.INPUTS)
SIZES = tuple(itertools.product(awkward.ROWS, awkward.WIDTHS, awkward.RESULTS))
CASES = [(name, *size) for number, name in enumerate(NAMES) for size in (SIZES if ON_GPU else awkward.COVERING[number % 2 :: 2])]


def test_every_twin_has_sizes():
    assert set(test_triton.TWINS) == set(awkward.INPUTS)
    for all_of, which in zip((awkward.ROWS, awkward.WIDTHS, awkward.RESULTS), zip(*awkward.COVERING)):
        assert set(which) == set(all_of)


@pytest.mark.parametrize("name,n,d,k", CASES)
def test_a_twin_answers_as_its_definition(name, n, d, k):
    ours = awkward.INPUTS[name](awkward.Sizes(n, d, k if ON_GPU else min(k, MOST)))
    theirs, given = put(ours, torch.device("cpu")), put(ours, DEVICE)
    answer = twin_of(name)(*given)
    if answer is NotImplemented:
        assert name in SHARING and n == 1
        return
    answer = put(settled(answer), torch.device("cpu"))
    expected = REGISTRY[name].definition(*theirs)
    COMPARERS.get(name, lambda one, other, given: same(one, other))(answer, expected, ours)
    same(put(given, torch.device("cpu")), theirs)  # what is written in place, and what must not be
