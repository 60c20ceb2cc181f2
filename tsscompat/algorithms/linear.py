"""Linear algebra behind the vector transforms: rotations, PCA, OPQ, ITQ; on row-major matrices (d_out, d_in), as FAISS's `A`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.algorithms.random import SplitMix64RandomGenerator, float_randn, rand_perm

SUBSAMPLE_SEED = 1234


def subsampled(x: Tensor, most: int) -> Tensor:
    """At most so many rows, chosen as FAISS chooses them."""
    return x if x.shape[0] <= most else x[rand_perm(x.shape[0], SUBSAMPLE_SEED)[:most].to(x.device)]


def to_unit(x: Tensor) -> Tensor:
    """What each row is multiplied by to have norm 1, (n, 1); 1 for rows of zeros."""
    squares = torch.linalg.vecdot(x, x)[:, None]
    return torch.where(squares > 0, 1 / squares.sqrt(), 1.0)


def normalised(x: Tensor) -> Tensor:
    """Rows of norm 1; rows of zeros stay."""
    return x * to_unit(x)


def orthonormal(seed: int, n_rows: int, d: int) -> Tensor:
    """n_rows <= d random orthonormal rows."""
    return torch.linalg.qr(float_randn(n_rows * d, seed).view(n_rows, d).t())[0].t().contiguous()


def random_rotation(d_in: int, d_out: int, seed: int) -> Tensor:
    """A random rotation (d_out, d_in); a tight frame when d_out is the larger."""
    return orthonormal(seed, d_out, d_in) if d_out <= d_in else orthonormal(seed, d_out, d_out)[:, :d_in].contiguous()


def hadamard_signs(seed: int, p: int) -> tuple[Tensor, Tensor, Tensor]:
    """The three sign flips of a Hadamard rotation."""
    words = SplitMix64RandomGenerator(seed).raw(3 * p)
    signs = torch.from_numpy((words % 2).astype("float32")) * 2 - 1
    first, second, third = signs.view(3, p).clone()
    return first, second, third


def walsh_hadamard(x: Tensor) -> Tensor:
    """The unnormalised Walsh-Hadamard transform of each row (a power of 2 long)."""
    n, p = x.shape
    step = 1
    while step < p:
        pairs = x.view(n, p // (2 * step), 2, step)
        x = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).view(n, p)
        step *= 2
    return x


def principal_axes(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues of the scatter matrix, largest first, and its eigenvectors as rows: d of them, or as many as there are points."""
    n, d = x.shape
    if n >= d:
        # The upper triangle, summed in single precision, decomposed in double, as FAISS does.
        scatter = x.t() @ x - n * torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(scatter.double(), UPLO="U")
        return values.flip(0).float(), vectors.t().flip(0).contiguous().float()
    centered = x - mean
    values, vectors = torch.linalg.eigh((centered @ centered.t()).double(), UPLO="U")
    axes = normalised(vectors.t().flip(0).float() @ centered)
    full = torch.zeros(d, device=x.device)
    full[:n] = values.flip(0).float()
    return full, axes


def balanced(axes: Tensor, eigenvalues: Tensor, bins: int) -> Tensor:
    """The rows dealt into bins of equal number so that the bins' eigenvalues add up to much the same."""
    size = axes.shape[0] // bins
    filled, weight, places = [0] * bins, [0.0] * bins, []
    for value in eigenvalues[: axes.shape[0]].tolist():
        best = min((j for j in range(bins) if filled[j] < size), key=weight.__getitem__)
        places.append(best * size + filled[best])
        weight[best] += value
        filled[best] += 1
    out = torch.empty_like(axes)
    out[torch.tensor(places, device=axes.device)] = axes
    return out


def itq(x: Tensor, rotation: Tensor, n_iter: int) -> Tensor:
    """Iterative quantisation: the rotation (its transpose is FAISS's A) that brings rotated data close to its signs."""
    data = x.double().t()  # (d, n)
    turn = rotation.double().t()
    for _ in range(n_iter):
        signs = torch.where(turn @ data < 0, -1.0, 1.0).double()
        u, _, vh = torch.linalg.svd(signs @ data.t())
        turn = u @ vh.t()
    return turn.float()


def opq(
    x: Tensor, rotation: Tensor, n_iter: int, requantise: Callable[[Tensor, int], Tensor], report: Callable[[int, float], None]
) -> Tensor:
    """The rotation (d2, d) under which a product quantiser loses least; `requantise(projected, iteration)` gives reconstructions."""
    d2 = rotation.shape[0]
    for i in range(n_iter):
        projected = x @ rotation.t()
        recons = requantise(projected, i)
        report(i, float((recons - projected).square().sum()) / x.shape[0])
        u, _, vh = torch.linalg.svd(recons.t() @ x)
        rotation = u @ vh[:d2]
    return rotation
