"""Scans of lists of product codes: by tables of sums for a few queries, by decoding for many."""

from __future__ import annotations

from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.triton.codes import PARTS, Codes
from tsscompat.kernels.triton.list_scan import Top, shared, top


def scan_product(
    x: Tensor,
    transposed: Tensor,
    nbits: int,
    plain: bool,
    scale: float,
    shift: Tensor | None,
    terms: Tensor | None,
    base: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf_product.scan_product, where lists are probed by many; the definition makes tables."""
    if not shared(keys, lists):
        return NotImplemented
    m, dsub, ksub = transposed.shape
    codes = Codes(
        PARTS,
        lists.codes.contiguous(),
        m * dsub,
        L2 if plain and metric == L2 else INNER_PRODUCT,
        metric == INNER_PRODUCT,
        x,
        nbits,
        transposed.permute(0, 2, 1).contiguous(),
        dsub=dsub,
        ksub=ksub,
        shift=None if plain else shift,
        base=base,
        terms=terms,
        scale=1.0 if plain else scale,
    )
    return top(codes, lists, keys, k, (allowed, limits, pairs))
