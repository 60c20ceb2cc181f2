"""Hostile files: real ones with a field, a bit, an edge or their nesting changed; each must be refused or be searched as if it were sound.

`python tests/fuzzing.py --count 1000000` tries that many in processes of their own, so that a crash, a hang or a huge allocation is an
outcome like any other. tests/test_fuzz.py tries a few within pytest.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

import tsscompat
from tsscompat.errors import FaissError
from tsscompat.faiss_compat import sections
from tsscompat.wire.cursor import MemorySource, Reader

HERE = Path(__file__).parent / "golden"
SWEPT = 160  # bytes of each file of which every bit is turned
_WHOLE = (
    0,
    1,
    2,
    3,
    7,
    8,
    255,
    256,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_REAL = (0.0, -1.0, 1e-38, 1e38, float("inf"), float("-inf"), float("nan"))
# What a file may make us take beside what it holds: bytes, seconds of the processor, and seconds of waiting.
MEMORY, SECONDS, WAITING = 3 << 30, 20, 300


@dataclass(frozen=True)
class Place:
    """Where a field stands, how many bytes one of its items takes, how many items there are, and what they are."""

    at: int
    size: int
    count: int
    kind: str  # "whole", "real", "tag"
    field: str  # the last name on the trail
    depth: int  # how many names that has


class Recorder(Reader):
    """A reader that notes every field."""

    def __init__(self, data: bytes) -> None:
        super().__init__(MemorySource(memoryview(data)))
        self.places: list[Place] = []

    def _note(self, size: int, count: int, kind: str) -> None:
        self.places.append(Place(self.at, size, count, kind, self.trail[-1] if self.trail else "", len(self.trail)))

    def unpack(self, layout: struct.Struct) -> Any:
        kind = "real" if layout.format[-1] in "fd" else "tag" if layout.format[-1] == "I" else "whole"
        self._note(layout.size, 1, kind)
        return super().unpack(layout)

    def array(self, count: int, dtype: torch.dtype, share: bool = False) -> torch.Tensor:
        if count:
            self._note(dtype.itemsize, count, "real" if dtype.is_floating_point else "whole")
        return super().array(count, dtype, share)


@cache
def files() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(HERE.glob("*.faiss"))}


@cache
def places(name: str) -> list[Place]:
    data = files()[name]
    recorder = Recorder(data)
    (sections.binary if data[:2] == b"IB" else sections.index).read(recorder)
    return recorder.places


@cache
def parts(name: str) -> list[tuple[int, int]]:
    """Where the objects within a file begin and end: from a tag to the next field that is not further in."""
    data, found = files()[name], []
    for i, place in enumerate(places(name)):
        if place.at and place.kind == "tag" and data[place.at : place.at + 4].isalnum():
            ends = (other.at for other in places(name)[i + 1 :] if other.depth <= place.depth)
            found.append((place.at, next(ends, len(data))))
    return found


@cache
def spares() -> list[bytes]:
    """An object of every kind that stands within some file, small files themselves, and nothing."""
    found = {b"null": b"null", b"il00": b"il00"}
    for name, data in files().items():
        for begin, end in [(0, len(data)), *parts(name)]:
            found.setdefault(data[begin : begin + 4], data[begin:end])
    return list(found.values())


@cache
def tags() -> list[bytes]:
    every = {**sections.index.by_tag, **sections.transform.by_tag, **sections.binary.by_tag}
    return [tag.encode() for tag in (*every, "null", "il00", "ilar", "ilod", "full", "sprs")]


# -- changes ---------------------------------------------------------------------------------------------------------------------


def _field(data: bytearray, name: str, rng: random.Random) -> None:
    """Another value for a field or an item of one."""
    place = rng.choice(places(name))
    at = place.at + place.size * rng.randrange(place.count)
    if place.kind == "tag" and data[at : at + 4].isalnum():
        data[at : at + 4] = rng.choice(tags())
    elif place.kind == "real":
        data[at : at + place.size] = struct.pack("<f" if place.size == 4 else "<d", rng.choice(_REAL))
    else:
        mask = (1 << 8 * place.size) - 1
        old = int.from_bytes(data[at : at + place.size], "little")
        new = rng.choice(
            (rng.choice(_WHOLE), old + 1, old - 1, 2 * old, old // 2, -old, old ^ 1 << rng.randrange(8 * place.size))
        )
        data[at : at + place.size] = (new & mask).to_bytes(place.size, "little")


def _items(data: bytearray, name: str, rng: random.Random) -> None:
    """Noise for some items of an array: codes, ids, edges, sizes."""
    arrays = [place for place in places(name) if place.count > 1] or places(name)
    place = rng.choice(arrays)
    for _ in range(rng.randint(1, 8)):
        at = place.at + place.size * rng.randrange(place.count)
        data[at : at + place.size] = (
            rng.randbytes(place.size) if rng.random() < 0.5 else rng.randrange(256).to_bytes(place.size, "little")
        )


def _bits(data: bytearray, name: str, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 5))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, name: str, rng: random.Random) -> None:
    """Bytes left out, put in, or moved."""
    at, n = rng.randrange(len(data)), rng.choice((1, 4, 8, rng.randrange(1, 200)))
    if rng.random() < 0.5:
        del data[at : at + n]
    else:
        data[at:at] = data[-n:] if rng.random() < 0.5 else bytes(n)


def _nest(data: bytearray, name: str, rng: random.Random) -> None:
    """Another whole file in the place of something, or this one in itself many times."""
    starts = [place.at for place in places(name) if place.kind == "tag" and place.at]
    at = rng.choice(starts or [rng.randrange(len(data))])
    if rng.random() < 0.3:
        data[at:] = bytes(data[:at]) * rng.choice((2, 50, 400)) + bytes(data[at:])
    else:
        data[at:] = rng.choice(list(files().values())) + (bytes(data[at:]) if rng.random() < 0.5 else b"")


def _swap(data: bytearray, name: str, rng: random.Random) -> None:
    """A sound object of another kind, or none, in the place of one within."""
    begin, end = rng.choice(parts(name) or [(0, len(data))])
    data[begin:end] = rng.choice(spares()[: 2 if rng.random() < 0.2 else None])


CHANGES = (_field, _field, _field, _items, _items, _bits, _cut, _nest, _swap)


def changed(name: str, rng: random.Random) -> bytes:
    """A file with one to three changes."""
    data = bytearray(files()[name])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(CHANGES)(data, name, rng)
        if not data:
            break
    return bytes(data)


def turned(name: str, bit: int) -> bytes:
    """A file with one bit the other way."""
    data = bytearray(files()[name])
    data[bit >> 3] ^= 1 << (bit & 7)
    return bytes(data)


# -- outcomes --------------------------------------------------------------------------------------------------------------------


def _held(index: Any) -> np.ndarray:
    """All ids that a search may give."""
    if hasattr(index, "id_map"):
        return index.id_map.tensor.numpy()
    lists = getattr(index, "invlists", None)
    if hasattr(lists, "_dump"):
        held = lists._dump()[2].cpu().numpy()
        extra = [i for others in getattr(index, "instances", {}).values() for i in others]
        return np.concatenate([held, np.array(extra, dtype=np.int64)])
    if hasattr(lists, "ids"):  # a hash table
        return lists.ids.tensor.numpy()
    for inner in ("index", "base_index", "index_ivf"):
        if getattr(index, inner, None) is not None:
            return _held(getattr(index, inner))
    return np.arange(max(0, min(index.ntotal, 1 << 24)))


@cache
def _queries(d: int, binary: bool) -> np.ndarray:
    x = np.random.default_rng(1).random((2, d // 8 if binary else d), dtype=np.float32)
    return (x * 256).astype(np.uint8) if binary else x * 4 - 2


def outcome(data: bytes) -> str:
    """What comes of a file: "refused", "searched", "unsearchable" (refused by the search); anything else is a fault."""
    binary = data[:2] == b"IB"
    read = tsscompat.deserialize_index_binary if binary else tsscompat.deserialize_index
    try:
        index = read(np.frombuffer(data, np.uint8))
    except FaissError as e:
        return "huge" if "allocat" in str(e) or "MemoryError" in str(e) else "refused"
    if index is None or index.d == 0 or index.d > 1 << 16:
        return "searched"
    if 0 < getattr(index, "nprobe", 0) < getattr(index, "nlist", 0) <= 64:
        index.nprobe = index.nlist  # all of the file is looked at
    try:
        distances, ids = index.search(_queries(index.d, binary), 5)
    except FaissError as e:
        return "huge" if "allocat" in str(e) else "unsearchable"
    wrong = set(ids.reshape(-1).tolist()) - {-1}
    wrong = wrong and wrong - set(_held(index).tolist())
    if wrong:
        return f"wrong ids {sorted(wrong)[:3]}"
    # Vectors of NaN are found by no search, so none gives NaN.
    return "NaN" if np.isnan(distances).any() else "searched"


SOUND = ("refused", "searched", "unsearchable")
# The mark of a fault, and how many files a process tries: one that dies is followed by another, which goes on.
FAULT, BATCH = 255, 2000


# -- at length -------------------------------------------------------------------------------------------------------------------


def task(seed: int, number: int) -> tuple[str, bytes]:
    """The file of a number, of whose seed it depends alone."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(files()))
    return name, changed(name, rng)


@cache
def sweep() -> list[tuple[str, int]]:
    """Every bit of the first bytes of every file: the first bits of all files, then the next."""
    return [(name, bit) for bit in range(8 * SWEPT) for name, data in files().items() if bit < 8 * len(data)]


def hostile(seed: int, number: int, swept: bool) -> bytes:
    """The file of a number of a run."""
    return turned(*sweep()[number]) if swept else task(seed, number)[1]


def _limited() -> None:
    """No output, and no more memory than a file may make us take."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _try_all(seed: int, begin: int, end: int, swept: bool, marks: mmap.mmap, faults: IO[bytes]) -> None:
    """Try some, marking what came of each in memory that outlives the process, and writing down each fault."""
    _limited()
    for number in range(begin, end):
        # Nothing handles these signals: a hang ends the process, wherever it is.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        data = hostile(seed, number, swept)
        try:
            found = outcome(data)
        except Exception as e:  # whatever escapes is what is looked for
            found = f"{type(e).__name__}: {e}".replace("\n", " ")[:200]
        if found in SOUND:
            marks[number - begin] = 1 + SOUND.index(found)
        else:
            faults.write(f"{number} {found}\n".encode())
            faults.flush()
            marks[number - begin] = FAULT


@dataclass
class Batch:
    """A process that tries the files of some numbers."""

    begin: int
    end: int
    marks: mmap.mmap
    faults: IO[bytes]

    def results(self, status: int) -> tuple[Counter[str], list[tuple[int, str]], int]:
        """How often each outcome came, the faults, and the first number that was not tried."""
        marks = bytes(self.marks[: self.end - self.begin])
        done = len(marks.rstrip(b"\0"))
        tally = Counter({name: marks.count(1 + code) for code, name in enumerate(SOUND)})
        self.faults.seek(0)
        lines = [line.partition(" ") for line in self.faults.read().decode().splitlines()]
        found = [(int(number), what) for number, _, what in lines]
        if done < len(marks):
            code = os.waitstatus_to_exitcode(status)
            how = "took too long" if -code in (signal.SIGALRM, signal.SIGPROF) else f"died with {code}"
            found.append((self.begin + done, how))
            done += 1
        tally["fault"] = len(found)
        return +tally, found, self.begin + done


def _start(seed: int, begin: int, end: int, swept: bool) -> tuple[int, Batch]:
    batch = Batch(begin, end, mmap.mmap(-1, end - begin), tempfile.TemporaryFile())  # noqa: SIM115 - as long as the batch
    pid = os.fork()
    if not pid:
        try:
            _try_all(seed, begin, end, swept, batch.marks, batch.faults)
        finally:
            os._exit(1)  # no handler of the parent's runs; what was tried is marked
    return pid, batch


def warm() -> None:
    """One thread, and every sound file tried: what is compiled is compiled here, once for all processes."""
    tsscompat.omp_set_num_threads(1)
    torch.set_num_threads(1)
    for name in files():
        places(name)
        outcome(files()[name])


def run(seed: int, numbers: range, jobs: int, swept: bool, keep: Path | None = None, every: int = 0) -> Counter[str]:
    """Try them all, a process for each few hundred; gives how often each outcome came, and says so after `every` so many."""
    warm()
    tally: Counter[str] = Counter()
    waiting = [(i, min(i + BATCH, numbers.stop)) for i in range(numbers.start, numbers.stop, BATCH)][::-1]
    running: dict[int, Batch] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            pid, batch = _start(seed, *waiting.pop(), swept)
            running[pid] = batch
        pid, status = os.wait()
        batch = running.pop(pid)
        some, found, reached = batch.results(status)
        before, tally = sum(tally.values()), tally + some
        for number, what in found:
            print(f"{'sweep' if swept else seed} {number}: {what}", flush=True)
            if keep is not None:
                (keep / f"{'sweep' if swept else seed}-{number}.faiss").write_bytes(hostile(seed, number, swept))
        if reached < batch.end:
            waiting.append((reached, batch.end))
        if every and before // every < sum(tally.values()) // every:
            print(json.dumps(tally), flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--start", type=int, default=0, help="the first number, to go on where another run ended")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=100_000, help="after how many files to say how it stands")
    parser.add_argument(
        "--sweep", action="store_true", help="every bit of the first bytes of every file, in place of drawn changes"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the files that make faults")
    given = parser.parse_args()
    started = time.time()
    end = given.start + given.count
    numbers = range(given.start, min(end, len(sweep())) if given.sweep else end)
    tally = run(given.seed, numbers, given.jobs, given.sweep, given.keep, given.every)
    print(json.dumps({**tally, "tried": sum(tally.values()), "seconds": round(time.time() - started)}))
    sys.exit(1 if tally["fault"] else 0)


if __name__ == "__main__":
    main()
