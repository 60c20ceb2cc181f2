"""Vector transforms: trained on the same data they are FAISS's, up to the signs that a decomposition leaves open."""

from __future__ import annotations

import copy

import faiss as oracle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat

D = 12
MODULES = (oracle, tsscompat)


def data(n: int = 600, seed: int = 1, d: int = D) -> np.ndarray:
    """Correlated numbers, with a variance for each axis that no other has, away from the origin."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((d, d)))[0]
    return ((rng.standard_normal((n, d)) * 1.3 ** -np.arange(d) + 0.5) @ turn).astype(np.float32)


def set_up(transform, **fields):
    for name, value in fields.items():
        setattr(transform, name, value)
    return transform


# What is the same number for number: drawn from a seed, or worked out without a decomposition.
EXACT = {
    "rotation": lambda faiss: faiss.RandomRotationMatrix(D, D),
    "rotation to fewer": lambda faiss: faiss.RandomRotationMatrix(D, 5),
    "rotation to more": lambda faiss: faiss.RandomRotationMatrix(D, 17),
    "hadamard": lambda faiss: faiss.HadamardRotation(D),
    "hadamard, a power of two": lambda faiss: faiss.HadamardRotation(16, 99),
    "remap": lambda faiss: faiss.RemapDimensionsTransform(D, 20, True),
    "remap, not uniform": lambda faiss: faiss.RemapDimensionsTransform(D, 20, False),
    "remap to fewer": lambda faiss: faiss.RemapDimensionsTransform(D, 5, True),
    "normalize": lambda faiss: faiss.NormalizationTransform(D, 2.0),
    "center": lambda faiss: faiss.CenteringTransform(D),
    "opq": lambda faiss: set_up(faiss.OPQMatrix(D, 3), niter=2, niter_pq=3, niter_pq_0=4),
    "opq to fewer": lambda faiss: set_up(faiss.OPQMatrix(D, 3, 6), niter=1, niter_pq_0=4),
}
# What is the same up to the sign of each output.
SIGNED = {
    "pca": lambda faiss: faiss.PCAMatrix(D, D),
    "pca to fewer": lambda faiss: faiss.PCAMatrix(D, 5),
    "whitening": lambda faiss: faiss.PCAMatrix(D, 6, -0.5),
    "whitening, softened": lambda faiss: set_up(faiss.PCAMatrix(D, 6, -0.5), epsilon=0.1),
    "balanced pca": lambda faiss: set_up(faiss.PCAMatrix(D, 6), balanced_bins=3),
}
# What turns axes with free signs once more: only lengths are the same. ITQ does so in each iteration.
TURNED = {
    "itq": lambda faiss: faiss.ITQMatrix(D),
    "pca, turned": lambda faiss: faiss.PCAMatrix(D, D, 0, True),
    "itq with pca": lambda faiss: faiss.ITQTransform(D, 6, True),
}
ALL = EXACT | SIGNED | TURNED


def trained(faiss, make, x):
    transform = make(faiss)
    if not transform.is_trained:
        transform.train(x)
    return transform


def width(make) -> int:
    return make(tsscompat).d_in


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=3)
@given(seed=st.integers(0, 10000))
def test_outputs_are_equal(name, seed):
    d = width(EXACT[name])
    theirs, ours = (trained(faiss, EXACT[name], data(600, seed, d)) for faiss in MODULES)
    assert (ours.d_in, ours.d_out, ours.is_trained) == (theirs.d_in, theirs.d_out, theirs.is_trained)
    x = data(9, seed + 1, d)
    np.testing.assert_allclose(ours.apply(x), theirs.apply(x), rtol=1e-3, atol=1e-3)
    if hasattr(theirs, "A"):
        np.testing.assert_allclose(
            tsscompat.vector_to_array(ours.A), oracle.vector_to_array(theirs.A), rtol=1e-3, atol=1e-3, err_msg="A"
        )


@pytest.mark.parametrize("name", SIGNED)
@settings(max_examples=3)
@given(seed=st.integers(0, 10000))
def test_outputs_are_equal_up_to_signs(name, seed):
    theirs, ours = (trained(faiss, SIGNED[name], data(600, seed)) for faiss in MODULES)
    x = data(40, seed + 1)
    expected, got = theirs.apply(x), ours.apply(x)
    signs = np.sign((expected * got).sum(0))
    np.testing.assert_allclose(got * signs, expected, rtol=1e-3, atol=1e-3)
    for field in ("eigenvalues", "mean"):
        np.testing.assert_allclose(
            tsscompat.vector_to_array(getattr(ours, field)), oracle.vector_to_array(getattr(theirs, field)), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("name", TURNED)
def test_lengths_are_equal(name):
    theirs, ours = (trained(faiss, TURNED[name], data()) for faiss in MODULES)
    x = data(40, 5)
    np.testing.assert_allclose(
        np.linalg.norm(ours.apply(x), axis=1), np.linalg.norm(theirs.apply(x), axis=1), rtol=1e-3, atol=1e-3
    )


def test_fewer_points_than_dimensions():
    x = data(7, 3)
    theirs, ours = (trained(faiss, lambda faiss: faiss.PCAMatrix(D, 5), x) for faiss in MODULES)
    expected, got = theirs.apply(x), ours.apply(x)
    np.testing.assert_allclose(got * np.sign((expected * got).sum(0)), expected, rtol=1e-2, atol=1e-3)


# FAISS has no way back through these.
ONE_WAY = {"whitening", "whitening, softened", "itq", "itq with pca", "hadamard"}


@pytest.mark.parametrize("name", ALL)
def test_the_way_back(faiss, name):
    d = width(ALL[name])
    transform, x = trained(faiss, ALL[name], data(600, 2, d)), data(30, 4, d)
    if name in ONE_WAY:
        with pytest.raises(RuntimeError):
            transform.reverse_transform(transform.apply(x))
        return
    if name == "normalize":
        # What is normal stays.
        np.testing.assert_allclose(transform.reverse_transform(transform.apply(x)), transform.apply(x), rtol=1e-5)
        return
    there = transform.apply(x)
    again = transform.apply(transform.reverse_transform(there))
    np.testing.assert_allclose(again, there, rtol=1e-3, atol=1e-3)
    if transform.d_out >= d:
        np.testing.assert_allclose(transform.reverse_transform(there), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_what_is_refused(faiss, name):
    d = width(ALL[name])
    transform = ALL[name](faiss)
    if not transform.is_trained:
        with pytest.raises(RuntimeError):
            transform.apply(data(3, 1, d))
    with pytest.raises(AssertionError):
        transform.train(data(300, 1, d + 1))
    transform = trained(faiss, ALL[name], data(600, 2, d))
    for method, wrong in (("apply", d + 1), ("reverse_transform", transform.d_out + 1)):
        with pytest.raises(AssertionError):
            getattr(transform, method)(np.zeros((2, wrong), dtype=np.float32))


@pytest.mark.parametrize("name", ALL)
def test_tensors_copies_and_empty_batches(name):
    d = width(ALL[name])
    transform, x = trained(tsscompat, ALL[name], data(600, 2, d)), data(5, 3, d)
    out = transform.apply(x)
    assert out.dtype == np.float32 and out.shape == (5, transform.d_out)
    as_tensor = transform.apply(torch.from_numpy(x))
    assert isinstance(as_tensor, torch.Tensor)
    np.testing.assert_array_equal(as_tensor.numpy(), out)
    np.testing.assert_array_equal(copy.deepcopy(transform).apply(x), out)
    assert transform.apply(x[:0]).shape == (0, transform.d_out)
    transform.check_identical(copy.deepcopy(transform))
    with pytest.raises(RuntimeError):
        transform.check_identical(tsscompat.VectorTransform(d, d))


@given(seed=st.integers(0, 1000), d_in=st.integers(1, 9), d_out=st.integers(1, 9), bias=st.booleans())
def test_linear_transforms_made_by_hand(seed, d_in, d_out, bias):
    rng, found = np.random.default_rng(seed), []
    matrix, offset, x = (rng.standard_normal(s).astype(np.float32) for s in ((d_out, d_in), d_out, (7, d_in)))
    for faiss in MODULES:
        transform = faiss.LinearTransform(d_in, d_out, bias)
        faiss.copy_array_to_vector(matrix.ravel(), transform.A)
        if bias:
            faiss.copy_array_to_vector(offset, transform.b)
        transform.is_trained = True
        transform.set_is_orthonormal()
        back = np.empty((7, d_in), dtype=np.float32)
        there = transform.apply(x)
        transform.transform_transpose(7, faiss.swig_ptr(there), faiss.swig_ptr(back))
        found.append((there, back, transform.is_orthonormal))
    for theirs, ours in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1][0], x @ matrix.T + (offset if bias else 0), rtol=1e-4, atol=1e-4)


def test_pca_of_a_loaded_matrix_is_prepared_again():
    found = []
    for faiss in MODULES:
        transform = trained(faiss, lambda faiss: faiss.PCAMatrix(D, 4), data())
        transform.eigen_power = -0.5
        transform.prepare_Ab()
        found.append(np.abs(transform.apply(data(30, 4))))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_opq_with_a_quantizer_of_its_own():
    found = []
    for faiss in MODULES:
        transform = set_up(faiss.OPQMatrix(D, 3), niter=2, niter_pq=3, niter_pq_0=3)
        pq = faiss.ProductQuantizer(D, 3, 4)
        transform.pq = pq
        transform.train(data())
        found.append((transform.apply(data(5, 4)), faiss.vector_to_array(pq.centroids)))
    for theirs, ours in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
