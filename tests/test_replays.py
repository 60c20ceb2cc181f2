"""Recorded searches: when one is replayed, when it is made anew, and that it never answers for an index that has changed.

Recording itself needs CUDA. Here the CPU gets a recorder of the same kind: what it records is a call with its tensors at fixed places,
and what that call found out about the index when it was made does not change when it is replayed.
"""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch

import tsscompat as faiss
from tsscompat.algorithms import replays

D, N = 12, 900


class Fixed:
    """A recording of a call: its own place for queries, its own places for answers."""

    def __init__(self, call, x):
        self.call, self.x, self.found = call, x.clone(), None
        self.turn, self.times = threading.Lock(), 0
        self._play()

    def _play(self):
        found = self.call(self.x)
        if self.found is None:
            self.found = found
        for held, part in zip(self.found, found):
            if isinstance(held, torch.Tensor):
                held.copy_(part)

    def replay(self, x):
        with self.turn:
            self.x.copy_(x)
            self._play()
            self.times += 1
            return replays.copies(self.found)


class OnCpu:
    def __init__(self):
        self.made, self.place, self.refuses = [], 0, False

    def stream(self, x):
        return None if self.place is None else self.place

    def record(self, call, x):
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.made.append(Fixed(call, x))
        return self.made[-1]

    @property
    def replayed(self):
        return sum(made.times for made in self.made)


@pytest.fixture
def recorder(monkeypatch):
    made = OnCpu()
    monkeypatch.setitem(replays.RECORDERS, "cpu", made)
    return made


@pytest.fixture(scope="module")
def vectors():
    made = np.random.RandomState(2).randn(N + 60, D).astype(np.float32)
    return made[:N], made[N:]


KINDS = ["Flat", "PQ4x4fs", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ3x4", "IVF16,PQ3x4np", "IVF16,PQ4x4fs", "IVF16,PQ4x4fsr"]


def built(kind, vectors, metric=faiss.METRIC_L2):
    index = faiss.index_factory(D, kind, metric)
    index.train(vectors[0])
    index.add(vectors[0])
    if hasattr(index, "nprobe"):
        index.nprobe = 4
    return index


def plain(index, x, k):
    """The answer without recordings."""
    held = replays.RECORDERS.pop("cpu")
    try:
        return copy.deepcopy(index).search(x, k)
    finally:
        replays.RECORDERS["cpu"] = held


def agree(index, x, k):
    found, expected = index.search(x, k), plain(index, x, k)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert np.array_equal(found[1], expected[1])
    return found


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT], ids=["L2", "IP"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_third_search_alike_is_recorded(kind, metric, vectors, recorder):
    index = built(kind, vectors, metric)
    answers = [agree(index, vectors[1][i : i + 2], 5) for i in range(0, 12, 2)]
    assert len(recorder.made) == 1 and recorder.replayed == 4
    # An answer is the caller's own: later searches do not write into it.
    np.testing.assert_array_equal(answers[3][1], plain(index, vectors[1][6:8], 5)[1])
    for nq, k in ((3, 5), (2, 6), (replays.MOST + 1, 5)):
        for _ in range(4):
            agree(index, vectors[1][:nq], k)
    assert len(recorder.made) == 3  # another number of queries, another k; too many queries are never recorded


@pytest.mark.parametrize("kind", KINDS)
def test_changes_of_the_index_are_seen(kind, vectors, recorder):
    index = built(kind, vectors)
    x = vectors[1][:2]

    def repeat():
        for _ in range(4):
            agree(index, x, 5)

    repeat()
    changes = [
        lambda: index.add(np.concatenate([x, vectors[1][:30]])),  # into the room that there is, or a new arena
        lambda: index.remove_ids(np.arange(N // 2)),
        lambda: index.add(x + 0.01),
        lambda: index.reset(),
        lambda: index.add(vectors[0][:50]),
    ]
    if kind.startswith("IVF"):
        changes.insert(0, lambda: setattr(index, "nprobe", 7))
    if kind == "IVF16,Flat":  # elsewhere codes are of residuals, for which centroids must not move
        changes.insert(3, lambda: index.quantizer.codes.tensor.view(torch.float32).add_(0.1))
    for number, change in enumerate(changes):
        change()
        repeat()
        assert len(recorder.made) <= number + 2
    assert recorder.replayed >= 2 * len(changes)


def test_settings_that_a_recording_does_not_know_go_without(vectors, recorder):
    index = built("IVF16,PQ3x4", vectors)
    x = vectors[1][:2]
    for _ in range(4):
        agree(index, x, 5)
    before = recorder.replayed
    index.max_codes = 30
    agree(index, x, 5)
    index.max_codes, index.polysemous_ht = 0, 5
    agree(index, x, 5)
    index.search(x, 5, params=faiss.SearchParametersIVF(nprobe=2))
    assert recorder.replayed == before


def test_what_cannot_be_recorded_is_computed(vectors, recorder):
    index = built("IVF16,Flat", vectors)
    recorder.refuses = True
    tried = []
    original = recorder.record
    recorder.record = lambda call, x: (tried.append(1), original(call, x))[1]
    for _ in range(8):
        agree(index, vectors[1][:2], 5)
    assert len(tried) == 1, "it is tried once"
    index.add(vectors[1])
    recorder.refuses = False
    for _ in range(4):
        agree(index, vectors[1][:2], 5)
    assert len(recorder.made) == 1, "and once more after a change"


def test_streams_have_recordings_of_their_own(vectors, recorder):
    index = built("Flat", vectors)
    for place in (1, 2, 1, None):
        recorder.place = place
        for _ in range(4):
            agree(index, vectors[1][:1], 3)
    assert len(recorder.made) == 2


def test_the_recordings_used_last_are_kept(vectors, recorder):
    index = built("Flat", vectors)
    for k in range(1, 13):
        for _ in range(3):
            agree(index, vectors[1][:1], k)
        index.search(vectors[1][:1], 1)
    kept = index._replays._made
    assert len(kept) == replays._KEPT and any(key[0] == 1 for key in kept)


def test_threads_share_recordings(vectors, recorder):
    index = built("IVF16,PQ3x4", vectors)
    expected = [plain(index, vectors[1][i : i + 1], 5)[1] for i in range(40)]
    wrong = []

    def work(first):
        for i in list(range(first, 40)) + list(range(first)):
            if not np.array_equal(index.search(vectors[1][i : i + 1], 5)[1], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 7, 20, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and recorder.replayed > 100


def test_copies_begin_without_recordings(vectors, recorder):
    index = built("Flat", vectors)
    for _ in range(4):
        index.search(vectors[1][:1], 3)
    assert index._replays is not None and copy.deepcopy(index)._replays is None
    index.to("cpu")
    assert index._replays is None
    agree(index, vectors[1][:1], 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="recording needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_graphs(kind, vectors):
    index, host = built(kind, vectors).to("cuda"), built(kind, vectors)
    for i in range(6):
        x = vectors[1][i : i + 2]
        np.testing.assert_array_equal(index.search(x, 5)[1], host.search(x, 5)[1])
    assert any(made is not None for made in index._replays._made.values())
    index.add(vectors[1])
    host.add(vectors[1])
    for i in range(6):
        x = vectors[1][i : i + 2]
        np.testing.assert_array_equal(index.search(x, 5)[1], host.search(x, 5)[1])
