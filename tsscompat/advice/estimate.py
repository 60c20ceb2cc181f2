"""What an index that is yet to be built will hold: the sizes that its factory string, d and n give, with no vector added."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

import tsscompat
from tsscompat.advice.memory import Memory, report
from tsscompat.algorithms.ragged import layout
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.downcast import kinds
from tsscompat.faiss_compat.ivf_pq import table_kind

_BINARY = re.compile(r"(.+,)?B(Flat|IVF|HNSW|Hash)")
L2: int = tsscompat.METRIC_L2
# FAISS warns when k-means has fewer points than this for each centroid.
POINTS = 39


def estimate_memory(key: str, d: int, n: int, metric: int = L2, device: Any = None, searched: bool = True) -> Memory:
    """What an index of a factory string, binary ones included, will hold with n vectors of d dimensions (bits) that were added in one go;
    `searched`: with the tables that searches keep."""
    expect(n >= 0, "n must not be negative, got {}", n)
    binary = _BINARY.match(key) is not None
    index: Any = tsscompat.index_binary_factory(d, key) if binary else tsscompat.index_factory(d, key, metric)
    parts = Counter[str]()
    if binary:
        _binary(index, n, "vectors", parts, searched)
    else:
        _weigh(index, n, "vectors", parts, searched)
    return report(parts, index, n, device or tsscompat.default_device(), _training(index, n))


def _training(index: Any, n: int) -> list[str]:
    """What training an index on n vectors would say, in FAISS's words; nothing of no vectors at all."""
    said = []
    for clusters in dict.fromkeys(_clusters(index)):
        if 0 < n < clusters:
            said.append(f"Number of training points ({n}) should be at least as large as number of clusters ({clusters})")
        elif 0 < n < POINTS * clusters:
            least = POINTS * clusters
            said.append(f"clustering {n} points to {clusters} centroids: please provide at least {least} training points")
    return said


def _clusters(index: Any) -> Iterator[int]:
    """How many clusters each k-means of an index's training makes."""
    what = kinds(index)
    for step in index.chain if "IndexPreTransform" in what else ():
        if "OPQMatrix" in kinds(step):
            yield 256 if step.pq is None else int(step.pq.ksub)
    for inside in ("base_index", "refine_index", "storage"):
        if getattr(index, inside, None) is not None:
            yield from _clusters(getattr(index, inside))
    if what & {"IndexPreTransform", "IndexIDMap", "IndexBinaryIDMap"}:
        yield from _clusters(index.index)
    if what & {"IndexIVF", "IndexBinaryIVF"}:
        yield from (_clusters(index.quantizer) if "MultiIndexQuantizer" in kinds(index.quantizer) else (int(index.nlist),))
    for code in ("pq", "refine_pq"):
        if getattr(index, code, None) is not None:
            yield int(getattr(index, code).ksub)


def _weigh(index: Any, n: int, place: str, parts: Counter[str], searched: bool) -> None:
    """Add up what an empty index will hold; `place` is where its vectors go."""
    what = kinds(index)
    if "IndexPreTransform" in what:
        parts["transforms"] += sum(map(_transform, index.chain))
        _weigh(index.index, n, place, parts, searched)
    elif "IndexIDMap" in what:
        parts["ids"] += 8 * n + (_dictionary(n) if "IndexIDMap2" in what else 0)
        _weigh(index.index, n, place, parts, searched)
    elif "IndexRefine" in what:
        _weigh(index.base_index, n, place, parts, searched)
        _weigh(index.refine_index, n, place, parts, searched)
    elif "IndexHNSW" in what or "IndexNSG" in what:
        _graph(index, n, place, parts, searched)
    elif "IndexIVF" in what:
        _lists(index, n, parts, searched)
    elif "MultiIndexQuantizer" in what:
        parts[place] += 4 * index.d * index.pq.ksub
    elif "IndexFastScan" in what:
        rows = -(-n // index.bbs) * index.bbs
        parts["codes"] += rows * index.get_CodePacker().block_size // index.bbs
        parts["tables"] += 8 * rows if searched else 0
        if searched and "IndexRaBitQFastScan" in what:
            parts["tables"] += n * index.code_size  # one after the other, as estimates read them
        _codebooks(index, parts, searched)
    elif "IndexFlatCodes" in what:
        flat = "IndexFlat" in what
        parts[place if flat or place != "vectors" else "codes"] += n * index.code_size
        if searched and flat and index.metric_type == L2:
            parts["tables"] += 4 * n  # squared norms
        if searched and "IndexRaBitQ" in what:
            parts["tables"] += 8 * n  # scanned as one list, with ids
        if searched and "IndexAdditiveQuantizer" in what and index.metric_type == L2:
            parts["tables"] += 4 * n + 4 * _entries(index.aq) * index.d  # a norm for each row, entries about their middle
        _codebooks(index, parts, searched)
    else:
        check(False, "the memory of {} cannot be told beforehand", type(index).__name__)


def _transform(step: Any) -> int:
    """Bytes of a vector transform: a matrix, or signs."""
    if "ITQTransform" in kinds(step):
        return 4 * (step.d_in * step.d_out + step.d_out * step.d_out + step.d_in)
    # A PCA keeps all axes and what it was made of.
    full = step.d_in * step.d_in if "PCAMatrix" in kinds(step) else 0
    return 4 * int(step.d_in * step.d_out + full if "LinearTransform" in kinds(step) else 3 * step.d_out)


def _links(graph: Any, n: int) -> int:
    """Bytes of a layered graph."""
    chances, ends = list(graph.assign_probas), list(graph.cum_nneighbor_per_level)
    edges = sum(chance * ends[level + 1] for level, chance in enumerate(chances))
    return int(n * (4 * edges + 8 + 4)) + 8


def _graph(index: Any, n: int, place: str, parts: Counter[str], searched: bool) -> None:
    where = "graph" if place == "vectors" else place
    if "IndexNSG" in kinds(index):
        parts[where] += 4 * index.nsg.R * n
        parts["tables"] += 8 * n if searched else 0  # where each node's neighbours begin
    else:
        parts[where] += _links(index.hnsw, n)
    _weigh(index.storage, n, place, parts, False)
    if "IndexPQ" in kinds(index.storage) and "IndexHNSW" in kinds(index):
        pq = index.storage.pq
        parts["centroids"] += 4 * pq.M * pq.ksub * pq.ksub  # distances between centroids
    if searched and "IndexFlat" not in kinds(index.storage):
        parts["tables"] += 4 * n * index.d  # decoded for the walks


def _lists(index: Any, n: int, parts: Counter[str], searched: bool) -> None:
    what = kinds(index)
    _weigh(index.quantizer, index.nlist, "centroids", parts, False)
    parts["codes"] += n * index.code_size
    parts["ids"] += 8 * n
    rows, width = _arena(index, n), index.code_size
    if "IndexIVFFastScan" in what:
        width = index.get_CodePacker().block_size // index.bbs
        parts["tables"] += rows * index.code_size if searched and "IndexIVFRaBitQFastScan" in what else 0
    parts["room"] += rows * (width + 8) - n * (index.code_size + 8) + 8 * 3 * index.nlist
    _codebooks(index, parts, searched)
    second = getattr(index, "refine_pq", None)
    if second is not None:
        parts["codes"] += n * second.code_size
    residual = getattr(index, "by_residual", False) and index.metric_type == L2
    if "IndexIVFPQFastScan" in what and residual and table_kind(index) == 1:
        parts["tables"] += 4 * index.nlist * index.M * index.ksub
    elif searched and "IndexIVFPQ" in what and residual:
        parts["tables"] += 4 * rows  # a sum for each row, in place of a table for each list
    if searched and "IndexIVFAdditiveQuantizer" in what and index.metric_type == L2:
        parts["tables"] += 4 * rows
    if "IndexIVFFlatPanorama" in what:
        parts["room"] += 4 * rows * (index.n_levels + 1)  # lengths of what is left behind each level


def _arena(index: Any, n: int) -> int:
    """Rows of the arena of n vectors that are spread over lists as long as each other."""
    if not n:
        return 0
    mean = torch.full((index.nlist,), n / max(1, index.nlist))
    if "IndexIVFFastScan" in kinds(index):
        # Lists are whole blocks, so their ends are anywhere in one: half a block each (faiss_compat/invlists_blocks.py).
        return int((mean + mean / 8 + index.bbs / 2 + (index.bbs - 1) / 2).sum())
    # An eighth of each, and a sixteenth of all, is room (algorithms/ragged.py).
    whole = mean.long()
    return max(n, layout(whole + (whole >> 3))[2])


def _entries(aq: Any) -> int:
    """How many entries the codebooks of an additive quantizer have."""
    return sum(1 << bits for bits in aq.nbits.tensor.tolist())


def _additive(aq: Any, parts: Counter[str], searched: bool) -> None:
    """Codebooks, and what is worked out from them."""
    quantizers = list(aq.quantizers) if hasattr(aq, "quantizers") else []
    for one in quantizers:
        _additive(one, parts, searched)
    entries = _entries(aq)
    if quantizers:
        # The parts' codebooks once more, and as one table over all dimensions.
        parts["centroids"] += sum(4 * _entries(one) * one.d for one in quantizers)
        parts["tables"] += 4 * entries * aq.d
        return
    parts["centroids"] += 4 * entries * aq.d
    if hasattr(aq, "max_beam_size"):  # a residual quantizer's
        sizes = [1 << bits for bits in aq.nbits.tensor.tolist()]
        crossed = (entries * entries - sum(size * size for size in sizes)) // 2
        parts["tables"] += 2 * 4 * (crossed + entries)  # products of entries with each other, as FAISS keeps them and as we do


def _codebooks(index: Any, parts: Counter[str], searched: bool) -> None:
    for name in ("pq", "refine_pq"):
        pq = getattr(index, name, None)
        if pq is not None:
            parts["centroids"] += 4 * pq.M * pq.ksub * pq.dsub
            if searched and name == "pq":
                parts["tables"] += 4 * pq.M * pq.ksub * pq.dsub  # the same, transposed
            if name == "pq" and getattr(index, "do_polysemous_training", False):
                parts["centroids"] += 4 * pq.M * pq.ksub * pq.ksub  # distances between centroids
    if getattr(index, "aq", None) is not None:
        _additive(index.aq, parts, searched)
    if hasattr(index, "sq"):
        parts["tables"] += 4 * 2 * index.d


def _dictionary(n: int) -> int:
    """Bytes of Python's dictionary from n numbers to n others: a table that is at most two thirds full, and the numbers."""
    size = 8
    while size * 2 // 3 < n:
        size *= 2
    index = 1 if size <= 0xFF else 2 if size <= 0xFFFF else 4
    return size * index + size * 2 // 3 * 24 + 2 * 32 * n


# -- binary indexes -------------------------------------------------------------------------------------------------------------------


def _binary(index: Any, n: int, place: str, parts: Counter[str], searched: bool) -> None:
    """Add up what an empty binary index will hold."""
    what = kinds(index)
    if "IndexBinaryIDMap" in what:
        parts["ids"] += 8 * n + (_dictionary(n) if "IndexBinaryIDMap2" in what else 0)
        _binary(index.index, n, place, parts, searched)
    elif "IndexBinaryFlat" in what:
        parts[place] += n * index.code_size
    elif "IndexBinaryHNSW" in what:
        parts["graph" if place == "vectors" else place] += _links(index.hnsw, n)
        _binary(index.storage, n, place, parts, searched)
    elif "IndexBinaryIVF" in what:
        _binary(index.quantizer, index.nlist, "centroids", parts, searched)
        rows = _arena(index, n)
        parts["codes"] += n * index.code_size
        parts["ids"] += 8 * n
        parts["room"] += (rows - n) * (index.code_size + 8) + 8 * 3 * index.nlist
    else:
        check(False, "the memory of {} cannot be told beforehand", type(index).__name__)
