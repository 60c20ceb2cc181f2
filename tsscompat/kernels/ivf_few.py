"""A few queries through coarse search and scan in one call, for coarse quantizers that are a table of centers.

Each answers distances, labels, counts (as kernels/ivf.py does) and the seconds that the coarse search took. On a CPU queries may come as
an array; twins then answer in arrays.
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf import Affine, nearest_lists, scan_affine, scan_flat, scan_tables
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.ivf_terms import query_tables
from tsscompat.kernels.metrics import INNER_PRODUCT

Few = tuple[Tensor, Tensor, tuple[int, int, int], float]


@accelerated
def few_flat(x: Tensor, centers: Tensor, nprobe: int, rows: Tensor, lists: Ragged, k: int, metric: int) -> Few:
    """The k best vectors in the nprobe nearest lists."""
    x, started = torch.as_tensor(x), perf_counter()
    _, keys = nearest_lists(x, centers, nprobe, metric)
    spent = perf_counter() - started
    return *scan_flat(x, rows, lists, keys, k, metric), spent


@accelerated
def few_affine(
    x: Tensor, centers: Tensor, nprobe: int, affine: Affine, residual: bool, lists: Ragged, k: int, metric: int
) -> Few:
    """The k best scalar codes, of residuals or vectors, in the nprobe nearest lists."""
    x, started = torch.as_tensor(x), perf_counter()
    coarse, keys = nearest_lists(x, centers, nprobe, metric)
    spent = perf_counter() - started
    similar = metric == INNER_PRODUCT
    around = centers if residual and not similar else None
    return *scan_affine(x, affine, around, coarse if residual and similar else None, lists, keys, k, metric), spent


@accelerated
def few_product(
    x: Tensor,
    centers: Tensor,
    nprobe: int,
    transposed: Tensor,
    nbits: int,
    plain: bool,
    scale: float,
    shift: Tensor | None,
    terms: Tensor | None,
    lists: Ragged,
    k: int,
    metric: int,
) -> Few:
    """The k best product codes in the nprobe nearest lists: `plain` of vectors, else of residuals (see algorithms.ivf.Product)."""
    x, started = torch.as_tensor(x), perf_counter()
    coarse, keys = nearest_lists(x, centers, nprobe, metric)
    spent = perf_counter() - started
    base = torch.zeros_like(coarse) if plain else coarse
    tables = query_tables(x, transposed, shift, metric if plain else INNER_PRODUCT, scale)
    return *scan_tables(tables, base, terms, nbits, lists, keys, k, metric == INNER_PRODUCT), spent
