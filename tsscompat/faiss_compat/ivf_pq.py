"""IndexIVFPQ and IndexIVFPQR: lists of product codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import product
from tsscompat.algorithms.ivf import ListCodec, Polysemous, Product, term_sums
from tsscompat.algorithms.ragged import Ragged, newcomers
from tsscompat.algorithms.streamed import blocks
from tsscompat.devices import pinned
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import boolean, child, integer, single, size_t, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF, unchanged
from tsscompat.faiss_compat.ivf_streamed import within_rooms
from tsscompat.faiss_compat.params import IVFPQSearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.polysemous import PolysemousTraining
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import AlignedTableFloat32, UInt8Vector
from tsscompat.kernels.entries import Coder
from tsscompat.kernels.ivf_terms import product_terms
from tsscompat.kernels.select import select
from tsscompat.kernels.singles import times
from tsscompat.records import changed

# How many centroids the mean that IVFPQ's sums are taken around is made from.
_SHIFT_SAMPLE = 4096


def table_kind(index: Any) -> int:
    """What use_precomputed_table becomes in an index with product codes, as FAISS decides it."""
    kind: int = index.use_precomputed_table
    if kind != 0 or index._coarse().metric_type != METRIC_L2 or not index.by_residual:
        return kind
    coarse_pq = getattr(index._coarse(), "pq", None)
    if coarse_pq is not None and index.pq.M % coarse_pq.M == 0:
        return 2
    return 1 if 4 * index.pq.M * index.pq.ksub * index._coarse().ntotal <= cvar.precomputed_table_max_bytes else 0


class IndexIVFPQ(IndexIVF):
    """Lists of product codes, of residuals (`by_residual`) or of the vectors.

    FAISS's precomputed table (M * 256 floats for each list) is not kept: the part of a distance that it serves is kept as one float for
    each stored vector instead (`algorithms.ivf.term_sums`), so `use_precomputed_table` says only where the distance to the centroid comes
    from: 1 and 2, from the coarse search; 0 and -1, computed anew.
    """

    _quick = True
    _arrays = True

    pq = child(ProductQuantizer, "makes the codes")
    do_polysemous_training = boolean(False, "order the centroids so that Hamming distances mean something")
    polysemous_training = child(None, "its settings; None: the usual ones")
    scan_table_threshold = size_t(0, "accepted as FAISS does, which does not use it either")
    polysemous_ht = integer(0, "score only codes within this Hamming distance of the query's (0: all)")
    use_precomputed_table = integer(0, "-1: never; 0: decide when training; 1, 2: use the coarse search's distances")

    _caches = ("_terms", "_shift_of", "_scorer")
    _terms: Any
    _shift_of: Any
    _scorer: Any

    ScannerMode_Precomputed, ScannerMode_OnTheFly = range(2)

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        M: int = 0,
        nbits_per_idx: int = 8,
        metric: int = METRIC_L2,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, d, nlist, 0, metric, own_invlists)
        if quantizer is None:
            return
        self.pq = ProductQuantizer(d, M, nbits_per_idx)
        self.code_size = self.pq.code_size
        if self.invlists is not None:
            self.invlists.code_size = self.code_size
        self.is_trained = False

    # -- the code ---------------------------------------------------------------------------------------------------------------------

    def _centroids(self) -> Tensor:
        pq = self.pq
        centroids: Tensor = pq.centroids.tensor.view(pq.M, pq.ksub, pq.dsub)
        return centroids

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        self.pq._train(x)
        if self.do_polysemous_training:
            training = self.polysemous_training or PolysemousTraining()
            training.optimize_pq_for_hamming(self.pq, x.shape[0], x)
        if self.by_residual:
            self.precompute_table()

    def _train_encoder_num_vectors(self) -> int:
        return int(self.pq.cp.max_points_per_centroid * self.pq.ksub)

    _add_arrays, _reconstruct_array = IndexIVF._add_arrays, IndexIVF._reconstruct_array

    def _row_coder(self) -> Coder | None:
        return self.pq._row_coder() if self.code_size == self.pq.code_size else None

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        wanted = self._residuals(x, list_nos) if self.by_residual else x
        return product.encode(wanted, self._centroids(), self.pq.nbits)

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        vectors = product.decode(codes, self._centroids(), self.pq.nbits)
        return vectors + self._coarse()._reconstruct(list_nos) if self.by_residual else vectors

    # -- scoring ----------------------------------------------------------------------------------------------------------------------

    def precompute_table(self) -> None:
        """Decide, as FAISS does, where distances to centroids come from."""
        self.use_precomputed_table = table_kind(self)

    @property
    def precomputed_table(self) -> AlignedTableFloat32:
        """FAISS's table of |r|^2 + 2 <c, r> for each list and centroid, made when asked for."""
        if self.use_precomputed_table != 1:
            return AlignedTableFloat32()
        parts, centers = self._centroids(), self._centers().view(-1, self.pq.M, self.pq.dsub)
        return AlignedTableFloat32(2 * torch.einsum("lmj,mcj->lmc", centers, parts) + parts.square().sum(2))

    def _shift(self) -> Tensor:
        """A mean of the centroids."""
        if self._shift_of is None:
            n = self._n_centers()
            sample = torch.linspace(0, n - 1, min(n, _SHIFT_SAMPLE), dtype=torch.float64, device=self.device).to(torch.int64)
            self._shift_of = self._coarse()._reconstruct(sample).mean(0)
        shift: Tensor = self._shift_of
        return shift

    def _row_terms(self) -> Tensor:
        """What each stored code adds to distances, kept until lists, centroids or the coarse quantizer change."""
        invlists, quantizer, centroids, kept = self._lists(), self._coarse(), self.pq.centroids._buffer, self._terms
        moves, changes = invlists._stamp()
        held, values = (invlists, quantizer, centroids), (moves, quantizer.ntotal, centroids._version, self.pq.nbits)
        if unchanged(kept, held, values):
            if kept[2] == changes:
                return kept[4]
            # Entries were added behind those of their lists: only theirs are missing.
            lists, terms = invlists._ragged(), kept[4]
            grown, begins, counts = newcomers(lists, *kept[3])
            if invlists._streamed:
                self._terms_of_host(lists, grown, terms)
            else:
                self._terms_of(lists.codes, grown, begins, counts, terms)
        else:
            self._shift_of = None
            lists = invlists._ragged()
            if invlists._streamed:
                terms = pinned(torch.zeros(lists.ids.shape[0]))
                self._terms_of_host(lists, torch.arange(lists.nlist), terms)
            else:
                terms = term_sums(lists, self._centroids(), self.pq.nbits, quantizer._reconstruct, self._shift())
        self._terms = (held, values, changes, (lists.sizes.clone(), lists.offsets.clone()), terms)
        return terms

    def _terms_of(self, codes: Tensor, names: Tensor, begins: Tensor, counts: Tensor, terms: Tensor) -> None:
        """Write what rows of some lists add: `counts` rows from `begins` on of each."""
        centers = self._coarse()._reconstruct(names) - self._shift()
        product_terms(codes, self._centroids(), self.pq.nbits, centers, begins, counts, terms)

    def _terms_of_host(self, lists: Ragged, names: Tensor, terms: Tensor) -> None:
        """The same for whole lists in the host's memory, which travel to the device for it."""

        def call(rows: int) -> None:
            for block in blocks(lists, names, (), rows, self.device):
                here, found = block.lists, torch.zeros(block.lists.ids.shape[0], device=self.device)
                some = here.sizes.nonzero().squeeze(1)
                self._terms_of(here.codes, some, here.offsets[some], here.sizes[some], found)
                origin, place = block.places()
                terms[origin] = found[place.to(self.device)].cpu()

        within_rooms(self, lists.codes.shape[1] + 12, call)

    def _row_columns(self) -> tuple[Tensor, ...]:
        return (self._row_terms(),) if self._termed() else ()

    def _codec_of_part(self, params: SearchParametersIVF | None, columns: tuple[Tensor, ...]) -> ListCodec:
        codec = self._product_codec(None)
        return self._filtered(changed(codec, terms=columns[0]) if columns else codec, params)

    def _termed(self) -> bool:
        """Whether rows add something of their own to distances."""
        return bool(self.by_residual and self.metric_type == METRIC_L2)

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        check(self.metric_type in (METRIC_L2, METRIC_INNER_PRODUCT), "unsupported metric type {}", self.metric_type)
        return self._filtered(self._product_codec(self._row_terms() if self._termed() else None), params)

    def _product_codec(self, terms: Tensor | None) -> Product:
        """How the codes are scored by the settings of now, kept until these change."""
        centroids = self.pq.centroids._buffer
        held = (centroids, terms, self._plain_centers(), self._shift_of)
        values = (centroids._version, self.pq.nbits, self.metric_type, self.by_residual, self.use_precomputed_table)
        if not unchanged(self._scorer, held, values):
            codec = self._product(terms)
            self._scorer = ((*held[:3], self._shift_of), values, codec)
        found: Product = self._scorer[2]
        return found

    def _filtered(self, codec: Product, params: SearchParametersIVF | None) -> ListCodec:
        """A codec that leaves out codes that are unlike the query's, where that is asked for."""
        threshold = params.polysemous_ht if isinstance(params, IVFPQSearchParameters) else self.polysemous_ht
        return Polysemous(codec, self._signatures, threshold) if threshold > 0 else codec

    def _product(self, terms: Tensor | None) -> Product:
        """How the codes are scored."""
        transposed, nbits, metric = self._centroids().permute(0, 2, 1).contiguous(), self.pq.nbits, self.metric_type
        if not self.by_residual:
            return Product(transposed, nbits, metric, plain=True)
        if metric == METRIC_INNER_PRODUCT:
            return Product(transposed, nbits, metric, plain=False, centers=self._centers())
        centers = None if self.use_precomputed_table > 0 else self._centers()
        return Product(transposed, nbits, metric, plain=False, scale=-2.0, shift=self._shift(), terms=terms, centers=centers)

    def _signatures(self, x: Tensor, keys: Tensor) -> Tensor:
        """The code that each query would have in each list that it probes."""
        asked = x[:, None].expand(-1, keys.shape[1], -1).reshape(-1, self.d)
        return self._encode_vectors(asked, keys.reshape(-1))

    # -- FAISS's C signatures -----------------------------------------------------------------------------------------------------------

    def encode(self, key: int, x: Any, code: Any) -> None:
        encoded = self._encode_vectors(behind(x, 1, self.d), self._given_lists(torch.tensor([key], device=self.device), 1))
        behind(code, 1, self.code_size).copy_(encoded)

    def encode_multiple(self, n: int, keys: Any, x: Any, codes: Any, compute_keys: bool = False) -> None:
        vectors, list_nos = behind(x, n, self.d), behind(keys, n)
        if compute_keys:
            list_nos.copy_(self._coarse()._assign(vectors, 1).reshape(-1))
        self._given_lists(list_nos, n)
        behind(codes, n, self.code_size).copy_(self._encode_vectors(vectors, list_nos))

    def decode_multiple(self, n: int, keys: Any, xcodes: Any, x: Any) -> None:
        behind(x, n, self.d).copy_(self._decode_vectors(behind(xcodes, n, self.code_size), behind(keys, n)))

    def find_duplicates(self, ids: Any, lims: Any) -> int:
        """Write groups of ids that share list and code: group i is ids[lims[i] : lims[i + 1]]; returns how many there are."""
        sizes, codes, names = self._lists()._dump()
        list_nos = torch.repeat_interleave(sizes)
        # FAISS goes through the lists, and through a list's codes from the largest byte string down.
        keys = torch.cat([list_nos[:, None], 255 - codes.to(torch.int64)], 1)
        _, group, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
        repeated = counts > 1
        members = repeated[group]
        order = torch.argsort(group[members], stable=True)
        n_groups, n_members = int(repeated.sum()), int(members.sum())
        behind(ids, n_members).copy_(names[members][order])
        behind(lims, n_groups + 1).copy_(torch.cat([counts.new_zeros(1), torch.cumsum(counts[repeated], 0)]))
        return n_groups


class IndexIVFPQR(IndexIVFPQ):
    """IVFPQ whose results are ranked again with a second product code, of what the first one leaves over."""

    _quick = False
    _only_scans = False

    refine_pq = child(ProductQuantizer, "makes the second codes")
    refine_codes = vector(UInt8Vector, "the second code of each id")
    k_factor = single(1.0, "candidates for each result")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        M: int = 0,
        nbits_per_idx: int = 8,
        M_refine: int = 0,
        nbits_per_idx_refine: int = 8,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, d, nlist, M, nbits_per_idx, METRIC_L2, own_invlists)
        if quantizer is not None:
            self.refine_pq = ProductQuantizer(d, M_refine, nbits_per_idx_refine)
            self.k_factor = 4.0
        self.refine_pq.cp.max_points_per_centroid = 1000

    def _refine_centroids(self) -> Tensor:
        pq = self.refine_pq
        centroids: Tensor = pq.centroids.tensor.view(pq.M, pq.ksub, pq.dsub)
        return centroids

    def _left_over(self, residuals: Tensor) -> Tensor:
        """What the first code misses of residuals."""
        codes = product.encode(residuals, self._centroids(), self.pq.nbits)
        return residuals - product.decode(codes, self._centroids(), self.pq.nbits)

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        super()._train_encoder(x, assign)
        self.refine_pq.cp.verbose = self.verbose
        self.refine_pq._train(self._left_over(x))

    def _train_encoder_num_vectors(self) -> int:
        return max(super()._train_encoder_num_vectors(), int(self.refine_pq.cp.max_points_per_centroid * self.refine_pq.ksub))

    def _add_core(self, x: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        residuals = self._residuals(x, list_nos) if self.by_residual else x
        left = torch.where((list_nos >= 0)[:, None], self._left_over(residuals), 0.0)
        super()._add_core(x, ids, list_nos)
        self.refine_codes.append(product.encode(left, self._refine_centroids(), self.refine_pq.nbits))

    def _reset(self) -> None:
        super()._reset()
        self.refine_codes.clear()

    def _second(self, ids: Tensor) -> Tensor:
        """What the second codes of ids stand for."""
        codes = self.refine_codes.tensor.view(-1, self.refine_pq.code_size)
        within = bool(((ids >= 0) & (ids < codes.shape[0])).all())
        check(within, "IndexIVFPQR needs ids from 0 to ntotal - 1 that were added as vectors: codes alone bring no second codes")
        return product.decode(codes[ids], self._refine_centroids(), self.refine_pq.nbits)

    def _search_preassigned(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, params: SearchParametersIVF | None, pairs: bool
    ) -> tuple[Tensor, Tensor]:
        wanted = times(k, self.k_factor)
        check(wanted >= 1, "k_factor {} leaves no candidates for k = {}", self.k_factor, k)
        _, places = super()._search_preassigned(x, wanted, keys, coarse, params, True)
        found = places >= 0
        query = torch.arange(x.shape[0], device=x.device)[:, None].expand(places.shape)[found]
        list_nos = places[found] >> 32
        rows = self._lists()._rows(list_nos, places[found] & 0xFFFFFFFF)
        distances = torch.full(places.shape, float("inf"), device=x.device)
        distances[found] = (x[query] - self._decode_rows(rows, list_nos)).square().sum(1)
        labels = places if pairs else torch.where(found, 0, -1)
        if not pairs:
            labels[found] = self._lists()._ids_of(rows)
        cvar.indexIVFPQ_stats.nrefine += int(rows.shape[0])
        return select(distances, labels, k, False)

    def _decode_rows(self, rows: Tensor, list_nos: Tensor) -> Tensor:
        return super()._decode_rows(rows, list_nos) + self._second(self._lists()._ids_of(rows))

    def _merge_from(self, other: Any, add_id: int) -> None:
        super()._merge_from(other, add_id)
        self.refine_codes.append(other.refine_codes.tensor)
        other.refine_codes.clear()

    def _remove(self, sel: IDSelector) -> int:
        raise FaissError("remove_ids is not implemented for IndexIVFPQR")


__all__ = ["IndexIVFPQ", "IndexIVFPQR"]
