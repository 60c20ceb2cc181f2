"""Search screened by 8-bit integers must give the answers of float32, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsscompat.kernels import flat
from tsscompat.kernels.metrics import INNER_PRODUCT, L2

screen = pytest.importorskip("tsscompat.kernels.numba.screen")
heap = pytest.importorskip("tsscompat.kernels.numba.flat")

# Data for which the bound is easy, hopeless (all rows nearly alike), or has to survive zeros, repetitions, and mixed magnitudes.
KINDS = ("normal", "alike", "zeros", "repeated", "scales", "integers", "offset")


def table(kind: str, n: int, d: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d), dtype=np.float32)
    if kind == "alike":
        x = 1 + 0.02 * x
    elif kind == "zeros":
        x[rng.random(n) < 0.3] = 0
    elif kind == "repeated":
        x = x[rng.integers(0, max(1, n // 8), n)]
    elif kind == "scales":
        x *= (10.0 ** rng.integers(-4, 4, (n, 1))).astype(np.float32)
    elif kind == "integers":
        x = np.rint(x * 3)
    elif kind == "offset":
        x += 100
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def exact(x: torch.Tensor, y: torch.Tensor, metric: int) -> torch.Tensor:
    """All costs, in double precision."""
    a, b = x.double(), y.double()
    return -(a @ b.t()) if metric == INNER_PRODUCT else torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def screened(x: torch.Tensor, y: torch.Tensor, k: int, metric: int, mask: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    ip = metric == INNER_PRODUCT
    costs, labels = np.empty((x.shape[0], k), dtype=np.float32), np.empty((x.shape[0], k), dtype=np.int64)
    heap.start_heaps(costs, labels, ip)
    done = screen.knn(x, y, ip, mask, costs, labels)
    heap.finish_heaps(costs, labels, ip, 0, x.shape[0])
    return done, costs, labels


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    nq=st.integers(1, 70),
    nb=st.integers(1, 3000),
    d=st.sampled_from([1, 16, 31, 64, 96, 130]),
    k=st.integers(1, 40),
    metric=st.sampled_from([L2, INNER_PRODUCT]),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_screened_search_is_exact(kind, nq, nb, d, k, metric, masked, seed):
    x, y = table(kind, nq, d, seed), table(kind, nb, d, seed + 1)
    mask = np.random.default_rng(seed).random(nb) < 0.5 if masked else np.empty(0, dtype=bool)
    done, values, labels = screened(x, y, k, metric, mask)
    costs = exact(x, y, metric)
    if masked:
        costs[:, torch.from_numpy(~mask)] = float("inf")
    if done < nb:
        return  # the caller goes on without integers; test_giving_up has that
    wanted = costs.sort(1).values[:, :k].numpy()
    given_up = wanted == np.inf
    assert (labels[:, : wanted.shape[1]][given_up] == -1).all()
    size = (x.norm(dim=1, keepdim=True) * y.norm(dim=1).max() + x.norm(dim=1, keepdim=True) ** 2).numpy()
    got = -values if metric == INNER_PRODUCT else values
    close = (
        np.abs(got[:, : wanted.shape[1]] - wanted) <= 1e-5 * np.where(given_up, 1, np.maximum(np.abs(wanted), 1e-3 * size)) + 1e-9
    )
    assert (close | given_up).all()
    for row in labels:
        real = row[row >= 0]
        assert len(set(real.tolist())) == len(real)
        assert not masked or mask[real].all()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 600),
    k=st.integers(1, 1100),
    d=st.sampled_from([1, 17, 33, 128]),
    metric=st.sampled_from([L2, INNER_PRODUCT]),
    seed=st.integers(0, 99),
)
def test_screened_nearest_is_exact(kind, n, k, d, metric, seed):
    x, y = table(kind, n, d, seed), table(kind, k, d, seed + 1)
    costs, labels = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int64)
    done = screen.nearest(x, y, metric == INNER_PRODUCT, costs, labels)
    every = exact(x, y, metric)[:done]
    found = every[torch.arange(done), torch.from_numpy(labels[:done])]
    size = x[:done].norm(dim=1) * y.norm(dim=1).max() + x[:done].norm(dim=1) ** 2
    assert (found - every.min(1).values <= 2e-6 * torch.maximum(every.min(1).values.abs(), 0.05 * size) + 1e-9).all()
    ours = torch.from_numpy(costs[:done]).double() * (-1 if metric == INNER_PRODUCT else 1)
    assert torch.allclose(ours, found, rtol=1e-5, atol=1e-6 * float(size.max() if done else 0) + 1e-9)


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
@pytest.mark.parametrize("kind", KINDS)
def test_searches_that_use_it_agree_with_the_definition(kind, metric):
    """Through the door of the kernel, with a table of several tiles, rows of NaN and infinity, and a mask."""
    x, y = table(kind, 130, 72, 3), table(kind, 5000, 72, 4)
    y[17], y[4321, 5], x[3, 0] = float("nan"), float("nan"), float("nan")
    allowed = torch.rand(5000, generator=torch.Generator().manual_seed(1)) < 0.7
    for mask in (None, allowed):
        got, expected = flat.knn(x, y, 7, metric, 0.0, mask), flat.knn.definition(x, y, 7, metric, 0.0, mask)
        scale = float(x[4:].norm(dim=1).max() * y[18:4000].norm(dim=1).max())
        assert torch.allclose(got[0], expected[0], rtol=1e-4, atol=2e-5 * scale)
        assert (got[1][3] == -1).all()
        assert not np.isin(got[1].numpy(), [17, 4321]).any()
    near = flat.nearest(x, y[:1500], metric)
    wanted = flat.nearest.definition(x, y[:1500], metric)
    assert torch.allclose(
        near[0], wanted[0], rtol=1e-4, atol=2e-5 * float(x[4:].norm(dim=1).max() * y[18:1500].norm(dim=1).max())
    )


def test_giving_up():
    """Where all rows are alike no bound closes: the search stops scoring one by one, and the answer is the same."""
    x, y = table("alike", 128, 96, 1), table("alike", 200_000, 96, 2)
    costs, labels = np.empty((128, 3), dtype=np.float32), np.empty((128, 3), dtype=np.int64)
    heap.start_heaps(costs, labels, False)
    assert screen.knn(x, y, False, np.empty(0, dtype=bool), costs, labels) < len(y)
    got = flat.knn(x, y, 3, L2)
    best = exact(x[:8], y, L2).sort(1).values[:, :3]
    assert torch.allclose(got[0][:8].double(), best, rtol=1e-4, atol=3e-4)


def test_magnitudes_beyond_the_bound_are_refused():
    for size in (1e-30, 1e-20, 1e20, float("inf"), float("nan")):
        assert not screen.quantize(torch.full((3, 4), size)).sound
    assert screen.quantize(torch.zeros(3, 4)).sound


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "alike"])
def test_guessing_what_the_best_cost(kind, metric):
    """From so many rows on the worst of the best k is guessed from a sample; rows in order of their costs, and masked ones, included."""
    x, y = table(kind, 40, 24, 7), table(kind, 40_000, 24, 8)
    y = y[exact(x[:1], y, metric)[0].argsort(descending=True)]
    half = np.random.default_rng(1).random(len(y)) < 0.5
    assert screen.sampled(len(y), 60) is not None
    for mask in (np.empty(0, dtype=bool), half):
        done, _, labels = screened(x, y, 60, metric, mask)
        if done < len(y):
            continue
        costs = exact(x, y, metric)
        if len(mask):
            costs[:, torch.from_numpy(~mask)] = float("inf")
        wanted, got = costs.sort(1).values[:, :60], costs.gather(1, torch.from_numpy(labels))
        size = float(x.norm(dim=1).max() * y.norm(dim=1).max())
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6 * size)
        assert all(len(set(row)) == 60 for row in labels.tolist())


@pytest.mark.parametrize("wrong", ["some", "all"])
def test_guesses_that_are_wrong(monkeypatch, wrong):
    """A guess that too few rows satisfy is found out, and those queries are gone over again."""
    x, y, mask = table("normal", 40, 24, 7), table("normal", 40_000, 24, 8), np.empty(0, dtype=bool)
    _, values, labels = screened(x, y, 60, L2, mask)
    square = (x * x).sum(1).numpy()

    def too_high(self, *args):
        # What half of the best 60 have.
        step = 3 if wrong == "some" else 1
        self.floors[::step] = ((square - values[:, 30]) / 2 * self.inverse)[::step]

    monkeypatch.setattr(screen.Screen, "expect", too_high)
    done, *answer = screened(x, y, 60, L2, mask)
    assert done == len(y)
    np.testing.assert_array_equal(answer[0], values)
    np.testing.assert_array_equal(answer[1], labels)


def test_giving_up_after_a_guess():
    """Nothing that a wrong guess left out is lost where integers stop paying on the way."""
    x, y = table("normal", 40, 24, 7), table("normal", 40_000, 24, 8)
    costs, labels = screen.empty_heaps(40, 60, False)
    one = screen.Screen(x, False, costs, labels)
    one.floors[::2] = np.inf
    assert one.fill(40_000, lambda other: 20_000 * other.enter(y[:20_000], 0, np.empty(0, dtype=bool))) == 0
    assert (costs == heap.WORST).all() and (labels == -1).all()


@pytest.mark.parametrize("d", [3, 16, 80])
@pytest.mark.parametrize("nq, k", [(5, 1), (30, 1), (30, 4), (150, 4)])
def test_rows_far_from_the_origin_keep_their_digits(nq, k, d):
    """|x|² + |y|² - 2xy of such rows would be wrong in the second digit, and name others."""
    rng = np.random.default_rng(d)
    x, y = (torch.from_numpy((rng.normal(size=(n, d)) + 300).astype(np.float32)) for n in (nq, 700))
    exact = torch.cdist(x.double(), y.double()).square()
    wanted, names = exact.sort(1)
    if k == 1:
        near, name = flat.nearest(x, y)
        found, labels = near[:, None], name[:, None]
    else:
        found, labels = flat.knn(x, y, k, L2)
    np.testing.assert_allclose(found, wanted[:, :k], rtol=2e-5)
    np.testing.assert_array_equal(labels, names[:, :k])
    radius = float(wanted[:, 9].median())
    limits, within, _ = flat.within(x, y, radius, L2)
    assert abs(int(limits[-1]) - int((exact < radius).sum())) <= 1 and float(within.max()) < radius


@pytest.mark.parametrize("d", [8, 80])
@pytest.mark.parametrize("k", [1, 3])
def test_inner_products_whose_squares_overflow(d, k):
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32)) for n in (150, 400))
    huge = x * 1e25
    found = flat.nearest(huge, y, INNER_PRODUCT)[1] if k == 1 else flat.knn(huge, y, k, INNER_PRODUCT)[1]
    wanted = torch.sort(x.double() @ y.double().t(), dim=1, descending=True, stable=True).indices[:, :k]
    assert (found.view(150, k) == wanted).float().mean() > 0.99
