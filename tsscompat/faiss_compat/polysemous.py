"""Polysemous training in FAISS's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import polysemous
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, boolean, enum, integer, real, size_t, text
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantizers import ProductQuantizer, constants
from tsscompat.kernels import bits
from tsscompat.kernels.metrics import L2, pairwise
from tsscompat.kernels.threads import run_blocks
from tsscompat.records import fields_of


class SimulatedAnnealingParameters(Stated):
    """How to anneal a permutation."""

    init_temperature = real(0.7)
    temperature_decay = real(0.9997893011688015, "0.9 to the power of 1/500")
    n_iter = integer(500_000)
    n_redo = integer(2)
    seed = integer(123)
    verbose = integer(0)
    only_bit_flips = boolean(False)
    init_random = boolean(False)


class PolysemousTraining(SimulatedAnnealingParameters):
    """Renumbering of a product quantizer's centroids for polysemous codes."""

    OT_None, OT_ReproduceDistances_affine, OT_Ranking_weighted_diff = range(3)

    optimization_type = enum(int, 1)
    ntrain_permutation = integer(0)
    dis_weight_factor = real(0.6931471805599453)
    max_memory = size_t(20 << 30)
    log_pattern = text("")

    def _annealing(self) -> polysemous.Annealing:
        check(not self.log_pattern, "log_pattern: annealing is not logged")
        return polysemous.Annealing(**{name: getattr(self, name) for name in fields_of(polysemous.Annealing)})

    def optimize_pq_for_hamming(self, pq: ProductQuantizer, n: int = 0, x: Any = None) -> None:
        """Renumber the centroids of every part, and compute the table of their distances."""
        if self.optimization_type == self.OT_ReproduceDistances_affine:
            self.optimize_reproduce_distances(pq)
        elif self.optimization_type == self.OT_Ranking_weighted_diff:
            self.optimize_ranking(pq, n, x)
        pq.compute_sdc_table()

    def optimize_reproduce_distances(self, pq: ProductQuantizer) -> None:
        """Renumber so that Hamming distances resemble distances of centroids."""
        self._check_memory(pq)
        found: list[tuple[Tensor, float]] = [(torch.empty(0), 0.0)] * pq.M
        how = self._annealing()
        words = polysemous.Words(how, pq.ksub)

        def work(start: int, stop: int) -> None:
            for m in range(start, stop):
                found[m] = polysemous.by_distance(pq._table[m], pq.nbits, how, self.dis_weight_factor, words)

        run_blocks(work, pq.M)
        for m in range(pq.M):
            self._renumber(pq, m, *found[m])

    def optimize_ranking(self, pq: ProductQuantizer, n: int = 0, x: Any = None) -> None:
        """Renumber so that Hamming distances order points as distances do: n points, the first quarter as queries; 0: the centroids."""
        check(pq.nbits == 8, "ranking takes 8 bits a part, got {}", pq.nbits)
        if n == 0:
            pq.compute_sdc_table()
            owner = parts = torch.arange(pq.ksub)[:, None].expand(pq.ksub, pq.M)
            points = torch.empty(0, pq.d)
        else:
            points = (x if isinstance(x, Tensor) else behind(x, n, pq.d)).to(pq.device)
            codes = bits.unpack(pq._encode(points), pq.M, pq.nbits)
            owner, parts = codes[: n // 4], codes[n // 4 :]
        how = self._annealing()
        words = polysemous.Words(how, pq.ksub)
        for m in range(pq.M):
            if n == 0:
                distances = pq.sdc_table.tensor.view(pq.M, pq.ksub, pq.ksub)[m]
            else:
                part = points[:, m * pq.dsub : (m + 1) * pq.dsub].contiguous()
                distances = pairwise(part[: n // 4], part[n // 4 :], L2)
            self._renumber(pq, m, *polysemous.by_order(owner[:, m], parts[:, m], distances, pq.ksub, how, words))

    def _renumber(self, pq: ProductQuantizer, m: int, perm: Tensor, cost: float) -> None:
        if self.verbose > 0:
            print(f"SimulatedAnnealingOptimizer for m={m}: {cost:g}")
        given = pq._table[m].clone()
        pq._table[m][perm.to(given.device)] = given

    def memory_usage_per_thread(self, pq: ProductQuantizer) -> int:
        """Bytes of the tables of a part."""
        check(0 <= self.optimization_type <= 2, "invalid optimization type {}", self.optimization_type)
        return (0, 24 * pq.ksub**2, 4 * pq.ksub**3)[self.optimization_type]

    def _check_memory(self, pq: ProductQuantizer) -> None:
        wanted = self.memory_usage_per_thread(pq)
        check(wanted < self.max_memory, "polysemous training takes {} bytes, max_memory allows {}", wanted, self.max_memory)


globals().update(constants(PolysemousTraining, ("OT_",)))

__all__ = ["PolysemousTraining", "SimulatedAnnealingParameters", *constants(PolysemousTraining, ("OT_",))]
