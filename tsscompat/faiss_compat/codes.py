"""IndexFlatCodes: vectors held as codes of a fixed size, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms.blocks import blocks
from tsscompat.arrays import Array
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import size_t, vector
from tsscompat.faiss_compat.base import Index, check_key, check_keys
from tsscompat.faiss_compat.packers import CodePackerFlat
from tsscompat.faiss_compat.params import SearchParameters, selector_of
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.faiss_compat.vectors import UInt8Vector
from tsscompat.kernels import flat
from tsscompat.kernels.entries import Coder, read_code, write_codes
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.named import best_named
from tsscompat.kernels.select import merge, padded

# Codes are decoded in blocks of about this many floats.
_BLOCK = 1 << 22


def allowed_rows(params: SearchParameters | None, n: int, device: torch.device) -> Tensor | None:
    """Which of n numbered rows a search considers; None: all."""
    selector = selector_of(params)
    return None if selector is None else selector._mask(torch.arange(n, device=device))


class IndexFlatCodes(Index):
    """Codes in the order in which they were added; a subclass says how vectors become codes and back."""

    _one_after_another = True  # how codes lie

    code_size = size_t(0, "bytes of a code")
    codes = vector(UInt8Vector, "the codes, ntotal * code_size bytes")

    def __init__(self, code_size: int = 0, d: int = 0, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, metric)
        self.code_size = code_size

    @property
    def _rows(self) -> Tensor:
        """The codes, one a row."""
        return self.codes.tensor.view(self.ntotal, self.code_size)

    def _held(self, codes: Tensor) -> None:
        """Take on a new table of codes."""
        self.codes.tensor = codes
        self.ntotal = codes.shape[0]
        self._drop_caches()

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        # Block by block into room for all, so that codes do not exist twice; all or nothing.
        before = self.ntotal
        self.codes.make_room(x.shape[0] * self.code_size)
        try:
            for (part,) in blocks(x, width=self.d):
                self._add_sa_codes(self._sa_encode(part), None)
        except BaseException:
            self.codes.resize(before * self.code_size)
            self.ntotal = before
            raise

    def _row_coder(self) -> Coder | None:
        """How single vectors become codes and back, where compiled code knows that."""
        return None

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        coder = self._row_coder() if ids is None else None
        if coder is None:
            return False
        codes, size = self.codes, x.shape[0] * self.code_size
        room, at = codes.extended(size)
        write_codes(x, coder, room, at)
        codes._n = at + size
        self.__dict__["ntotal"] += x.shape[0]
        self._drop_caches()
        return True

    def _reconstruct_array(self, key: int) -> Array | None:
        coder = self._row_coder()
        if coder is None:
            return None
        check_key(key, self.ntotal)
        out = np.empty(self.d, np.float32)
        read_code(self.codes.array, key * self.code_size, coder, out)
        return out

    def _add_sa_codes(self, codes: Tensor, ids: Tensor | None) -> None:
        # Ids are not looked at, as in FAISS: the index numbers its vectors itself.
        self.codes.append(codes)
        self.ntotal += codes.shape[0]
        self._drop_caches()

    def _sa_code_size(self) -> int:
        return self.code_size

    def _reset(self) -> None:
        self.codes.clear()
        self.ntotal = 0
        self._drop_caches()

    def _reconstruct(self, keys: Tensor) -> Tensor:
        return self._sa_decode(self._rows[check_keys(keys, self.ntotal)])

    def _reconstruct_one(self, key: int) -> Tensor:
        check_key(key, self.ntotal)
        return self._reconstruct_n(key, 1)[0]

    def _reconstruct_n(self, n0: int, ni: int) -> Tensor:
        return self._sa_decode(self._rows[n0 : n0 + ni])

    def _remove(self, sel: IDSelector) -> int:
        gone = sel._numbers(self.ntotal, self.device)
        removed = gone.shape[0]
        if removed and self._one_after_another:
            self.codes.remove(gone, self.code_size)
            self.ntotal -= removed
            self._drop_caches()
        elif removed:
            kept = torch.ones(self.ntotal, dtype=torch.bool, device=self.device)
            kept[gone] = False
            self._held(self._rows[kept])
        return removed

    def _permute_entries(self, perm: Tensor) -> None:
        self._held(self._rows[perm])

    def _check_compatible_for_merge(self, other: Any) -> None:
        check(type(other) is type(self), "cannot merge a {} into a {}", type(other).__name__, type(self).__name__)
        check(other.d == self.d, "cannot merge dimension {} into {}", other.d, self.d)
        check(other.code_size == self.code_size, "cannot merge codes of {} bytes into {}", other.code_size, self.code_size)

    def _merge_from(self, other: Any, add_id: int) -> None:
        check(add_id == 0, "{} numbers its vectors itself: add_id must be 0, got {}", type(self).__name__, add_id)
        self._add_sa_codes(other._rows.to(self.device), None)
        other._reset()

    # Searching without a kernel of the codec's own: decode a block, score it, keep the best.

    def _decoded_blocks(self) -> Any:
        step = max(1024, _BLOCK // max(1, self.d))
        for start in range(0, self.ntotal, step):
            yield start, self._sa_decode(self._rows[start : start + step])

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        largest = is_similarity(self.metric_type)
        allowed = allowed_rows(params, self.ntotal, self.device)
        best = padded(x.shape[0], k, largest, x.device)
        for start, block in self._decoded_blocks():
            mask = None if allowed is None else allowed[start : start + block.shape[0]]
            distances, labels = flat.knn(x, block, k, self.metric_type, self.metric_arg, mask)
            labels = torch.where(labels >= 0, labels + start, -1)
            best = merge(torch.cat([best[0], distances], 1), torch.cat([best[1], labels], 1), k, largest)
        return best

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        check(self.is_trained, "{} must be trained before it is searched", type(self).__name__)
        allowed = allowed_rows(params, self.ntotal, self.device)
        parts = []
        for start, block in self._decoded_blocks():
            mask = None if allowed is None else allowed[start : start + block.shape[0]]
            limits, distances, labels = flat.within(x, block, radius, self.metric_type, self.metric_arg, mask)
            parts.append((limits, distances, labels + start))
        return join_ranges(parts, x.shape[0], x.device)

    def _search_and_return_codes(
        self, x: Tensor, k: int, with_listno: bool, params: SearchParameters | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        check(not with_listno, "{} has no lists", type(self).__name__)
        distances, labels = self._search(x, k, params)
        codes = torch.full((*labels.shape, self.code_size), 255, dtype=torch.uint8, device=x.device)
        found = labels >= 0
        codes[found] = self._rows[labels[found]]
        return distances, labels, codes

    def _search_subset(self, x: Tensor, base_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return best_of_named(self, x, base_labels, k)

    def get_CodePacker(self) -> CodePackerFlat:
        """What lays out the codes of a block: one after the other."""
        return CodePackerFlat(self.code_size)


def held_labels(labels: Tensor, n: int) -> Tensor:
    """Labels of n vectors; -1 in the place of others, which a file or a caller may have made up."""
    return torch.where((labels >= 0) & (labels < n), labels, -1)


def best_of_named(index: Index, x: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of the vectors that each query names; names of others count as none."""
    vectors = getattr(index, "_vectors", None)
    if isinstance(vectors, Tensor) and not index.metric_arg:
        return best_named(x, vectors, labels, k, index.metric_type)
    held = held_labels(labels, index.ntotal)
    return merge(subset_distances(index, x, held), held, k, is_similarity(index.metric_type))


def subset_distances(index: Index, x: Tensor, labels: Tensor) -> Tensor:
    """The distance of each query to the vectors that it names, all of them held; the worst for names of -1."""
    vectors = getattr(index, "_vectors", None)
    if isinstance(vectors, Tensor):  # of a graph it is what makes them
        return flat.named_distances(x, vectors, labels, index.metric_type, index.metric_arg)
    out = padded(labels.shape[0], labels.shape[1], is_similarity(index.metric_type), x.device)[0]
    rows, columns = (labels >= 0).nonzero(as_tuple=True)
    step = max(1, _BLOCK // max(1, index.d))
    for start in range(0, rows.shape[0], step):
        r, c = rows[start : start + step], columns[start : start + step]
        found = index._reconstruct(labels[r, c])
        out[r, c] = flat.row_distances(x[r], found, index.metric_type, index.metric_arg)
    return out


def join_ranges(parts: list[tuple[Tensor, Tensor, Tensor]], n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Range-search answers over parts of a database as one answer, each query's results in the order of the parts."""
    if len(parts) == 1:
        return parts[0]
    limits = torch.zeros(n + 1, dtype=torch.int64, device=device)
    if not parts:
        return limits, torch.empty(0, device=device), torch.empty(0, dtype=torch.int64, device=device)
    counts = [part[0].diff() for part in parts]
    limits[1:] = torch.stack(counts).sum(0).cumsum(0)
    owner = torch.cat([torch.repeat_interleave(torch.arange(n, device=device), c) for c in counts])
    order = torch.sort(owner, stable=True).indices
    return limits, torch.cat([p[1] for p in parts])[order], torch.cat([p[2] for p in parts])[order]


__all__ = ["IndexFlatCodes"]
