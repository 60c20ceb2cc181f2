"""From an index to its module: fast-scan, additive and binary codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tsscompat
from tsscompat.errors import check
from tsscompat.modules.codecs import Additive, Codec, Signs
from tsscompat.modules.convert import codec, exhaustive, lists, metric_of, product_codec, searcher
from tsscompat.modules.distances import INNER_PRODUCT, L2
from tsscompat.modules.fastscan import FastScan, FastScanLists, Summed, SummedAdditive, SummedProduct
from tsscompat.modules.graph import Graph
from tsscompat.modules.searcher import Searcher
from tsscompat.modules.structures import Lists
from tsscompat.modules.wrappers import Binary, Named

# -- fast scan ---------------------------------------------------------------------------------------------------------------------------


def _scans_plainly(index: Any, *ways: int) -> None:
    """Refuse what asks for other codes or other numbers."""
    check(index.is_trained, "{} is not trained", type(index).__name__)
    check(index.skip == 0 and index.implem in ways, "no module for implem {}, skip {}", index.implem, index.skip)


def _summed(index: Any, codes: Tensor) -> Summed:
    """The codes of a fast scan."""
    if hasattr(index, "pq"):
        return SummedProduct(index.pq.M, 4).hold(codes=codes.clone(), centroids=index.pq._table.clone())
    aq, norms = index.aq, torch.zeros(0, 16, device=codes.device)
    if index.metric_type == L2:
        norms = aq.norm_tabs.tensor.view(2, 16) / (index.norm_scale if index._norms_count() else 1)
    return SummedAdditive(index.M, 4).hold(codes=codes.clone(), entries=aq._books.table.clone(), norms=norms)


def _weights(index: Any) -> dict[str, int]:
    norms, weight = index._weighted()
    return {"norms": norms, "weight": max(1, weight)}


@codec.register(tsscompat.IndexPQFastScan)
def _(index: Any) -> Codec:
    return product_codec(index.pq, index._all_codes())


@searcher.register(tsscompat.IndexPQFastScan)
@searcher.register(tsscompat.IndexAdditiveQuantizerFastScan)
def _(index: Any) -> Searcher:
    _scans_plainly(index, 0, 12, 13, 14, 15)
    return FastScan(_summed(index, index._all_codes()), metric_of(index), **_weights(index))


@searcher.register(tsscompat.IndexIVFPQFastScan)
@searcher.register(tsscompat.IndexIVFAdditiveQuantizerFastScan)
def _(index: Any) -> Searcher:
    _scans_plainly(index, 0, *(i + more for i in range(10, 16) for more in (0, 100)))
    sizes, codes, ids = index._lists()._dump()
    module = FastScanLists(
        searcher(index.quantizer),
        _summed(index, codes),
        metric_of(index),
        nprobe=min(index.nprobe, index.nlist),
        residual=index.by_residual,
        deep=index.lookup_table_is_3d(),
        whole=hasattr(index, "pq") and index._terms() is not None,
        **_weights(index),
    )
    return module.hold(offsets=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), ids=ids.clone())


# -- additive codes: those whose distances are to what they decode to ----------------------------------------------------------------------


def additive_codec(index: Any, codes: Tensor) -> Codec:
    """Codes of codebooks with as many bits each."""
    aq, bits = index.aq, set(index.aq.nbits.tensor.tolist())
    exact = aq.search_type == aq.ST_decompress or (aq.search_type == aq.ST_LUT_nonorm and index.metric_type == INNER_PRODUCT)
    check(exact, "no module for additive codes whose norms are stored (search type {})", aq.search_type)
    check(len(bits) == 1, "no module for codebooks of different sizes: {} bits", sorted(bits))
    entries = aq.codebooks.tensor.view(-1, aq.d).clone()
    return Additive(aq.M, bits.pop()).hold(codes=codes.clone(), entries=entries)


@codec.register(tsscompat.IndexResidualQuantizer)
@codec.register(tsscompat.IndexLocalSearchQuantizer)
def _(index: Any) -> Codec:
    return additive_codec(index, index._rows)


@searcher.register(tsscompat.IndexResidualQuantizer)
@searcher.register(tsscompat.IndexLocalSearchQuantizer)
def _(index: Any) -> Searcher:
    check(index.is_trained, "{} is not trained", type(index).__name__)
    return exhaustive(codec(index), metric_of(index))


@searcher.register(tsscompat.IndexIVFResidualQuantizer)
@searcher.register(tsscompat.IndexIVFLocalSearchQuantizer)
def _(index: Any) -> Searcher:
    return lists(index, index.by_residual, lambda codes: additive_codec(index, codes))


# -- binary codes: as vectors of -1 and 1, whose squared distances are four times Hamming's ------------------------------------------------


def _bits(codes: Tensor) -> Codec:
    return Signs(8 * codes.shape[1]).hold(codes=codes.clone())


def _inner(index: Any) -> Searcher:
    """The searcher of -1 and 1 within a binary index's module."""
    module = searcher(index)
    assert isinstance(module, Binary)
    return module.index


@searcher.register(tsscompat.IndexBinaryFlat)
def _(index: Any) -> Searcher:
    return Binary(exhaustive(_bits(index._rows), L2), L2)


@searcher.register(tsscompat.IndexBinaryIVF)
def _(index: Any) -> Searcher:
    check(index.is_trained, "IndexBinaryIVF is not trained")
    sizes, codes, ids = index.invlists._dump()
    module = Lists(_inner(index.quantizer), _bits(codes), L2, nprobe=min(index.nprobe, index.nlist))
    offsets, d = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), float(index.d)
    squares, shift = torch.full((ids.shape[0],), d, device=ids.device), torch.zeros(index.d, device=ids.device)
    return Binary(module.hold(offsets=offsets, ids=ids.clone(), squares=squares, shift=shift), L2)


@searcher.register(tsscompat.IndexBinaryHNSW)
def _(index: Any) -> Searcher:
    graph = index.hnsw
    module = Graph(
        _bits(index.storage._rows),
        L2,
        graph.cum_nneighbor_per_level.tensor.tolist(),
        graph.entry_point,
        max(0, graph.max_level),
        efSearch=graph.efSearch,
        relative=graph.check_relative_distance,
        bounded=graph.search_bounded_queue,
    )
    return Binary(
        module.hold(offsets=graph.offsets.tensor.view(torch.int64).clone(), neighbors=graph.neighbors.tensor.clone()), L2
    )


@searcher.register(tsscompat.IndexBinaryIDMap)
def _(index: Any) -> Searcher:
    return Named(searcher(index.index), L2).hold(names=index.id_map.tensor.clone())
