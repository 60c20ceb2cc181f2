"""IndexIVFFlat and IndexIVFFlatDedup: lists of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.algorithms.ivf import Flat, ListCodec
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import anything
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.kernels.bits import tail
from tsscompat.kernels.entries import PLAIN, Coder


class IndexIVFFlat(IndexIVF):
    """Lists that hold the vectors themselves."""

    _quick = True
    _arrays = True

    _caches = ("_coding",)
    _coding: Coder | None

    def __init__(
        self, quantizer: Index | None = None, d: int = 0, nlist: int = 0, metric: int = METRIC_L2, own_invlists: bool = True
    ) -> None:
        super().__init__(quantizer, d, nlist, 4 * d, metric, own_invlists)
        self.by_residual = False

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        return Flat(self.metric_type, self.metric_arg)

    _add_arrays, _reconstruct_array = IndexIVF._add_arrays, IndexIVF._reconstruct_array

    def _row_coder(self) -> Coder | None:
        size = 4 * self.d
        if self.by_residual or self.code_size != size:
            return None
        kept = self._coding
        if kept is None or kept.d != self.d:
            kept = self._coding = Coder(PLAIN, self.d, size)
        return kept

    def _add_core(self, x: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        check(self.is_trained, "{} must be trained before vectors are added", type(self).__name__)
        self.direct_map.check_can_add(ids)
        self._add_codes(self._encode_vectors(x, list_nos), ids, list_nos)

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        check(not self.by_residual, "by_residual not supported for this index")
        return x.contiguous().view(torch.uint8)

    def _decode_vectors(self, codes: Tensor, list_nos: Tensor) -> Tensor:
        return codes.contiguous().view(torch.float32)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self._decode_vectors(tail(codes, self.coarse_code_size()), codes[:, 0])


class IndexIVFFlatDedup(IndexIVFFlat):
    """Lists that hold each distinct vector once; `instances` has the ids of the others under the id of the one that is kept."""

    _quick = False
    _only_scans = False

    instances = anything(None, "dict: id of the vector that is kept -> ids of its duplicates")

    def __init__(
        self, quantizer: Index | None = None, d: int = 0, nlist: int = 0, metric: int = METRIC_L2, own_invlists: bool = True
    ) -> None:
        super().__init__(quantizer, d, nlist, metric, own_invlists)
        self.instances = {}

    def _train(self, x: Tensor) -> None:
        # The first of each distinct row, in the order of the rows.
        _, inverse = torch.unique(x, dim=0, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), x.shape[0], device=x.device)
        first.scatter_reduce_(0, inverse, torch.arange(x.shape[0], device=x.device), "amin")
        super()._train(x[first.sort().values])

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        check(self.direct_map.no(), "IVFFlatDedup not implemented with direct_map")
        list_nos = self._coarse()._assign(x, 1).reshape(-1)
        names = torch.arange(self.ntotal, self.ntotal + x.shape[0], device=x.device) if ids is None else ids
        codes = self._encode_vectors(x, list_nos)
        known = self._known(list_nos)
        fresh = []
        for i, (list_no, code, name) in enumerate(zip(list_nos.tolist(), codes.cpu().numpy(), names.tolist())):
            if list_no < 0:
                continue
            key = (list_no, code.tobytes())
            if key in known:
                self.instances.setdefault(known[key], []).append(name)
            else:
                known[key] = name
                fresh.append(i)
        rows = torch.tensor(fresh, dtype=torch.int64, device=x.device)
        self._lists()._append(list_nos[rows], codes[rows], names[rows])
        self.ntotal += int((list_nos >= 0).sum())

    def _known(self, list_nos: Tensor) -> dict[tuple[int, bytes], int]:
        """The id of every vector in some lists, by list and bytes."""
        lists = self._lists()._ragged()
        touched = torch.unique(list_nos)
        touched = touched[touched >= 0]
        rows, which = ragged.runs(lists.offsets[touched], lists.sizes[touched])
        codes, ids = lists.codes[rows].cpu().numpy(), lists.ids[rows].tolist()
        return {(l, code.tobytes()): id for l, code, id in zip(touched[which].tolist(), codes, ids)}

    def _search_preassigned(
        self, x: Tensor, k: int, keys: Tensor, coarse: Tensor, params: SearchParametersIVF | None, pairs: bool
    ) -> tuple[Tensor, Tensor]:
        check(not pairs, "store_pairs not supported in IVFDedup")
        distances, labels = super()._search_preassigned(x, k, keys, coarse, params, False)
        if self.instances:
            several = torch.tensor(list(self.instances), device=labels.device)
            for q in torch.isin(labels, several).any(1).nonzero().squeeze(1).tolist():
                found = [
                    (v, i)
                    for v, name in zip(distances[q].tolist(), labels[q].tolist())
                    for i in (name, *self.instances.get(name, ()))
                ]
                distances[q] = torch.tensor([v for v, _ in found[:k]], device=labels.device)
                labels[q] = torch.tensor([i for _, i in found[:k]], device=labels.device)
        return distances, labels

    def _remove(self, sel: IDSelector) -> int:
        """Remove ids; where a kept one goes and duplicates stay, the first of those takes its place."""
        check(self.direct_map.no(), "direct map remove not implemented")
        heirs: dict[int, int] = {}
        instances: dict[int, list[int]] = {}
        for kept, others in self.instances.items():
            wanted = torch.tensor([kept, *others])
            gone = sel._mask(wanted).tolist()
            staying = [name for name, leaves in zip(others, gone[1:]) if not leaves]
            if gone[0] and staying:
                heirs[kept] = staying.pop(0)
                kept = heirs[kept]
            if staying:
                instances[kept] = staying
        self.instances = instances
        lists = self._lists()
        if heirs:
            arena = lists._ragged()
            rows, _ = ragged.live(arena)
            moved = rows[torch.isin(arena.ids[rows], torch.tensor(list(heirs), device=rows.device))]
            names = [heirs[name] for name in arena.ids[moved].tolist()]
            lists._set_rows(moved, arena.codes[moved], torch.tensor(names, device=rows.device))
        n: int = self.direct_map.remove_ids(sel, lists)
        self.ntotal -= n
        return n

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        raise FaissError("range_search is not implemented for IndexIVFFlatDedup")

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        raise FaissError("update_vectors is not implemented for IndexIVFFlatDedup")

    def _decode_rows(self, rows: Tensor, list_nos: Tensor) -> Tensor:
        raise FaissError("reconstruct is not implemented for IndexIVFFlatDedup")


__all__ = ["IndexIVFFlat", "IndexIVFFlatDedup"]
