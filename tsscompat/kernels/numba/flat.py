"""Exhaustive search on the CPU.

Few queries: one pass over the rows, a query's distances term by term, rows shared out over the threads. More: blocks of matrix products
(MKL or oneDNN, whatever torch has), folded into a heap per query by compiled loops that skip groups of values without a candidate.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels import flat
from tsscompat.kernels.metrics import INNER_PRODUCT, L2, is_similarity
from tsscompat.kernels.numba import screen
from tsscompat.kernels.numba.addressed import address
from tsscompat.kernels.numba.ivf_heap import WORST, finish, sift, start_heap
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.lanes import best_four, grouped
from tsscompat.kernels.numba.metrics import dot, squared_l2
from tsscompat.kernels.numba.screen_codes import wins
from tsscompat.kernels.numba.select import select
from tsscompat.kernels.threads import max_threads, run_blocks

# Up to here the pass over the rows wins over a matrix product (200k x 128, 2 cores: 4 queries are level).
_FEW = 3
# Up to FAISS's switch to BLAS, at so many numbers in all queries, answers found by a product are scored again term by term, so that a
# distance of 0 is 0.
_EXACT_BELOW = 128_000
# Rows are moved to lie around 0 where the square of their mean is so many times their spread: |x|² + |y|² - 2xy loses as many digits.
_FAR = 16
# Up to so many dimensions the nearest of some rows is found without storing products: 100,000 x 32 against 1,024 takes 35 ms so, 160 by
# matrix products, 100 by integers; at 128 dimensions integers win.
_NARROW = 64
# A row of products for more than so many is no longer held whole.
_WIDE = 1 << 14
# From so many queries on the table is made into integers to screen it: that costs what 60 queries gain (200k x 128).
SCREENED = 100
_EMPTY = np.empty(0, dtype=np.bool_)
_NO_NORMS = np.empty(0, dtype=np.float32)


@jit
def _stream(x, y, ip, allowed, costs, labels, start, stop):
    """The best of rows start:stop for every query."""
    k = costs.shape[1]
    for q in range(x.shape[0]):
        start_heap(costs[q], labels[q], ip)
    masked = allowed.shape[0] > 0
    for r in range(start, stop):
        if masked and not allowed[r]:
            continue
        row = y[r]
        for q in range(x.shape[0]):
            cost = -dot(x[q], row) if ip else squared_l2(x[q], row)
            if cost < costs[q, 0]:
                sift(costs[q], labels[q], k, cost, ~r if ip else r)
    for q in range(x.shape[0]):
        finish(costs[q], labels[q], ip)


@jit
def start_heaps(costs, labels, ip):
    for q in range(costs.shape[0]):
        start_heap(costs[q], labels[q], ip)


@jit
def finish_heaps(costs, labels, ip, start, stop):
    for q in range(start, stop):
        finish(costs[q], labels[q], ip)


# The two functions below pass over most of all distances. They are functions of their own, with groups of a constant length, because
# LLVM then uses whole vectors: 0.3 ns a product in cache, where the same loops inlined into their callers took 1.8. Hits are counted in
# floats, so that all lanes work. NaN is no hit. What is left over at the end of a row is always looked at.


@jit
def _next_l2(products, squares, base, bar, g):
    """The first group of 64 from g on with a squared distance under the bar."""
    while g + 64 <= products.shape[0]:
        part, norms = products[g : g + 64], squares[g : g + 64]
        below = np.float32(0)
        for j in range(64):
            below += np.float32(1) if base + norms[j] - np.float32(2) * part[j] < bar else np.float32(0)
        if below > 0:
            return g
        g += 64
    return g


@jit
def _next_ip(products, bar, g):
    """The first group of 64 from g on with a product over the bar."""
    while g + 64 <= products.shape[0]:
        part = products[g : g + 64]
        over = np.float32(0)
        for j in range(64):
            over += np.float32(1) if part[j] > bar else np.float32(0)
        if over > 0:
            return g
        g += 64
    return g


@jit
def fold_tile(tile, ip, x_norms, y_norms, first, allowed, costs, labels, start, stop):
    """Enter a tile of products, for rows numbered from `first`, into the heaps of queries start:stop."""
    k, width = costs.shape[1], tile.shape[1]
    masked = allowed.shape[0] > 0
    squares = y_norms[0:0] if ip else y_norms[first : first + width]
    for q in range(start, stop):
        heap, names, row = costs[q], labels[q], tile[q]
        base = np.float32(0) if ip else x_norms[q]
        bar = heap[0]
        g = _next_ip(row, -bar, 0) if ip else _next_l2(row, squares, base, bar, 0)
        while g < width:
            for j in range(g, min(g + 64, width)):
                cost = -row[j] if ip else base + squares[j] - np.float32(2) * row[j]
                if cost < 0 and not ip:  # not by max(), which takes 0 for NaN
                    cost = np.float32(0)
                if cost < bar and not (masked and not allowed[first + j]):
                    r = first + j
                    sift(heap, names, k, cost, ~r if ip else r)
                    bar = heap[0]
            g = _next_ip(row, -bar, g + 64) if ip else _next_l2(row, squares, base, bar, g + 64)


@jit
def _score_again(x, y, ip, costs, labels, start, stop):
    """Distances of an answer term by term, and the answer in their order."""
    k = labels.shape[1]
    for q in range(start, stop):
        for i in range(k):
            r = labels[q, i]
            if r >= 0:
                costs[q, i] = -dot(x[q], y[r]) if ip else squared_l2(x[q], y[r])
                labels[q, i] = ~r if ip else r
            else:
                costs[q, i] = WORST
                labels[q, i] = 0 if ip else -1
        for end in range(k // 2 - 1, -1, -1):  # make a heap of what was sorted by nearly the same costs
            _down(costs[q], labels[q], end)
        finish(costs[q], labels[q], ip)


@jit
def _down(costs, labels, i):
    n, cost, label = costs.shape[0], costs[i], labels[i]
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and (
            costs[child + 1] > costs[child] or (costs[child + 1] == costs[child] and labels[child + 1] > labels[child])
        ):
            child += 1
        if cost > costs[child] or (cost == costs[child] and label > labels[child]):
            break
        costs[i], labels[i] = costs[child], labels[child]
        i = child
    costs[i], labels[i] = cost, label


@jit
def _closest(tile, ip, y_norms, x, costs, labels, start, stop):
    """The best column of each row of products; a row's own norm is only needed once that is known."""
    width, zero = tile.shape[1], np.float32(0)
    for q in range(start, stop):
        row, best, at = tile[q], WORST, -1
        g = 0
        while g < width:
            for j in range(g, min(g + 64, width)):
                cost = -row[j] if ip else y_norms[j] - np.float32(2) * row[j]
                if cost < best:
                    best, at = cost, j
            g = _next_ip(row, -best, g + 64) if ip else _next_l2(row, y_norms, zero, best, g + 64)
        labels[q] = at
        if at < 0:
            costs[q] = -WORST if ip else WORST
        else:
            costs[q] = -best if ip else max(zero, dot(x[q], x[q]) + best)


@jit
def _closest_narrow(x, table, ip, costs, labels, start, stop):
    """The best rows for start:stop of x, from products of four queries and a group of rows in registers; no product is ever stored."""
    d, zero, values, places = x.shape[1], np.float32(0), np.empty(4, np.float32), np.empty(4, np.int32)
    rows, tables, found, named = address(x), address(table), address(values), address(places)
    for q in range(start, stop, 4):
        # Behind the last query it is taken again.
        a, last = rows + 4 * q * d, 4 * d * (stop - 1 - q)
        b, c, e = a + min(4 * d, last), a + min(8 * d, last), a + min(12 * d, last)
        best_four(a, b, c, e, tables, d, table.shape[1], found, named)
        for i in range(min(4, stop - q)):
            norm, best = dot(x[q + i], x[q + i]), values[i]
            if best < WORST and (ip or norm < WORST):
                labels[q + i] = places[i]
                costs[q + i] = -best if ip else max(zero, norm + np.float32(2) * best)
            else:
                labels[q + i] = -1
                costs[q + i] = -WORST if ip else WORST


def _norms(y: Tensor, centre: Tensor | None = None) -> np.ndarray:
    out = torch.empty(y.shape[0])
    step = max(1, (1 << 20) // max(1, y.shape[1]))
    for i in range(0, y.shape[0], step):
        torch.sum(moved(y[i : i + step], centre).square(), 1, out=out[i : i + step])
    return out.numpy()


def centre_of(y: Tensor) -> Tensor | None:
    """Where rows lie, by 64 of them, if that is far from 0 compared with their spread; else None."""
    some = y[:: max(1, y.shape[0] // 64)]
    mean = some.mean(0)
    far, spread = mean.square().sum().item(), (some - mean).square().sum().item() / some.shape[0]
    return mean if math.isfinite(far) and far > _FAR * spread else None


def moved(x: Tensor, centre: Tensor | None) -> Tensor:
    return x if centre is None else x - centre


def _few(x: Tensor, y: Tensor, k: int, ip: bool, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    a, b = x.numpy(), y.numpy()
    nq, nb = a.shape[0], b.shape[0]
    if max_threads() == 1 or nb * nq * a.shape[1] < 1 << 18:
        costs, labels = np.empty((nq, k), dtype=np.float32), np.empty((nq, k), dtype=np.int64)
        _stream(a, b, ip, mask, costs, labels, 0, nb)
        return torch.from_numpy(costs), torch.from_numpy(labels)
    parts: list[tuple[int, np.ndarray, np.ndarray]] = []
    lock = threading.Lock()

    def work(start: int, stop: int) -> None:
        costs, labels = np.empty((nq, k), dtype=np.float32), np.empty((nq, k), dtype=np.int64)
        _stream(a, b, ip, mask, costs, labels, start, stop)
        with lock:
            parts.append((start, costs, labels))

    run_blocks(work, nb, 1 << 13)
    parts.sort(key=lambda part: part[0])
    all_costs, all_labels = np.concatenate([p[1] for p in parts], 1), np.concatenate([p[2] for p in parts], 1)
    return select(torch.from_numpy(all_costs), torch.from_numpy(all_labels), k, ip)


def knn(
    x: Tensor, y: Tensor, k: int, metric: int, metric_arg: float = 0.0, allowed: Tensor | None = None, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if metric not in (INNER_PRODUCT, L2) or y.shape[0] == 0 or x.shape[0] == 0:
        return NotImplemented
    ip, mask = is_similarity(metric), _EMPTY if allowed is None else allowed.contiguous().numpy()
    x, y = x.contiguous(), y.contiguous()
    nq, nb = x.shape[0], y.shape[0]
    if nq <= _FEW:
        return _few(x, y, k, ip, mask)
    costs, labels = np.empty((nq, k), dtype=np.float32), np.empty((nq, k), dtype=np.int64)
    start_heaps(costs, labels, ip)
    done = screen.knn(x, y, ip, mask, costs, labels) if nq >= SCREENED and nb >= screen.ROWS and wins() else 0
    if done < nb:
        _fold_products(x, y, ip, mask, costs, labels, norms, done)
    run_blocks(lambda s, e: finish_heaps(costs, labels, ip, s, e), nq, max(1, 4096 // k))
    if done < nb and x.numel() < _EXACT_BELOW:
        _score_all_again(x, y, ip, costs, labels)
    return torch.from_numpy(costs), torch.from_numpy(labels)


def _score_all_again(x: Tensor, y: Tensor, ip: bool, costs: np.ndarray, labels: np.ndarray) -> None:
    a, b = x.numpy(), y.numpy()
    run_blocks(lambda s, e: _score_again(a, b, ip, costs, labels, s, e), len(a), max(1, (1 << 16) // labels.size * len(a)))


def _fold_products(
    x: Tensor,
    y: Tensor,
    ip: bool,
    mask: np.ndarray,
    costs: np.ndarray,
    labels: np.ndarray,
    norms: Tensor | None,
    done: int,
) -> None:
    """Enter the rows of y from `done` on into the heaps, by matrix products."""
    nq, nb = x.shape[0], y.shape[0]
    centre = None if ip else centre_of(y)
    y_norms = _NO_NORMS if ip else (norms.numpy() if norms is not None and centre is None else _norms(y, centre))
    x_norms = _NO_NORMS if ip else _norms(x, centre)
    # A tile of products stays in the last cache: 512 x 8192 floats at most; of a small table, such as centroids, in the second one.
    q_step = min(nq, 512 if nb > 4096 else 256)
    b_step = min(nb, max(1024, (1 << 22) // q_step & ~31))
    buffer = torch.empty(q_step * b_step)
    for q in range(0, nq, q_step):
        block = moved(x[q : q + q_step], centre)
        n = block.shape[0]
        held = costs[q : q + n], labels[q : q + n], x_norms[q : q + n]
        for b in range(done, nb, b_step):
            part = moved(y[b : b + b_step], centre)
            tile = buffer[: n * part.shape[0]].view(n, part.shape[0])
            torch.mm(block, part.t(), out=tile)
            values, first = tile.numpy(), b
            fold = lambda s, e: fold_tile(values, ip, held[2], y_norms, first, mask, held[0], held[1], s, e)  # noqa: E731
            run_blocks(fold, n, max(1, (1 << 16) // part.shape[0]))


def within(
    x: Tensor,
    y: Tensor,
    radius: float,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    centre = centre_of(y) if metric == L2 and min(len(x), len(y)) else None
    if centre is None:
        return NotImplemented
    found: tuple[Tensor, Tensor, Tensor] = flat.within.definition(x - centre, y - centre, radius, metric, metric_arg, allowed)
    return found


def nearest(x: Tensor, y: Tensor, metric: int = L2) -> tuple[Tensor, Tensor]:
    if metric not in (INNER_PRODUCT, L2) or y.shape[0] == 0 or x.shape[0] == 0:
        return NotImplemented
    ip = metric == INNER_PRODUCT
    n, k = x.shape[0], y.shape[0]
    if k > _WIDE:
        distances, found = knn(x, y, 1, metric)
        return distances[:, 0], found[:, 0]
    x, y = x.contiguous(), y.contiguous()
    costs, labels = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int64)
    narrow = x.shape[1] <= _NARROW
    done = screen.nearest(x, y, ip, costs, labels) if not narrow and min(n, k) >= SCREENED and wins() else 0
    if done < n:
        centre = None if ip else centre_of(y)
        (_nearest_narrow if narrow else _nearest_wide)(x, moved(y, centre), centre, ip, costs, labels, done)
        if x.numel() < _EXACT_BELOW:
            _score_all_again(x, y, ip, costs[:, None], labels[:, None])
    return torch.from_numpy(costs), torch.from_numpy(labels)


def _nearest_narrow(
    x: Tensor, y: Tensor, centre: Tensor | None, ip: bool, costs: np.ndarray, labels: np.ndarray, done: int
) -> None:
    """The nearest rows of y, which was moved already, for the rows of x from `done` on."""
    table = grouped(y.numpy()[None], np.zeros((1, y.shape[0]), dtype=np.float32) if ip else _norms(y)[None] / 2)
    step = x.shape[0] if centre is None else max(1, (1 << 22) // x.shape[1])
    for i in range(done, x.shape[0], step):
        given = moved(x[i : i + step], centre).numpy(), table, ip, costs[i : i + step], labels[i : i + step]
        run_blocks(lambda s, e: _closest_narrow(*given, s, e), len(given[0]), max(4, (1 << 20) // max(1, y.numel())))  # noqa: B023


def _nearest_wide(
    x: Tensor, y: Tensor, centre: Tensor | None, ip: bool, costs: np.ndarray, labels: np.ndarray, done: int
) -> None:
    """The same by matrix products."""
    n, k = x.shape[0], y.shape[0]
    y_norms, transposed = _NO_NORMS if ip else _norms(y), y.t()
    step = max(16, (1 << 21) // k)
    buffer = torch.empty(min(step, n) * k)
    for i in range(done, n, step):
        block = moved(x[i : i + step], centre)
        m = block.shape[0]
        tile = buffer[: m * k].view(m, k)
        torch.mm(block, transposed, out=tile)
        held = tile.numpy(), ip, y_norms, block.numpy(), costs[i : i + m], labels[i : i + m]
        run_blocks(lambda s, e: _closest(*held, s, e), m, max(1, (1 << 15) // k))


@jit
def _named(x, y, labels, ip, out, start, stop):
    for q in range(start, stop):
        row = x[q]
        for j in range(labels.shape[1]):
            r = labels[q, j]
            if r < 0:
                out[q, j] = -WORST if ip else WORST
            elif ip:
                out[q, j] = dot(row, y[r])
            else:
                out[q, j] = squared_l2(row, y[r])


def named_distances(x: Tensor, y: Tensor, labels: Tensor, metric: int, metric_arg: float = 0.0) -> Tensor:
    if metric not in (INNER_PRODUCT, L2):
        return NotImplemented
    a, b, names = x.contiguous().numpy(), y.contiguous().numpy(), labels.contiguous().numpy()
    out = np.empty(names.shape, dtype=np.float32)
    grain = max(1, (1 << 17) // max(1, names.shape[1] * a.shape[1]))
    run_blocks(lambda s, e: _named(a, b, names, metric == INNER_PRODUCT, out, s, e), a.shape[0], grain)
    return torch.from_numpy(out)
