"""The twins of kernels.ivf: what the codes of lists stand for, for list_scan.py."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tsscompat.kernels.ivf import Affine, Range
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2, is_similarity
from tsscompat.kernels.triton.codes import SCALARS, SUMS, VECTORS, Codes
from tsscompat.kernels.triton.list_scan import Top, top, within


def _flat(x: Tensor, rows: Tensor, metric: int, metric_arg: float) -> Codes | None:
    if x.dtype != torch.float32 or not x.shape[1]:
        return None
    return Codes(VECTORS, rows.contiguous(), x.shape[1], metric, is_similarity(metric), x, metric_arg=float(metric_arg))


def scan_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf.scan_flat."""
    codes = _flat(x, rows, metric, metric_arg)
    return NotImplemented if codes is None else top(codes, lists, keys, k, (allowed, limits, pairs))


def within_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.ivf.within_flat."""
    codes = _flat(x, rows, metric, metric_arg)
    return NotImplemented if codes is None else within(codes, lists, keys, radius, (allowed, limits, pairs))


def _sums(tables: Tensor, base: Tensor, terms: Tensor | None, nbits: int, lists: Ragged, largest: bool) -> Codes:
    return Codes(
        SUMS,
        lists.codes.contiguous(),
        tables.shape[1],
        INNER_PRODUCT,
        largest,
        bits=nbits,
        ksub=tables.shape[2],
        base=base,
        terms=terms,
        tables=tables,
        per_pair=tables.shape[0] != base.shape[0],
    )


def scan_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    k: int,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf.scan_tables."""
    return top(_sums(tables, base, terms, nbits, lists, largest), lists, keys, k, (allowed, limits, pairs))


def within_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.ivf.within_tables."""
    return within(_sums(tables, base, terms, nbits, lists, largest), lists, keys, radius, (allowed, limits, pairs))


def _affine(x: Tensor, affine: Affine, centers: Tensor | None, base: Tensor | None, lists: Ragged, metric: int) -> Codes:
    data = lists.codes.contiguous()
    if affine.bits >= 16:
        data = data.view(torch.float16 if affine.bits == 16 else torch.bfloat16)
    similar = metric == INNER_PRODUCT
    return Codes(
        SCALARS,
        data,
        x.shape[1],
        INNER_PRODUCT if similar else L2,
        similar,
        x,
        affine.bits,
        affine.lo,
        affine.step,
        centers=None if similar else centers,
        base=base if similar else None,
    )


def scan_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf.scan_affine."""
    return top(_affine(x, affine, centers, base, lists, metric), lists, keys, k, (allowed, limits, pairs))


def within_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.ivf.within_affine."""
    return within(_affine(x, affine, centers, base, lists, metric), lists, keys, radius, (allowed, limits, pairs))


def scan_polysemous(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    signatures: Tensor,
    threshold: int,
    lists: Ragged,
    keys: Tensor,
    k: int,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf.scan_polysemous."""
    codes = replace(_sums(tables, base, terms, nbits, lists, largest), signatures=signatures, threshold=threshold)
    return top(codes, lists, keys, k, (allowed, limits, pairs))
