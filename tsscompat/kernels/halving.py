"""Filling empty clusters with halves of others."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated

# The two halves are pushed apart by this much: a little over the precision of float16.
NUDGE = 1.0 / 1024


@accelerated
def donors(sizes: Tensor, empty: Tensor, words: Tensor, tried: int, room: int) -> tuple[Tensor, int]:
    """The cluster that each empty one takes half of, as far as the random words go, and how often it was tried for the next one.

    Each cluster in turn is taken with a chance in proportion to its size; the largest, if none was in ten rounds. `tried` says how
    often it was tried for the first one with the words before these; the sizes (float32) follow in place.
    """
    held, k = sizes.tolist(), sizes.shape[0]
    draws = (words.long() & 0xFFFFFFFF).float() / 4294967296.0
    found: list[int] = []
    at = 0
    for taker in empty.tolist():
        donor = -1
        while donor < 0 and tried < 10 * k and at < draws.shape[0]:
            chance = torch.tensor((held[tried % k] - 1.0) / room, dtype=torch.float32)
            donor = tried % k if bool(draws[at] < chance) else -1
            at, tried = at + 1, tried + 1
        if donor < 0 and tried < 10 * k:
            break
        donor = max(range(k), key=held.__getitem__) if donor < 0 else donor
        held[taker] = held[donor] / 2
        held[donor] -= held[taker]
        found.append(donor)
        tried = 0
    sizes.copy_(torch.tensor(held))
    return torch.tensor(found, dtype=torch.int64), tried


@accelerated
def halve(centroids: Tensor, taken: Tensor, given: Tensor) -> Tensor:
    """Each centroid of `given` in turn split in two, the other half in the place of `taken`, in place."""
    push = torch.full((centroids.shape[1],), NUDGE, device=centroids.device)
    push[1::2] = -NUDGE
    for to, donor in zip(taken.tolist(), given.tolist(), strict=True):
        centroids[to] = centroids[donor] * (1 + push)
        centroids[donor] *= 1 - push
    return centroids
