"""QINCo: residual quantisation whose codebooks a network adapts to what has been decoded so far."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from tsscompat.algorithms.blocks import blocks
from tsscompat.kernels.flat import nearest
from tsscompat.records import record


@record
class Step:
    """One step: its codebook, a layer that mixes entries with what has been decoded, blocks of two layers each."""

    codebook: Tensor  # (K, d)
    mix: tuple[Tensor, Tensor | None]  # (d, 2 d), (d,)
    blocks: tuple[tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]], ...]

    def _adapted(self, entries: Tensor, decoded: Tensor) -> Tensor:
        """Entries (..., d) as the network makes them for what has been decoded (..., d); the two are broadcast together."""
        weight, bias = self.mix
        d = self.codebook.shape[1]
        # The layer takes both side by side: that is a product with each, of which the entries' is the same for all vectors.
        made = entries + (linear(entries, weight[:, :d]) + linear(decoded, weight[:, d:], bias))
        for first, second in self.blocks:
            made = made + linear(linear(made, *first).relu(), *second)
        return made

    def decode(self, decoded: Tensor, codes: Tensor) -> Tensor:
        """What codes (n,) add to what has been decoded."""
        return self._adapted(self.codebook[codes], decoded)

    def encode(self, decoded: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (n,) that come nearest to x, and what they add."""
        codes, added = [], []
        for known, wanted in blocks(decoded, x, width=3 * self.codebook.numel()):
            steps = self._adapted(self.codebook, known[:, None])  # (n, K, d)
            chosen = (steps + known[:, None] - wanted[:, None]).square().sum(2).argmin(1)
            codes.append(chosen)
            added.append(steps[torch.arange(chosen.shape[0], device=x.device), chosen])
        none = x.new_empty(0, dtype=torch.int64)
        return torch.cat([none, *codes]), torch.cat([x[:0], *added])


def decode(first: Tensor, steps: list[Step], codes: Tensor) -> Tensor:
    """The vectors of codes (n, M); `first` is the codebook before all steps."""
    decoded = first[codes[:, 0]]
    for m, step in enumerate(steps, 1):
        decoded = decoded + step.decode(decoded, codes[:, m])
    return decoded


def encode(first: Tensor, steps: list[Step], x: Tensor) -> Tensor:
    """The codes (n, M) of vectors, each step's number chosen by itself."""
    codes = [nearest(x, first)[1]]
    decoded = first[codes[0]]
    for step in steps:
        chosen, added = step.encode(decoded, x)
        codes.append(chosen)
        decoded = decoded + added
    return torch.stack(codes, 1)
