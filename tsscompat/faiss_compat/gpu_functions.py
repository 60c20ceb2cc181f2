"""Exhaustive search and distances on a GPU without an index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.arrays import Array, as_tensor
from tsscompat.devices import gpu, gpu_count
from tsscompat.errors import ArgumentError, check, expect
from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, enum, int64, integer, real
from tsscompat.faiss_compat.vector_arrays import swig_ptr
from tsscompat.kernels import flat
from tsscompat.kernels.flat import distance_block
from tsscompat.kernels.metrics import FORMULAS

DistanceDataType_F32, DistanceDataType_F16, DistanceDataType_BF16 = 1, 2, 3
IndicesDataType_I64, IndicesDataType_I32 = 1, 2

_DTYPES = {DistanceDataType_F32: torch.float32, DistanceDataType_F16: torch.float16, DistanceDataType_BF16: torch.bfloat16}


class GpuDistanceParams(Stated):
    """The arguments of bfKnn, arrays as what swig_ptr gave; k of -1 asks for all distances."""

    metric = enum(int, enums.METRIC_L2)
    metricArg = real(0.0, "the p of METRIC_Lp")
    k = integer(0)
    dims = integer(0)
    vectors = anything(None)
    vectorType = enum(int, DistanceDataType_F32)
    vectorsRowMajor = boolean(True)
    numVectors = int64(0)
    vectorNorms = anything(None, "squared norms of the vectors, where they are known")
    queries = anything(None)
    queryType = enum(int, DistanceDataType_F32)
    queriesRowMajor = boolean(True)
    numQueries = int64(0)
    outDistances = anything(None)
    ignoreOutDistances = boolean(False)
    outIndicesType = enum(int, IndicesDataType_I64)
    outIndices = anything(None)
    device = integer(-1, "the GPU's number; -1: the one where the arrays are, or the current one")
    use_cuvs = boolean(False, "accepted: there is one implementation")


def _device(number: int, *arrays: Any) -> torch.device:
    """The device to work on: the one that is named, else where the first tensor on a GPU is, else the current GPU."""
    if number >= 0:
        return gpu(number).device
    for array in arrays:
        if isinstance(array, Tensor) and array.device.type != "cpu":
            return array.device
    check(gpu_count() > 0, "there is no GPU")
    return gpu(torch.cuda.current_device() if torch.cuda.is_available() else 0).device


def _matrix(pointer: Any, n: int, d: int, kind: int, row_major: bool) -> Tensor:
    flat_items = swig_ptr(pointer).tensor.view(_DTYPES[kind])
    check(n * d <= len(flat_items), "wants {} numbers behind a pointer, {} are there", n * d, len(flat_items))
    return flat_items[: n * d].view(n, d) if row_major else flat_items[: n * d].view(d, n).t()


def _check(args: GpuDistanceParams) -> None:
    check(args.metric in FORMULAS, "metric type {} is not implemented", args.metric)
    check(args.k > 0 or args.k == -1, "k must be positive, or -1 for all distances, got {}", args.k)
    for name in ("dims", "numVectors", "numQueries"):
        check(getattr(args, name) > 0, "{} must be positive, got {}", name, getattr(args, name))
    wanted = {
        "vectors": True,
        "queries": True,
        "outDistances": args.k == -1 or not args.ignoreOutDistances,
        "outIndices": args.k > 0,
    }
    for name, needed in wanted.items():
        check(not needed or getattr(args, name) is not None, "{} must be provided, got None", name)


def bfKnn(res: Any, args: GpuDistanceParams) -> None:
    """Search (or all distances) as the arguments say, into their outputs."""
    _check(args)
    base = _matrix(args.vectors, args.numVectors, args.dims, args.vectorType, args.vectorsRowMajor)
    queries = _matrix(args.queries, args.numQueries, args.dims, args.queryType, args.queriesRowMajor)
    device = _device(args.device, queries, base)
    x, y = queries.to(device, torch.float32).contiguous(), base.to(device, torch.float32).contiguous()
    if args.k == -1:
        everything = distance_block(x, y, args.metric, args.metricArg)
        swig_ptr(args.outDistances).take(everything.numel()).copy_(everything.view(-1))
        return
    distances, labels = flat.knn(x, y, args.k, args.metric, args.metricArg)
    if not args.ignoreOutDistances:
        swig_ptr(args.outDistances).take(distances.numel()).copy_(distances.view(-1))
    swig_ptr(args.outIndices).take(labels.numel()).copy_(labels.view(-1))


def bfKnn_tiling(res: Any, args: GpuDistanceParams, vectorsMemoryLimit: int, queriesMemoryLimit: int) -> None:
    """bfKnn; the limits are met by the kernels' own blocks."""
    bfKnn(res, args)


def _check_type(x: Array, name: str) -> None:
    if str(x.dtype).rpartition(".")[2] not in ("float32", "float16", "bfloat16"):
        raise TypeError(f"{name} must be float32 or float16, got {x.dtype}")


def _on_gpu(xq: Array, xb: Array, device: int) -> tuple[Tensor, Tensor, Any]:
    _check_type(xq, "xq")
    _check_type(xb, "xb")
    expect(xq.shape[1] == xb.shape[1], "expected vectors of one dimension, got {} and {}", xq.shape[1], xb.shape[1])
    where = _device(device, xq, xb)
    queries, back = as_tensor(xq, torch.float32, where)
    return queries, as_tensor(xb, torch.float32, where)[0], back


def _given(answer: Any, out: Array | None, kinds: tuple[str, ...]) -> Any:
    if out is None:
        return answer
    expect(
        tuple(out.shape) == tuple(answer.shape), "expected an output of shape {}, got {}", tuple(answer.shape), tuple(out.shape)
    )
    if str(out.dtype).rpartition(".")[2] not in kinds:
        # FAISS asserts the one type that distances have, and names the two that labels may have.
        error = ArgumentError if len(kinds) == 1 else TypeError
        raise error(f"expected an output of {' or '.join(kinds)}, got {out.dtype}")
    out[:] = answer if isinstance(answer, Tensor) == isinstance(out, Tensor) else torch.as_tensor(answer).cpu().numpy()
    return out


def knn_gpu(
    res: Any,
    xq: Array,
    xb: Array,
    k: int,
    D: Array | None = None,
    I: Array | None = None,
    metric: int = enums.METRIC_L2,
    device: int = -1,
    use_cuvs: bool = False,
    vectorsMemoryLimit: int = 0,
    queriesMemoryLimit: int = 0,
) -> tuple[Array, Array]:
    """The k nearest rows of xb for each row of xq, found on a GPU."""
    queries, base, back = _on_gpu(xq, xb, device)
    check(metric in FORMULAS, "metric type {} is not implemented", metric)
    expect(k > 0, "k must be positive, got {}", k)
    distances, labels = flat.knn(queries, base, int(k), int(metric))
    return _given(back(distances), D, ("float32",)), _given(back(labels), I, ("int64", "int32"))


def pairwise_distance_gpu(
    res: Any, xq: Array, xb: Array, D: Array | None = None, metric: int = enums.METRIC_L2, device: int = -1
) -> Array:
    """The distance between each row of xq and each row of xb, computed on a GPU."""
    queries, base, back = _on_gpu(xq, xb, device)
    check(metric in FORMULAS, "metric type {} is not implemented", metric)
    return _given(back(distance_block(queries, base, int(metric), 0.0)), D, ("float32",))


__all__ = [
    "DistanceDataType_BF16",
    "DistanceDataType_F16",
    "DistanceDataType_F32",
    "GpuDistanceParams",
    "IndicesDataType_I32",
    "IndicesDataType_I64",
    "bfKnn",
    "bfKnn_tiling",
    "knn_gpu",
    "pairwise_distance_gpu",
]
