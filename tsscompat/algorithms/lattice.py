"""Codes of whole-numbered points on a sphere: which atoms there are, how many points, and the numbers of permuted atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Counts are 64-bit words that wrap.
WORD = 1 << 64


def atoms(total: int, most: int, n: int) -> list[list[int]]:
    """All falling lists of n whole numbers from 0 to `most` whose squares add up to a total, the greatest first."""
    if n == 1:
        root = math.isqrt(total)
        return [[root]] if root * root == total and root <= most else []
    first = min(most, math.isqrt(total))
    return [[v, *rest] for v in range(first, -1, -1) if n * v * v >= total for rest in atoms(total - v * v, v, n - 1)]


def n_atoms(total: int, n: int) -> int:
    """How many there are with `most` = total."""
    # By sum and numbers that are not 0.
    ways = [[0] * (n + 1) for _ in range(total + 1)]
    ways[0][0] = 1
    for root in range(1, math.isqrt(total) + 1):
        for r in range(root * root, total + 1):
            for used in range(1, n + 1):
                ways[r][used] += ways[r - root * root][used - 1]
    return sum(ways[total])


def counts_of(log2_d: int, square: int) -> tuple[Tensor, Tensor]:
    """The tables of kernels/lattice.py for dimensions up to 2^log2_d and squared norms up to `square`."""
    counts = torch.zeros(log2_d + 1, square + 1, dtype=torch.int64)
    before = torch.zeros(log2_d + 1, square + 1, square + 1, dtype=torch.int64)
    counts[0, [r * r for r in range(math.isqrt(square) + 1)]] = 2
    counts[0, 0] = 1
    for level in range(1, log2_d + 1):
        below = counts[level - 1]
        for r in range(square + 1):
            sums = (below[: r + 1] * below[: r + 1].flip(0)).cumsum(0)
            before[level, r, 1 : r + 1], counts[level, r] = sums[:-1], sums[-1]
    return counts, before


def permutations(repeats: Sequence[tuple[float, int]]) -> int:
    """How many lists there are with these values, each so many times."""
    left, total = sum(n for _, n in repeats), 1
    for _, n in repeats:
        total *= math.comb(left, n)
        left -= n
    return total % WORD


def number_of(values: Sequence[float], repeats: Sequence[tuple[float, int]]) -> int:
    """The number of a list among those with these values: for each value in turn, which of the places left it has."""
    left, code, shift = list(values), 0, 1
    for value, n in repeats:
        places = [i for i, v in enumerate(left) if v == value][:n]
        code += shift * sum(math.comb(place, i + 1) for i, place in enumerate(places))
        shift *= math.comb(len(left), n)
        left = [v for i, v in enumerate(left) if i not in places]
    return code % WORD


def list_of(code: int, repeats: Sequence[tuple[float, int]]) -> list[float]:
    """The list that has a number among those with these values."""
    free = list(range(sum(n for _, n in repeats)))
    values = [0.0] * len(free)
    for value, n in repeats:
        code, here = divmod(code, math.comb(len(free), n))
        place, taken = len(free), []
        for left in range(n, 0, -1):
            while math.comb(place, left) > here:
                place -= 1
            here -= math.comb(place, left)
            taken.append(free[place])
        for i in taken:
            values[i] = value
        free = [i for i in free if i not in taken]
    return values


def pack_words(words: Tensor, widths: Sequence[int]) -> Tensor:
    """Rows of words (n, m) as bits, word j taking widths[j] of them, in whole bytes."""
    bits = torch.cat([word[:, None] >> torch.arange(w, device=words.device) & 1 for word, w in zip(words.t(), widths)], 1)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).view(words.shape[0], (bits.shape[1] + 7) // 8, 8)
    return (bits << torch.arange(8, device=words.device)).sum(2).to(torch.uint8)


def unpack_words(codes: Tensor, widths: Sequence[int]) -> Tensor:
    """The words of rows of bytes."""
    bits = (codes[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=codes.device) & 1).flatten(1).to(torch.int64)
    words, start = [], 0
    for w in widths:
        words.append((bits[:, start : start + w] << torch.arange(w, device=codes.device)).sum(1))
        start += w
    return torch.stack(words, 1)
