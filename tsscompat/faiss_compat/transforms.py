"""Vector transforms in FAISS's names; those that learn more than a mean are in learned_transforms.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import linear
from tsscompat.arrays import Array, from_numpy, rows
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, boolean, integer, single, vector, word
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector, Int32Vector
from tsscompat.kernels.transform import transformed


class VectorTransform(Stated):
    """Vectors of d_in numbers to vectors of d_out."""

    d_in = integer(0)
    d_out = integer(0)
    is_trained = boolean(True)

    def __init__(self, d_in: int = 0, d_out: int = 0) -> None:
        super().__init__()
        self.d_in, self.d_out = d_in, d_out

    def train(self, x: Array) -> None:
        """Learn from vectors."""
        self._train(rows(x, self.d_in, self.device).tensor)

    def apply(self, x: Array) -> Array:
        """Transformed vectors."""
        check(self.is_trained, "Transformation not trained yet")
        batch = rows(x, self.d_in, self.device)
        return batch.give_back(self._apply(batch.tensor).contiguous())

    apply_py = apply

    def reverse_transform(self, x: Array) -> Array:
        """Vectors that transform to these, as far as that is known."""
        batch = rows(x, self.d_out, self.device)
        return batch.give_back(self._reverse(batch.tensor).contiguous())

    def apply_noalloc(self, n: int, x: Any, xt: Any) -> None:
        """Transform n vectors behind a pointer into memory behind another."""
        behind(xt, n, self.d_out).copy_(self._apply(behind(x, n, self.d_in).to(self.device)))

    def train_c(self, n: int, x: Any) -> None:
        self.train(behind(x, n, self.d_in))

    def apply_c(self, n: int, x: Any) -> Pointer:
        return Pointer(self._apply(behind(x, n, self.d_in)).contiguous())

    def reverse_transform_c(self, n: int, xt: Any, x: Any) -> None:
        behind(x, n, self.d_in).copy_(self._reverse(behind(xt, n, self.d_out)))

    def check_identical(self, other: VectorTransform) -> None:
        """Raise unless the other transform does the same."""
        check(type(other) is type(self), "transforms of types {} and {}", type(self).__name__, type(other).__name__)
        for name, declared in self._declared.items():
            mine, theirs = getattr(self, name, None), getattr(other, name, None)
            if declared.walk and hasattr(mine, "tensor"):
                check(theirs is not None and torch.equal(mine.tensor, theirs.tensor), "the transforms differ in {}", name)  # type: ignore[union-attr]
            elif isinstance(mine, (int, float)):
                check(mine == theirs, "the transforms differ in {}", name)

    def _train(self, x: Tensor) -> None:
        """Most transforms need no training."""

    def _apply(self, x: Tensor) -> Tensor:
        raise FaissError(f"apply is not implemented for {type(self).__name__}")

    def _reverse(self, x: Tensor) -> Tensor:
        raise FaissError(f"reverse transform not implemented for {type(self).__name__}")


class LinearTransform(VectorTransform):
    """x to A x + b."""

    have_bias = boolean(False)
    is_orthonormal = boolean(False, "rows of A are orthonormal, so its transpose reverses it")
    A = vector(Float32Vector, "d_out * d_in")
    b = vector(Float32Vector, "d_out")
    verbose = boolean(False)

    def __init__(self, d_in: int = 0, d_out: int = 0, have_bias: bool = False) -> None:
        super().__init__(d_in, d_out)
        self.have_bias, self.is_trained = have_bias, False

    @property
    def _matrix(self) -> Tensor:
        return self.A.tensor.view(self.d_out, self.d_in)

    def _apply(self, x: Tensor) -> Tensor:
        check(self.is_trained, "Transformation not trained yet")
        check(self.A.size() == self.d_out * self.d_in, "transformation matrix not initialized")
        check(not self.have_bias or self.b.size() == self.d_out, "Bias not initialized")
        return transformed(x, self._matrix, self.b.tensor if self.have_bias else None)

    def _reverse(self, x: Tensor) -> Tensor:
        check(self.is_orthonormal, "reverse transform not implemented for non-orthonormal matrices")
        return self.transform_transpose_(x)

    def transform_transpose_(self, y: Tensor) -> Tensor:
        """The transpose applied to vectors without the offset."""
        return (y - self.b.tensor if self.have_bias else y) @ self._matrix

    def transform_transpose(self, n: int, y: Any, x: Any) -> None:
        """The transpose applied to n vectors behind a pointer, into memory behind another."""
        behind(x, n, self.d_in).copy_(self.transform_transpose_(behind(y, n, self.d_out)))

    def set_is_orthonormal(self) -> None:
        """Find out whether the rows of A are orthonormal."""
        if self.d_out > self.d_in or self.A.size() != self.d_out * self.d_in:
            self.is_orthonormal = False
            return
        product = self._matrix @ self._matrix.t()
        self.is_orthonormal = bool(((product - torch.eye(self.d_out, device=product.device)).abs() <= 4e-5).all())


class RandomRotationMatrix(LinearTransform):
    """A random rotation."""

    def __init__(self, d_in: int = 0, d_out: int = 0) -> None:
        super().__init__(d_in, d_out, False)

    def init(self, seed: int) -> None:
        """Draw the rotation."""
        self.A.tensor = linear.random_rotation(self.d_in, self.d_out, seed).to(self.device)
        self.is_orthonormal = self.is_trained = True

    def _train(self, x: Tensor) -> None:
        self.init(12345)


class HadamardRotation(VectorTransform):
    """Three rounds of sign flips and Walsh-Hadamard transforms; the dimension grows to a power of 2."""

    seed = word(0)
    signs1 = vector(Float32Vector)
    signs2 = vector(Float32Vector)
    signs3 = vector(Float32Vector)

    def __init__(self, d: int = 0, seed: int = 12345) -> None:
        super().__init__(d, 1 << max(0, d - 1).bit_length())
        if d:
            self.init(seed)

    def init(self, seed: int) -> None:
        """Draw the signs."""
        self.seed, self.is_trained = seed, True
        for held, signs in zip((self.signs1, self.signs2, self.signs3), linear.hadamard_signs(seed, self.d_out)):
            held.tensor = signs.to(self.device)

    def _train(self, x: Tensor) -> None:
        self.init(self.seed or 12345)

    def _apply(self, x: Tensor) -> Tensor:
        check(self.is_trained, "Transformation not trained yet")
        out = torch.zeros(x.shape[0], self.d_out, device=x.device)
        out[:, : self.d_in] = x
        for held in (self.signs1, self.signs2, self.signs3):
            out = linear.walsh_hadamard(out * held.tensor)
        return out.mul_(1.0 / (self.d_out * self.d_out**0.5))

    def _reverse(self, x: Tensor) -> Tensor:
        check(self.d_in == self.d_out, "reverse transform takes a dimension that is a power of 2, got {}", self.d_in)
        scale = 1.0 / (self.d_out * self.d_out**0.5)
        for held in (self.signs3, self.signs2, self.signs1):
            x = linear.walsh_hadamard(x) * held.tensor
        return x * scale


class RemapDimensionsTransform(VectorTransform):
    """Each output number is an input number, or 0."""

    map = vector(Int32Vector, "d_out input numbers, -1 for 0")

    def __init__(self, d_in: int = 0, d_out: int = 0, mapping: Any = True) -> None:
        super().__init__(d_in, d_out)
        table = np.full(d_out, -1, dtype=np.int32)
        if not isinstance(mapping, (bool, np.bool_)):
            table[:] = np.asarray(mapping.tensor if isinstance(mapping, Pointer) else mapping)[:d_out]
            check(bool(((table >= -1) & (table < d_in)).all()), "map entries must be -1 or a dimension below {}", d_in)
        elif not mapping:
            shared = min(d_in, d_out)
            table[:shared] = np.arange(shared)
        elif d_in < d_out:
            table[np.arange(d_in) * d_out // max(d_in, 1)] = np.arange(d_in)
        else:
            table[:] = np.arange(d_out) * d_in // max(d_out, 1)
        self.map.tensor = from_numpy(table).to(self.device)

    def _apply(self, x: Tensor) -> Tensor:
        table = self.map.tensor.long()
        return torch.where(table >= 0, x[:, table.clamp(min=0)], 0)

    def _reverse(self, x: Tensor) -> Tensor:
        table = self.map.tensor.long()
        out = torch.zeros(x.shape[0], self.d_in, device=x.device)
        out[:, table[table >= 0]] = x[:, table >= 0]
        return out


class NormalizationTransform(VectorTransform):
    """Vectors of norm 1."""

    norm = single(2.0)

    def __init__(self, d: int = -1, norm: float = 2.0) -> None:
        super().__init__(d, d)
        self.norm = norm if d != -1 else -1.0

    def _apply(self, x: Tensor) -> Tensor:
        check(self.norm == 2.0, "not implemented")
        return linear.normalised(x)

    def _reverse(self, x: Tensor) -> Tensor:
        return x


class CenteringTransform(VectorTransform):
    """Vectors less the mean of the training data."""

    mean = vector(Float32Vector)

    def __init__(self, d: int = 0) -> None:
        super().__init__(d, d)
        self.is_trained = False

    def _train(self, x: Tensor) -> None:
        check(x.shape[0] > 0, "need at least one training vector")
        self.mean.tensor = x.double().mean(0).float()
        self.is_trained = True

    def _apply(self, x: Tensor) -> Tensor:
        check(self.is_trained, "CenteringTransform has not been trained")
        return x - self.mean.tensor

    def _reverse(self, x: Tensor) -> Tensor:
        check(self.is_trained, "CenteringTransform has not been trained")
        return x + self.mean.tensor


__all__ = [
    "CenteringTransform",
    "HadamardRotation",
    "LinearTransform",
    "NormalizationTransform",
    "RandomRotationMatrix",
    "RemapDimensionsTransform",
    "VectorTransform",
]
