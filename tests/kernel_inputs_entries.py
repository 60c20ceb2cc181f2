"""Arguments of kernels for vectors that come and go one at a time."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from tsscompat.kernels.entries import PLAIN, PRODUCT, STEPS, Coder
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2

D, NLIST = 12, 9


def coder(draw) -> Coder:
    kind = draw(st.sampled_from([PLAIN, STEPS, PRODUCT]))
    if kind == PLAIN:
        return Coder(kind, D, 4 * D)
    if kind == PRODUCT:
        return Coder(kind, D, 3, centroids=torch.randn(3, 256, D // 3))
    bits, parts = draw(st.sampled_from([4, 6, 8])), draw(st.sampled_from([1, D]))
    extent = torch.rand(parts) * 3
    extent[0] = extent[0] * draw(st.integers(0, 1))
    return Coder(kind, D, (bits * D + 7) // 8, bits, torch.randn(parts) - 1, extent)


def lists_of(made: Coder) -> Ragged:
    sizes = torch.randint(0, 6, (NLIST,))
    rooms = sizes + 5
    n = int(rooms.sum())
    codes = torch.randint(0, 256, (n, made.code_size), dtype=torch.uint8)
    if made.kind == PLAIN:
        codes = torch.randn(n, D).view(torch.uint8)
    return Ragged(codes, torch.randperm(n), rooms.cumsum(0) - rooms, sizes)


def vectors(draw) -> torch.Tensor:
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    x = torch.randn(draw(st.integers(1, 4)), D)
    if draw(st.booleans()):
        x[0, 0] = torch.nan
    return x


def write_codes(draw):
    x, made = vectors(draw), coder(draw)
    at = draw(st.integers(0, 3)) * made.code_size
    return x, made, torch.zeros(at + (x.shape[0] + 1) * made.code_size, dtype=torch.uint8), at


def read_code(draw):
    vectors(draw)
    made, at = coder(draw), draw(st.integers(0, 3))
    lists = lists_of(made)
    return lists.codes.view(-1), at * made.code_size, made, torch.zeros(D)


def enter(draw):
    x, made = vectors(draw), coder(draw)
    lists, n = lists_of(made), x.shape[0]
    rooms, tail = lists.sizes + 5, torch.tensor([lists.ids.shape[0], 0])
    how = draw(st.sampled_from([L2, INNER_PRODUCT])), made.kind != PLAIN and draw(st.booleans())
    return x, torch.arange(n) * 7, made, torch.randn(NLIST, D), *how, lists, rooms, tail, torch.zeros(n, dtype=torch.int64)


def recall(draw):
    vectors(draw)
    made = coder(draw)
    lists, list_no, at = lists_of(made), draw(st.integers(-1, NLIST)), draw(st.integers(0, 7))
    return lists, list_no << 32 | at, made, torch.randn(NLIST, D) if draw(st.booleans()) else None, torch.zeros(D)


def transformed(draw):
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    n, d_in, d_out = draw(st.integers(0, 5)), draw(st.sampled_from([1, 7, 40])), draw(st.sampled_from([1, 16]))
    return torch.randn(n, d_in), torch.randn(d_out, d_in), torch.randn(d_out) if draw(st.booleans()) else None


INPUTS = {
    "entries.enter": enter,
    "entries.read_code": read_code,
    "entries.recall": recall,
    "entries.write_codes": write_codes,
    "transform.transformed": transformed,
}
