"""In FAISS, importing this module makes indexes and functions take torch tensors. Here they always do: nothing is left to do.

What ported code takes from it by name is here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.vector_arrays import swig_ptr


@contextlib.contextmanager
def using_stream(res: Any, pytorch_stream: Any = None) -> Iterator[None]:
    """Work in the block is ordered on a CUDA stream of torch's: the one given, or the current one."""
    if pytorch_stream is None or not torch.cuda.is_available():
        yield
        return
    with torch.cuda.stream(pytorch_stream):
        yield


def _pointer(x: Tensor, dtype: torch.dtype) -> Pointer:
    assert x.is_contiguous()
    assert x.dtype == dtype, f"expected {dtype}, got {x.dtype}"
    return swig_ptr(x)


def swig_ptr_from_UInt8Tensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.uint8)


def swig_ptr_from_HalfTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.float16)


def swig_ptr_from_BFloat16Tensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.bfloat16)


def swig_ptr_from_FloatTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.float32)


def swig_ptr_from_IntTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.int32)


def swig_ptr_from_IndicesTensor(x: Tensor) -> Pointer:
    return _pointer(x, torch.int64)
