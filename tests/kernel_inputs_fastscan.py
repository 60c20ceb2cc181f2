"""Arguments of the fast-scan kernels (see kernel_inputs.py)."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from tsscompat.kernels import fastscan
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT, L2


def one_of(draw, *values):
    return draw(st.sampled_from(values))


def blocks(draw, parts: int, n: int, per_block: int) -> Tensor:
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    made = torch.randint(0, 256, (n, (parts + 1) // 2 * per_block + one_of(draw, 0, 5)), dtype=torch.uint8)
    return made.contiguous()


def take_rows(draw):
    parts, per_block = one_of(draw, 1, 2, 7, 16), one_of(draw, 32, 64, 96)
    made = blocks(draw, parts, 3, per_block)
    rows = torch.randint(0, 3 * per_block, (one_of(draw, 0, 1, 50),))
    return made, rows, per_block, (parts + 1) // 2


def put_rows(draw):
    made, rows, per_block, size = take_rows(draw)
    codes = torch.randint(0, 256, (rows.unique().shape[0], size), dtype=torch.uint8)
    return made, rows.unique(), codes, per_block


def floats(draw, nq: int, nprobe: int, parts: int, keys: Tensor) -> tuple[Tensor, Tensor | None]:
    """Tables and biases: of all lists, with biases, or of each list."""
    kind = one_of(draw, "plain", "biased", "deep")
    spread = one_of(draw, 0.0, 1.0, 300.0)
    biases = (torch.randn(nq, nprobe) * spread).masked_fill(keys < 0, torch.nan)
    if kind == "deep":
        return torch.randn(nq, nprobe, parts, 16).masked_fill((keys < 0)[:, :, None, None], torch.nan), biases
    return torch.randn(nq, parts, 16), biases if kind == "biased" else None


def probes(draw, nq: int, nlist: int) -> Tensor:
    keys = torch.rand(nq, nlist).argsort(1)[:, : one_of(draw, 1, 3, nlist)].contiguous()
    return torch.where(torch.rand(keys.shape) < 0.1, -1, keys)


def quantize(draw):
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    nq, parts = one_of(draw, 0, 1, 5), one_of(draw, 1, 2, 7, 16)
    keys = probes(draw, nq, 5)
    # One list is always probed.
    keys[:, 0] = 1
    weight = one_of(draw, 0, 3) if parts > 2 else 0
    return *floats(draw, nq, keys.shape[1], parts, keys), 2 if weight else 0, weight


def scan(draw) -> tuple:
    parts, per_block, nlist = one_of(draw, 1, 2, 7, 16), one_of(draw, 32, 64), 6
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    sizes = torch.randint(0, 150, (nlist,))
    sizes[2] = 0
    rooms = (sizes + per_block - 1) // per_block * per_block + per_block
    n = int(rooms.sum())
    lists = Ragged(blocks(draw, parts, n // per_block, per_block), torch.randperm(n), rooms.cumsum(0) - rooms, sizes)
    keys = probes(draw, one_of(draw, 0, 1, 2, 9), nlist)
    weight = one_of(draw, 0, 3) if parts > 2 else 0
    tables = fastscan.quantize.definition(*floats(draw, *keys.shape, parts, keys), 2 if weight else 0, weight)
    return tables, lists, per_block, keys


def options(draw, lists: Ragged, keys: Tensor) -> tuple:
    allowed = torch.rand(lists.ids.shape[0]) < one_of(draw, 0.02, 0.5) if draw(st.booleans()) else None
    return allowed, torch.randint(0, 100, keys.shape) if draw(st.booleans()) else None, draw(st.booleans())


def results(draw) -> int:
    """Few are kept in a heap, more in a reservoir, which is put in order in one way or another."""
    return one_of(draw, 1, 7, 20, 21, 40, 300)


def scan_blocks(draw):
    tables, lists, per_block, keys = scan(draw)
    return tables, lists, per_block, keys, results(draw), draw(st.booleans()), *options(draw, lists, keys)


def within_blocks(draw):
    tables, lists, per_block, keys = scan(draw)
    radius = one_of(draw, -1e9, -2.0, 0.0, 3.0, 1e9)
    return tables, lists, per_block, keys, radius, draw(st.booleans()), *options(draw, lists, keys)


def block_sums(draw):
    parts, per_block = one_of(draw, 2, 4, 16, 300), one_of(draw, 32, 64)
    made = blocks(draw, parts, 3, per_block)
    return torch.randint(0, 256, (one_of(draw, 0, 1, 3), parts, 16), dtype=torch.uint8), made, per_block


def product(draw) -> tuple:
    """Queries, centroids (M, dsub, 16), and lists of codes in blocks."""
    tables, lists, per_block, keys = scan(draw)
    dsub, m = one_of(draw, 1, 4), tables.parts - draw(st.integers(0, 1))
    return torch.randn(keys.shape[0], m * dsub), torch.randn(m, dsub, 16), lists, per_block


def few_rows(draw):
    x, transposed, lists, per_block = product(draw)
    run, n = 2 * per_block, lists.codes.shape[0] * per_block - 3
    offsets = torch.arange(0, n, run)
    whole = Ragged(lists.codes, lists.ids, offsets, (n - offsets).clamp(max=run))
    return x, transposed, one_of(draw, L2, INNER_PRODUCT), whole, per_block, results(draw)


def few_lists(draw):
    x, transposed, lists, per_block = product(draw)
    metric, residual, nlist = one_of(draw, L2, INNER_PRODUCT), draw(st.booleans()), lists.nlist
    terms = torch.rand(nlist, transposed.shape[0], 16) if residual and metric == L2 else None
    parts = (transposed, metric, residual, terms)
    return x, torch.randn(nlist, x.shape[1]), one_of(draw, 1, 4), *parts, lists, per_block, results(draw)


INPUTS = {
    f"fastscan.{made.__name__}": made
    for made in (take_rows, put_rows, quantize, scan_blocks, within_blocks, block_sums, few_rows, few_lists)
}
