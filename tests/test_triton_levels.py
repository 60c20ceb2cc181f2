"""Triton's scans of codes in blocks and of vectors by levels: sums are the definition's to the bit, what is left out changes no answer."""

from __future__ import annotations

import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("there is no Triton here", allow_module_level=True)

from compare import assert_same_neighbours
from interpreter import DEVICE
from test_triton import put, settled, twin_of

import tsscompat
from tsscompat.faiss_compat.panorama import _report
from tsscompat.kernels import fastscan
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.panorama import Layout, lengths_left, scan_batches, within_batches
from tsscompat.kernels.panorama_lists import scan_levels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def sparing(monkeypatch):
    """Only as many chunks are gone over again as it takes."""
    from tsscompat.kernels.triton import list_scan

    monkeypatch.setattr(list_scan, "_SPARE", 0)


@pytest.mark.parametrize(
    "nq,deep,weight,per_block", [(2, True, 0, 32), (12, False, 0, 64), (13, True, 5, 96), (3, False, 200, 32)]
)
def test_sums_of_codes_in_blocks_are_exact(nq, deep, weight, per_block, monkeypatch):
    """Few queries and many, tables of queries and of probes, one and two; most sums are tied, so that what is kept is the first met."""
    for name in ("scan_tables", "within_tables"):  # numba's heaps keep others of those that are tied
        monkeypatch.setattr(fastscan, name, getattr(fastscan, name).definition)
    torch.manual_seed(nq)
    parts, sizes = 6, torch.tensor([200, 0, 90])
    blocks = (sizes + per_block - 1) // per_block + 1
    codes = torch.randint(0, 256, (int(blocks.sum()), parts // 2 * per_block + 3), dtype=torch.uint8)
    rows = codes.shape[0] * per_block
    lists = Ragged(codes, torch.randperm(rows), (blocks.cumsum(0) - blocks) * per_block, sizes)
    keys = torch.stack([torch.randperm(3)[:2] for _ in range(nq)])
    luts = torch.zeros(2 * nq if deep else nq, 2 if weight else 1, parts, 16, dtype=torch.uint8)
    luts[:, 0] = 127 * torch.randint(0, 3, luts[:, 0].shape)
    luts[:, -1, -2:] = torch.randint(0, 2, luts[:, -1, -2:].shape) * (100 if weight else 1)
    tables = fastscan.Tables(luts, torch.randint(0, 3, keys.shape, dtype=torch.int32), torch.rand(nq), torch.randn(nq), weight)
    given = tables, lists, per_block, keys
    rest = nq > 8, torch.rand(rows) < 0.8, torch.randint(60, 250, keys.shape), nq % 2 == 0
    for twin, definition, how in (("scan", fastscan.scan_blocks, 2), ("within", fastscan.within_blocks, 300.0)):
        answer = settled(twin_of(f"fastscan.{twin}_blocks")(*put((*given, how, *rest), DEVICE)))
        expected = definition.definition(*given, how, *rest)
        assert all(torch.equal(a, b) for a, b in zip(put(answer[:-1], CPU), expected))
        assert answer[-1][:2] == expected[-1][:2]


def vectors(n: int) -> torch.Tensor:
    """Vectors of different lengths, most of them in the first dimensions, and some with what is no number."""
    rows = torch.randn(n, 10) * torch.linspace(1.5, 0.5, 10) * 2 * torch.rand(n, 1)
    rows[7, 3], rows[9, 9], rows[11, 0] = torch.nan, torch.inf, -1e30
    return rows


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
def test_vectors_left_out_change_no_answer(metric, monkeypatch):
    from tsscompat.kernels.triton import levels, panorama

    monkeypatch.setattr(levels, "_WORTHWHILE", 0)
    monkeypatch.setattr(panorama, "_RUN", 64)
    torch.manual_seed(metric)
    x, rows, layout = vectors(14)[-2:], vectors(330), Layout(10, 4, 3, 16)
    lengths, allowed = lengths_left.definition(rows, 3), torch.rand(330) < 0.9
    given = x, layout.pack(rows), layout.pack_norms(lengths), 330
    answer = settled(twin_of("panorama.scan_batches")(*put((*given, 2, metric, layout, allowed), DEVICE)))
    expected = scan_batches.definition(*given, 2, metric, layout, allowed)
    assert_same_neighbours(expected[:2], put(answer[:2], CPU))
    assert 0 < answer[2][0] < answer[2][1] == expected[2][1]

    radius = float(expected[0][:, -1].mean()) * (1.5 if metric == L2 else 0.7)
    answer = twin_of("panorama.within_batches")(*put((*given, radius, metric, layout, allowed), DEVICE))
    expected = within_batches.definition(*given, radius, metric, layout, allowed)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(answer[::2], expected[::2])) and expected[2].numel() > 2
    assert 0 < answer[3][0] < answer[3][1] == expected[3][1]

    lists = Ragged(rows.view(torch.uint8), torch.randperm(330), torch.tensor([0, 70, 75]), torch.tensor([66, 0, 240]))
    keys = torch.tensor([[0, 1, 2], [2, -1, 0]])
    given = x, rows, lengths, lists, keys, 2, metric, 3, 16
    answer, expected = settled(twin_of("panorama_lists.scan_levels")(*put(given, DEVICE))), scan_levels.definition(*given)
    assert_same_neighbours(expected[:2], put(answer[:2], CPU))
    assert answer[2][:2] == expected[2][:2] and 0 < answer[3][0] < answer[3][1] == expected[3][1]


def test_levels_counted_on_a_device_are_read_when_asked_for():
    stats = tsscompat.cvar.indexPanorama_stats
    stats.reset()
    _report(torch.tensor([3, 4]))
    _report((2, 6))
    assert (stats.total_dims_scanned, stats.total_dims, stats.ratio_dims_scanned) == (5, 10, 0.5)
    stats.reset()
