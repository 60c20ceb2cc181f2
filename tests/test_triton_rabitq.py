"""Triton's scans of RaBitQ codes: what is left out is what the definition leaves out, wherever its bar stood; and what is no number."""

from __future__ import annotations

import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("there is no Triton here", allow_module_level=True)

from compare import assert_same_neighbours
from interpreter import DEVICE
from test_triton import put, settled, twin_of

from tsscompat.algorithms.rabitq import encode
from tsscompat.kernels import rabitq
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.triton import rabitq as twins


@pytest.mark.parametrize("k,largest", [(6, False), (40, True), (70, False)])
def test_entries_pass_by_the_bar_of_their_time(k, largest):
    """The bar moves after 64, 128, ... 8192 entries: of what is hoped for in vain much is left out, and later ever more."""
    torch.manual_seed(k)
    costs = torch.randn(2, 9000) + torch.linspace(2, 0, 9000)
    hopes = costs + 3 * torch.rand(2, 9000) - 1.5
    hopes[0, 5], costs[1, 7000], costs[1, 3] = torch.nan, torch.nan, torch.inf
    totals, labels = torch.tensor([9000, 8300]), torch.stack([torch.randperm(9000) for _ in range(2)])
    seen = torch.arange(9000) < totals[:, None]
    passed = rabitq._kept(hopes.masked_fill(~seen, torch.inf), costs, costs, k)
    assert (passed.isnan() & seen & (costs < costs.sort().values[:, k : k + 1])).sum() > 0
    expected = passed.nan_to_num(torch.inf).topk(k, largest=False)
    counts = torch.zeros(3, dtype=torch.int64)
    found = twins._best(*put((hopes, costs, labels, totals), DEVICE), k, largest, counts.to(DEVICE))
    distances, names = put(found, torch.device("cpu"))
    assert torch.equal(-distances if largest else distances, expected.values)
    assert torch.equal(names, labels.gather(1, expected.indices))


@pytest.mark.parametrize("bits,rounded,metric", [(1, 4, L2), (4, 0, INNER_PRODUCT), (3, 8, L2)])
def test_queries_that_are_no_numbers_find_nothing(bits, rounded, metric):
    torch.manual_seed(bits)
    center = torch.randn(2, 40)
    codes = encode(torch.randn(90, 40), center[:1], metric, bits)
    lists = Ragged(codes, torch.randperm(90), torch.tensor([0, 70]), torch.tensor([70, 20]))
    x, keys = torch.randn(3, 40), torch.tensor([[0, 1], [1, 0], [-1, 1]])
    x[1, 39] = torch.nan
    given = x, rabitq.Coder(center, bits, metric, rounded, False), lists, keys, 5
    answer = settled(put(twin_of("rabitq.scan_rabitq")(*put(given, DEVICE)), torch.device("cpu")))
    expected = rabitq.scan_rabitq.definition(*given)
    assert (answer[1][1] == -1).all() and (answer[1][::2] >= 0).all()
    assert_same_neighbours(expected[:2], answer[:2])
    assert answer[2] == expected[2]
