"""The comparers fail when they should."""

from __future__ import annotations

import numpy as np
import pytest
from compare import assert_as_good, assert_no_worse, assert_same_neighbours, assert_same_ranges, recall

D = np.array([[1.0, 2.0, 2.0, 3.0]], dtype=np.float32)
I = np.array([[4, 7, 5, 9]])


def test_equal_answers_and_swapped_ties_pass():
    assert_same_neighbours((D, I), (D, I))
    assert_same_neighbours((D, I), (D, np.array([[4, 5, 7, 9]])))
    assert_same_neighbours((D, I), (D, np.array([[4, 7, 5, 11]])))  # tied with the last


@pytest.mark.parametrize(
    ("distances", "ids"),
    [
        (D + 0.01, I),
        (D, np.array([[7, 4, 5, 9]])),  # a swap of what is not tied
        (D, np.array([[4, 7, 11, 9]])),  # a stranger better than the last
        (D, np.array([[4, 7, 5, -1]])),
        (D[:, :3], I[:, :3]),
    ],
)
def test_different_answers_fail(distances, ids):
    with pytest.raises(AssertionError):
        assert_same_neighbours((D, I), (distances, ids))


def test_ranges():
    lims, d, i = np.array([0, 2]), np.array([0.5, 0.7]), np.array([3, 4])
    assert_same_ranges((lims, d, i), (lims, d[::-1], i[::-1]), radius=1.0)
    assert_same_ranges((lims, d, i), (np.array([0, 3]), np.append(d, 1.0), np.append(i, 5)), radius=1.0)
    for other in [(lims, d, np.array([3, 5])), (lims, d + 0.1, i), (np.array([0, 1]), d[:1], i[:1])]:
        with pytest.raises(AssertionError):
            assert_same_ranges((lims, d, i), other, radius=1.0)


def test_as_good():
    assert_as_good(D, D, exact=True)
    assert_as_good(D, D + 0.03, exact=False)
    for exact in (True, False):
        with pytest.raises(AssertionError):
            assert_as_good(D, D + 0.1, exact=exact)


def test_recall():
    assert recall(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75


def test_worse_answers_are_noticed():
    D = np.array([[1.0, 2.0, 3.0]])
    assert_no_worse(D, D - [0, 0, 0.01], similar=False)
    assert_no_worse(D, D + [0, 0, 0.01], similar=True)
    for got in (D + [0, 0, 0.1], D - 1):
        with pytest.raises(AssertionError):
            assert_no_worse(D, got, similar=False)
