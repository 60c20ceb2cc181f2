"""What changes the lists of an IndexIVF: adding, one vector or many; removing; replacing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms.blocks import in_blocks
from tsscompat.arrays import Array
from tsscompat.errors import check
from tsscompat.faiss_compat.direct_map import DirectMap
from tsscompat.faiss_compat.invlists import ArrayInvertedLists
from tsscompat.faiss_compat.selectors import IDSelector, IDSelectorArray
from tsscompat.kernels.bits import tail
from tsscompat.kernels.entries import Coder
from tsscompat.kernels.ivf import nearest_lists

# So many vectors find their lists without the coarse quantizer's own search, whose preparations would cost more than the search.
FEW = 32


class IVFChanges:
    """Adding to an IndexIVF, removing and replacing."""

    def _add(self: Any, x: Tensor, ids: Tensor | None) -> None:
        self._lists()
        self._check_centers()
        self._add_core(x, ids, self._own_lists(x))

    def _own_lists(self: Any, x: Tensor) -> Tensor:
        """The list that each vector belongs to."""
        centers = self._plain_centers() if x.shape[0] <= FEW else None
        if centers is None:
            return self._coarse()._assign(x, 1).reshape(-1)
        return nearest_lists(x, centers, 1, self.quantizer.metric_type)[1].view(-1)

    def _add_with_ids(self: Any, x: Tensor, ids: Tensor) -> None:
        self._add(x, ids)

    def _row_coder(self: Any) -> Coder | None:
        """How single vectors, or their residuals, become codes and back, where compiled code knows that."""
        return None

    def _add_arrays(self: Any, x: Array, ids: Array | None) -> bool:
        lists, direct, n = self.invlists, self.direct_map, x.shape[0]
        centers, coder = self._plain_centers(), self._row_coder()
        if coder is None or centers is None or not isinstance(lists, ArrayInvertedLists) or centers.shape[0] > self.nlist:
            return False
        if ids is None:
            names = np.arange(self.ntotal, self.ntotal + n)
        else:
            direct.check_can_add(ids)
            names = ids
        places = np.empty(n, np.int64)
        done = lists._enter(x, names, coder, centers, self.quantizer.metric_type, self.by_residual, places)
        if direct.type != direct.NoMap:
            direct._noted(names[:done], places[:done])
        self.__dict__["ntotal"] += done
        if done < n:  # the arena is laid out anew for the others
            self._add(torch.from_numpy(x[done:]), torch.from_numpy(names[done:]) if ids is not None else None)
        return True

    def _add_core(self: Any, x: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        """Add vectors to given lists; those of list -1 are counted but kept nowhere."""
        check(self.is_trained, "{} must be trained before vectors are added", type(self).__name__)
        self.direct_map.check_can_add(ids)
        self._add_codes(in_blocks(self._encode_vectors, x, list_nos, width=self.d), ids, list_nos)

    def _add_codes(self: Any, codes: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        n = codes.shape[0]
        if ids is not None:
            names = ids
        elif n == 1:  # which a range takes three times as long to make
            names = torch.tensor([self.ntotal], device=codes.device)
        else:
            names = torch.arange(self.ntotal, self.ntotal + n, device=codes.device)
        places = self._lists()._append(list_nos, codes, names)
        self.direct_map._added(names, list_nos, places)
        self.ntotal += n

    def _add_sa_codes(self: Any, codes: Tensor, ids: Tensor | None) -> None:
        self.direct_map.check_can_add(ids)
        self._add_codes(tail(codes, self.coarse_code_size()), ids, self._listnos(codes))

    # -- changing what is held --------------------------------------------------------------------------------------------------------

    def _reset(self: Any) -> None:
        self.direct_map.clear()
        self._lists().reset()
        self.ntotal = 0

    def _remove(self: Any, sel: IDSelector) -> int:
        n: int = self.direct_map.remove_ids(sel, self._lists())
        self.ntotal -= n
        return n

    def _update_vectors(self: Any, keys: Tensor, x: Tensor) -> None:
        if self.direct_map.type == DirectMap.Hashtable:
            check(self._remove(IDSelectorArray(keys)) == keys.shape[0], "did not find all entries to remove")
            self._add(x, keys)
            return
        check(self.direct_map.type == DirectMap.Array, "vectors can be updated with a direct map only")
        list_nos = self._coarse()._assign(x, 1).reshape(-1)
        self.direct_map.update_codes(self._lists(), keys.shape[0], keys, list_nos, self._encode_vectors(x, list_nos))
