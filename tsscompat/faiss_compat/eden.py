"""IndexEDEN and IndexIVFEDEN: scalar codes of directions around centers, with a scale for each vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import decoded, eden, scalar
from tsscompat.algorithms.estimated import Estimated
from tsscompat.algorithms.in_place import InPlace, best_scorer
from tsscompat.algorithms.ivf import ListCodec
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, child, enum, single, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.computers import EstimatedComputer
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.params import SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import ScannedCodes
from tsscompat.faiss_compat.quantizers import ScalarQuantizer
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels.ivf_codebook import SCALED, Codebook

EDENScaleType_UNBIASED, EDENScaleType_BIASED = eden.UNBIASED, eden.BIASED


class EDENCodeFactors(Stated):
    """The two numbers behind a code."""

    l2_norm_term = single(0.0, "a square for distances")
    scale = single(0.0, "of the decoded direction")


class EDENFlatCodesDistanceComputer(EstimatedComputer):
    """The estimated distance of a query, set beforehand, to codes."""

    def consecutive_distances_batch_8(self, first: int, distances: Any) -> None:
        """Write the distances to 8 vectors in a row."""
        behind(distances, 8).copy_(torch.tensor([self(i) for i in range(first, first + 8)]))


class _Eden:
    """What the two indexes share: the quantizer, its scale, and how vectors around centers become codes."""

    def _set_up(self: Any, nb_bits: int, scale_type: int) -> None:
        """Make the quantizer, which needs no data."""
        check(1 <= nb_bits <= 8, "EDEN takes 1 to 8 bits, got {}", nb_bits)
        check(scale_type in (EDENScaleType_UNBIASED, EDENScaleType_BIASED), "invalid EDEN scale type {}", scale_type)
        self.sq = ScalarQuantizer(self.d, ScalarQuantizer.QT_1bit_eden + nb_bits - 1)
        self.sq._train(torch.empty(0, self.d, device=self.device))
        self.scale_type = scale_type
        self.code_size = self.sq.code_size + eden.FACTORS

    def _coded(self: Any, x: Tensor, centers: Tensor) -> Tensor:
        supported = self.metric_type in (METRIC_L2, METRIC_INNER_PRODUCT)
        check(supported, "EDEN supports only L2 and inner-product metrics")
        return eden.encode(x - centers, self.sq.qtype, self.sq.trained.tensor, self.scale_type)

    def _uncoded(self: Any, codes: Tensor, centers: Tensor) -> Tensor:
        return eden.decode(codes, self.sq.qtype, self.sq.trained.tensor, self.d) + centers

    def _in_place(self: Any, centers: Tensor) -> InPlace:
        return InPlace(
            Codebook(SCALED, self.sq.bits, scalar.values_of(self.sq.qtype, self.sq.trained.tensor)), self.metric_type, centers
        )

    def _factors(self: Any, codes: Tensor, centers: Tensor) -> Tensor:
        return eden.factors(codes, self.sq.qtype, self.sq.trained.tensor, centers)


class IndexEDEN(_Eden, ScannedCodes):
    """Codes around the mean of the training vectors."""

    sq = child(ScalarQuantizer, "makes the codes of directions")
    scale_type = enum(int, EDENScaleType_UNBIASED, "one of EDENScaleType_*")
    center = vector(Float32Vector, "mean of the training vectors")

    def __init__(self, d: int = 0, metric: int = METRIC_L2, nb_bits: int = 1, scale_type: int = EDENScaleType_UNBIASED) -> None:
        super().__init__(0, d, metric)
        if d:
            self._set_up(nb_bits, scale_type)
            self.is_trained = False

    def _train(self, x: Tensor) -> None:
        total = torch.zeros(1, self.d, device=self.device)
        # Row after row, as FAISS adds them: the sum is stored, and every code depends on it.
        total.index_add_(0, torch.zeros(x.shape[0], dtype=torch.int64, device=self.device), x)
        self.center.tensor = total[0] / max(1, x.shape[0])
        self.is_trained = True

    def _sa_encode(self, x: Tensor) -> Tensor:
        check(self.is_trained, "IndexEDEN must be trained before it encodes")
        return self._coded(x, self.center.tensor)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        check(self.is_trained, "IndexEDEN must be trained before it decodes")
        return self._uncoded(codes, self.center.tensor)

    def _codec(self) -> ListCodec:
        center = self.center.tensor
        return best_scorer(self._scorer(), center, lambda: self._in_place(center.view(1, -1)))

    def _scorer(self) -> Estimated:
        center = self.center.tensor
        return Estimated(lambda codes, list_nos: self._factors(codes, center), self.d, self.metric_type, clamped=True)

    def _decoder(self, x: Tensor) -> decoded.Decoder | None:
        return None

    def get_FlatCodesDistanceComputer(self) -> EDENFlatCodesDistanceComputer:
        """Distances to single vectors, for a query set on it."""
        return EDENFlatCodesDistanceComputer(self, self._scorer(), lambda i: (self._rows[i : i + 1], None))

    get_distance_computer = get_FlatCodesDistanceComputer


class IndexIVFEDEN(_Eden, IndexIVF):
    """Lists of codes around the lists' centroids."""

    sq = child(ScalarQuantizer, "makes the codes of directions")
    scale_type = enum(int, EDENScaleType_UNBIASED, "one of EDENScaleType_*")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        metric: int = METRIC_L2,
        own_invlists: bool = True,
        nb_bits: int = 1,
        scale_type: int = EDENScaleType_UNBIASED,
    ) -> None:
        super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
        self.by_residual = True
        if quantizer is None:
            return
        self._set_up(nb_bits, scale_type)
        if self.invlists is not None:
            self.invlists.code_size = self.code_size
        self.is_trained = False

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        codes = self._coded(x, self._coarse()._reconstruct(list_nos.clamp(min=0)))
        return codes.masked_fill((list_nos < 0)[:, None], 0)

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        return self._uncoded(codes, self._coarse()._reconstruct(list_nos))

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        return best_scorer(self._scorer(), self.sq.trained.tensor, lambda: self._in_place(self._centers()))

    def _scorer(self) -> Estimated:
        return Estimated(self._around_centroids, self.d, self.metric_type, clamped=True)

    def _around_centroids(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        return self._factors(codes, self._coarse()._reconstruct(list_nos))

    def get_distance_computer(self) -> EstimatedComputer:
        """Distances to single vectors, for a query set on it; takes a direct map."""
        return EstimatedComputer(self, self._scorer(), self._entry)

    def _entry(self, i: int) -> tuple[Tensor, Tensor]:
        place = self.direct_map._get(torch.tensor([i], device=self.device))
        row = self._lists()._rows(place >> 32, place & 0xFFFFFFFF)
        return self._lists()._ragged().codes[row], place >> 32


def is_eden_quantizer_type(qtype: int) -> bool:
    """Whether a scalar quantizer's type is one of EDEN's."""
    return ScalarQuantizer.QT_1bit_eden <= qtype <= ScalarQuantizer.QT_8bit_eden


__all__ = [
    "EDENCodeFactors",
    "EDENFlatCodesDistanceComputer",
    "EDENScaleType_BIASED",
    "EDENScaleType_UNBIASED",
    "IndexEDEN",
    "IndexIVFEDEN",
    "is_eden_quantizer_type",
]
