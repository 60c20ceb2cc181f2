"""Scans of inverted lists, in chunks of 64 entries: least costs of chunks first, then the entries of those that can hold the best.

Few queries: a program takes a share of the chunks of one probed list and scores each entry, term by term. Many: programs take a list and
some of the queries that probe it; a chunk is decoded once for all of them and multiplied on the tensor cores, with numbers split so that
products are about as exact as float32's. Either way nothing is stored but the least cost of each chunk. The best k entries lie in the k
chunks with the least costs; of these (and a few more, against rounding) the entries are scored term by term.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.ivf import Affine, Range
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2
from tsscompat.kernels.select import padded
from tsscompat.kernels.triton.codes import SCALARS, SUMS, VECTORS, Codes, asked, cost_of_rows, decoded
from tsscompat.kernels.triton.launch import blocks_of, on, power_of_two, within_memory
from tsscompat.kernels.triton.select import best, pick

_CHUNK = 64
# Chunks taken beyond k, against rounding.
_SPARE = 8
# Programs that fill a large GPU several times over.
_PROGRAMS = 1024
# From so many queries to a probed list on, its chunks are decoded for all of them at once.
_SHARED = 3

Top = tuple[Tensor, Tensor, Tensor]
# Rows that count, how many first entries of each probe count, whether labels are pairs.
Options = tuple[Tensor | None, Tensor | None, bool]


@triton.jit
def _entries(offsets, sizes, limits, keys, pair, LIMITED: tl.constexpr):
    """List, first row and number of entries that count, of a probe."""
    key = tl.load(keys + pair)
    known = tl.maximum(key, 0)
    size = tl.where(key >= 0, tl.load(sizes + known), 0)
    if LIMITED:
        size = tl.minimum(size, tl.load(limits + pair))
    return known, tl.load(offsets + known), size


@triton.jit
def _least_few(
    x,
    shift,
    centers,
    base,
    terms,
    data,
    lo,
    step,
    tables,
    offsets,
    sizes,
    limits,
    keys,
    allowed,
    out,
    counts,
    nprobe,
    n_chunks,
    d,
    size,
    scale,
    KIND: tl.constexpr,
    BITS: tl.constexpr,
    DSUB: tl.constexpr,
    KSUB: tl.constexpr,
    SQUARED: tl.constexpr,
    LARGEST: tl.constexpr,
    SHIFTED: tl.constexpr,
    CENTERED: tl.constexpr,
    BASED: tl.constexpr,
    TERMED: tl.constexpr,
    PER_PAIR: tl.constexpr,
    MASKED: tl.constexpr,
    LIMITED: tl.constexpr,
    N: tl.constexpr,
    BD: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    list_no, offset, entries = _entries(offsets, sizes, limits, keys, pair, LIMITED)
    scored = tl.zeros([N], tl.int64)
    for chunk in range(share, n_chunks, shares):
        least = tl.full([], float("inf"), tl.float32)
        if chunk * N < entries:
            place = chunk * N + tl.arange(0, N)
            rows = offset + place
            there = place < entries
            if MASKED:
                there = there & (tl.load(allowed + rows, mask=there, other=0) != 0)
            cost = cost_of_rows(
                x, shift, centers, base, terms, data, lo, step, tables, pair // nprobe, pair, list_no, rows, there, d, size, scale,
                KIND, BITS, DSUB, KSUB, SQUARED, LARGEST, SHIFTED, CENTERED, BASED, TERMED, PER_PAIR, N, BD,
            )  # fmt: skip
            least = tl.min(cost, 0)
            scored += there.to(tl.int64)
        tl.store(out + pair * n_chunks + chunk, least)
    tl.atomic_add(counts + 1, tl.sum(scored, 0))
    if share == 0:
        tl.atomic_add(counts, (entries > 0).to(tl.int64))


@triton.jit
def _least_shared(
    x,
    shift,
    centers,
    base,
    terms,
    data,
    lo,
    step,
    tables,
    offsets,
    sizes,
    limits,
    order,
    starts,
    ends,
    owners,
    allowed,
    out,
    counts,
    nprobe,
    n_chunks,
    n_lists,
    d,
    size,
    scale,
    KIND: tl.constexpr,
    BITS: tl.constexpr,
    DSUB: tl.constexpr,
    KSUB: tl.constexpr,
    SQUARED: tl.constexpr,
    LARGEST: tl.constexpr,
    SHIFTED: tl.constexpr,
    CENTERED: tl.constexpr,
    BASED: tl.constexpr,
    TERMED: tl.constexpr,
    MASKED: tl.constexpr,
    LIMITED: tl.constexpr,
    BQ: tl.constexpr,
    N: tl.constexpr,
    BD: tl.constexpr,
):
    """Tile `t` of queries is of list owners[t]; starts[l] to starts[l + 1] are the list's probes in `order`, ends[l] its tiles' end."""
    tile = tl.program_id(0)
    list_no = tl.load(owners + tile)
    if list_no >= n_lists:
        return
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    begin = tl.load(starts + list_no)
    end = tl.load(starts + list_no + 1)
    before = tl.load(ends + list_no) - (end - begin + BQ - 1) // BQ
    at_probe = begin + (tile - before) * BQ + tl.arange(0, BQ)
    real = at_probe < end
    pair = tl.load(order + at_probe, mask=real, other=0)
    q = pair // nprobe
    offset = tl.load(offsets + list_no)
    entries = tl.load(sizes + list_no)
    limit = tl.full([BQ], 0, tl.int64) + entries
    if LIMITED:
        limit = tl.minimum(limit, tl.load(limits + pair, mask=real, other=0))
    limit = tl.where(real, limit, 0)
    list_nos = tl.zeros([BQ], tl.int64) + list_no
    scored = tl.zeros([BQ], tl.int64)
    for chunk in range(share, tl.cdiv(entries, N), shares):
        place = chunk * N + tl.arange(0, N)
        rows = offset + place
        there = place < entries
        if MASKED:
            there = there & (tl.load(allowed + rows, mask=there, other=0) != 0)
        products = tl.zeros([BQ, N], tl.float32)
        ours = tl.zeros([BQ], tl.float32)
        theirs = tl.zeros([N], tl.float32)
        for start in range(0, d, BD):
            at = start + tl.arange(0, BD)
            inside = (at < d)[None, :]
            a = asked(x, shift, centers, q, list_nos, at, real[:, None] & inside, d, SHIFTED, CENTERED)
            b = decoded(data, lo, step, rows, there[:, None] & inside, at, d, size, KIND, BITS, DSUB, KSUB)
            products = tl.dot(a, tl.trans(b), products, input_precision="tf32x3")
            if SQUARED:
                ours += tl.sum(a * a, 1)
                theirs += tl.sum(b * b, 1)
        value = ours[:, None] - 2 * products + theirs[None, :] if SQUARED else products * scale
        if BASED:
            value += tl.load(base + pair, mask=real, other=0.0)[:, None]
        if TERMED:
            value += tl.load(terms + rows, mask=there, other=0.0)[None, :]
        cost = -value if LARGEST else value
        counted = there[None, :] & (place[None, :] < limit[:, None])
        cost = tl.where(counted & (cost < 3.4028234663852886e38), cost, float("inf"))
        tl.store(out + pair * n_chunks + chunk, tl.min(cost, 1), mask=real)
        scored += tl.sum(counted.to(tl.int64), 1)
    tl.atomic_add(counts + 1, tl.sum(scored, 0))
    if share == 0:
        tl.atomic_add(counts, tl.sum((limit > 0).to(tl.int64), 0))


@triton.jit
def _scores(
    x,
    shift,
    centers,
    base,
    terms,
    data,
    lo,
    step,
    tables,
    offsets,
    sizes,
    limits,
    keys,
    allowed,
    chosen,
    ids,
    values,
    labels,
    nprobe,
    n_chunks,
    width,
    d,
    size,
    scale,
    KIND: tl.constexpr,
    BITS: tl.constexpr,
    DSUB: tl.constexpr,
    KSUB: tl.constexpr,
    SQUARED: tl.constexpr,
    LARGEST: tl.constexpr,
    SHIFTED: tl.constexpr,
    CENTERED: tl.constexpr,
    BASED: tl.constexpr,
    TERMED: tl.constexpr,
    PER_PAIR: tl.constexpr,
    MASKED: tl.constexpr,
    LIMITED: tl.constexpr,
    PAIRS: tl.constexpr,
    N: tl.constexpr,
    BD: tl.constexpr,
):
    """Scores and labels of the entries in the chunks chosen for each query; with n_chunks of probes numbered through."""
    q = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1)
    number = tl.load(chosen + q * width + column)
    pair = q * nprobe + tl.maximum(number, 0) // n_chunks
    list_no, offset, entries = _entries(offsets, sizes, limits, keys, pair, LIMITED)
    entries = tl.where(number >= 0, entries, 0)
    place = (tl.maximum(number, 0) % n_chunks) * N + tl.arange(0, N)
    rows = offset + place
    there = place < entries
    if MASKED:
        there = there & (tl.load(allowed + rows, mask=there, other=0) != 0)
    cost = cost_of_rows(
        x, shift, centers, base, terms, data, lo, step, tables, q, pair, list_no, rows, there, d, size, scale,
        KIND, BITS, DSUB, KSUB, SQUARED, LARGEST, SHIFTED, CENTERED, BASED, TERMED, PER_PAIR, N, BD,
    )  # fmt: skip
    if PAIRS:
        label = (list_no << 32) | place.to(tl.int64)
    else:
        label = tl.load(ids + rows, mask=there, other=-1)
    live = there & (cost < float("inf"))
    to = (q * width + column) * N + tl.arange(0, N)
    tl.store(values + to, -cost if LARGEST else cost)
    tl.store(labels + to, tl.where(live, label, -1))


def widest(lists: Ragged) -> int:
    """The size of the longest list; read from the device once for lists that do not change."""
    known: int | None = lists.kept.get("widest")
    if known is None:
        known = lists.kept["widest"] = int(lists.sizes.max()) if lists.nlist else 0
    return known


def shared(keys: Tensor, lists: Ragged) -> bool:
    """Whether lists are probed by enough queries to decode them once for several."""
    return keys.numel() >= _SHARED * max(1, lists.nlist)


class Scan:
    """One search of lists: what every stage of it needs."""

    def __init__(
        self, codes: Codes, lists: Ragged, keys: Tensor, allowed: Tensor | None, limits: Tensor | None, pairs: bool
    ) -> None:
        self.codes, self.lists, self.keys, self.pairs = codes, lists, keys.contiguous(), pairs
        self.allowed = None if allowed is None else allowed.view(torch.uint8)
        self.limits = None if limits is None else limits.to(torch.int64).contiguous()
        self.nq, self.nprobe = keys.shape
        self.n_chunks = blocks_of(widest(lists), _CHUNK)
        self.counts = torch.zeros(3, dtype=torch.int64, device=keys.device)

    def _where(self) -> tuple[Tensor, ...]:
        limits = self.keys if self.limits is None else self.limits
        return self.lists.offsets, self.lists.sizes, limits

    def _masks(self) -> dict[str, bool]:
        return {"MASKED": self.allowed is not None, "LIMITED": self.limits is not None}

    def _allowed(self) -> Tensor:
        return self.keys if self.allowed is None else self.allowed

    def least(self, shared: bool) -> Tensor:
        """The least cost in each chunk of each probe: (nq, nprobe * n_chunks)."""
        return self._least_shared() if shared else self._least_few()

    def _least_few(self) -> Tensor:
        out = torch.empty(self.nq, self.nprobe * self.n_chunks, device=self.keys.device)
        n_pairs = self.nq * self.nprobe
        shares = min(self.n_chunks, max(1, _PROGRAMS // n_pairs))
        with on(out):
            _least_few[(n_pairs, shares)](
                *self.codes.tensors(),
                *self._where(),
                self.keys,
                self._allowed(),
                out,
                self.counts,
                self.nprobe,
                self.n_chunks,
                self.codes.d,
                self.codes.code_bytes(),
                self.codes.scale,
                **self.codes.constants(),
                PER_PAIR=self.codes.per_pair,
                **self._masks(),
                N=_CHUNK,
                BD=self.codes.width(),
            )
        return out

    def _least_shared(self) -> Tensor:
        out = torch.full((self.nq, self.nprobe * self.n_chunks), float("inf"), device=self.keys.device)
        n_pairs, n_lists, device = self.nq * self.nprobe, self.lists.nlist, self.keys.device
        bq = power_of_two(n_pairs // n_lists, 16, 64)
        sorted_keys, order = self.keys.view(-1).sort()
        starts = torch.searchsorted(sorted_keys, torch.arange(n_lists + 1, device=device))
        ends = ((starts.diff() + (bq - 1)) // bq).cumsum(0)
        n_tiles = n_pairs // bq + min(n_lists, n_pairs)
        owners = torch.searchsorted(ends, torch.arange(n_tiles, device=device), right=True)
        with on(out):
            _least_shared[(n_tiles, min(self.n_chunks, max(1, 4 * _PROGRAMS // n_tiles)))](
                *self.codes.tensors(),
                *self._where(),
                order,
                starts,
                ends,
                owners,
                self._allowed(),
                out,
                self.counts,
                self.nprobe,
                self.n_chunks,
                n_lists,
                self.codes.d,
                self.codes.code_bytes(),
                self.codes.scale,
                **self.codes.constants(),
                **self._masks(),
                BQ=bq,
                N=_CHUNK,
                BD=power_of_two(self.codes.d, 16, 32),
            )
        return out

    def scores(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and labels of the entries in chosen chunks (nq, width)."""
        nq, width = chosen.shape
        values = torch.empty(nq, width * _CHUNK, device=chosen.device)
        labels = torch.empty(nq, width * _CHUNK, dtype=torch.int64, device=chosen.device)
        with on(values):
            _scores[(nq, width)](
                *self.codes.tensors(),
                *self._where(),
                self.keys,
                self._allowed(),
                chosen,
                self.lists.ids,
                values,
                labels,
                self.nprobe,
                self.n_chunks,
                width,
                self.codes.d,
                self.codes.code_bytes(),
                self.codes.scale,
                **self.codes.constants(),
                PER_PAIR=self.codes.per_pair,
                **self._masks(),
                PAIRS=self.pairs,
                N=_CHUNK,
                BD=self.codes.width(),
            )
        return values, labels

    def top(self, k: int) -> Top:
        """The best k entries of each query; counts of lists, entries and results stay on the device."""
        least = self.least(self.codes.kind != SUMS and shared(self.keys, self.lists))
        chosen = pick(least, None, min(k + _SPARE, least.shape[1]))
        found = best(*self.scores(chosen), k, self.codes.largest, True, counts=self.counts)
        return *found, self.counts

    def within(self, radius: float) -> tuple[Tensor, Tensor, Tensor]:
        """All entries within a radius: how many for each query, values, labels. How many chunks may hold one is read from the device."""
        least = self.least(False)
        bound = -radius if self.codes.largest else radius
        most = int((least <= bound + 1e-6 * abs(bound)).sum(1).max())
        if not most:
            none = torch.empty(0, device=least.device)
            return torch.zeros(self.nq, dtype=torch.int64, device=least.device), none, none.to(torch.int64)
        values, labels = self.scores(pick(least, None, most))
        inside = (labels >= 0) & (values > radius if self.codes.largest else values < radius)
        return inside.sum(1), values[inside], labels[inside]


def _blocks(codes: Codes, lists: Ragged, keys: Tensor, options: Options, taken: int, budget: int) -> Iterator[tuple[int, Scan]]:
    """The search in blocks of queries whose tables fit a budget of numbers; `taken` chunks are scored for each query."""
    nq, nprobe = keys.shape
    n_chunks = blocks_of(widest(lists), _CHUNK)
    allowed, limits, pairs = options
    if nq and nprobe and n_chunks:
        columns = nprobe * n_chunks
        step = max(1, min(nq, budget // (columns + 3 * _CHUNK * min(taken, columns))))
        for i in range(0, nq, step):
            some = None if limits is None else limits[i : i + step]
            yield i, Scan(codes.part(i, min(nq, i + step), nprobe), lists, keys[i : i + step], allowed, some, pairs)


def top(codes: Codes, lists: Ragged, keys: Tensor, k: int, options: Options) -> Top:
    """The best k entries of each query."""

    def call(budget: int) -> Top:
        parts = [scan.top(k) for _, scan in _blocks(codes, lists, keys, options, k + _SPARE, budget)]
        if not parts:
            return *padded(keys.shape[0], k, codes.largest, keys.device), torch.zeros(3, dtype=torch.int64, device=keys.device)
        if len(parts) == 1:
            return parts[0]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), torch.stack([p[2] for p in parts]).sum(0)

    return within_memory(call)


def within(codes: Codes, lists: Ragged, keys: Tensor, radius: float, options: Options) -> Range:
    """All entries within a radius, in the order of the scan."""

    def call(budget: int) -> Range:
        hits, values, labels, counts = [keys.new_zeros(1)], [torch.empty(0, device=keys.device)], [keys.new_empty(0)], [0, 0]
        for _, scan in _blocks(codes, lists, keys, options, 1 << 12, budget):
            for into, part in zip((hits, values, labels), scan.within(radius)):
                into.append(part)
            visited, scored, _ = scan.counts.tolist()
            counts = [counts[0] + visited, counts[1] + scored]
        if len(hits) == 1:
            hits.append(keys.new_zeros(keys.shape[0]))
        found = torch.cat(labels)
        return torch.cat(hits).cumsum(0), torch.cat(values), found, (counts[0], counts[1], found.shape[0])

    return within_memory(call)


def _flat(x: Tensor, rows: Tensor, metric: int) -> Codes | None:
    if metric not in (L2, INNER_PRODUCT) or x.dtype != torch.float32 or not x.shape[1]:
        return None
    return Codes(VECTORS, rows.contiguous(), x.shape[1], metric == L2, metric != L2, x)


def scan_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf.scan_flat."""
    codes = _flat(x, rows, metric)
    return NotImplemented if codes is None else top(codes, lists, keys, k, (allowed, limits, pairs))


def within_flat(
    x: Tensor,
    rows: Tensor,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    metric_arg: float = 0.0,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.ivf.within_flat."""
    codes = _flat(x, rows, metric)
    return NotImplemented if codes is None else within(codes, lists, keys, radius, (allowed, limits, pairs))


def _sums(tables: Tensor, base: Tensor, terms: Tensor | None, nbits: int, lists: Ragged, largest: bool) -> Codes:
    return Codes(
        SUMS,
        lists.codes.contiguous(),
        tables.shape[1],
        False,
        largest,
        bits=nbits,
        ksub=tables.shape[2],
        base=base,
        terms=terms,
        tables=tables,
        per_pair=tables.shape[0] != base.shape[0],
    )


def scan_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    k: int,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf.scan_tables."""
    return top(_sums(tables, base, terms, nbits, lists, largest), lists, keys, k, (allowed, limits, pairs))


def within_tables(
    tables: Tensor,
    base: Tensor,
    terms: Tensor | None,
    nbits: int,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    largest: bool,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.ivf.within_tables."""
    return within(_sums(tables, base, terms, nbits, lists, largest), lists, keys, radius, (allowed, limits, pairs))


def _affine(x: Tensor, affine: Affine, centers: Tensor | None, base: Tensor | None, lists: Ragged, metric: int) -> Codes:
    data = lists.codes.contiguous()
    if affine.bits >= 16:
        data = data.view(torch.float16 if affine.bits == 16 else torch.bfloat16)
    similar = metric == INNER_PRODUCT
    return Codes(
        SCALARS,
        data,
        x.shape[1],
        not similar,
        similar,
        x,
        affine.bits,
        affine.lo,
        affine.step,
        centers=None if similar else centers,
        base=base if similar else None,
    )


def scan_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    k: int,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.ivf.scan_affine."""
    return top(_affine(x, affine, centers, base, lists, metric), lists, keys, k, (allowed, limits, pairs))


def within_affine(
    x: Tensor,
    affine: Affine,
    centers: Tensor | None,
    base: Tensor | None,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    metric: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.ivf.within_affine."""
    return within(_affine(x, affine, centers, base, lists, metric), lists, keys, radius, (allowed, limits, pairs))
