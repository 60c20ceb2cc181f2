"""Structures: which rows of a codec a search looks at, all of them or those of the nearest lists.

Candidates are chosen by products, which are fast; a few more than asked for, whose distances are then computed term by term. So answers
do not depend on the rounding of norms, and gradients need no more than the rows found.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from tsscompat.modules.codecs import Codec, taken
from tsscompat.modules.distances import best_of, distance, is_similarity, nothing
from tsscompat.modules.part import empty_ints
from tsscompat.modules.searcher import Searcher


def kept(best: Tensor, rows: Tensor, costs: Tensor, more: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n lowest costs among those that there are already and more, with their rows."""
    if best.shape[1] > 0:
        costs, more = torch.cat([best, costs], 1), torch.cat([rows, more], 1)
    elif costs.shape[1] <= n:
        return costs, more
    best, at = torch.topk(costs, min(n, costs.shape[1]), dim=1, largest=False)
    return best, more.gather(1, at)


def started(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """No candidates yet, with room for n."""
    best = torch.full((x.shape[0], n), float("inf"), dtype=torch.float32, device=x.device)
    return best, torch.full((x.shape[0], n), -1, dtype=torch.int64, device=x.device)


def longest(ends: Tensor) -> Tensor:
    """The most pages that a query has; 0 where there is none."""
    return pad(ends[:, -1], (1, 0)).amax(0)


class Exhaustive(Searcher):
    """Every row is looked at."""

    SETTINGS = tuple[str, ...](("metric", "arg", "k"))
    EXACT = ("squares", "shift")
    # Candidates beyond k, for those that rounding put in the wrong order.
    EXTRA: Final[int] = 8
    # Rows of a tile, and how many tiles an exported program has at most; metrics without products hold differences, of fewer rows.
    TILE: Final[int] = 16384
    TILES: Final[int] = 16
    SMALL_TILE: Final[int] = 1024
    SMALL_TILES: Final[int] = 64
    squares: Tensor  # (n,) squared norms of the rows less `shift`, for L2
    shift: Tensor  # (d,) a point amid the rows

    def __init__(self, codec: Codec, metric: int, arg: float = 0.0, k: int = 10) -> None:
        super().__init__(metric, k)
        self.codec, self.arg = codec, float(arg)
        self.hold(squares=torch.zeros(0), shift=torch.zeros(0))

    def costs(self, asked: Tensor, start: int, stop: int) -> Tensor:
        """What consecutive rows cost each query, up to a constant of the query."""
        rows = self.codec.between(start, stop, asked.device).detach()
        if self.metric == 0:
            return -(asked @ rows.t())
        if self.metric == 1:
            return torch.addmm(self.squares[start:stop], asked, rows.t(), alpha=-2.0)
        values = distance(asked[:, None], rows[None], self.metric, self.arg)
        return -values if is_similarity(self.metric) else values

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        x = queries.float()
        if self.codec.count() == 0:
            return nothing(x, k, self.metric)
        rows = self.candidates(x.detach(), k + self.EXTRA)
        return best_of(self.again(x, rows), rows, k, self.metric)

    def near(self, x: Tensor, k: int, efSearch: int) -> Tensor:
        # Which of two lists is probed last does not hang on a rounding more in a product than there is in a sum.
        return self.candidates(x, k) if self.codec.count() > 0 else nothing(x, k, self.metric)[1]

    def candidates(self, x: Tensor, most: int) -> Tensor:
        """The best rows by products, or by distance where the metric has none."""
        return self.tiles(x - self.shift if self.metric == 1 else x, most)

    def tiles(self, asked: Tensor, most: int) -> Tensor:
        """The rows that cost least, tile by tile."""
        n, products = self.codec.count(), self.metric < 2
        step = max(self.TILE if products else self.SMALL_TILE, -(-n // (self.TILES if products else self.SMALL_TILES)))
        best, rows = started(asked, 0)
        for start in range(0, n, step):
            stop = min(n, start + step)
            costs, at = torch.topk(self.costs(asked, start, stop), min(most, stop - start), dim=1, largest=False)
            best, rows = kept(best, rows, costs, at + start, most)
        return rows

    def again(self, queries: Tensor, labels: Tensor) -> Tensor:
        return distance(queries.float()[:, None], self.vectors(labels.clamp(min=0)), self.metric, self.arg)

    def vectors(self, rows: Tensor) -> Tensor:
        return self.codec.decode(rows)


class Lists(Searcher):
    """Rows in lists; those of the nprobe lists nearest to a query are looked at, a few pages at a time.

    List l is rows offsets[l] : offsets[l + 1]. A step holds as many rows for each query, and the number of steps follows from the lists
    that the queries of the batch probe: no gather of all candidates, no padding of short lists to long ones.
    """

    SETTINGS = tuple[str, ...](("metric", "arg", "k", "nprobe", "residual"))
    EXACT = ("squares", "shift")
    EXTRA: Final[int] = 8  # as of Exhaustive
    PAGE: Final[int] = 32  # rows
    PAGES: Final[int] = 32  # of a step of an exported program
    STEP: Final[int] = 1 << 22  # numbers that a step holds elsewhere
    offsets: Tensor
    ids: Tensor
    squares: Tensor
    shift: Tensor

    def __init__(
        self, coarse: Searcher, codec: Codec, metric: int, arg: float = 0.0, k: int = 10, nprobe: int = 1, residual: bool = False
    ) -> None:
        super().__init__(metric, k)
        self.coarse, self.codec, self.arg, self.nprobe, self.residual = coarse, codec, float(arg), int(nprobe), bool(residual)
        self.hold(offsets=empty_ints(1), ids=empty_ints(0), squares=torch.zeros(0), shift=torch.zeros(0))

    def costs(self, asked: Tensor, prepared: Tensor, rows: Tensor, base: Tensor, probe: Tensor) -> Tensor:
        """What rows (n, m) cost their queries, up to a constant; `base` are the products with the centers of the lists probed."""
        if self.metric > 1:
            values = distance(asked[:, None], self.codec.decode(rows), self.metric, self.arg)
            return -values if is_similarity(self.metric) else values
        products = self.codec.products(prepared, rows)
        if self.residual:
            products = products + base.gather(1, probe)
        return -products if self.metric == 0 else taken(self.squares, rows) - 2 * products

    def step(
        self,
        asked: Tensor,
        prepared: Tensor,
        base: Tensor,
        probed: list[Tensor],
        at: Tensor,
        pages: int,
        best: Tensor,
        names: Tensor,
        most: int,
    ) -> tuple[Tensor, Tensor]:
        """Look at some pages of each query, from page `at` of those of all its lists on; candidates are row * nprobe + probe."""
        first, stop, ends = probed[0], probed[1], probed[2]
        page = at + torch.arange(pages, device=at.device)
        probe = (ends[:, None] <= page[:, None]).sum(-1)  # (n, pages)
        place = page[:, None] * self.PAGE + torch.arange(self.PAGE, device=at.device)
        rows = (first.gather(1, probe)[:, :, None] + place).flatten(1)
        gone = (rows.unflatten(1, [pages, self.PAGE]) >= stop.gather(1, probe)[:, :, None]).flatten(1)
        rows = rows.masked_fill(gone, 0)
        probe = probe[:, :, None].expand(-1, -1, self.PAGE).flatten(1).clamp(max=ends.shape[1] - 1)
        costs = self.costs(asked, prepared, rows, base, probe).masked_fill(gone, float("inf"))
        return kept(best, names, costs, (rows * ends.shape[1] + probe).masked_fill(gone, -1), most)

    @torch.jit.unused
    def traced(self, asked: Tensor, prepared: Tensor, base: Tensor, probed: list[Tensor], total: Tensor, most: int) -> Tensor:
        """All steps as one loop of the program that torch.export, torch.compile or ONNX make."""

        def go_on(at: Tensor, best: Tensor, names: Tensor) -> Tensor:
            return at < total

        def go(at: Tensor, best: Tensor, names: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            best, names = self.step(asked, prepared, base, probed, at, self.PAGES, best, names, most)
            return at + self.PAGES, best, names

        begin = torch.zeros((), dtype=torch.int64, device=asked.device)
        found: Tensor = torch.while_loop(go_on, go, (begin, *started(asked, most)))[2]
        return found

    def scanned(self, asked: Tensor, prepared: Tensor, base: Tensor, keys: Tensor, known: Tensor, most: int) -> Tensor:
        """The best candidates, row * nprobe + probe, in the lists `keys` of each query (`known`: 0 in place of -1); -1: no more."""
        starts, stops = taken(self.offsets, known), taken(self.offsets, known + 1).masked_fill(keys < 0, 0)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if torch.compiler.is_compiling():
                pages = self.probed(starts, stops)
                return self.traced(asked, prepared, base, pages, longest(pages[2]), most)
        if asked.shape[0] == 1 and int((stops - starts).clamp(min=0).sum()) * asked.shape[1] <= self.STEP:
            return self.alone(asked, prepared, base, starts[0], stops[0], most)
        probed = self.probed(starts, stops)
        best, names = started(asked, 0)
        last = int(longest(probed[2]))
        step = max(8, min(last, self.STEP // max(1, self.PAGE * asked.numel())))
        for start in range(0, last, step):
            at = torch.full((), start, dtype=torch.int64, device=asked.device)
            best, names = self.step(asked, prepared, base, probed, at, step, best, names, most)
        return names

    def alone(self, asked: Tensor, prepared: Tensor, base: Tensor, starts: Tensor, stops: Tensor, most: int) -> Tensor:
        """The best candidates of one query, without pages: in two thirds of the time."""
        sizes = (stops - starts).clamp(min=0)
        probe = torch.repeat_interleave(sizes)
        rows = torch.arange(probe.shape[0], device=probe.device) + taken(starts - sizes.cumsum(0) + sizes, probe)
        costs = self.costs(asked, prepared, rows[None], base, probe[None])[0]
        at = torch.topk(costs, min(most, costs.shape[0]), largest=False)[1]
        return (taken(rows, at) * sizes.shape[0] + taken(probe, at))[None]

    def probed(self, starts: Tensor, stops: Tensor) -> list[Tensor]:
        """The pages of each query's lists, rows starts : stops: first, stop, ends.

        A query's pages are those of its lists in turn: list p has the pages up to ends[p], page i of all begins at row
        first[p] + PAGE * i, and rows from stop[p] on are no more in the list. A last column, without rows, is for pages beyond.
        """
        pages = ((stops - starts).clamp(min=0) + (self.PAGE - 1)) // self.PAGE
        ends = pages.cumsum(1)
        return [pad(starts - (ends - pages) * self.PAGE, (0, 1)), pad(stops, (0, 1)), ends]

    def found(self, queries: Tensor, k: int, nprobe: int, efSearch: int) -> tuple[Tensor, Tensor]:
        x = queries.float()
        if self.ids.shape[0] == 0:
            return nothing(x, k, self.metric)
        probes = min(nprobe if nprobe > 0 else self.nprobe, self.offsets.shape[0] - 1)
        keys = self.coarse.near(x.detach(), probes, efSearch)
        known = keys.clamp(min=0)
        asked = x.detach() - self.shift if self.metric == 1 else x.detach()
        # Not a matrix product: its column would be a view, which AOTInductor of torch 2.13 frees in the first turn of the loop.
        base = (self.coarse.vectors(known) * asked[:, None]).sum(-1).detach() if self.residual else asked
        prepared = self.codec.prepared(asked).detach()
        names = self.scanned(asked, prepared, base, keys, known, k + self.EXTRA)
        if names.shape[1] == 0:
            return nothing(x, k, self.metric)
        at = names.clamp(min=0)
        rows = at // probes
        vectors = self.codec.decode(rows)
        if self.residual:
            vectors = vectors + self.coarse.vectors(known.gather(1, at % probes))
        labels = taken(self.ids, rows).masked_fill(names < 0, -1)
        return best_of(distance(x[:, None], vectors, self.metric, self.arg), labels, k, self.metric)
