"""GpuIndex*: FAISS's names for its four GPU indexes, here the ordinary classes placed on a GPU.

A config's `device` places the index, `useFloat16` stores a flat index (or a coarse quantizer, through flatConfig) in half precision,
`usePrecomputedTables` precomputes them. MemorySpace_Unified keeps inverted lists in the host's memory, from where searches fetch what they
probe while they compute: for an index that is larger than the GPU's memory. Settings that only *permit* something (float16 look-up tables,
ids in host memory, an interleaved layout, a quantizer on the CPU, cuVS's kernels in the place of FAISS's) are met by float32, 64 bits, the
device itself and our own kernels. What would change the answers or the place and cannot be done raises: INDICES_IVF, unified memory for
what has no lists.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tsscompat.devices import CPU, Placement, gpu
from tsscompat.errors import check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, anything, boolean, child, enum, integer, size_t
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from tsscompat.faiss_compat.invlists import ArrayInvertedLists
from tsscompat.faiss_compat.invlists_host import HostInvertedLists
from tsscompat.faiss_compat.ivf_flat import IndexIVFFlat
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQ
from tsscompat.faiss_compat.ivf_sq import IndexIVFScalarQuantizer

INDICES_CPU, INDICES_IVF, INDICES_32_BIT, INDICES_64_BIT = range(4)
MemorySpace_Temporary, MemorySpace_Device, MemorySpace_Unified = range(3)


class GpuIndexConfig(Stated):
    """Where a GPU index goes."""

    device = integer(0, "the GPU's number")
    memorySpace = enum(int, MemorySpace_Device, "MemorySpace_Device, or for inverted lists MemorySpace_Unified")
    use_cuvs = boolean(False, "permits cuVS's kernels; ours answer either way")

    def _check(self) -> None:
        """Raise for what is asked for and cannot be done."""
        self._check_space()

    def _check_space(self) -> None:
        check(self.memorySpace == MemorySpace_Device, "memorySpace: only MemorySpace_Device, for what has no inverted lists")


class GpuIndexFlatConfig(GpuIndexConfig):
    """How a flat index is stored."""

    useFloat16 = boolean(False, "store vectors as float16")
    storeTransposed = boolean(False, "without effect, as in FAISS")


class GpuIndexIVFConfig(GpuIndexConfig):
    """How inverted lists are stored."""

    indicesOptions = enum(
        int, INDICES_64_BIT, "INDICES_32_BIT keeps the lower half of ids; INDICES_CPU permits what INDICES_64_BIT does"
    )
    flatConfig = child(GpuIndexFlatConfig, "of the coarse quantizer")
    allowCpuCoarseQuantizer = boolean(False, "every coarse quantizer lives on the GPU")

    def _check(self) -> None:
        super()._check()
        check(self.indicesOptions != INDICES_IVF, "indicesOptions: INDICES_IVF is not supported, ids are stored with the lists")
        self.flatConfig._check()

    def _check_space(self) -> None:
        known = (MemorySpace_Device, MemorySpace_Unified)
        check(self.memorySpace in known, "memorySpace: lists are in MemorySpace_Device or MemorySpace_Unified")


class GpuIndexIVFFlatConfig(GpuIndexIVFConfig):
    interleavedLayout = boolean(True, "a layout, of no consequence for the answers")


class GpuIndexIVFScalarQuantizerConfig(GpuIndexIVFConfig):
    interleavedLayout = boolean(True, "a layout, of no consequence for the answers")


class GpuIndexIVFPQConfig(GpuIndexIVFConfig):
    useFloat16LookupTables = boolean(False, "permits float16 tables; they are float32")
    usePrecomputedTables = boolean(False, "precompute tables")
    interleavedLayout = boolean(False, "a layout, of no consequence for the answers")
    useMMCodeDistance = boolean(False, "a way to compute, of no consequence for the answers")


class GpuIndex(Index):
    """What GPU indexes have besides the methods of their kind."""

    _gpu_resources = anything(None)
    _gpu_paging = size_t(256 << 20)

    def getResources(self) -> Any:
        """The resources that the index was made with."""
        return self._gpu_resources

    def setMinPagingSize(self, size: int) -> None:
        """From how many bytes on FAISS would copy vectors piecewise; kept, of no consequence."""
        self._gpu_paging = size

    def getMinPagingSize(self) -> int:
        return int(self._gpu_paging)

    def copyFrom(self, index: Index) -> None:
        """Become a copy of an index, on the device where this one is."""
        copied_into(self, index)

    def copyTo(self, index: Index) -> None:
        """Make another index a copy of this one, on the CPU."""
        copied_out(self, index)

    def _settle(self, resources: Any, config: GpuIndexConfig) -> None:
        """Note resources and configuration, and go to the device."""
        config._check()
        self._gpu_resources = resources
        self._move(gpu(config.device))
        noted(self, resources)

    def _gpu_content(self) -> dict[str, list[Tensor]]:
        """The tensors held on the GPU, under FAISS's names of kinds."""
        return {}


def noted(index: Any, resources: Any) -> None:
    """Let resources know of an index that was placed with them."""
    note = getattr(resources, "_note", None)
    if note is not None:
        note(index)


def split_config(arguments: tuple[Any, ...], config: Any, kind: type) -> tuple[tuple[Any, ...], Any]:
    """The arguments without the configuration at their end, and the configuration."""
    if arguments and isinstance(arguments[-1], GpuIndexConfig):
        arguments, config = arguments[:-1], arguments[-1]
    return arguments, kind() if config is None else config


class GpuIndexFlat(GpuIndex, IndexFlat):
    """IndexFlat on a GPU: (resources, dimension, metric, config) or (resources, index, config)."""

    useFloat16 = boolean(False, "vectors are stored as float16")

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexFlatConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexFlatConfig)
        given = arguments[0] if arguments else 0
        copy_of = given if isinstance(given, Index) else None
        metric = copy_of.metric_type if copy_of is not None else arguments[1] if len(arguments) > 1 else METRIC_L2
        IndexFlat.__init__(self, copy_of.d if copy_of is not None else given, metric)
        self.useFloat16 = config.useFloat16
        self.code_size = self.d * (2 if self.useFloat16 else 4)
        self._settle(provider, config)
        if copy_of is not None:
            self.copyFrom(copy_of)

    @property
    def _stored(self) -> torch.dtype:
        return torch.float16 if self.useFloat16 else torch.float32

    @property
    def _vectors(self) -> Tensor:
        return self.codes.tensor.view(self._stored).view(self.ntotal, self.d).float()

    def _add(self, x: Tensor, ids: Tensor | None) -> None:
        if x.shape[0]:
            self._add_sa_codes(self._sa_encode(x), None)

    def _sa_encode(self, x: Tensor) -> Tensor:
        return x.to(self._stored).contiguous().view(torch.uint8).view(x.shape[0], self.code_size)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return codes.contiguous().view(self._stored).view(codes.shape[0], self.d).float()

    def _update_vectors(self, keys: Tensor, x: Tensor) -> None:
        self._rows[keys] = self._sa_encode(x)
        self._drop_caches()

    def get_xb(self) -> Pointer:
        return Pointer(self._vectors)

    def _gpu_content(self) -> dict[str, list[Tensor]]:
        return {"FlatData": [self.codes.tensor]}

    def getNumVecs(self) -> int:
        """How many vectors there are."""
        return int(self.ntotal)


class GpuIndexFlatL2(GpuIndexFlat):
    """GpuIndexFlat with squared L2: (resources, dimension or index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexFlatConfig | None = None) -> None:
        super().__init__(provider, *_with_metric(arguments, METRIC_L2), config=config)


class GpuIndexFlatIP(GpuIndexFlat):
    """GpuIndexFlat with the inner product: (resources, dimension or index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexFlatConfig | None = None) -> None:
        super().__init__(provider, *_with_metric(arguments, METRIC_INNER_PRODUCT), config=config)


def _with_metric(arguments: tuple[Any, ...], metric: int) -> tuple[Any, ...]:
    whole = bool(arguments) and not isinstance(arguments[0], Index)
    return (arguments[0], metric, *arguments[1:]) if whole else arguments


class GpuIndexIVF(GpuIndex):
    """Inverted lists on a GPU."""

    _gpu_indices: int = INDICES_64_BIT
    _gpu_space: int = MemorySpace_Device

    def _begin(self, provider: Any, arguments: tuple[Any, ...], config: Any, defaults: tuple[Any, ...]) -> None:
        """Be a copy of an index, or new from (quantizer?, dimension, nlist, ...)."""
        kind: Any = self._plain_class()
        self.__dict__["_gpu_indices"], self.__dict__["_gpu_space"] = config.indicesOptions, config.memorySpace
        first = arguments[0] if arguments else None
        if isinstance(first, kind):
            kind.__init__(self)
            self._settle(provider, config)
            self.copyFrom(first)
        elif arguments:
            quantizer, rest = (first, arguments[1:]) if isinstance(first, Index) else (None, arguments)
            d, nlist, *more = [*rest, *defaults[len(rest) - 2 :]]
            metric = more[self._metric_at()]
            own = quantizer is None
            if quantizer is None:
                quantizer = coarse_quantizer(int(d), metric)
            kind.__init__(self, quantizer, d, nlist, *more)
            self.own_fields = own
            self._settle(provider, config)
            halve_quantizer(self, config.flatConfig)
        else:
            kind.__init__(self)
            self._settle(provider, config)
        if self._gpu_space == MemorySpace_Unified and not isinstance(first, kind):
            self.__dict__["invlists"] = HostInvertedLists(self.nlist, self.code_size)  # type: ignore[attr-defined]

    @classmethod
    def _plain_class(cls) -> type:
        """The ordinary class of the same kind."""
        return cls.__mro__[cls.__mro__.index(GpuIndex) + 1]

    @staticmethod
    def _metric_at() -> int:
        """Which of the arguments after nlist is the metric."""
        return 0

    def _gpu_content(self) -> dict[str, list[Tensor]]:
        lists = self._lists()  # type: ignore[attr-defined]
        flat = self.quantizer  # type: ignore[attr-defined]
        held = [lists._ragged().codes, lists._ragged().ids] if lists._at_hand else []
        return {"IVFLists": held, "FlatData": [flat.codes.tensor] if isinstance(flat, IndexFlat) else []}

    def _add_codes(self, codes: Tensor, ids: Tensor | None, list_nos: Tensor) -> None:
        # FAISS keeps the lower half of each id; so do we, in 64 bits.
        narrow = ids is not None and self._gpu_indices == INDICES_32_BIT
        super()._add_codes(codes, ids.to(torch.int32).to(torch.int64) if narrow and ids is not None else ids, list_nos)  # type: ignore[misc]

    def getNumLists(self) -> int:
        return int(self.nlist)  # type: ignore[attr-defined]

    def getListLength(self, listId: int) -> int:
        """How many vectors are in a list."""
        return int(self.get_list_size(listId))  # type: ignore[attr-defined]

    def getListIndices(self, listId: int) -> Any:
        """The ids in a list."""
        lists = self._lists()  # type: ignore[attr-defined]
        return lists._ragged().ids[lists._list_rows(listId)].cpu().numpy()

    def getListVectorData(self, listId: int, gpuFormat: bool = False) -> Any:
        """The codes in a list."""
        check(not gpuFormat, "gpuFormat: codes have one format, the CPU's")
        lists = self._lists()  # type: ignore[attr-defined]
        return lists._ragged().codes[lists._list_rows(listId)].cpu().numpy()

    def updateQuantizer(self) -> None:
        """Take note that the coarse quantizer was changed."""
        self._drop_caches()

    def reserveMemory(self, numVecs: int) -> None:
        """Permission to allocate ahead; lists grow by themselves."""
        check(numVecs >= 0, "cannot reserve memory for {} vectors", numVecs)

    def reclaimMemory(self) -> int:
        """Lay the lists out without room to spare; how many bytes that frees."""
        lists = self._lists()  # type: ignore[attr-defined]
        before = lists._ragged()
        held = before.codes.nbytes + before.ids.nbytes
        lists._load(*lists._dump())
        after = lists._ragged()
        return max(0, held - after.codes.nbytes - after.ids.nbytes)


def coarse_quantizer(d: int, metric: int) -> IndexFlat:
    """The flat index that a GPU index makes for itself."""
    return {METRIC_L2: IndexFlatL2, METRIC_INNER_PRODUCT: IndexFlatIP}.get(metric, lambda d: IndexFlat(d, metric))(d)


def halve_quantizer(index: Any, config: GpuIndexFlatConfig) -> None:
    """Store a flat coarse quantizer as float16 where the configuration asks for it."""
    if config.useFloat16 and isinstance(index.quantizer, IndexFlat):
        half = GpuIndexFlatConfig()
        half.useFloat16, half.device = True, max(0, index.getDevice())
        index.quantizer = GpuIndexFlat(index.getResources(), index.quantizer, half)


class GpuIndexIVFFlat(GpuIndexIVF, IndexIVFFlat):
    """IndexIVFFlat on a GPU: (resources, [quantizer,] dimension, nlist, metric, config) or (resources, index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexIVFFlatConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexIVFFlatConfig)
        self._begin(provider, arguments, config, (METRIC_L2,))


class GpuIndexIVFPQ(GpuIndexIVF, IndexIVFPQ):
    """IndexIVFPQ on a GPU: (resources, [quantizer,] dimension, nlist, M, nbits, metric, config) or (resources, index, config)."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexIVFPQConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexIVFPQConfig)
        self._begin(provider, arguments, config, (8, 8, METRIC_L2))
        if config.usePrecomputedTables:
            self.setPrecomputedCodes(True)

    @staticmethod
    def _metric_at() -> int:
        return 2

    def setPrecomputedCodes(self, enable: bool) -> None:
        """Precompute tables, or never do."""
        self.use_precomputed_table = 0 if enable else -1
        if enable and self.is_trained and self.by_residual and self.metric_type == METRIC_L2:
            self.precompute_table()

    def getPrecomputedCodes(self) -> bool:
        return bool(self.use_precomputed_table >= 0)

    def getNumSubQuantizers(self) -> int:
        return int(self.pq.M)

    def getBitsPerCode(self) -> int:
        return int(self.pq.nbits)

    def getCentroidsPerSubQuantizer(self) -> int:
        return int(self.pq.ksub)


class GpuIndexIVFScalarQuantizer(GpuIndexIVF, IndexIVFScalarQuantizer):
    """IndexIVFScalarQuantizer on a GPU: (resources, [quantizer,] dimension, nlist, qtype, metric, residual, config) or of an index."""

    def __init__(self, provider: Any = None, *arguments: Any, config: GpuIndexIVFScalarQuantizerConfig | None = None) -> None:
        arguments, config = split_config(arguments, config, GpuIndexIVFScalarQuantizerConfig)
        self._begin(provider, arguments, config, (0, METRIC_L2, True))

    @staticmethod
    def _metric_at() -> int:
        return 1


_GPU_STATE = ("_gpu_resources", "_gpu_paging", "_gpu_indices", "_gpu_space")
# Whose lists can be fetched from the host's memory by searches.
_STREAMED = (IndexIVFFlat, IndexIVFPQ, IndexIVFScalarQuantizer)


def copy_on(index: Any, where: Placement, space: int = MemorySpace_Device) -> Any:
    """A copy of an index on a device, under its ordinary class; with MemorySpace_Unified its lists stay in the host's memory."""
    lists = vars(index).get("invlists")
    memo: dict[int, Any] = {}
    if space == MemorySpace_Unified:
        kind = plain(index) if isinstance(index, GpuIndexIVF) else index
        fits = type(kind) in _STREAMED and isinstance(lists, ArrayInvertedLists)
        check(fits, "memorySpace: lists of {} cannot be fetched from the host's memory", type(index).__name__)
        memo[id(lists)] = HostInvertedLists.holding(lists)
    elif isinstance(lists, HostInvertedLists):
        memo[id(lists)] = lists.resident()
    return plain(copy.deepcopy(index, memo).to(where))


def recast(index: Any, kind: type) -> Any:
    """The same state as another class, which adds declared attributes at most."""
    made: Any = object.__new__(kind)
    kept = {name: value for name, value in vars(index).items() if name in kind._declared or name not in _GPU_STATE}  # type: ignore[attr-defined]
    missing = {name: declared.make() for name, declared in kind._declared.items() if name not in kept}  # type: ignore[attr-defined]
    missing.pop("referenced_objects", None)
    made.__dict__.update(missing | kept)
    return made


def plain(index: Any) -> Any:
    """An index under its ordinary class: what a GPU name stands for, quantizer included."""
    for name, value in list(vars(index).items()):
        if isinstance(value, Index):
            index.__dict__[name] = plain(value)
    if not isinstance(index, GpuIndex):
        return index
    if not isinstance(index, GpuIndexFlat):
        return recast(index, index._plain_class())  # type: ignore[attr-defined]
    flat = coarse_quantizer(index.d, index.metric_type).to(Placement(index.device, index.getDevice()))
    flat.metric_arg = index.metric_arg
    flat._add(index._vectors, None)
    return flat


def copied_into(target: Any, index: Any) -> None:
    """Make a placed index a copy of another one, on the device where it is."""
    where = Placement(target.device, target.getDevice())
    if isinstance(target, GpuIndexFlat):
        check(isinstance(index, IndexFlat), "expected a flat index, got {}", type(index).__name__)
        target._reset()
        target.d, target.metric_type, target.metric_arg = index.d, index.metric_type, index.metric_arg
        target.code_size = target.d * (2 if target.useFloat16 else 4)
        target._add(index._vectors.to(where.device), None)
        return
    kind = target._plain_class()
    check(isinstance(index, kind), "expected a {}, got {}", kind.__name__, type(index).__name__)
    twin = copy_on(index, where, getattr(target, "_gpu_space", MemorySpace_Device))
    target.__dict__.update({name: value for name, value in vars(twin).items() if name not in _GPU_STATE})


def copied_out(source: Any, index: Any) -> None:
    """Make an ordinary index a copy of a placed one, on the CPU."""
    twin = copy_on(source, Placement(CPU))
    check(isinstance(twin, type(index)) or isinstance(index, type(twin)), "cannot copy to a {}", type(index).__name__)
    index.__dict__.update({name: value for name, value in vars(twin).items() if name in index.__dict__})
    index._drop_caches()


__all__ = [name for name in dict(globals()) if name.startswith(("GpuIndex", "INDICES_", "MemorySpace_"))]
