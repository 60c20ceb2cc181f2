"""What counts as the same answer: distances up to rounding, ids up to ties."""

from __future__ import annotations

import numpy as np


def assert_same_neighbours(expected, got, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """Two (distances, ids) of one search agree: each distance up to rounding, and ids that differ are tied.

    An id that only one of the two has must be tied with the worst one of its row; an id that both have must have one distance.
    """
    (d_expected, i_expected), (d_got, i_got) = ((np.asarray(d), np.asarray(i)) for d, i in (expected, got))
    assert d_got.shape == d_expected.shape and i_got.shape == i_expected.shape
    np.testing.assert_array_equal(i_got == -1, i_expected == -1)
    np.testing.assert_allclose(d_got, d_expected, rtol=rtol, atol=atol)
    for row in np.nonzero((i_got != i_expected).any(axis=1))[0]:
        ours = dict(zip(i_got[row].tolist(), d_got[row].tolist()))
        theirs = dict(zip(i_expected[row].tolist(), d_expected[row].tolist()))
        worst = d_expected[row, -1]
        for i in ours.keys() | theirs.keys():
            one, other = ours.get(i, worst), theirs.get(i, worst)
            assert np.isclose(one, other, rtol=rtol, atol=atol), f"row {row}: id {i} at {one}, expected {other}"


def assert_same_ranges(expected, got, radius: float, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """Two (lims, distances, ids) of one range search agree, in any order; an id that only one has lies on the radius."""
    for row in range(len(expected[0]) - 1):
        one, other = (
            dict(zip(ids[lo:hi].tolist(), d[lo:hi].tolist()))
            for lims, d, ids in (expected, got)
            for lo, hi in [lims[row : row + 2]]
        )
        for i in one.keys() | other.keys():
            a, b = one.get(i, radius), other.get(i, radius)
            assert np.isclose(a, b, rtol=rtol, atol=atol), f"row {row}: id {i} at {b}, expected {a}"
    assert len(got[0]) == len(expected[0])


def assert_as_good(expected: np.ndarray, got: np.ndarray, exact: bool, tolerance: float = 0.02) -> None:
    """Distances of two searches agree one by one; where a graph was built anew, on average."""
    if exact:
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    else:
        assert abs(got.mean() - expected.mean()) <= tolerance * np.abs(expected).mean()


def assert_no_worse(expected: np.ndarray, got: np.ndarray, similar: bool, tolerance: float = 1e-3) -> None:
    """Of two searches' distances, best first, the second's are as good at each place, or better; on average hardly better."""
    better = (got - expected) * (1 if similar else -1)
    assert (better >= -tolerance * np.maximum(1, np.abs(expected))).all()
    assert better.mean() <= 0.02 * np.abs(expected).mean()


def recall(truth: np.ndarray, found: np.ndarray) -> float:
    """The share of the true neighbours that were found."""
    return float(np.mean([len(np.intersect1d(t, f)) / len(t) for t, f in zip(truth, found)]))
