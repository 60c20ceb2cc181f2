"""Fast scan: codes of 4-bit parts, scored by tables rounded to whole numbers as FAISS rounds them.

What the look-ups of a code sum to, bias of its list included, stands for start + sum / scale. Distances are these, so that answers are the
index's; their gradients are those of distances that are not rounded.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsscompat.modules.codecs import Additive, Codec, Product, taken
from tsscompat.modules.distances import best_of, distance, nothing
from tsscompat.modules.searcher import Searcher
from tsscompat.modules.structures import Exhaustive, Lists


class Summed(Codec):
    """Codes of 4-bit parts, each with a table of 16 entries for a query; what these sum to is a distance, up to rounding."""

    def tables(self, x: Tensor, metric: int) -> Tensor:
        """The tables (n, parts, 16) of queries."""
        raise NotImplementedError

    def deep_tables(self, x: Tensor, centers: Tensor, whole: bool) -> Tensor:
        """The tables (n, p, parts, 16) of queries and the centers (n, p, d) that codes are relative to, for L2: distances to what is left
        of the query, or with `whole` these less the distance to the center."""
        raise NotImplementedError

    def numbers(self, rows: Tensor) -> Tensor:
        """The numbers (..., parts) of the entries of rows."""
        raise NotImplementedError

    def places(self, rows: Tensor) -> Tensor:
        """Their places among the entries of all parts."""
        raise NotImplementedError

    def unrounded(self, x: Tensor, centers: Tensor, rows: Tensor, metric: int) -> Tensor:
        """The distances to rows (n, m), to which the vectors `centers` are added, with gradients."""
        return distance(x[:, None], self.decode(rows) + centers, metric, 0.0)


class SummedProduct(Product, Summed):
    """Product codes."""

    def tables(self, x: Tensor, metric: int) -> Tensor:
        asked, centroids = x.unflatten(1, [self.parts, self.centroids.shape[2]]), self.centroids.float()
        if metric == 0:
            return torch.einsum("nmd,mkd->nmk", asked, centroids)
        return (asked[:, :, None] - centroids).square().sum(-1)

    def deep_tables(self, x: Tensor, centers: Tensor, whole: bool) -> Tensor:
        n, p = centers.shape[0], centers.shape[1]
        if not whole:
            return self.tables((x[:, None] - centers).flatten(0, 1), 1).unflatten(0, [n, p])
        centroids = self.centroids.float()
        deep = 2 * self.tables(centers.flatten(0, 1), 0).unflatten(0, [n, p]) + centroids.square().sum(2)
        return deep + -2.0 * self.tables(x, 0)[:, None]


class SummedAdditive(Additive, Summed):
    """Additive codes; for L2 with two parts more, whose entries (2, 16) sum to the squared norm."""

    norms: Tensor

    def __init__(self, parts: int, bits: int) -> None:
        super().__init__(parts, bits)
        self.hold(norms=torch.zeros(0, 16))

    def books(self) -> int:
        """Parts that are codebooks."""
        return self.parts - self.norms.shape[0]

    def decode(self, rows: Tensor) -> Tensor:
        first = torch.arange(self.books(), device=self.codes.device) * 16
        return taken(self.entries, self.numbers(rows)[..., : self.books()] + first).float().sum(-2)

    def tables(self, x: Tensor, metric: int) -> Tensor:
        products = (x @ self.entries.float().t()).unflatten(1, [self.books(), 16])
        if metric == 0:
            return products
        return torch.cat([products * -2.0, self.norms.float()[None].expand(x.shape[0], -1, -1)], 1)

    def places(self, rows: Tensor) -> Tensor:
        return self.numbers(rows) + torch.arange(0, self.parts * 16, 16, device=self.codes.device)

    def unrounded(self, x: Tensor, centers: Tensor, rows: Tensor, metric: int) -> Tensor:
        # The norms are of no query, and stored ones have no gradient: what is left is the product.
        products = (x[:, None] * (self.decode(rows) + centers)).sum(-1)
        return products if metric == 0 else -2.0 * products


def rounded(tables: Tensor, biases: Tensor, there: Tensor, norms: int, weight: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tables (n, 1 or p, parts, 16) and biases (n, p) as whole numbers, the scale and the start (n,) of what these stand for.

    One scale for a query, so that no entry is over 255 and no sum over 65535; each part's least entry is 0. Probes that are not `there`
    do not count. The last `norms` parts count `weight` times, but once in the start, as in FAISS.
    """
    deep, infinite, parts = tables.shape[1] > 1, float("inf"), tables.shape[2]
    least = tables.amin(-1)
    spans = tables.amax(-1) - least  # (n, 1 or p, parts)
    wide = spans.amax(2).masked_fill(~there, 0.0).amax(1) if deep else spans.amax(2)[:, 0]
    lowest = biases.masked_fill(~there, infinite).amin(1)
    above = biases - lowest[:, None]
    # Sums go part by part, as in FAISS: every entry's rounding depends on the order.
    if deep:
        # A list's sums start from its bias and the least entries of its tables.
        starts = biases
        for part in range(parts):
            starts = starts + least[:, :, part]
        start = starts.masked_fill(~there, infinite).amin(1)
        biases = starts - start[:, None]
        reaches = torch.maximum(above, biases)
    else:
        start = torch.zeros_like(lowest)
        for part in range(parts):
            start = start + least[:, 0, part]
        start = start + lowest
        biases = reaches = above
    for part in range(parts):
        span = spans[:, :, part]
        reaches = reaches + (span * float(weight) if part >= parts - norms else span)
    reach = reaches.masked_fill(~there, 0.0).amax(1)
    scale = torch.minimum(
        torch.where(wide > 0, torch.full_like(wide, 255.0) / wide, infinite),
        torch.where(reach > 0, torch.full_like(reach, 65535.0) / reach, infinite),
    )
    scale = torch.where(scale < infinite, scale, 0.0)
    # FAISS adds the half in double precision.
    entries = (((tables - least[..., None]) * scale[:, None, None, None]).double() + 0.5).float().floor()
    if norms > 0 and weight > 1:
        counts = torch.where(torch.arange(parts, device=tables.device) < parts - norms, 1.0, float(weight))
        entries = entries * counts[:, None]
    added = ((biases * scale[:, None]).double() + 0.5).float().floor()
    return entries, added.masked_fill(~there, 0.0), scale, start


def meant(sums: Tensor, scale: Tensor, start: Tensor, unrounded: Tensor) -> Tensor:
    """The distances that sums (n, m) stand for, with the gradients of those that are not rounded."""
    unit = torch.where(scale > 0, 1.0 / scale, 0.0)
    return sums * unit[:, None] + start[:, None] + (unrounded - unrounded.detach())


class FastScan(Exhaustive):
    """Every code is looked at."""

    SETTINGS = ("metric", "k", "norms", "weight")
    if TYPE_CHECKING:  # TorchScript takes no modules for types
        codec: Summed

    def __init__(self, codec: Summed, metric: int, k: int = 10, norms: int = 0, weight: int = 1) -> None:
        super().__init__(codec, metric, 0.0, k)
        self.norms, self.weight = int(norms), int(weight)

    def costs(self, asked: Tensor, start: int, stop: int) -> Tensor:
        # Sums of look-ups as products with ones and zeros: exact, as whole numbers of 16 bits are in float32.
        numbers = self.codec.numbers(torch.arange(start, stop, device=asked.device))
        chosen = (numbers[:, :, None] == torch.arange(16, device=asked.device)).flatten(1).float()
        sums = asked @ chosen.t()
        return -sums if self.metric == 0 else sums

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        x = queries.float()
        if self.codec.count() == 0:
            return nothing(x, k, self.metric)
        tables = self.codec.tables(x.detach(), self.metric).detach()[:, None]
        none = torch.zeros((x.shape[0], 1), device=x.device)
        entries, _, scale, start = rounded(tables, none, none == 0, self.norms, self.weight)
        asked = entries.flatten(1)
        rows = self.tiles(asked, k + self.EXTRA)
        sums = asked.gather(1, self.codec.places(rows).flatten(1)).unflatten(1, [rows.shape[1], -1]).sum(-1)
        exact = self.codec.unrounded(x, torch.zeros((1, 1, 1), device=x.device), rows, self.metric)
        return best_of(meant(sums, scale, start, exact), rows, k, self.metric)

    def near(self, x: Tensor, k: int, efSearch: int) -> Tensor:
        return self.found(x, k, 0, efSearch)[1]


class FastScanLists(Lists):
    """The codes of the nprobe lists nearest to a query are looked at."""

    SETTINGS = ("metric", "k", "nprobe", "residual", "norms", "weight", "deep", "whole")
    if TYPE_CHECKING:
        codec: Summed

    def __init__(
        self,
        coarse: Searcher,
        codec: Summed,
        metric: int,
        k: int = 10,
        nprobe: int = 1,
        residual: bool = False,
        norms: int = 0,
        weight: int = 1,
        deep: bool = False,
        whole: bool = False,
    ) -> None:
        """`deep`: each probe has tables of its own, `whole`: less the distance to the center, which is added as a bias."""
        super().__init__(coarse, codec, metric, 0.0, k, nprobe, residual)
        self.norms, self.weight, self.deep, self.whole = int(norms), int(weight), bool(deep), bool(whole)

    def sums(self, prepared: Tensor, base: Tensor, rows: Tensor, probe: Tensor) -> Tensor:
        """What look-ups in rows (n, m) sum to, the bias of their list included."""
        places = self.codec.places(rows)
        width = prepared.shape[1] // (16 * places.shape[2])  # tables of a query: one, or one for each probe
        if width > 1:
            places = places + (probe * (16 * places.shape[2]))[:, :, None]
        sums = prepared.gather(1, places.flatten(1)).unflatten(1, [rows.shape[1], -1]).sum(-1)
        return sums + base.gather(1, probe)

    def costs(self, asked: Tensor, prepared: Tensor, rows: Tensor, base: Tensor, probe: Tensor) -> Tensor:
        sums = self.sums(prepared, base, rows, probe)
        return -sums if self.metric == 0 else sums

    def scored(self, x: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Tables (n, 1 or p, parts, 16) and biases (n, p), not yet rounded."""
        none = torch.zeros(centers.shape[:2], device=x.device)
        if not self.residual:
            return self.codec.tables(x, self.metric)[:, None], none
        products = torch.bmm(centers, x[:, :, None])[:, :, 0]
        if self.metric == 0:
            return self.codec.tables(x, 0)[:, None], products
        if not self.deep:
            return self.codec.tables(x, 1)[:, None], products * -2.0
        biases = distance(x[:, None], centers, 1, 0.0) if self.whole else none
        return self.codec.deep_tables(x, centers, self.whole), biases

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        x = queries.float()
        if self.ids.shape[0] == 0:
            return nothing(x, k, self.metric)
        probes = min(nprobe if nprobe > 0 else self.nprobe, self.offsets.shape[0] - 1)
        keys = self.coarse.near(x.detach(), probes, efSearch)
        known = keys.clamp(min=0)
        tables, biases = self.scored(x.detach(), self.coarse.vectors(known).detach())
        entries, base, scale, start = rounded(tables.detach(), biases, keys >= 0, self.norms, self.weight)
        prepared = entries.flatten(1)
        names = self.scanned(x.detach(), prepared, base, keys, known, k + self.EXTRA)
        if names.shape[1] == 0:
            return nothing(x, k, self.metric)
        at = names.clamp(min=0)
        rows, probe = at // probes, at % probes
        centers = self.coarse.vectors(known.gather(1, probe)) if self.residual else torch.zeros((1, 1, 1), device=x.device)
        exact = self.codec.unrounded(x, centers, rows, self.metric)
        labels = taken(self.ids, rows).masked_fill(names < 0, -1)
        return best_of(meant(self.sums(prepared, base, rows, probe), scale, start, exact), labels, k, self.metric)
