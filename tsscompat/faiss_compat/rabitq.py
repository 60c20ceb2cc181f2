"""RaBitQ: the quantizer, and the indexes of its codes, flat and in lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import rabitq, rows
from tsscompat.algorithms.ivf import ListCodec
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import Stated, boolean, byte, child, enum, single, size_t, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.computers import DistanceComputer
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2, metric_type_from_int
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.params import (
    IVFRaBitQSearchParameters,
    RaBitQSearchParameters,
    SearchParameters,
    SearchParametersIVF,
)
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import ScannedCodes
from tsscompat.faiss_compat.quantizers import Quantizer
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels.rabitq import Coder, estimates


class ExtraBitsFactors(Stated):
    """The two numbers behind the further bits of a code."""

    f_add_ex = single(0.0)
    f_rescale_ex = single(0.0)


def round_clamped_to_uint8(x: float, max_code: int) -> int:
    """The nearest whole number, halves up, from 0 to max_code."""
    return min(max(0, int(x + 0.5) if x > 0 else 0), max_code)


def round_nonnegative_to_uint8(x: float) -> int:
    """The nearest whole number, halves up, from 0 to 255."""
    return round_clamped_to_uint8(x, 255)


def round_nonnegative_to_uint16(x: float) -> int:
    """The nearest whole number, halves up, from 0 to 65535."""
    return round_clamped_to_uint8(x, 65535)


class RaBitQuantizer(Quantizer):
    """Vectors as signs of their differences to a centroid, further bits, and factors; the rotation that it counts on is the caller's."""

    centroid = child(None, "what vectors are compared with; None: the origin. Not written to files")
    metric_type = enum(int, METRIC_L2, "what the factors are for")
    nb_bits = size_t(1, "bits of a dimension, 1 to 9")

    def __init__(self, d: int = 0, metric: int = METRIC_L2, nb_bits: int = 1) -> None:
        super().__init__()
        self.d, self.metric_type, self.nb_bits = d, metric_type_from_int(metric), nb_bits
        self.code_size = self.compute_code_size(d, nb_bits)

    def compute_code_size(self, d: int, num_bits: int) -> int:
        """Bytes of a code of a dimension and a number of bits."""
        check(1 <= num_bits <= 9, "RaBitQ takes 1 to 9 bits, got {}", num_bits)
        return rabitq.code_size(d, num_bits)

    def _around(self, centroid: Any) -> Tensor:
        if centroid is None:
            return torch.zeros(1, self.d, device=self.device)
        return behind(centroid, 1, self.d).to(self.device)

    def _coded(self, x: Tensor, centers: Tensor) -> Tensor:
        supported = self.metric_type in (METRIC_L2, METRIC_INNER_PRODUCT)
        check(supported, "RaBitQ supports only L2 and inner-product metrics")
        return rabitq.encode(x, centers, self.metric_type, self.nb_bits)

    def _uncoded(self, codes: Tensor, centers: Tensor) -> Tensor:
        return rabitq.decode(codes, self.d, self.nb_bits) + centers

    def _coder(self, centers: Tensor, qb: int, centered: bool, filtered: bool = True) -> Coder:
        check(qb <= 8, "queries are rounded to at most 8 bits, got {}", qb)
        return Coder(centers, self.nb_bits, self.metric_type, qb, centered, filtered)

    def _train(self, x: Tensor) -> None:
        """Nothing is learned."""

    def _encode(self, x: Tensor) -> Tensor:
        return self._coded(x, self._around(self.centroid))

    def _decode(self, codes: Tensor) -> Tensor:
        return self._uncoded(codes, self._around(self.centroid))

    def compute_codes_core(self, x: Any, codes: Any, n: int, centroid_in: Any) -> None:
        """Write the codes of n vectors around a centroid."""
        behind(codes, n, self.code_size).copy_(self._coded(behind(x, n, self.d).to(self.device), self._around(centroid_in)))

    def decode_core(self, codes: Any, x: Any, n: int, centroid_in: Any) -> None:
        """Write what n codes around a centroid stand for."""
        given = behind(codes, n, self.code_size).to(self.device)
        behind(x, n, self.d).copy_(self._uncoded(given, self._around(centroid_in)))

    def get_distance_computer(self, qb: int = 0, centroid: Any = None, centered: bool = False) -> RaBitQDistanceComputer:
        """Distances to codes, for a query set on it; qb 0 does not round the query."""
        return RaBitQDistanceComputer(self, self._coder(self._around(centroid), qb, centered), None)


class RaBitQDistanceComputer(DistanceComputer):
    """The estimated distance of a query, set beforehand, to codes; `entry` gives the code and the coder of a number."""

    def __init__(self, owner: Any, coder: Coder, entry: Any) -> None:
        super().__init__(owner)
        self._coder, self._entry = coder, entry

    def _estimate(self, codes: Tensor, coder: Coder) -> list[float]:
        found = estimates(self._query.view(1, 1, -1), coder.centers, codes.reshape(1, 1, -1), coder)
        return [float(value) for value in found]

    def _given(self, code: Any) -> Tensor:
        return behind(code, self.index.code_size).to(self.index.device)

    def __call__(self, i: int) -> float:
        check(self._entry is not None, "the quantizer's distance computer has no codes of its own: use distance_to_code")
        return self._estimate(*self._entry(i))[1]

    def symmetric_dis(self, i: int, j: int) -> float:
        raise FaissError(f"distances between two codes are not implemented for {type(self.index).__name__}")

    def distance_to_code(self, code: Any) -> float:
        """The query's distance to a code, by all of its bits."""
        return self.distance_to_code_full(code)

    def distance_to_code_1bit(self, code: Any) -> float:
        """The query's distance to a code, by its signs."""
        return self._estimate(self._given(code), self._coder)[0]

    def distance_to_code_full(self, code: Any) -> float:
        """The query's distance to a code, by all of its bits."""
        return self._estimate(self._given(code), self._coder)[1]


class IndexRaBitQ(ScannedCodes):
    """RaBitQ codes around the mean of the training vectors."""

    rabitq = child(RaBitQuantizer, "makes the codes")
    center = vector(Float32Vector, "mean of the training vectors")
    qb = byte(4, "bits that queries are rounded to (0: none)")
    centered = boolean(False, "queries are rounded symmetrically around 0")

    def __init__(self, d: int = 0, metric: int = METRIC_L2, nb_bits: int = 1) -> None:
        super().__init__(0, d, metric)
        self.rabitq = RaBitQuantizer(d, metric, nb_bits)
        self.code_size = self.rabitq.code_size
        self.is_trained = False

    def _train(self, x: Tensor) -> None:
        self.center.tensor = mean_in_order(x)
        self.is_trained = True

    def _sa_encode(self, x: Tensor) -> Tensor:
        check(self.is_trained, "IndexRaBitQ must be trained before it encodes")
        return self.rabitq._coded(x, self.center.tensor)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        check(self.is_trained, "IndexRaBitQ must be trained before it decodes")
        return self.rabitq._uncoded(codes, self.center.tensor)

    def _coder(self, qb: int, centered: bool, filtered: bool = True) -> Coder:
        return self.rabitq._coder(self.center.tensor.view(1, -1), qb, centered, filtered)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "IndexRaBitQ must be trained before it is searched")
        asked = params if isinstance(params, RaBitQSearchParameters) else self
        codec = rabitq.RaBitQ(self._coder(asked.qb, asked.centered))
        return rows.top(codec, x, self._as_lists(), k, allowed_rows(params, self.ntotal, self.device))

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        check(self.is_trained, "IndexRaBitQ must be trained before it is searched")
        asked = params if isinstance(params, RaBitQSearchParameters) else self
        # FAISS does not heed `centered` here, and scores every code by all of its bits.
        codec = rabitq.RaBitQ(self._coder(asked.qb, False, False))
        return rows.within(codec, x, self._as_lists(), radius, allowed_rows(params, self.ntotal, self.device))

    def get_quantized_distance_computer(self, qb_in: int, centered: bool) -> RaBitQDistanceComputer:
        """Distances to single vectors with queries rounded to qb_in bits, for a query set on it."""
        coder = self._coder(qb_in, centered)
        return RaBitQDistanceComputer(self, coder, lambda i: (self._rows[i], coder))

    def get_FlatCodesDistanceComputer(self) -> RaBitQDistanceComputer:
        """Distances to single vectors, for a query set on it."""
        return self.get_quantized_distance_computer(self.qb, self.centered)

    get_distance_computer = get_FlatCodesDistanceComputer


def mean_in_order(x: Tensor) -> Tensor:
    """The mean of vectors, added row after row as FAISS adds them: it is stored, and every code depends on it."""
    total = torch.zeros(1, x.shape[1], device=x.device)
    total.index_add_(0, torch.zeros(x.shape[0], dtype=torch.int64, device=x.device), x)
    return total[0] / max(1, x.shape[0])


class IndexIVFRaBitQ(IndexIVF):
    """Lists of RaBitQ codes around the lists' centroids."""

    _quick = True

    rabitq = child(RaBitQuantizer, "makes the codes")
    qb = byte(4, "bits that queries are rounded to (0: none)")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        metric: int = METRIC_L2,
        own_invlists: bool = True,
        nb_bits: int = 1,
    ) -> None:
        super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
        self.by_residual = True
        if quantizer is None:
            return
        self.rabitq = RaBitQuantizer(d, metric, nb_bits)
        self.code_size = self.rabitq.code_size
        if self.invlists is not None:
            self.invlists.code_size = self.code_size
        self.is_trained = False

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        codes = self.rabitq._coded(x, self._coarse()._reconstruct(list_nos.clamp(min=0)))
        return codes.masked_fill((list_nos < 0)[:, None], 0)

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        return self.rabitq._uncoded(codes, self._coarse()._reconstruct(list_nos))

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        qb, centered = self.qb, False
        if isinstance(params, IVFRaBitQSearchParameters):
            qb, centered = params.qb, params.centered
        return rabitq.RaBitQ(self.rabitq._coder(self._centers(), qb, centered))

    def get_distance_computer(self) -> RaBitQDistanceComputer:
        """Distances to single vectors, for a query set on it; takes a direct map."""

        def entry(i: int) -> tuple[Tensor, Coder]:
            place = self.direct_map._get(torch.tensor([i], device=self.device))
            row = self._lists()._rows(place >> 32, place & 0xFFFFFFFF)
            center = self._coarse()._reconstruct(place >> 32)
            return self._lists()._ragged().codes[row], self.rabitq._coder(center, self.qb, False)

        return RaBitQDistanceComputer(self, self.rabitq._coder(torch.zeros(1, self.d, device=self.device), self.qb, False), entry)


__all__ = [
    "ExtraBitsFactors",
    "IndexIVFRaBitQ",
    "IndexRaBitQ",
    "RaBitQDistanceComputer",
    "RaBitQuantizer",
    "round_clamped_to_uint8",
    "round_nonnegative_to_uint8",
    "round_nonnegative_to_uint16",
]
