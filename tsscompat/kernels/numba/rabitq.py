"""Compiled twins of kernels/rabitq.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.numba import rabitq_codes, rabitq_scan
from tsscompat.kernels.numba.ivf import ALONE, NO_BOUND, average_work, rest_of, top, within
from tsscompat.kernels.numba.ivf_few import few_in_blocks
from tsscompat.kernels.numba.ivf_lists import views
from tsscompat.kernels.rabitq import Coder
from tsscompat.kernels.threads import run_blocks


def _head(x: Tensor, coder: Coder, lists: Ragged) -> tuple[Any, ...]:
    codes, ids, offsets, sizes = views(lists)
    settings = (coder.nb_bits, coder.qb, coder.centered, coder.filtered)
    return x.numpy(), coder.centers.numpy(), *settings, codes.reshape(-1), codes.shape[1], ids, offsets, sizes


def _row_work(d: int, coder: Coder) -> float:
    """About how many nanoseconds a code takes."""
    return d * (0.05 if coder.qb else 0.1) + (d * 0.2 if coder.nb_bits > 1 else 0)


def _work(x: Tensor, coder: Coder, lists: Ragged, keys: Tensor) -> float:
    return average_work(keys.shape[1], views(lists)[1:], _row_work(x.shape[1], coder)) + keys.shape[1] * x.shape[1] * 1.5


def scan_rabitq(
    x: Tensor,
    coder: Coder,
    lists: Ragged,
    keys: Tensor,
    k: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    rest = rest_of(coder.metric == INNER_PRODUCT, NO_BOUND, allowed, limits, pairs)
    per_query = _work(x, coder, lists, keys)
    if coder.nb_bits > 1:
        # What is left out depends on what was seen before: a single query stays in one hand.
        per_query = min(per_query, ALONE)
    return top(rabitq_scan.by_query, _head(x, coder, lists), keys.numpy(), rest, k, per_query)


def few_rabitq(x: Tensor, coder: Coder, nprobe: int, lists: Ragged, k: int) -> Any:
    if coder.centers.shape[0] != lists.nlist or coder.metric not in (L2, INNER_PRODUCT):
        return NotImplemented
    head, nq = _head(x, coder, lists), x.shape[0]
    given = (*head[:2], nprobe, coder.metric == INNER_PRODUCT, *head[2:6], *head[6:8])
    return few_in_blocks(x, rabitq_scan.few, given, head[8:], _row_work(x.shape[1], coder) if nq > 1 else 0.0, k)


def within_rabitq(
    x: Tensor,
    coder: Coder,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Any:
    ip = coder.metric == INNER_PRODUCT
    rest = rest_of(ip, np.float32(-radius if ip else radius), allowed, limits, pairs)
    return within(rabitq_scan.by_query, _head(x, coder, lists), keys.numpy(), rest, _work(x, coder, lists, keys))


def best_scales(sizes: Tensor, more: int) -> Tensor:
    given, out = sizes.contiguous().numpy(), np.empty(sizes.shape[0], np.float32)
    # About 30 ns for each passage, of which there are up to 50 for each number.
    run_blocks(lambda a, b: rabitq_scan.scales(given, more, out, a, b), out.shape[0], max(1, 20_000 // (sizes.shape[1] + 1)))
    return torch.from_numpy(out)


def sign_codes(x: Tensor, centers: Tensor, metric: int, with_error: bool) -> Tensor:
    n, d = x.shape
    bytes_of_signs, numbers = (d + 7) // 8, 3 if with_error else 2
    codes, factors = np.empty((n, bytes_of_signs + 4 * numbers), np.uint8), np.empty((n, numbers), np.float32)
    around = centers.reshape(-1, d).contiguous().numpy()
    given = x.contiguous().numpy(), around, metric == INNER_PRODUCT
    run_blocks(lambda a, b: rabitq_codes.signs(*given, codes, factors, a, b), n, max(1, 200_000 // (d + 1)))
    codes[:, bytes_of_signs:] = factors.view(np.uint8)
    return torch.from_numpy(codes)
