"""Vector transforms in FAISS's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import linear, random
from tsscompat.arrays import Array, from_numpy, rows
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, boolean, child, integer, real, size_t, vector
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.vectors import Float32Vector, Float64Vector, Int32Vector


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
        out = x @ self._matrix.t()
        return out.add_(self.b.tensor) if self.have_bias else out

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

    seed = size_t(0)
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


class PCAMatrix(LinearTransform):
    """The principal axes of the data, perhaps whitened, balanced or rotated."""

    eigen_power = real(0.0, "axes are scaled by their eigenvalue to this power (-0.5: whitening)")
    epsilon = real(0.0, "added to the eigenvalues before")
    random_rotation = boolean(False)
    max_points_per_d = size_t(1000)
    balanced_bins = integer(0, "groups of axes with much the same variance")
    mean = vector(Float32Vector)
    eigenvalues = vector(Float32Vector)
    PCAMat = vector(Float32Vector, "all axes as rows")

    def __init__(self, d_in: int = 0, d_out: int = 0, eigen_power: float = 0.0, random_rotation: bool = False) -> None:
        super().__init__(d_in, d_out, True)
        self.eigen_power, self.random_rotation = eigen_power, random_rotation

    def _train(self, x: Tensor) -> None:
        x = linear.subsampled(x, self.max_points_per_d * self.d_in)
        self.mean.tensor = x.double().mean(0).float() if self.have_bias else torch.zeros(self.d_in, device=x.device)
        self.eigenvalues.tensor, self.PCAMat.tensor = linear.principal_axes(x, self.mean.tensor)
        self.prepare_Ab()
        self.is_trained = True

    def copy_from(self, other: PCAMatrix) -> None:
        """Take another's axes, for this output dimension."""
        check(other.is_trained, "source PCAMatrix must be trained before copying")
        self.mean, self.eigenvalues, self.PCAMat = list(other.mean), list(other.eigenvalues), list(other.PCAMat)
        self.prepare_Ab()
        self.is_trained = True

    def prepare_Ab(self) -> None:
        """Work out A and b from the axes."""
        d_in, d_out = self.d_in, self.d_out
        check(d_out * d_in <= self.PCAMat.size(), "PCA matrix cannot output {} dimensions from {} ", d_out, d_in)
        axes, values = self.PCAMat.tensor.view(-1, d_in)[:d_out].clone(), self.eigenvalues.tensor
        if not self.random_rotation:
            if self.eigen_power != 0:
                axes = axes * (values[:d_out] + self.epsilon).pow(self.eigen_power)[:, None]
            if self.balanced_bins != 0:
                check(d_out % self.balanced_bins == 0, "output dimension must be divisible by balanced_bins")
                axes = linear.balanced(axes, values, self.balanced_bins)
        else:
            check(self.balanced_bins == 0, "both balancing bins and applying a random rotation does not make sense")
            turn = linear.random_rotation(d_out, d_out, 5).to(axes.device)
            if self.eigen_power != 0:
                turn = turn * values[:d_out].pow(self.eigen_power)
            axes = turn @ axes
        self.A.tensor = axes
        self.b.tensor = -(axes @ self.mean.tensor)
        self.is_orthonormal = self.eigen_power == 0


class ITQMatrix(LinearTransform):
    """Iterative quantisation: the rotation that brings data close to its signs."""

    max_iter = integer(50)
    seed = integer(123)
    init_rotation = vector(Float64Vector, "where to begin; empty: a random rotation")

    def __init__(self, d: int = 0) -> None:
        super().__init__(d, d, False)

    def _train(self, x: Tensor) -> None:
        d = self.d_in
        start = (
            self.init_rotation.tensor.view(d, d)
            if self.init_rotation.size() == d * d
            else linear.random_rotation(d, d, self.seed)
        )
        self.A.tensor = linear.itq(x, start.to(x.device), self.max_iter)
        self.is_trained = True


class ITQTransform(VectorTransform):
    """Centering, normalisation, PCA, then an ITQ rotation."""

    mean = vector(Float32Vector)
    do_pca = boolean(False)
    itq = child(ITQMatrix)
    max_train_per_dim = integer(10)
    pca_then_itq = child(LinearTransform)

    def __init__(self, d_in: int = 0, d_out: int = 0, do_pca: bool = False) -> None:
        super().__init__(d_in, d_out)
        check(do_pca or d_in == d_out, "input and output dimensions must match when PCA is disabled")
        self.do_pca, self.is_trained = do_pca, False
        self.itq, self.pca_then_itq = ITQMatrix(d_out), LinearTransform(d_in, d_out, False)

    def _train(self, x: Tensor) -> None:
        check(not self.is_trained, "ITQTransform has already been trained")
        x = linear.subsampled(x, max(self.d_in * self.max_train_per_dim, 32768))
        self.mean.tensor = x.double().mean(0).float()
        x = linear.normalised(x - self.mean.tensor)
        if self.do_pca:
            pca = PCAMatrix(self.d_in, self.d_out)
            pca.have_bias = False
            pca._train(x)
            self.itq._train(pca._apply(x))
            self.pca_then_itq.A.tensor = self.itq._matrix @ pca._matrix
        else:
            self.itq._train(x)
            self.pca_then_itq.A.tensor = self.itq.A.tensor.clone()
        self.pca_then_itq.is_trained = self.is_trained = True

    def _apply(self, x: Tensor) -> Tensor:
        check(self.is_trained, "Transformation not trained yet")
        return self.pca_then_itq._apply(linear.normalised(x - self.mean.tensor))


class OPQMatrix(LinearTransform):
    """The rotation under which a product quantiser loses least."""

    M = integer(1, "parts of the product quantiser")
    niter = integer(50)
    niter_pq = integer(4)
    niter_pq_0 = integer(40)
    max_train_points = size_t(65536)
    pq = child(None, "the product quantiser to train with; None: one of 8 bits")

    def __init__(self, d: int = 0, M: int = 1, d2: int = -1) -> None:
        super().__init__(d, d if d2 == -1 else d2, False)
        self.M = M

    def _train(self, x: Tensor) -> None:
        x = linear.subsampled(x, self.max_train_points)
        d, d2 = max(self.d_in, self.d_out), self.d_out
        data = torch.zeros(x.shape[0], d, device=x.device)
        data[:, : self.d_in] = x - x.double().mean(0).float()
        if self.A.size() == 0:
            start = linear.orthonormal(1234, d, d)[:d2].to(x.device)
        else:
            check(self.A.size() == d * d2, "rotation matrix A has incorrect size")
            start = self.A.tensor.view(d2, d)
        pq = self.pq if self.pq is not None else ProductQuantizer(d2, self.M, 8).to(x.device)

        def requantise(projected: Tensor, i: int) -> Tensor:
            pq.cp.max_points_per_centroid = 1000
            pq.cp.niter = self.niter_pq_0 if i == 0 else self.niter_pq
            pq._train(projected)
            pq.train_type = ProductQuantizer.Train_hot_start
            decoded: Tensor = pq._decode(pq._encode(projected))
            return decoded

        def report(i: int, error: float) -> None:
            if self.verbose:
                print(f"    Iteration {i} ({pq.cp.niter} PQ iterations): obj={error:g}")

        turned = linear.opq(data, start, self.niter, requantise, report)
        self.A.tensor = turned[:, : self.d_in].contiguous()
        self.is_trained = self.is_orthonormal = True


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

    norm = real(2.0)

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


class RandomGenerator(random.RandomGenerator):
    """std::mt19937 with FAISS's ways of drawing from it."""


class SplitMix64RandomGenerator(random.SplitMix64RandomGenerator):
    """SplitMix64 with FAISS's ways of drawing from it."""


__all__ = [
    "CenteringTransform",
    "HadamardRotation",
    "ITQMatrix",
    "ITQTransform",
    "LinearTransform",
    "NormalizationTransform",
    "OPQMatrix",
    "PCAMatrix",
    "RandomGenerator",
    "RandomRotationMatrix",
    "RemapDimensionsTransform",
    "SplitMix64RandomGenerator",
    "VectorTransform",
]
