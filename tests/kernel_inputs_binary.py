"""Arguments of the kernels on binary codes."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged

NLIST = 9


def codes_of(n: int, size: int) -> Tensor:
    """Codes of few different bits, so that distances are often tied."""
    return torch.randint(0, 256, (n, size), dtype=torch.uint8) & 0x13


def size_of(draw) -> int:
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    return draw(st.sampled_from([1, 3, 8, 13, 16, 24, 32, 40, 64, 130]))


def knn(draw):
    size, nq, nb = size_of(draw), draw(st.sampled_from([0, 1, 3, 5, 9])), draw(st.sampled_from([0, 1, 33, 530]))
    allowed = torch.rand(nb) < 0.5 if draw(st.booleans()) else None
    return codes_of(nq, size), codes_of(nb, size), draw(st.integers(1, 40)), draw(st.booleans()), allowed


def lists_of(size: int) -> Ragged:
    """Lists with gaps between them."""
    sizes = torch.randint(0, 30, (NLIST,))
    offsets = torch.cumsum(sizes + torch.randint(0, 3, (NLIST,)), 0) - sizes
    total = int(offsets[-1] + sizes[-1])
    return Ragged(codes_of(total, size), torch.randperm(3 * total)[:total], offsets, sizes)


def probed(draw) -> tuple[Tensor, Ragged, Tensor]:
    size = size_of(draw)
    nq, nprobe = draw(st.sampled_from([0, 1, 4])), draw(st.sampled_from([1, 3]))
    keys = torch.rand(nq, NLIST).argsort(1)[:, :nprobe].contiguous()
    return codes_of(nq, size), lists_of(size), torch.where(torch.rand(keys.shape) < 0.1, -1, keys)


def scan(draw):
    x, lists, keys = probed(draw)
    limits = torch.randint(0, 40, keys.shape) if draw(st.booleans()) else None
    return x, lists, keys, draw(st.integers(1, 40)), limits, draw(st.booleans()), draw(st.booleans())


def within(draw):
    x, lists, keys = probed(draw)
    allowed = torch.rand(lists.ids.shape[0]) < 0.5 if draw(st.booleans()) else None
    return x, lists, keys, draw(st.integers(-1, 40)), allowed, draw(st.booleans())


def search_lists(draw):
    x, lists, _ = probed(draw)
    return x, codes_of(NLIST, x.shape[1]), draw(st.integers(1, NLIST)), lists, draw(st.integers(1, 12))


def numbers(draw) -> tuple[Tensor, Tensor]:
    torch.manual_seed(draw(st.integers(0, 1 << 20)))
    n = draw(st.sampled_from([0, 1, 5, 70]))
    return torch.randint(-(1 << 62), 1 << 62, (n,)), torch.randint(0, 65, (n,))


def read_bits(draw):
    _, widths = numbers(draw)
    return torch.randint(0, 256, (int(widths.sum()) // 8 + 1,), dtype=torch.uint8), widths


def read_groups(draw):
    size_of(draw)
    stream = torch.randint(0, 256, (draw(st.integers(0, 60)),), dtype=torch.uint8)
    bits = draw(st.integers(1, 64)), draw(st.integers(0, 9)), draw(st.integers(0, 9))
    return stream, draw(st.integers(0, 40)), *bits, draw(st.integers(0, 30))


BINARY = {
    "bitstream.read_bits": read_bits,
    "bitstream.read_groups": read_groups,
    "bitstream.write_bits": numbers,
    "hamming.knn": knn,
    "hamming.scan": scan,
    "hamming.search_lists": search_lists,
    "hamming.within": within,
}
