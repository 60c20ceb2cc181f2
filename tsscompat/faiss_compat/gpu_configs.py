"""How GPU indexes are made: FAISS's configurations, and what is done with each setting.

A config's `device` places the index, `useFloat16` stores a flat index (or a coarse quantizer, through flatConfig) in half precision,
`usePrecomputedTables` precomputes them, `indicesOptions` says what results name. MemorySpace_Unified keeps inverted lists, or the vectors
of a flat index, in the host's memory, from where searches fetch them while they compute: for an index that is larger than the GPU's
memory. Settings that only *permit* something (float16 look-up tables, ids in host memory, an interleaved layout, a quantizer on the CPU,
cuVS's kernels in the place of FAISS's) are met by float32, 64 bits, the device itself and our own kernels. What would change the answers or
the place and cannot be done raises: unified memory for other indexes.
"""

from __future__ import annotations

from typing import Any

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, boolean, child, enum, integer

INDICES_CPU, INDICES_IVF, INDICES_32_BIT, INDICES_64_BIT = range(4)
MemorySpace_Temporary, MemorySpace_Device, MemorySpace_Unified = range(3)


class GpuIndexConfig(Stated):
    """Where a GPU index goes."""

    device = integer(0, "the GPU's number")
    memorySpace = enum(int, MemorySpace_Device, "MemorySpace_Device, or for inverted lists and flat indexes MemorySpace_Unified")
    use_cuvs = boolean(False, "our kernels answer either way; lists pad the results of a query with NaNs as cuVS does")

    def _check(self) -> None:
        """Raise for what is asked for and cannot be done."""
        self._check_space()

    def _check_space(self) -> None:
        check(
            self.memorySpace == MemorySpace_Device,
            "memorySpace: only MemorySpace_Device, but for flat indexes and inverted lists",
        )


def _check_both(space: int) -> None:
    known = (MemorySpace_Device, MemorySpace_Unified)
    check(space in known, "memorySpace: lists and vectors are in MemorySpace_Device or MemorySpace_Unified")


class GpuIndexFlatConfig(GpuIndexConfig):
    """How a flat index is stored."""

    useFloat16 = boolean(False, "store vectors as float16")
    storeTransposed = boolean(False, "without effect, as in FAISS")

    def _check_space(self) -> None:
        _check_both(self.memorySpace)


class GpuIndexIVFConfig(GpuIndexConfig):
    """How inverted lists are stored."""

    indicesOptions = enum(
        int,
        INDICES_64_BIT,
        "INDICES_32_BIT keeps the lower half of ids, INDICES_IVF none: results are list << 32 | place in it; INDICES_CPU permits what "
        "INDICES_64_BIT does",
    )
    flatConfig = child(GpuIndexFlatConfig, "of the coarse quantizer")
    allowCpuCoarseQuantizer = boolean(False, "every coarse quantizer lives on the GPU")

    def _check(self) -> None:
        super()._check()
        known = (INDICES_CPU, INDICES_IVF, INDICES_32_BIT, INDICES_64_BIT)
        check(self.indicesOptions in known, "indicesOptions: there is no option {}", self.indicesOptions)
        self.flatConfig._check()
        check(self.flatConfig.memorySpace == MemorySpace_Device, "memorySpace: coarse quantizers are in MemorySpace_Device")

    def _check_space(self) -> None:
        _check_both(self.memorySpace)


class GpuIndexIVFFlatConfig(GpuIndexIVFConfig):
    interleavedLayout = boolean(True, "a layout, of no consequence for the answers")


class GpuIndexIVFScalarQuantizerConfig(GpuIndexIVFConfig):
    interleavedLayout = boolean(True, "a layout, of no consequence for the answers")


class GpuIndexIVFPQConfig(GpuIndexIVFConfig):
    useFloat16LookupTables = boolean(False, "permits float16 tables; they are float32")
    usePrecomputedTables = boolean(False, "precompute tables")
    interleavedLayout = boolean(False, "a layout, of no consequence for the answers")
    useMMCodeDistance = boolean(False, "a way to compute, of no consequence for the answers")


def split_config(arguments: tuple[Any, ...], config: Any, kind: type) -> tuple[tuple[Any, ...], Any]:
    """The arguments without the configuration at their end, and the configuration."""
    if arguments and isinstance(arguments[-1], GpuIndexConfig):
        arguments, config = arguments[:-1], arguments[-1]
    return arguments, kind() if config is None else config


__all__ = [name for name in dict(globals()) if name.startswith(("GpuIndex", "INDICES_", "MemorySpace_"))]
