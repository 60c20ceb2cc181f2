"""Tables of integers: sorting into buckets, comparing result lists, checksums, maps of ids; and statistics of a matrix."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import Array, as_tensor
from tsscompat.devices import default_device
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.pointers import behind
from tsscompat.kernels.hashes import byte_hashes, checksums

CPU = torch.device("cpu")


def _int64(x: Array) -> Tensor:
    return as_tensor(x if hasattr(x, "__dlpack__") else np.asarray(x), torch.int64, CPU)[0]


# -- buckets --------------------------------------------------------------------------------------------------------------------------


def _buckets(values: Tensor, nbucket: int | None) -> tuple[Tensor, Tensor]:
    """Limits of the buckets, and the positions of the values in order of bucket."""
    n = (int(values.max()) + 1 if values.numel() else 0) if nbucket is None else int(nbucket)
    check(values.numel() == 0 or (int(values.min()) >= 0 and int(values.max()) < n), "expected values within [0, {})", n)
    limits = torch.zeros(n + 1, dtype=torch.int64)
    limits[1:] = torch.bincount(values, minlength=n).cumsum(0)
    return limits, torch.sort(values, stable=True).indices


def bucket_sort(tab: Array, nbucket: int | None = None, nt: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Limits and a permutation: perm[lims[i]:lims[i+1]] are the positions of the value i. `nt`: threads, chosen here."""
    limits, order = _buckets(_int64(tab).reshape(-1), nbucket)
    return limits.numpy(), order.numpy()


def matrix_bucket_sort_inplace(tab: np.ndarray[Any, Any], nbucket: int | None = None, nt: int = 0) -> np.ndarray[Any, Any]:
    """Limits; the flat tab then holds, between lims[i] and lims[i+1], the rows in which the value i was."""
    expect(tab.dtype in (np.int32, np.int64), "expected int32 or int64, got {}", tab.dtype)
    expect(tab.ndim == 2 and tab.flags.c_contiguous, "expected a contiguous matrix")
    limits, order = _buckets(_int64(tab).reshape(-1), nbucket)
    tab.reshape(-1)[:] = (order // max(1, tab.shape[1])).numpy()
    return limits.numpy()


# -- result lists ---------------------------------------------------------------------------------------------------------------------


def _shared(a: Tensor, b: Tensor) -> int:
    """How many distinct ids of each row of `a` are in the same row of `b`, over all rows; negative ids are padding."""
    if a.shape[1] == 0 or b.shape[1] == 0:
        return 0
    ordered = b.sort(dim=1).values
    mine = a.sort(dim=1).values
    fresh = torch.ones_like(mine, dtype=torch.bool)
    fresh[:, 1:] = mine[:, 1:] != mine[:, :-1]
    at = torch.searchsorted(ordered, mine).clamp(max=b.shape[1] - 1)
    return int((fresh & (mine >= 0) & (ordered.gather(1, at) == mine)).sum())


def eval_intersection(I1: Array, I2: Array) -> int:
    """How many ids two result tables share, row by row."""
    a, b = _int64(I1), _int64(I2)
    expect(
        a.ndim == 2 and b.ndim == 2 and len(a) == len(b), "expected two tables of as many rows, got {} and {}", a.shape, b.shape
    )
    return _shared(a, b)


def ranklist_intersection_size(k1: int, v1: Any, k2: int, v2: Any) -> int:
    """How many ids two lists share."""
    return _shared(behind(v1, 1, k1), behind(v2, 1, k2))


@overload
def imbalance_factor(k: int, hist: Any, /) -> float: ...
@overload
def imbalance_factor(n: int, k: int, assign: Any, /) -> float: ...
def imbalance_factor(*args: Any) -> float:
    """How uneven k counts are (or the counts of n assignments to k lists): 1 if even, k if all is in one."""
    if len(args) == 2:
        k, counts = args[0], behind(args[1], args[0])
    else:
        n, k, assigned = args
        counts = torch.bincount(behind(assigned, n).long(), minlength=k)
    sizes = counts.double()
    return float(sizes.square().sum() * k / sizes.sum().square())


def smawk(nrows: int, ncols: int, x: Any, argmins: Any) -> None:
    """Where the (first) smallest number of each row of a matrix is."""
    rows = behind(x, nrows, ncols)
    behind(argmins, nrows).copy_((rows == rows.amin(1, keepdim=True)).to(torch.uint8).argmax(1))


# -- checksums ------------------------------------------------------------------------------------------------------------------------


def _bytes(a: Array) -> Tensor:
    a = a.cpu().numpy() if isinstance(a, Tensor) else np.asarray(a)
    return torch.from_numpy(np.array(a.view(np.uint8)))


def checksum(a: Array) -> Any:
    """A number that differs when an array differs, most likely; of a matrix, one number a row."""
    raw = _bytes(a)
    if raw.ndim == 1:
        return int(checksums(raw[None])[0]) & (2**64 - 1)
    expect(raw.ndim == 2, "expected a vector or a matrix, got {} dimensions", raw.ndim)
    return checksums(raw).numpy().view(np.uint64)


def bvec_checksum(n: int, a: Any) -> int:
    return int(checksums(behind(a, 1, n).view(torch.uint8))[0]) & (2**64 - 1)


def ivec_checksum(n: int, a: Any) -> int:
    return int(checksums(behind(a, n).contiguous().view(torch.uint8)[None])[0]) & (2**64 - 1)


def bvecs_checksum(n: int, d: int, a: Any, cs: Any) -> None:
    behind(cs, n).view(torch.int64).copy_(checksums(behind(a, n, d)))


def hash_bytes(bytes: Any, n: int) -> int:
    return int(byte_hashes(behind(bytes, 1, n).view(torch.uint8))[0]) & (2**64 - 1)


# -- maps of ids ----------------------------------------------------------------------------------------------------------------------


class _IdMap:
    """Sorted keys with their values; a key that comes again takes its new value."""

    def __init__(self) -> None:
        self._keys = torch.empty(0, dtype=torch.int64)
        self._values = torch.empty(0, dtype=torch.int64)

    def _add(self, keys: Array, vals: Array) -> None:
        new_keys, new_values = _int64(keys), _int64(vals)
        expect(new_keys.ndim == 1 and new_keys.shape == new_values.shape, "expected as many values as keys")
        both, order = torch.sort(torch.cat([self._keys, new_keys]), stable=True)
        last = torch.ones_like(both, dtype=torch.bool)
        last[:-1] = both[1:] != both[:-1]
        self._keys, self._values = both[last], torch.cat([self._values, new_values])[order][last]

    def _lookup(self, keys: Array) -> np.ndarray[Any, Any]:
        wanted = _int64(keys)
        if not len(self._keys):
            return torch.full_like(wanted, -1).numpy()
        at = torch.searchsorted(self._keys, wanted).clamp(max=len(self._keys) - 1)
        return torch.where(self._keys[at] == wanted, self._values[at], -1).numpy()


class MapInt64ToInt64(_IdMap):
    """A map of at most `capacity` (a power of two) ids to ids; -1 stands for none."""

    capacity: int
    log2_capacity: int

    def __init__(self, capacity: int) -> None:
        super().__init__()
        expect(capacity > 0 and capacity & (capacity - 1) == 0, "expected a capacity that is a power of two, got {}", capacity)
        self.capacity = int(capacity)
        self.log2_capacity = self.capacity.bit_length() - 1

    def add(self, keys: Array, vals: Array) -> None:
        """Map keys to values."""
        before = self._keys, self._values
        self._add(keys, vals)
        if len(self._keys) > self.capacity:
            self._keys, self._values = before
            check(False, "the map's capacity of {} is exhausted", self.capacity)

    def lookup(self, keys: Array) -> np.ndarray[Any, Any]:
        """The values of keys, -1 where there is none."""
        return self._lookup(keys)

    @property
    def tab(self) -> np.ndarray[Any, Any]:
        """The pairs, free places filled with -1."""
        table = torch.full((self.capacity, 2), -1, dtype=torch.int64)
        table[: len(self._keys), 0], table[: len(self._keys), 1] = self._keys, self._values
        return table.numpy()


class MapLong2Long(_IdMap):
    """A map of ids to ids of any size; -1 stands for none."""

    def add(self, keys: Array, vals: Array) -> None:
        """Map keys to values."""
        self._add(keys, vals)

    def search(self, key: int) -> int:
        """The value of a key, -1 if there is none."""
        return int(self._lookup(np.array([key], dtype=np.int64))[0])

    def search_multiple(self, keys: Array) -> np.ndarray[Any, Any]:
        """The values of keys, -1 where there is none."""
        return self._lookup(keys)


# -- statistics -----------------------------------------------------------------------------------------------------------------------


class PerDimStats:
    """What one column holds."""

    def __init__(self, column: Tensor) -> None:
        finite = column.isfinite()
        values = column[finite].double()
        self.n, self.n_valid = column.numel(), values.numel()
        self.n_nan = int(column.isnan().sum())
        self.n_inf = self.n - self.n_valid - self.n_nan
        self.n0 = int((values == 0).sum())
        self.min, self.max = (float(values.min()), float(values.max())) if self.n_valid else (float("inf"), float("-inf"))
        self.sum, self.sum2 = float(values.sum()), float(values.square().sum())
        self.mean = self.sum / self.n_valid if self.n_valid else float("nan")
        self.stddev = max(self.sum2 / self.n_valid - self.mean**2, 0.0) ** 0.5 if self.n_valid else float("nan")


class MatrixStats:
    """What in a matrix of vectors would surprise an index; `comments` says it in words."""

    n: int
    d: int
    n_valid: int
    n0: int
    n_collision: int
    min_norm2: float
    max_norm2: float
    hash_value: int
    comments: str
    per_dim_stats: list[PerDimStats]

    def __init__(self, m: Array) -> None:
        expect(len(m.shape) == 2, "expected a matrix, got {} dimensions", len(m.shape))
        x = as_tensor(m, torch.float32, default_device())[0]
        self.n, self.d = x.shape
        raw = x.cpu().view(torch.uint8)
        self.hash_value = int(byte_hashes(raw.reshape(1, -1))[0]) & (2**64 - 1)
        self.per_dim_stats = [PerDimStats(x[:, j]) for j in range(self.d)]
        squares = x.double().square().sum(1)
        finite = squares.isfinite()
        self.n_valid, self.n0 = int(finite.sum()), int((squares == 0).sum())
        positive = squares[finite & (squares > 0)]
        self.min_norm2 = float(positive.min()) ** 0.5 if len(positive) else float("inf")
        self.max_norm2 = float(positive.max()) ** 0.5 if len(positive) else 0.0
        first, counts, self.n_collision = _copies(raw)
        self.comments = "".join(f"{line}\n" for line in self._comments(first, counts))

    def reset(self, m: Array) -> None:
        """Look at another matrix."""
        self.__init__(m)  # type: ignore[misc]

    def _comments(self, first: Tensor, counts: Tensor) -> list[str]:
        return [
            f"analyzing {self.n} vectors of size {self.d}",
            *(["more than 1024 dimensions: reduce them, for instance with a PCAMatrix"] if self.d > 1024 else []),
            f"hash value 0x{self.hash_value:016x}",
            *self._validity(first, counts),
            *self._norms(),
            *self._dimensions(),
        ]

    def _validity(self, first: Tensor, counts: Tensor) -> list[str]:
        bad = self.n - self.n_valid
        lines = [f"{bad} vectors contain NaN or Inf: no index finds those" if bad else "no NaN or Infs in data"]
        if len(counts) == self.n:
            return [*lines, "all vectors are distinct"]
        most = int(counts.argmax())
        lines.append(f"{len(counts)} vectors are distinct ({len(counts) * 100 / self.n:.2f}%)")
        return [*lines, f"vector {int(first[most])} has {int(counts[most])} copies"]

    def _norms(self) -> list[str]:
        low, high = self.min_norm2, self.max_norm2
        lines = [f"range of L2 norms=[{low:g}, {high:g}] ({self.n0} null vectors)"]
        if high < low * 1.0001:
            lines.append("vectors are normalized: inner product and L2 find the same")
        if high > low * 100:
            lines.append("norms differ by more than a factor of 100: is that meant?")
        return lines

    def _dimensions(self) -> list[str]:
        stats = self.per_dim_stats
        zeros = sum(s.n0 for s in stats)
        constant = sum(s.max == s.min for s in stats)
        narrow = sum(s.max != s.min and s.max < 1.001 * s.min for s in stats)
        spread = [s.stddev for s in stats]
        lines = [
            f"matrix contains {zeros * 100 / (self.n * self.d):.2f} % 0 entries" if zeros else "matrix contains no 0s",
            f"{constant} dimensions are constant: they can be left out" if constant else "no constant dimensions",
            f"{narrow} dimensions are too large wrt. their variance: centre them (CenteringTransform), or L2 loses digits"
            if narrow
            else "no dimension has a too large mean",
        ]
        if spread:
            small = sum(s < max(spread) * 1e-4 for s in spread)
            lines.append(f"stddevs per dimension are in [{min(spread):g} {max(spread):g}]")
            if small:
                lines.append(f"{small} dimensions vary 10000 times less than the one that varies most: they hardly matter")
        return lines


def _copies(raw: Tensor) -> tuple[Tensor, Tensor, int]:
    """Of rows of bytes: where each distinct one is first, how often it is there, and how many hashes collided."""
    _, group, counts = torch.unique(byte_hashes(raw), return_inverse=True, return_counts=True)
    first = torch.full_like(counts, raw.shape[0]).scatter_reduce(0, group, torch.arange(raw.shape[0]), "amin")
    same = (raw == raw[first[group]]).all(1) if raw.shape[0] else torch.empty(0, dtype=torch.bool)
    return first, counts, int((~same).sum())


__all__ = [
    "MapInt64ToInt64",
    "MapLong2Long",
    "MatrixStats",
    "bucket_sort",
    "bvec_checksum",
    "bvecs_checksum",
    "checksum",
    "eval_intersection",
    "hash_bytes",
    "imbalance_factor",
    "ivec_checksum",
    "matrix_bucket_sort_inplace",
    "ranklist_intersection_size",
    "smawk",
]
