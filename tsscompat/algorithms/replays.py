"""Searches of few queries as one launch: what a search asks of a GPU is recorded once, as a CUDA graph, and then replayed.

A search of few queries is a dozen kernels of some microseconds each, and asking for them takes longer than running them. A recording is
good for as many queries, results and probes as it was made with, for one stream, and while the index is as it was: what it reads is held
and compared. So the first searches after a change, or of a new shape, run as usual; so does whatever cannot be recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

# From tensors to tensors and numbers.
Call = Callable[[Tensor], Any]

# Up to so many queries a search is recorded.
MOST = 16
# Recordings that are kept of an index; each holds the tables of its search.
_KEPT = 8
# A search is recorded when it comes for this time: kernels have been compiled by then.
_TIMES = 3
# One at a time: torch's allocator and the streams are shared.
_RECORDING = threading.Lock()


class Recording(Protocol):
    """A search that can be replayed."""

    def replay(self, x: Tensor) -> tuple[Any, ...]:
        """The answer for other queries, in tensors of its own."""
        ...


class Recorder(Protocol):
    """What makes recordings on a kind of device."""

    def stream(self, x: Tensor) -> Hashable:
        """What work on x is ordered on now; None where nothing can be recorded at this moment."""
        ...

    def record(self, call: Call, x: Tensor) -> Recording:
        """A recording of call(x); raises RuntimeError where the call does what cannot be recorded."""
        ...


def copies(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """An answer in tensors of its own."""
    return tuple(part.clone() if isinstance(part, Tensor) else part for part in found)


class CudaRecording:
    """A CUDA graph with the tensors that it reads and writes."""

    def __init__(self, call: Call, x: Tensor) -> None:
        self.x, self.done, self.turn, self.call = x.clone(), torch.cuda.Event(), threading.Lock(), call
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(x.device):
            # Nothing can be compiled or loaded while recording: what these very tensors need is, by now. torch's own stream for recording
            # belongs to the device that recorded first. Other threads may allocate and launch meanwhile.
            call(self.x)
            with torch.cuda.graph(self.graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                self.found = call(self.x)

    def replay(self, x: Tensor) -> tuple[Any, ...]:
        # On one stream the three steps of one thread must not mix with another's.
        with self.turn, torch.cuda.device(x.device):
            self.x.copy_(x)
            self.graph.replay()
            found = copies(self.found)
            self.done.record()
        return found

    def __del__(self) -> None:
        # Its memory goes back when no replay needs it any more.
        done = self.__dict__.get("done")
        if done is not None:
            done.synchronize()


class CudaRecorder:
    """CUDA graphs."""

    def stream(self, x: Tensor) -> Hashable:
        if torch.cuda.is_current_stream_capturing():
            return None  # the caller records: our kernels become part of that
        return x.device, torch.cuda.current_stream(x.device).cuda_stream

    def record(self, call: Call, x: Tensor) -> Recording:
        return CudaRecording(call, x)


RECORDERS: dict[str, Recorder] = {"cuda": CudaRecorder()}


class Replays:
    """The recordings of an index, and what they are good for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._state: tuple[tuple[Any, ...], tuple[Any, ...]] | None = None
        self._times: dict[Hashable, int] = {}
        self._made: dict[Hashable, Recording | None] = {}  # None: it cannot be recorded

    def _same(self, held: tuple[Any, ...], values: tuple[Any, ...]) -> bool:
        state = self._state
        return state is not None and state[1] == values and all(a is b for a, b in zip(held, state[0]))

    def _wanted(self, key: Hashable, held: tuple[Any, ...], values: tuple[Any, ...]) -> tuple[bool, Recording | None]:
        """Whether to record now, and the recording that there is."""
        with self._guard:
            if not self._same(held, values):
                self._state = (held, values)
                self._times.clear()
                self._made.clear()
            if key in self._made:
                self._made[key] = found = self._made.pop(key)  # the one used last is dropped last
                return False, found
            self._times[key] = times = self._times.get(key, 0) + 1
            return times >= _TIMES, None

    def _keep(self, key: Hashable, held: tuple[Any, ...], values: tuple[Any, ...], made: Recording | None) -> None:
        with self._guard:
            if self._same(held, values):  # not where the index has changed meanwhile
                self._made[key] = made
                while len(self._made) > _KEPT:
                    gone = next(iter(self._made))
                    del self._made[gone]
                    self._times.pop(gone, None)

    def run(self, x: Tensor, key: Hashable, held: tuple[Any, ...], values: tuple[Any, ...], call: Call) -> tuple[Any, ...]:
        """call(x), replayed where it was recorded: for the same key, objects `held` and `values`, which say all that it depends on."""
        recorder = RECORDERS[x.device.type]
        stream = recorder.stream(x)
        if stream is None:
            return call(x)
        key = (key, x.shape[0], stream)
        now, made = self._wanted(key, held, values)
        if made is not None:
            return made.replay(x)
        if not now or not _RECORDING.acquire(blocking=False):
            return call(x)
        try:
            made = recorder.record(call, x)
        except RuntimeError:
            made = None  # something that reads from the device, or no memory for tables of its own
        finally:
            _RECORDING.release()
        self._keep(key, held, values, made)
        return call(x) if made is None else made.replay(x)


def recordable(x: Tensor) -> bool:
    """Whether searches for these queries may be recorded: they are few, and on a device that records."""
    return x.device.type in RECORDERS and 0 < x.shape[0] <= MOST


def replayed(index: Any, x: Tensor, key: Hashable, held: tuple[Any, ...], values: tuple[Any, ...], call: Call) -> Any:
    """call(x) through the recordings that an index keeps in `_replays`, one of its caches."""
    kept: Replays | None = index.__dict__.get("_replays")
    if kept is None:
        kept = index.__dict__["_replays"] = Replays()
    return kept.run(x, key, held, values, call)
