"""The public methods of IndexIVF beyond those of every index: the caller's arrays and addresses in, hooks called, answers out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.arrays import Array, matrix, rows
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.base import lims_out
from tsscompat.faiss_compat.direct_map import DirectMap
from tsscompat.faiss_compat.invlists import InvertedLists
from tsscompat.faiss_compat.ivf_scanner import InvertedListScanner
from tsscompat.faiss_compat.packers import CodePacker, CodePackerFlat
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.selectors import IDSelector, IDSelectorArray


class IVFMethods:
    """What FAISS's users call on an IndexIVF."""

    def get_InvertedListScanner(
        self: Any, store_pairs: bool = False, sel: IDSelector | None = None, params: SearchParameters | None = None
    ) -> InvertedListScanner:
        """Something to walk the lists with by hand."""
        return InvertedListScanner(self, store_pairs, sel)

    def get_CodePacker(self: Any) -> CodePacker:
        """What lays out the codes of a list: one after the other."""
        return CodePackerFlat(self.code_size)

    # -- searches with the caller's lists ---------------------------------------------------------------------------------------------

    def _probed(self: Any, batch: Any, Iq: Array, Dq: Array | None) -> tuple[torch.Tensor, torch.Tensor]:
        n = batch.tensor.shape[0]
        keys = matrix(Iq, n, self.nprobe, torch.int64, self.device, "list numbers")
        if Dq is None:
            return keys, torch.zeros(keys.shape, device=self.device)
        return keys, matrix(Dq, n, self.nprobe, torch.float32, self.device, "coarse distances")

    def search_preassigned(
        self: Any,
        x: Array,
        k: int,
        Iq: Array,
        Dq: Array | None,
        *,
        params: SearchParameters | None = None,
        D: Array | None = None,
        I: Array | None = None,
    ) -> tuple[Array, Array]:
        """The k nearest vectors among those in given lists (n, nprobe), whose centroids are at given distances."""
        batch = rows(x, self.d, self.device)
        expect(k > 0, "k must be positive, got {}", k)
        expect(params is None, "params not supported")
        keys, coarse = self._probed(batch, Iq, Dq)
        n = batch.tensor.shape[0]
        started = None if D is None else matrix(D, n, k, torch.float32, self.device, "distances")
        held = None if I is None else matrix(I, n, k, torch.int64, self.device, "labels")
        distances, labels = self._search_given(batch.tensor, int(k), keys, coarse, started, held)
        return batch.give_back(distances, D), batch.give_back(labels, I)

    def range_search_preassigned(
        self: Any, x: Array, thresh: float, Iq: Array, Dq: Array | None, *, params: SearchParameters | None = None
    ) -> tuple[Array, Array, Array]:
        """All vectors within a radius among those in given lists."""
        batch = rows(x, self.d, self.device)
        expect(params is None, "params not supported")
        keys, coarse = self._probed(batch, Iq, Dq)
        check(keys.numel() == 0 or int(keys.max()) < self.nlist, "Invalid key: there are {} lists", self.nlist)
        lims, distances, labels = self._range_search_preassigned(batch.tensor, float(thresh), keys, coarse, None)
        return lims_out(batch, lims), batch.give_back(distances), batch.give_back(labels)

    def remove_ids(self: Any, x: Array | IDSelector) -> int:
        """Remove the vectors that a selector or an array of ids names; returns how many went."""
        if not isinstance(x, IDSelector) and self.direct_map.type == DirectMap.Hashtable:
            expect(x.ndim == 1, "expected ids of shape (n,), got {}", tuple(x.shape))
            x = IDSelectorArray(x)
        return int(super().remove_ids(x))  # type: ignore[misc]

    # -- lists and maps ---------------------------------------------------------------------------------------------------------------

    def get_list_size(self: Any, list_no: int) -> int:
        """How many entries a list has."""
        return int(self._lists().list_size(list_no))

    def replace_invlists(self: Any, il: InvertedLists | None, own: bool = False) -> None:
        """Use other inverted lists from now on."""
        if il is not None:
            check(il.nlist == self.nlist, "expected {} lists, got {}", self.nlist, il.nlist)
            fits = il.code_size in (self.code_size, InvertedLists.INVALID_CODE_SIZE)
            check(fits, "expected lists of codes of {} bytes, got {}", self.code_size, il.code_size)
        self.invlists, self.own_invlists = il, own

    def make_direct_map(self: Any, new_maintain_direct_map: bool = True) -> None:
        """Keep an array of the place of each id, or none."""
        self.set_direct_map_type(DirectMap.Array if new_maintain_direct_map else DirectMap.NoMap)

    def set_direct_map_type(self: Any, type: int) -> None:
        """Keep the places of ids in this way."""
        self.direct_map.set_type(type, self._lists(), self.ntotal)

    def check_ids_sorted(self: Any) -> bool:
        """Whether the ids of every list go up."""
        lists = self._lists()._ragged()
        held, which = ragged.live(lists)
        ids = lists.ids[held]
        return not bool(((ids[1:] < ids[:-1]) & (which[1:] == which[:-1])).any())

    def copy_subset_to(self: Any, other: Any, subset_type: int, a1: int, a2: int) -> None:
        """Copy a subset of the entries to another index (see InvertedLists.SUBSET_TYPE_*)."""
        other.ntotal += self._lists().copy_subset_to(other._lists(), subset_type, a1, a2)

    # -- FAISS's C signatures ---------------------------------------------------------------------------------------------------------

    def add_core(self: Any, n: int, x: Any, xids: Any, precomputed_idx: Any, inverted_list_context: Any = None) -> None:
        named = None if xids is None else behind(xids, n)
        self._add_core(behind(x, n, self.d), named, self._given_lists(precomputed_idx, n))

    def _given_lists(self: Any, list_nos: Any, n: int) -> Tensor:
        """Numbers of lists from a caller, -1 for none."""
        numbers: Tensor = behind(list_nos, n)
        check(not n or int(numbers.max()) < self.nlist, "no such list: there are {}", self.nlist)
        return numbers

    def encode_vectors(self: Any, n: int, x: Any, list_nos: Any, codes: Any, include_listno: bool = False) -> None:
        numbers = self._given_lists(list_nos, n)
        encoded = self._encode_vectors(behind(x, n, self.d), numbers)
        if include_listno:
            encoded = torch.cat([self._listno_codes(numbers), encoded], 1)
        behind(codes, *encoded.shape).copy_(encoded)

    def decode_vectors(self: Any, n: int, codes: Any, list_nos: Any, x: Any) -> None:
        behind(x, n, self.d).copy_(self._decode_vectors(behind(codes, n, self.code_size), behind(list_nos, n)))

    def encode_listno(self: Any, list_no: int, code: Any) -> None:
        encoded = self._listno_codes(torch.tensor([list_no]))[0]
        behind(code, *encoded.shape).copy_(encoded)

    def decode_listno(self: Any, code: Any) -> int:
        return int(self._listnos(behind(code, 1, self.coarse_code_size()))[0])

    def train_encoder(self: Any, n: int, x: Any, assign: Any = None) -> None:
        self._train_encoder(behind(x, n, self.d), None if assign is None else behind(assign, n))

    def train_encoder_num_vectors(self: Any) -> int:
        return int(self._train_encoder_num_vectors())

    def reconstruct_from_offset(self: Any, list_no: int, offset: int, recons: Any) -> None:
        list_nos = torch.tensor([list_no], device=self.device)
        place = self._lists()._rows(list_nos, torch.tensor([offset], device=self.device))
        behind(recons, 1, self.d).copy_(self._decode_rows(place, list_nos))

    def search_preassigned_c(
        self: Any,
        n: int,
        x: Any,
        k: int,
        assign: Any,
        centroid_dis: Any,
        distances: Any,
        labels: Any,
        store_pairs: bool,
        params: Any = None,
        stats: Any = None,
    ) -> None:
        given = self._ivf_params(params)
        nprobe = self._probes(given)
        queries, keys, coarse = behind(x, n, self.d), behind(assign, n, nprobe), behind(centroid_dis, n, nprobe)
        D, I = behind(distances, n, k), behind(labels, n, k)
        if given is None and not store_pairs:
            found = self._search_given(queries, k, keys, coarse, D, I)
        else:
            found = self._search_preassigned(queries, k, keys, coarse, given, store_pairs)
        D.copy_(found[0])
        I.copy_(found[1])

    def range_search_preassigned_c(
        self: Any,
        nx: int,
        x: Any,
        radius: float,
        keys: Any,
        coarse_dis: Any,
        result: Any,
        store_pairs: bool = False,
        params: Any = None,
        stats: Any = None,
    ) -> None:
        given = self._ivf_params(params)
        nprobe = self._probes(given)
        probed = behind(keys, nx, nprobe), behind(coarse_dis, nx, nprobe)
        result.fill(*self._range_search_preassigned(behind(x, nx, self.d), float(radius), *probed, given))

    def search_and_return_codes_c(
        self: Any,
        n: int,
        x: Any,
        k: int,
        distances: Any,
        labels: Any,
        recons: Any,
        include_listno: bool = False,
        params: Any = None,
    ) -> None:
        width = self.code_size + (self.coarse_code_size() if include_listno else 0)
        self.search_and_return_codes(
            behind(x, n, self.d),
            k,
            include_listnos=include_listno,
            params=params,
            D=behind(distances, n, k),
            I=behind(labels, n, k),
            codes=behind(recons, n, k, width),
        )
