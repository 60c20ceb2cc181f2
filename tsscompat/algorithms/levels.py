"""Lists of vectors that are scanned level by level."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tsscompat.algorithms.ivf import Options, vectors_of
from tsscompat.kernels.ivf import Range, Top
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.panorama import Layout, Looked
from tsscompat.kernels.panorama_lists import few_levels, scan_levels, within_levels
from tsscompat.records import record


@record
class Panorama:
    """Vectors in lists, scanned level by level; `report` is told how many levels of how many were looked at."""

    layout: Layout
    norms: Tensor
    metric: int
    report: Callable[[Looked], None]

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        how = (self.metric, self.layout.width, self.layout.batch)
        *found, looked = few_levels(x, centers, nprobe, vectors_of(lists), self.norms, lists, k, *how)
        self.report(looked)
        return tuple(found)  # type: ignore[return-value]

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        given = (x, vectors_of(lists), self.norms, lists, keys)
        how, only = (self.metric, self.layout.width, self.layout.batch), (options.allowed, options.limits)
        distances, labels, counts, looked = scan_levels(*given, k, *how, *only, options.pairs)
        self.report(looked)
        return distances, labels, counts

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        given = (x, vectors_of(lists), self.norms, lists, keys)
        how, only = (self.metric, self.layout.width, self.layout.batch), (options.allowed, options.limits)
        lims, distances, labels, counts, looked = within_levels(*given, radius, *how, *only, options.pairs)
        self.report(looked)
        return lims, distances, labels, counts
