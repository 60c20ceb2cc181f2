"""Tables of 8 bits from tables of floats: three kernels, where the definition asks torch for some fifty.

Programs take a table each. What concerns all tables of a query (where sums start, how far they reach) is read from what the kernel before
wrote. Sums are made one by one and nothing is contracted (the kernels are compiled so), as every table's rounding depends on it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsscompat.kernels.fastscan import Tables
from tsscompat.kernels.triton.launch import on

# Parts, and lists, that are looked at together.
_PARTS, _LISTS = 16, 64


@triton.jit
def _extent(values, n, B: tl.constexpr):
    """The least and the greatest of n numbers; NaN is neither."""
    least = tl.full([B], float("inf"), tl.float32)
    most = tl.full([B], -float("inf"), tl.float32)
    for start in range(0, n, B):
        at = start + tl.arange(0, B)
        value = tl.load(values + at, mask=at < n, other=float("nan"))
        least = tl.where(value < least, value, least)
        most = tl.where(value > most, value, most)
    return tl.min(least, 0), tl.max(most, 0)


@triton.jit
def _in_turn(total, values, left, B: tl.constexpr):
    """The first `left` of B numbers added one by one."""
    at = tl.arange(0, B)
    for j in tl.static_range(B):
        total += tl.where(j < left, tl.sum(tl.where(at == j, values, 0.0), 0), 0.0)
    return total


@triton.jit
def _rounded(value, scale, least):
    """As FAISS rounds: the half is added in double precision; NaN is 0."""
    number = tl.floor((((value - least) * scale).to(tl.float64) + 0.5).to(tl.float32))
    return tl.where(number == number, number, 0.0)


@triton.jit
def _spans(tables, biases, least, spans, starts, widest, m, DEEP: tl.constexpr, BP: tl.constexpr):
    """Of each part the least entry and how far the others lie from it; their greatest distance, and what sums of a table start from."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.full([], 0.0, tl.float32)
    if DEEP:
        total = tl.load(biases + row)
    far = tl.full([], -float("inf"), tl.float32)
    for start in range(0, m, BP):
        part = start + tl.arange(0, BP)
        inside = part < m
        entry = tables + (row * m + part)[:, None] * 16 + tl.arange(0, 16)[None, :]
        value = tl.load(entry, mask=inside[:, None], other=float("nan"))
        low = tl.min(tl.where(value == value, value, float("inf")), 1)
        span = tl.max(tl.where(value == value, value, -float("inf")), 1) - low
        far = tl.maximum(far, tl.max(tl.where(inside & (span == span), span, -float("inf")), 0))
        tl.store(least + row * m + part, low, mask=inside)
        tl.store(spans + row * m + part, span, mask=inside)
        total = _in_turn(total, low, m - start, BP)
    tl.store(starts + row, total)
    tl.store(widest + row, far)


@triton.jit
def _reaches(
    biases, spans, starts, reaches, m, nprobe, plain, weight,
    DEEP: tl.constexpr, BIASED: tl.constexpr, BP: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """The greatest sum of a table, above the least of the query's."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.full([], 0.0, tl.float32)
    if DEEP:
        query = row // nprobe * nprobe
        low, _ = _extent(biases + query, nprobe, BL)
        first, _ = _extent(starts + query, nprobe, BL)
        one = tl.load(biases + row) - low
        other = tl.load(starts + row) - first
        total = tl.where((one > other) | (one != one), one, other)
    elif BIASED:
        low, high = _extent(biases + row * nprobe, nprobe, BL)
        total = high - low
    for start in range(0, m, BP):
        part = start + tl.arange(0, BP)
        span = tl.load(spans + row * m + part, mask=part < m, other=0.0)
        total = _in_turn(total, span * tl.where(part < plain, 1.0, weight), m - start, BP)
    tl.store(reaches + row, total)


@triton.jit
def _entries(
    tables, biases, least, starts, widest, reaches, luts, added, scales, firsts, m, nprobe, plain, parts,
    DEEP: tl.constexpr, BIASED: tl.constexpr, TABLES: tl.constexpr, BP: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """The tables of bytes, and the biases; what a query's sums start from, and their scale."""
    row = tl.program_id(0).to(tl.int64)
    query = row // nprobe if DEEP else row
    first = tl.load(starts + row)
    lowest = tl.full([], 0.0, tl.float32)
    if DEEP:
        first, _ = _extent(starts + query * nprobe, nprobe, BL)
        lowest = first
    elif BIASED:
        lowest, _ = _extent(biases + query * nprobe, nprobe, BL)
        first += lowest
    count = nprobe if DEEP else 1
    _, far = _extent(widest + query * count, count, BL)
    _, reach = _extent(reaches + query * count, count, BL)
    entry = tl.where(far > 0, tl.div_rn(255.0, tl.where(far > 0, far, 1.0)), float("inf"))
    whole = tl.where(reach > 0, tl.div_rn(65535.0, tl.where(reach > 0, reach, 1.0)), float("inf"))
    scale = tl.minimum(entry, whole)
    scale = tl.where(scale < float("inf"), scale, 0.0)
    tl.store(scales + query, scale)
    tl.store(firsts + query, first)
    for start in range(0, m, BP):
        part = start + tl.arange(0, BP)
        inside = (part < m)[:, None]
        code = tl.arange(0, 16)[None, :]
        value = tl.load(tables + (row * m + part)[:, None] * 16 + code, mask=inside, other=0.0)
        low = tl.load(least + row * m + part, mask=part < m, other=0.0)[:, None]
        table = row * TABLES + tl.where(part < plain, 0, TABLES - 1)
        to = luts + (table * parts + part)[:, None] * 16 + code
        tl.store(to, _rounded(value, scale, low).to(tl.uint8), mask=inside)
    if DEEP:
        tl.store(added + row, _rounded(tl.load(starts + row), scale, lowest).to(tl.int32))
    elif BIASED:
        for start in range(0, nprobe, BL):
            at = start + tl.arange(0, BL)
            bias = tl.load(biases + row * nprobe + at, mask=at < nprobe, other=0.0)
            tl.store(added + row * nprobe + at, _rounded(bias, scale, lowest).to(tl.int32), mask=at < nprobe)


def quantize(tables: Tensor, biases: Tensor | None, norms: int = 0, weight: int = 0) -> Tables:
    """The twin of kernels.fastscan.quantize."""
    nq, m, device, deep = tables.shape[0], tables.shape[-2], tables.device, tables.dim() == 4
    if not m or tables.dtype != torch.float32 or (biases is not None and (biases.dtype != torch.float32 or not biases.shape[1])):
        return NotImplemented
    tables, given = tables.contiguous(), tables if biases is None else biases.contiguous()
    nprobe = 1 if biases is None else biases.shape[1]
    rows, plain = tables.numel() // (16 * m), m - norms if weight else m
    least, spans = torch.empty(rows, m, device=device), torch.empty(rows, m, device=device)
    starts, widest, reaches = torch.empty(3, rows, device=device)
    luts = torch.zeros(rows, 2 if weight else 1, m + m % 2, 16, dtype=torch.uint8, device=device)
    added = None if biases is None else torch.empty(biases.shape, dtype=torch.int32, device=device)
    scales, firsts = torch.empty(2, nq, device=device)
    how = {"DEEP": deep, "BP": _PARTS, "num_warps": 1, "enable_fp_fusion": False}
    over = {"BIASED": biases is not None, "BL": _LISTS}
    if rows:
        with on(tables):
            _spans[(rows,)](tables, given, least, spans, starts, widest, m, **how)
            _reaches[(rows,)](given, spans, starts, reaches, m, nprobe, plain, float(weight), **how, **over)
            _entries[(rows,)](
                tables,
                given,
                least,
                starts,
                widest,
                reaches,
                luts,
                luts if added is None else added,
                scales,
                firsts,
                m,
                nprobe,
                plain,
                m + m % 2,
                TABLES=luts.shape[1],
                **how,
                **over,
            )
    return Tables(luts, added, scales, firsts, weight)
