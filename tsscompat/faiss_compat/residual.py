"""ResidualQuantizer: each codebook is trained on what the codebooks before it leave over; codes are found by beam search."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import additive
from tsscompat.algorithms.blocks import squared_norms
from tsscompat.errors import check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.attributes import child, enum, integer
from tsscompat.faiss_compat.clustering import (
    Clustering,
    ProgressiveDimClustering,
    ProgressiveDimClusteringParameters,
    ProgressiveDimIndexFactory,
)
from tsscompat.faiss_compat.enums import EXACT_TOPK
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vector_arrays import swig_ptr
from tsscompat.kernels import beam
from tsscompat.kernels.select import select

# Distances of a beam that are held at once.
_BLOCK = 1 << 22
# Products of codebook entries that are kept unasked.
_MOST_PRODUCTS = 1 << 28


class ResidualQuantizer(AdditiveQuantizer):
    """Codebook after codebook takes away what it can of a vector."""

    Train_default, Train_progressive_dim, Train_refine_codebook = range(3)
    Train_top_beam, Skip_codebook_tables = 1024, 2048

    train_type = integer(Train_progressive_dim, "sum of Train_* flags")
    niter_codebook_refine = integer(5, "iterations of Train_refine_codebook")
    max_beam_size = integer(5, "codes that are followed up, in training and encoding")
    use_beam_LUT = integer(0, "1: distances in the beam come from the tables of compute_codebook_tables")
    approx_topk_mode = enum(int, EXACT_TOPK, "accepted; the beam is always exact")
    cp = child(ProgressiveDimClusteringParameters, "how codebooks are clustered")
    assign_index_factory = child(None, "makes the indexes that assign in training (dimension -> index)")

    def __init__(self, d: int = 0, M: Any = (), nbits: int | None = None, search_type: int = 0) -> None:
        """(d, M, nbits) for codebooks all alike, (d, nbits) with a vector of sizes; both may be followed by a search type."""
        if isinstance(M, int):
            check(nbits is not None, "expected the bits of a codebook's numbers")
            super().__init__(d, [nbits] * M, search_type)
        else:
            super().__init__(d, M, search_type if nbits is None else nbits)

    def initialize_from(self, other: ResidualQuantizer, skip_M: int = 0) -> None:
        """Take over another's settings, and its codebooks from number skip_M on, as many as there are here."""
        check(
            skip_M >= 0 and self.M + skip_M <= other.M,
            "cannot take {} codebooks from number {} on of {}",
            self.M,
            skip_M,
            other.M,
        )
        own_m, own_type, own_device = self.M, self.search_type, self.device
        twin = copy.deepcopy(other).to(own_device)
        self.__dict__.update(twin.__dict__)
        self.M, self.search_type = own_m, own_type
        self.nbits.tensor = twin.nbits.tensor[skip_M : skip_M + own_m].clone()
        self.set_derived_values()
        if twin.codebooks.size():
            first = other._books.first[skip_M]
            self.codebooks.tensor = other._books.table[first : first + self.total_codebook_size].to(own_device).clone()
        self._drop_caches()

    # -- training -------------------------------------------------------------------------------------------------------------------

    def _train(self, x: Tensor) -> None:
        self.codebooks.resize(self.d * self.codebook_offsets[-1])
        residuals, codes = x[:, None], torch.zeros(x.shape[0], 1, 0, dtype=torch.int32, device=x.device)
        first = 0
        for m, bits in enumerate(self._sizes):
            size = 1 << bits
            kept = min(residuals.shape[1] * size, self.max_beam_size)
            on = residuals[:, 0].contiguous() if self.train_type & self.Train_top_beam else residuals.reshape(-1, self.d)
            centroids, objective = self._cluster(on, size)
            self.codebooks.tensor.view(-1, self.d)[first : first + size] = centroids
            codes, residuals, total = self._widened(residuals, codes, centroids, kept)
            if self.verbose:
                print(f"train stage {m}, {bits} bits, kmeans objective {objective:g}, total distance {total:g}, beam_size {kept}")
            first += size
        self.is_trained = True
        if self.train_type & self.Train_refine_codebook:
            for _ in range(self.niter_codebook_refine):
                self._retrain(x)
        self._train_norm(squared_norms(x - residuals[:, 0]))
        self._want_tables()

    def _want_tables(self) -> None:
        """Make the tables that FAISS makes after training and reading; nothing here needs them, so not where they would take gigabytes."""
        first, sizes = self._books.first, self._sizes
        if not self.train_type & self.Skip_codebook_tables and sum(f << b for f, b in zip(first, sizes)) <= _MOST_PRODUCTS:
            self.compute_codebook_tables()

    def _index(self) -> Any:
        """What assigns in training: an index of FAISS's factory, else a flat one."""
        return (self.assign_index_factory or IndexFlatL2)(self.d)

    def _cluster(self, x: Tensor, size: int) -> tuple[Tensor, float]:
        """Centroids of residuals, and their objective."""
        if self.train_type & self.Train_progressive_dim:
            clustering: Any = ProgressiveDimClustering(self.d, size, self.cp)
            clustering.train(x, self.assign_index_factory or ProgressiveDimIndexFactory())
        else:
            clustering = Clustering(self.d, size, self.cp)
            clustering._train(x, self._index().to(x.device), None, None)
        stats = clustering.iteration_stats
        return clustering.centroids.tensor.view(size, self.d).to(x.device), stats[len(stats) - 1].obj

    def _widened(self, residuals: Tensor, codes: Tensor, centroids: Tensor, kept: int) -> tuple[Tensor, Tensor, float]:
        """The beam after one more codebook, and the sum of its distances."""
        step = max(1, min(self._rows_at_a_time(), _BLOCK // (residuals.shape[1] * centroids.shape[0])))
        found = []
        for i in range(0, residuals.shape[0], step):
            part = residuals[i : i + step], codes[i : i + step]
            if self.assign_index_factory is None:
                found.append(beam.step(*part, centroids, kept))
            else:
                found.append(self._assigned(*part, centroids, kept, self._index()))
        return (
            torch.cat([f[0] for f in found]),
            torch.cat([f[1] for f in found]),
            sum(float(f[2].sum(dtype=torch.float64)) for f in found),
        )

    @staticmethod
    def _assigned(residuals: Tensor, codes: Tensor, centroids: Tensor, kept: int, index: Any) -> tuple[Tensor, Tensor, Tensor]:
        """One step by an index's search; the index holds the centroids, or gets them."""
        check(index.d == residuals.shape[2], "the index has dimension {}, the vectors {}", index.d, residuals.shape[2])
        check(
            index.ntotal in (0, centroids.shape[0]), "the index holds {} vectors, expected {}", index.ntotal, centroids.shape[0]
        )
        if index.ntotal == 0:
            index._add(centroids, None)
        return additive.assigned_step(residuals, codes, centroids, kept, lambda rows, k: index._search(rows, k, None))

    def retrain_AQ_codebook(self, n: int, x: Any) -> float:
        """Codebooks that fit the codes of vectors best, all at once; returns the error that those codes then leave."""
        return self._retrain(behind(x, n, self.d).to(self.device))

    def _retrain(self, x: Tensor) -> float:
        check(x.shape[0] >= self.total_codebook_size, "too few training points")
        parts, _ = self._parts(x)
        self.codebooks.tensor = additive.retrained(parts, self._books, x)
        check(bool(self.codebooks.tensor.isfinite().all()), "the codebooks are not finite")
        error = float((x - self._books.decode(parts)).square().sum())
        if self.verbose:
            print(f"  output quantization error {error:g}")
        return error

    # -- encoding -------------------------------------------------------------------------------------------------------------------

    def memory_per_point(self, beam_size: int = -1) -> int:
        """Bytes that FAISS's beam search takes for each vector."""
        width = self.max_beam_size if beam_size < 0 else beam_size
        return width * self.d * 8 + width * width * 12

    def _rows_at_a_time(self) -> int:
        return max(1, self.max_mem_distances // max(1, self.memory_per_point()))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.use_beam_LUT:
            check(self.M == 1 or self.codebook_cross_products.size() > 0, "call compute_codebook_tables first")
        index = self.assign_index_factory and self._index()
        if index is None:
            parts = self._books.encode(x, self.max_beam_size)
        else:
            parts = self._beam(x[:, None], self.max_beam_size)[0][:, 0]
        return parts, None

    def _beam(self, residuals: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """All that a beam of some width keeps: codes (n, width, M), residuals, distances."""
        if self.assign_index_factory is None:
            return self._books.beam(residuals, width)
        codes = torch.zeros(*residuals.shape[:2], 0, dtype=torch.int32, device=residuals.device)
        distances = residuals.square().sum(2)
        for m, bits in enumerate(self._sizes):
            kept = min(residuals.shape[1] << bits, width)
            codes, residuals, distances = self._assigned(residuals, codes, self._books.book(m), kept, self._index())
        return codes, residuals, distances

    def refine_beam(
        self,
        n: int,
        beam_size: int,
        residuals: Any,
        new_beam_size: int,
        new_codes: Any,
        new_residuals: Any = None,
        new_distances: Any = None,
    ) -> None:
        """Encode from residuals (n, beam_size, d): codes (n, beam, M), and what is left over, where asked for."""
        given = behind(residuals, n, beam_size, self.d).to(self.device)
        codes, left, distances = self._beam(given, new_beam_size)
        for out, made in ((new_codes, codes), (new_residuals, left), (new_distances, distances)):
            if out is not None:
                behind(out, *made.shape).copy_(made)

    def refine_beam_LUT(
        self, n: int, query_norms: Any, query_cp: Any, new_beam_size: int, new_codes: Any, new_distances: Any = None
    ) -> None:
        """Encode from vectors' norms and inner products with all entries, by the tables of compute_codebook_tables."""
        norms = behind(query_norms, n).to(self.device)
        products = behind(query_cp, n, self.total_codebook_size).to(self.device)
        books, at = self._books, 0
        codes, distances = torch.zeros(n, 1, 0, dtype=torch.int32, device=self.device), norms[:, None]
        for m, bits in enumerate(self._sizes):
            low, size = books.first[m], 1 << bits
            check(at + low * size <= self.codebook_cross_products.size(), "call compute_codebook_tables first")
            cross = self.codebook_cross_products.tensor[at : at + low * size].view(low, size)
            mine = slice(low, low + size)
            step = self.centroid_norms.tensor[mine] - 2 * products[:, mine]
            width = min(distances.shape[1] * size, new_beam_size)
            codes, distances = _tabled_step(codes, distances, cross, books.first, step, width)
            at += low * size
        behind(new_codes, *codes.shape).copy_(codes)
        if new_distances is not None:
            behind(new_distances, *distances.shape).copy_(distances)

    @staticmethod
    def train_type_to_str(train_type: int) -> str:
        """The names of the flags in a train type."""
        flags = {1: "progressive_dim", 2: "refine_codebook", 1024: "top_beam", 2048: "skip_codebook_tables"}
        return " | ".join(name for bit, name in flags.items() if train_type & bit) or "default"


def _tabled_step(
    codes: Tensor, distances: Tensor, cross: Tensor, first: list[int], step: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """One more codebook, by tables: cross (before, K), and step (n, K), what an entry adds to the distance of an empty code."""
    values = distances[:, :, None] + step[:, None, :]
    for m in range(codes.shape[2]):
        values = values + 2 * cross[first[m] + codes[:, :, m].to(torch.int64)]
    best, places = select(values.reshape(values.shape[0], -1), None, width, False)
    row, size = torch.arange(codes.shape[0], device=codes.device)[:, None], step.shape[1]
    new = torch.cat([codes[row, places // size], (places % size)[..., None].to(codes.dtype)], 2)
    return new, best


def beam_search_encode_step(
    d: int,
    K: int,
    cent: Any,
    n: int,
    beam_size: int,
    residuals: Any,
    m: int,
    codes: Any,
    new_beam_size: int,
    new_codes: Any,
    new_residuals: Any,
    new_distances: Any,
    assign_index: Any = None,
    approx_topk: int = EXACT_TOPK,
) -> None:
    """One step of a beam search: residuals (n, beam, d), codes (n, beam, m) and centroids (K, d) give a beam of another size."""
    check(new_beam_size <= beam_size * K, "a beam of {} cannot come from {} times {}", new_beam_size, beam_size, K)
    given = behind(residuals, n, beam_size, d), behind(codes, n, beam_size, m), behind(cent, K, d)
    if assign_index is None:
        made = beam.step(*given, new_beam_size)
    else:
        made = ResidualQuantizer._assigned(*given, new_beam_size, assign_index)
    behind(new_codes, n, new_beam_size, m + 1).copy_(made[0])
    behind(new_residuals, n, new_beam_size, d).copy_(made[1])
    behind(new_distances, n, new_beam_size).copy_(made[2])


def beam_search_encode_step_tab(
    K: int,
    n: int,
    beam_size: int,
    codebook_cross_norms: Any,
    ldc: int,
    codebook_offsets: Any,
    query_cp: Any,
    ldqc: int,
    cent_norms_i: Any,
    m: int,
    codes: Any,
    distances: Any,
    new_beam_size: int,
    new_codes: Any,
    new_distances: Any,
    approx_topk: int = EXACT_TOPK,
) -> None:
    """The same by tables: inner products of the codebook with those before it and with the vectors, norms of its entries."""
    check(ldc >= K, "rows of {} products, expected {}", ldc, K)
    first = swig_ptr(codebook_offsets).take(m + 1).view(torch.int64).tolist()
    cross = behind(codebook_cross_norms, first[m], ldc)[:, :K]
    products = swig_ptr(query_cp).take((n - 1) * ldqc + K).as_strided((n, K), (ldqc, 1))
    step = behind(cent_norms_i, K) - 2 * products
    given = behind(codes, n, beam_size, m), behind(distances, n, beam_size)
    made = _tabled_step(*given, cross, first, step, new_beam_size)
    behind(new_codes, n, new_beam_size, m + 1).copy_(made[0])
    behind(new_distances, n, new_beam_size).copy_(made[1])


__all__ = [
    "ResidualQuantizer",
    "beam_search_encode_step",
    "beam_search_encode_step_tab",
]
