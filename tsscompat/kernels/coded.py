"""Exhaustive search of codes by decoding: blocks of codes become vectors, and those are compared with all queries by matrix product.

With many queries a decoded block is shared by all of them, which costs far less than reading each code for each query.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import unpack
from tsscompat.kernels.flat import row_distances
from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.select import merge, padded, select

# Decodes codes (n, code_size) into given vectors (n, d).
Decode = Callable[[Tensor, Tensor], None]
# Decoded numbers and distances that are held at once.
_BLOCK = 1 << 24


@accelerated
def worth_decoding(x: Tensor, bits: int, looked_up: bool) -> bool:
    """Whether decoding beats scoring each code for each query; `looked_up`: in tables of sums."""
    return True


@accelerated
def affine_rows(codes: Tensor, affine: Affine, out: Tensor) -> None:
    """Write the vectors of scalar codes into `out` (n, d)."""
    out.copy_(affine.values(codes, out.shape[1]))


@accelerated
def product_rows(codes: Tensor, centroids: Tensor, nbits: int, out: Tensor) -> None:
    """Write the vectors of product codes, with centroids (M, ksub, dsub), into `out` (n, d)."""
    m, ksub, dsub = centroids.shape
    parts = unpack(codes, m, nbits) + torch.arange(0, m * ksub, ksub, device=codes.device, dtype=torch.int32)
    out.copy_(centroids.reshape(m * ksub, dsub).index_select(0, parts.view(-1)).view(-1, m * dsub))


@accelerated
def knn_decoded(x: Tensor, codes: Tensor, decode: Decode, k: int, metric: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """The k best rows of codes for each query, by L2 or inner product, in FAISS's order.

    Candidates come from products; their distances are then computed again term by term, so that they do not depend on the norms.
    """
    largest = is_similarity(metric)
    distances, labels = padded(x.shape[0], k, largest, x.device)
    q_step = max(1, min(x.shape[0], _BLOCK >> 13))
    b_step = max(1, min(_BLOCK // q_step, _BLOCK // max(1, x.shape[1])))
    room = torch.empty(min(b_step, codes.shape[0]), x.shape[1], device=x.device)
    for start in range(0, codes.shape[0], b_step):
        block = room[: codes.shape[0] - start]
        decode(codes[start : start + b_step], block)
        ids = torch.arange(start, start + block.shape[0], device=x.device)
        if allowed is not None:
            ids = ids.masked_fill(~allowed[start : start + b_step], -1)
        norms = block.square().sum(1)
        for q in range(0, x.shape[0], q_step):
            rows = slice(q, q + q_step)
            values = x[rows] @ block.t()
            if not largest:
                values = values.mul_(-2).add_(norms)
            found = select(values, ids, min(k, block.shape[0]), largest)
            both = torch.cat([distances[rows], found[0]], 1), torch.cat([labels[rows], found[1]], 1)
            distances[rows], labels[rows] = merge(*both, k, largest)
    return again(x, codes, decode, labels, metric)


def again(x: Tensor, codes: Tensor, decode: Decode, labels: Tensor, metric: int) -> tuple[Tensor, Tensor]:
    """The rows found for each query, in the order of distances computed term by term."""
    k = labels.shape[1]
    values = torch.empty(labels.shape, device=x.device)
    step = max(1, _BLOCK // max(1, 1024 * k * x.shape[1]))
    room = torch.empty(min(step, x.shape[0]) * k, x.shape[1], device=x.device)
    for q in range(0, x.shape[0], step):
        names = labels[q : q + step]
        vectors = room[: names.numel()]
        decode(codes[names.clamp(min=0).view(-1)], vectors)
        values[q : q + step] = row_distances(x[q : q + step, None], vectors.view(-1, k, x.shape[1]), metric)
    return merge(values, labels, k, is_similarity(metric))
