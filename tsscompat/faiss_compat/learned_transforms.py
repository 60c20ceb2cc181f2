"""Vector transforms that learn from data: principal axes, ITQ, OPQ."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms import linear
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import boolean, child, integer, single, size_t, vector
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.transforms import LinearTransform, VectorTransform
from tsscompat.faiss_compat.vectors import Float32Vector, Float64Vector


class PCAMatrix(LinearTransform):
    """The principal axes of the data, perhaps whitened, balanced or rotated."""

    eigen_power = single(0.0, "axes are scaled by their eigenvalue to this power (-0.5: whitening)")
    epsilon = single(0.0, "added to the eigenvalues before")
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
        self.mean, self.eigenvalues, self.PCAMat = other.mean, other.eigenvalues, other.PCAMat
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


__all__ = ["ITQMatrix", "ITQTransform", "OPQMatrix", "PCAMatrix"]
