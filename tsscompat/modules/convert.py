"""From an index to its module: a function for each class of index, chosen by type."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import tsscompat
from tsscompat.algorithms.blocks import block_rows
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.ivf_sq import affine_of
from tsscompat.modules.codecs import Codec, Floats, Product, Scalar
from tsscompat.modules.distances import INNER_PRODUCT, L2
from tsscompat.modules.graph import Graph
from tsscompat.modules.searcher import Searcher
from tsscompat.modules.structures import Exhaustive, Lists
from tsscompat.modules.wrappers import Named, Refined, Transform, Transformed

METRICS = (0, 1, 2, 3, 4, 20, 21, 22, 23)


def from_faiss(index: Any, k: int = 10, nprobe: int | None = None, efSearch: int | None = None) -> Searcher:
    """A static nn.Module that answers as an index does.

    `index`: an index of tsscompat or of FAISS itself, the path of a file that either wrote, or its bytes. `k`, `nprobe` and `efSearch`
    are what forward() uses; where not given, the index's own.
    """
    opened = _opened(index)
    module = searcher(opened).eval()
    for part in module.modules():
        if isinstance(part, Searcher):
            part.k = int(k)
        if isinstance(part, Lists) and nprobe is not None:
            part.nprobe = int(nprobe)
        if isinstance(part, Graph) and efSearch is not None:
            part.efSearch = int(efSearch)
    return module


def _opened(index: Any) -> Any:
    if isinstance(index, (tsscompat.Index, *_binary())):
        return index
    if isinstance(index, (str, os.PathLike)):
        path = os.fspath(index)
        with open(path, "rb") as file:
            binary = file.read(2) == b"IB"
        return _reader("read_index", binary)(path)
    if isinstance(index, (bytes, bytearray, memoryview)):
        data = torch.frombuffer(bytearray(index), dtype=torch.uint8).numpy()
        return _reader("deserialize_index", bytes(index[:2]) == b"IB")(data)
    home = sys.modules.get(type(index).__module__.partition(".")[0])
    binary = hasattr(home, "IndexBinary") and isinstance(index, home.IndexBinary)  # type: ignore[union-attr]
    write = getattr(home, "serialize_index_binary" if binary else "serialize_index", None)
    check(write is not None, "expected an index, a path or bytes, got {}", type(index).__name__)
    return _reader("deserialize_index", binary)(write(index))  # type: ignore[misc]


def _binary() -> tuple[type, ...]:
    return (tsscompat.IndexBinary,) if hasattr(tsscompat, "IndexBinary") else ()


def _reader(name: str, binary: bool) -> Any:
    return getattr(tsscompat, f"{name}_binary" if binary else name)


@functools.singledispatch
def searcher(index: Any) -> Searcher:
    """The module of an index."""
    raise FaissError(f"no module for {type(index).__name__}")


@functools.singledispatch
def codec(index: Any) -> Codec:
    """The codec of an index whose codes stand one after the other."""
    raise FaissError(f"no module for the codes of {type(index).__name__}")


def metric_of(index: Any) -> int:
    """The metric, where modules know it."""
    check(index.metric_type in METRICS, "no module for metric {}", index.metric_type)
    return int(index.metric_type)


# -- codecs ---------------------------------------------------------------------------------------------------------------------------


def scalar_codec(sq: Any, codes: Tensor) -> Codec:
    """Scalar codes: halves are kept as such, other types as a straight line or a table of values for each dimension."""
    codes = codes.contiguous()
    if sq.qtype in (tsscompat.ScalarQuantizer.QT_fp16, tsscompat.ScalarQuantizer.QT_bf16):
        half = torch.float16 if sq.qtype == tsscompat.ScalarQuantizer.QT_fp16 else torch.bfloat16
        return Floats().hold(rows=codes.view(half).clone())
    affine = affine_of(sq, codes.device)
    if affine is not None:
        return Scalar(sq.d, affine.bits).hold(codes=codes.clone(), lo=affine.lo.clone(), step=affine.step.clone())
    check(
        tsscompat.ScalarQuantizer.QT_1bit_tqmse <= sq.qtype <= tsscompat.ScalarQuantizer.QT_8bit_tqmse,
        "no module for codes of the scalar type {}",
        sq.qtype,
    )
    levels = sq.trained.tensor[: 1 << sq.bits].expand(sq.d, -1)[:, :, None]
    return Product(sq.d, sq.bits).hold(codes=codes.clone(), centroids=levels.clone())


def product_codec(pq: Any, codes: Tensor) -> Codec:
    """Product codes."""
    return Product(pq.M, pq.nbits).hold(codes=codes.clone(), centroids=pq._table.clone())


@codec.register(tsscompat.IndexFlat)
def _(index: Any) -> Codec:
    return Floats().hold(rows=index._vectors.clone())


@codec.register(tsscompat.IndexPQ)
def _(index: Any) -> Codec:
    check(index.search_type == index.ST_PQ, "no module for IndexPQ's search type {}", index.search_type)
    return product_codec(index.pq, index._rows)


@codec.register(tsscompat.IndexScalarQuantizer)
def _(index: Any) -> Codec:
    return scalar_codec(index.sq, index._rows)


# -- structures -----------------------------------------------------------------------------------------------------------------------


def exhaustive(rows: Codec, metric: int, arg: float = 0.0) -> Exhaustive:
    """All rows of a codec."""
    module, n = Exhaustive(rows, metric, arg), rows.count()
    if metric == L2 and n:
        device = next(rows.buffers()).device
        shift = rows.between(0, min(n, 4096), device).mean(0)
        module.hold(shift=shift, squares=_squares(lambda a, b: rows.between(a, b, device), n, shift))
    return module


def _squares(vectors: Any, n: int, shift: Tensor) -> Tensor:
    """The squared norms of n vectors less `shift`, block by block."""
    out, step = torch.empty(n, device=shift.device), block_rows(shift, shift.shape[0])
    for i in range(0, n, step):
        out[i : i + step] = (vectors(i, min(n, i + step)) - shift).square().sum(1)
    return out


@searcher.register(tsscompat.IndexFlat)
@searcher.register(tsscompat.IndexPQ)
@searcher.register(tsscompat.IndexScalarQuantizer)
def _(index: Any) -> Searcher:
    check(index.is_trained, "{} is not trained", type(index).__name__)
    return exhaustive(codec(index), metric_of(index), index.metric_arg)


@searcher.register(tsscompat.MultiIndexQuantizer)
def _(index: Any) -> Searcher:
    # Its search finds the best of all sums of parts: what looking at each of them finds.
    return exhaustive(Floats().hold(rows=index._reconstruct_n(0, index.ntotal)), L2)


def lists(index: Any, residual: bool, make: Any) -> Lists:
    """The lists of an IVF index; `make(codes)` is their codec."""
    check(index.is_trained, "{} is not trained", type(index).__name__)
    check(index.max_codes == 0, "no module for a search with max_codes")
    sizes, codes, ids = index._lists()._dump()
    rows, metric = make(codes), metric_of(index)
    coarse = searcher(index.quantizer)
    module = Lists(coarse, rows, metric, index.metric_arg, nprobe=min(index.nprobe, index.nlist), residual=residual)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    module.hold(offsets=offsets, ids=ids.clone())
    if metric == L2 and ids.shape[0]:
        home = torch.repeat_interleave(sizes)

        def vectors(a: int, b: int) -> Tensor:
            here = rows.between(a, b, ids.device)
            return here + coarse.vectors(home[a:b]) if residual else here

        shift = (
            vectors(0, ids.shape[0]).mean(0) if ids.shape[0] <= 4096 else coarse.vectors(home[:: home.shape[0] // 4096]).mean(0)
        )
        module.hold(shift=shift, squares=_squares(vectors, ids.shape[0], shift))
    return module


@searcher.register(tsscompat.IndexIVFFlat)
def _(index: Any) -> Searcher:
    return lists(index, False, lambda codes: Floats().hold(rows=codes.contiguous().view(torch.float32).clone()))


@searcher.register(tsscompat.IndexIVFPQ)
def _(index: Any) -> Searcher:
    check(index.polysemous_ht == 0, "no module for a search with polysemous_ht")
    return lists(index, index.by_residual, lambda codes: product_codec(index.pq, codes))


@searcher.register(tsscompat.IndexIVFScalarQuantizer)
def _(index: Any) -> Searcher:
    return lists(index, index.by_residual, lambda codes: scalar_codec(index.sq, codes))


@searcher.register(tsscompat.IndexIVFPQR)
@searcher.register(tsscompat.IndexIVFFlatDedup)
@searcher.register(tsscompat.IndexHNSW2Level)
def _(index: Any) -> Searcher:
    raise FaissError(f"no module for {type(index).__name__}")


@searcher.register(tsscompat.IndexHNSW)
def _(index: Any) -> Searcher:
    check(not getattr(index, "base_level_only", False), "no module for a graph whose walks begin at random nodes")
    graph = index.hnsw
    module = Graph(
        codec(index.storage),
        metric_of(index),
        graph.cum_nneighbor_per_level.tensor.tolist(),
        graph.entry_point,
        max(0, graph.max_level),
        index.metric_arg,
        efSearch=graph.efSearch,
        relative=graph.check_relative_distance,
        bounded=graph.search_bounded_queue,
    )
    module.hold(offsets=graph.offsets.tensor.view(torch.int64).clone(), neighbors=graph.neighbors.tensor.clone())
    return module


# -- wrappers -------------------------------------------------------------------------------------------------------------------------


@searcher.register(tsscompat.IndexIDMap)
def _(index: Any) -> Searcher:
    return Named(searcher(index.index), index.metric_type).hold(names=index.id_map.tensor.clone())


def transform(step: Any) -> Transform:
    """A vector transform; linear ones are asked for the images of the axes."""
    check(step.is_trained, "{} is not trained", type(step).__name__)
    zero = torch.zeros(step.d_in, device=step.device)
    if isinstance(step, tsscompat.NormalizationTransform):
        check(step.norm == 2.0, "no module for normalisation to norm {}", step.norm)
        return Transform(unit=True, linear=False).hold(center=zero)
    if isinstance(step, tsscompat.CenteringTransform):
        return Transform(linear=False).hold(center=step.mean.tensor.clone())
    if isinstance(step, tsscompat.ITQTransform):
        center, step, unit = step.mean.tensor.clone(), step.pca_then_itq, True
    else:
        center, unit = zero, False
    if isinstance(step, tsscompat.LinearTransform):
        bias = step.b.tensor.clone() if step.have_bias else torch.zeros(step.d_out, device=step.device)
        return Transform(unit).hold(center=center, matrix=step._matrix.clone(), bias=bias)
    check(
        isinstance(step, (tsscompat.HadamardRotation, tsscompat.RemapDimensionsTransform)),
        "no module for {}",
        type(step).__name__,
    )
    matrix = step._apply(torch.eye(step.d_in, device=step.device)).t().contiguous()
    return Transform().hold(center=zero, matrix=matrix, bias=torch.zeros(step.d_out, device=step.device))


@searcher.register(tsscompat.IndexPreTransform)
def _(index: Any) -> Searcher:
    steps: Sequence[Any] = [transform(step) for step in index.chain]
    return Transformed(steps, searcher(index.index), index.metric_type)


@searcher.register(tsscompat.IndexRefine)
def _(index: Any) -> Searcher:
    check(index.metric_type in (L2, INNER_PRODUCT), "no module for refinement by metric {}", index.metric_type)
    return Refined(searcher(index.base_index), searcher(index.refine_index), index.metric_type, factor=index.k_factor)
