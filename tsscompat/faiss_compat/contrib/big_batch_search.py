"""Searches of very many queries in inverted lists, list by list: the queries that probe a list meet it all at once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from tsscompat.errors import FaissError, expect
from tsscompat.faiss_compat.contrib.inspect_tools import get_invlist
from tsscompat.faiss_compat.distances import knn as exact_knn
from tsscompat.faiss_compat.distances import pairwise_distances as exact_distances
from tsscompat.faiss_compat.enums import is_similarity_metric
from tsscompat.faiss_compat.flat import IndexFlat
from tsscompat.faiss_compat.heaps import ResultHeap
from tsscompat.faiss_compat.ivf_flat import IndexIVFFlat
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQ
from tsscompat.faiss_compat.ivf_sq import IndexIVFScalarQuantizer
from tsscompat.faiss_compat.quantized import IndexPQ, IndexScalarQuantizer
from tsscompat.faiss_compat.tables import matrix_bucket_sort_inplace
from tsscompat.faiss_compat.vector_arrays import copy_array_to_vector

LOG = logging.getLogger(__name__)
Table = np.ndarray[Any, Any]
METHODS = ("index", "pairwise_distances", "knn_function")
_worker = threading.local()
# Queries of which coarse assignment is asked at a time.
_BLOCK = 65536


class BlockComputer:
    """Finds the best of one list's entries for the queries that probe it, in one of three ways."""

    def __init__(
        self,
        index: Any,
        method: str = "knn_function",
        pairwise_distances: Callable[..., Any] = exact_distances,
        knn: Callable[..., Any] = exact_knn,
    ) -> None:
        self.index, self.method = index, method
        self.pairwise_distances, self.knn = pairwise_distances, knn
        self.by_residual = type(index) is not IndexIVFFlat and index.by_residual
        self.index_help, decode = self._flat_twin(index)
        self.decode_func = None if method == "index" else decode

    @staticmethod
    def _flat_twin(index: Any) -> tuple[Any, Callable[[Table], Table]]:
        """An index of single codes of the same kind, and what decodes them."""
        made: Any
        if type(index) is IndexIVFFlat:
            return IndexFlat(index.d, index.metric_type), lambda codes: codes.view("float32")
        if type(index) is IndexIVFPQ:
            made = IndexPQ(index.d, index.pq.M, index.pq.nbits, index.metric_type)
            made.pq = index.pq
            decode = index.pq.decode
        elif type(index) is IndexIVFScalarQuantizer:
            made = IndexScalarQuantizer(index.d, index.sq.qtype, index.metric_type)
            made.sq = index.sq
            decode = index.sq.decode
        else:
            raise FaissError(f"index type {type(index).__name__} not supported")
        made.is_trained = True
        return made, decode

    def block_search(self, xq_l: Table, xb_l: Table, list_ids: Table, k: int, **extra_args: Any) -> tuple[Any, Any]:
        """Distances, and places in the list (None: of all its entries); None and None where there is nothing to compare."""
        metric = self.index.metric_type
        if not len(xq_l) or not len(list_ids):
            return None, None
        if self.method == "index":
            copy_array_to_vector(xb_l, self.index_help.codes)
            self.index_help.ntotal = len(list_ids)
            found: tuple[Any, Any] = self.index_help.search(xq_l, k)
            return found
        if self.method == "pairwise_distances":
            return self.pairwise_distances(xq_l, xb_l, metric=metric), None
        best: tuple[Any, Any] = self.knn(xq_l, xb_l, k, metric=metric, **extra_args)
        return best


@dataclass
class _Bucket:
    """What a list and the queries that probe it are, and then what was found."""

    list_no: int
    queries: Table
    x: Table
    ids: Table
    rows: Table
    distances: Any = None
    places: Any = None


class BigBatchSearcher:
    """The queries, sorted by the lists that they probe, and the best that each has found so far."""

    def __init__(self, index: Any, xq: Table, k: int, verbose: int = 0, use_float16: bool = False) -> None:
        self.index, self.xq, self.verbose, self.use_float16 = index, xq, verbose, use_float16
        self.by_residual = False
        self.decode_func: Callable[[Table], Table] | None = None
        self.rh = ResultHeap(len(xq), k, keep_max=is_similarity_metric(index.metric_type))
        self.q_assign: Table | None = None

    def coarse_quantization(self) -> None:
        """Find the lists that each query probes."""
        parts = [
            self.index.quantizer.search(self.xq[i : i + _BLOCK], self.index.nprobe)[1] for i in range(0, len(self.xq), _BLOCK)
        ]
        self.q_assign = np.concatenate(parts).astype("int32")

    def reorder_assign(self) -> None:
        """Sort the queries by list; those of list -1 come before all lists and are left out."""
        assert self.q_assign is not None
        shifted = np.ascontiguousarray(self.q_assign + 1, dtype="int32")
        self.bucket_lims = matrix_bucket_sort_inplace(shifted, nbucket=self.index.nlist + 1, nt=16)[1:]
        self.query_ids, self.q_assign = shifted.ravel(), None

    def prepare_bucket(self, l: int) -> tuple[Table, Table, Table, Table]:
        """The queries that probe list l, by number and as compared, and its entries, ids and decoded codes."""
        queries = self.query_ids[self.bucket_lims[l] : self.bucket_lims[l + 1]]
        x = self.xq[queries]
        if self.by_residual:
            x = x - self.index.quantizer.reconstruct(l, np.empty(self.index.d, dtype="float32"))
        ids, codes = get_invlist(self.index.invlists, l)
        rows = codes.ravel() if self.decode_func is None else self.decode_func(codes)
        if self.use_float16:
            x, rows = x.astype("float16"), rows.astype("float16")
        return queries, x, ids, rows

    def add_results_to_heap(self, q_subset: Table, D: Any, list_ids: Table, I: Any) -> None:
        """Merge what was found in a list into the best so far."""
        if D is not None:
            self.rh.add_result_subset(q_subset, D, list_ids if I is None else list_ids[I])

    def sizes_in_checkpoint(self) -> Table:
        """What a checkpoint must agree with."""
        return np.array([*self.xq.shape, self.index.nprobe, self.index.nlist])

    def write_checkpoint(self, fname: str, completed: set[int]) -> None:
        """Write what was found so far, and in which lists, under a temporary name first."""
        with open(fname + ".tmp", "wb") as file:
            np.savez(file, sizes=self.sizes_in_checkpoint(), completed=np.array(sorted(completed)), D=self.rh.D, I=self.rh.I)
        os.replace(fname + ".tmp", fname)

    def read_checkpoint(self, fname: str) -> set[int]:
        """Go on from what was found; gives in which lists."""
        with np.load(fname) as held:
            expect(np.array_equal(held["sizes"], self.sizes_in_checkpoint()), "{} is of another search", fname)
            self.rh.D[:], self.rh.I[:] = held["D"], held["I"]
            return set(held["completed"].tolist())


def _in_turn(work: Callable[[Any], _Bucket], given: Iterable[Any], pool: ThreadPoolExecutor, ahead: int) -> Iterator[_Bucket]:
    """What `work` makes of each thing given, in order, with some under way."""
    waiting: deque[Future[_Bucket]] = deque()
    for thing in given:
        waiting.append(pool.submit(work, thing))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def big_batch_search(
    index: Any,
    xq: Table,
    k: int,
    method: str = "knn_function",
    pairwise_distances: Callable[..., Any] = exact_distances,
    knn: Callable[..., Any] = exact_knn,
    verbose: int = 0,
    threaded: int = 0,
    use_float16: bool = False,
    prefetch_threads: int = 1,
    computation_threads: int = 1,
    q_assign: Table | None = None,
    checkpoint: str | None = None,
    checkpoint_freq: float = 7200,
    start_list: int = 0,
    end_list: int | None = None,
    crash_at: int = -1,
) -> tuple[Table, Table]:
    """The k best of each query in the lists that it probes, list by list; for IVFFlat, IVFPQ and IVFScalarQuantizer.

    `method`: "knn_function" and "pairwise_distances" compare decoded codes by those functions, "index" searches a flat index of codes.
    threaded 0: all in turn; else lists are prepared on prefetch_threads and, from 2 on, compared on computation_threads; when there
    are several, the functions are told which one calls as `thread_id`. q_assign: the lists that each query probes.
    checkpoint: a file that what was found is written to every checkpoint_freq seconds, and read from first.
    """
    expect(method in METHODS, "expected a method of {}, got {!r}", METHODS, method)
    searcher = BigBatchSearcher(index, xq, k, verbose, use_float16)
    computer = BlockComputer(index, method, pairwise_distances, knn)
    searcher.decode_func, searcher.by_residual = computer.decode_func, computer.by_residual
    if q_assign is None:
        searcher.coarse_quantization()
    else:
        searcher.q_assign = q_assign
    searcher.reorder_assign()
    lists = range(start_list, index.nlist if end_list is None else end_list)
    completed: set[int] = set()
    if checkpoint is not None:
        expect(lists == range(index.nlist), "a checkpoint is of all lists")
        completed = searcher.read_checkpoint(checkpoint) if os.path.exists(checkpoint) else set()

    def prepare(list_no: int) -> _Bucket:
        return _Bucket(list_no, *searcher.prepare_bucket(list_no))

    def compare(bucket: _Bucket) -> _Bucket:
        extra = {"thread_id": _worker.number} if computation_threads > 1 and threaded > 1 else {}
        bucket.distances, bucket.places = computer.block_search(bucket.x, bucket.rows, bucket.ids, k, **extra)
        return bucket

    written = time.time()
    for bucket in _buckets(
        prepare, compare, [l for l in lists if l not in completed], threaded, prefetch_threads, computation_threads
    ):
        if bucket.list_no == crash_at:
            raise ZeroDivisionError(f"asked to stop at list {crash_at}")
        searcher.add_results_to_heap(bucket.queries, bucket.distances, bucket.ids, bucket.places)
        completed.add(bucket.list_no)
        if verbose:
            LOG.info("list %d of %d", bucket.list_no, index.nlist)
        if checkpoint is not None and time.time() - written > checkpoint_freq:
            searcher.write_checkpoint(checkpoint, completed)
            written = time.time()
    searcher.rh.finalize()
    return searcher.rh.D, searcher.rh.I


def _buckets(
    prepare: Callable[[int], _Bucket],
    compare: Callable[[_Bucket], _Bucket],
    lists: list[int],
    threaded: int,
    preparing: int,
    comparing: int,
) -> Iterator[_Bucket]:
    """Every list prepared and compared, in order."""
    if threaded == 0:
        for list_no in lists:
            yield compare(prepare(list_no))
    elif threaded == 1:
        with ThreadPoolExecutor(1) as pool:
            for bucket in _in_turn(prepare, lists, pool, 1):
                yield compare(bucket)
    else:
        with (
            ThreadPoolExecutor(preparing) as first,
            ThreadPoolExecutor(comparing, initializer=_number, initargs=(count(),)) as second,
        ):
            yield from _in_turn(compare, _in_turn(prepare, lists, first, 2 * preparing), second, comparing)


def _number(numbers: Iterator[int]) -> None:
    """Give a thread its number."""
    _worker.number = next(numbers)


__all__ = ["METHODS", "BigBatchSearcher", "BlockComputer", "big_batch_search"]
