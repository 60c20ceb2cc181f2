"""Scans of lists of RaBitQ codes.

A query less its center is rounded by a kernel of its own to planes of bits, and its product with the signs of a code is counted: bits in
both, plane by plane, which takes a fifth of the instructions that products take. Codes of one bit, and all within a radius, go as other
codes do (list_scan.py). For the best codes of several bits what may be left out depends on what was seen before: every entry of the probed
lists is scored by signs and by all bits, for many queries decoded once and multiplied on the tensor cores, and then a program for each
query goes over the two numbers in the definition's order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tsscompat.kernels.ivf import Range
from tsscompat.kernels.ivf_lists import Ragged, widest
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.rabitq import FIRST_TILE, LAST_TILE, RADII, Coder
from tsscompat.kernels.select import padded
from tsscompat.kernels.triton.codes import FURTHER, SIGNS, Codes
from tsscompat.kernels.triton.estimates import HEAD
from tsscompat.kernels.triton.launch import BUDGET, blocks_of, on, power_of_two, within_memory
from tsscompat.kernels.triton.list_scan import CHUNK, Options, Scan, Top, shared, top, within
from tsscompat.kernels.triton.rabitq_kernels import ask, estimates, estimates_shared, sieve
from tsscompat.kernels.triton.select import best

# Programs that fill a large GPU several times over.
_PROGRAMS = 1024
# Entries, and dimensions of them, that are scored for several queries at a time: more, and registers run out.
_TILE, _DEEP = 32, 16
# Entries that a query's program looks at together: at first, and from so many on.
_SHORT, _LONG = 64, 1024
# Numbers of 4 bytes that are held for each entry: what was hoped, cost and label; costs and labels of those that passed.
_HELD = 7


def _asked(x: Tensor, coder: Coder, keys: Tensor) -> Tensor:
    """Rows of `asked` (estimates.py) for queries or, where each list has a center, for probes."""
    d, per_pair = x.shape[1], coder.centers.shape[0] > 1
    words = blocks_of(d, 32)
    rows, width = keys.numel() if per_pair else x.shape[0], HEAD + (coder.qb + 1) * words
    out = torch.empty(rows, width, dtype=torch.int32, device=x.device)
    if rows:
        with on(out):
            ask[(rows,)](
                x,
                coder.centers,
                coder.centers,
                keys,
                out,
                keys.shape[1],
                d,
                words,
                width,
                RADII[max(0, coder.qb - 1)],
                QB=coder.qb,
                ROUND=coder.centered,
                PER_PAIR=per_pair,
                SHIFTED=not per_pair,
                CENTERED=per_pair,
                LARGEST=coder.metric == INNER_PRODUCT,
                BW=power_of_two(words, 1, 8),
                enable_fp_fusion=False,
            )
    return out


def _codes(x: Tensor, coder: Coder, lists: Ragged, keys: Tensor) -> Codes:
    """The codes as kernels of lists score them: by signs, or by all bits."""
    data, per_pair, several = lists.codes.contiguous(), coder.centers.shape[0] > 1, coder.nb_bits > 1
    asked = _asked(x, coder, keys)
    own = asked[:, 5].contiguous().view(torch.float32)
    aligned = data.shape[1] % 4 == 0 and data.data_ptr() % 4 == 0
    return Codes(
        FURTHER if several else SIGNS,
        data,
        x.shape[1],
        INNER_PRODUCT,
        coder.metric == INNER_PRODUCT,
        x,
        max(1, coder.nb_bits - 1),
        dsub=2 * coder.qb + aligned,
        ksub=asked.shape[1],
        shift=None if per_pair else coder.centers,
        centers=coder.centers if per_pair else None,
        base=(own if per_pair else own[:, None].expand(keys.shape)).reshape(keys.shape) if several else None,
        tables=asked,
        per_pair=per_pair,
    )


def _plain(x: Tensor, coder: Coder, keys: Tensor) -> tuple[Tensor, Coder, Tensor]:
    """The same, with arrays that kernels can read."""
    centers = coder.centers.contiguous()
    coder = Coder(centers, coder.nb_bits, coder.metric, coder.qb, coder.centered, coder.filtered)
    return x.contiguous(), coder, keys.contiguous()


def _parts(x: Tensor, coder: Coder, keys: Tensor, limits: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Queries, probes and limits, in blocks whose rows of `asked` fit the budget."""
    width = (HEAD + (coder.qb + 1) * blocks_of(x.shape[1], 32)) * (keys.shape[1] if coder.centers.shape[0] > 1 else 1)
    step = max(1, BUDGET // max(1, width))
    for i in range(0, max(1, x.shape[0]), step):
        yield x[i : i + step], keys[i : i + step], None if limits is None else limits[i : i + step]


def _filtered(x: Tensor, coder: Coder, lists: Ragged, keys: Tensor, k: int, options: Options) -> Top:
    """The best of the codes that the definition scores by all of their bits; how many entries a query has is read from the device."""
    allowed, limits, pairs = options
    known = keys.clamp(min=0)
    sizes = torch.where(keys >= 0, lists.sizes[known], 0)
    sizes = sizes if limits is None else torch.minimum(sizes, limits)
    counted, taken = lists.sizes, sizes
    if allowed is not None:
        counted = torch.cat([keys.new_zeros(1), allowed.cumsum(0)])
        starts = lists.offsets[known]
        taken = torch.where(sizes > 0, counted[starts + sizes] - counted[starts], 0)
    before, totals = taken.cumsum(1) - taken, taken.sum(1)
    counts = torch.stack([(sizes > 0).sum(), totals.sum(), totals.new_zeros(())])
    width = int(totals.max()) if totals.numel() else 0
    if not width:
        return *padded(keys.shape[0], k, coder.metric == INNER_PRODUCT, keys.device), counts

    def call(budget: int) -> Top:
        step, found, entered = max(1, budget // (_HELD * width)), [], counts.clone()
        for i in range(0, keys.shape[0], step):
            some = slice(i, i + step)
            codes = _codes(x[some], coder, lists, keys[some])
            met = _met(codes, lists, keys[some], sizes[some], before[some], (allowed, counted, pairs), width)
            found.append(_best(*met, totals[some], k, codes.largest, entered))
        return torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found]), entered

    return within_memory(call)


def _met(
    codes: Codes,
    lists: Ragged,
    keys: Tensor,
    sizes: Tensor,
    before: Tensor,
    restrictions: tuple[Tensor | None, Tensor, bool],
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What is hoped of each query's entries, their costs and labels, in the order of the scan: (nq, width)."""
    (nq, nprobe), device = keys.shape, keys.device
    allowed, counted, pairs = restrictions
    hopes, costs = torch.empty(nq, width, device=device), torch.empty(nq, width, device=device)
    labels = torch.empty(nq, width, dtype=torch.int64, device=device)
    x, shift, centers, _, _, data, *_ = codes.tensors()
    given = x, shift, centers, data, codes.tables, lists.offsets, sizes.contiguous()
    masks = keys if allowed is None else allowed.contiguous().view(torch.uint8), counted, before.contiguous()
    written = lists.ids, hopes, costs, labels, nprobe, width, codes.d, data.shape[1]
    constants = {
        "BITS": codes.bits,
        "HOW": codes.dsub,
        "ROW": codes.ksub,
        "LARGEST": codes.largest,
        "SHIFTED": codes.shift is not None,
        "CENTERED": codes.centers is not None,
        "PER_PAIR": codes.per_pair,
        "MASKED": allowed is not None,
        "PAIRS": pairs,
    }
    with on(hopes):
        if shared(keys, lists):
            tiles = Scan(codes, lists, keys, None, None, pairs).tiles()
            n = tiles.owners.shape[0]
            probes = tiles.order, tiles.starts, tiles.ends, tiles.owners
            grid = n, min(blocks_of(widest(lists), _TILE), max(1, 4 * _PROGRAMS // n))
            tile = {"BQ": tiles.size, "N": _TILE, "BD": _DEEP, "num_warps": 8 if tiles.size > 32 else 4}
            estimates_shared[grid](*given, *probes, *masks, *written, lists.nlist, **constants, **tile)
        else:
            grid = keys.numel(), min(blocks_of(width, CHUNK), max(1, _PROGRAMS // keys.numel()))
            estimates[grid](*given, keys, *masks, *written, **constants, N=CHUNK, BD=codes.width())
    return hopes, costs, labels


def _best(
    hopes: Tensor, costs: Tensor, labels: Tensor, totals: Tensor, k: int, largest: bool, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """The k best of the entries that pass the definition's filter."""
    (nq, width), device = hopes.shape, hopes.device
    kept, names = torch.empty(nq, width, device=device), torch.empty(nq, width, dtype=torch.int64, device=device)
    found = torch.zeros(nq, dtype=torch.int32, device=device)
    with on(kept):
        sieve[(nq,)](
            hopes,
            costs,
            labels,
            totals.contiguous(),
            kept,
            names,
            found,
            width,
            k,
            FIRST=FIRST_TILE,
            LAST=LAST_TILE,
            SHORT=_SHORT,
            LONG=_LONG,
        )
    most = max(1, int(found.max()))
    there = torch.arange(most, device=device) < found[:, None]
    values = torch.where(there, -kept[:, :most] if largest else kept[:, :most], float("nan"))
    return best(values, torch.where(there, names[:, :most], -1), k, largest, True, counts=counts)


def scan_rabitq(
    x: Tensor,
    coder: Coder,
    lists: Ragged,
    keys: Tensor,
    k: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The twin of kernels.rabitq.scan_rabitq."""
    x, coder, keys = _plain(x, coder, keys)
    found = []
    for some, probes, cut in _parts(x, coder, keys, limits):
        if coder.nb_bits > 1 and coder.filtered:
            found.append(_filtered(some, coder, lists, probes, k, (allowed, cut, pairs)))
        else:
            found.append(top(_codes(some, coder, lists, probes), lists, probes, k, (allowed, cut, pairs)))
    if len(found) == 1:
        return found[0]
    distances, labels, counts = zip(*found)
    return torch.cat(distances), torch.cat(labels), torch.stack(counts).sum(0)


def within_rabitq(
    x: Tensor,
    coder: Coder,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """The twin of kernels.rabitq.within_rabitq."""
    x, coder, keys = _plain(x, coder, keys)
    found = []
    for some, probes, cut in _parts(x, coder, keys, limits):
        codes = _codes(some, coder, lists, probes)
        if coder.nb_bits > 1 and coder.filtered:
            bar = -radius if codes.largest else radius
            codes = replace(codes, metric_arg=float(bar), signatures=probes.view(-1, 1))
        found.append(within(codes, lists, probes, radius, (allowed, cut, pairs)))
    if len(found) == 1:
        return found[0]
    hits = torch.cat([part[0].diff() for part in found]).cumsum(0)
    visited, scored, entered = (sum(part[3][i] for part in found) for i in range(3))
    values, labels = torch.cat([part[1] for part in found]), torch.cat([part[2] for part in found])
    return torch.cat([hits.new_zeros(1), hits]), values, labels, (visited, scored, entered)
