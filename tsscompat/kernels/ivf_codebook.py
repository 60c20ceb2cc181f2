"""Scans of lists of codes whose numbers name values (Lloyd-Max codebooks), without decoding the lists first.

PLAIN codes stand for their values. SCALED codes (EDEN's) end with a square, for distances, and a scale. TURBO codes are planes of d bits
in whole bytes, those of numbers, lowest first, and one of signs; then a norm and a size `gamma`. Their queries have 2 d + 2 columns: what
is multiplied with the values, with the signs, with the first value, and with one. Signs and one are worth sqrt(pi / 2) / d gamma.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import tail, unpack
from tsscompat.kernels.ivf import Range, Score, Top, top_by_score, within_by_score
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.records import record

PLAIN, SCALED, TURBO = range(3)
# What a TURBO code's size is multiplied with, but for the dimension.
ROOT = math.sqrt(math.pi / 2)


@record
class Codebook:
    """Codes of `bits` bits a dimension, which name `values`."""

    kind: int
    bits: int
    values: Tensor

    def numbers(self, codes: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """What codes (n, code_size) stand for in products (n, width), and their squares for distances (n,)."""
        if self.kind == PLAIN:
            return self.values[unpack(codes, width, self.bits).long()], self.values.new_zeros(codes.shape[0])
        first, second = tail(codes, codes.shape[1] - 8).view(torch.float32).unbind(1)
        if self.kind == SCALED:
            return self.values[unpack(codes[:, :-8].contiguous(), width, self.bits).long()] * second[:, None], first
        d, size = width // 2 - 1, (width // 2 + 6) // 8
        planes = [unpack(codes[:, p * size : (p + 1) * size].contiguous(), d, 1) for p in range(self.bits)]
        places = sum((plane.long() << p for p, plane in enumerate(planes[:-1])), torch.zeros_like(planes[0], dtype=torch.int64))
        gamma = (ROOT / d * second.double()).float()[:, None]
        extra = self.values[:1].expand(codes.shape[0], 1), gamma
        return torch.cat([self.values[places], (planes[-1].float() * 2 - 1) * gamma, *extra], 1) * first[:, None], first.square()


@accelerated
def scanned_in_place(codes: Tensor) -> bool:
    """Whether lists of such codes are better scanned as they are than decoded."""
    return False


def _score(
    x: Tensor, codebook: Codebook, centers: Tensor | None, base: Tensor | None, codes: Tensor, keys: Tensor, metric: int
) -> Score:
    flat_keys = keys.reshape(-1).clamp(min=0)

    def score(queries: Tensor, found: Tensor, pairs: Tensor) -> Tensor:
        numbers, squares = codebook.numbers(codes[found].reshape(-1, codes.shape[1]), x.shape[1])
        numbers, squares = numbers.view(*found.shape, -1), squares.view(found.shape)
        asked = x[queries][:, None]
        asked = asked if centers is None or metric == INNER_PRODUCT else asked - centers[flat_keys[pairs]]
        if metric != INNER_PRODUCT and codebook.kind == PLAIN:
            return (asked - numbers).square().sum(-1)
        products = (numbers * asked).sum(-1)
        values = products if metric == INNER_PRODUCT else squares - 2 * products
        values = values if base is None else values + base.reshape(-1)[pairs]
        return values.clamp(min=0) if codebook.kind == SCALED and metric != INNER_PRODUCT else values

    return score


@accelerated
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
    """The k best by base[query, probe] + the product with x, or by L2 to r = x - centers[list]: of codes with squares of their own
    base + square - 2 the product with r.
    """
    score = _score(x, codebook, centers, base, lists.codes, keys, metric)
    return top_by_score(score, lists, keys, k, metric == INNER_PRODUCT, 32 * x.shape[1], (allowed, limits, pairs))


@accelerated
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
    """All within a radius by the scores of scan_codebook."""
    score = _score(x, codebook, centers, base, lists.codes, keys, metric)
    return within_by_score(score, lists, keys, radius, metric == INNER_PRODUCT, 32 * x.shape[1], (allowed, limits, pairs))
