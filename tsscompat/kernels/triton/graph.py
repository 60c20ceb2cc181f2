"""Walks on a graph: a program for each query.

The pool of candidates is a sorted row of keys, (cost, node, expanded) in 64 bits. New ones are merged by counting: where each key goes is
how many are below it. Visited nodes are bits that are set and asked for in one atomic operation.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.metrics import FORMULAS, HAMMING, is_similarity
from tsscompat.kernels.triton.bit_fields import ones_in
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two, within_memory
from tsscompat.kernels.triton.metrics import added, finished


@triton.jit
def _cost(x, rows, nodes, live, d, p, METRIC: tl.constexpr, LARGEST: tl.constexpr, W: tl.constexpr, BD: tl.constexpr):
    """Costs of nodes (W,) for the query at `x`; infinite where not live, or NaN."""
    first = tl.zeros([W], tl.float32)
    second = tl.zeros([W], tl.float32)
    third = tl.zeros([W], tl.float32)
    for start in range(0, d, BD):
        at = start + tl.arange(0, BD)
        inside = live[:, None] & (at < d)[None, :]
        a = tl.load(x + at, mask=at < d, other=0.0)[None, :]
        b = tl.load(rows + nodes.to(tl.int64)[:, None] * d + at[None, :], mask=inside, other=0.0)
        if METRIC == 1000:  # Hamming: what is compared are words of codes
            gap = a.to(tl.int32, bitcast=True) ^ b.to(tl.int32, bitcast=True)
            first += tl.sum(tl.where(inside, ones_in(gap, False), 0), 1).to(tl.float32)
        else:
            first, second, third = added(first, second, third, a, b, inside, p, METRIC, 1)
    total = finished(first, second, third, d, METRIC)
    total = -total if LARGEST else total
    return tl.where(live & (total == total), total, float("inf"))


@triton.jit
def _keys(cost, nodes, live):
    """Keys that are ordered as (cost, node); the greatest of all for what is not live."""
    bits = (cost + 0.0).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = (bits.to(tl.int64) << 32) | (nodes.to(tl.int64) << 1)
    return tl.where(live & (cost < float("inf")), key, 0x7FFFFFFFFFFFFFFF)


@triton.jit
def _cost_of_key(key):
    bits = (key >> 32).to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def _merged(pool, fresh, room, limit, P: tl.constexpr, W: tl.constexpr):
    """The least `limit` keys of a sorted pool (P,) and fresh keys (W,), sorted, by way of `room`."""
    at = tl.arange(0, P)
    # No live key is there twice, so that a pool's key that no fresh one is below is below that one.
    before = (fresh[None, :] < pool[:, None]).to(tl.int32)
    below = tl.sum(before, 1)
    tl.store(room + at + below, pool, mask=at + below < P)
    ahead = P - tl.sum(before, 0) + tl.sum((fresh[:, None] < fresh[None, :]).to(tl.int32), 0)
    tl.store(room + ahead, fresh, mask=(fresh != 0x7FFFFFFFFFFFFFFF) & (ahead < P))
    tl.debug_barrier()
    merged = tl.load(room + at)
    tl.debug_barrier()
    return tl.where(at < limit, merged, 0x7FFFFFFFFFFFFFFF)


@triton.jit
def _unseen(visited, nodes, live):
    """Which live nodes had not been visited, which they are now."""
    bit = tl.full([], 1, tl.int32) << (nodes & 31)
    old = tl.atomic_or(visited + (nodes >> 5), bit, mask=live, sem="relaxed")
    return live & ((old & bit) == 0)


@triton.jit
def _fresh_keys(
    x, rows, visited, nodes, live, d, p, METRIC: tl.constexpr, LARGEST: tl.constexpr, W: tl.constexpr, BD: tl.constexpr
):
    """Keys of the live nodes that had not been visited, and which these are."""
    fresh = _unseen(visited, tl.where(live, nodes, 0), live)
    return _keys(_cost(x, rows, nodes, fresh, d, p, METRIC, LARGEST, W, BD), nodes, fresh), fresh


@triton.jit
def _descended(
    x, rows, offsets, neighbors, ends, d, p, entry, top,
    METRIC: tl.constexpr, LARGEST: tl.constexpr, W: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The node that greedy steps on the levels from `top` down to 1 lead to."""
    lane = tl.arange(0, W)
    node = tl.full([], 0, tl.int32) + entry
    best = tl.min(_cost(x, rows, tl.zeros([W], tl.int32) + entry, lane == 0, d, p, METRIC, LARGEST, W, BD), 0)
    for down in range(0, top):
        level = top - down
        begin = tl.load(ends + level)
        width = tl.load(ends + level + 1) - begin
        moving = best == best
        while moving:
            base = tl.load(offsets + node) + begin
            near = tl.load(neighbors + base + lane, mask=lane < width, other=-1)
            key = tl.min(_keys(_cost(x, rows, near, near >= 0, d, p, METRIC, LARGEST, W, BD), near, near >= 0), 0)
            cost = _cost_of_key(key)
            moving = (key != 0x7FFFFFFFFFFFFFFF) & (cost < best)
            node = tl.where(moving, ((key >> 1) & 0x7FFFFFFF).to(tl.int32), node)
            best = tl.where(moving, cost, best)
    return node


@triton.jit
def _begun(
    x, rows, starts, visited, room, node, d, p, n_starts, ef,
    METRIC: tl.constexpr, LARGEST: tl.constexpr, STARTED: tl.constexpr, P: tl.constexpr, W: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The pool with the nodes that a walk starts from: those given, or `node`."""
    lane = tl.arange(0, W)
    pool = tl.full([P], 0x7FFFFFFFFFFFFFFF, tl.int64)
    if STARTED:
        for start in range(0, n_starts, W):
            nodes = tl.load(starts + start + lane, mask=start + lane < n_starts, other=-1).to(tl.int32)
            keys, _ = _fresh_keys(x, rows, visited, nodes, nodes >= 0, d, p, METRIC, LARGEST, W, BD)
            pool = _merged(pool, keys, room, ef, P, W)
    else:
        keys, _ = _fresh_keys(x, rows, visited, tl.zeros([W], tl.int32) + node, lane == 0, d, p, METRIC, LARGEST, W, BD)
        pool = _merged(pool, keys, room, ef, P, W)
    return pool


@triton.jit
def _only_allowed(keys, allowed, MASKED: tl.constexpr):
    """The keys of nodes that may be results."""
    if MASKED:
        live = keys != 0x7FFFFFFFFFFFFFFF
        nodes = tl.where(live, (keys >> 1) & 0x7FFFFFFF, 0)
        keys = tl.where(live & (tl.load(allowed + nodes, mask=live, other=0) != 0), keys, 0x7FFFFFFFFFFFFFFF)
    return keys


@triton.jit
def _results_of(pool, allowed, room, results, k, MASKED: tl.constexpr, P: tl.constexpr, K: tl.constexpr, W: tl.constexpr):
    """The results that a pool has, where these are kept apart."""
    lane = tl.arange(0, W)
    found = tl.full([K], 0x7FFFFFFFFFFFFFFF, tl.int64)
    for start in range(0, P, W):
        tl.store(room + tl.arange(0, P), pool)
        tl.debug_barrier()
        keys = tl.load(room + start + lane, mask=start + lane < P, other=0x7FFFFFFFFFFFFFFF)
        tl.debug_barrier()
        found = _merged(found, _only_allowed(keys, allowed, MASKED), results, k, K, W)
    return found


@triton.jit
def _next(pool, steps, stop, CHECK: tl.constexpr, P: tl.constexpr):
    """The place and key of the best candidate that is not expanded yet, and whether the walk goes on with it."""
    at = tl.arange(0, P)
    waiting = (pool != 0x7FFFFFFFFFFFFFFF) & ((pool & 1) == 0)
    first = tl.min(tl.where(waiting, at, P), 0)
    here = tl.min(tl.where(at == first, pool, 0x7FFFFFFFFFFFFFFF), 0)
    if CHECK:
        better = tl.sum(((pool >> 32) < (here >> 32)).to(tl.int32), 0)
        going = (first < P) & (better < stop)
    else:
        going = (first < P) & (steps <= stop)
    return first, here, going


@triton.jit
def _write(found, distances, labels, k, LARGEST: tl.constexpr, K: tl.constexpr):
    """Results as distances and labels."""
    place = tl.arange(0, K)
    there = found != 0x7FFFFFFFFFFFFFFF
    cost = tl.where(there, _cost_of_key(found), 3.4028234663852886e38)
    tl.store(distances + place, -cost if LARGEST else cost, mask=place < k)
    tl.store(labels + place, tl.where(there, (found >> 1) & 0x7FFFFFFF, -1), mask=place < k)


@triton.jit
def _walk(
    x, rows, offsets, neighbors, ends, starts, allowed, visited, room, results, distances, labels, counts,
    d, p, words, entry, top, n_starts, ef, stop, k,
    METRIC: tl.constexpr, LARGEST: tl.constexpr, CHECK: tl.constexpr, STARTED: tl.constexpr, MASKED: tl.constexpr,
    APART: tl.constexpr, P: tl.constexpr, K: tl.constexpr, W: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    q = tl.program_id(0).to(tl.int64)
    mine, seen, room, results = x + q * d, visited + q * words, room + q * P, results + q * K
    lane, at = tl.arange(0, W), tl.arange(0, P)
    n_costs = tl.full([], 0, tl.int64)
    node = tl.full([], 0, tl.int32)
    if not STARTED:
        node = _descended(mine, rows, offsets, neighbors, ends, d, p, entry, top, METRIC, LARGEST, W, BD)
    begin = starts + q * n_starts
    pool = _begun(mine, rows, begin, seen, room, node, d, p, n_starts, ef, METRIC, LARGEST, STARTED, P, W, BD)
    found = tl.full([K], 0x7FFFFFFFFFFFFFFF, tl.int64)
    if APART:
        found = _results_of(pool, allowed, room, results, k, MASKED, P, K, W)
    first_edge = tl.load(ends)
    width = tl.load(ends + 1) - first_edge
    steps = tl.full([], 0, tl.int64)
    going = tl.min(pool, 0) != 0x7FFFFFFFFFFFFFFF
    while going:
        first, here, going = _next(pool, steps, stop, CHECK, P)
        if going:
            pool = tl.where(at == first, pool | 1, pool)
            edges = tl.load(offsets + ((here >> 1) & 0x7FFFFFFF)) + first_edge
            near = tl.load(neighbors + edges + lane, mask=lane < width, other=-1)
            keys, fresh = _fresh_keys(mine, rows, seen, near, near >= 0, d, p, METRIC, LARGEST, W, BD)
            # What is worse than all of a full pool changes nothing, which of half of the steps is true.
            if tl.min(keys, 0) < tl.max(tl.where(at < ef, pool, 0), 0):
                pool = _merged(pool, keys, room, ef, P, W)
            if APART:
                found = _merged(found, _only_allowed(keys, allowed, MASKED), results, k, K, W)
            n_costs += tl.sum(fresh.to(tl.int64), 0)
            steps += 1
    if not APART:
        tl.store(room + at, pool)
        tl.debug_barrier()
        found = tl.load(room + tl.arange(0, K), mask=tl.arange(0, K) < P, other=0x7FFFFFFFFFFFFFFF)
    _write(found, distances + q * k, labels + q * k, k, LARGEST, K)
    tl.atomic_add(counts, n_costs, sem="relaxed")
    tl.atomic_add(counts + 1, steps, sem="relaxed")


def _options(nq: int, pool: int) -> dict[str, int | None]:
    """How many warps walk together, and the registers that they are held to.

    Walks wait for memory most of the time: with 128 registers four of them share a multiprocessor, or two with 8 warps. Few queries leave
    multiprocessors idle, and 8 warps make their steps shorter.
    """
    return {"num_warps": 8 if pool > 64 or nq <= 256 else 4, "maxnreg": 128 if pool <= 256 else None}


def _widths(graph: Graph) -> int:
    """The most neighbours of a node on a level; read from the device once."""
    known: int | None = graph.kept.get("widest")
    if known is None:
        known = graph.kept["widest"] = max(1, int(graph.ends.diff().max())) if graph.ends.shape[0] > 1 else 1
    return known


def search(
    x: Tensor,
    rows: Tensor,
    graph: Graph,
    walk: Walk,
    k: int,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The twin of kernels.graph.search up to 1,024 candidates and results; counts stay on the device."""
    nq, d = x.shape
    if (
        (metric not in FORMULAS and metric != HAMMING)
        or x.dtype != torch.float32
        or rows.dtype != torch.float32
        or max(walk.ef, k) > 1024
    ):
        return NotImplemented
    if graph.neighbors.dtype != torch.int32 or not d or (starts is None and graph.entry < 0):
        return NotImplemented
    device, n = x.device, rows.shape[0]
    words = blocks_of(n, 32)
    apart = allowed is not None or k > walk.ef
    width = power_of_two(_widths(graph), 8)
    pool, most = power_of_two(walk.ef, 8), power_of_two(k, 8)
    begin = None if starts is None else starts.expand(nq, -1).long().contiguous()
    distances = torch.empty(nq, k, device=device)
    labels = torch.empty(nq, k, dtype=torch.int64, device=device)

    def call(budget: int) -> tuple[Tensor, Tensor, Tensor]:
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        step = max(1, min(nq, budget // max(1, words)))
        for i in range(0, nq, step):
            some = slice(i, min(nq, i + step))
            m = some.stop - i
            with on(x):
                _walk[(m,)](
                    x[some].contiguous(),
                    rows.contiguous(),
                    graph.offsets,
                    graph.neighbors,
                    graph.ends,
                    labels if begin is None else begin[some],
                    labels if allowed is None else allowed.contiguous().view(torch.uint8),
                    torch.zeros(m, words, dtype=torch.int32, device=device),
                    torch.empty(m, pool, dtype=torch.int64, device=device),
                    torch.empty(m, most, dtype=torch.int64, device=device),
                    distances[some],
                    labels[some],
                    counts,
                    d,
                    float(metric_arg),
                    words,
                    graph.entry,
                    graph.top,
                    0 if begin is None else begin.shape[1],
                    walk.ef,
                    walk.stop,
                    k,
                    METRIC=metric,
                    LARGEST=is_similarity(metric),
                    CHECK=walk.check,
                    STARTED=begin is not None,
                    MASKED=allowed is not None,
                    APART=apart,
                    P=pool,
                    K=most,
                    W=width,
                    BD=power_of_two(d, 4, 64),
                    **_options(m, pool),
                )
        return distances, labels, counts

    return within_memory(call)
