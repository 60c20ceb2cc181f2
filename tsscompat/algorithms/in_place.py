"""Codes of codebooks in lists: scanned as they lie where the device has a kernel for that, elsewhere decoded."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tsscompat.algorithms.ivf import Decoded, ListCodec, Options
from tsscompat.kernels.ivf import Range, Top
from tsscompat.kernels.ivf_codebook import PLAIN, TURBO, Codebook, scan_codebook, scanned_in_place, within_codebook
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.ivf_terms import list_scores
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.records import record


@record
class InPlace:
    """Codes scored as they lie: of residuals to `centers`, those of the lists or (1, d) for all; PLAIN ones for inner products say only
    whether they are `residual`. `asked` gives the columns that TURBO codes are compared with.
    """

    codebook: Codebook
    metric: int
    centers: Tensor | None = None
    residual: bool = False
    asked: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def quick(self, x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Few | None:
        return None

    def _given(self, x: Tensor, keys: Tensor, coarse: Tensor) -> tuple[Tensor, Codebook, Tensor | None, Tensor | None]:
        """Queries as the kernel takes them, the codebook, centers of lists, and what lists add."""
        similar, centers, base = self.metric == INNER_PRODUCT, self.centers, None
        if self.codebook.kind == TURBO:
            base = None if similar else x.square().sum(1, keepdim=True).expand(keys.shape)
            x = x if self.asked is None else self.asked(x)[0]
        elif self.codebook.kind == PLAIN:
            base = coarse if similar and self.residual else None
        elif centers is not None and centers.shape[0] == 1:
            base = list_scores(x, centers, keys.new_zeros(keys.shape[0], 1), self.metric).expand(keys.shape)
            x, centers = x if similar else x - centers, None
        elif centers is not None:
            base = list_scores(x, centers, keys, self.metric)
        return x.contiguous(), self.codebook, None if similar else centers, None if base is None else base.contiguous()

    def top(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, k: int, options: Options) -> Top:
        given = self._given(x, keys, coarse)
        return scan_codebook(*given, lists, keys, k, self.metric, options.allowed, options.limits, options.pairs)

    def within(self, x: Tensor, keys: Tensor, coarse: Tensor, lists: Ragged, radius: float, options: Options) -> Range:
        given = self._given(x, keys, coarse)
        return within_codebook(*given, lists, keys, radius, self.metric, options.allowed, options.limits, options.pairs)


def best_scorer(decoded: Decoded, known: Tensor, in_place: Callable[[], InPlace]) -> ListCodec:
    """How the device of `known`, what was trained, scores codes best: decoded, or as they lie."""
    return in_place() if scanned_in_place(known) else decoded
