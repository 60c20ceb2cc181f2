"""Triton's kernels: each twin answers as its definition, whatever the sizes; on a GPU where there is one, else in Triton's interpreter.

The interpreter takes some 50 ms for a program, so sizes are small here; `nox -s gpu` runs the same tests with large ones.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import itertools

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("there is no Triton here", allow_module_level=True)

import kernel_inputs
import kernel_inputs_fastscan
from compare import assert_same_neighbours
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreter import DEVICE
from test_kernels import COMPARERS, same
from torch import Tensor

from tsscompat.errors import OutOfDeviceMemory
from tsscompat.kernels import flat, graph, ivf
from tsscompat.kernels.accelerate import REGISTRY, find_twin
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import HAMMING, INNER_PRODUCT, L2
from tsscompat.kernels.select import select

ON_GPU = DEVICE.type == "cuda"
TWINS = sorted(
    name
    for name in kernel_inputs.INPUTS
    if find_twin(f"tsscompat.kernels.{name.rpartition('.')[0]}", name.rpartition(".")[2], "cuda")
)
EXAMPLES = 60 if ON_GPU else 3
# More of those of which a twin takes only some.
PICKY = {"ivf_product.scan_product": 5, "hamming.scan": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Fewer lists and rows in the interpreter."""
    if not ON_GPU:
        drawn = kernel_inputs.one_of

        def fewer(draw, *values):
            kept = [v for v in values if not isinstance(v, int) or isinstance(v, bool) or v <= 40]
            return drawn(draw, *kept)

        for module in (kernel_inputs, kernel_inputs_fastscan):
            monkeypatch.setattr(module, "one_of", fewer)
        monkeypatch.setattr(kernel_inputs, "NLIST", 4)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that nobody wrote holds NaN, or numbers that are no index."""
    plain = torch.empty

    def empty(*size, **options):
        made = plain(*size, **options)
        return made.fill_(
            float("nan") if made.is_floating_point() else 0x7B if made.dtype in (torch.uint8, torch.int8) else -0x7654321
        )

    monkeypatch.setattr(torch, "empty", empty)


def put(thing, device: torch.device):
    """A copy with its tensors on a device."""
    if isinstance(thing, Tensor):
        return thing.to(device, copy=True)
    if isinstance(thing, (tuple, list)):
        return type(thing)(put(part, device) for part in thing)
    if hasattr(thing, "__record_fields__"):
        parts = {name: put(getattr(thing, name), device) for name in thing.__record_fields__ if name != "kept"}
        return type(thing)(**parts)
    return copy.deepcopy(thing)


def twin_of(name: str):
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"tsscompat.kernels.triton.{module}"), function)


def settled(answer):
    """Counts that stay on the device as numbers."""
    if not isinstance(answer, tuple) or answer[0].dim() != 2:
        return answer
    counted = (tuple(c.tolist()) if isinstance(c, Tensor) and c.shape in ((2,), (3,)) else c for c in answer[2:])
    return *answer[:2], *counted


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_answers_as_its_definition(name):
    answered = 0

    @settings(max_examples=EXAMPLES * PICKY.get(name, 1), suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        nonlocal answered
        ours = kernel_inputs.INPUTS[name](data.draw)
        theirs = put(ours, torch.device("cpu"))
        given = put(ours, DEVICE)
        answer = twin_of(name)(*given)
        if answer is NotImplemented:
            return
        answered += 1
        answer = put(settled(answer), torch.device("cpu"))
        expected = REGISTRY[name].definition(*theirs)
        COMPARERS.get(name, lambda one, other, given: same(one, other))(answer, expected, ours)
        same(put(given, torch.device("cpu")), theirs)  # what is written in place, and what must not be

    check()
    assert answered, "the twin declined all"


def close_rows(n: int, d: int) -> Tensor:
    """Rows in two clusters far apart, within which they differ less than low precision can tell."""
    far = torch.where(torch.arange(n) % 2 == 0, 10.0, -10.0)[:, None]
    return far + 1e-3 * torch.randn(n, d)


# Queries, rows, dimension, results.
SHAPES = [(1, 7, 1, 1), (3, 300, 3, 13), (9, 1500, 31, 2), (1, 300, 768, 10), (2, 13, 1536, 100)]
if ON_GPU:
    ROWS, WIDTHS, RESULTS = (13, 300, 70_000), (1, 3, 31, 96, 768, 1536), (1, 10, 100, 1000, 3000)
    SHAPES += itertools.product((1, 13, 300), ROWS, WIDTHS, RESULTS)


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
@pytest.mark.parametrize("nq,nb,d,k", SHAPES)
def test_exhaustive_search(nq, nb, d, k, metric):
    torch.manual_seed(nq + nb + d + k)
    x, y = torch.randn(nq, d), torch.randn(nb, d)
    answer = twin_of("flat.knn")(x.to(DEVICE), y.to(DEVICE), k, metric)
    expected = flat.knn.definition(x.double(), y.double(), k, metric)
    assert_same_neighbours((expected[0].float(), expected[1]), tuple(t.cpu() for t in answer))


@pytest.mark.parametrize("nq,d,metric,group", [(67, 20, L2, 32), (67, 140, INNER_PRODUCT, 16), (5, 140, L2, 16)])
def test_no_cost_is_below_its_bound(nq, d, metric, group, monkeypatch):
    """Bounds of groups, and of spans of 1024 rows; the last rows fill neither. They are close to the costs."""
    from tsscompat.kernels.triton import screen

    monkeypatch.setattr(screen, "_LONG", 1000)
    torch.manual_seed(d)
    x, y, allowed = torch.randn(nq, d), 3 + torch.randn(2500, d), torch.rand(2500) < 0.9
    table = screen.table(y.to(DEVICE), metric, group, allowed.to(DEVICE).view(torch.uint8))
    asked = screen.prepared(x.to(DEVICE), table)
    bounds, (spans, length) = screen.bounds(asked, table)
    x, y = x.double(), y.double()
    costs = torch.cdist(x, y).square() if metric == L2 else -x @ y.T
    costs = torch.nn.functional.pad(costs.masked_fill(~allowed, float("inf")), (0, -2500 % 1024), value=float("inf"))
    exact = costs.view(nq, -1, group).amin(2)
    known = bounds.cpu().double() + (asked.squares.cpu().double()[:, None] if metric == L2 else 0)
    known = torch.where(torch.isinf(exact), exact, known / asked.unit.cpu())
    assert (known <= exact).all()
    assert (exact - known)[~torch.isinf(exact)].max() < 2e-3 * x.norm(dim=1).max() * y.norm(dim=1).max()
    assert torch.equal(spans, bounds.view(nq, -1, length).amin(2))


def test_long_tables_are_searched_by_spans(monkeypatch):
    from tsscompat.kernels.triton import pick, screen

    monkeypatch.setattr(screen, "_LONG", 1000)
    monkeypatch.setattr(pick, "_HELD", 64)
    torch.manual_seed(3)
    x, y = torch.randn(9, 20), torch.randn(3000, 20)
    answer = twin_of("flat.knn")(x.to(DEVICE), y.to(DEVICE), 1, L2)
    assert torch.equal(answer[1].cpu(), flat.knn.definition(x.double(), y.double(), 1, L2)[1])


@pytest.mark.parametrize("case", ["close", "strange"])
def test_what_screening_cannot_tell_apart_is_scored(case, monkeypatch):
    """Where the bound on the error does not close, the answer comes from exact costs, and is the same."""
    from tsscompat.kernels.triton import screen

    counted = []
    original = screen.unproven
    monkeypatch.setattr(screen, "unproven", lambda *given: counted.append(original(*given)) or counted[-1])
    torch.manual_seed(5)
    y = close_rows(1400, 20)
    x = close_rows(9, 20)
    if case == "strange":
        x[3], y[70, 3], y[99] = 1e30, float("inf"), float("nan")
    allowed = torch.rand(1400) < 0.7
    answer = twin_of("flat.knn")(x.to(DEVICE), y.to(DEVICE), 1, L2, 0.0, allowed.to(DEVICE))
    expected = flat.knn.definition(x.double(), y.double(), 1, L2, 0.0, allowed)
    assert int(counted[0][2]) > 0
    finite = torch.arange(9) != 3
    assert torch.equal(answer[1].cpu()[finite], expected[1][finite])


def lists_of(sizes: list[int], width: int) -> Ragged:
    rows = sum(sizes) + 5 * len(sizes)
    starts = torch.tensor([sum(sizes[:i]) + 5 * i for i in range(len(sizes))])
    return Ragged(torch.randn(rows, width).view(torch.uint8), torch.randperm(rows), starts, torch.tensor(sizes))


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
@pytest.mark.parametrize("nq,sizes,d,k", [(1, [300, 0, 7], 31, 10), (7, [70, 13], 3, 100), (5, [1, 0, 130], 96, 1)])
def test_lists_in_both_regimes(nq, sizes, d, k, metric):
    """Few queries, or many of a list at once: empty lists, lists of one, lists of several chunks."""
    torch.manual_seed(nq + d)
    lists, x = lists_of(sizes, d), torch.randn(nq, d)
    keys = torch.stack([torch.randperm(len(sizes)) for _ in range(nq)])
    answer = twin_of("ivf.scan_flat")(*put((x, lists.codes.view(torch.float32), lists, keys), DEVICE), k, metric)
    expected = ivf.scan_flat.definition(x, lists.codes.view(torch.float32), lists, keys, k, metric)
    assert_same_neighbours(expected[:2], tuple(t.cpu() for t in answer[:2]))
    assert tuple(answer[2].tolist())[:2] == expected[2][:2]


@pytest.mark.parametrize("words", [1, 3, 24])
def test_walks_among_codes(words):
    """Hamming distances, where ties part walks: so with room for every node, that all are met."""
    torch.manual_seed(words)
    rows, x = (torch.randint(0, 256, (n, 4 * words), dtype=torch.uint8).view(torch.float32) for n in (40, 3))
    ends, edges = torch.tensor([0, 3], dtype=torch.int32), torch.arange(40)[:, None] + torch.tensor([1, 7, 20])
    linked = graph.Graph(torch.ones(40, dtype=torch.int32), torch.arange(41) * 3, (edges % 40).int().view(-1), ends, 0, 0)
    given = x, rows, linked, graph.Walk(64, 64), 9, HAMMING, 0.0, torch.arange(40) % 3 > 0
    answer, expected = twin_of("graph.search")(*put(given, DEVICE)), graph.search.definition(*given)
    bits = (rows.view(torch.uint8)[None] ^ x.view(torch.uint8)[:, None])[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
    for distances, labels in (put(answer[:2], torch.device("cpu")), expected[:2]):
        assert torch.equal(distances, expected[0]) and torch.equal(bits.sum((2, 3)).gather(1, labels).float(), distances)
        assert (labels % 3 > 0).all() and all(len(set(row)) == 9 for row in labels.tolist())


@pytest.mark.parametrize("n,m,k", [(1, 20_000, 10), (2, 300, 3000), (13, 1, 1)])
@pytest.mark.parametrize("largest", [False, True])
def test_selection(n, m, k, largest):
    torch.manual_seed(n + m + k)
    values, ids = torch.randint(-50, 50, (n, m)).float(), torch.randperm(m)
    answer = twin_of("select.select")(values.to(DEVICE), ids.to(DEVICE), k, largest)
    expected = select.definition(values, ids, k, largest)
    assert torch.equal(answer[0].cpu(), expected[0]) and torch.equal(answer[1].cpu(), expected[1])


@pytest.mark.parametrize("held", [64, 4096])
@pytest.mark.parametrize("n,m,take,first", [(2, 700, 3, True), (1, 333, 40, True), (3, 500, 7, False)])
def test_columns_of_the_best(n, m, take, first, held, monkeypatch):
    """Rows that registers hold and longer ones, through spans of columns; ties, infinite costs, rows of little; what is left out."""
    from tsscompat.kernels.triton import pick

    monkeypatch.setattr(pick, "_HELD", held)
    torch.manual_seed(m)
    values = torch.randint(-9, 9, (n, m)).float()
    values[torch.rand(n, m) < 0.2] = float("inf")
    values[-1, 5:] = float("nan")
    left_out = torch.zeros(n, device=DEVICE)
    found = pick.pick(values.to(DEVICE), None, take, first=first, bounds=left_out).cpu()
    order = values.nan_to_num(float("inf"), float("inf")).sort(dim=1, stable=True)
    for row, (columns, costs, bound) in enumerate(zip(order.indices, order.values, left_out.cpu())):
        best = columns[:take][costs[:take] < float("inf")]
        picked = found[row][found[row] >= 0].long()
        assert torch.equal(picked, picked.sort().values)
        assert torch.equal(picked, best.sort().values) if first else set(best.tolist()) <= set(picked.tolist())
        rest = torch.ones(m, dtype=torch.bool).index_fill(0, best, False)
        assert bound <= values[row][rest].nan_to_num(float("inf"), float("inf")).min()


def test_memory_that_runs_out_is_met_with_smaller_blocks(monkeypatch):
    from tsscompat.kernels.triton import launch

    asked = []

    def call(budget: int) -> str:
        asked.append(budget)
        if len(asked) < 3:
            raise torch.OutOfMemoryError("no room")
        return "done"

    assert launch.within_memory(call) == "done"
    assert asked == [launch.BUDGET, launch.BUDGET >> 3, launch.BUDGET >> 6]
    asked[:] = []
    with pytest.raises(OutOfDeviceMemory, match="none at all"):
        launch.within_memory(lambda budget: (_ for _ in ()).throw(torch.OutOfMemoryError("none at all")))
