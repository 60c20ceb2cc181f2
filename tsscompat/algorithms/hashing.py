"""Bits of vectors: signs, and waves that change with every half period; searching lists of such bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import Options
from tsscompat.errors import check
from tsscompat.kernels import hamming
from tsscompat.kernels.bits import pack, unpack
from tsscompat.kernels.ivf import Range, Top
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.records import record


def of_signs(codes: Tensor, nbits: int) -> Tensor:
    """1 for each bit that is set, else -1."""
    return 2.0 * unpack(codes, nbits, 1).float() - 1.0


def waves(x: Tensor, thresholds: Tensor | float, frequency: float) -> Tensor:
    """A bit for each number: whether it is an odd number of half periods above its threshold."""
    return pack((((x - thresholds) * frequency).floor().to(torch.int64) & 1).to(torch.int32), 1)


def medians(x: Tensor) -> Tensor:
    """The median of each column; of an even number of rows, the mean of the two in the middle."""
    n, ordered = x.shape[0], x.sort(dim=0).values
    return ordered[n // 2] if n % 2 else (ordered[n // 2] + ordered[n // 2 - 1]) / 2


def medians_of_groups(x: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """The same for each group of rows; 0 for those that are empty."""
    x, order = x.sort(dim=0)
    x = x.gather(0, groups[order].sort(dim=0, stable=True).indices)  # by group, and in order in each
    counts = torch.bincount(groups, minlength=n_groups)
    middle = counts.cumsum(0) - counts + counts // 2
    upper = middle.clamp(max=max(0, x.shape[0] - 1))
    lower = torch.where(counts % 2 == 1, upper, (upper - 1).clamp(min=0))
    return torch.where((counts > 0)[:, None], torch.where((counts % 2 == 1)[:, None], x[upper], (x[lower] + x[upper]) / 2), 0.0)


@record
class Spectral:
    """Waves of transformed vectors around thresholds (nlist, nbits), or around 0, compared by the bits that differ."""

    transform: Callable[[Tensor], Tensor]
    frequency: float
    thresholds: Tensor | None

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def _codes(self, x: Tensor, keys: Tensor) -> Tensor:
        """A code for each query, or where thresholds are a list's own, for each of its lists."""
        x = self.transform(x)
        if self.thresholds is None:
            return waves(x, 0.0, self.frequency)
        own = self.thresholds[keys.clamp(min=0)]  # (nq, nprobe, nbits)
        return waves((x[:, None] - own).flatten(0, 1), 0.0, self.frequency)

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        check(options.allowed is None, "id selector not supported for this index")
        codes, limits = self._codes(x, keys), options.limits
        if self.thresholds is None or keys.shape[1] == 1:
            distances, labels, counts = hamming.scan(codes, lists, keys, k, limits, options.pairs)
        else:
            split = None if limits is None else limits.reshape(-1, 1)
            found = hamming.scan(codes, lists, keys.reshape(-1, 1), k, split, options.pairs, True)
            shape = (x.shape[0], keys.shape[1] * k)
            distances, labels, counts = *_joined(found[0].view(shape), found[1].view(shape), k), found[2]
        worst = torch.finfo(torch.float32).max
        return torch.where(labels >= 0, distances.float(), worst), labels, counts

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        check(options.allowed is None, "id selector not supported for this index")
        codes, bound = self._codes(x, keys), math.ceil(min(max(radius, 0.0), 1e9))
        split = keys if self.thresholds is None else keys.reshape(-1, 1)
        lims, distances, labels, counts = hamming.within(codes, lists, split, bound, None, options.pairs)
        return lims[:: split.shape[0] // max(1, keys.shape[0]) or 1], distances.float(), labels, counts


def _joined(distances: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of several lists' results, those of earlier lists first on ties; then ties by label."""
    distances, order = distances.sort(dim=1, stable=True)
    distances, labels = distances[:, :k], labels.gather(1, order[:, :k])
    labels, order = labels.sort(dim=1, stable=True)
    distances, order = distances.gather(1, order).sort(dim=1, stable=True)
    return distances, labels.gather(1, order)
