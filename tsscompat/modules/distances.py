"""Distances between rows and the choice of the best, in the subset of Python that TorchScript, torch.export and ONNX take."""

import torch
from torch import Tensor

from tsscompat.kernels import metrics

INNER_PRODUCT, L2 = metrics.INNER_PRODUCT, metrics.L2


def is_similarity(metric: int) -> bool:
    """Whether larger is better."""
    return metric == 0 or metric == 23


def distance(x: Tensor, y: Tensor, metric: int, arg: float) -> Tensor:
    """Along the last dimension, which is summed away; the numbers are FAISS's (kernels/metrics.py)."""
    if metric == 0:
        return (x * y).sum(-1)
    if metric == 1:
        return (x - y).square().sum(-1)
    if metric == 2:
        return (x - y).abs().sum(-1)
    if metric == 3:
        return (x - y).abs().amax(-1)
    if metric == 4:
        return (x - y).abs().pow(arg).sum(-1)
    if metric == 20:
        return ((x - y).abs() / (x.abs() + y.abs())).sum(-1)
    if metric == 21:
        return (x - y).abs().sum(-1) / (x + y).abs().sum(-1)
    if metric == 22:
        middle = 0.5 * (x + y)
        return 0.5 * (-x * (middle / x).log() - y * (middle / y).log()).sum(-1)
    assert metric == 23, "no module for this metric"
    return torch.minimum(x, y).sum(-1) / torch.maximum(x, y).sum(-1)


def worst_of(metric: int) -> float:
    """The distance of what is not there: the worst float32."""
    worst = 3.4028234663852886e38  # TorchScript takes no constants from outside functions
    return -worst if is_similarity(metric) else worst


def nothing(x: Tensor, k: int, metric: int) -> tuple[Tensor, Tensor]:
    """An answer with nothing found."""
    distances = torch.full((x.shape[0], k), worst_of(metric), dtype=torch.float32, device=x.device)
    return distances, torch.full((x.shape[0], k), -1, dtype=torch.int64, device=x.device)


def order_of(x: Tensor) -> Tensor:
    """The order of the numbers of each row, equal ones as they come."""
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        if torch.compiler.is_compiling():
            # ONNX knows no sort that is called stable, and torch's other one is not, from 17 numbers on where the CPU has AVX-512: so
            # equal numbers, which stand together, are sorted once more, by their place.
            values, order = torch.sort(x, dim=1)
            first = torch.cat([torch.zeros_like(order[:, :1]), (values[:, 1:] != values[:, :-1]).long()], 1)
            return torch.sort(first.cumsum(1) * x.shape[1] + order, dim=1)[0] % x.shape[1]
    return torch.sort(x, stable=True, dim=1)[1]


def best_of(distances: Tensor, labels: Tensor, k: int, metric: int) -> tuple[Tensor, Tensor]:
    """The best k of labelled distances, ties in FAISS's order; label -1 and NaN are nothing."""
    largest = is_similarity(metric)
    cost = -distances.detach() if largest else distances.detach()
    cost = cost.masked_fill((labels < 0) | cost.isnan(), float("inf"))
    # Ordered by value, ties by label: a sort by label, then a stable one by value.
    by_label = order_of(-1 - labels if largest else labels)
    order = order_of(cost.gather(1, by_label))
    at = by_label.gather(1, order)[:, :k]
    gone = cost.gather(1, at) == float("inf")
    distances = distances.gather(1, at).masked_fill(gone, worst_of(metric))
    labels = labels.gather(1, at).masked_fill(gone, -1)
    short = k - labels.shape[1]
    if short > 0:
        more = nothing(distances, short, metric)
        return torch.cat([distances, more[0]], 1), torch.cat([labels, more[1]], 1)
    return distances, labels
