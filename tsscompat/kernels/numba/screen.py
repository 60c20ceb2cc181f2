"""Exact search screened by 8-bit integers: three to four times as many products a second as in float32 where the CPU has VNNI or alike.

A vector is x = s c + e, with integers c in [-127, 127] and a remainder e that is kept as its length. Then

    |<x, y> - s_x s_y <c_x, c_y>| = |<s_x c_x, e_y> + <e_x, y>| <= |s_x c_x| |e_y| + |e_x| |y|,

where <c_x, c_y> is exact. A row that may be among the best by this bound is scored in float32, so the answer is that of float32; the
others, nearly all, never are. Where the bound does not hold or closes too seldom, the caller goes on with products in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.addressed import address, minus_dot_at, prefetch_at, squared_l2_at
from tsscompat.kernels.numba.ivf_heap import WORST, sift
from tsscompat.kernels.numba.jit import inline, jit
from tsscompat.kernels.numba.lanes import greatest, lowest, over, peaks
from tsscompat.kernels.numba.screen_codes import Codes, quantize
from tsscompat.kernels.threads import max_threads, run_blocks

F = np.float32
# What a float32 distance and the test against the bound may be off by, relative to the squared norms: 64 partial sums of 64 terms each
# come to that, 128 terms to a thirtieth. What 8 bits leave over is a thousand times as much, so it costs nothing to be generous.
_ROUNDING = F(4e-6)
# With few dimensions nothing is gained, and torch's integer product of one (torch 2.13) is wrong.
_LEAST = 16
# From so many results on it pays to guess what they will cost.
_GUESSED = 32
# A tile of products, of so many queries and rows, stays in a core's second-level cache.
_QUERIES, ROWS = 256, 1024
# Bytes of the table's codes that are made at a time.
_CHUNK = 1 << 21


@inline
def _limit(ip, square, cost, inverse):
    """What a value has to be over, in units of the query's scale, for a cost below this one."""
    if ip:
        return (-cost - _ROUNDING * abs(cost)) * inverse
    return (F(0.5) * (square - cost) - _ROUNDING * (square + cost)) * inverse


@inline
def _enter(ip, query, place, d, heap, names, r):
    """Score a row, and enter it into a query's heap where it is good enough."""
    cost = minus_dot_at(query, place, d) if ip else squared_l2_at(query, place, d)
    if cost < heap[0]:
        sift(heap, names, heap.shape[0], cost, ~r if ip else r)


@jit
def fold(products, ip, x, inverse, x_norms, floors, y, scale, slack, half, first, costs, labels):
    """Enter the rows of y, numbered from `first`, into the heaps of the queries x; returns how many were scored.

    Rows whose values are not over floors[q] may be left out.
    """
    width, d, scored, one, none = products.shape[1], x.shape[1], 0, np.uint64(1), np.int64(-1)
    scales, slacks, halves, vectors, lines = address(scale), address(slack), address(half), address(y), min(4 * d, 512)
    for q in range(x.shape[0]):
        heap, names, inv, query, floor, held = costs[q], labels[q], inverse[q], address(x) + 4 * d * q, floors[q], none
        row, square = address(products) + 4 * width * q, x_norms[q] * x_norms[q]
        bar = max(floor, _limit(ip, square, heap[0], inv))
        for g in range(0, width, 64):
            hits = over(row, scales, slacks, halves, g, inv, bar)
            while hits:
                j = g + lowest(hits)
                hits &= hits - one
                # Each is scored when the next is found: its vector is seldom in the first caches, and has arrived by then.
                for line in range(0, lines, 64):
                    prefetch_at(vectors + 4 * d * j + line)
                if held >= 0:
                    _enter(ip, query, vectors + 4 * d * held, d, heap, names, first + held)
                    bar = max(floor, _limit(ip, square, heap[0], inv))
                held = j
                scored += 1
        if held >= 0:
            _enter(ip, query, vectors + 4 * d * held, d, heap, names, first + held)
    return scored


@jit
def bests(products, inverse, scale, half, first, out):
    """Write for each query the greatest values in groups of the rows from `first` on: every 16th of 256 rows is a group."""
    scales, halves = address(scale), address(half)
    for q in range(products.shape[0]):
        row, own = address(products) + 4 * products.shape[1] * q, address(out) + 4 * (out.shape[1] * q + first // 16)
        for g in range(0, scale.shape[0], 256):
            some = 4 * g
            peaks(row + some, scales + some, halves + some, min(256, scale.shape[0] - g), inverse[q], own + some // 16)


@jit
def too_low(ip, costs, inverse, x_norms, floors):
    """Whether rows that were left out for their values may be among the best."""
    out = np.empty(costs.shape[0], np.bool_)
    for q in range(costs.shape[0]):
        out[q] = _limit(ip, x_norms[q] * x_norms[q], costs[q, 0], inverse[q]) < floors[q]
    return out


@jit
def closest(products, ip, x, x_scales, x_errors, x_norms, y, scale, error, norm, half, longest, slack, costs, labels):
    """The best row of y for each row of x; returns how many were scored. `slack` is room to work in."""
    k, width, d, scored, one, reach, loss = y.shape[0], scale.shape[0], x.shape[1], 0, np.uint64(1), F(0), F(0)
    for q in range(x.shape[0]):
        reach = max(reach, (x_norms[q] + x_errors[q]) / x_scales[q])
        loss = max(loss, x_errors[q] / x_scales[q])
    for j in range(width):
        slack[j] = reach * error[j] + loss * norm[j]
    scales, slacks, halves, vectors = address(scale), address(slack), address(half), address(y)
    for q in range(x.shape[0]):
        inv, query, row, best, at = F(1) / x_scales[q], address(x) + 4 * d * q, address(products) + 4 * k * q, WORST, np.int64(-1)
        # Whatever is the best in float32 cannot have a value plus slack below the greatest value less slack.
        bar = greatest(row, scales, slacks, halves, width, inv)
        bar -= F(1e-6) * abs(bar) + F(8) * _ROUNDING * (x_norms[q] * x_norms[q] + longest) * inv
        for g in range(0, width, 64):
            hits = over(row, scales, slacks, halves, g, inv, bar)
            while hits:
                j = g + lowest(hits)
                hits &= hits - one
                place = vectors + 4 * d * j
                cost = minus_dot_at(query, place, d) if ip else squared_l2_at(query, place, d)
                scored += 1
                if cost < best:
                    best, at = cost, j
        labels[q] = at
        costs[q] = -best if ip else best
    return scored


@dataclass
class _Table:
    """Rows that are screened: codes, vectors, and what the tests need of each, filled up to groups of 64 by rows that are never hit."""

    codes: Tensor
    vectors: np.ndarray
    scale: np.ndarray
    slack: np.ndarray
    half: np.ndarray

    def part(self, start: int, n: int) -> _Table:
        some, wide = slice(start, start + n), slice(start, start + n + -n % 64)
        return _Table(self.codes[some], self.vectors[some], self.scale[wide], self.slack[wide], self.half[wide])


def _filled(values: np.ndarray, value: float) -> np.ndarray:
    return np.concatenate([values, np.full(-len(values) % 64, value, dtype=np.float32)])


def _half(made: Codes, ip: bool) -> np.ndarray:
    """Half of the squared norms, a little less for rounding; none for inner products."""
    return np.zeros_like(made.norm) if ip else made.norm * made.norm * (F(0.5) - F(2) * _ROUNDING)


def _table(y: Tensor, made: Codes, asked: Codes, ip: bool, mask: np.ndarray) -> _Table:
    # In units of the scale, the longest query without its remainder, and the longest remainder.
    reach, loss = F(((asked.norm + asked.error) / asked.scale).max()), F((asked.error / asked.scale).max())
    half = _half(made, ip)
    if mask.shape[0]:
        half[~mask] = np.inf
    slack = reach * made.error + loss * made.norm
    return _Table(made.codes, y.numpy(), _filled(made.scale, 0), _filled(slack, 0), _filled(half, np.inf))


def empty_heaps(nq: int, k: int, ip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Costs and labels of heaps without an entry."""
    return np.full((nq, k), WORST), np.full((nq, k), 0 if ip else -1, dtype=np.int64)


class Screen:
    """Queries whose heaps are filled, table by table."""

    def __init__(self, x: Tensor, ip: bool, costs: np.ndarray, labels: np.ndarray) -> None:
        self.x, self.ip, self.costs, self.labels = x.numpy(), ip, costs, labels
        self.asked = quantize(x)
        self.inverse, self.scored = 1 / self.asked.scale, [0]
        self.floors = np.full(x.shape[0], -np.inf, dtype=np.float32)
        self._rooms: list[Tensor] = []

    def _make_rooms(self, n: int) -> None:
        """A room for a tile for each thread, made here: allocators keep what threads of a pool give back, for these threads alone."""
        if not self._rooms or self._rooms[0].numel() < n:
            self._rooms = [torch.empty(n, dtype=torch.int32) for _ in range(max_threads())]

    def _visit(self, whole: _Table, visit: Callable[[slice, int, np.ndarray, _Table], None]) -> None:
        """Call visit(queries, first row, products, rows) for all tiles of a table."""
        nq, n = self.x.shape[0], whole.codes.shape[0]
        # Few rows, such as centroids, are gone over as fast by few queries at a time, whose tile is not larger than all the rest.
        together = _QUERIES if n > ROWS else _QUERIES // 4
        self._make_rooms(together * ROWS + 64)

        def work(start: int, stop: int) -> None:
            try:
                buffer = self._rooms.pop()
            except IndexError:  # the number of threads has been raised since
                buffer = torch.empty(together * ROWS + 64, dtype=torch.int32)
            for q in range(start, stop, together):
                own = slice(q, min(q + together, stop))
                codes = self.asked.codes[own]
                for r in range(0, n, ROWS):
                    part = whole.part(r, min(ROWS, n - r))
                    tile = buffer[: codes.shape[0] * part.codes.shape[0]].view(codes.shape[0], -1)
                    torch._int_mm(codes, part.codes.t(), out=tile)
                    visit(own, r, tile.numpy(), part)
            self._rooms.append(buffer)

        run_blocks(work, nq, min(_QUERIES, max(32, nq // (2 * max_threads()))), single=True)

    def expect(self, sample: Tensor, mask: np.ndarray, n: int) -> None:
        """Guess from a sample of n rows that are to come what values the best k have at least.

        From the first row on then only about 4 k rows are scored, of which half enter the heap; of 2,000 k rows it is 12 k and 9 k else.
        """
        if not self.asked.sound or sample.shape[1] < _LEAST:
            return
        made = quantize(sample)
        if not made.sound:
            return
        share = sample.shape[0] * self.costs.shape[1] / n
        # More than so many of the best k are in the sample once in a hundred thousand times. Two of them in one group count once.
        r = int(share + 4.5 * share**0.5 + 4)
        groups = np.full((self.x.shape[0], -(-sample.shape[0] // 256) * 16), -np.inf, dtype=np.float32)

        def visit(own: slice, first: int, tile: np.ndarray, part: _Table) -> None:
            bests(tile, self.inverse[own], part.scale, part.half, first, groups[own])

        self._visit(_table(sample, made, self.asked, self.ip, mask), visit)
        run_blocks(lambda a, b: groups[a:b].partition(groups.shape[1] - r, axis=1), groups.shape[0], 64)
        self.floors = groups[:, groups.shape[1] - r].copy()

    def enter(self, y: Tensor, first: int, mask: np.ndarray) -> bool:
        """Enter the rows of y, numbered from `first`; whether that was done: not where the bound does not hold or does not pay."""
        nq, k = self.x.shape[0], self.costs.shape[1]
        if not self.asked.sound or y.shape[1] < _LEAST or sum(self.scored) > nq * (8 * k + 256 + first // 32):
            return False
        made = quantize(y)
        if not made.sound:
            return False

        def visit(own: slice, start: int, tile: np.ndarray, part: _Table) -> None:
            given = self.ip, self.x[own], self.inverse[own], self.asked.norm[own], self.floors[own]
            about = part.vectors, part.scale, part.slack, part.half, first + start
            self.scored.append(fold(tile, *given, *about, self.costs[own], self.labels[own]))

        self._visit(_table(y, made, self.asked, self.ip, mask), visit)
        return True

    def fill(self, n: int, enter_all: Callable[[Screen], int]) -> int:
        """Enter n rows, those again whose queries' guess was too low; returns how many were, from the first on.

        `enter_all` enters as many as it can into a screen.
        """
        done = enter_all(self)
        missed = np.flatnonzero(too_low(self.ip, self.costs, self.inverse, self.asked.norm, self.floors))
        if not missed.size:
            return done
        if done == n:
            costs, labels = empty_heaps(missed.size, self.costs.shape[1], self.ip)
            done = enter_all(Screen(torch.from_numpy(self.x[missed]), self.ip, costs, labels))
            if done == n:
                self.costs[missed], self.labels[missed] = costs, labels
                return n
        self.costs[:], self.labels[:] = empty_heaps(self.costs.shape[0], self.costs.shape[1], self.ip)
        return 0


def sampled(n: int, k: int) -> np.ndarray | None:
    """Rows to guess from what the k best of n rows will cost; None where a heap is filled as fast without a guess."""
    m = max(4096, 4 * n // k)
    if k < _GUESSED or n < 8 * m:
        return None
    # One out of each of m parts, so that neither order nor period of the rows matters.
    begins = np.arange(m) * (n // m)
    return begins + np.random.default_rng(m).integers(0, n // m, m)


def chunk_rows(d: int) -> int:
    """How many rows to enter at a time."""
    return max(ROWS, _CHUNK // max(1, d) // ROWS * ROWS)


def knn(x: Tensor, y: Tensor, ip: bool, mask: np.ndarray, costs: np.ndarray, labels: np.ndarray) -> int:
    """Enter rows of y into the heaps of all queries; returns how many were, from the first on: not all where it does not pay."""
    step, n = chunk_rows(x.shape[1]), y.shape[0]

    def enter_all(screen: Screen) -> int:
        for b in range(0, n, step):
            if not screen.enter(y[b : b + step], b, mask[b : b + step]):
                return b
        return n

    screen, rows = Screen(x, ip, costs, labels), sampled(n, costs.shape[1])
    if rows is not None:
        screen.expect(y[rows], mask[rows] if mask.shape[0] else mask, n)
    return screen.fill(n, enter_all)


def nearest(x: Tensor, y: Tensor, ip: bool, costs: np.ndarray, labels: np.ndarray) -> int:
    """Find the best row of y for rows of x; returns for how many, from the first on."""
    n, k = x.shape[0], y.shape[0]
    made = quantize(y)
    if not made.sound or x.shape[1] < _LEAST:
        return 0
    rows, longest = x.numpy(), F(made.norm.max()) ** 2
    filled = _filled(made.scale, 0), _filled(made.error, 0), _filled(made.norm, 0), _filled(_half(made, ip), np.inf)
    transposed, step = made.codes.t(), max(32, (1 << 18) // k)
    scored, stopped = [0], [n]

    def work(start: int, stop: int) -> None:
        buffer, slack = torch.empty(min(step, stop - start) * k + 64, dtype=torch.int32), np.empty_like(filled[0])
        for i in range(start, stop, step):
            own = slice(i, min(i + step, stop))
            asked = quantize(x[own])
            if not asked.sound or sum(scored) > 4096 + len(scored) * step * k // 32:
                stopped.append(i)
                break
            tile = buffer[: asked.codes.shape[0] * k].view(-1, k)
            torch._int_mm(asked.codes, transposed, out=tile)
            about = rows[own], asked.scale, asked.error, asked.norm
            scored.append(closest(tile.numpy(), ip, *about, y.numpy(), *filled, longest, slack, costs[own], labels[own]))

    run_blocks(work, n, step, single=True)
    return min(stopped)
