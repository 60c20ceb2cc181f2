"""FAISS's functions that make tables of bytes of tables of floats; arrays or what swig_ptr gave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import check
from tsscompat.faiss_compat.pointers import behind
from tsscompat.kernels.fastscan import Tables, quantize


def _write(tables: Tables, M: int, M2: int, LUTq: Any, biasq: Any, a_out: Any, b_out: Any) -> None:
    """Put tables (n, M, 16), M2 - M parts of zeros behind each, their biases, scale and start where they are wanted."""
    entries = tables.luts.sum(1)[:, :M]
    out = behind(LUTq, entries.shape[0], M2, 16)
    out[:, :M], out[:, M:] = entries, 0
    if biasq is not None and tables.biases is not None:
        behind(biasq, tables.biases.shape[1]).copy_(tables.biases[0])
    for place, value in ((a_out, tables.scale), (b_out, tables.start)):
        if place is not None:
            behind(place, 1).copy_(value)


def _shared(tables: Tensor) -> Tables:
    """One scale and one least entry of each part for all tables (n, M, 16)."""
    least, most = tables.amin((0, 2)), tables.amax((0, 2))
    span = (most - least).max()
    scale = torch.where(span > 0, torch.full_like(span, 255.0) / span, 0.0)
    entries = (((tables - least[:, None]) * scale).double() + 0.5).float().floor().to(torch.uint8)
    return Tables(entries[:, None], None, scale.view(1), least.sum().view(1))


def quantize_LUT_and_bias(
    nprobe: int,
    M: int,
    ksub: int,
    lut_is_3d: bool,
    LUT: Any,
    bias: Any,
    LUTq: Any,
    M2: int,
    biasq: Any,
    a_out: Any = None,
    b_out: Any = None,
) -> None:
    """Tables (M, 16), or (nprobe, M, 16), and biases (nprobe) as bytes and 16 bits; without biasq, biases go into the tables."""
    check(ksub == 16, "expected tables of 16 entries, got {}", ksub)
    check(bias is not None or not lut_is_3d, "3d LUT is not supported when bias is null")
    tables = behind(LUT, nprobe if lut_is_3d else 1, M, 16)
    if bias is None:
        made = quantize(tables.contiguous(), None)
    elif not lut_is_3d:
        made = quantize(tables.contiguous(), behind(bias, 1, nprobe).contiguous())
    elif biasq is not None:
        made = quantize(tables[None].contiguous(), behind(bias, 1, nprobe).contiguous())
    else:
        made = _shared(tables + (behind(bias, nprobe) / M)[:, None, None])
    _write(made, M, M2, LUTq, biasq, a_out, b_out)


def aq_quantize_LUT_and_bias(
    nprobe: int,
    M: int,
    ksub: int,
    LUT: Any,
    bias: Any,
    M_norm: int,
    norm_scale: int,
    LUTq: Any,
    M2: int,
    biasq: Any,
    a_out: Any = None,
    b_out: Any = None,
) -> None:
    """Tables (M, 16) of which the last M_norm count norm_scale times, and biases."""
    check(ksub == 16, "expected tables of 16 entries, got {}", ksub)
    given = behind(LUT, 1, M, 16).contiguous(), behind(bias, 1, nprobe).contiguous()
    _write(quantize(*given, M_norm, norm_scale), M, M2, LUTq, biasq, a_out, b_out)


__all__ = ["aq_quantize_LUT_and_bias", "quantize_LUT_and_bias"]
