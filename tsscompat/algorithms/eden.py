"""EDEN's codes: a Lloyd-Max code of the direction, a square for distances, and the scale of the decoded direction.

The two factors follow the code in single precision. The unbiased scale makes the product with the vector right; the biased one makes the
squared error least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms import scalar

UNBIASED, BIASED = 1, 2
FACTORS = 8


def encode(residuals: Tensor, qtype: int, trained: Tensor, scale_type: int) -> Tensor:
    """Codes of vectors, less their centers."""
    d = residuals.shape[1]
    squares = residuals.new_zeros(residuals.shape[0])
    # One number after the other: the sum is stored.
    for column in residuals.t().contiguous():
        squares += column * column
    empty = squares <= torch.finfo(torch.float32).eps
    unit = residuals * torch.tensor(d, dtype=torch.float32).sqrt() * (1 / squares.sqrt())[:, None]
    codes = scalar.encode(unit, qtype, trained)
    # Sums in double precision, and in one order on every machine, as in FAISS.
    decoded = scalar.decode(codes, qtype, trained, d).double()
    product, square = (decoded * residuals).sum(1), decoded.square().sum(1)
    if scale_type == BIASED:
        scale = (product / square).float()
        norms = (scale.double().square() * square).float()
    else:
        scale, norms = (squares.double() / product).float(), squares
    blank = ~scale.isfinite()
    factors = torch.stack([norms, scale], 1).masked_fill((empty | blank)[:, None], 0)
    return torch.cat([codes.masked_fill(empty[:, None], 0), factors.view(torch.uint8)], 1)


def _parts(codes: Tensor, qtype: int, trained: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Decoded residuals and their squares for distances."""
    body = codes.shape[1] - FACTORS
    norms, scale = codes[:, body:].clone(memory_format=torch.contiguous_format).view(torch.float32).unbind(1)
    return scalar.decode(codes[:, :body].contiguous(), qtype, trained, d) * scale[:, None], norms


def decode(codes: Tensor, qtype: int, trained: Tensor, d: int) -> Tensor:
    """The vectors, less their centers, that codes stand for."""
    return _parts(codes, qtype, trained, d)[0]


def factors(codes: Tensor, qtype: int, trained: Tensor, centers: Tensor) -> Tensor:
    """The vectors of codes around centers, and in the last column what squared distances to them have to be corrected by."""
    decoded, norms = _parts(codes, qtype, trained, centers.shape[-1])
    return torch.cat([decoded + centers, (norms - decoded.square().sum(1))[:, None]], 1)
