"""TurboQuant's full codes: a Lloyd-Max index and one bit of a projected residual for each dimension, then a vector's two factors.

A code is planes of d bits, rounded up to bytes: the bits of the indexes, lowest first, and the signs of the residual's projection; then the
norm of the vector and the norm `gamma` of the residual of its direction, in single precision. `trained` is the codebook and its
boundaries, the projection's seed in the bits of two floats, and the kind of projection: 0 for random signs and a Walsh-Hadamard transform,
else a random rotation.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from tsscompat.algorithms.linear import orthonormal, walsh_hadamard
from tsscompat.algorithms.lloyd_max import codebook
from tsscompat.algorithms.random import RandomGenerator
from tsscompat.errors import check
from tsscompat.kernels.bits import pack, unpack
from tsscompat.kernels.ivf_codebook import TURBO, Codebook
from tsscompat.records import record

SEED = 42
_LEAST_NORM = 1e-30


def trained(bits: int) -> Tensor:
    """What encoding with so many bits for each dimension needs."""
    seed = torch.tensor([SEED], dtype=torch.int64).view(torch.float32)
    return torch.cat([codebook(bits - 1), seed, torch.zeros(1)])


def code_size(d: int, bits: int) -> int:
    """Bytes of a code."""
    return bits * ((d + 7) // 8) + 8


@functools.lru_cache(maxsize=16)
def _signs(seed: int, p: int) -> Tensor:
    return torch.tensor([1.0 if word % 2 == 0 else -1.0 for word in RandomGenerator(seed).raw(p).tolist()])


@functools.lru_cache(maxsize=4)
def _rotation(seed: int, d: int) -> Tensor:
    return orthonormal(seed, d, d)


@record
class Projection:
    """The random projection of d numbers, without its scale; `width` is what its square root scales by."""

    d: int
    seed: int
    kind: int

    @property
    def width(self) -> int:
        return self.d if self.kind else 1 << max(0, self.d - 1).bit_length()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind:
            return x @ _rotation(self.seed, self.d).to(x.device).t()
        signs = _signs(self.seed, self.width).to(x.device)
        wide = torch.nn.functional.pad(x * signs[: self.d], (0, self.width - self.d))
        return walsh_hadamard(wide)[:, : self.d]

    def inverse(self, x: Tensor) -> Tensor:
        if self.kind:
            return x @ _rotation(self.seed, self.d).to(x.device)
        wide = torch.nn.functional.pad(x, (0, self.width - self.d))
        return walsh_hadamard(wide)[:, : self.d] * _signs(self.seed, self.width).to(x.device)[: self.d]


def _root(number: int) -> float:
    """A square root in single precision."""
    return float(torch.tensor(number, dtype=torch.float32).sqrt())


def _inverse_root(number: int) -> float:
    return float(1 / torch.tensor(number, dtype=torch.float32).sqrt())


@record
class Turbo:
    """A trained code of dimension d."""

    d: int
    bits: int
    values: Tensor
    edges: Tensor
    projection: Projection

    @classmethod
    def of(cls, known: Tensor, d: int, bits: int) -> Turbo:
        k = 1 << (bits - 1)
        check(known.shape[0] == 2 * k + 2, "the scalar quantizer is not trained")
        seed, kind = int(known[2 * k - 1 : 2 * k + 1].clone().view(torch.int64)), int(known[-1])
        return cls(d, bits, known[:k], known[k : 2 * k - 1], Projection(d, seed & ((1 << 64) - 1), kind))

    def encode(self, x: Tensor) -> Tensor:
        """Codes of vectors."""
        norms = torch.linalg.vecdot(x, x).sqrt().clamp(min=_LEAST_NORM)
        unit = x / norms[:, None]
        indexes = torch.bucketize(unit * _root(self.d), self.edges, right=True)
        residual = unit - self.values[indexes] * _inverse_root(self.d)
        signs = self.projection.forward(residual) > 0
        gammas = torch.linalg.vecdot(residual, residual).sqrt()
        planes = [pack(indexes >> p & 1, 1) for p in range(self.bits - 1)]
        factors = torch.stack([norms, gammas], 1).view(torch.uint8)
        return torch.cat([*planes, pack(signs.to(torch.int64), 1), factors], 1)

    def parts(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The directions' first approximation, the signs (1, -1) of what is left, norms, and the sizes that the signs stand for."""
        size = (self.d + 7) // 8
        indexes = torch.zeros(codes.shape[0], self.d, dtype=torch.int64, device=codes.device)
        for p in range(self.bits - 1):
            indexes += unpack(codes[:, p * size : (p + 1) * size], self.d, 1).long() << p
        end = self.bits * size
        signs = unpack(codes[:, end - size : end], self.d, 1).float() * 2 - 1
        norms, gammas = codes[:, end : end + 8].clone(memory_format=torch.contiguous_format).view(torch.float32).unbind(1)
        sizes = (math.sqrt(math.pi / 2) / self.d * gammas.double()).float()
        return self.values[indexes] * _inverse_root(self.d), signs, norms, sizes

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors that codes stand for."""
        near, signs, norms, sizes = self.parts(codes)
        left = self.projection.inverse(signs * _inverse_root(self.projection.width))
        return (near + sizes[:, None] * left) * norms[:, None]

    def factors(self, codes: Tensor) -> Tensor:
        """What queries' `asked` are multiplied with to estimate inner products; the last column corrects squared distances.

        |x|^2 + norm^2 - 2 <x, y> is the estimate of the squared distance, and norm^2 is not what the factors' square is.
        """
        near, signs, norms, sizes = self.parts(codes)
        first, second = norms[:, None], (norms * sizes)[:, None]
        known = torch.cat([near * first, signs * second, self.values[0] * _inverse_root(self.d) * first, second], 1)
        return torch.cat([known, (norms.square() - known.square().sum(1))[:, None]], 1)

    def codebook(self) -> Codebook:
        """The same for kernels that read codes as they lie."""
        return Codebook(TURBO, self.bits, self.values * _inverse_root(self.d))

    def asked(self, x: Tensor, levels: int = 0, both: bool = False) -> tuple[Tensor, Tensor]:
        """What codes' `factors` are multiplied with, and the correction of squared distances.

        With `levels` the query is rounded to so many steps where codes have one bit for the first approximation, and with `both` its
        projection is as well. The sum of what rounding took away counts towards one value of the two, as in FAISS.
        """
        projected = self.projection.forward(x) * _inverse_root(self.projection.width)
        first, lost = _rounded(x, levels) if levels and self.bits == 2 else (x, x.new_zeros(x.shape[0], 1))
        second, blurred = _rounded(projected, levels) if levels and both else (projected, x.new_zeros(x.shape[0], 1))
        wide = torch.cat([first, second, lost, -blurred], 1)
        return wide, x.square().sum(1) - wide.square().sum(1)


def _rounded(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Rows rounded to steps between their extremes, and the sum of what that took away."""
    low = x.amin(1, keepdim=True)
    extent = (x.amax(1, keepdim=True) - low).clamp(min=_LEAST_NORM)
    # Halves go away from zero in C's round(); all numbers here are positive.
    rounded = ((x - low) * (levels / extent) + 0.5).floor().clamp(0, levels) * (extent / levels) + low
    return rounded, (x - rounded).sum(1, keepdim=True)
