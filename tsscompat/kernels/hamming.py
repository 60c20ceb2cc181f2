"""Distances between binary codes: bits (or whole bytes) that differ; the nearest codes, in a table or in inverted lists.

Distances are int32; missing results have id -1 and the largest int32. Of equal distances, those that come first in a scan stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.ivf_lists import Ragged, runs

Top = tuple[Tensor, Tensor, tuple[int, int, int]]
Range = tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]

WORST = 2**31 - 1
# A distance and a place in one word, distance first: less than 2^24 bits, 2^38 places; and what is more than all those.
PLACE_BITS = 38
MISSING = 1 << 62
FAR = MISSING >> PLACE_BITS
# Distances, or bits of rows, are held in blocks of about this many.
_BLOCK = 1 << 24


def bits_of(codes: Tensor) -> Tensor:
    """The bits of codes, lowest of a byte first, as float32 zeros and ones: (n, 8 * bytes)."""
    shifts = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return (codes[:, :, None] >> shifts & 1).flatten(1).float()


@accelerated
def hamming(x: Tensor, y: Tensor, whole_bytes: bool = False) -> Tensor:
    """How many bits (or, `whole_bytes`, bytes) differ between each row of x and each of y: (nx, ny) int32."""
    out = torch.zeros(x.shape[0], y.shape[0], dtype=torch.int32, device=x.device)
    if whole_bytes:
        for byte in range(x.shape[1]):
            out += x[:, byte, None] != y[None, :, byte]
        return out
    # |a| + |b| - 2 ab: whole numbers that float32 holds exactly.
    a = bits_of(x)
    step = max(1, _BLOCK // max(1, 8 * y.shape[1]))
    for start in range(0, y.shape[0], step):
        b = bits_of(y[start : start + step])
        out[:, start : start + step] = a.sum(1)[:, None] + b.sum(1) - 2 * (a @ b.T)
    return out


def unpacked(words: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and places of words, those beyond all real ones missing."""
    missing = words >= MISSING
    distances = torch.where(missing, WORST, words >> PLACE_BITS).int()
    return distances, torch.where(missing, -1, words & ((1 << PLACE_BITS) - 1))


@accelerated
def knn(x: Any, y: Any, k: int, whole_bytes: bool = False, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k rows of y nearest to each row of x, ties in order of row; `allowed`: a bool for each row of y."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    nq, nb = x.shape[0], y.shape[0]
    best = torch.full((nq, k), MISSING, dtype=torch.int64, device=x.device)
    step = max(1, _BLOCK // max(1, nq))
    for start in range(0, nb, step):
        stop = min(start + step, nb)
        words = hamming(x, y[start:stop], whole_bytes).long() << PLACE_BITS | torch.arange(start, stop, device=x.device)
        if allowed is not None:
            words = words.masked_fill(~allowed[start:stop], MISSING)
        best = torch.cat([best, words], 1).topk(k, dim=1, largest=False, sorted=True).values
    return unpacked(best)


def _pair_distances(x: Tensor, query: Tensor, codes: Tensor) -> Tensor:
    """Distances between x[query] and codes, row by row."""
    parts = [torch.empty(0, dtype=torch.int32, device=x.device)]
    step = max(1, _BLOCK // max(1, 8 * x.shape[1]))
    for start in range(0, query.shape[0], step):
        differing = x[query[start : start + step]] ^ codes[start : start + step]
        parts.append(bits_of(differing).sum(1).int())
    return torch.cat(parts)


def _entries(lists: Ragged, keys: Tensor, allowed: Tensor | None, limits: Tensor | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """Rows of the arena in the order of the scan, the query and the list of each, and how many lists there were."""
    known = keys.clamp(min=0)
    sizes = torch.where(keys >= 0, lists.sizes[known] if lists.nlist else known, 0)
    if limits is not None:
        sizes = torch.minimum(sizes, limits)
    starts = lists.offsets[known] if lists.nlist else known
    rows, pair = runs(starts.reshape(-1), sizes.reshape(-1))
    if allowed is not None:
        rows, pair = rows[allowed[rows]], pair[allowed[rows]]
    return rows, pair // max(1, keys.shape[1]), known.reshape(-1)[pair], int((sizes > 0).sum())


def _labels(lists: Ragged, rows: Tensor, list_nos: Tensor, pairs: bool) -> Tensor:
    return list_nos << 32 | (rows - lists.offsets[list_nos]) if pairs else lists.ids[rows]


@accelerated
def scan(
    x: Tensor, lists: Ragged, keys: Tensor, k: int, limits: Tensor | None = None, pairs: bool = False, by_arrival: bool = False
) -> Top:
    """The k nearest entries of the lists `keys` (nq, nprobe; -1: none), and counts: lists visited, codes scored, results that entered.

    `limits` (nq, nprobe): how many of each list's first entries count. A label is the entry's id or, with `pairs`, list << 32 | position.
    Ties are given in order of label or, `by_arrival`, in the order of the scan. Of those at the end of an answer in order of label a twin
    keeps what FAISS's heap keeps: when a nearer one comes, the one of the largest label goes.
    """
    rows, query, list_nos, visited = _entries(lists, keys, None, limits)
    values = _pair_distances(x, query, lists.codes[rows])
    counts = torch.bincount(query, minlength=x.shape[0])
    rank = torch.arange(rows.shape[0], device=x.device) - (counts.cumsum(0) - counts)[query]
    table = torch.full((x.shape[0], k + int(counts.max() if counts.numel() else 0)), MISSING, dtype=torch.int64, device=x.device)
    table[query, rank] = values.long() << PLACE_BITS | torch.arange(rows.shape[0], device=x.device)
    distances, at = unpacked(table.sort(dim=1).values[:, :k])
    found = _labels(lists, rows, list_nos, pairs) if rows.shape[0] else rows.new_full((1,), -1)
    labels = torch.where(at >= 0, found[at.clamp(min=0)], -1)
    if not by_arrival:
        order = labels.sort(dim=1, stable=True).indices
        order = order.gather(1, distances.gather(1, order).sort(dim=1, stable=True).indices)
        distances, labels = distances.gather(1, order), labels.gather(1, order)
    return distances, labels, (visited, rows.shape[0], int((labels >= 0).sum()))


@accelerated
def within(x: Tensor, lists: Ragged, keys: Tensor, radius: int, allowed: Tensor | None = None, pairs: bool = False) -> Range:
    """All entries of the lists `keys` nearer than a radius, in the order of the scan: limits, distances, labels, counts."""
    rows, query, list_nos, visited = _entries(lists, keys, allowed, None)
    values = _pair_distances(x, query, lists.codes[rows])
    near = values < radius
    hits = torch.bincount(query[near], minlength=x.shape[0])
    lims = torch.cat([hits.new_zeros(1), hits.cumsum(0)])
    return lims, values[near], _labels(lists, rows[near], list_nos[near], pairs), (visited, rows.shape[0], int(lims[-1]))


@accelerated
def search_lists(x: Tensor, centers: Tensor, nprobe: int, lists: Ragged, k: int) -> Top:
    """`scan` of the lists whose centers are nearest to each query; on a CPU twins take an array too, and answer in arrays then."""
    x = torch.as_tensor(x)
    return scan(x, lists, knn(x, centers, nprobe)[1], k)
