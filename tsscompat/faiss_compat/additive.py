"""AdditiveQuantizer: what all quantizers share whose vectors are sums of codebook entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import additive
from tsscompat.algorithms.additive import Codebooks
from tsscompat.algorithms.blocks import block_rows, squared_norms
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import boolean, child, enum, single, size_t, vector
from tsscompat.faiss_compat.clustering import Clustering1D
from tsscompat.faiss_compat.flat import IndexFlat1D
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantizers import Quantizer
from tsscompat.faiss_compat.vectors import Float32Vector, UInt64Vector
from tsscompat.kernels.select import select

NAN = float("nan")


class AdditiveQuantizer(Quantizer):
    """A vector is the sum of one entry of each of M codebooks; its code may hold its squared norm as well, in one of several ways."""

    ST_decompress, ST_LUT_nonorm, ST_norm_from_LUT, ST_norm_float, ST_norm_qint8, ST_norm_qint4 = range(6)
    ST_norm_cqint8, ST_norm_cqint4, ST_norm_lsq2x4, ST_norm_rq2x4, ST_count = range(6, 11)
    # Bits of a norm, by search type; those of the third group are the number of an entry of qnorm.
    _NORM_BITS = {ST_norm_float: 32, ST_norm_qint8: 8, ST_norm_qint4: 4}
    _NORM_ENTRIES = {ST_norm_cqint8: 8, ST_norm_cqint4: 4, ST_norm_lsq2x4: 8, ST_norm_rq2x4: 8}

    M = size_t(0, "codebooks")
    nbits = vector(UInt64Vector, "bits of a number in each codebook")
    codebooks = vector(Float32Vector, "total_codebook_size * d")
    codebook_offsets = vector(UInt64Vector, "where each codebook begins, in entries; M + 1 of them")
    tot_bits = size_t(0, "bits of a code")
    norm_bits = size_t(0, "those of them that hold the norm")
    total_codebook_size = size_t(0, "entries of all codebooks")
    only_8bit = boolean(True, "FAISS's flag of a decoder; False as soon as a codebook has any bits")
    verbose = boolean(False)
    is_trained = boolean(False)
    norm_tabs = vector(Float32Vector, "codebooks of norms, of the types ST_norm_lsq2x4 and ST_norm_rq2x4")
    qnorm = child(IndexFlat1D, "norms that a code may name")
    centroid_norms = vector(Float32Vector, "squared norms of the entries")
    codebook_cross_products = vector(Float32Vector, "inner products of each codebook's entries with those of all before it")
    max_mem_distances = size_t(5 << 30, "bytes that a search may take for distances")
    search_type = enum(int, ST_decompress, "one of ST_*: how codes are scored, and so what they hold")
    norm_min = single(NAN, "least norm seen in training")
    norm_max = single(NAN, "greatest")

    _caches = ("_kept",)
    _kept: Any

    def __init__(self, d: int = 0, nbits: Any = (), search_type: int = ST_decompress) -> None:
        super().__init__()
        self.d, self.search_type = d, search_type
        self.nbits = nbits if isinstance(nbits, UInt64Vector) else list(nbits)
        self.M = self.nbits.size()
        self.set_derived_values()

    def set_derived_values(self) -> None:
        """Work out the sizes that follow from d, M, nbits and the search type."""
        sizes = self._sizes
        check(all(0 <= b < 32 for b in sizes), "a codebook's bits must be below 32, got {}", sizes)
        self.codebook_offsets = Codebooks(torch.empty(0, self.d), sizes).first
        self.total_codebook_size = self.codebook_offsets[-1]
        self.only_8bit = not any(sizes)
        self.norm_bits = (self._NORM_BITS | self._NORM_ENTRIES).get(self.search_type, 0)
        self.tot_bits = sum(sizes) + self.norm_bits
        self.code_size = (self.tot_bits + 7) // 8

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(self.nbits.tensor[: self.M].tolist())

    @property
    def _fields(self) -> tuple[int, ...]:
        """The bits of all that a code holds."""
        return (*self._sizes, self.norm_bits) if self.norm_bits else self._sizes

    @property
    def _books(self) -> Codebooks:
        """The codebooks as they are now, kept with what is worked out from them."""
        buffer, sizes = self.codebooks._buffer, self.nbits._buffer
        stamp, kept = (buffer._version, sizes._version, self.M, self.d), self.__dict__["_kept"]
        if kept is None or kept[0] is not buffer or kept[1] is not sizes or kept[2] != stamp:
            kept = self._kept = buffer, sizes, stamp, self._gathered()
        books: Codebooks = kept[3]
        return books

    def _gathered(self) -> Codebooks:
        sizes = self._sizes
        wanted = sum(1 << b for b in sizes) * self.d
        check(self.codebooks.size() >= wanted, "codebooks of {} numbers, expected {}", self.codebooks.size(), wanted)
        return Codebooks(self.codebooks.tensor[:wanted].view(-1, self.d), sizes)

    def _needs_training(self) -> None:
        check(self.is_trained, "The additive quantizer is not trained yet.")

    # -- norms --------------------------------------------------------------------------------------------------------------------

    def _train_norm(self, norms: Tensor) -> None:
        """Learn how norms are written."""
        self.norm_min, self.norm_max = (
            (float(norms.min()), float(norms.max())) if norms.numel() else (float("inf"), -float("inf"))
        )
        if self.search_type in (self.ST_norm_cqint8, self.ST_norm_cqint4):
            clustering = Clustering1D(1 << self.norm_bits)
            clustering.train_exact(norms[:, None])
            self.qnorm._add(clustering.centroids.tensor.view(-1, 1).to(self.device), None)
        elif self.search_type in (self.ST_norm_lsq2x4, self.ST_norm_rq2x4):
            from tsscompat.faiss_compat.local_search import LocalSearchQuantizer
            from tsscompat.faiss_compat.residual import ResidualQuantizer

            kind = LocalSearchQuantizer if self.search_type == self.ST_norm_lsq2x4 else ResidualQuantizer
            of_norms = kind(1, 2, 4).to(self.device)
            of_norms._train(norms[:, None])
            low, high = of_norms._books.book(0)[:, 0], of_norms._books.book(1)[:, 0]
            self.norm_tabs.tensor = torch.cat([low, high])
            self.qnorm._reset()
            self.qnorm._add((high[:, None] + low).reshape(-1, 1), None)

    def _norm_numbers(self, norms: Tensor) -> Tensor:
        """What codes say of norms."""
        if self.search_type == self.ST_norm_float:
            return norms.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        if self.search_type in self._NORM_ENTRIES:
            return self.qnorm._assign(norms[:, None], 1)[:, 0]
        if self.search_type in self._NORM_BITS:
            return additive.encode_norms(norms, self.norm_bits, self.norm_min, self.norm_max)
        return torch.zeros(norms.shape, dtype=torch.int64, device=norms.device)

    def _norms_of(self, numbers: Tensor) -> Tensor:
        """The norms that codes speak of."""
        if self.search_type == self.ST_norm_float:
            return numbers.to(torch.int32).view(torch.float32)
        if self.search_type in self._NORM_ENTRIES:
            entries = self.qnorm._vectors[:, 0]
            check(entries.shape[0] >= 1 << self.norm_bits, "{} norms, expected {}", entries.shape[0], 1 << self.norm_bits)
            return entries[numbers]
        return additive.decode_norms(numbers, self.norm_bits, self.norm_min, self.norm_max)

    def _row_norms(self, codes: Tensor, exact: Tensor | None = None) -> Tensor:
        """The squared norms of codes: as they say where they do, else of the decoded vectors (`exact` where these are at hand)."""
        if self.norm_bits:
            return self._norms_of(additive.split(codes, self._fields)[:, -1])
        return squared_norms(self._decode(codes) if exact is None else exact)

    # -- codes --------------------------------------------------------------------------------------------------------------------

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The entries' numbers (n, M) of vectors, and their sums' norms where these come with them."""
        raise FaissError(f"{type(self).__name__} does not encode")

    def _encode(self, x: Tensor, around: Tensor | None = None) -> Tensor:
        self._needs_training()
        parts, norms = self._parts(x)
        return self._pack(parts, norms, around)

    def _pack(self, parts: Tensor, norms: Tensor | None, around: Tensor | None) -> Tensor:
        """Codes of entries' numbers; the norms are worked out where codes hold them and they are not given, or centroids are added."""
        if not self.norm_bits:
            return additive.join(parts, self._sizes, self.code_size)
        if norms is None or around is not None:
            vectors = self._sums(parts)
            norms = squared_norms(vectors if around is None else vectors + around)
        numbers = torch.cat([parts.to(torch.int64), self._norm_numbers(norms)[:, None]], 1)
        return additive.join(numbers, self._fields, self.code_size)

    def _sums(self, parts: Tensor) -> Tensor:
        self._needs_training()
        return self._books.decode(parts)

    def _decode(self, codes: Tensor) -> Tensor:
        self._needs_training()
        books = self._books
        return books.decode(additive.split(codes, books.nbits))

    # -- FAISS's C signatures -------------------------------------------------------------------------------------------------------

    def compute_codebook_tables(self) -> None:
        """Compute the entries' norms, and their inner products across codebooks."""
        self.centroid_norms.tensor = squared_norms(self._books.table)
        self.codebook_cross_products.tensor = self._books.cross()

    def train_norm(self, n: int, norms: Any) -> None:
        self._train_norm(behind(norms, n).to(self.device))

    def encode_norm(self, norm: float) -> int:
        """What a code says of a norm."""
        return int(self._norm_numbers(torch.tensor([norm], device=self.device))[0])

    def encode_qcint(self, x: float) -> int:
        """The nearest norm of qnorm."""
        return int(self.qnorm._assign(torch.tensor([[x]], device=self.device), 1)[0, 0])

    def decode_qcint(self, c: int) -> float:
        """A norm of qnorm."""
        return float(self.qnorm._vectors[c, 0])

    def compute_codes_add_centroids(self, x: Any, codes: Any, n: int, centroids: Any = None) -> None:
        around = None if centroids is None else behind(centroids, n, self.d).to(self.device)
        behind(codes, n, self.code_size).copy_(self._encode(behind(x, n, self.d).to(self.device), around))

    def pack_codes(
        self, n: int, codes: Any, packed_codes: Any, ld_codes: int = -1, norms: Any = None, centroids: Any = None
    ) -> None:
        parts = behind(codes, n, self.M if ld_codes == -1 else ld_codes)[:, : self.M].to(self.device)
        given = None if norms is None else behind(norms, n).to(self.device)
        around = None if centroids is None else behind(centroids, n, self.d).to(self.device)
        behind(packed_codes, n, self.code_size).copy_(self._pack(parts, given, around))

    def decode_unpacked(self, codes: Any, x: Any, n: int, ld_codes: int = -1) -> None:
        parts = behind(codes, n, self.M if ld_codes == -1 else ld_codes)[:, : self.M].to(self.device)
        behind(x, n, self.d).copy_(self._sums(parts))

    def decode_64bit(self, n: int, x: Any) -> None:
        """The vector of a code that is given as a whole number."""
        behind(x, 1, self.d).copy_(self._numbered(torch.tensor([n], device=self.device)))

    def _numbered(self, numbers: Tensor) -> Tensor:
        books = self._books
        return books.decode(additive.split_number(numbers, books.nbits))

    def compute_LUT(self, n: int, xq: Any, LUT: Any, alpha: float = 1.0, ld_lut: int = -1) -> None:
        """alpha times the inner products of vectors with all entries."""
        table = alpha * (behind(xq, n, self.d).to(self.device) @ self._books.table.t())
        width = ld_lut if ld_lut > 0 else self.total_codebook_size
        # The last row may end where the table does.
        out = behind(LUT, max(0, (n - 1) * width + self.total_codebook_size))
        out.as_strided(table.shape, (width, 1)).copy_(table)

    # -- all sums as centroids --------------------------------------------------------------------------------------------------------

    def _all_norms(self) -> Tensor:
        """The squared norms of all sums, by number."""
        total, step = 1 << self.tot_bits, block_rows(self._books.table, self.d)
        numbers = (torch.arange(i, min(i + step, total), device=self.device) for i in range(0, total, step))
        return torch.cat([squared_norms(self._numbered(some)) for some in numbers])

    def _nearest_sums(self, x: Tensor, k: int, norms: Tensor | None) -> tuple[Tensor, Tensor]:
        """The k sums with the largest inner products or, given the sums' norms, at the least distances."""
        step, found = block_rows(x, 1 << self.tot_bits), []
        for part in x.split(step):
            values = self._books.all_products(part)
            if norms is not None:
                values = part.square().sum(1, keepdim=True) + norms - 2 * values
            found.append(select(values, None, k, norms is None))
        return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])

    def compute_centroid_norms(self, norms: Any) -> None:
        behind(norms, 1 << self.tot_bits).copy_(self._all_norms())

    def knn_centroids_inner_product(self, n: int, xq: Any, k: int, distances: Any, labels: Any) -> None:
        found = self._nearest_sums(behind(xq, n, self.d).to(self.device), k, None)
        behind(distances, n, k).copy_(found[0])
        behind(labels, n, k).copy_(found[1])

    def knn_centroids_L2(self, n: int, xq: Any, k: int, distances: Any, labels: Any, centroid_norms: Any) -> None:
        norms = behind(centroid_norms, 1 << self.tot_bits).to(self.device)
        found = self._nearest_sums(behind(xq, n, self.d).to(self.device), k, norms)
        behind(distances, n, k).copy_(found[0])
        behind(labels, n, k).copy_(found[1])


__all__ = ["AdditiveQuantizer"]
