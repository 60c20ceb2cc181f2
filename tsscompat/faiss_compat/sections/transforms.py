"""Sections of vector transforms: a class's own fields come before what all share."""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.sections.common import transform
from tsscompat.wire.codecs import f32, flag, floats, i32, int32s, u32
from tsscompat.wire.cursor import Reader
from tsscompat.wire.tables import fields

SHARED = fields(("d_in", i32), ("d_out", i32), ("is_trained", flag))
LINEAR = (*fields(("have_bias", flag), ("A", floats), ("b", floats)), *SHARED)


def _check_transform(obj: Any, reader: Reader) -> None:
    reader.check(0 < obj.d_in < 1 << 24 and 0 < obj.d_out < 1 << 24, "a transform from dimension {} to {}", obj.d_in, obj.d_out)


def finish_linear(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    sizes = (obj.A.size(), obj.b.size())
    if obj.is_trained:
        reader.check(sizes[0] == obj.d_in * obj.d_out, "a matrix of {} numbers for {} x {}", sizes[0], obj.d_out, obj.d_in)
        reader.check(not obj.have_bias or sizes[1] == obj.d_out, "{} offsets for dimension {}", sizes[1], obj.d_out)
    obj.set_is_orthonormal()


_PCA = fields(("eigen_power", f32), ("epsilon", f32), ("random_rotation", flag), ("balanced_bins", i32))
_PCA_OLD = (_PCA[0], *_PCA[2:])
PCA_DATA = fields(("mean", floats), ("eigenvalues", floats), ("PCAMat", floats))
transform.section("LTra", "LinearTransform", LINEAR, finish=finish_linear)
transform.section("rrot", "RandomRotationMatrix", LINEAR, finish=finish_linear)
transform.section("Pcam", "PCAMatrix", (*_PCA, *PCA_DATA, *LINEAR), finish=finish_linear)
transform.section("PcAm", "PCAMatrix", (*_PCA_OLD, *PCA_DATA, *LINEAR), finish=finish_linear, legacy=True)
transform.section("Viqm", "ITQMatrix", (*fields(("max_iter", i32), ("seed", i32)), *LINEAR), finish=finish_linear)


def _finish_hadamard(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    reader.check(obj.d_out < 1 << 20, "a Hadamard rotation to dimension {}", obj.d_out)
    obj.init(obj.seed)


def _finish_remap(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    table = obj.map.tensor
    reader.check(table.shape[0] == obj.d_out, "a map of {} for dimension {}", table.shape[0], obj.d_out)
    reader.check(bool(((table >= -1) & (table < obj.d_in)).all()), "a map from a dimension that does not exist")


def _finish_centering(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    reader.check(not obj.is_trained or obj.mean.size() == obj.d_in, "a mean of {} for dimension {}", obj.mean.size(), obj.d_in)


def _finish_itq(obj: Any, reader: Reader) -> None:
    _check_transform(obj, reader)
    turn = obj.pca_then_itq
    fits = hasattr(turn, "A") and (turn.d_in, turn.d_out) == (obj.d_in, obj.d_out) and type(obj.itq).__name__ == "ITQMatrix"
    reader.check(fits, "no matrices from dimension {} to {}", obj.d_in, obj.d_out)
    if obj.is_trained:
        reader.check(turn.is_trained and obj.mean.size() == obj.d_in, "a mean of {} for dimension {}", obj.mean.size(), obj.d_in)


transform.section("HRot", "HadamardRotation", (*fields(("seed", u32)), *SHARED), finish=_finish_hadamard)
transform.section("RmDT", "RemapDimensionsTransform", (*fields(("map", int32s)), *SHARED), finish=_finish_remap)
transform.section("VNrm", "NormalizationTransform", (*fields(("norm", f32)), *SHARED), finish=_check_transform)
transform.section("VCnt", "CenteringTransform", (*fields(("mean", floats)), *SHARED), finish=_finish_centering)
transform.section(
    "Viqt",
    "ITQTransform",
    (*fields(("mean", floats), ("do_pca", flag), ("itq", transform), ("pca_then_itq", transform)), *SHARED),
    finish=_finish_itq,
)
