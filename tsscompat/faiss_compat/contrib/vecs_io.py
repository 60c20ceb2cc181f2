"""Files of vectors, each preceded by its dimension: .fvecs, .ivecs, .bvecs (little-endian)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Table = np.ndarray[Any, Any]


def _rows(flat: Table, fname: Any) -> Table:
    """The vectors of a file of 4-byte numbers, without the dimensions."""
    if not len(flat):
        raise ValueError(f"{fname} is empty")
    return flat.reshape(-1, int(flat[0]) + 1)[:, 1:]


def ivecs_read(fname: Any) -> Table:
    """The integer vectors of a file."""
    return _rows(np.fromfile(fname, dtype="<i4"), fname).astype(np.int32)


def fvecs_read(fname: Any) -> Table:
    """The float vectors of a file."""
    return ivecs_read(fname).view(np.float32)


def ivecs_mmap(fname: Any) -> Table:
    """The integer vectors of a file, read as they are used."""
    return _rows(np.memmap(fname, dtype="<i4", mode="r"), fname)


def fvecs_mmap(fname: Any) -> Table:
    """The float vectors of a file, read as they are used."""
    return ivecs_mmap(fname).view("<f4")


def bvecs_mmap(fname: Any) -> Table:
    """The byte vectors of a file, read as they are used."""
    flat = np.memmap(fname, dtype=np.uint8, mode="r")
    d = int(flat[:4].view("<i4")[0])
    return flat.reshape(-1, d + 4)[:, 4:]


def ivecs_write(fname: Any, m: Table) -> None:
    """Write integer vectors."""
    n, d = m.shape
    rows = np.empty((n, d + 1), dtype="<i4")
    rows[:, 0], rows[:, 1:] = d, m
    rows.tofile(fname)


def fvecs_write(fname: Any, m: Table) -> None:
    """Write float vectors."""
    ivecs_write(fname, np.ascontiguousarray(m, dtype=np.float32).view(np.int32))


def bvecs_iter(filepath: Any, batch_size: int = 100_000) -> Iterator[Table]:
    """The byte vectors of a file, batch by batch."""
    rows = bvecs_mmap(filepath)
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def bvecs_iter_chunked(chunk_folder: Any, batch_size: int = 100_000) -> Iterator[Table]:
    """The byte vectors of chunk_0000.bvecs, chunk_0001.bvecs, ... as one sequence of batches."""
    found = sorted(path for path in Path(chunk_folder).iterdir() if path.name.startswith("chunk_") and path.suffix == ".bvecs")
    if not found:
        raise ValueError(f"No chunk files found in {chunk_folder}")
    numbers = []
    for path in found:
        match = re.match(r"chunk_(\d+)", path.name)
        if match is None:
            raise ValueError(f"Invalid chunk filename format: {path.name}")
        numbers.append(int(match[1]))
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"Gap detected in chunk sequence: {sorted(set(range(max(numbers) + 1)) - set(numbers))} missing")
    rest: Table | None = None
    for path in found:
        rows = bvecs_mmap(path)
        start = 0
        if rest is not None:
            start = min(batch_size - len(rest), len(rows))
            rest = np.vstack([rest, rows[:start]])
            if len(rest) < batch_size:
                continue
            yield rest
            rest = None
        while start + batch_size <= len(rows):
            yield rows[start : start + batch_size]
            start += batch_size
        rest = rows[start:].copy() if start < len(rows) else None
    if rest is not None:
        yield rest
