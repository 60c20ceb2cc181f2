"""IndexIVFScalarQuantizer: lists of scalar-quantised vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import scalar
from tsscompat.algorithms.estimated import Coarse, Estimated
from tsscompat.algorithms.in_place import InPlace, best_scorer
from tsscompat.algorithms.ivf import Decoded, ListCodec, Scalar
from tsscompat.algorithms.turbo import Turbo
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import child
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF, unchanged
from tsscompat.faiss_compat.params import IVFSQTurboQSearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.quantizers import ScalarQuantizer
from tsscompat.kernels.entries import Coder
from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_codebook import PLAIN, Codebook

SQ = ScalarQuantizer
# Bits, and how many steps the trained range has; codes stand for the middle of their step.
_RANGED = {
    SQ.QT_8bit: (8, 255),
    SQ.QT_8bit_uniform: (8, 255),
    SQ.QT_6bit: (6, 63),
    SQ.QT_4bit: (4, 15),
    SQ.QT_4bit_uniform: (4, 15),
}
_DIRECT = {SQ.QT_8bit_direct: 0.0, SQ.QT_8bit_direct_signed: -128.0}
_FLOATS = {SQ.QT_fp16: 16, SQ.QT_bf16: 17}
TURBO_FULL = range(SQ.QT_2bit_tq, SQ.QT_5bit_tq + 1)


def affine_of(sq: ScalarQuantizer, device: torch.device) -> Affine | None:
    """What a scalar quantizer's codes stand for, where that is a straight line in each dimension."""
    if sq.qtype in _FLOATS:
        return Affine(_FLOATS[sq.qtype], torch.empty(0, device=device), torch.empty(0, device=device))
    if sq.qtype in _DIRECT:
        return Affine(8, torch.full((sq.d,), _DIRECT[sq.qtype], device=device), torch.ones(sq.d, device=device))
    if sq.qtype not in _RANGED:
        return None
    bits, steps = _RANGED[sq.qtype]
    trained = sq.trained.tensor
    low, extent = (
        (trained[: sq.d], trained[sq.d :])
        if trained.shape[0] == 2 * sq.d and trained.shape[0] != 2
        else (trained[:1], trained[1:])
    )
    step = (extent / steps).expand(sq.d).contiguous()
    return Affine(bits, (low + 0.5 * step).contiguous(), step)


def turbo_scorer(sq: ScalarQuantizer, metric: int, params: SearchParametersIVF | None = None) -> ListCodec | None:
    """How searches score them."""
    codec = turbo_codec(sq, metric, params)
    if codec is None:
        return None
    known = sq.trained.tensor
    return best_scorer(codec, known, lambda: InPlace(Turbo.of(known, sq.d, sq.bits).codebook(), metric, asked=codec.asked))


def turbo_codec(sq: ScalarQuantizer, metric: int, params: SearchParametersIVF | None = None) -> Estimated | None:
    """How a scalar quantizer's codes are scored, where they are TurboQuant's."""
    if sq.qtype not in TURBO_FULL:
        return None
    turbo = Turbo.of(sq.trained.tensor, sq.d, sq.bits)
    rounding = params if isinstance(params, IVFSQTurboQSearchParameters) else IVFSQTurboQSearchParameters()
    levels, both = (1 << rounding.qb) - 1, rounding.int_qjl
    return Estimated(
        lambda codes, list_nos: turbo.factors(codes), 2 * sq.d + 3, metric, asked=lambda x: turbo.asked(x, levels, both)
    )


class IndexIVFScalarQuantizer(IndexIVF):
    """Lists of vectors, or residuals, with a few bits for each dimension."""

    _quick = True
    _arrays = True

    sq = child(ScalarQuantizer, "makes the codes")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        qtype: int = SQ.QT_8bit,
        metric: int = METRIC_L2,
        by_residual: bool = True,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
        if quantizer is None:
            return
        self.sq = ScalarQuantizer(d, qtype)
        self.code_size, self.by_residual = self.sq.code_size, by_residual
        if self.invlists is not None:
            self.invlists.code_size = self.code_size
        self.is_trained = qtype == SQ.QT_0bit
        if qtype == SQ.QT_0bit or qtype in TURBO_FULL:
            self.by_residual = False

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        self.sq._train(x)

    def _train_encoder_num_vectors(self) -> int:
        return 100000

    _add_arrays, _reconstruct_array = IndexIVF._add_arrays, IndexIVF._reconstruct_array

    def _row_coder(self) -> Coder | None:
        return self.sq._row_coder() if self.code_size == self.sq.code_size else None

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        if self.code_size == 0:
            return torch.empty(x.shape[0], 0, dtype=torch.uint8, device=x.device)
        wanted = self._residuals(x, list_nos) if self.by_residual else x
        codes = scalar.encode(wanted, self.sq.qtype, self.sq.trained.tensor)
        if codes.is_cpu and codes.shape[0] == 1 and int(list_nos) >= 0:  # the test is a quarter of what filling nothing takes
            return codes
        return codes.masked_fill_((list_nos < 0)[:, None], 0)

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        if self.code_size == 0:
            centroids: Tensor = self._coarse()._reconstruct(list_nos)
            return centroids
        vectors = scalar.decode(codes, self.sq.qtype, self.sq.trained.tensor, self.d)
        return vectors + self._coarse()._reconstruct(list_nos) if self.by_residual else vectors

    _caches = ("_scorer",)
    _scorer: Any

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        check(self.metric_type in (METRIC_L2, METRIC_INNER_PRODUCT), "unsupported metric type {}", self.metric_type)
        centers = self._centers() if self.by_residual and self.metric_type == METRIC_L2 else None
        trained = self.sq.trained._buffer
        held, values = (trained, centers), (trained._version, self.sq.qtype, self.metric_type, self.by_residual)
        if self.sq.qtype == SQ.QT_0bit:
            return Coarse(self.metric_type)
        turbo = turbo_scorer(self.sq, self.metric_type, params)
        if turbo is not None:
            return turbo
        if not unchanged(self._scorer, held, values):
            affine = affine_of(self.sq, self.device)
            codec = self._by_values(centers) if affine is None else Scalar(affine, self.metric_type, centers, self.by_residual)
            self._scorer = (held, values, codec)
        scorer: ListCodec = self._scorer[2]
        return scorer

    def _by_values(self, centers: Tensor | None) -> ListCodec:
        """How codes that name values are scored."""
        codebook = Codebook(PLAIN, self.sq.bits, scalar.values_of(self.sq.qtype, self.sq.trained.tensor))
        decoded = Decoded(self._decode_vectors, self.d, self.metric_type)
        return best_scorer(decoded, codebook.values, lambda: InPlace(codebook, self.metric_type, centers, self.by_residual))


__all__ = ["IndexIVFScalarQuantizer"]
