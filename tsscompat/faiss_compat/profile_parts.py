"""What searches with a profile keep of an index: its lists in parts with a center and a radius, and their entries in an order.

Made at first use, dropped when entries change.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import ragged
from tsscompat.algorithms.parts import Parts, cut, reordered
from tsscompat.faiss_compat.profile_settings import Settings
from tsscompat.kernels.ivf_lists import Ragged

# Searches that go without bounds after some that did not pay (see profiles.py).
REST = 16
_building = threading.Lock()


class Kept:
    """What searches of one index share."""

    def __init__(self) -> None:
        self.parts: tuple[Any, Parts] | None = None
        self.ordered: dict[str, tuple[Any, Ragged, Tensor, int]] = {}
        self.ranks: dict[str, tuple[Tensor, Ragged]] = {}
        self.idle, self.rest = 0, REST


def kept_of(index: Any) -> Kept:
    """What searches of an index share."""
    kept: Kept | None = index.__dict__.get("_profiles")
    if kept is None:
        with _building:
            kept = index.__dict__.get("_profiles")
            if kept is None:
                kept = index._profiles = Kept()
    return kept


def _stamp(index: Any) -> tuple[Any, ...]:
    return (id(index.invlists), index._lists()._stamp(), id(index.quantizer), index.quantizer.ntotal)


def parts_of(index: Any) -> Parts:
    """The parts of an index's lists."""
    kept, stamp = kept_of(index), _stamp(index)
    held = kept.parts
    if held is None or held[0] != stamp:
        with _building:
            held = kept.parts
            if held is None or held[0] != stamp:
                kept.parts = held = (stamp, cut(index._lists()._ragged(), index._decode_rows, index.d))
    return held[1]


def ordered_lists(index: Any, s: Settings) -> tuple[Ragged, Tensor]:
    """The lists with their entries in the order asked for, and the row of the arena that each row is."""
    kept, name, stamp = kept_of(index), s.list_ordering or "none", _stamp(index)
    # Entries added since an order was made stand behind it; this many are too many.
    most = float("inf") if s.rebuild_policy == "manual" else s.rebuild_threshold_adds
    held = kept.ordered.get(name)
    if held is None or held[0] != stamp or 0 < held[3] >= most:
        with _building:
            held = kept.ordered.get(name)
            if held is None or held[0] != stamp or 0 < held[3] >= most:
                lists = index._lists()._ragged()
                order, added = _order(index, kept, lists, name, most)
                kept.ordered[name] = held = (stamp, reordered(lists, order), order, added)
    return held[1], held[2]


def _order(index: Any, kept: Kept, lists: Ragged, name: str, most: float) -> tuple[Tensor, int]:
    """Rows in list order, best first, those added since the last full order behind; and how many these are."""
    rows, which = ragged.live(lists)
    if name == "none":
        return rows, 0
    position, old = rows - lists.offsets[which], kept.ranks.get(name)
    known = None if old is None else _known_before(lists, old[1], which, position)
    key = torch.full((rows.shape[0],), float("inf"), device=rows.device)
    added = 0 if old is None else rows.shape[0] - old[0].shape[0]
    if old is not None and known is not None and (added == 0 or added < most):
        key[known] = old[0]
    else:
        added = 0
        for i in range(0, rows.shape[0], 1 << 16):
            key[i : i + (1 << 16)] = _keys(index, rows[i : i + (1 << 16)], which[i : i + (1 << 16)], name)
        kept.ranks[name] = (key, Ragged(lists.codes[:0], lists.ids[rows], lists.offsets, lists.sizes.clone()))
    by_key = torch.argsort(key, stable=True)
    return rows[by_key[torch.argsort(which[by_key], stable=True)]], added


def _known_before(lists: Ragged, before: Ragged, which: Tensor, position: Tensor) -> Tensor | None:
    """Which rows were there before, where the lists only grew since; else None."""
    if bool((before.sizes > lists.sizes).any()):
        return None
    known = position < before.sizes[which]
    same = torch.equal(lists.ids[lists.offsets[which[known]] + position[known]], before.ids)
    return known if same else None


def _keys(index: Any, rows: Tensor, home: Tensor, name: str) -> Tensor:
    vectors, centers = index._decode_rows(rows, home), index._coarse()._reconstruct(home)
    if name == "residual_norm_asc":
        return (vectors - centers).square().sum(1)
    return -(vectors * centers).sum(1) / centers.square().sum(1).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
