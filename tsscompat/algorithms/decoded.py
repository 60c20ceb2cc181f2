"""Searching codes by decoding blocks of them: how each kind of code is decoded, and around which point."""

from __future__ import annotations

from torch import Tensor

from tsscompat.kernels.coded import Decode, affine_rows, knn_decoded, product_rows
from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.records import record


@record
class Decoder:
    """How codes are decoded less `shift`, a point amid the vectors: products of what is left are small beside the distances."""

    decode: Decode
    shift: Tensor | None

    def top(self, x: Tensor, codes: Tensor, k: int, metric: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """The k best rows for each query."""
        return knn_decoded(x if self.shift is None else x - self.shift, codes, self.decode, k, metric, allowed)


def scalar(affine: Affine, metric: int) -> Decoder:
    """The decoder of scalar codes."""
    if metric == INNER_PRODUCT or affine.bits >= 16:
        return Decoder(lambda codes, out: affine_rows(codes, affine, out), None)
    half = affine.step * (((1 << affine.bits) - 1) / 2)
    around = Affine(affine.bits, -half, affine.step)
    return Decoder(lambda codes, out: affine_rows(codes, around, out), affine.lo + half)


def product(centroids: Tensor, nbits: int, metric: int) -> Decoder:
    """The decoder of product codes, with centroids (M, ksub, dsub)."""
    if metric == INNER_PRODUCT:
        return Decoder(lambda codes, out: product_rows(codes, centroids, nbits, out), None)
    middle = centroids.mean(1, keepdim=True)
    around = centroids - middle
    return Decoder(lambda codes, out: product_rows(codes, around, nbits, out), middle.reshape(-1))
