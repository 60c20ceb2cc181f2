"""Lattice codecs: points of whole numbers on a sphere, and IndexLattice, which codes parts of vectors by them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import lattice
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated, boolean, child, integer, single, size_t, vector
from tsscompat.faiss_compat.codes import IndexFlatCodes
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector, ObjectVector, UInt64Vector
from tsscompat.kernels.lattice import decode_points, encode_points, nearest_points


class Repeat(Stated):
    """A value and how often it occurs."""

    val = single(0.0)
    n = integer(0)


class Repeats(Stated):
    """The values of a vector, each with its count: numbers its permutations."""

    dim = integer(0, "numbers in all")
    repeats = child(ObjectVector, "the values, as they first occur")

    def __init__(self, dim: int = 0, c: Any = None) -> None:
        super().__init__()
        self.dim = dim
        if c is not None:
            self._of(behind(c, dim).tolist())

    def _of(self, values: list[float]) -> None:
        for value in dict.fromkeys(values):
            item = Repeat()
            item.val, item.n = value, values.count(value)
            self.repeats.push_back(item)

    def _pairs(self) -> list[tuple[float, int]]:
        return [(item.val, item.n) for item in self.repeats]

    def count(self) -> int:
        """How many permutations there are."""
        return lattice.permutations(self._pairs())

    def encode(self, c: Any) -> int:
        """The number of a permutation."""
        return lattice.number_of(behind(c, self.dim).tolist(), self._pairs())

    def decode(self, code: int, c: Any) -> None:
        """Write the permutation that has a number."""
        behind(c, self.dim).copy_(torch.tensor(lattice.list_of(int(code), self._pairs())))


class CodeSegment(Repeats):
    """An atom's permutations and signs."""

    c0 = size_t(0, "the first code")
    signbits = integer(0, "numbers that are not 0")


class ZnSphereSearch(Stated):
    """Finds the point of whole numbers on a sphere that is nearest in direction."""

    dimS = integer(0, "dimension")
    r2 = integer(0, "squared radius")
    natom = integer(0, "points but for permutations and signs")
    voc = vector(Float32Vector, "those, natom * dimS numbers")

    def __init__(self, dim: int = 1, r2: int = 0) -> None:
        super().__init__()
        check(0 < dim <= 64, "ZnSphereSearch: dim must be in [1, 64], got {}", dim)
        check(0 <= r2 <= 512, "ZnSphereSearch: r2 must be in [0, 512], got {}", r2)
        self.dimS, self.r2 = dim, r2
        found = lattice.atoms(r2, r2, dim)
        self.natom = len(found)
        self.voc.tensor = torch.tensor(found, dtype=torch.float32, device=self.device).reshape(-1)

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check(self.natom > 0, "no point of {} whole numbers has the squared norm {}", self.dimS, self.r2)
        return nearest_points(x, self.voc.tensor.view(self.natom, self.dimS))

    def search(self, x: Any, c: Any, tmp: Any = None, tmp_int: Any = None, ibest_out: Any = None) -> float:
        """Write the point nearest to a vector; gives their inner product."""
        points, atom, products = self._nearest(behind(x, 1, self.dimS).to(self.device))
        behind(c, 1, self.dimS).copy_(points)
        if ibest_out is not None:
            behind(ibest_out, 1).copy_(atom)
        return float(products[0])

    def search_multi(self, n: int, x: Any, c_out: Any, dp_out: Any) -> None:
        """The same for n vectors."""
        points, _, products = self._nearest(behind(x, n, self.dimS).to(self.device))
        behind(c_out, n, self.dimS).copy_(points)
        behind(dp_out, n).copy_(products)


class EnumeratedVectors(Stated):
    """A collection of vectors that have numbers."""

    nv = size_t(0, "how many there are")
    dim = integer(0, "their dimension")

    def _numbers(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _listed(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def encode(self, x: Any) -> int:
        """The number of a vector; 2^64 - 1 for what is none of the collection."""
        return int(self._numbers(behind(x, 1, self.dim).to(self.device))[0]) % lattice.WORD

    def decode(self, code: int, c: Any) -> None:
        """Write the vector that has a number."""
        wrapped = code - lattice.WORD if code >= lattice.WORD // 2 else code
        behind(c, 1, self.dim).copy_(self._listed(torch.tensor([wrapped], device=self.device)))

    def encode_multi(self, nc: int, c: Any, codes: Any) -> None:
        """Write the numbers of vectors."""
        behind(codes, nc).view(torch.int64).copy_(self._numbers(behind(c, nc, self.dim).to(self.device)))

    def decode_multi(self, nc: int, codes: Any, c: Any) -> None:
        """Write the vectors of numbers."""
        behind(c, nc, self.dim).copy_(self._listed(behind(codes, nc).view(torch.int64).to(self.device)))

    def find_nn(self, n: int, codes: Any, nq: int, xq: Any, idx: Any, dis: Any) -> None:
        """Write which of the vectors of n numbers has the greatest inner product with each query, and the products."""
        vectors = self._listed(behind(codes, n).view(torch.int64).to(self.device))
        products, best = (behind(xq, nq, self.dim).to(self.device) @ vectors.T).max(1)
        behind(idx, nq).copy_(best)
        behind(dis, nq).copy_(products)


def _bytes_of(n: int) -> int:
    return (n.bit_length() + 7) // 8


class ZnSphereCodec(ZnSphereSearch, EnumeratedVectors):
    """Numbers points by atom, permutation and signs."""

    code_segments = child(ObjectVector, "the atoms' permutations and signs")
    code_size = size_t(0, "bytes of a number")

    def __init__(self, dim: int = 1, r2: int = 0) -> None:
        super().__init__(dim, r2)
        self.dim = dim
        for atom in self.voc.tensor.view(self.natom, dim).tolist():
            segment = CodeSegment(dim)
            segment._of(atom)
            segment.c0, segment.signbits = self.nv, dim - atom.count(0.0)
            self.code_segments.push_back(segment)
            self.nv = (self.nv + (segment.count() << segment.signbits)) % lattice.WORD
        self.code_size = _bytes_of(self.nv)

    def search_and_encode(self, x: Any) -> int:
        """The number of the point nearest to a vector."""
        return EnumeratedVectors.encode(self, x)

    def _number(self, point: list[float], atom: int) -> int:
        segment = self.code_segments.at(atom)
        signs = sum((v < 0) << i for i, v in enumerate(v for v in point if v))
        place = lattice.number_of([abs(v) for v in point], segment._pairs())
        code = int((segment.c0 + signs + (place << segment.signbits)) % lattice.WORD)
        return code - lattice.WORD if code >= lattice.WORD // 2 else code

    def _numbers(self, x: Tensor) -> Tensor:
        points, which, _ = self._nearest(x)
        return torch.tensor([self._number(p, a) for p, a in zip(points.tolist(), which.tolist())], device=x.device)

    def _point(self, code: int) -> list[float]:
        starts = [segment.c0 for segment in self.code_segments]
        segment = self.code_segments.at(max(i for i, start in enumerate(starts) if start <= code))
        signs = code - segment.c0
        point = lattice.list_of(signs >> segment.signbits, segment._pairs())
        used = 0
        for i, v in enumerate(point):
            if v:
                point[i], used = (-v if signs >> used & 1 else v), used + 1
        return point

    def _listed(self, codes: Tensor) -> Tensor:
        points = [self._point(code % lattice.WORD) for code in codes.tolist()]
        return torch.tensor(points, dtype=torch.float32, device=codes.device).view(-1, self.dim)


class ZnSphereCodecRec(EnumeratedVectors):
    """Numbers points by halves of their dimensions, of which there must be a power of 2."""

    _caches = ("_words",)
    _words: Any

    r2 = integer(0, "squared radius")
    log2_dim = integer(0)
    code_size = integer(0, "bytes of a number")
    all_nv = vector(UInt64Vector, "points by dimension and squared radius")
    all_nv_cum = vector(UInt64Vector, "those whose first half has a smaller squared norm")
    decode_cache_ld = integer(0, "FAISS keeps small points decoded; ours are decoded anew")
    decode_cache = child(ObjectVector)

    def __init__(self, dim: int = 1, r2: int = 0) -> None:
        super().__init__()
        check(dim > 0 and r2 >= 0, "invalid ZnSphereCodecRec parameters")
        check(dim & (dim - 1) == 0, "dimension must be a power of 2, got {}", dim)
        self.dim, self.r2, self.log2_dim = dim, r2, dim.bit_length() - 1
        check((self.log2_dim + 1) * (r2 + 1) ** 2 <= 1 << 27, "ZnSphereCodecRec: r2 too large, would require excessive memory")
        counts, before = (table.to(self.device) for table in lattice.counts_of(self.log2_dim, r2))
        self.nv = int(counts[-1, -1]) % lattice.WORD
        self.code_size = _bytes_of(self.nv)
        self.all_nv.tensor, self.all_nv_cum.tensor = (t.reshape(-1).view(torch.uint64) for t in (counts, before))

    def get_nv(self, ld: int, r2a: int) -> int:
        """How many points there are in 2^ld dimensions with a squared norm."""
        return int(self.all_nv.at(ld * (self.r2 + 1) + r2a))

    def get_nv_cum(self, ld: int, r2t: int, r2a: int) -> int:
        """How many of them have a smaller squared norm than r2a in their first half."""
        return int(self.all_nv_cum.at((ld * (self.r2 + 1) + r2t) * (self.r2 + 1) + r2a))

    def set_nv_cum(self, ld: int, r2t: int, r2a: int, v: int) -> None:
        """Set what get_nv_cum gives."""
        self.all_nv_cum.tensor.view(torch.int64)[(ld * (self.r2 + 1) + r2t) * (self.r2 + 1) + r2a] = v

    def _tables(self) -> tuple[Tensor, Tensor]:
        if self._words is None:
            width, levels = self.r2 + 1, self.log2_dim + 1
            counts = self.all_nv.tensor.view(torch.int64).view(levels, width)
            self._words = counts, self.all_nv_cum.tensor.view(torch.int64).view(levels, width, width)
        tables: tuple[Tensor, Tensor] = self._words
        return tables

    def encode_centroid(self, c: Any) -> int:
        """The number of a point."""
        return self.encode(c)

    def _numbers(self, x: Tensor) -> Tensor:
        return encode_points(x, *self._tables())

    def _listed(self, codes: Tensor) -> Tensor:
        return decode_points(codes, *self._tables())


class ZnSphereCodecAlt(ZnSphereCodec):
    """ZnSphereCodecRec's numbers where the dimension is a power of 2, else ZnSphereCodec's."""

    use_rec = boolean(False, "whether they are ZnSphereCodecRec's")
    znc_rec = child(None)

    def __init__(self, dim: int = 1, r2: int = 0) -> None:
        super().__init__(dim, r2)
        self.use_rec = dim & (dim - 1) == 0
        self.znc_rec = ZnSphereCodecRec(dim, r2) if self.use_rec else ZnSphereCodecRec(8, 14)

    def _numbers(self, x: Tensor) -> Tensor:
        numbers: Tensor = self.znc_rec._numbers(self._nearest(x)[0]) if self.use_rec else super()._numbers(x)
        return numbers

    def _listed(self, codes: Tensor) -> Tensor:
        points: Tensor = self.znc_rec._listed(codes) if self.use_rec else super()._listed(codes)
        return points


class IndexLattice(IndexFlatCodes):
    """Parts of vectors as points on a sphere, with a few bits for each part's norm."""

    nsq = integer(0, "parts of a vector")
    dsq = size_t(0, "dimension of a part")
    zn_sphere_codec = child(None, "makes the codes of directions")
    scale_nbit = integer(0, "bits of a norm")
    lattice_nbit = integer(0, "bits of a direction")
    trained = vector(Float32Vector, "the parts' least norms, then the greatest")

    def __init__(self, d: int = 0, nsq: int = 1, scale_nbit: int = 0, r2: int = 0) -> None:
        super().__init__(0, d, METRIC_L2)
        self.is_trained = False
        if d:
            self._set_up(nsq, scale_nbit, r2)

    def _set_up(self, nsq: int, scale_nbit: int, r2: int) -> None:
        check(nsq > 0 and self.d % nsq == 0, "{} dimensions do not make {} equal parts", self.d, nsq)
        check(0 <= scale_nbit < 63, "norms of {} bits", scale_nbit)
        self.nsq, self.dsq, self.scale_nbit = nsq, self.d // nsq, scale_nbit
        self.zn_sphere_codec = ZnSphereCodecAlt(self.dsq, r2)
        self.lattice_nbit = max(0, self.zn_sphere_codec.nv - 1).bit_length()
        check(self.lattice_nbit < 64, "{} points are too many", self.zn_sphere_codec.nv)
        self.code_size = ((self.lattice_nbit + scale_nbit) * nsq + 7) // 8

    @property
    def dsub(self) -> int:
        """`dsq`, as FAISS's stub calls it."""
        return int(self.dsq)

    @property
    def r2(self) -> float:
        """The squared radius of the sphere that directions are points of."""
        return float(self.zn_sphere_codec.r2)

    def _widths(self) -> list[int]:
        return [self.scale_nbit, self.lattice_nbit] * self.nsq

    def _ranges(self) -> tuple[Tensor, Tensor]:
        least, greatest = self.trained.tensor.view(2, self.nsq)
        return least, greatest - least

    def _norms(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.nsq, self.dsq).square().sum(2)

    def _train(self, x: Tensor) -> None:
        low, high = self._norms(x).aminmax(dim=0)
        self.trained.tensor = torch.cat([low.sqrt(), high.sqrt()])
        self.is_trained = True

    def _sa_encode(self, x: Tensor) -> Tensor:
        check(self.is_trained, "IndexLattice must be trained before it encodes")
        least, span = self._ranges()
        steps = 1 << self.scale_nbit
        scale = ((self._norms(x).sqrt() - least) * steps / span).nan_to_num(0.0).clamp(0, steps - 1).to(torch.int64)
        points = self.zn_sphere_codec._numbers(x.reshape(-1, self.dsq)).view(-1, self.nsq)
        return lattice.pack_words(torch.stack([scale, points], 2).flatten(1), self._widths())

    def _sa_decode(self, codes: Tensor) -> Tensor:
        check(self.is_trained, "IndexLattice must be trained before it decodes")
        least, span = self._ranges()
        scale, points = lattice.unpack_words(codes, self._widths()).view(-1, self.nsq, 2).unbind(2)
        norms = ((scale + 0.5) * span.double() / float(1 << self.scale_nbit) + least).float()
        vectors = self.zn_sphere_codec._listed(points.reshape(-1)).view(-1, self.nsq, self.dsq)
        return (vectors * (norms / math.sqrt(self.zn_sphere_codec.r2))[:, :, None]).flatten(1)


__all__ = [
    "CodeSegment",
    "EnumeratedVectors",
    "IndexLattice",
    "Repeat",
    "Repeats",
    "ZnSphereCodec",
    "ZnSphereCodecAlt",
    "ZnSphereCodecRec",
    "ZnSphereSearch",
]
