"""std::vector stand-ins: a `Vector` is one growable 1-D tensor on a device, an `ObjectVector` a list."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tsscompat.devices import Placement, carried, remembered
from tsscompat.faiss_compat.addresses import Pointer

NUMPY_DTYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.int16: np.int16,
    torch.uint16: np.uint16,
    torch.int32: np.int32,
    torch.uint32: np.uint32,
    torch.int64: np.int64,
    torch.uint64: np.uint64,
    torch.float16: np.float16,
    torch.bool: np.bool_,
}

# So many items are appended as memory. Torch copies more than a few thousand on several threads, which wait for one another: a block of
# codes, of a megabyte, took 11 ms on a busy machine.
_FEW = 1 << 21
# So many holes are closed in place.
_HOLES = 64
# Growth of an append beyond capacity: amortised, and never more than 1.3x the content.
GROWTH = 1.25


class Vector:
    """A growable vector of one item type on one device."""

    dtype: ClassVar[torch.dtype] = torch.float32
    _lent: Tensor | None = None
    _seen: tuple[Tensor, np.ndarray[Any, Any]] | None = None

    def __init__(self, content: Any = None) -> None:
        source = content.tensor if isinstance(content, Vector) else content
        self._buffer = torch.empty(0, dtype=self.dtype, device=source.device if isinstance(source, Tensor) else None)
        self._n = 0
        if content is not None:
            self.assign(content)

    @property
    def tensor(self) -> Tensor:
        """The live part, as a view."""
        return self._buffer if self._n == self._buffer.shape[0] else self._buffer[: self._n]

    @tensor.setter
    def tensor(self, value: Tensor) -> None:
        flat = value.detach().reshape(-1)
        self._buffer = flat.to(self.dtype).contiguous()
        self._n = self._buffer.shape[0]

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """All memory of a vector on the CPU as an array, made once: a slice of it costs a tenth of a slice of a tensor."""
        kept = self._seen
        if kept is None or kept[0] is not self._buffer:
            kept = self._seen = self._buffer, self._buffer.numpy()
        return kept[1]

    def extended(self, more: int) -> tuple[np.ndarray[Any, Any], int]:
        """`array` with room for so many more items, and where they begin; who fills them counts them in `_n`."""
        if self._n + more > self.array.shape[0]:
            self.make_room(more)
        return self.array, self._n

    def lend(self, memory: Tensor) -> None:
        """Be a view of memory that is others', until more is wanted."""
        self.tensor = memory
        self._lent = self._buffer

    def assign(self, content: Any) -> None:
        """Replace the content by a copy of an array, a tensor, another vector or a sequence; it stays where it is."""
        if isinstance(content, Vector):
            content = content.tensor
        elif not isinstance(content, Tensor):
            array = np.asarray(content, dtype=NUMPY_DTYPES[self.dtype])
            if array.ndim == 0:
                raise TypeError(f"expected the items of a {type(self).__name__}, got {content!r}")
            content = torch.from_numpy(array if array.flags.writeable else array.copy())
        self.tensor = content.to(self._buffer.device, copy=True, memory_format=torch.contiguous_format)

    def reserve(self, n: int) -> None:
        """Make room for n items."""
        if n > self._buffer.shape[0]:
            grown = torch.empty(n, dtype=self.dtype, device=self._buffer.device)
            grown[: self._n] = self._buffer[: self._n]
            self._buffer = grown

    def make_room(self, more: int) -> None:
        """Make room for so many items at the end; amortised."""
        needed = self._n + more
        if needed > self._buffer.shape[0]:
            # The first append takes just what it needs: most vectors are filled once.
            self.reserve(needed if self._n == 0 else max(needed, int(self._n * GROWTH) + 1))

    def append(self, items: Tensor) -> None:
        """Add items at the end; amortised."""
        buffer = self._buffer
        if items.dtype == self.dtype and items.is_cpu and buffer.is_cpu and items.is_contiguous() and items.numel() <= _FEW:
            self._append_few(items)
            return
        flat = items.reshape(-1).to(device=buffer.device, dtype=self.dtype)
        needed = self._n + flat.shape[0]
        self.make_room(flat.shape[0])
        self._buffer[self._n : needed] = flat
        self._n = needed

    def _append_few(self, items: Tensor) -> None:
        """The same for up to a block's worth: of one vector, torch's views and copies take 10 of the 19 us that adding it takes."""
        n, size = items.numel(), self.itemsize()
        self.make_room(n)
        ctypes.memmove(self._buffer.data_ptr() + self._n * size, items.data_ptr(), n * size)
        self._n += n

    def remove(self, places: Tensor, width: int = 1) -> None:
        """Take out items, or runs of `width` items, named by their places in ascending order."""
        gone = places.shape[0]
        if gone > _HOLES or not self._buffer.is_cpu or not self.is_owned:
            kept = torch.ones(self._n // max(1, width), dtype=torch.bool, device=self._buffer.device)
            kept[places] = False
            self.tensor = self.tensor.view(-1, width)[kept]
            return
        # What is behind a hole moves down, where it is: in new memory 10 MB take 10 ms.
        run, begin = width * self.itemsize(), self._buffer.data_ptr()
        names, end = places.tolist(), self._n // max(1, width)
        for i, (hole, after) in enumerate(zip(names, [*names[1:], end])):
            ctypes.memmove(begin + (hole - i) * run, begin + (hole + 1) * run, (after - hole - 1) * run)
        self._n -= gone * width

    def size(self) -> int:
        return self._n

    def at(self, n: int) -> Any:
        if not 0 <= n < self._n:
            raise IndexError(f"index {n} of a vector of {self._n}")
        return self.array.item(n) if self._buffer.is_cpu else self._buffer[n].item()

    def push_back(self, x: Any) -> None:
        self.append(torch.tensor([self._item(x)], dtype=self.dtype))

    def _item(self, x: Any) -> Any:
        """One item, refused as C++ refuses it: a word or a fraction of a count by its type, too large a number by its size."""
        if isinstance(x, Tensor):
            x = x.item()
        if self.dtype.is_floating_point:
            if isinstance(x, (str, bytes)):
                raise TypeError(f"{type(self).__name__} takes numbers, got {x!r}")
            return float(x)
        number, bounds = operator.index(x), torch.iinfo(self.dtype)
        if not bounds.min <= number <= bounds.max:
            raise OverflowError(f"{type(self).__name__} takes {bounds.min} to {bounds.max}, got {number}")
        return number

    def resize(self, n: int, value: Any = 0) -> None:
        """Cut to n items, or fill up to n with a value."""
        if n < 0:
            raise OverflowError(f"expected a size of at least 0, got {n}")
        if n > self._n:
            self.make_room(n - self._n)
            self._buffer[self._n : n].fill_(value)
        self._n = n

    def clear(self) -> None:
        self._n = 0

    def empty(self) -> bool:
        return self._n == 0

    @property
    def is_owned(self) -> bool:
        """Whether the memory is the vector's own; that of a mapped file is not, until the vector outgrows it."""
        return self._buffer is not self._lent

    def data(self) -> Pointer:
        """FAISS's address of the first item: something that rev_swig_ptr and memcpy take."""
        return Pointer(self.tensor)

    def get(self) -> Pointer:
        return self.data()

    def itemsize(self) -> int:
        return self._buffer.element_size()

    def byte_size(self) -> int:
        return self._n * self._buffer.element_size()

    def swap(self, other: Vector) -> None:
        self._buffer, other._buffer = other._buffer, self._buffer
        self._n, other._n = other._n, self._n
        self._lent, other._lent = other._lent, self._lent

    def _move(self, where: Placement) -> None:
        self._buffer = carried(self.tensor, where.device)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> Any:
        return self.at(i if i >= 0 else i + self._n)

    def __setitem__(self, i: int, value: Any) -> None:
        self.tensor[i] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tensor.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.tensor.cpu().numpy()
        return array.astype(dtype) if dtype is not None and array.dtype != dtype else (array.copy() if copy else array)

    def __deepcopy__(self, memo: dict[int, Any]) -> Vector:
        twin = type(self)()
        twin._buffer, twin._n = self.tensor.clone(), self._n
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # As bytes: torch (2.13 too) cannot unpickle storages of unsigned 16, 32 and 64 bits.
        return {"_buffer": self.tensor.cpu().clone().view(torch.uint8), "_n": self._n, "device": str(self._buffer.device)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        where = remembered(state["device"])
        self._buffer, self._n = state["_buffer"].view(self.dtype).to(where.device), state["_n"]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._n}>"


class Float32Vector(Vector):
    """std::vector<float>."""

    dtype = torch.float32


class Float64Vector(Vector):
    """std::vector<double>."""

    dtype = torch.float64


class Int8Vector(Vector):
    """std::vector<int8_t>."""

    dtype = torch.int8


class Int16Vector(Vector):
    """std::vector<int16_t>."""

    dtype = torch.int16


class Int32Vector(Vector):
    """std::vector<int32_t>."""

    dtype = torch.int32


class Int64Vector(Vector):
    """std::vector<int64_t>."""

    dtype = torch.int64


class UInt8Vector(Vector):
    """std::vector<uint8_t>."""

    dtype = torch.uint8


class UInt16Vector(Vector):
    """std::vector<uint16_t>."""

    dtype = torch.uint16


class UInt32Vector(Vector):
    """std::vector<uint32_t>."""

    dtype = torch.uint32


class UInt64Vector(Vector):
    """std::vector<uint64_t>."""

    dtype = torch.uint64


# FAISS's older and more specific names for the same containers.
FloatVector, DoubleVector, ByteVector, CharVector = Float32Vector, Float64Vector, UInt8Vector, Int8Vector
Uint64Vector, LongVector, LongLongVector, IntVector = UInt64Vector, Int64Vector, Int64Vector, Int32Vector
MaybeOwnedVectorUInt8, MaybeOwnedVectorInt32, MaybeOwnedVectorFloat32 = UInt8Vector, Int32Vector, Float32Vector
MaybeOwnedVectorUInt8Vector, MaybeOwnedVectorInt32Vector, MaybeOwnedVectorFloat32Vector = UInt8Vector, Int32Vector, Float32Vector


class AlignedTable(Vector):
    """A vector that is made with a size."""

    def __init__(self, content: Any = None) -> None:
        super().__init__(None if isinstance(content, int) else content)
        if isinstance(content, int):
            self.resize(content)

    @property
    def numel(self) -> int:
        """How many items there are."""
        return self.size()

    @staticmethod
    def round_capacity(n: int) -> int:
        """How many items FAISS makes room for: 256, or the next power of two."""
        return 0 if n == 0 else max(256, 1 << (n - 1).bit_length())

    def nbytes(self) -> int:
        return self.byte_size()


class AlignedTableUint8(AlignedTable):
    """A table of uint8."""

    dtype = torch.uint8


class AlignedTableUint16(AlignedTable):
    """A table of uint16."""

    dtype = torch.uint16


class AlignedTableFloat32(AlignedTable):
    """A table of float."""

    dtype = torch.float32


class ObjectVector:
    """std::vector of objects: a Python list with FAISS's method names."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self.items = list(items)

    def size(self) -> int:
        return len(self.items)

    def at(self, n: int) -> Any:
        if not 0 <= n < len(self.items):
            raise IndexError(f"index {n} of a vector of {len(self.items)}")
        return self.items[n]

    def push_back(self, v: Any) -> None:
        self.items.append(v)

    def resize(self, n: int, item: Any = None) -> None:
        del self.items[n:]
        self.items.extend([item] * (n - len(self.items)))

    def clear(self) -> None:
        self.items.clear()

    def empty(self) -> bool:
        return not self.items

    def assign(self, items: Iterable[Any]) -> None:
        self.items = list(items)

    def swap(self, other: ObjectVector) -> None:
        self.items, other.items = other.items, self.items

    def data(self) -> ObjectVector:
        return self

    def _move(self, where: Placement) -> None:
        for item in self.items:
            item._move(where)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]

    def __setitem__(self, i: int, item: Any) -> None:
        self.items[i] = item

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class VectorVector(ObjectVector):
    """std::vector of vectors; each type also takes vectors of other item types, copied."""

    _item: ClassVar[type[Vector]] = Vector

    def push_back(self, v: Any) -> None:
        self.items.append(self._item(v))

    def resize(self, n: int, item: Any = None) -> None:
        del self.items[n:]
        self.items.extend(self._item(item) for _ in range(n - len(self.items)))


def _vector_of(item: type[Vector]) -> type[VectorVector]:
    return type(f"{item.__name__}Vector", (VectorVector,), {"_item": item, "__doc__": f"std::vector of {item.__name__}."})


Float32VectorVector, UInt8VectorVector = _vector_of(Float32Vector), _vector_of(UInt8Vector)
Int32VectorVector, Int64VectorVector = _vector_of(Int32Vector), _vector_of(Int64Vector)
FloatVectorVector, ByteVectorVector, LongVectorVector = Float32VectorVector, UInt8VectorVector, Int64VectorVector

__all__ = [name for name in dict(globals()) if name.endswith("Vector") or name.startswith(("MaybeOwned", "AlignedTable"))]
