"""Sharding the centroids of an IVF index into files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from tsscompat.errors import check
from tsscompat.faiss_compat.binary_io import write_index_binary
from tsscompat.faiss_compat.binary_ivf import IndexBinaryIVF
from tsscompat.faiss_compat.binary_meta import IndexBinaryIDMap2
from tsscompat.faiss_compat.idmap import IndexIDMap2
from tsscompat.faiss_compat.io import write_index
from tsscompat.faiss_compat.ivf import IndexIVF


class ShardingFunction:
    """Which shard a centroid belongs to."""

    def __call__(self, i: int, shard_count: int) -> int:
        raise NotImplementedError("a sharding function says which shard centroid i belongs to")


class DefaultShardingFunction(ShardingFunction):
    """Centroids are dealt out to the shards like cards."""

    def __call__(self, i: int, shard_count: int) -> int:
        return i % shard_count


def shard_ivf_index_centroids(
    index: IndexIVF,
    shard_count: int = 20,
    filename_template: str = "shard.%d.index",
    sharding_function: Callable[[int, int], int] | None = None,
    generate_ids: bool = False,
) -> None:
    """Write a copy of the index for each shard of its centroids to a file of its own; `generate_ids` keeps their numbers."""
    _shard(index, shard_count, filename_template, sharding_function, IndexIDMap2 if generate_ids else None, write_index)


def shard_binary_ivf_index_centroids(
    index: IndexBinaryIVF,
    shard_count: int = 20,
    filename_template: str = "shard.%d.index",
    sharding_function: Callable[[int, int], int] | None = None,
    generate_ids: bool = False,
) -> None:
    """The same for a binary index."""
    naming = IndexBinaryIDMap2 if generate_ids else None
    _shard(index, shard_count, filename_template, sharding_function, naming, write_index_binary)


def _shard(
    index: Any,
    shard_count: int,
    filename_template: str,
    sharding_function: Callable[[int, int], int] | None,
    naming: Callable[[Any], Any] | None,
    write: Callable[[Any, str], None],
) -> None:
    quantizer = index._coarse()
    check(quantizer.ntotal > 0, "no centroids to shard")
    check("%d" in filename_template, "expected a file name with %d in it, got {!r}", filename_template)
    choose = DefaultShardingFunction() if sharding_function is None else sharding_function
    shards: list[list[int]] = [[] for _ in range(shard_count)]
    for i in range(quantizer.ntotal):
        shards[choose(i, shard_count)].append(i)
    centroids = quantizer._reconstruct_n(0, quantizer.ntotal)
    blank: Any = copy.deepcopy(index)
    blank.quantizer._reset()
    for number, members in enumerate(shards):
        shard: Any = copy.deepcopy(blank)
        ids = torch.tensor(members, dtype=torch.int64, device=centroids.device)
        if naming is not None:
            shard.quantizer = naming(shard.quantizer)
            shard.quantizer._add_with_ids(centroids[ids], ids)
        else:
            shard.quantizer._add(centroids[ids], None)
        write(shard, filename_template % number)


__all__ = ["DefaultShardingFunction", "ShardingFunction", "shard_binary_ivf_index_centroids", "shard_ivf_index_centroids"]
