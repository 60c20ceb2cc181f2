"""FAISS's functions on Hamming distances: of arrays (knn_hamming), else of pointers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array, Batch, as_tensor
from tsscompat.devices import default_device
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.binary import all_within, check_topk_mode
from tsscompat.faiss_compat.distances import RangeSearchResult
from tsscompat.faiss_compat.enums import EXACT_TOPK
from tsscompat.faiss_compat.heaps import HeapArray
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.selectors import IDSelector
from tsscompat.kernels import hamming as kernel

# FAISS's functions with a threshold exist for these sizes of codes.
_THRESHOLD_SIZES = (8, 16, 32, 64)


def _allowed(sel: IDSelector | None, n: int) -> Tensor | None:
    return None if sel is None else sel._mask(torch.arange(n))


def knn_hamming(xq: Array, xb: Array, k: int, variant: str = "hc") -> tuple[Array, Array]:
    """The k rows of xb nearest to each row of xq: distances (int32) and row numbers; both of FAISS's variants answer the same here."""
    if variant not in ("hc", "mc"):
        raise NotImplementedError(f"variant {variant!r}: expected 'hc' or 'mc'")
    expect(xq.shape[1] == xb.shape[1], "codes of {} and {} bytes", xq.shape[1], xb.shape[1])
    queries, back = as_tensor(xq, torch.uint8, default_device())
    distances, labels = kernel.knn(queries, as_tensor(xb, torch.uint8, queries.device)[0], k)
    batch = Batch(queries, back)
    return batch.give_back(distances), batch.give_back(labels)


def hammings(a: Any, b: Any, na: int, nb: int, nbytespercode: int, dis: Any) -> None:
    """All distances between two tables of codes."""
    behind(dis, na, nb).copy_(kernel.hamming(behind(a, na, nbytespercode), behind(b, nb, nbytespercode)))


def _into_heaps(ha: HeapArray, a: Any, b: Any, nb: int, size: int, whole_bytes: bool, allowed: Tensor | None) -> None:
    distances, labels = kernel.knn(behind(a, ha.nh, size), behind(b, nb, size), ha.k, whole_bytes, allowed)
    behind(ha.val, ha.nh, ha.k).copy_(distances)
    behind(ha.ids, ha.nh, ha.k).copy_(labels)


def hammings_knn_hc(
    ha: HeapArray, a: Any, b: Any, nb: int, ncodes: int, ordered: int, approx_topk_mode: int = EXACT_TOPK,
    sel: IDSelector | None = None,
) -> None:  # fmt: skip
    """The nearest of nb codes to each query, into heaps; in order, which `ordered` asks for."""
    check_topk_mode(approx_topk_mode, ha.k)
    _into_heaps(ha, a, b, nb, ncodes, False, _allowed(sel, nb))


def hammings_knn(ha: HeapArray, a: Any, b: Any, nb: int, ncodes: int, ordered: int) -> None:
    """FAISS's older name of hammings_knn_hc."""
    hammings_knn_hc(ha, a, b, nb, ncodes, ordered)


def generalized_hammings_knn_hc(ha: HeapArray, a: Any, b: Any, nb: int, code_size: int, ordered: int = True) -> None:
    """The same by how many bytes differ."""
    _into_heaps(ha, a, b, nb, code_size, True, None)


def hammings_knn_mc(
    a: Any, b: Any, na: int, nb: int, k: int, ncodes: int, distances: Any, labels: Any, sel: IDSelector | None = None
) -> None:
    """The k nearest of nb codes to each of na queries."""
    found = kernel.knn(behind(a, na, ncodes), behind(b, nb, ncodes), k, False, _allowed(sel, nb))
    behind(distances, na, k).copy_(found[0])
    behind(labels, na, k).copy_(found[1])


def hamming_range_search(
    a: Any, b: Any, na: int, nb: int, radius: int, ncodes: int, result: RangeSearchResult, sel: IDSelector | None = None
) -> None:
    """All of nb codes nearer than a radius to each of na queries."""
    lims, distances, labels = all_within(behind(a, na, ncodes), behind(b, nb, ncodes), radius, _allowed(sel, nb))
    result.fill(lims, distances.float(), labels)


def _near(bs1: Any, bs2: Any, n1: int, n2: int, ht: int, ncodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of codes at a threshold or nearer: limits by the first, distances, the second."""
    check(ncodes in _THRESHOLD_SIZES, "not implemented for {} bits", 8 * ncodes)
    return all_within(behind(bs1, n1, ncodes), behind(bs2, n2, ncodes), ht + 1)


def hamming_count_thres(bs1: Any, bs2: Any, n1: int, n2: int, ht: int, ncodes: int, nptr: Any) -> None:
    """How many pairs of codes of two tables are at a threshold or nearer."""
    behind(nptr, 1).view(torch.int64)[0] = _near(bs1, bs2, n1, n2, ht, ncodes)[0][-1]


def crosshamming_count_thres(dbs: Any, n: int, ht: int, ncodes: int, nptr: Any) -> None:
    """How many pairs of different rows of a table are at a threshold or nearer."""
    lims, _, other = _near(dbs, dbs, n, n, ht, ncodes)
    behind(nptr, 1).view(torch.int64)[0] = (other > torch.repeat_interleave(lims.diff())).sum()


def match_hamming_thres(bs1: Any, bs2: Any, n1: int, n2: int, ht: int, ncodes: int, idx: Any, dis: Any) -> int:
    """Write the pairs of rows at a threshold or nearer and their distances; returns how many."""
    lims, distances, second = _near(bs1, bs2, n1, n2, ht, ncodes)
    n = int(lims[-1])
    behind(idx, n, 2).copy_(torch.stack([torch.repeat_interleave(lims.diff()), second], 1))
    behind(dis, n).copy_(distances)
    return n


def bincode_hist(n: int, nbits: int, codes: Any, hist: Any) -> None:
    """How often each bit is set in n codes."""
    check(nbits % 8 == 0, "expected a multiple of 8 bits, got {}", nbits)
    behind(hist, nbits).copy_(kernel.bits_of(behind(codes, n, nbits // 8)).sum(0, dtype=torch.float64))


def popcount32(x: int) -> int:
    """How many bits of a 32-bit word are set."""
    return (int(x) & 0xFFFFFFFF).bit_count()


def popcount64(x: int) -> int:
    """How many bits of a 64-bit word are set."""
    return (int(x) & 0xFFFFFFFFFFFFFFFF).bit_count()


def generalized_hamming_64(a: int) -> int:
    """How many bytes of a 64-bit word are not zero."""
    return sum(byte > 0 for byte in (int(a) & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little"))


__all__ = [
    "bincode_hist",
    "crosshamming_count_thres",
    "generalized_hamming_64",
    "generalized_hammings_knn_hc",
    "hamming_count_thres",
    "hamming_range_search",
    "hammings",
    "hammings_knn",
    "hammings_knn_hc",
    "hammings_knn_mc",
    "knn_hamming",
    "match_hamming_thres",
    "popcount32",
    "popcount64",
]
