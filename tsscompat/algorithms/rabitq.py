"""RaBitQ: vectors as the signs of their differences to a center, further bits, and factors (the layout is in kernels/rabitq.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.blocks import in_blocks
from tsscompat.algorithms.ivf import Options
from tsscompat.kernels.bits import pack
from tsscompat.kernels.ivf import Range, Top
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.rabitq import Coder, best_scales, few_rabitq, parts, scan_rabitq, sign_codes, within_rabitq
from tsscompat.records import record


def code_size(d: int, nb_bits: int) -> int:
    """Bytes of a code."""
    more = nb_bits - 1
    return (d + 7) // 8 + (12 + (d * more + 7) // 8 + 8 if more else 8)


def further_bits(residuals: Tensor, centers: Tensor, metric: int, more: int) -> tuple[Tensor, Tensor]:
    """The further bits (n, d) of vectors less their centers, and their factors (n, 2)."""
    most = (1 << more) - 1
    norm = residuals.square().sum(1).sqrt()
    blank = norm < 1e-10
    sizes = (residuals / norm[:, None]).abs()
    sizes = torch.where(blank[:, None], 1.0, sizes)
    scale = best_scales(sizes, more)
    codes = ((scale[:, None] * sizes).double() + 1e-5).to(torch.int32).clamp(max=most)
    inverse = (1 / ((codes + 0.5) * sizes.double()).sum(1)).float()
    inverse = torch.where(inverse.isfinite() & (inverse.abs() >= torch.finfo(torch.float32).tiny), inverse, 1.0)
    if metric == INNER_PRODUCT:
        factors = torch.stack([(residuals * centers).sum(1), inverse * norm], 1)
    else:
        factors = torch.stack([norm * norm, inverse * -2.0 * norm], 1)
    codes = torch.where(residuals < 0, most - codes, codes)
    return codes.masked_fill(blank[:, None], 0), factors.masked_fill(blank[:, None], 0.0)


def _encoded(x: Tensor, centers: Tensor, metric: int, nb_bits: int) -> Tensor:
    signs = sign_codes(x, centers, metric, nb_bits > 1)
    if nb_bits == 1:
        return signs
    codes, factors = further_bits(x - centers, centers, metric, nb_bits - 1)
    return torch.cat([signs, pack(codes, nb_bits - 1), factors.view(torch.uint8)], 1)


def encode(x: Tensor, centers: Tensor, metric: int, nb_bits: int) -> Tensor:
    """Codes of vectors around centers, (n, d) or one for all."""
    return in_blocks(lambda a, b: _encoded(a, b, metric, nb_bits), x, centers.expand_as(x), width=16 * x.shape[1])


def decode(codes: Tensor, d: int, nb_bits: int) -> Tensor:
    """What codes stand for, less their centers: as in FAISS, by the signs alone."""
    signs, factors, _, _ = parts(codes, d, nb_bits)
    root = 1 / torch.tensor(d, dtype=torch.float32, device=codes.device).sqrt()
    return (signs - 0.5) * factors[:, 1:2] * 2 * root


@record
class RaBitQ:
    """RaBitQ codes in lists."""

    coder: Coder

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return few_rabitq(x, self.coder, nprobe, lists, k) if self.coder.centers is centers else None

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        return scan_rabitq(x, self.coder, lists, keys, k, options.allowed, options.limits, options.pairs)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        return within_rabitq(x, self.coder, lists, keys, radius, options.allowed, options.limits, options.pairs)


def as_points(codes: Tensor, center: Tensor, nb_bits: int) -> tuple[Tensor, Tensor]:
    """Points (n, d + 1) and a number: squared distances from queries with a last number of 0, plus the number, are the estimates.

    An estimate is the distance to the decoded vector plus a correction of the code's own, which the further dimension holds.
    """
    d = center.shape[-1]
    signs, factors, extra, more = parts(codes, d, nb_bits)
    if nb_bits == 1:
        vectors, add = (2 * signs - 1) * factors[:, 1:] / d**0.5, factors[:, 0]
    else:
        values = (signs << (nb_bits - 1)) + extra - ((1 << (nb_bits - 1)) - 0.5)
        vectors, add = -0.5 * more[:, 1:] * values, more[:, 0]
    corrections = add - vectors.square().sum(1)
    least = corrections.amin() if corrections.numel() else corrections.new_zeros(())
    return torch.cat([vectors + center, (corrections - least).sqrt()[:, None]], 1), least
