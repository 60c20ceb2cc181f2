"""Local search quantisation: codes by iterated local search, codebooks by least squares, with noise that dies down.

Codebooks are all of one size K; `table` is (M * K, d).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.additive import Codebooks
from tsscompat.algorithms.draws import Draws
from tsscompat.kernels.icm import icm


def in_order(x: Tensor) -> Tensor:
    """The sum of the rows, added one after another as FAISS adds them."""
    return torch.zeros_like(x[:1]).index_add_(0, torch.zeros(x.shape[0], dtype=torch.int64, device=x.device), x)[0]


def deviations(x: Tensor) -> Tensor:
    """The standard deviation of each dimension."""
    gaps = x - in_order(x) / x.shape[0]
    return (in_order(gaps * gaps) / x.shape[0]).sqrt()


def fitted(x: Tensor, places: Tensor, size: int, penalty: float, double: bool) -> Tensor:
    """The table (size, d) whose rows at `places` (n, M) add up to x as nearly as can be, by regularised least squares."""
    kind = torch.float64 if double else torch.float32
    together = (places[:, :, None] * size + places[:, None, :]).reshape(-1)
    counts = torch.bincount(together, minlength=size * size).view(size, size).to(kind)
    counts.diagonal().add_(torch.tensor(penalty, dtype=torch.float32).to(kind))
    sums = torch.zeros(size, x.shape[1], dtype=kind, device=x.device)
    sums.index_add_(0, places.reshape(-1), x.to(kind).repeat_interleave(places.shape[1], 0))
    return (torch.linalg.inv(counts) @ sums).float()


def noise(draws: Draws, rows: int, widths: Tensor) -> Tensor:
    """Normal noise (rows, d) with a deviation for each dimension; every dimension has a generator of its own, which makes two at a time."""
    now, later = draws.normals((rows + 1) // 2 * widths.shape[0])
    both = torch.stack([now.view(-1, widths.shape[0]), later.view(-1, widths.shape[0])], 1)
    return both.view(-1, widths.shape[0])[:rows].to(widths.device) * widths


def binary_terms(table: Tensor) -> Tensor:
    """Twice the inner products of all rows, (M * K, M * K)."""
    return 2 * (table @ table.t())


def unary_terms(x: Tensor, table: Tensor, parts: int) -> Tensor:
    """|c|^2 - 2 <x, c> for every row, (n, M, K)."""
    return torch.addmm(table.square().sum(1), x, table.t(), alpha=-2.0).view(x.shape[0], parts, table.shape[0] // parts)


def errors(x: Tensor, codes: Tensor, books: Codebooks) -> Tensor:
    """The squared distance of each vector to what its code stands for."""
    return (x - books.decode(codes)).square().sum(1)


def perturbed(codes: Tensor, draws: Draws, times: int, size: int) -> Tensor:
    """Codes of which some numbers, chosen at random, were replaced by random ones."""
    n, parts = codes.shape
    which, number = (t.view(n, times).to(codes.device) for t in draws.pairs(n * times, parts, size))
    codes, row = codes.clone(), torch.arange(n, device=codes.device)
    for j in range(times):
        codes[row, which[:, j]] = number[:, j].to(codes.dtype)
    return codes


def searched(
    codes: Tensor, x: Tensor, books: Codebooks, binaries: Tensor, draws: Draws, searches: int, rounds: int, times: int
) -> tuple[Tensor, Tensor]:
    """The best codes of some searches, each from the best so far with some numbers replaced; and their errors."""
    parts, size = len(books.nbits), 1 << books.nbits[0]
    unaries = unary_terms(x, books.table, parts)
    best = errors(x, codes, books)
    for _ in range(searches):
        found = icm(perturbed(codes, draws, times, size), unaries, binaries, rounds)
        left = errors(x, found, books)
        better = left < best
        codes, best = torch.where(better[:, None], found, codes), torch.where(better, left, best)
    return codes, best
