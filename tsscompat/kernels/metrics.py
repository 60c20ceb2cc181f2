"""The metrics: their numbers (FAISS's), which are similarities, and all distances between two sets of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated

INNER_PRODUCT, L2, L1, LINF, LP = 0, 1, 2, 3, 4
CANBERRA, BRAY_CURTIS, JENSEN_SHANNON, JACCARD, NAN_EUCLIDEAN, GOWER = 20, 21, 22, 23, 24, 25
# Bits that differ, for graphs only: their rows are then binary codes, whole words of 8 bytes, taken for floats.
HAMMING = 1000

# Differences of this many numbers are held at once.
_BLOCK = 1 << 24


def is_similarity(metric: int) -> bool:
    """Whether larger is better."""
    return metric in (INNER_PRODUCT, JACCARD)


def _nan_euclidean(x: Tensor, y: Tensor, arg: float) -> Tensor:
    both = ~(x.isnan() | y.isnan())
    present = both.sum(-1)
    total = torch.where(both, x - y, 0).square().sum(-1)
    return torch.where(present > 0, x.shape[-1] / present * total, float("nan"))


def _gower(x: Tensor, y: Tensor, arg: float) -> Tensor:
    known = ~(x.isnan() | y.isnan())
    numeric, category = (x >= 0) & (y >= 0), (x < 0) & (y < 0)
    wrong = known & (~(numeric | category) | (numeric & ((x > 1) | (y > 1))))
    part = torch.where(numeric, (x - y).abs(), (x != y).float())
    valid = known.sum(-1)
    value = torch.where(known, part, 0).sum(-1) / valid
    return torch.where(wrong.any(-1) | (valid == 0), float("nan"), value)


def _jensen_shannon(x: Tensor, y: Tensor, arg: float) -> Tensor:
    middle = 0.5 * (x + y)
    return 0.5 * (-x * (middle / x).log() - y * (middle / y).log()).sum(-1)


def _largest_gap(x: Tensor, y: Tensor, arg: float) -> Tensor:
    """A gap that is no number is never the largest, as in FAISS's comparisons."""
    gaps = (x - y).abs()
    return torch.where(gaps.isnan(), 0.0, gaps).amax(-1) if x.shape[-1] else gaps.sum(-1)


FORMULAS: dict[int, Callable[[Tensor, Tensor, float], Tensor]] = {
    INNER_PRODUCT: lambda x, y, p: (x * y).sum(-1),
    L2: lambda x, y, p: (x - y).square().sum(-1),
    L1: lambda x, y, p: (x - y).abs().sum(-1),
    LINF: _largest_gap,
    LP: lambda x, y, p: (x - y).abs().pow(p).sum(-1),
    CANBERRA: lambda x, y, p: ((x - y).abs() / (x.abs() + y.abs())).sum(-1),
    BRAY_CURTIS: lambda x, y, p: (x - y).abs().sum(-1) / (x + y).abs().sum(-1),
    JENSEN_SHANNON: _jensen_shannon,
    JACCARD: lambda x, y, p: torch.fmin(x, y).sum(-1) / torch.fmax(x, y).sum(-1),
    NAN_EUCLIDEAN: _nan_euclidean,
    GOWER: _gower,
}


@accelerated
def pairwise(x: Tensor, y: Tensor, metric: int, metric_arg: float = 0.0) -> Tensor:
    """The distance between each row of x and each row of y, term by term (no expansion of squares)."""
    formula = FORMULAS[metric]
    out = torch.empty(x.shape[0], y.shape[0], dtype=torch.float32, device=x.device)  # (nx, ny)
    step = max(1, _BLOCK // max(1, y.shape[0] * x.shape[1]))
    for i in range(0, x.shape[0], step):
        out[i : i + step] = formula(x[i : i + step, None], y[None], metric_arg)
    return out
