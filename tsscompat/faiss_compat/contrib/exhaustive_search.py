"""Exact results of data that comes in blocks, and range searches whose radius fits the number of results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tsscompat import faiss_compat as faiss
from tsscompat.errors import expect
from tsscompat.faiss_compat.downcast import kinds
from tsscompat.faiss_compat.enums import METRIC_L2, is_similarity_metric

LOG = logging.getLogger(__name__)
Table = np.ndarray[Any, Any]


knn = faiss.knn


def _on_gpus(index: Any, shard: bool, ngpu: int) -> Any:
    """The index on that many GPUs (-1: all there are), itself where there are none."""
    ngpu = faiss.get_num_gpus() if ngpu == -1 else ngpu
    if not ngpu:
        return index
    LOG.info("running on %d GPUs", ngpu)
    options = faiss.GpuMultipleClonerOptions()
    options.shard = shard
    return faiss.index_cpu_to_all_gpus(index, co=options, ngpu=ngpu)


def knn_ground_truth(
    xq: Any, db_iterator: Iterable[Any], k: int, metric_type: int = METRIC_L2, shard: bool = False, ngpu: int = -1
) -> tuple[Any, Any]:
    """The k nearest vectors, exactly, among blocks of vectors that need not fit in memory together."""
    best: Any = faiss.ResultHeap(len(xq), k, keep_max=is_similarity_metric(metric_type))
    index = _on_gpus(faiss.IndexFlat(xq.shape[1], metric_type), shard, ngpu)
    start = 0
    for block in db_iterator:
        index.add(block)
        distances, labels = index.search(xq, k)
        best.add_result(distances, np.where(labels >= 0, labels + start, labels))
        index.reset()
        start += len(block)
        LOG.info("%d db elements", start)
    best.finalize()
    return best.D, best.I


def range_search_gpu(xq: Any, r2: float, index_gpu: Any, index_cpu: Any, gpu_k: int = 1024) -> tuple[Table, Table, Table]:
    """Range search by way of a search for at most gpu_k results; queries with more go to `index_cpu`, an index, a table, or None."""
    binary = "IndexBinary" in kinds(index_gpu)
    keep_max = is_similarity_metric(index_gpu.metric_type)
    k = min(index_gpu.ntotal, gpu_k)
    distances, labels = index_gpu.search(xq, k)
    inside = (distances > r2 if keep_max else distances < r2) & (labels >= 0)
    full = inside[:, -1] if index_cpu is not None else np.zeros(len(xq), dtype=bool)
    counts = inside.sum(1)
    parts_D, parts_I = [row[m] for row, m in zip(distances, inside)], [row[m] for row, m in zip(labels, inside)]
    if full.any():
        if isinstance(index_cpu, np.ndarray):
            table = index_cpu
            index_cpu = (
                faiss.IndexBinaryFlat(table.shape[1] * 8) if binary else faiss.IndexFlat(xq.shape[1], index_gpu.metric_type)
            )
            index_cpu.add(table)
        limits, more_D, more_I = index_cpu.range_search(xq[full], r2)
        for q, (i0, i1) in zip(np.flatnonzero(full), zip(limits[:-1].astype(int), limits[1:].astype(int))):
            parts_D[q], parts_I[q], counts[q] = more_D[i0:i1], more_I[i0:i1], i1 - i0
    kind = np.int16 if binary else np.float32
    lims = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return lims, np.concatenate([p.astype(kind) for p in parts_D]), np.concatenate(parts_I).astype(np.int64)


def range_ground_truth(
    xq: Any,
    db_iterator: Iterable[Any],
    threshold: float,
    metric_type: int = METRIC_L2,
    shard: bool = False,
    ngpu: int = -1,
) -> tuple[Table, Table, Table]:
    """All vectors within a threshold, exactly, among blocks of vectors that need not fit in memory together."""
    xq = np.ascontiguousarray(xq, dtype=np.float32)
    nq = len(xq)
    plain = faiss.IndexFlat(xq.shape[1], metric_type)
    index = _on_gpus(plain, shard, ngpu)
    found: list[tuple[Table, Table, Table]] = []
    start = 0
    for block in db_iterator:
        index.add(block)
        if index is plain:
            lims, distances, labels = index.range_search(xq, threshold)
        else:
            lims, distances, labels = range_search_gpu(xq, threshold, index, block)
        index.reset()
        found.append((np.repeat(np.arange(nq), np.diff(lims.astype(np.int64))), distances, labels + start))
        start += len(block)
    owners = np.concatenate([f[0] for f in found] or [np.empty(0, dtype=np.int64)])
    # Stable: a query's results stay in the order of the blocks.
    order = np.argsort(owners, kind="stable")
    lims = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=nq))]).astype(np.uint64)
    distances = np.concatenate([f[1] for f in found] or [np.empty(0, dtype=np.float32)])[order]
    return lims, distances, np.concatenate([f[2] for f in found] or [np.empty(0, dtype=np.int64)])[order]


def _better(dis: Table, thresh: float, keep_max: bool) -> Table:
    return dis > thresh if keep_max else dis < thresh


def threshold_radius_nres(
    nres: Table, dis: Table, ids: Table, thresh: float, keep_max: bool = False
) -> tuple[Table, Table, Table]:
    """The results within a threshold, by numbers of results for each query."""
    mask = _better(dis, thresh, keep_max)
    before = np.concatenate([[0], np.cumsum(mask)])
    ends = np.concatenate([[0], np.cumsum(nres.astype(np.int64))])
    return np.diff(before[ends]).astype(nres.dtype), dis[mask], ids[mask]


def threshold_radius(lims: Table, dis: Table, ids: Table, thresh: float, keep_max: bool = False) -> tuple[Table, Table, Table]:
    """The results within a threshold, by limits."""
    mask = _better(dis, thresh, keep_max)
    before = np.concatenate([[0], np.cumsum(mask)])
    return before[lims.astype(np.int64)].astype(lims.dtype), dis[mask], ids[mask]


def apply_maxres(res_batches: list[Any], target_nres: int, keep_max: bool = False) -> tuple[float, int]:
    """Cut batches of (numbers of results, distances, ids), in place, to target_nres results; the radius that does, and what is left."""
    everything = np.concatenate([distances for _, distances, _ in res_batches])
    expect(len(everything) > target_nres, "there are only {} results", len(everything))
    at = len(everything) - 1 - target_nres if keep_max else target_nres
    radius = float(np.partition(everything, at)[at])
    for i, (nres, distances, ids) in enumerate(res_batches):
        res_batches[i] = threshold_radius_nres(nres, distances, ids, radius, keep_max=keep_max)
    return (radius if everything.dtype == np.float32 else int(radius)), sum(len(batch[1]) for batch in res_batches)


def range_search_max_results(
    index: Any,
    query_iterator: Iterable[Any],
    radius: float,
    max_results: int | None = None,
    min_results: int | None = None,
    shard: bool = False,
    ngpu: int = 0,
    clip_to_min: bool = False,
) -> tuple[float, Table, Table, Table]:
    """Range search over batches of queries that tightens the radius whenever there are more than max_results in all."""
    expect(max_results is not None or min_results is not None, "say how many results are wanted")
    lower = int(0.8 * max_results) if min_results is None and max_results is not None else int(min_results or 0)
    upper = int(lower * 1.5) if max_results is None else max_results
    binary = "IndexBinary" in kinds(index)
    keep_max = is_similarity_metric(index.metric_type)
    placed = _on_gpus(index, shard, ngpu)
    batches: list[Any] = []
    total = 0
    for queries in query_iterator:
        if placed is index:
            lims, distances, labels = index.range_search(queries, radius)
        else:
            lims, distances, labels = range_search_gpu(queries, radius, placed, index)
        batches.append((np.diff(lims.astype(np.int64)), distances.astype(np.int16) if binary else distances, labels))
        total += len(distances)
        if total > upper:
            LOG.info("too many results %d > %d, scaling back radius", total, upper)
            radius, total = apply_maxres(batches, lower, keep_max=keep_max)
    if clip_to_min and total > lower:
        radius, total = apply_maxres(batches, lower, keep_max=keep_max)
    nres, distances, ids = (np.concatenate([batch[i] for batch in batches]) for i in range(3))
    return radius, np.concatenate([[0], np.cumsum(nres)]).astype(np.uint64), distances, ids


def exponential_query_iterator(xq: Any, start_bs: int = 32, max_bs: int = 20000) -> Iterator[Any]:
    """Batches of doubling size, so that a radius is adjusted before there are too many results."""
    start, size = 0, start_bs
    while start < len(xq):
        yield xq[start : start + size]
        start += size
        size = size * 2 if size < max_bs else size
