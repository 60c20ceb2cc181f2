"""Vectors in half precision: `index.to(dtype=torch.float16)` gives the index of FAISS's that stores them so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms.ragged import Ragged
from tsscompat.devices import Placement
from tsscompat.errors import check
from tsscompat.faiss_compat.base import STORED_AS, Index
from tsscompat.faiss_compat.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.invlists import ArrayInvertedLists
from tsscompat.faiss_compat.ivf_flat import IndexIVFFlat
from tsscompat.faiss_compat.ivf_sq import IndexIVFScalarQuantizer
from tsscompat.faiss_compat.quantized import IndexScalarQuantizer
from tsscompat.faiss_compat.quantizers import ScalarQuantizer

_KINDS = {torch.float16: ScalarQuantizer.QT_fp16, torch.bfloat16: ScalarQuantizer.QT_bf16}


def _kind(dtype: torch.dtype) -> int:
    check(dtype in _KINDS, "vectors are stored as float32, float16 or bfloat16, not {}", dtype)
    return _KINDS[dtype]


def flat_as(index: IndexFlat, dtype: torch.dtype) -> Index:
    """An IndexScalarQuantizer of the same vectors: half the memory, distances to the rounded vectors."""
    if dtype == torch.float32:
        return index
    made = IndexScalarQuantizer(index.d, _kind(dtype), index.metric_type).to(Placement(index.device, index.getDevice()))
    made.metric_arg = index.metric_arg
    made._add(index._vectors, None)
    return made


def lists_as(index: IndexIVFFlat, dtype: torch.dtype) -> Index:
    """An IndexIVFScalarQuantizer with the same quantizer, and the same lists of rounded vectors."""
    if dtype == torch.float32:
        return index
    made = IndexIVFScalarQuantizer(index.quantizer, index.d, index.nlist, _kind(dtype), index.metric_type, False)
    made.to(Placement(index.device, index.getDevice()))
    lists: Ragged = index._lists()._ragged()
    rows: Tensor = lists.codes.view(torch.float32).to(dtype).contiguous().view(torch.uint8)
    held = ArrayInvertedLists(index.nlist, rows.shape[1]).to(index.device)
    held._take(Ragged(rows, lists.ids.clone(), lists.offsets.clone(), lists.sizes.clone()), lists.ids.shape[0])
    made.invlists, made.own_invlists, made.is_trained, made.ntotal = held, True, index.is_trained, index.ntotal
    for name in ("nprobe", "max_codes", "parallel_mode", "metric_arg"):
        setattr(made, name, getattr(index, name))
    return made


_TYPES: tuple[tuple[type, Any], ...] = (
    (IndexFlat, flat_as),
    (IndexFlatL2, flat_as),
    (IndexFlatIP, flat_as),
    (IndexIVFFlat, lists_as),
)
STORED_AS.update(_TYPES)

__all__: list[str] = []
