"""A table of nearest neighbours by NN-descent, with the draws of FAISS on one thread."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.algorithms.random import RandomGenerator
from tsscompat.errors import check
from tsscompat.kernels import flat, nndescent
from tsscompat.kernels.metrics import is_similarity
from tsscompat.records import record

# What stands in a place of a pool that holds nothing.
_FREE = torch.iinfo(torch.int64).max
# What FAISS multiplies the seed with, for each thing that it draws.
_JOINS, _POOLS, _BACK = 6007, 7741, 5081


@record
class Settings:
    """Neighbours wanted, room of a pool, new candidates sampled, edges followed back, rounds, seed."""

    neighbours: int
    pool: int
    sample: int
    back: int
    rounds: int
    seed: int
    metric: int
    arg: float = 0.0


def drawn(rng: RandomGenerator, times: int, size: int, n: int) -> Tensor:
    """`times` draws of `size` different numbers below n: (times, size)."""
    check(0 < size <= n, "{} different numbers of {} cannot be drawn", size, n)
    if size == n:
        return torch.stack([_shuffled(rng, n) for _ in range(times)])
    words = torch.from_numpy(rng.raw(times * (size + 1)).astype("int64")).view(times, size + 1)
    rank = torch.arange(size)
    # Sorted numbers, each made larger than the one before it.
    spread = ((words[:, :size] % (n - size)).sort(1).values - rank).cummax(1).values + rank
    return (spread + words[:, size:] % n) % n


def _shuffled(rng: RandomGenerator, n: int) -> Tensor:
    names = list(range(n))
    for i in range(n - 1, 0, -1):
        j = rng.rand_int(i + 1)
        names[i], names[j] = names[j], names[i]
    return torch.tensor(names)


def build(rows: Tensor, how: Settings) -> Tensor:
    """The neighbours of each row (n, neighbours) int32, nearest first; -1 where fewer were found."""
    n = rows.shape[0]
    new = drawn(RandomGenerator(how.seed * _JOINS), n, 2 * how.sample, n).int()
    pools, sizes = _begun(rows, drawn(RandomGenerator(how.seed * _POOLS), n, how.sample, n), how)
    old = torch.empty(n, 0, dtype=torch.int32)
    reach = torch.full((n,), how.sample, dtype=torch.int32)
    for _ in range(how.rounds):
        nndescent.join(rows, pools, sizes, new, old, how.metric, how.arg)
        reach = _reach(pools, sizes, reach, how.sample)
        words = RandomGenerator(how.seed * _BACK).words(nndescent.draws(pools, sizes, reach, how.back) if how.back else 0)
        new, old = nndescent.sampled(pools, sizes, reach, how.sample, how.back, words)
    return _nearest(pools, how.neighbours)


def _begun(rows: Tensor, names: Tensor, how: Settings) -> tuple[Tensor, Tensor]:
    """Pools that hold the nodes drawn for them, but no node itself."""
    n = rows.shape[0]
    costs = flat.named_distances(rows, rows, names, how.metric, how.arg)
    costs = -costs if is_similarity(how.metric) else costs
    own = names == torch.arange(n)[:, None]
    words = torch.where(own, -_FREE, nndescent.words(costs, names)).sort(1, descending=True).values
    pools = torch.full((n, max(how.pool, how.sample)), _FREE)
    pools[:, : how.sample] = torch.where(words == -_FREE, _FREE, words)
    return pools, (~own).sum(1).int()


def _reach(pools: Tensor, sizes: Tensor, reach: Tensor, sample: int) -> Tensor:
    """How many of each pool's best are looked at: `sample` more, cut where so many were not compared yet."""
    rank = torch.arange(pools.shape[1])
    best_first = pools.gather(1, (sizes[:, None] - 1 - rank).clamp(min=0))
    fresh = (best_first & 1) == 0
    before = fresh.cumsum(1) - fresh.long()
    return ((rank < torch.minimum(reach + sample, sizes)[:, None]) & (before < sample)).sum(1).int()


def _nearest(pools: Tensor, k: int) -> Tensor:
    words = pools.sort(1).values[:, :k]
    return torch.where(words == _FREE, -1, (words & 0xFFFFFFFF) >> 1).int()
