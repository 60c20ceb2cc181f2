"""Filling empty clusters with halves of others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.numba.jit import jit

_NUDGE = np.float32(1.0 / 1024)


@jit
def _donors(sizes, empty, words, tried, room, found):
    k, at, done = sizes.shape[0], 0, 0
    for taker in empty:
        donor = -1
        while donor < 0 and tried < 10 * k and at < words.shape[0]:
            j = tried % k
            if np.float32(words[at]) / np.float32(4294967296.0) < np.float32((np.float64(sizes[j]) - 1.0) / room):
                donor = j
            at += 1
            tried += 1
        if donor < 0:
            if tried < 10 * k:
                break
            donor = np.argmax(sizes)
        sizes[taker] = sizes[donor] / np.float32(2)
        sizes[donor] -= sizes[taker]
        found[done] = donor
        done += 1
        tried = 0
    return done, tried


def donors(sizes: Tensor, empty: Tensor, words: Tensor, tried: int, room: int) -> tuple[Tensor, int]:
    found = np.empty(empty.shape[0], dtype=np.int64)
    done, tried = _donors(sizes.numpy(), empty.numpy(), words.numpy().view(np.uint32), tried, float(room), found)
    return torch.from_numpy(found[:done].copy()), tried


@jit
def _halve(centroids, taken, given):
    up, down = np.float32(1) + _NUDGE, np.float32(1) - _NUDGE
    for i in range(taken.shape[0]):
        to, donor = centroids[taken[i]], centroids[given[i]]
        for j in range(to.shape[0]):
            value = donor[j]
            to[j] = value * (up if j % 2 == 0 else down)
            donor[j] = value * (down if j % 2 == 0 else up)


def halve(centroids: Tensor, taken: Tensor, given: Tensor) -> Tensor:
    if centroids.dtype != torch.float32 or not centroids.is_contiguous():
        return NotImplemented
    _halve(centroids.numpy(), taken.numpy(), given.numpy())
    return centroids
