"""Distances and neighbours without an index: on arrays, and in FAISS's C signatures on what swig_ptr gave."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms.blocks import squared_norms
from tsscompat.algorithms.linear import to_unit
from tsscompat.arrays import Array, as_tensor
from tsscompat.devices import default_device
from tsscompat.errors import check, expect
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.kernels import flat
from tsscompat.kernels.flat import distance_block, row_distances, within
from tsscompat.kernels.metrics import FORMULAS, INNER_PRODUCT, L1, L2, LINF, pairwise
from tsscompat.kernels.select import select


def two_matrices(xq: Array, xb: Array) -> tuple[Tensor, Tensor, Callable[[Tensor], Any]]:
    """Queries and base vectors of one dimension, as tensors where the queries are (numpy's: on the default device)."""
    device = xq.device if isinstance(xq, Tensor) else default_device()
    xq = xq if hasattr(xq, "__dlpack__") else np.asarray(xq)
    xb = xb if hasattr(xb, "__dlpack__") else np.asarray(xb)
    queries, back = as_tensor(xq, torch.float32, device)
    base, _ = as_tensor(xb, torch.float32, device)
    expect(queries.ndim == 2 and base.ndim == 2, "expected two matrices, got shapes {} and {}", tuple(xq.shape), tuple(xb.shape))
    expect(queries.shape[1] == base.shape[1], "expected vectors of one dimension, got {} and {}", xq.shape[1], xb.shape[1])
    return queries, base, back


def _known(metric: int) -> int:
    check(metric in FORMULAS, "metric type {} is not implemented", metric)
    return int(metric)


def knn(xq: Array, xb: Array, k: int, metric: int = enums.METRIC_L2, metric_arg: float = 0.0) -> tuple[Array, Array]:
    """The k nearest rows of xb for each row of xq: distances and row numbers, best first, padded with -1."""
    queries, base, back = two_matrices(xq, xb)
    expect(k >= 0, "k must not be negative, got {}", k)
    if k == 0:
        return back(queries.new_empty((len(queries), 0))), back(torch.empty((len(queries), 0), dtype=torch.int64))
    distances, labels = flat.knn(queries, base, int(k), _known(metric), float(metric_arg))
    return back(distances), back(labels)


def pairwise_distances(xq: Array, xb: Array, metric: int = enums.METRIC_L2, metric_arg: float = 0) -> Array:
    """The distance between each row of xq and each row of xb."""
    queries, base, back = two_matrices(xq, xb)
    return back(distance_block(queries, base, _known(metric), float(metric_arg)))


def normalize_L2(x: Array) -> None:
    """Scale each row to length 1, in place; rows of zeros stay."""
    expect(len(x.shape) == 2, "expected vectors of shape (n, d), got {}", tuple(x.shape))
    if isinstance(x, Tensor):
        check(x.dtype == torch.float32, "expected float32 vectors, got {}", x.dtype)
        tensor = x
    else:
        if x.dtype != np.float32:
            raise TypeError(f"expected float32 vectors, got {x.dtype}")
        if not x.flags.c_contiguous:
            raise ValueError("array is not C-contiguous")
        if not x.flags.writeable:
            raise ValueError("array is read-only")
        tensor = torch.from_numpy(x)
    tensor.mul_(to_unit(tensor))


def fvec_renorm_L2(d: int, nx: int, x: Any) -> None:
    normalize_L2(behind(x, nx, d))


# -- two vectors --------------------------------------------------------------------------------------------------------------------


def _of_two(metric: int) -> Callable[[Any, Any, int], float]:
    def distance(x: Any, y: Any, d: int) -> float:
        return float(row_distances(behind(x, 1, d), behind(y, 1, d), metric))

    return distance


fvec_L2sqr = _of_two(L2)
fvec_inner_product = _of_two(INNER_PRODUCT)
fvec_L1 = _of_two(L1)
fvec_Linf = _of_two(LINF)


def fvec_norm_L2sqr(x: Any, d: int) -> float:
    return float(behind(x, d).square().sum())


def fvec_norms_L2sqr(norms: Any, x: Any, d: int, nx: int) -> None:
    behind(norms, nx).copy_(squared_norms(behind(x, nx, d)))


def fvec_norms_L2(norms: Any, x: Any, d: int, nx: int) -> None:
    behind(norms, nx).copy_(torch.linalg.vector_norm(behind(x, nx, d), dim=1))


def fvec_add(d: int, a: Any, b: Any, c: Any) -> None:
    """c = a + b, where b is a table or a number."""
    behind(c, d).copy_(behind(a, d) + (float(b) if isinstance(b, (int, float)) else behind(b, d)))


def fvec_sub(d: int, a: Any, b: Any, c: Any) -> None:
    behind(c, d).copy_(behind(a, d) - behind(b, d))


def fvec_madd(n: int, a: Any, bf: float, b: Any, c: Any) -> None:
    """c = a + bf * b."""
    behind(c, n).copy_(torch.add(behind(a, n), behind(b, n), alpha=float(bf)))


def fvec_madd_and_argmin(n: int, a: Any, bf: float, b: Any, c: Any) -> int:
    """c = a + bf * b, and where it is smallest."""
    fvec_madd(n, a, bf, b, c)
    return int(behind(c, n).argmin()) if n else -1


# -- one vector, many -----------------------------------------------------------------------------------------------------------------


def fvec_L2sqr_ny(dis: Any, x: Any, y: Any, d: int, ny: int) -> None:
    behind(dis, ny).copy_(pairwise(behind(x, 1, d), behind(y, ny, d), L2)[0])


def fvec_inner_products_ny(ip: Any, x: Any, y: Any, d: int, ny: int) -> None:
    behind(ip, ny).copy_(pairwise(behind(x, 1, d), behind(y, ny, d), INNER_PRODUCT)[0])


def fvec_L2sqr_ny_nearest(distances_tmp_buffer: Any, x: Any, y: Any, d: int, ny: int) -> int:
    """Where the nearest of ny vectors is; their distances go to the buffer."""
    fvec_L2sqr_ny(distances_tmp_buffer, x, y, d, ny)
    return int(behind(distances_tmp_buffer, ny).argmin())


def _beyond(metric: int) -> float:
    """What an id below 0 is at: farther than any vector."""
    return math.inf if metric == L2 else -math.inf


def _by_idx(metric: int) -> Callable[..., None]:
    worst = _beyond(metric)

    def distances(out: Any, x: Any, y: Any, ids: Any, d: int, nx: int, ny: int) -> None:
        names = behind(ids, nx, ny)
        wanted = flat.named_distances(behind(x, nx, d), _until(y, _top(names), d), names, metric)
        behind(out, nx, ny).copy_(torch.where(names < 0, worst, wanted))

    return distances


def _top(ids: Tensor) -> int:
    """One beyond the largest id."""
    return int(ids.max()) + 1 if ids.numel() else 0


def _until(pointer: Any, n: int, d: int) -> Tensor:
    return behind(pointer, max(0, n), d)


fvec_L2sqr_by_idx = _by_idx(L2)
fvec_inner_products_by_idx = _by_idx(INNER_PRODUCT)


def _knn_by_idx(metric: int, *arguments: Any) -> None:
    x, y, subset, d, nx, ny, nsubset, k, vals, ids, stride = arguments
    named = _strided(subset, nx, nsubset, ny if stride < 0 else stride)
    # A row of ids ends with the first that is none.
    missing = ((named < 0) | (named >= ny)).cumsum(1) > 0
    named = torch.where(missing, -1, named)
    found = select(flat.named_distances(behind(x, nx, d), behind(y, ny, d), named, metric), named, k, metric == INNER_PRODUCT)
    behind(vals, nx, k).copy_(found[0])
    behind(ids, nx, k).copy_(found[1])


def knn_L2sqr_by_idx(
    x: Any, y: Any, subset: Any, d: int, nx: int, ny: int, nsubset: int, k: int, vals: Any, ids: Any, ld_subset: int = -1
) -> None:
    """The k nearest among the vectors that each query's row of ids names; rows of ids are ld_subset apart (-1: ny)."""
    _knn_by_idx(L2, x, y, subset, d, nx, ny, nsubset, k, vals, ids, ld_subset)


def knn_inner_products_by_idx(
    x: Any, y: Any, subset: Any, d: int, nx: int, ny: int, nsubset: int, k: int, vals: Any, ids: Any, ld_ids: int = -1
) -> None:
    """The k most similar among the vectors that each query's row of ids names; rows of ids are ld_ids apart (-1: ny)."""
    _knn_by_idx(INNER_PRODUCT, x, y, subset, d, nx, ny, nsubset, k, vals, ids, ld_ids)


def _batch_of_four(metric: int) -> Callable[..., None]:
    def distances(x: Any, y0: Any, y1: Any, y2: Any, y3: Any, d: int, dis0: Any, dis1: Any, dis2: Any, dis3: Any) -> None:
        query = behind(x, 1, d)
        for y, out in ((y0, dis0), (y1, dis1), (y2, dis2), (y3, dis3)):
            behind(out, 1).copy_(row_distances(query, behind(y, 1, d), metric))

    return distances


fvec_L2sqr_batch_4 = _batch_of_four(L2)
fvec_inner_product_batch_4 = _batch_of_four(INNER_PRODUCT)


def _indexed_pairs(metric: int) -> Callable[..., None]:
    worst = _beyond(metric)

    def distances(d: int, n: int, x: Any, ix: Any, y: Any, iy: Any, dis: Any) -> None:
        at_x, at_y = behind(ix, n), behind(iy, n)
        pairs = row_distances(_until(x, _top(at_x), d)[at_x.clamp(min=0)], _until(y, _top(at_y), d)[at_y.clamp(min=0)], metric)
        behind(dis, n).copy_(torch.where((at_x < 0) | (at_y < 0), worst, pairs))

    return distances


pairwise_indexed_L2sqr = _indexed_pairs(L2)
pairwise_indexed_inner_product = _indexed_pairs(INNER_PRODUCT)


# -- many, many -----------------------------------------------------------------------------------------------------------------------


def _strided(pointer: Any, n: int, d: int, stride: int) -> Tensor:
    """Rows that are `stride` numbers apart (-1: next to each other)."""
    if stride in (-1, d) or n == 0:
        return behind(pointer, n, d)
    return torch.as_strided(behind(pointer, (n - 1) * stride + d), (n, d), (stride, 1))


def pairwise_L2sqr(d: int, nq: int, xq: Any, nb: int, xb: Any, dis: Any, ldq: int = -1, ldb: int = -1, ldd: int = -1) -> None:
    queries, base = _strided(xq, nq, d, ldq).contiguous(), _strided(xb, nb, d, ldb).contiguous()
    _strided(dis, nq, nb, ldd).copy_(distance_block(queries, base, L2, 0.0))


def pairwise_extra_distances(
    d: int, nq: int, xq: Any, nb: int, xb: Any, mt: int, metric_arg: float, dis: Any, ldq: int = -1, ldb: int = -1, ldd: int = -1
) -> None:
    queries, base = _strided(xq, nq, d, ldq).contiguous(), _strided(xb, nb, d, ldb).contiguous()
    _strided(dis, nq, nb, ldd).copy_(distance_block(queries, base, _known(mt), float(metric_arg)))


def _allowed(sel: IDSelector | None, n: int, device: torch.device) -> Tensor | None:
    return None if sel is None else sel._mask(torch.arange(n, device=device))


def _knn_into(x: Tensor, y: Tensor, metric: int, arg: float, out: tuple[Tensor, Tensor], sel: IDSelector | None) -> None:
    distances, labels = flat.knn(x, y, out[0].shape[1], metric, arg, _allowed(sel, y.shape[0], y.device))
    out[0].copy_(distances)
    out[1].copy_(labels)


def knn_L2sqr(x: Any, y: Any, d: int, nx: int, ny: int, *rest: Any, y_norm2: Any = None, sel: IDSelector | None = None) -> None:
    """The k nearest of ny vectors, into (k, distances, indexes) or into a float_maxheap_array_t; then y_norm2 and sel."""
    out, more = _destination(nx, rest)
    sel = more[1] if len(more) > 1 else sel
    _knn_into(behind(x, nx, d), behind(y, ny, d), L2, 0.0, out, sel)


def knn_inner_product(x: Any, y: Any, d: int, nx: int, ny: int, *rest: Any, sel: IDSelector | None = None) -> None:
    """The k most similar of ny vectors, into (k, distances, indexes) or into a float_minheap_array_t; then sel."""
    out, more = _destination(nx, rest)
    _knn_into(behind(x, nx, d), behind(y, ny, d), INNER_PRODUCT, 0.0, out, more[0] if more else sel)


def _destination(nx: int, rest: tuple[Any, ...]) -> tuple[tuple[Tensor, Tensor], tuple[Any, ...]]:
    """Where an answer goes, and the arguments after that."""
    if rest and hasattr(rest[0], "heapify"):
        return rest[0]._tables(), rest[1:]
    k, distances, indexes, *more = rest
    return (behind(distances, nx, k), behind(indexes, nx, k)), tuple(more)


def knn_extra_metrics(
    x: Any,
    y: Any,
    d: int,
    nx: int,
    ny: int,
    mt: int,
    metric_arg: float,
    k: int,
    distances: Any,
    indexes: Any,
    sel: IDSelector | None = None,
) -> None:
    out = behind(distances, nx, k), behind(indexes, nx, k)
    _knn_into(behind(x, nx, d), behind(y, ny, d), _known(mt), float(metric_arg), out, sel)


class RangeSearchResult:
    """What a range search fills: for query i, labels[lims[i]:lims[i+1]] and as many distances."""

    nq: int
    lims: Pointer | None
    labels: Pointer | None
    distances: Pointer | None
    buffer_size: int

    def __init__(self, nq: int, alloc_lims: bool = True) -> None:
        self.nq = int(nq)
        self.lims = Pointer(torch.zeros(self.nq + 1, dtype=torch.int64).view(torch.uint64)) if alloc_lims else None
        self.labels = None
        self.distances = None
        self.buffer_size = 1024 * 256

    def do_allocation(self) -> None:
        """Make room for what the limits count: on entry lims[i] is the number of results of query i, afterwards they are limits."""
        check(self.labels is None and self.distances is None, "results are allocated already")
        check(self.lims is not None, "no limits are allocated")
        counts = self.lims.take(self.nq).view(torch.int64)  # type: ignore[union-attr]
        ends = counts.cumsum(0)
        total = int(ends[-1]) if self.nq else 0
        self.lims.tensor.view(torch.int64).copy_(torch.cat([ends.new_zeros(1), ends]))  # type: ignore[union-attr]
        self.labels = Pointer(torch.empty(total, dtype=torch.int64))
        self.distances = Pointer(torch.empty(total))

    def fill(self, lims: Tensor, distances: Tensor, labels: Tensor) -> None:
        """Take over an answer."""
        self.lims = Pointer(lims.view(torch.int64).cpu().view(torch.uint64))
        self.distances, self.labels = Pointer(distances.cpu()), Pointer(labels.cpu())


def _range_search(metric: int) -> Callable[..., None]:
    def search(
        x: Any, y: Any, d: int, nx: int, ny: int, radius: float, result: RangeSearchResult, sel: IDSelector | None = None
    ) -> None:
        base = behind(y, ny, d)
        result.fill(*within(behind(x, nx, d), base, float(radius), metric, 0.0, _allowed(sel, ny, base.device)))

    return search


range_search_L2sqr = _range_search(L2)
range_search_inner_product = _range_search(INNER_PRODUCT)

__all__ = [
    "RangeSearchResult",
    "fvec_L1",
    "fvec_L2sqr",
    "fvec_L2sqr_batch_4",
    "fvec_L2sqr_by_idx",
    "fvec_L2sqr_ny",
    "fvec_L2sqr_ny_nearest",
    "fvec_Linf",
    "fvec_add",
    "fvec_inner_product",
    "fvec_inner_product_batch_4",
    "fvec_inner_products_by_idx",
    "fvec_inner_products_ny",
    "fvec_madd",
    "fvec_madd_and_argmin",
    "fvec_norm_L2sqr",
    "fvec_norms_L2",
    "fvec_norms_L2sqr",
    "fvec_renorm_L2",
    "fvec_sub",
    "knn",
    "knn_L2sqr",
    "knn_L2sqr_by_idx",
    "knn_extra_metrics",
    "knn_inner_product",
    "knn_inner_products_by_idx",
    "normalize_L2",
    "pairwise_L2sqr",
    "pairwise_distances",
    "pairwise_extra_distances",
    "pairwise_indexed_L2sqr",
    "pairwise_indexed_inner_product",
    "range_search_L2sqr",
    "range_search_inner_product",
]
