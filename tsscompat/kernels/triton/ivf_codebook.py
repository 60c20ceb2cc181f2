"""The twins of kernels.ivf_codebook."""

from __future__ import annotations

from torch import Tensor

from tsscompat.kernels.ivf import Range
from tsscompat.kernels.ivf_codebook import PLAIN, Codebook
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.triton.codes import SCALED, TURBO, VALUES, Codes
from tsscompat.kernels.triton.list_scan import Top, top, within

_KINDS = (VALUES, SCALED, TURBO)


def scanned_in_place(codes: Tensor) -> bool:
    """The twin of kernels.ivf_codebook.scanned_in_place: decoding would write and read four bytes for each number of a few bits."""
    return True


def _codes(x: Tensor, codebook: Codebook, centers: Tensor | None, base: Tensor | None, lists: Ragged, metric: int) -> Codes:
    similar, plain = metric == INNER_PRODUCT, codebook.kind == PLAIN
    return Codes(
        _KINDS[codebook.kind],
        lists.codes.contiguous(),
        x.shape[1],
        L2 if plain and not similar else INNER_PRODUCT,
        similar,
        x,
        codebook.bits,
        codebook.values,
        centers=None if similar else centers,
        base=None if plain and not similar else base,
        scale=1.0 if plain or similar else -2.0,
    )


def scan_codebook(
    x: Tensor,
    codebook: Codebook,
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
    """The twin of kernels.ivf_codebook.scan_codebook."""
    return top(_codes(x, codebook, centers, base, lists, metric), lists, keys, k, (allowed, limits, pairs))


def within_codebook(
    x: Tensor,
    codebook: Codebook,
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
    """The twin of kernels.ivf_codebook.within_codebook."""
    return within(_codes(x, codebook, centers, base, lists, metric), lists, keys, radius, (allowed, limits, pairs))
