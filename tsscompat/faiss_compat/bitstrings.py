"""Numbers and signs as strings of bits: packing, readers and writers, conversions between floats and bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.arrays import Array, Batch, as_tensor
from tsscompat.errors import check, expect
from tsscompat.faiss_compat.attributes import Stated, anything, size_t
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vector_arrays import swig_ptr
from tsscompat.kernels import bits
from tsscompat.kernels.bitstream import read_bits, write_bits
from tsscompat.kernels.hamming import bits_of

_CPU = torch.device("cpu")


# -- rows of numbers --------------------------------------------------------------------------------------------------------------------


def _widths(nbit: Any, m: int) -> Tensor:
    """Bits of each of m numbers."""
    if hasattr(nbit, "__len__"):
        widths = torch.as_tensor(np.asarray(nbit, dtype=np.int64))
        expect(tuple(widths.shape) == (m,), "expected {} widths, got shape {}", m, tuple(widths.shape))
    else:
        widths = torch.full((m,), int(nbit), dtype=torch.int64)
    check(bool(((widths >= 0) & (widths <= 32)).all()), "numbers of 0 to 32 bits are packed, got {}", widths.tolist())
    return widths


def _whole_rows(widths: Tensor, n: int, code_size: int) -> Tensor:
    """Bits of each number of n rows, and of what fills a row up."""
    return torch.cat([widths, (8 * code_size - widths.sum()).reshape(1)]).repeat(n)


def _pack(values: Tensor, widths: Tensor, code_size: int) -> Tensor:
    n = values.shape[0]
    filled = torch.nn.functional.pad(values.to(torch.int64), (0, 1)).reshape(-1)
    return write_bits(filled, _whole_rows(widths, n, code_size)).view(n, code_size)


def _unpack(codes: Tensor, widths: Tensor) -> Tensor:
    n, m, code_size = codes.shape[0], widths.shape[0], codes.shape[1]
    # What fills a row up may be more than a number can hold: it is skipped in words of 64 bits.
    spare = 8 * code_size - int(widths.sum())
    fill = torch.tensor([64] * (spare // 64) + [spare % 64], dtype=torch.int64)
    values = read_bits(codes.reshape(-1), torch.cat([widths, fill]).repeat(n))
    return values.view(n, m + fill.shape[0])[:, :m].to(torch.int32)


def pack_bitstrings(a: Any, nbit: Any, *pointed: Any) -> Any:
    """Rows of numbers as rows of bytes: (a, nbit), where nbit is a number or one for each column.

    As in FAISS's C++ also (n, M, nbit, unpacked, packed, code_size) with pointers.
    """
    if not pointed:
        values, back = as_tensor(a, torch.int32, _CPU)
        expect(values.ndim == 2, "expected a table, got {} dimensions", values.ndim)
        widths = _widths(nbit, values.shape[1])
        return Batch(values, back).give_back(_pack(values, widths, (int(widths.sum()) + 7) // 8))
    n, m, (nbit, unpacked, packed, code_size) = a, nbit, pointed
    widths = _pointed_widths(nbit, m, code_size)
    behind(packed, n, code_size).copy_(_pack(behind(unpacked, n, m), widths, code_size))
    return None


def unpack_bitstrings(b: Any, M_or_nbits: Any, nbit: Any = None, *pointed: Any) -> Any:
    """Rows of numbers from rows of bytes: (b, M, nbit) or (b, nbits).

    As in FAISS's C++ also (n, M, nbit, packed, code_size, unpacked) with pointers.
    """
    if not pointed:
        codes, back = as_tensor(b, torch.uint8, _CPU)
        widths = _widths(M_or_nbits, len(M_or_nbits)) if nbit is None else _widths(nbit, int(M_or_nbits))
        expect(codes.shape[1] * 8 >= int(widths.sum()), "{} bytes are too few for {} bits", codes.shape[1], int(widths.sum()))
        return Batch(codes, back).give_back(_unpack(codes, widths))
    n, m, (packed, code_size, unpacked) = b, M_or_nbits, pointed
    widths = _pointed_widths(nbit, m, code_size)
    behind(unpacked, n, m).copy_(_unpack(behind(packed, n, code_size), widths))
    return None


def _pointed_widths(nbit: Any, m: int, code_size: int) -> Tensor:
    widths = _widths(nbit if isinstance(nbit, int) else behind(nbit, m).cpu().numpy(), m)
    check(code_size * 8 >= int(widths.sum()), "codes of {} bytes are too small for {} bits", code_size, int(widths.sum()))
    return widths


class _Bitstring(Stated):
    """A position in memory of the caller's, in bits."""

    code = anything(None, "the bytes")
    code_size = size_t(0, "how many there are")
    i = size_t(0, "the next bit")

    def __init__(self, code: Any, code_size: int) -> None:
        super().__init__()
        self.code, self.code_size = swig_ptr(code), code_size

    def _place(self, nbit: int) -> tuple[Tensor, int]:
        """The bytes that the next bits are in, and where in the first of them they begin."""
        check(0 <= nbit <= 64 and self.i + nbit <= 8 * self.code_size, "{} bits are not left in {} bytes", nbit, self.code_size)
        first, last = self.i // 8, (self.i + nbit + 7) // 8
        return behind(self.code, self.code_size)[first:last], self.i % 8


class BitstringWriter(_Bitstring):
    """Writes numbers bit by bit into bytes, which are zeroed first."""

    def __init__(self, code: Any, code_size: int) -> None:
        super().__init__(code, code_size)
        behind(self.code, code_size).zero_()

    def write(self, x: int, nbit: int) -> None:
        """Write the low bits of a number."""
        place, shift = self._place(nbit)
        held = int.from_bytes(bytes(place.tolist()), "little") | (int(x) & ((1 << nbit) - 1)) << shift
        place.copy_(torch.tensor(list(held.to_bytes(place.shape[0], "little")), dtype=torch.uint8))
        self.i += nbit


class BitstringReader(_Bitstring):
    """Reads numbers bit by bit from bytes."""

    def read(self, nbit: int) -> int:
        """The next bits as a number."""
        place, shift = self._place(nbit)
        self.i += nbit
        return int.from_bytes(bytes(place.tolist()), "little") >> shift & ((1 << nbit) - 1)


# -- signs ------------------------------------------------------------------------------------------------------------------------------


def fvecs2bitvecs(x: Any, b: Any, d: int, n: int) -> None:
    """The signs of n vectors as bits: 1 where a number is not negative."""
    behind(b, n, (d + 7) // 8).copy_(bits.pack((behind(x, n, d) >= 0).int(), 1))


def fvec2bitvec(x: Any, b: Any, d: int) -> None:
    """The signs of a vector as bits."""
    fvecs2bitvecs(x, b, d, 1)


def bitvecs2fvecs(b: Any, x: Any, d: int, n: int) -> None:
    """Bits as vectors of -1 and 1."""
    behind(x, n, d).copy_(bits_of(behind(b, n, (d + 7) // 8))[:, :d] * 2 - 1)


def binary_to_real(d: int, x_in: Any, x_out: Any) -> None:
    """d bits as -1 and 1."""
    bitvecs2fvecs(x_in, x_out, d, 1)


def real_to_binary(d: int, x_in: Any, x_out: Any) -> None:
    """d numbers as bits: 1 where a number is positive; a last part of a byte is left out."""
    behind(x_out, 1, d // 8).copy_(bits.pack((behind(x_in, 1, d)[:, : d // 8 * 8] > 0).int(), 1))


def bitvec_print(b: Any, d: int) -> None:
    """Print d bits in words of 64."""
    found = "".join(map(str, bits_of(behind(b, 1, (d + 7) // 8))[0, :d].int().tolist()))
    print("".join(f"{found[i : i + 64]} " for i in range(0, d, 64)), end="")


def bitvec_shuffle(n: int, da: int, db: int, order: Any, a: Any, b: Any) -> None:
    """Bits of n codes in another order: bit j of b is bit order[j] of a."""
    chosen = behind(order, db).long()
    check(bool(((chosen >= 0) & (chosen < da)).all()), "expected places within {} bits", da)
    source = bits_of(behind(a, n, (da + 7) // 8))
    behind(b, n, (db + 7) // 8).copy_(bits.pack(source[:, chosen].int(), 1))


# -- sets -------------------------------------------------------------------------------------------------------------------------------


class CodeSet:
    """A set of codes of d bytes."""

    d: int
    s: set[bytes]

    def __init__(self, d: int) -> None:
        self.d, self.s = int(d), set()

    def insert(self, codes: Array, inserted: Array | None = None) -> Array:
        """Add codes; says of each whether it is new."""
        n, d = codes.shape
        expect(d == self.d, "expected codes of {} bytes, got {}", self.d, d)
        expect(inserted is None or tuple(inserted.shape) == (n,), "expected an output of {} flags", n)
        rows, back = as_tensor(codes, torch.uint8, _CPU)
        return Batch(rows, back).give_back(self._insert(rows), inserted)

    def insert_c(self, n: int, codes: Any, inserted: Any) -> None:
        behind(inserted, n).copy_(self._insert(behind(codes, n, self.d)))

    def _insert(self, rows: Tensor) -> Tensor:
        new = []
        for row in rows.numpy():
            code = row.tobytes()
            new.append(code not in self.s)
            self.s.add(code)
        return torch.tensor(new, dtype=torch.bool)


__all__ = [
    "BitstringReader",
    "BitstringWriter",
    "CodeSet",
    "binary_to_real",
    "bitvec_print",
    "bitvec_shuffle",
    "bitvecs2fvecs",
    "fvec2bitvec",
    "fvecs2bitvecs",
    "pack_bitstrings",
    "real_to_binary",
    "unpack_bitstrings",
]
