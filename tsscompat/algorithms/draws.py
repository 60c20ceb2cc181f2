"""libstdc++'s distributions on a std::mt19937, drawn many at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator

_LOW32 = 0xFFFFFFFF


class Draws:
    """A stream of 32-bit words, and what libstdc++'s distributions make of it."""

    def __init__(self, source: int | RandomGenerator) -> None:
        self._generator = RandomGenerator(source) if isinstance(source, int) else source
        self._ahead = torch.empty(0, dtype=torch.int64)  # words that were drawn and not used

    def words(self, n: int) -> Tensor:
        """The next n words."""
        missing = n - self._ahead.shape[0]
        if missing > 0:
            drawn = self._generator.words(missing).to(torch.int64) & _LOW32
            self._ahead = torch.cat([self._ahead, drawn])
        taken, self._ahead = self._ahead[:n], self._ahead[n:]
        return taken

    def pairs(self, n: int, first: int, second: int) -> tuple[Tensor, Tensor]:
        """n times uniform_int_distribution(0, first - 1), then (0, second - 1): the high half of a product, or another word."""
        words = self.words(2 * n)
        limits = torch.tensor([first, second]).repeat(n)
        while True:
            products = words * limits
            refused = ((products & _LOW32) < (1 << 32) % limits).nonzero()
            if not refused.numel():
                found = (products >> 32).view(n, 2)
                return found[:, 0], found[:, 1]
            # What comes after a word that is refused moves up by one.
            at = int(refused[0])
            words = torch.cat([words[:at], words[at + 1 :], self.words(1)])

    def below(self, n: int, limit: int) -> Tensor:
        """n draws of uniform_int_distribution(0, limit - 1)."""
        first, second = self.pairs(n // 2, limit, limit)
        both = torch.stack([first, second], 1).view(-1)
        return both if n % 2 == 0 else torch.cat([both, self._one(limit)])

    def _one(self, limit: int) -> Tensor:
        while True:
            product = self.words(1) * limit
            if int(product & _LOW32) >= (1 << 32) % limit:
                return product >> 32

    def normals(self, n: int) -> tuple[Tensor, Tensor]:
        """n pairs of draws of normal_distribution<float>: what it returns, and what it keeps for its next call.

        Marsaglia's polar method in float32; points outside the unit circle are drawn again.
        """
        found: list[Tensor] = []
        missing = n
        while missing > 0:
            # 4 / pi points for each that is inside; what is drawn too many goes back.
            words = self.words(2 * (int(missing * 1.3) + 8))
            uniform = (words.to(torch.float32) / 4294967296.0).clamp(max=1 - 2**-24)
            points = (2 * uniform - 1).view(-1, 2)
            lengths = points[:, 0] * points[:, 0] + points[:, 1] * points[:, 1]
            inside = ((lengths <= 1) & (lengths != 0)).nonzero()[:missing, 0]
            if inside.shape[0] == missing:
                self._ahead = torch.cat([words[2 * (int(inside[-1]) + 1) :], self._ahead])
            logs = lengths[inside].double().log().float()
            scale = (-2 * logs / lengths[inside]).sqrt()
            found.append(points[inside] * scale[:, None])
            missing -= inside.shape[0]
        both = torch.cat(found) if found else torch.empty(0, 2)
        return both[:, 1], both[:, 0]
