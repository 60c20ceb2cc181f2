"""Points of whole numbers on a sphere: the one nearest to a vector, and its number among all of them.

Numbers come from halving the dimensions: points of dimension 2^l and squared norm r are counted in `counts[l, r]`; those whose first half
has a squared norm below a come first, `before[l, r, a]` of them; then codes of both halves are the digits. Counts wrap at 2^64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated


@accelerated
def nearest_points(x: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The points (n, d) nearest in direction to each vector, the atom that each is made of, and the products with the vectors.

    Atoms (m, d) have falling numbers of at least 0; all points are atoms with numbers permuted and signs changed.
    """
    order = x.abs().sort(dim=1, descending=True, stable=True).indices
    products, best = (x.abs().gather(1, order) @ atoms.T).max(1)
    points = torch.empty_like(x).scatter_(1, order, atoms[best])
    return torch.copysign(points, x), best, products


@accelerated
def encode_points(points: Tensor, counts: Tensor, before: Tensor) -> Tensor:
    """The numbers (n,) of points of 2^l dimensions on the largest sphere that is counted; -1 for what is no such point."""
    outside = (points != points.round()).any(1) | (points.square().sum(1) != counts.shape[1] - 1)
    points = points.masked_fill(outside[:, None], 0.0)
    squares = points.square().to(torch.int64)
    codes = (points < 0).to(torch.int64)
    for level in range(1, counts.shape[0]):
        a, b = squares[:, 0::2], squares[:, 1::2]
        codes = before[level, a + b, a] + codes[:, 0::2] * counts[level - 1, b] + codes[:, 1::2]
        squares = a + b
    return codes[:, 0].masked_fill(outside, -1)


@accelerated
def decode_points(codes: Tensor, counts: Tensor, before: Tensor) -> Tensor:
    """The points of numbers, on the largest sphere that is counted."""
    codes, squares = codes[:, None], torch.full((codes.shape[0], 1), counts.shape[1] - 1, dtype=torch.int64, device=codes.device)
    for level in range(counts.shape[0] - 1, 0, -1):
        # The last of the first halves that begin at or before the code, by bisection.
        low, high = torch.zeros_like(squares), squares + 1
        while bool((high > low + 1).any()):
            middle = (low + high) // 2
            begun, open_ = before[level, squares, middle.clamp(max=counts.shape[1] - 1)] <= codes, high > low + 1
            low, high = torch.where(open_ & begun, middle, low), torch.where(open_ & ~begun, middle, high)
        inner, rest = codes - before[level, squares, low], squares - low
        each = counts[level - 1, rest].clamp(min=1)
        codes = torch.stack([inner.div(each, rounding_mode="floor"), inner % each], 2).flatten(1)
        squares = torch.stack([low, rest], 2).flatten(1)
    sizes = squares.float().sqrt()
    return torch.where(codes == 0, sizes, -sizes)
