"""Sections of indexes that only encode: row-wise scaling, lattices."""

from __future__ import annotations

from typing import Any

from tsscompat.algorithms.lattice import n_atoms
from tsscompat.errors import FaissError
from tsscompat.faiss_compat.sections.common import HEADER, check_header, index
from tsscompat.wire.codecs import floats, i32
from tsscompat.wire.cursor import LIMITS, Reader, Writer
from tsscompat.wire.tables import Field, fields


def _finish_rowwise(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    reader.check(obj.index is not None and obj.index.d == obj.d, "no index of dimension {} to encode with", obj.d)
    obj.own_fields = True


for _tag, _name in (("IRMf", "IndexRowwiseMinMax"), ("IRMh", "IndexRowwiseMinMaxFP16")):
    index.section(_tag, _name, (*HEADER, *fields(("index", index))), finish=_finish_rowwise)


# A hostile squared radius would ask for billions of atoms.
_ATOM_NUMBERS = 1 << 22


class LatticeSizes:
    """What an IndexLattice is made of, before its header: dimension, parts, bits of a norm, squared radius."""

    def read(self, reader: Reader, obj: Any) -> Any:
        d, nsq, scale_nbit, r2 = (i32.read(reader, obj) for _ in range(4))
        reader.check(0 < d < 1 << 24 and nsq > 0 and d % nsq == 0, "{} dimensions in {} parts", d, nsq)
        part = d // nsq
        reader.check(2 <= part <= 64 and part & (part - 1) == 0, "parts of {} dimensions", part)
        limit = LIMITS.lattice_r2 or 512
        reader.check(0 < r2 <= limit, "a squared radius of {}, at most {} is allowed", r2, limit)
        count = n_atoms(r2, part)
        reader.check(0 < count * part <= _ATOM_NUMBERS, "{} atoms of squared radius {} are too many", count, r2)
        reader.check(0 <= scale_nbit <= 32 * part, "norms of {} bits", scale_nbit)
        obj.d = d
        try:
            obj._set_up(nsq, scale_nbit, r2)
        except FaissError as e:
            raise reader.error(str(e)) from None
        reader.check(obj.code_size <= 4 * d, "codes of {} bytes for {} dimensions", obj.code_size, d)
        return obj

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        for number in (obj.d, obj.nsq, obj.scale_nbit, obj.zn_sphere_codec.r2):
            i32.write(writer, number, obj)


def _finish_lattice(obj: Any, reader: Reader) -> None:
    check_header(obj, reader)
    reader.check(obj.d == obj.nsq * obj.dsq, "dimension {}, expected {}", obj.d, obj.nsq * obj.dsq)
    # The codes are not in the file.
    reader.check(obj.ntotal == 0, "{} vectors, of which the file has none", obj.ntotal)
    wanted = 2 * obj.nsq if obj.is_trained else 0
    reader.check(obj.trained.size() == wanted, "{} norms, expected {}", obj.trained.size(), wanted)


_LATTICE = (Field("this", LatticeSizes()), *HEADER, *fields(("trained", floats)))
index.section("IxLa", "IndexLattice", _LATTICE, finish=_finish_lattice)
