"""Coarse quantizers whose centroids are all the sums of an additive quantizer: none is stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.additive import join_number
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.additive_flat import spread
from tsscompat.faiss_compat.attributes import child, single, vector
from tsscompat.faiss_compat.base import Index, check_keys
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.local_search import LocalSearchQuantizer
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersResidualCoarseQuantizer
from tsscompat.faiss_compat.residual import ResidualQuantizer
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels.select import padded
from tsscompat.kernels.singles import times


class AdditiveCoarseQuantizer(Index):
    """Centroid i is the sum of the entries that the bits of i name."""

    aq = child(None, "whose sums they are")
    centroid_norms = vector(Float32Vector, "squared norms of the centroids")

    def __init__(self, d: int = 0, aq: AdditiveQuantizer | None = None, metric: int = METRIC_L2) -> None:
        super().__init__(d, metric)
        if type(self) is AdditiveCoarseQuantizer:
            self.aq = aq

    def _train(self, x: Tensor) -> None:
        aq: AdditiveQuantizer = self.aq
        check(4 << aq.tot_bits <= aq.max_mem_distances, "the norms of 2 ** {} centroids would become too large", aq.tot_bits)
        aq._train(x)
        self._completed()

    def _completed(self) -> None:
        """Take on the size of the trained quantizer."""
        self.is_trained = True
        self.ntotal = 1 << self.aq.tot_bits
        if self.metric_type == METRIC_L2:
            self.centroid_norms.tensor = self.aq._all_norms()

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        raise FaissError("not applicable: the centroids are the quantizer's sums")

    def _reset(self) -> None:
        raise FaissError("not applicable: the centroids are the quantizer's sums")

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self.aq._numbered(check_keys(keys, self.ntotal))

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._reconstruct(torch.arange(n0, n0 + ni, device=self.device))

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        return self._exhaustive(x, k)

    def _exhaustive(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Every centroid is compared."""
        if self.metric_type == METRIC_INNER_PRODUCT:
            return self.aq._nearest_sums(x, k, None)
        known = self.centroid_norms.size() == self.ntotal
        check(known, "{} norms of {} centroids are known", self.centroid_norms.size(), self.ntotal)
        return self.aq._nearest_sums(x, k, self.centroid_norms.tensor)

    def _number(self, parts: Tensor) -> Tensor:
        """The centroids' numbers of their entries' numbers (..., M)."""
        return join_number(parts, self.aq._sizes)


class ResidualCoarseQuantizer(AdditiveCoarseQuantizer):
    """The sums of a residual quantizer, searched by a beam or, where beam_factor is negative, exhaustively."""

    rq = child(ResidualQuantizer, "whose sums the centroids are")
    beam_factor = single(4.0, "width of the beam for each centroid asked for; negative: exhaustive search")

    def __init__(self, d: int = 0, M: Any = 0, nbits: int | None = None, metric: int | None = None) -> None:
        """(d, M, nbits, metric), or with the sizes of the codebooks in place of M and nbits."""
        sizes, metric, _ = spread(M, nbits, metric, None)
        super().__init__(d, None, metric)
        self.rq = ResidualQuantizer(d, sizes)
        check(self.rq.tot_bits <= 63, "centroids are numbered in 63 bits, got {}", self.rq.tot_bits)
        self.is_trained = False

    @property
    def aq(self) -> ResidualQuantizer:
        made: ResidualQuantizer = self.rq
        return made

    def set_beam_factor(self, new_beam_factor: float) -> None:
        """Change the width of the beam, and make what the new kind of search needs."""
        self.beam_factor = new_beam_factor
        if new_beam_factor > 0:
            check(new_beam_factor >= 1.0, "a beam factor must be at least 1, got {}", new_beam_factor)
            if not self.rq.codebook_cross_products.size():
                self.rq._want_tables()
            return
        self.rq.codebook_cross_products.resize(0)
        if self.metric_type == METRIC_L2 and self.centroid_norms.size() != self.ntotal:
            self.centroid_norms.tensor = self.rq._all_norms()

    def initialize_from(self, other: ResidualCoarseQuantizer) -> None:
        """Take over the first codebooks of another."""
        check(self.rq.M <= other.rq.M, "{} codebooks cannot come from {}", self.rq.M, other.rq.M)
        self.rq.initialize_from(other.rq)
        self.is_trained, self.ntotal = other.is_trained, 1 << self.rq.tot_bits
        self.set_beam_factor(other.beam_factor)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        factor = self.beam_factor
        if params is not None:
            check(isinstance(params, SearchParametersResidualCoarseQuantizer), "need SearchParametersResidualCoarseQuantizer")
            factor = params.beam_factor  # type: ignore[attr-defined]
        if factor < 0:
            return self._exhaustive(x, k)
        width = min(max(k, times(k, factor)), self.ntotal)
        distances, labels = padded(x.shape[0], k, False, x.device)
        kept, step = min(k, width), max(1, self.rq.max_mem_distances // self.rq.memory_per_point(width))
        for i in range(0, x.shape[0], step):
            parts, _, near = self.rq._beam(x[i : i + step, None], width)
            distances[i : i + step, :kept] = near[:, :kept]
            labels[i : i + step, :kept] = self._number(parts[:, :kept])
        return distances, labels


class LocalSearchCoarseQuantizer(AdditiveCoarseQuantizer):
    """The sums of a local search quantizer."""

    lsq = child(LocalSearchQuantizer, "whose sums the centroids are")

    def __init__(self, d: int = 0, M: int = 0, nbits: int = 0, metric: int = METRIC_L2) -> None:
        super().__init__(d, None, metric)
        self.lsq = LocalSearchQuantizer(d, M, nbits)
        check(self.lsq.tot_bits <= 63, "centroids are numbered in 63 bits, got {}", self.lsq.tot_bits)
        self.is_trained = False

    @property
    def aq(self) -> LocalSearchQuantizer:
        made: LocalSearchQuantizer = self.lsq
        return made


__all__ = ["AdditiveCoarseQuantizer", "LocalSearchCoarseQuantizer", "ResidualCoarseQuantizer"]
