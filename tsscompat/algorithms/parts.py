"""Lists cut into parts of vectors that lie together, and orders of the entries within lists.

Parts are made by halving: each half of a list, of that half and so on is cut at the median of the dimension in which it is widest, until
it has few rows. A part is a list itself: `Parts.lists` has the same entries as the lists, in another order, with parts for lists, so that
everything that scans lists scans parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.ivf import Decoded, Flat, ListCodec, Product, Scalar
from tsscompat.kernels.ivf_lists import Ragged, runs
from tsscompat.records import changed, record

# Rows of a part at most; numbers of vectors that are held while parts are made.
ROWS, _BLOCK = 64, 1 << 26
# Vectors of rows of the arena, which belong to these lists.
Vectors = Callable[[Tensor, Tensor], Tensor]


@record
class Parts:
    """Parts first[l] : first[l + 1] are those of list l; the vectors of part i lie within radii[i] of centers[i]."""

    lists: Ragged
    order: Tensor  # (n,) the row of the lists' arena that each row is
    home: Tensor  # (parts,)
    first: Tensor  # (nlist + 1,)
    centers: Tensor  # (parts, d)
    radii: Tensor  # (parts,)


def halved(x: Tensor, groups: Tensor, most: int) -> Tensor:
    """Finer groups of rows, none larger than `most`, in the order of the groups that they are of."""
    while True:
        groups = torch.unique(groups, return_inverse=True)[1]
        counts = torch.bincount(groups)
        if int(counts.max()) <= most:
            return groups
        sums = torch.zeros(counts.shape[0], x.shape[1], device=x.device).index_add_(0, groups, x)
        mean = sums / counts[:, None]
        spread = torch.zeros_like(sums).index_add_(0, groups, (x - mean[groups]).square())
        widest = spread.argmax(1)[groups]
        by_value = torch.argsort(x.gather(1, widest[:, None])[:, 0], stable=True)
        order = by_value[torch.argsort(groups[by_value], stable=True)]
        rank = torch.empty_like(groups)
        rank[order] = torch.arange(groups.shape[0], device=x.device) - (counts.cumsum(0) - counts)[groups[order]]
        groups = 2 * groups + ((rank >= (counts[groups] + 1) // 2) & (counts[groups] > most))


def cut(lists: Ragged, vectors: Vectors, d: int) -> Parts:
    """The parts of lists whose rows stand for `vectors`."""
    ends = lists.sizes.cumsum(0)
    blocks = ((ends - 1).clamp(min=0) * d // _BLOCK).tolist()
    order, sizes, home, centers, radii = [], [], [], [], []
    for block in sorted(set(blocks)):
        chosen = torch.tensor([l for l, b in enumerate(blocks) if b == block], device=lists.ids.device)
        rows, which = runs(lists.offsets[chosen], lists.sizes[chosen])
        if not rows.shape[0]:
            continue
        x = vectors(rows, chosen[which])
        groups = halved(x, which, ROWS)
        by_group = torch.argsort(groups, stable=True)
        counts = torch.bincount(groups)
        middle = torch.zeros(counts.shape[0], d, device=x.device).index_add_(0, groups, x) / counts[:, None]
        gap = (x - middle[groups]).square().sum(1).sqrt()
        order.append(rows[by_group])
        sizes.append(counts)
        home.append(chosen[which[by_group][counts.cumsum(0) - counts]])
        centers.append(middle)
        radii.append(torch.zeros(counts.shape[0], device=x.device).scatter_reduce_(0, groups, gap, "amax"))
    none = torch.empty(0, dtype=torch.int64, device=lists.ids.device)
    all_rows, all_sizes, all_home = torch.cat([none, *order]), torch.cat([none, *sizes]), torch.cat([none, *home])
    of_list = torch.bincount(all_home, minlength=lists.nlist)
    return Parts(
        Ragged(lists.codes[all_rows], lists.ids[all_rows], all_sizes.cumsum(0) - all_sizes, all_sizes),
        all_rows,
        all_home,
        torch.cat([none.new_zeros(1), of_list.cumsum(0)]),
        torch.cat([torch.empty(0, d, device=none.device), *centers]),
        torch.cat([torch.empty(0, device=none.device), *radii]),
    )


def reordered(lists: Ragged, order: Tensor) -> Ragged:
    """The lists with their entries in another order: rows in list order."""
    return Ragged(lists.codes[order], lists.ids[order], lists.sizes.cumsum(0) - lists.sizes, lists.sizes)


def understood(codec: ListCodec) -> bool:
    """Whether a codec measures distances to what its codes decode to, and can be carried over to parts."""
    return type(codec) in (Flat, Product, Scalar, Decoded)


def carried(codec: Any, order: Tensor, home: Tensor | None) -> Any:
    """The codec for rows in another order and, where `home` says which list each part is of, for parts as lists."""
    if isinstance(codec, Flat):
        return codec
    if isinstance(codec, Product) and codec.terms is not None:
        codec = changed(codec, terms=codec.terms[order])
    if home is None:
        return codec
    if isinstance(codec, Decoded):
        decode = codec.decode
        return changed(codec, decode=lambda codes, list_nos: decode(codes, home[list_nos]))
    return codec if codec.centers is None else changed(codec, centers=codec.centers[home])
