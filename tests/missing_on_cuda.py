"""Operations that CUDA does not have for a type of numbers, or not at all, though the CPU has them.

`WITHOUT` is what torch's own table of operations says (`torch.testing._internal.common_methods_invocations.op_db`, 2.13: an operation's
`dtypes` that are not among its `dtypesIfCUDA`), of those that a search library might meet. Of unsigned numbers of 16 bits and more and of
8-bit floats that table says little, and kernels differ from version to version: they may be held and moved, and are computed as others.
"""

from __future__ import annotations

import torch

WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
HALF = {torch.float16, torch.bfloat16}
LOW = {torch.uint16, torch.uint32, torch.uint64} | {getattr(torch, n) for n in dir(torch) if n.startswith("float8")}

PRODUCTS = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "addbmm",
    "mv",
    "addmv",
    "dot",
    "vdot",
    "inner",
    "linear",
    "tensordot",
    "_addmm_activation",
)
POOLS = ("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d")
WITHOUT: dict[str, set[torch.dtype]] = {
    **dict.fromkeys(PRODUCTS, WHOLE | {torch.bool}),
    **dict.fromkeys(POOLS, WHOLE),
    "convolution": WHOLE,
    "histc": HALF,
    "scatter_reduce": {torch.bool},
    "angle": HALF,
    "igamma": HALF,
    "igammac": HALF,
}
# Not for CUDA at all, in some version that the package runs with (nonzero_static: 2.6), or with limits on sizes (_int_mm).
NOWHERE = {"histogram", "_histogramdd_bin_edges", "_histogramdd_from_bin_cts", "nonzero_static", "_int_mm", "from_file"}
# What moves numbers without looking at them.
HELD = {
    *(
        "empty",
        "zeros",
        "new_empty",
        "new_zeros",
        "empty_like",
        "zeros_like",
        "tensor",
        "as_tensor",
        "asarray",
        "empty_strided",
        "fill_",
    ),
    *(
        "copy_",
        "_to_copy",
        "clone",
        "view",
        "_unsafe_view",
        "reshape",
        "slice",
        "select",
        "expand",
        "as_strided",
        "detach",
        "alias",
        "t",
    ),
    *(
        "transpose",
        "permute",
        "squeeze",
        "unsqueeze",
        "unbind",
        "split",
        "_local_scalar_dense",
        "resize_",
        "new_empty_strided",
        "cat",
    ),
}


def refusal(name: str, dtypes: list[torch.dtype], made: torch.dtype | None) -> str:
    """Why CUDA does not have an operation for tensors of these types, or to make one; empty if it has."""
    plain = name if name in HELD or name in NOWHERE else name.removesuffix("_")
    if plain in NOWHERE:
        return "CUDA does not have it"
    types = {*dtypes, made} if made is not None else set(dtypes)
    if types & WITHOUT.get(plain, set()):
        return "CUDA does not have it for these numbers"
    return "CUDA's kernels may lack it for these numbers, which may only be moved" if types & LOW and plain not in HELD else ""
