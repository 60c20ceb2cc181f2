"""Codecs: rows of codes that stand for vectors.

A codec decodes rows given by number (any shape, one dimension more comes out) and gives the inner products of queries with rows of their
own; what that needs of the queries is prepared once.
"""

import torch
from torch import Tensor

from tsscompat.modules.part import Part


def taken(table: Tensor, rows: Tensor) -> Tensor:
    """table[rows]; several times as fast where rows are long."""
    return table.index_select(0, rows.flatten()).view(rows.shape + table.shape[1:])


def powers(exponents: Tensor) -> Tensor:
    """2 to small whole exponents, int64."""
    # Of whole numbers as such, inductor of torch 2.13 makes 0.
    return torch.exp2(exponents.float()).round().long()


class Codec(Part):
    """Rows of codes; a subclass decodes them."""

    def count(self) -> int:
        """How many rows there are."""
        raise NotImplementedError

    def decode(self, rows: Tensor) -> Tensor:
        """The vectors (..., d) of rows (...)."""
        raise NotImplementedError

    def between(self, start: int, stop: int, device: torch.device) -> Tensor:
        """The vectors of consecutive rows."""
        return self.decode(torch.arange(start, stop, device=device))

    def prepared(self, x: Tensor) -> Tensor:
        """What `products` needs of queries (n, d)."""
        return x

    def products(self, asked: Tensor, rows: Tensor) -> Tensor:
        """The inner product of each query with the rows (n, m) that it names."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if torch.compiler.is_compiling():
                return torch.bmm(self.decode(rows), asked[:, :, None])[:, :, 0]
        if asked.shape[0] == 1:
            # A batch of one matrix takes bmm several times as long.
            return torch.mv(self.decode(rows[0]), asked[0])[None]
        return torch.bmm(self.decode(rows), asked[:, :, None])[:, :, 0]


class Floats(Codec):
    """Vectors as they are, of any floating type."""

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.hold(rows=torch.zeros(0, 0))

    def count(self) -> int:
        return self.rows.shape[0]

    def decode(self, rows: Tensor) -> Tensor:
        return taken(self.rows, rows).float()

    def between(self, start: int, stop: int, device: torch.device) -> Tensor:
        return self.rows[start:stop].float()


class Packed(Codec):
    """Rows of `parts` whole numbers of `bits` bits each, packed as FAISS packs them."""

    SETTINGS = ("parts", "bits")
    codes: Tensor

    def __init__(self, parts: int, bits: int) -> None:
        super().__init__()
        self.parts, self.bits = int(parts), int(bits)
        self.hold(codes=torch.zeros(0, 0, dtype=torch.uint8))

    def count(self) -> int:
        return self.codes.shape[0]

    def numbers(self, rows: Tensor) -> Tensor:
        """The whole numbers (..., parts) of rows, int64."""
        # In arithmetic, not in shifts: ONNX shifts unsigned integers only.
        codes = taken(self.codes, rows).long()
        if self.bits == 8:
            return codes[..., : self.parts]
        if self.bits == 4:
            return torch.stack([codes % 16, codes // 16], -1).flatten(-2)[..., : self.parts]
        at = torch.arange(self.parts, device=codes.device) * self.bits
        first, last = at // 8, codes.shape[-1] - 1
        # A number of up to 16 bits touches three bytes; what lies beyond the last byte is cut off with the bits above it.
        low = codes.index_select(-1, first)
        middle = codes.index_select(-1, (first + 1).clamp(max=last))
        high = codes.index_select(-1, (first + 2).clamp(max=last))
        return (low + 256 * middle + 65536 * high) // powers(at % 8) % (1 << self.bits)


class Scalar(Packed):
    """A number of few bits for each dimension, which stands for lo + step * number."""

    lo: Tensor
    step: Tensor

    def __init__(self, parts: int, bits: int) -> None:
        super().__init__(parts, bits)
        self.hold(lo=torch.zeros(0), step=torch.zeros(0))

    def decode(self, rows: Tensor) -> Tensor:
        return self.numbers(rows) * self.step.float() + self.lo.float()


class Product(Packed):
    """A number for each part of the vector, which stands for one of its centroids (parts, ksub, dsub)."""

    centroids: Tensor

    def __init__(self, parts: int, bits: int) -> None:
        super().__init__(parts, bits)
        self.hold(centroids=torch.zeros(0, 0, 0))

    def places(self, rows: Tensor) -> Tensor:
        """The places (..., parts) of the centroids of rows among those of all parts."""
        ksub = self.centroids.shape[1]
        return self.numbers(rows) + torch.arange(0, self.parts * ksub, ksub, device=self.codes.device)

    def decode(self, rows: Tensor) -> Tensor:
        return taken(self.centroids.flatten(0, 1), self.places(rows)).flatten(-2).float()

    def prepared(self, x: Tensor) -> Tensor:
        """The products of each part of each query with each centroid, (n, parts * ksub)."""
        asked = x.unflatten(1, [self.parts, self.centroids.shape[2]])
        return torch.einsum("nmd,mkd->nmk", asked, self.centroids.float()).flatten(1)

    def products(self, asked: Tensor, rows: Tensor) -> Tensor:
        places = self.places(rows)  # (n, m, parts)
        return asked.gather(1, places.flatten(1)).unflatten(1, [rows.shape[1], self.parts]).sum(-1)


class Additive(Packed):
    """A number for each codebook; a vector is the sum of the entries (parts * 2 ** bits, d) that they stand for."""

    entries: Tensor

    def __init__(self, parts: int, bits: int) -> None:
        super().__init__(parts, bits)
        self.hold(entries=torch.zeros(0, 0))

    def decode(self, rows: Tensor) -> Tensor:
        first = torch.arange(self.parts, device=self.codes.device) * (1 << self.bits)
        return taken(self.entries, self.numbers(rows) + first).float().sum(-2)


class Signs(Packed):
    """A bit for each dimension, which stands for -1 or 1: squared distances are four times the bits that differ."""

    def __init__(self, parts: int, bits: int = 1) -> None:
        super().__init__(parts, bits)

    def decode(self, rows: Tensor) -> Tensor:
        return signs(taken(self.codes, rows))


def signs(codes: Tensor) -> Tensor:
    """Bytes (..., b) as (..., 8 b) numbers: -1 for a bit 0, 1 for a bit 1."""
    weights = powers(torch.arange(8, device=codes.device))
    return (codes.long()[..., None] // weights % 2).flatten(-2).float() * 2 - 1
