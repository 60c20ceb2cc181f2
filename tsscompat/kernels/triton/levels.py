"""Scans of vectors level by level, for few queries: Panorama on a GPU.

What a program may leave out is memory traffic, which is all that a scan for few queries costs. From level to level those of a chunk's 64
vectors that can be no result any more drop out, and nothing is loaded for them: memory is read in sectors of 32 bytes, 8 dimensions, so
this pays for single vectors, while a chunk as a whole is seldom without hope. What results are held against must be known beforehand, as
programs do not wait for each other: the radius, or the last of the best of the first list probed.

Many queries that share lists are scored by products on the tensor cores (list_scan.py, flat.py) instead: vectors are then read once for
up to 64 queries, of which some nearly always have use for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.kernels.panorama import lengths_left
from tsscompat.kernels.triton.codes import Codes
from tsscompat.kernels.triton.launch import on, power_of_two
from tsscompat.kernels.triton.level_kernels import least_by_levels
from tsscompat.kernels.triton.list_scan import CHUNK, Options, Scan, Top, shared, top

# Programs that fill a large GPU several times over; each waits at the end of a level.
_PROGRAMS = 4096
# Numbers in the lists probed from which it pays to find a bar first: 128 MiB, which take 30 us to read, as the bar does to find.
_WORTHWHILE = 1 << 25


@dataclass(frozen=True)
class Leveled(Codes):
    """Vectors, and what it takes to leave some of them out."""

    norms: Tensor | None = None  # lengths of what is left of the vectors, laid out as they are
    left: Tensor | None = None  # (nq, levels + 1), the same of the queries
    bars: Tensor | None = None  # (nq,)
    flagged: bool = False  # whether it is asked only where the bar may be passed
    levels: int = 1
    per_level: int = 1
    looked: Tensor | None = None  # (1,), counts levels that were looked at

    def part(self, start: int, stop: int, nprobe: int) -> Leveled:
        assert self.left is not None and self.bars is not None
        return replace(super().part(start, stop, nprobe), left=self.left[start:stop], bars=self.bars[start:stop])


class LevelScan(Scan):
    """One search of lists that leaves out what cannot pass the bars."""

    def together(self) -> bool:
        return False

    def _least_few(self) -> Tensor:
        codes = self.codes
        assert isinstance(codes, Leveled) and codes.x is not None
        out = torch.empty(self.nq, self.nprobe * self.n_chunks, device=self.keys.device)
        n_pairs = self.nq * self.nprobe
        with on(out):
            least_by_levels[(n_pairs, min(self.n_chunks, max(1, _PROGRAMS // n_pairs)))](
                codes.x.contiguous(),
                codes.left,
                codes.bars,
                codes.data,
                codes.norms,
                *self._where(),
                self.keys,
                self._allowed(),
                out,
                self.counts,
                codes.looked,
                self.nprobe,
                self.n_chunks,
                codes.d,
                codes.levels,
                codes.per_level,
                max(1e-6, codes.d * 2.0**-23),
                KIND=codes.kind,
                DSUB=codes.dsub,
                KSUB=codes.ksub,
                METRIC=codes.metric,
                FLAGGED=codes.flagged,
                **self._masks(),
                N=CHUNK,
                BD=power_of_two(codes.per_level, 4, 32),
            )
        return out


def leveled(codes: Codes, norms: Tensor, levels: int, width: int, radius: float | None = None) -> Leveled:
    """Vectors scanned by levels: for all within a radius, or for the best, with bars yet to be set."""
    assert codes.x is not None
    nq, device = codes.x.shape[0], codes.data.device
    bar = (-float("inf") if codes.metric == INNER_PRODUCT else float("inf")) if radius is None else radius
    return Leveled(
        **codes.__dict__,
        norms=norms.contiguous(),
        left=lengths_left(codes.x.contiguous(), width),
        bars=torch.full((nq,), bar, device=device),
        flagged=radius is not None,
        levels=levels,
        per_level=width,
        looked=torch.zeros(1, dtype=torch.int64, device=device),
    )


def worthwhile(lists: Ragged, keys: Tensor, d: int) -> bool:
    """Whether the lists probed hold so much that it pays to look at the first of each query by itself; guessed from the mean list."""
    rows = lists.ids.shape[0] * keys.numel() // max(1, lists.nlist)
    return keys.shape[1] > 1 and not shared(keys, lists) and rows * d >= _WORTHWHILE


def best(
    codes: Codes, norms: Tensor, levels: int, width: int, lists: Ragged, keys: Tensor, k: int, options: Options
) -> tuple[Top, Tensor]:
    """The best k entries of each query, and how many levels of how many were looked at (2,)."""
    allowed, limits, pairs = options
    if levels < 2 or not worthwhile(lists, keys, codes.d):
        found = top(codes, lists, keys, k, options)
        return found, (found[2][1] * levels).expand(2)
    by_levels = leveled(codes, norms, levels, width)
    first = top(codes, lists, keys[:, :1], k, (allowed, None if limits is None else limits[:, :1], pairs))
    found = top(replace(by_levels, bars=first[0][:, -1].contiguous()), lists, keys, k, options, LevelScan)
    assert by_levels.looked is not None
    whole = found[2][1:2] * levels
    return found, torch.cat([torch.minimum(by_levels.looked + first[2][1:2] * levels, whole), whole])
