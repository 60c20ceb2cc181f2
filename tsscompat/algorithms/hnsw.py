"""Levels and order of insertion of an HNSW graph, as FAISS draws them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator

# FAISS shuffles the nodes of a level with a generator of its own.
_ORDER_SEED = 789


def probabilities(m: int) -> tuple[list[float], list[int]]:
    """How likely each level is, and how many neighbours a node has up to each level: 2 m at the bottom, m above."""
    scale = 1.0 / math.log(m)
    chances: list[float] = []
    ends = [0]
    while True:
        level = len(chances)
        chance = math.exp(-level / scale) * (1 - math.exp(-1 / scale))
        if chance < 1e-9:
            return chances, ends
        chances.append(chance)
        ends.append(ends[-1] + (m if level else 2 * m))


def draw_levels(n: int, chances: list[float], rng: RandomGenerator) -> Tensor:
    """The level of each of n nodes, the bottom being 0."""
    levels = []
    for _ in range(n):
        f, drawn = rng.rand_float(), len(chances) - 1
        for level, chance in enumerate(chances):
            if f < chance:
                drawn = level
                break
            f -= chance
        levels.append(drawn)
    return torch.tensor(levels, dtype=torch.int32)


def insertion_order(levels: Tensor, first: int, lowest: int) -> tuple[Tensor, Tensor]:
    """The nodes `first` and on (their levels count from 1) in order of insertion, those of higher levels before; and where groups begin."""
    new = levels[first:].long() - 1
    rng, parts, ends = RandomGenerator(_ORDER_SEED), [torch.empty(0, dtype=torch.int64)], [0]
    for level in range(int(new.max()) if new.numel() else -1, lowest - 1, -1):
        nodes = ((new == level).nonzero()[:, 0] + first).tolist()
        for j in range(len(nodes)):
            other = j + rng.rand_int(len(nodes) - j)
            nodes[j], nodes[other] = nodes[other], nodes[j]
        parts.append(torch.tensor(nodes, dtype=torch.int64))
        ends.append(ends[-1] + len(nodes))
    return torch.cat(parts), torch.tensor(ends)
