"""Quantizers in FAISS's names: product and scalar."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import product, scalar
from tsscompat.algorithms.blocks import finite
from tsscompat.arrays import Array, Batch, as_tensor, rows
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, boolean, child, enum, single, size_t, vector
from tsscompat.faiss_compat.clustering import Clustering, ClusteringParameters
from tsscompat.faiss_compat.computers import CodecDistanceComputer
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels import bits
from tsscompat.kernels.entries import PRODUCT, STEPS, Coder
from tsscompat.kernels.metrics import INNER_PRODUCT, L2, pairwise


class Quantizer(Stated):
    """Vectors to codes and back."""

    d = size_t(0, "dimension of the vectors")
    code_size = size_t(0, "bytes of a code")
    is_trained = boolean(False, "for FAISS's users to set; only additive quantizers look at it")

    def train(self, x: Array) -> None:
        """Learn from vectors."""
        self._train(rows(x, self.d, self.device).tensor)

    def compute_codes(self, x: Array, codes: Array | None = None) -> Array:
        """The codes of vectors."""
        batch = rows(x, self.d, self.device)
        return batch.give_back(self._encode(batch.tensor), codes)

    def decode(self, codes: Array, x: Array | None = None) -> Array:
        """The vectors of codes."""
        expect(codes.shape[1] == self.code_size, "expected codes of {} bytes, got {}", self.code_size, codes.shape[1])
        batch = Batch(*as_tensor(codes, torch.uint8, self.device))
        return batch.give_back(self._decode(batch.tensor), x)

    def train_c(self, n: int, x: Any) -> None:
        self.train(behind(x, n, self.d))

    def compute_codes_c(self, x: Any, codes: Any, n: int) -> None:
        behind(codes, n, self.code_size).copy_(self._encode(behind(x, n, self.d).to(self.device)))

    def decode_c(self, code: Any, x: Any, n: int) -> None:
        behind(x, n, self.d).copy_(self._decode(behind(code, n, self.code_size).to(self.device)))

    def _train(self, x: Tensor) -> None:
        raise NotImplementedError

    def _encode(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError


class ProductQuantizer(Quantizer):
    """M parts of a vector, each replaced by the number of its nearest centroid."""

    _caches = ("_coding",)
    _coding: Any

    Train_default, Train_hot_start, Train_shared, Train_hypercube, Train_hypercube_pca = range(5)

    M = size_t(0, "parts")
    nbits = size_t(8, "bits of a part's number")
    dsub = size_t(0, "dimension of a part")
    ksub = size_t(0, "centroids of a part")
    verbose = boolean(False)
    train_type = enum(int, 0)
    cp = child(ClusteringParameters, "how the parts are clustered")
    assign_index = child(None, "index that assigns while clustering; None: IndexFlatL2")
    centroids = vector(Float32Vector, "M * ksub * dsub")
    transposed_centroids = vector(Float32Vector, "dsub * M * ksub, when synced")
    centroids_sq_lengths = vector(Float32Vector, "M * ksub, when synced")
    sdc_table = vector(Float32Vector, "M * ksub * ksub squared distances between centroids")

    def __init__(self, d: int = 0, M: int = 1, nbits: int = 0) -> None:
        super().__init__()
        self.d, self.M, self.nbits = d, M, nbits
        self.set_derived_values()

    def set_derived_values(self) -> None:
        """Work out the sizes that follow from d, M and nbits."""
        check(self.M > 0, "M must be > 0")
        check(
            self.d % self.M == 0,
            "The dimension of the vector (d={}) should be a multiple of the number of subquantizers (M={})",
            self.d,
            self.M,
        )
        check(self.nbits <= 24, "nbits larger than 24 is not practical.")
        self.dsub, self.ksub = self.d // self.M, 1 << self.nbits
        self.code_size = (self.nbits * self.M + 7) // 8
        self.centroids.resize(self.d * self.ksub)
        self.verbose, self.train_type = False, self.Train_default

    @property
    def _table(self) -> Tensor:
        return self.centroids.tensor.view(self.M, self.ksub, self.dsub)

    def get_centroids(self, m: int, i: int) -> Pointer:
        """Where centroid i of part m begins."""
        return Pointer(self.centroids.tensor[(m * self.ksub + i) * self.dsub :])

    def set_params(self, centroids: Any, m: int) -> None:
        """Set the centroids of part m."""
        self._table[m] = behind(centroids, self.ksub, self.dsub).to(self.device)

    def _train(self, x: Tensor) -> None:
        if self.cp.check_input_data_for_NaNs:
            check(finite(x), "input contains NaN's or Inf's")
        # One room for all parts' vectors: of a new one each time allocators keep holes (PQ16 of 200,000 vectors: 83 MiB, so 12).
        room = torch.empty(0, device=x.device)
        if self.train_type == self.Train_shared:
            self._table[:] = self._cluster(x.reshape(-1, self.dsub), None, room)
            return
        kind = self.train_type
        if kind in (self.Train_hypercube, self.Train_hypercube_pca) and self.dsub < self.nbits:
            print(f"cannot train hypercube: nbits={self.nbits} > log2(d={self.dsub})")
            kind = self.Train_default
        for m in range(self.M):
            if self.verbose:
                print(f"Training PQ slice {m}/{self.M}")
            part = x[:, m * self.dsub : (m + 1) * self.dsub]
            self._table[m] = self._cluster(part, self._start(kind, part, m), room)

    def _start(self, kind: int, part: Tensor, m: int) -> Tensor | None:
        """The centroids that clustering of part m begins with."""
        if kind == self.Train_hot_start:
            return self._table[m].clone()
        if kind == self.Train_hypercube:
            return product.hypercube(part, self.nbits)
        if kind == self.Train_hypercube_pca:
            from tsscompat.faiss_compat.learned_transforms import PCAMatrix

            pca = PCAMatrix(self.dsub, self.nbits).to(part.device)
            pca._train(part)
            places = torch.arange(self.ksub, device=part.device)
            bits = (places[:, None] >> places[: self.nbits]) & 1
            axes = (
                pca.PCAMat.tensor.view(-1, self.dsub)[: self.nbits]
                * pca.eigenvalues.tensor[: self.nbits, None].clamp(min=0).sqrt()
            )
            return pca.mean.tensor + (2 * bits - 1).float() @ axes
        return None

    def _cluster(self, part: Tensor, start: Tensor | None, room: Tensor) -> Tensor:
        """Centroids of finite vectors; those that are used are copied to `room`."""
        clus = Clustering(self.dsub, self.ksub, self.cp)
        clus.verbose, clus.check_input_data_for_NaNs = clus.verbose or self.verbose, False
        kept = clus._chosen(part.shape[0], self.ksub)
        room.resize_(part.shape[0] if kept is None else kept.shape[0], self.dsub)
        if kept is None:
            room.copy_(part)
        else:
            torch.gather(part, 0, kept.to(part.device)[:, None].expand_as(room), out=room)
        if start is not None:
            clus.centroids.tensor = start
        index = IndexFlatL2(self.dsub).to(part.device) if self.assign_index is None else self.assign_index
        clus._train(room, index, None, None)
        return clus.centroids.tensor.view(self.ksub, self.dsub)

    def _row_coder(self) -> Coder | None:
        """What encodes single vectors, kept as long as the centroids stay what they are; None for other sizes than bytes."""
        centroids, kept = self.centroids, self._coding
        held, values = centroids._buffer, (centroids._buffer._version, centroids._n, self.M, self.nbits, self.d)
        if kept is None or kept[0] is not held or kept[1] != values:
            fits = self.nbits == 8 and self.dsub > 0 and centroids._n == self.M * 256 * self.dsub and self.d == self.M * self.dsub
            coder = Coder(PRODUCT, self.d, self.M, centroids=self._table) if fits else None
            kept = self._coding = held, values, coder
        found: Coder | None = kept[2]
        return found

    def _encode(self, x: Tensor) -> Tensor:
        return product.encode(x, self._table, self.nbits)

    def _decode(self, codes: Tensor) -> Tensor:
        return product.decode(codes, self._table, self.nbits)

    def compute_code(self, x: Any, code: Any) -> None:
        """Encode one vector, both behind pointers."""
        behind(code, self.code_size).copy_(self._encode(behind(x, 1, self.d))[0])

    def compute_code_from_distance_table(self, tab: Any, code: Any) -> None:
        """The code of a vector of which the distances to all centroids are known."""
        table = behind(tab, self.M, self.ksub)
        # FAISS begins with 1e20, so NaN and what is farther count as centroid 0.
        nearest = torch.where(table < 1e20, table, torch.inf).argmin(1, keepdim=True).t()
        behind(code, self.code_size).copy_(bits.pack(nearest, self.nbits)[0])

    def compute_codes_with_assign_index(self, x: Any, codes: Any, n: int) -> None:
        """Encode with assign_index doing the assignment."""
        check(
            self.assign_index is not None and self.assign_index.d == self.dsub, "assign_index must have dimension {}", self.dsub
        )
        data, parts = behind(x, n, self.d).to(self.device), []
        for m in range(self.M):
            self.assign_index._reset()
            self.assign_index._add(self._table[m].contiguous(), None)
            parts.append(self.assign_index._search(data[:, m * self.dsub : (m + 1) * self.dsub].contiguous(), 1, None)[1][:, 0])
        behind(codes, n, self.code_size).copy_(bits.pack(torch.stack(parts, 1), self.nbits))

    def compute_distance_table(self, x: Any, dis_table: Any) -> None:
        """Squared distances of one vector's parts to all centroids."""
        behind(dis_table, self.M, self.ksub).copy_(product.tables(behind(x, 1, self.d), self._table, L2)[0])

    def compute_inner_prod_table(self, x: Any, dis_table: Any) -> None:
        """Inner products of one vector's parts with all centroids."""
        behind(dis_table, self.M, self.ksub).copy_(product.tables(behind(x, 1, self.d), self._table, INNER_PRODUCT)[0])

    def compute_distance_tables(self, nx: Any, x: Any = None, dis_tables: Any = None) -> Any:
        """Distance tables: (nx, x, out) with pointers as in FAISS, or of an array, returned."""
        return self._many_tables(nx, x, dis_tables, L2)

    def compute_inner_prod_tables(self, nx: Any, x: Any = None, dis_tables: Any = None) -> Any:
        """Inner-product tables: (nx, x, out) with pointers as in FAISS, or of an array, returned."""
        return self._many_tables(nx, x, dis_tables, INNER_PRODUCT)

    def _many_tables(self, nx: Any, x: Any, out: Any, metric: int) -> Any:
        if x is None:
            batch = rows(nx, self.d, self.device)
            return batch.give_back(product.tables(batch.tensor, self._table, metric))
        behind(out, nx, self.M, self.ksub).copy_(product.tables(behind(x, nx, self.d), self._table, metric))
        return None

    def compute_sdc_table(self) -> None:
        """Compute the distances between centroids."""
        self.sdc_table.tensor = product.sdc_table(self._table)

    def sync_transposed_centroids(self) -> None:
        """Keep a transposed copy of the centroids, and their squared norms."""
        self.transposed_centroids.tensor = self._table.permute(2, 0, 1).contiguous()
        self.centroids_sq_lengths.tensor = self._table.square().sum(-1)

    def clear_transposed_centroids(self) -> None:
        """Forget the transposed copy."""
        self.transposed_centroids.clear()
        self.centroids_sq_lengths.clear()

    def search(self, x: Any, nx: int, codes: Any, ncodes: int, res: Any, init_finalize_heap: bool = True) -> None:
        """The nearest codes of each vector, into a heap structure."""
        self._search_codes(x, nx, codes, ncodes, res, L2, init_finalize_heap)

    def search_ip(self, x: Any, nx: int, codes: Any, ncodes: int, res: Any, init_finalize_heap: bool = True) -> None:
        """The codes with the largest inner products, into a heap structure."""
        self._search_codes(x, nx, codes, ncodes, res, INNER_PRODUCT, init_finalize_heap)

    def search_sdc(self, qcodes: Any, nq: int, bcodes: Any, ncodes: int, res: Any, init_finalize_heap: bool = True) -> None:
        """The nearest codes of each of nq codes by the table of distances between centroids, into a heap structure."""
        check(self.sdc_table.size() == self.M * self.ksub**2, "compute_sdc_table() must be called before an SDC search")
        check(self.nbits == 8, "SDC search takes 8 bits a part, got {}", self.nbits)
        queries, base = (behind(codes, n, self.M).long() for codes, n in ((qcodes, nq), (bcodes, ncodes)))
        values = torch.zeros(nq, ncodes, device=self.device)
        for m, table in enumerate(self.sdc_table.tensor.view(self.M, self.ksub, self.ksub)):
            values += table[queries[:, m]][:, base[:, m]]
        _into(res, values, init_finalize_heap)

    def _search_codes(self, x: Any, nx: int, codes: Any, ncodes: int, res: Any, metric: int, fresh: bool) -> None:
        decoded = self._decode(behind(codes, ncodes, self.code_size).to(self.device))
        _into(res, pairwise(behind(x, nx, self.d).to(self.device), decoded, metric), fresh)


def _into(res: Any, values: Tensor, fresh: bool) -> None:
    """Add a row of values to each heap, which is emptied first if fresh."""
    if fresh:
        res.heapify()
    res.addn(values.shape[1], Pointer(values.contiguous()))


class ScalarQuantizer(Quantizer):
    """Each number of a vector by itself, in few bits."""

    _caches = ("_coding",)
    _coding: Any

    QT_8bit, QT_4bit, QT_8bit_uniform, QT_4bit_uniform, QT_fp16 = range(5)
    QT_8bit_direct, QT_6bit, QT_bf16, QT_8bit_direct_signed, QT_0bit = range(5, 10)
    QT_1bit_tqmse, QT_2bit_tqmse, QT_3bit_tqmse, QT_4bit_tqmse, QT_8bit_tqmse = range(10, 15)
    QT_2bit_tq, QT_3bit_tq, QT_4bit_tq, QT_5bit_tq = range(15, 19)
    QT_1bit_eden, QT_2bit_eden, QT_3bit_eden, QT_4bit_eden = range(19, 23)
    QT_5bit_eden, QT_6bit_eden, QT_7bit_eden, QT_8bit_eden, QT_count = range(23, 28)
    RS_minmax, RS_meanstd, RS_quantiles, RS_optim = range(4)

    qtype = enum(int, 0, "one of QT_*")
    rangestat = enum(int, 0, "one of RS_*: how the range is chosen")
    rangestat_arg = single(0.0)
    bits = size_t(0, "bits of a number")
    trained = vector(Float32Vector, "what training learned")

    def __init__(self, d: int = 0, qtype: int = 0) -> None:
        super().__init__()
        self.d, self.qtype = d, qtype
        self.set_derived_sizes()

    def set_derived_sizes(self) -> None:
        """Work out the sizes that follow from d and the type."""
        self.bits = scalar.kind_of(self.qtype).bits
        self.code_size = scalar.code_size(self.qtype, self.d)

    def _train(self, x: Tensor) -> None:
        self.trained.tensor = scalar.train(x, self.qtype, self.rangestat, self.rangestat_arg)

    def _row_coder(self) -> Coder | None:
        """What encodes single vectors, kept as long as what was trained stays what it is; None for other codes than steps of ranges."""
        trained, kept = self.trained, self._coding
        held, values = trained._buffer, (trained._buffer._version, trained._n, self.qtype, self.d)
        if kept is None or kept[0] is not held or kept[1] != values:
            kind = scalar.kind_of(self.qtype)
            parts = 1 if kind.uniform else self.d
            coder = None
            if kind.ranged and trained._n == 2 * parts:
                low, extent = trained.tensor[:parts], trained.tensor[parts:]
                coder = Coder(STEPS, self.d, scalar.code_size(self.qtype, self.d), kind.bits, low, extent)
            kept = self._coding = held, values, coder
        found: Coder | None = kept[2]
        return found

    def _encode(self, x: Tensor) -> Tensor:
        return scalar.encode(x, self.qtype, self.trained.tensor)

    def _decode(self, codes: Tensor) -> Tensor:
        return scalar.decode(codes, self.qtype, self.trained.tensor, self.d)

    def get_distance_computer(self, metric: int = L2) -> CodecDistanceComputer:
        """Distances of a query, set on it, to codes."""
        check(metric in (L2, INNER_PRODUCT), "scalar quantizers know L2 and the inner product, got metric {}", metric)
        return CodecDistanceComputer(self, metric)


def constants(owner: type, prefixes: tuple[str, ...]) -> dict[str, int]:
    """A class's constants under the names that they have at module level."""
    return {f"{owner.__name__}_{name}": value for name, value in vars(owner).items() if name.startswith(prefixes)}


globals().update(constants(ScalarQuantizer, ("QT_", "RS_")))
globals().update(constants(ProductQuantizer, ("Train_",)))

__all__ = [
    "ProductQuantizer",
    "Quantizer",
    "ScalarQuantizer",
    *constants(ScalarQuantizer, ("QT_", "RS_")),
    *constants(ProductQuantizer, ("Train_",)),
]
