"""Functions of FAISS's C++ on plain arrays behind pointers: sorting, counting, sampling, merging, and names of file sections."""

from __future__ import annotations

import math
from typing import Any

import torch

from tsscompat.algorithms import kmeans
from tsscompat.algorithms.random import rand_perm
from tsscompat.errors import check
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vector_arrays import swig_ptr

# -- numbers --------------------------------------------------------------------------------------------------------------------------


def fvec_argsort(n: int, vals: Any, perm: Any) -> None:
    """The places of n numbers in ascending order."""
    behind(perm, n).view(torch.int64).copy_(behind(vals, n).sort(stable=True).indices)


fvec_argsort_parallel = fvec_argsort


def ivec_hist(n: int, v: Any, vmax: int, hist: Any) -> int:
    """How often each value below vmax is among n; returns how many values are beyond."""
    values = behind(v, n).long()
    inside = (values >= 0) & (values < vmax)
    behind(hist, vmax).copy_(torch.bincount(values[inside], minlength=vmax))
    return n - int(inside.sum())


def kmeans1d(x: Any, n: int, nclusters: int, centroids: Any) -> float:
    """The exact k-means of n numbers; returns the imbalance of the clusters."""
    found, imbalance = kmeans.kmeans_1d(behind(x, n), nclusters)
    behind(centroids, nclusters).copy_(found)
    return imbalance


# -- matrices -------------------------------------------------------------------------------------------------------------------------


def fvecs_maybe_subsample(d: int, n: Any, nmax: int, x: Any, verbose: bool = False, seed: int = 1234) -> Any:
    """The vectors, or nmax of them drawn at random where there are more; `n` points to their number, which becomes that of the draw."""
    count = behind(n, 1).view(torch.int64)
    total = int(count[0])
    if total <= nmax:
        return x
    if verbose:
        print(f"  Input training set too big (max size is {nmax}), sampling {nmax} / {total} vectors")
    count.fill_(nmax)
    given = behind(x, total, d)
    return swig_ptr(given[rand_perm(total, seed)[:nmax].long().to(given.device)].contiguous())


def matrix_qr(m: int, n: int, a: Any) -> None:
    """Make n vectors of m numbers orthonormal, the way QR decomposition does."""
    check(m >= n, "expected at least as many dimensions as vectors, got {} and {}", m, n)
    vectors = behind(a, n, m)
    vectors.copy_(torch.linalg.qr(vectors.T).Q.T)


def inner_product_to_L2sqr(dis: Any, nr1: Any, nr2: Any, n1: int, n2: int) -> None:
    """Squared distances from a table of inner products and the squared norms of rows and columns, in place."""
    table = behind(dis, n1, n2)
    table.copy_(behind(nr1, n1, 1) + behind(nr2, 1, n2) - 2 * table)


# -- results --------------------------------------------------------------------------------------------------------------------------


def merge_result_table_with(
    n: int, k: int, I0: Any, D0: Any, I1: Any, D1: Any, keep_min: bool = True, translation: int = 0
) -> int:
    """Merge the second table of results into the first; returns how many it gave. FAISS takes its negative distances for missing."""
    labels, distances = behind(I0, n, k), behind(D0, n, k)
    other_labels, other_distances = behind(I1, n, k).tolist(), behind(D1, n, k).tolist()
    taken = 0
    for row, (ids0, dis0, ids1, dis1) in enumerate(zip(labels.tolist(), distances.tolist(), other_labels, other_distances)):
        found: list[tuple[int, float]] = []
        at = from_second = 0
        for _ in range(k):
            ahead = dis0[at] < dis1[from_second] if keep_min else dis0[at] > dis1[from_second]
            if ids0[at] >= 0 and ahead:
                found.append((ids0[at], dis0[at]))
                at += 1
            elif dis1[from_second] >= 0:
                found.append((ids1[from_second] + translation, dis1[from_second]))
                from_second += 1
            else:
                found.append((-1, math.nan))
        taken += from_second
        labels[row] = torch.tensor([i for i, _ in found])
        distances[row] = torch.tensor([d for _, d in found])
    return taken


# -- tags -----------------------------------------------------------------------------------------------------------------------------


def fourcc(sx: str) -> int:
    """The number that four characters are written to files as."""
    check(len(sx) == 4, "expected four characters, got {!r}", sx)
    return int.from_bytes(sx.encode("latin-1"), "little")


def fourcc_inv(x: int) -> str:
    """The four characters of a number."""
    return x.to_bytes(4, "little").split(b"\0")[0].decode("latin-1")


def fourcc_inv_printable(x: int) -> str:
    """The four characters of a number, those that cannot be printed as \\x and two digits."""
    return "".join(chr(c) if 32 <= c < 127 else f"\\x{c:02x}" for c in x.to_bytes(4, "little"))


__all__ = [
    "fourcc",
    "fourcc_inv",
    "fourcc_inv_printable",
    "fvec_argsort",
    "fvec_argsort_parallel",
    "fvecs_maybe_subsample",
    "inner_product_to_L2sqr",
    "ivec_hist",
    "kmeans1d",
    "matrix_qr",
    "merge_result_table_with",
]
