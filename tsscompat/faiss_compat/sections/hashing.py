"""Sections of indexes of bits."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.sections.common import HEADER, codes_fit, index, transform
from tsscompat.faiss_compat.sections.ivf import IVF, finish_ivf
from tsscompat.faiss_compat.sections.lists import LISTS
from tsscompat.wire.codecs import f32, flag, floats, i32, octets
from tsscompat.wire.cursor import Reader
from tsscompat.wire.tables import fields


def _finish_lsh(obj: Any, reader: Reader) -> None:
    size, rotation = (obj.nbits + 7) // 8, obj.rrot
    reader.check(obj.nbits >= 0 and obj.code_size == size, "codes of {} bytes for {} bits", obj.code_size, obj.nbits)
    reader.check(type(rotation).__name__ == "RandomRotationMatrix", "a rotation of type {}", type(rotation).__name__)
    fits = rotation.d_in == obj.d and rotation.d_out == obj.nbits
    reader.check(fits, "a rotation from {} to {} for {} bits of {}", rotation.d_in, rotation.d_out, obj.nbits, obj.d)
    reader.check(obj.rotate_data or obj.nbits <= obj.d, "{} bits of {} dimensions that are not rotated", obj.nbits, obj.d)
    reader.check(not obj.rotate_data or rotation.A.size() == obj.d * obj.nbits, "a rotation without its matrix")
    wanted = obj.nbits if obj.train_thresholds and obj.is_trained else obj.thresholds.size()
    reader.check(obj.thresholds.size() == wanted, "{} thresholds, expected {}", obj.thresholds.size(), wanted)
    codes_fit(obj, reader)


def _finish_old_lsh(obj: Any, reader: Reader) -> None:
    # Codes were words of 64 bits.
    reader.check(obj.nbits % 64 == 0, "{} bits in words of 64", obj.nbits)
    obj.code_size *= 8
    _finish_lsh(obj, reader)


_LSH = (
    *HEADER,
    *fields(
        ("nbits", i32),
        ("rotate_data", flag),
        ("train_thresholds", flag),
        ("thresholds", floats),
        ("code_size", i32),
        ("rrot", transform),
        ("codes", octets),
    ),
)
index.section("IxHe", "IndexLSH", _LSH, finish=_finish_lsh)
index.section("IxHE", "IndexLSH", _LSH, finish=_finish_old_lsh, legacy=True)


def _finish_spectral(obj: Any, reader: Reader) -> None:
    vt = obj.vt
    reader.check(obj.nbit > 0 and vt is not None, "{} bits of a transform", obj.nbit)
    fits = vt.d_in == obj.d and vt.d_out == obj.nbit
    reader.check(fits, "a transform from {} to {} for {} bits of {}", vt.d_in, vt.d_out, obj.nbit, obj.d)
    reader.check(obj.period != 0 and obj.period == obj.period, "a period of {}", obj.period)
    reader.check(0 <= obj.threshold_type <= obj.Thresh_median, "threshold type {}", obj.threshold_type)
    least = obj.nlist * obj.nbit if obj.is_trained and obj.threshold_type != obj.Thresh_global else 0
    reader.check(obj.trained.size() >= least, "{} thresholds, expected {}", obj.trained.size(), least)
    obj.by_residual = False
    finish_ivf(obj, reader, (obj.nbit + 7) // 8)


index.section(
    "IwSh",
    "IndexIVFSpectralHash",
    (*IVF, *fields(("vt", transform), ("nbit", i32), ("period", f32), ("threshold_type", i32), ("trained", floats)), LISTS),
    finish=_finish_spectral,
)
