"""Heaps of words of 64 bits, the largest at the root: a cost above a number, so that one comparison orders both."""

from __future__ import annotations

from tsscompat.kernels.numba.jit import inline


@inline
def sink(heap, n, word):  # type: ignore[no-untyped-def]
    """Put a word in the place of the root of the first n."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= word:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = word
