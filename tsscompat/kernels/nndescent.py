"""NN-descent: a table of nearest neighbours, made better by comparing the neighbours of neighbours with each other.

Each node has a pool (n, room) of candidates as words, worst first: a cost as an integer of the same order, then a number, then whether it
was compared before. Costs are distances, or negated similarities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.graph import _costs


def words(costs: Tensor, names: Tensor) -> Tensor:
    """Candidates that were not compared yet as words."""
    bits = costs.float().view(torch.int32).long()
    size = (bits & 0x7FFFFFFF).clamp(max=0x7F800000)  # NaN is as bad as infinity
    return (torch.where(bits >= 0, size, -size) << 32) | (names.long() << 1)


def name_of(word: int) -> int:
    return (word & 0xFFFFFFFF) >> 1


def _insert(pools: Tensor, sizes: Tensor, node: int, word: int) -> None:
    """Enter a candidate, unless it is worse than the worst or there already; as in FAISS, even when there are places free."""
    size = int(sizes[node])
    held: list[int] = pools[node, :size].tolist()
    if (size and word >> 32 > max(held) >> 32) or any(name_of(w) == name_of(word) for w in held):
        return
    if size == pools.shape[1]:
        if word > max(held):
            return
        held.remove(max(held))
    held.append(word)
    pools[node, : len(held)] = torch.tensor(sorted(held, reverse=True))
    sizes[node] = len(held)


@accelerated
def join(rows: Tensor, pools: Tensor, sizes: Tensor, new: Tensor, old: Tensor, metric: int, arg: float = 0.0) -> None:
    """For each node compare its new candidates (n, a) with each other and with its old ones (n, b), and enter them at each other."""
    for node in range(rows.shape[0]):
        fresh, known = ([i for i in table[node].tolist() if i >= 0] for table in (new, old))
        for one in fresh:
            others = [i for i in fresh if one < i] + [i for i in known if i != one]
            if not others:
                continue
            names = torch.tensor([others])
            made = words(_costs(rows[one][None], rows, names, metric, arg)[0], names[0]).tolist()
            for other, word in zip(others, made):
                _insert(pools, sizes, one, word)
                _insert(pools, sizes, other, (word >> 32 << 32) | (one << 1))


@accelerated
def draws(pools: Tensor, sizes: Tensor, reach: Tensor, back: int) -> int:
    """How many random words `sampled` takes."""
    wanted = torch.zeros(pools.shape[0], 2, dtype=torch.int64)
    for node in range(pools.shape[0]):
        for at in range(int(reach[node])):
            word = int(pools[node, int(sizes[node]) - 1 - at])
            other = name_of(word)
            wanted[other, word & 1] += word >> 32 > int(pools[other, 0]) >> 32
    return int((wanted - back).clamp(min=0).sum())


@accelerated
def sampled(pools: Tensor, sizes: Tensor, reach: Tensor, sample: int, back: int, random: Tensor) -> tuple[Tensor, Tensor]:
    """The candidates to compare next, new ones (n, sample + back) and old ones (n, 2 back), of the best `reach` of each node; -1 for none.

    A node also gets up to `back` of those that have it within their reach but are beyond its own worst; later ones take random places.
    """
    n, drawn = pools.shape[0], 0
    forward: tuple[list[list[int]], ...] = ([[] for _ in range(n)], [[] for _ in range(n)])
    backward: tuple[list[list[int]], ...] = ([[] for _ in range(n)], [[] for _ in range(n)])
    for node in range(n):
        for at in range(int(reach[node])):
            place = int(sizes[node]) - 1 - at
            word = int(pools[node, place])
            other, kind = name_of(word), word & 1
            forward[kind][node].append(other)
            pools[node, place] = word | 1
            if back and word >> 32 > int(pools[other, 0]) >> 32:
                mine = backward[kind][other]
                if len(mine) < back:
                    mine.append(node)
                else:
                    mine[(int(random[drawn]) & 0xFFFFFFFF) % back] = node
                    drawn += 1
    tables = []
    for kind, width in enumerate((sample + back, 2 * back)):
        table = torch.full((n, width), -1, dtype=torch.int32)
        for node in range(n):
            names = (forward[kind][node] + backward[kind][node])[:width]
            table[node, : len(names)] = torch.tensor(names, dtype=torch.int32)
        tables.append(table)
    return tables[0], tables[1]
