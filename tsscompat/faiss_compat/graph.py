"""HNSW indexes: a layered proximity graph over vectors that a flat index stores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import hnsw as levels_of
from tsscompat.algorithms.replays import RECORDERS
from tsscompat.arrays import Array, arrays_of
from tsscompat.devices import CPU, Placement
from tsscompat.errors import check
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, child, integer
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.codes import allowed_rows
from tsscompat.faiss_compat.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.hnsw import HNSW
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersHNSW
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.quantized import IndexPQ, IndexScalarQuantizer
from tsscompat.faiss_compat.quantizers import ProductQuantizer
from tsscompat.faiss_compat.stats import cvar
from tsscompat.faiss_compat.stored_graph import OverProductCodes, OverScalarCodes, StoredGraph
from tsscompat.kernels import graph as kernel
from tsscompat.kernels import graph_link as linking
from tsscompat.kernels.graph import Graph, Walk
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.select import select

# Nodes that a word of the kernels has room for.
_MOST = 1 << 31


@functools.lru_cache(maxsize=256)
def _walk_of(ef: int, k: int, relative: bool, bounded: bool) -> Walk:
    # FAISS's unbounded queue ends a walk where a bounded one as long as the answer does.
    return Walk(max(ef, k), ef if bounded else max(ef, k), relative or not bounded)


class Layered(Stated):
    """What layered graphs over vectors and over binary codes share: linking and walking, by `_scale`, among the rows of `_vectors`."""

    _vectors: Callable[[], Tensor]
    getDevice: Callable[[], int]
    ntotal: Any

    hnsw = child(HNSW, "the graph")
    init_level0 = boolean(True, "link the bottom level when adding")
    keep_max_size_level0 = boolean(False, "fill bottom lists up with what was passed over")
    retain_locks = boolean(False)
    use_visited_hashset = anything(None, "accepted, as that of `hnsw`")

    def _scale(self) -> tuple[int, float]:
        """The metric that nodes are compared by, and its argument."""
        raise NotImplementedError

    def _link(self, first: int, preset_levels: bool, x: Tensor | None = None) -> None:
        """Link the nodes `first` and on, which x was rounded to if that is given; on the CPU, where lists are written one by one."""
        graph = self.hnsw
        if self.device.type != "cpu":
            graph._move(Placement(CPU))
        graph.prepare_level_tab(self.ntotal - first, preset_levels)
        order, groups = levels_of.insertion_order(graph.levels.tensor, first, 0 if self.init_level0 else 1)
        rows = self._vectors().cpu()
        graph.entry_point, graph.max_level = linking.build(
            rows,
            graph._arrays(),
            order,
            groups,
            graph.efConstruction,
            *self._scale(),
            self.keep_max_size_level0,
            graph.prune_headroom,
            None if x is None else x.cpu(),
        )
        if self.device.type != "cpu":
            graph._move(Placement(self.device, self.getDevice()))

    def _walk(self, k: int, params: SearchParameters | None) -> Walk:
        graph = self.hnsw
        ef, relative, bounded = graph.efSearch, graph.check_relative_distance, graph.search_bounded_queue
        if isinstance(params, SearchParametersHNSW):
            ef, relative, bounded = params.efSearch, params.check_relative_distance, params.bounded_queue
        check(ef > 0, "efSearch must be positive, got {}", ef)
        # There are no more candidates than nodes, whatever a file or a caller asks room for.
        return _walk_of(min(ef, max(1, self.ntotal)), k, relative, bounded)

    def _found(self, x: Tensor, k: int, params: SearchParameters | None, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        graph, scale = self.hnsw, self._scale()
        if self.ntotal == 0 or (graph.entry_point < 0 and starts is None) or x.shape[0] == 0:
            return select(torch.empty(x.shape[0], 0, device=x.device), None, k, is_similarity(scale[0]))
        allowed = None if params is None else allowed_rows(params, self.ntotal, self.device)
        distances, labels, counted = kernel.search(
            x, self._vectors(), graph._arrays(), self._walk(k, params), k, *scale, allowed, starts
        )
        stats = cvar.hnsw_stats.__dict__  # past the checks of assignments: 3 us of a single query's 30
        stats["n1"] += x.shape[0]
        if isinstance(counted, Tensor):  # a GPU's, which nobody waits for here
            cvar.hnsw_stats._add_later(("ndis", "nhops"), counted)
            return distances, labels
        stats["ndis"] += counted[0]
        stats["nhops"] += counted[1]
        return distances, labels


class IndexHNSW(Layered, StoredGraph):
    """A graph over the vectors of `storage`, in layers."""

    _caches: tuple[str, ...] = ("_rows_room",)

    def __init__(self, first: Any = 0, M: int = 32, metric: int = enums.METRIC_L2) -> None:
        if isinstance(first, Index):
            self._over(first)
        else:
            super().__init__(first, metric)
        self.hnsw = HNSW(M)
        self.hnsw.is_similarity = enums.is_similarity_metric(self.metric_type)

    def _scale(self) -> tuple[int, float]:
        return self.metric_type, self._arg

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        self._need_storage()
        if x.shape[0] == 0:
            return
        first = self.ntotal
        self.storage._add(x, None)
        self.ntotal = self.storage.ntotal
        rounded = not isinstance(self.storage, IndexFlat) and self._vectors().shape[1] == x.shape[1]
        self._link(first, self.hnsw.levels.size() == self.ntotal and first < self.ntotal, x if rounded else None)

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        storage, graph, node = self.storage, self.hnsw, self.ntotal
        if (
            ids is not None
            or x.shape[0] > 1
            or not isinstance(storage, IndexFlat)
            or not self.init_level0
            or self.ntotal >= _MOST
        ):
            return False
        if graph.levels._n != node or graph.offsets._n != node + 1 or storage.ntotal != node or not storage._add_arrays(x, None):
            return False
        self.__dict__["ntotal"] = node + 1
        graph._one_more()
        tables = (
            graph.levels.array,
            graph.offsets.array.view(np.int64),
            graph.neighbors.array,
            graph.cum_nneighbor_per_level.array,
        )
        entry, top = graph.entry_point, graph.max_level
        ef, (metric, arg), full, spare = graph.efConstruction, self._scale(), self.keep_max_size_level0, graph.prune_headroom
        linked = linking.link_one(self._room(storage), *tables, node, entry, top, ef, metric, arg, full, spare)
        if linked != (entry, top):
            graph.entry_point, graph.max_level = linked
        return True

    def _room(self, storage: IndexFlat) -> np.ndarray[Any, Any]:
        """The vectors and the room behind them."""
        codes, kept = storage.codes.array, self.__dict__["_rows_room"]
        if kept is None or kept[0] is not codes:
            whole = codes.shape[0] // (4 * self.d) * (4 * self.d)
            kept = self._rows_room = codes, codes[:whole].view(np.float32).reshape(-1, self.d)
        room: np.ndarray[Any, Any] = kept[1]
        return room

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        return self._found(x, k, params, None)

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        kind = self.device.type
        if kind != "cpu" or kind in RECORDERS or self.ntotal == 0 or self.hnsw.entry_point < 0:
            return None
        return arrays_of(self._found(x, k, None, None))

    def _range_search(self, x: Tensor, radius: float, params: SearchParameters | None) -> tuple[Tensor, Tensor, Tensor]:
        # A walk with as many candidates as efSearch meets what FAISS's meets: its best are all that it can have within the radius.
        largest, k = is_similarity(self.metric_type), max(1, min(self.ntotal, 4096))
        walk = self._walk(1, params)
        if self.ntotal == 0 or x.shape[0] == 0:
            zero = torch.zeros(x.shape[0] + 1, dtype=torch.int64, device=x.device)
            return zero, torch.empty(0, device=x.device), torch.empty(0, dtype=torch.int64, device=x.device)
        allowed = None if params is None else allowed_rows(params, self.ntotal, self.device)
        while True:
            distances, labels, _ = kernel.search(
                x, self._vectors(), self.hnsw._arrays(), walk, k, self.metric_type, self._arg, allowed, None
            )
            inside = (labels >= 0) & (distances > radius if largest else distances < radius)
            if k == self.ntotal or not bool(inside[:, -1].any()):
                break
            k = min(self.ntotal, 4 * k)
        lims = torch.cat([torch.zeros(1, dtype=torch.int64, device=x.device), inside.sum(1).cumsum(0)])
        return lims, distances[inside], labels[inside]

    def _reset(self) -> None:
        self.hnsw.reset()
        self.storage._reset()
        self.ntotal = 0
        self._drop_caches()

    def _permute_entries(self, perm: Tensor) -> None:
        self.storage._permute_entries(perm)
        self.hnsw._permute(perm)
        self._drop_caches()

    # -- building by hand ------------------------------------------------------------------------------------------------------------

    def search_level_0(
        self, n: int, x: Any, k: int, nearest: Any, nearest_d: Any, distances: Any, labels: Any, nprobe: int = 1, search_type: int = 1,
        params: SearchParameters | None = None,
    ) -> None:  # fmt: skip
        """Walks of the bottom level only, from nprobe nodes given for each query; the answer goes behind the pointers."""
        check(k > 0 and nprobe > 0, "k and nprobe must be positive, got {} and {}", k, nprobe)
        starts = behind(nearest, n, nprobe).to(self.device, torch.int64)
        queries = behind(x, n, self.d).to(self.device)
        found = self._found(queries, k, params, starts)
        behind(distances, n, k).copy_(found[0])
        behind(labels, n, k).copy_(found[1])

    def _rewrite(self, lists: list[list[int]]) -> None:
        width = self.hnsw.nb_neighbors(0)
        for node, chosen in enumerate(lists):
            first = self.hnsw.neighbor_range(node, 0)[0]
            places = self.hnsw.neighbors.tensor[first : first + width]
            places.fill_(-1)
            places[: len(chosen)] = torch.tensor(chosen, dtype=torch.int32)

    def _chosen(self, node: int, names: list[int], costs: list[float] | None, width: int) -> list[int]:
        rows = self._vectors()
        if costs is None:
            costs = kernel._costs(rows[node][None], rows, torch.tensor([names]), self.metric_type, self._arg)[0].tolist()
        pairs = sorted(zip(costs, names))
        if len(pairs) < width:
            return [other for _, other in pairs]
        near = torch.tensor([[other for _, other in pairs]])
        given = torch.tensor([[cost for cost, _ in pairs]])
        return near[linking.spread(given, near, rows, width, *self._scale())[0]].tolist()

    def _bottom(self, node: int) -> list[int]:
        return [i for i in self.hnsw.neighbors.tensor[slice(*self.hnsw.neighbor_range(node, 0))].tolist() if i >= 0]

    def shrink_level_0_neighbors(self, size: int) -> None:
        """Choose at most `size` of each node's bottom neighbours."""
        lists = [self._bottom(node) for node in range(self.ntotal)]
        self._rewrite([self._chosen(node, names, None, size) if names else [] for node, names in enumerate(lists)])

    def init_level_0_from_knngraph(self, k: int, D: Any, I: Any) -> None:
        """Make the bottom level of a table of nearest neighbours."""
        distances, names = behind(D, self.ntotal, k).tolist(), behind(I, self.ntotal, k).tolist()
        sign = -1.0 if is_similarity(self.metric_type) else 1.0
        lists = []
        for node, (costs, others) in enumerate(zip(distances, names)):
            valid = others[: others.index(-1)] if -1 in others else others
            pairs = [(sign * cost, other) for cost, other in zip(costs, valid) if other != node]
            chosen = self._chosen(node, [o for _, o in pairs], [c for c, _ in pairs], self.hnsw.nb_neighbors(0))
            lists.append(chosen)
        self._rewrite(lists)

    def init_level_0_from_entry_points(self, npt: int, points: Any, nearests: Any) -> None:
        """Link nodes on the bottom level, each from a node near it that is given."""
        pairs = zip(behind(points, npt).tolist(), behind(nearests, npt).tolist())
        rows, arrays = self._vectors(), self.hnsw._arrays()
        for node, near in pairs:
            here = Graph(arrays.levels, arrays.offsets, arrays.neighbors, arrays.ends, near, 0)
            how = self.hnsw.efConstruction, *self._scale(), self.keep_max_size_level0, self.hnsw.prune_headroom
            linking.link(rows[node][None], rows, here, torch.tensor([node]), 0, *how)

    def reorder_links(self) -> None:
        """Bring each node's bottom neighbours into order of distance."""
        rows, lists = self._vectors(), []
        for node in range(self.ntotal):
            names = self._bottom(node)
            costs = kernel._costs(rows[node][None], rows, torch.tensor([names], dtype=torch.int64), self.metric_type, self._arg)
            lists.append([name for _, name in sorted(zip(costs[0].tolist(), names))])
        self._rewrite(lists)

    def link_singletons(self) -> None:
        """Report the nodes that no other links to."""
        linked = torch.zeros(self.ntotal, dtype=torch.bool)
        for node in range(self.ntotal):
            linked[self._bottom(node)] = True
        alone = ~linked
        above = int((alone & (self.hnsw.levels.tensor.cpu() > 1)).sum())
        print(f"  Found {int(alone.sum())} / {self.ntotal} singletons ({above} appear in a level above)")


class IndexHNSWFlat(IndexHNSW):
    """A graph over the vectors themselves."""

    def __init__(self, d: int = 0, M: int = 32, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, M, metric)
        if d:
            self._own(IndexFlatL2(d) if metric == enums.METRIC_L2 else IndexFlat(d, metric))
        self.is_trained = True


class IndexHNSWPQ(OverProductCodes, IndexHNSW):
    """A graph over product codes."""

    def __init__(self, d: int = 0, pq_m: int = 1, M: int = 32, pq_nbits: int = 8, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, M, metric)
        if d:
            self._own(IndexPQ(d, pq_m, pq_nbits, metric))
        self.is_trained = False


class IndexHNSWSQ(OverScalarCodes, IndexHNSW):
    """A graph over scalar-quantised vectors."""

    def __init__(self, d: int = 0, qtype: int = 0, M: int = 32, metric: int = enums.METRIC_L2) -> None:
        super().__init__(d, M, metric)
        if d:
            self._own(IndexScalarQuantizer(d, qtype, metric))


class IndexHNSW2Level(IndexHNSW):
    """A graph over codes of two layers."""

    def __init__(self, quantizer: Index | None = None, nlist: int = 0, m_pq: int = 0, M: int = 32) -> None:
        super().__init__(0 if quantizer is None else quantizer.d, M, enums.METRIC_L2)
        if quantizer is not None:
            from tsscompat.faiss_compat.two_layer import Index2Layer

            self._own(Index2Layer(quantizer, nlist, m_pq))
        self.is_trained = False

    @property
    def q1(self) -> Any:
        """What makes the first part of the storage's codes: a Level1Quantizer."""
        self._need_storage()
        return self.storage.q1

    @property
    def pq(self) -> ProductQuantizer:
        """What makes the second part."""
        self._need_storage()
        made: ProductQuantizer = self.storage.pq
        return made


class IndexHNSWCagra(IndexHNSW):
    """A graph whose bottom level may have been made elsewhere; walks of it begin at random nodes."""

    base_level_only = boolean(False, "there is only the bottom level")
    num_base_level_search_entrypoints = integer(256, "random nodes of which walks begin at the best")
    numeric_type_ = integer(enums.Float32)

    def __init__(self, d: int = 0, M: int = 32, metric: int = enums.METRIC_L2, numeric_type: int = enums.Float32) -> None:
        super().__init__(d, M, metric)
        if d:
            check(metric in (enums.METRIC_L2, enums.METRIC_INNER_PRODUCT), "unsupported metric type for IndexHNSWCagra")
            check(numeric_type in (enums.Float32, enums.Float16), "Unsupported numeric_type: only F16 and F32")
            flat = IndexFlatL2(d) if metric == enums.METRIC_L2 else IndexFlatIP(d)
            self._own(flat if numeric_type == enums.Float32 else IndexScalarQuantizer(d, 4, metric))
            self.keep_max_size_level0, self.numeric_type_ = True, numeric_type
        self.is_trained = True

    def get_numeric_type(self) -> int:
        return int(self.numeric_type_)

    def set_numeric_type(self, numeric_type: int) -> None:
        self.numeric_type_ = numeric_type

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        check(not self.base_level_only, "Cannot add vectors when base_level_only is set to True")
        super()._add(x, ids)

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        if not self.base_level_only or self.ntotal == 0:
            return super()._search(x, k, params)
        drawn = torch.randint(self.ntotal, (x.shape[0], self.num_base_level_search_entrypoints), device=x.device)
        costs = kernel._costs(x, self._vectors(), drawn, self.metric_type, self._arg)
        return self._found(x, k, params, drawn.gather(1, costs.argmin(1, keepdim=True)))


__all__ = ["HNSW", "IndexHNSW", "IndexHNSW2Level", "IndexHNSWCagra", "IndexHNSWFlat", "IndexHNSWPQ", "IndexHNSWSQ"]
