"""Levels and order of insertion of an HNSW graph, as FAISS draws them."""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator
from tsscompat.kernels.permute import swaps

# FAISS shuffles the nodes of a level with a generator of its own.
_ORDER_SEED = 789
# Up to so many nodes levels are drawn one by one.
_FEW = 16


def _single(x: float) -> float:
    """Rounded to float32."""
    rounded: float = struct.unpack("f", struct.pack("f", x))[0]
    return rounded


def probabilities(m: int, scale: float) -> tuple[list[float], list[int]]:
    """How likely each level is, and how many neighbours a node has up to each level: 2 m at the bottom, m above."""
    chances: list[float] = []
    ends = [0]
    while True:
        level = len(chances)
        # FAISS divides in float32, takes exponentials in float64, and keeps the product as float32.
        chance = _single(math.exp(_single(-level / _single(scale))) * (1 - math.exp(_single(-1 / _single(scale)))))
        if chance < 1e-9:
            return chances, ends
        chances.append(chance)
        ends.append(ends[-1] + (m if level else 2 * m))


def _level(left: float, chances: list[float]) -> int:
    for level, chance in enumerate(chances):
        if left < chance:
            return level
        left -= chance
    return len(chances) - 1


def draw_level(chances: list[float], rng: RandomGenerator) -> int:
    """The level of one node."""
    return _level(rng.rand_float(), chances)


def draw_levels(n: int, chances: list[float], rng: RandomGenerator) -> Tensor:
    """The level of each of n nodes, the bottom being 0."""
    if n <= _FEW:
        return torch.tensor([_level(rng.rand_float(), chances) for _ in range(n)], dtype=torch.int32)
    words = torch.from_numpy(rng.raw(n).astype("int64"))
    left = words.float().double() / 4294967296.0
    levels = torch.full((n,), len(chances) - 1, dtype=torch.int32)
    drawing = torch.ones(n, dtype=torch.bool)
    for level, chance in enumerate(chances):
        levels[drawing & (left < chance)] = level
        drawing &= left >= chance
        left -= chance
    return levels


def insertion_order(levels: Tensor, first: int, lowest: int) -> tuple[Tensor, Tensor]:
    """The nodes `first` and on (their levels count from 1) in order of insertion, those of higher levels before; and where groups begin."""
    if levels.shape[0] == first + 1:  # nothing to shuffle, and a generator takes 400 us to make
        n = int(levels[first] > lowest)
        return torch.full((n,), first), torch.tensor([0, n])
    new = levels[first:].long() - 1
    rng, parts, ends = RandomGenerator(_ORDER_SEED), [torch.empty(0, dtype=torch.int64)], [0]
    for level in range(int(new.max()) if new.numel() else -1, lowest - 1, -1):
        nodes = (new == level).nonzero()[:, 0] + first
        n = nodes.shape[0]
        words = torch.from_numpy(rng.raw(n).astype("int64"))
        parts.append(nodes[swaps(words % torch.arange(n, 0, -1))])
        ends.append(ends[-1] + n)
    return torch.cat(parts), torch.tensor(ends)
