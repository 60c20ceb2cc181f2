"""Binary codes found by a hash of theirs, some of their bits: IndexBinaryHash has one, IndexBinaryMultiHash several."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, boolean, child, integer, vector
from tsscompat.faiss_compat.binary import IndexBinary, IndexBinaryFlat
from tsscompat.faiss_compat.params import SearchParameters
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.vectors import Int64Vector, ObjectVector, UInt8Vector
from tsscompat.kernels import hamming
from tsscompat.kernels.ivf_lists import Ragged, runs

# Hashes looked up, and candidates looked at, at a time.
_BLOCK = 1 << 21
# Hashes that a query may look up; with more of them, looking at every code is the faster way.
_FLIPS = 1 << 22


@lru_cache(maxsize=32)
def flips(nbits: int, most: int) -> Tensor:
    """All words of nbits bits of which at most so many are set, in FAISS's order: by how many, then the larger first."""
    count = sum(comb(nbits, n) for n in range(min(most, nbits) + 1))
    check(count <= _FLIPS, "{} of {} bits may differ in {} ways, {} are looked up at most", most, nbits, count, _FLIPS)
    chosen = (places for n in range(min(most, nbits) + 1) for places in combinations(range(nbits - 1, -1, -1), n))
    # Bit 63 is the sign of an int64.
    return torch.tensor([sum(1 << p if p < 63 else -(1 << 63) for p in places) for places in chosen], dtype=torch.int64)


def hashes_of(codes: Tensor, b: int, n: int = 1) -> Tensor:
    """The first n words of b bits of each code: (rows, n) int64."""
    words = []
    for start in range(0, n * b, b):
        word = torch.zeros(codes.shape[0], dtype=torch.int64, device=codes.device)
        for byte in range(start // 8, (start + b + 7) // 8):
            part, shift = codes[:, byte].long(), 8 * byte - start
            word |= part << shift if shift >= 0 else part >> -shift
        words.append(word & ((1 << b) - 1 if b < 64 else -1))
    return torch.stack(words, 1) if words else torch.empty(codes.shape[0], 0, dtype=torch.int64, device=codes.device)


class HashTable(Stated):
    """Entries by hash: `keys` and `ids` in the order in which they came."""

    _caches = ("_groups",)

    keys = vector(Int64Vector, "the hash of each entry")
    ids = vector(Int64Vector, "the id of each entry")
    vecs = vector(UInt8Vector, "the code of each entry, where they are nowhere else")

    def append(self, keys: Tensor, ids: Tensor, codes: Tensor | None = None) -> None:
        """Add entries."""
        self.keys.append(keys)
        self.ids.append(ids)
        if codes is not None:
            self.vecs.append(codes)
        self._drop_caches()

    def clear(self) -> None:
        """Forget all entries."""
        self.keys.clear()
        self.ids.clear()
        self.vecs.clear()
        self._drop_caches()

    def size(self) -> int:
        """How many hashes there are."""
        return int(self.groups()[0].shape[0])

    def groups(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The hashes in order, where each one's entries begin and how many they are, and the entries in that order."""
        kept = self.__dict__["_groups"]
        if kept is None:
            keys, order = self.keys.tensor.sort(stable=True)
            known, sizes = torch.unique_consecutive(keys, return_counts=True)
            kept = self._groups = known, sizes.cumsum(0) - sizes, sizes, order
        found: tuple[Tensor, Tensor, Tensor, Tensor] = kept
        return found

    def by_arrival(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hashes in the order in which they first came, how many entries each has, and the entries, hash by hash."""
        known, starts, sizes, order = self.groups()
        first = order[starts].argsort() if known.shape[0] else starts
        return known[first], sizes[first], order[runs(starts[first], sizes[first])[0]]

    def find(self, keys: Tensor) -> Tensor:
        """The groups of hashes, -1 where there is none."""
        known, keys = self.groups()[0], keys.contiguous()
        if not known.shape[0]:
            return torch.full_like(keys, -1)
        at = torch.searchsorted(known, keys).clamp(max=known.shape[0] - 1)
        return torch.where(known[at] == keys, at, -1)


class _Hashed(IndexBinary):
    """What the two share: searching block by block, and counting."""

    b = integer(0, "bits of a hash")
    nflip = integer(0, "bits of a hash that may differ")

    def _check_bits(self) -> None:
        check(0 < self.b <= 64, "hashes of {} bits are not supported", self.b)

    def _near(self, x: Tensor, n: int) -> Tensor:
        """All hashes within nflip bits of each query's: (nq, n, flips)."""
        check(self.nflip >= 0, "nflip must not be negative, got {}", self.nflip)
        return hashes_of(x, self.b, n)[:, :, None] ^ flips(self.b, self.nflip).to(x.device)

    def _lists(self, x: Tensor) -> tuple[Ragged, Tensor]:
        """Lists of codes, and which of them each query looks at."""
        raise NotImplementedError

    def _scored(self, n: int) -> None:
        cvar.indexBinaryHash_stats.ndis += n

    def _blocks(self, x: Tensor, width: int) -> tuple[Tensor, ...]:
        cvar.indexBinaryHash_stats.nq += x.shape[0]
        return x.split(max(1, _BLOCK // max(1, width)))

    def _width(self) -> int:
        """About how many places a query takes in a block."""
        raise NotImplementedError

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        self._no_params(params)
        parts = []
        for block in self._blocks(x, self._width()):
            lists, keys = self._lists(block)
            distances, labels, counts = hamming.scan(block, lists, keys, k)
            self._scored(counts[1])
            parts.append((distances, labels))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _range_search(self, x: Tensor, radius: int, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        self._no_params(params)
        hits, distances, labels = [torch.zeros(1, dtype=torch.int64, device=x.device)], [], []
        for block in self._blocks(x, self._width()):
            lists, keys = self._lists(block)
            lims, found, names, counts = hamming.within(block, lists, keys, radius)
            self._scored(counts[1])
            hits.append(lims.diff())
            distances.append(found)
            labels.append(names)
        return torch.cat(hits).cumsum(0), torch.cat(distances), torch.cat(labels)


class IndexBinaryHash(_Hashed):
    """Codes in lists by their first b bits; a search looks at the lists whose hashes differ in at most nflip bits."""

    _caches = ("_sorted",)

    invlists = child(HashTable, "codes by hash")

    def __init__(self, d: int = 0, b: int = 0) -> None:
        super().__init__(d)
        self.b = b

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._check_bits()
        n = x.shape[0]
        names = torch.arange(self.ntotal, self.ntotal + n, device=x.device) if ids is None else ids
        self.invlists.append(hashes_of(x, self.b)[:, 0], names, x)
        self._drop_caches()
        self.ntotal += n

    def _add_with_ids(self, x: Tensor, ids: Tensor) -> None:
        self._add(x, ids)

    def _width(self) -> int:
        return int(flips(self.b, self.nflip).shape[0])

    def _lists(self, x: Tensor) -> tuple[Ragged, Tensor]:
        self._check_bits()
        _, starts, sizes, order = self.invlists.groups()
        if self.__dict__["_sorted"] is None:
            codes = self.invlists.vecs.tensor.view(-1, self.code_size)[order]
            self._sorted = Ragged(codes, self.invlists.ids.tensor[order], starts, sizes)
        keys = self.invlists.find(self._near(x, 1)[:, 0])
        cvar.indexBinaryHash_stats.nlist += int((keys >= 0).sum())
        lists: Ragged = self._sorted
        return lists, keys

    def _reset(self) -> None:
        self.invlists.clear()
        self._drop_caches()
        self.ntotal = 0

    def hashtable_size(self) -> int:
        """How many hashes there are."""
        return int(self.invlists.size())

    def display(self) -> None:
        """Print the ids of each hash."""
        known, sizes, order = self.invlists.by_arrival()
        for key, ids in zip(known.tolist(), self.invlists.ids.tensor[order].split(sizes.tolist())):
            print(f"{key}: [{' '.join(map(str, ids.tolist()))}]")


class IndexBinaryMultiHash(_Hashed):
    """Codes with nhash hashes of b bits each; a search looks at those of which one hash differs in at most nflip bits."""

    storage = child(None, "holds the codes")
    own_fields = boolean(False)
    maps = vector(ObjectVector, "for each hash the ids by value")
    nhash = integer(0, "number of hashes")

    def __init__(self, d: int = 0, nhash: int = 0, b: int = 0) -> None:
        super().__init__(d)
        check(nhash * b <= d, "{} hashes of {} bits in codes of {}", nhash, b, d)
        self.nhash, self.b = nhash, b
        self.maps.assign([HashTable() for _ in range(nhash)])
        if d:
            self.storage, self.own_fields = IndexBinaryFlat(d), True

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._check_bits()
        n = x.shape[0]
        self.storage._add(x, None)
        names = torch.arange(self.ntotal, self.ntotal + n, device=x.device)
        for table, keys in zip(self.maps, hashes_of(x, self.b, self.nhash).unbind(1)):
            table.append(keys, names)
        self.ntotal += n

    def _width(self) -> int:
        # A query may see every code.
        return int(self.nhash * flips(self.b, self.nflip).shape[0] + self.ntotal)

    def _lists(self, x: Tensor) -> tuple[Ragged, Tensor]:
        """A list of candidates for each query, each once."""
        self._check_bits()
        candidates = []
        for table, near in zip(self.maps, self._near(x, self.nhash).unbind(1)):
            groups = table.find(near)
            found = groups >= 0
            stats = cvar.indexBinaryHash_stats
            stats.nlist += int(found.sum())
            stats.n0 += int((~found).sum())
            _, starts, sizes, order = table.groups()
            query, chosen = found.nonzero()[:, 0], groups[found]
            entries, which = runs(starts[chosen], sizes[chosen])
            candidates.append(query[which] * max(1, self.ntotal) + table.ids.tensor[order[entries]])
        both = torch.cat(candidates).unique() if candidates else torch.empty(0, dtype=torch.int64, device=x.device)
        ids, query = both % max(1, self.ntotal), both // max(1, self.ntotal)
        sizes = torch.bincount(query, minlength=x.shape[0])
        lists = Ragged(self.storage._rows[ids], ids, sizes.cumsum(0) - sizes, sizes)
        return lists, torch.arange(x.shape[0], device=x.device)[:, None]

    def _reconstruct(self, keys: Tensor) -> Tensor:
        codes: Tensor = self.storage._reconstruct(keys)
        return codes

    def _reset(self) -> None:
        self.storage._reset()
        for table in self.maps:
            table.clear()
        self.ntotal = 0

    def hashtable_size(self) -> int:
        """How many values all hashes have together."""
        return sum(table.size() for table in self.maps)


__all__ = ["HashTable", "IndexBinaryHash", "IndexBinaryMultiHash"]
