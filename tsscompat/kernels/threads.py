"""Our own threads over blocks of work, for compiled code that releases the GIL.

Numba's parallel layers are not safe to enter from several Python threads at once nor after a fork; plain threads are both. The pool is
made at first use, made anew in a forked child, and its size follows `set_max_threads` (FAISS's omp_set_num_threads).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch

from tsscompat import interrupts


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _initial() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(asked) if asked.isdigit() and int(asked) > 0 else _cores()


_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
# Threads whose torch operations stay on the thread itself.
_single_pool: ThreadPoolExecutor | None = None
_single_size = 0
_threads = _initial()
_inside = threading.local()


def max_threads() -> int:
    """How many threads a kernel may use."""
    return _threads


def set_max_threads(n: int) -> None:
    """Use at most `n` threads from now on."""
    global _threads
    _threads = max(1, int(n))


def _forget_pool() -> None:
    global _pool, _pool_size, _single_pool, _single_size, _lock
    _pool, _pool_size, _single_pool, _single_size, _lock = None, 0, None, 0, threading.Lock()
    _inside.value = False
    # The threads of torch's OpenMP stayed in the parent, and GNU's waits for them for ever; one thread does not ask for them.
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _executor(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            # A smaller pool is left to finish its work; its threads end when it is collected.
            _pool, _pool_size = ThreadPoolExecutor(size, thread_name_prefix="tsscompat"), size
        return _pool


def _single_executor(size: int) -> ThreadPoolExecutor:
    global _single_pool, _single_size
    with _lock:
        if _single_pool is None or _single_size < size:
            pool, ready = ThreadPoolExecutor(size, thread_name_prefix="tsscompat-single"), threading.Barrier(size)

            def begin() -> None:
                ready.wait()
                # A thread that has not asked yet takes everybody's number at its first operation, over what was set for it.
                torch.get_num_threads()
                torch.set_num_threads(1)
                ready.wait()

            before = torch.get_num_threads()
            for future in [pool.submit(begin) for _ in range(size)]:
                future.result()
            # Each thread has its own number, but threads that are yet to come take the one set last by anybody.
            torch.set_num_threads(before)
            _single_pool, _single_size = pool, size
        return _single_pool


def _worker(job: list[Callable[[int, int], object]], starts: list[int], stops: list[int], take: Callable[[], int | None]) -> None:
    _inside.value = True
    try:
        while (i := take()) is not None:
            interrupts.check()
            job[0](starts[i], stops[i])
    finally:
        _inside.value = False


def run_blocks(fn: Callable[[int, int], object], n: int, grain: int = 1, single: bool = False) -> None:
    """Call fn(start, stop) over blocks that cover range(n), each of at least about `grain`, on up to max_threads() threads.

    The calling thread takes part, so nested calls and a busy pool cannot dead-lock; the first exception is raised here. With `single`,
    torch's operations in fn use no further threads: then blocks run beside each other without waiting for one another, on threads kept
    for this, and the calling thread waits.
    """
    if n <= 0:
        return
    threads = min(_threads, -(-n // max(1, grain)))
    if threads <= 1 or getattr(_inside, "value", False):
        interrupts.check()
        fn(0, n)
        return
    # Four blocks a thread level out blocks of unequal work.
    blocks = min(-(-n // max(1, grain)), threads * 4)
    starts = [n * i // blocks for i in range(blocks)]
    stops = [n * (i + 1) // blocks for i in range(blocks)]
    counter = iter(range(blocks))
    take_lock = threading.Lock()

    def take() -> int | None:
        with take_lock:
            return next(counter, None)

    helpers = threads if single else threads - 1
    pool = (_single_executor if single else _executor)(helpers)
    # Threads let go of what they were given some time after they have said that they are done: of this list, which is emptied first.
    job = [fn]
    futures = [pool.submit(_worker, job, starts, stops, take) for _ in range(helpers)]
    error: BaseException | None = None
    try:
        if single:
            wait(futures, return_when=FIRST_EXCEPTION)
        else:
            _worker(job, starts, stops, take)
    except BaseException as e:
        error = e
        while take() is not None:
            pass
    for future in futures:
        # A task that the pool has not begun has nothing left to do once the blocks are taken.
        if not future.cancel():
            try:
                future.result()
            except BaseException as e:
                error = error or e
    job.clear()
    if error is not None:
        raise error
