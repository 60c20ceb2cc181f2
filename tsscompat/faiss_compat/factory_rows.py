"""The factory's rows, slot by slot."""

from __future__ import annotations

import re
from typing import Any

from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.factory_text import Span, Values, class_named, row, set_fields

SQ = r"SQ(?P<qtype>8_direct_signed|8_direct|tqmse[12348]|tq[2345]|[0468]|fp16|bf16)"
PQ = r"PQ(?P<M>\d+)(?:x(?P<nbits>\d+))?(?P<np>np)?"
PQ_FAST = r"PQ(?P<M>\d+)x4fs"
BLOCK = r"(?:_(?P<bbs>\d+))?"
SIZES = r"(?P<sizes>\d+x\d+(?:_\d+x\d+)*)"
SPLITS = r"(?P<nsplits>\d+)x(?P<Msub>\d+)x(?P<nbits>\d+)"
SPLITS_FAST = r"(?P<nsplits>\d+)x(?P<Msub>\d+)x4fs"
NORM = r"(?:_N(?P<st>none|float|qint8|qint4|cqint8|cqint4|lsq2x4|rq2x4))?"
RABITQ = r"RaBitQ(?P<bits>[1-9])?"
RABITQ_FAST = r"RaBitQfs(?P<bits>[1-9])?"
EDEN = r"EDEN(?P<bits>[1-8])?(?P<biased>BIASED|BIAS)?"

owner = set_fields(own_fields=True)
polysemous = set_fields(do_polysemous_training=lambda v: "np" not in v)
residual = set_fields(by_residual=lambda v: v.get("r") == "r")


def eden_scale(values: Values, span: Span) -> Values:
    return {"scale": class_named(f"EDENScaleType_{'' if 'biased' in values else 'UN'}BIASED", span)}


def codebooks(values: Values, span: Span) -> Values:
    """An LSQ's codebooks are all alike."""
    return {"M": len(values["sizes"]), "nbits": values["sizes"][0]} if values["sizes"] else span.refuse("no codebooks")


WRAPPERS = (
    row(r"(?P<inner>.+),IDMap2", "IndexIDMap2", "inner", then=owner),
    row(r"IDMap2,(?P<inner>.+)", "IndexIDMap2", "inner", then=owner),
    row(r"(?P<inner>.+),IDMap", "IndexIDMap", "inner", then=owner),
    row(r"IDMap,(?P<inner>.+)", "IndexIDMap", "inner", then=owner),
    row(r"(?P<inner>.+),RefinePanorama\((?P<second>.+)\)", "IndexRefinePanorama", "inner second"),
    row(r"(?P<inner>.+),RFlat", "IndexRefineFlat", "inner", then=owner),
    row(
        r"(?P<inner>.+),Refine\((?P<second>.+)\)",
        "IndexRefine",
        "inner second",
        then=set_fields(own_fields=True, own_refine_index=True),
    ),
)

TRANSFORMS = (
    row(
        r"PCA(?P<white>W?)(?P<rotated>R?)(?P<d_out>\d+)",
        "PCAMatrix",
        "d d_out power rotation",
        also=lambda v, span: {"power": -0.5 if v["white"] else 0, "rotation": bool(v["rotated"])},
    ),
    row(r"L2[nN]orm", "NormalizationTransform", "d norm", also=lambda v, span: {"norm": 2.0}),
    row(r"RR(?P<d_out>\d+)?", "RandomRotationMatrix", "d d_out", also=lambda v, span: {"d_out": v.get("d_out", v["d"])}),
    row(r"HR(?P<seed>\d+)?", "HadamardRotation", "d seed=12345"),
    row(
        r"ITQ(?P<d_out>\d+)?",
        "ITQTransform",
        "d d_out do_pca",
        also=lambda v, span: {"d_out": v.get("d_out", v["d"]), "do_pca": "d_out" in v},
    ),
    row(r"OPQ(?P<M>\d+)(?:_(?P<d_out>\d+))?", "OPQMatrix", "d M d_out", also=lambda v, span: {"d_out": v.get("d_out", v["d"])}),
    row(
        r"Pad(?P<d_out>\d+)",
        "RemapDimensionsTransform",
        "d d_out uniform",
        also=lambda v, span: {"d_out": max(v["d_out"], v["d"]), "uniform": False},
    ),
)

WHOLE = (
    row(r"Flat", "IndexFlat", "d metric"),
    row(r"FlatL2Panorama(?P<levels>\d+)(?:_(?P<batch>\d+))?", "IndexFlatL2Panorama", "d levels batch=1024", only=METRIC_L2),
    row(
        r"FlatIPPanorama(?P<levels>\d+)(?:_(?P<batch>\d+))?",
        "IndexFlatIPPanorama",
        "d levels batch=1024",
        only=METRIC_INNER_PRODUCT,
    ),
    row(
        r"LSH(?P<nbits>\d+)?(?P<r>r?)(?P<t>t?)",
        "IndexLSH",
        "d nbits rotate thresholds",
        also=lambda v, span: {"nbits": v.get("nbits", v["d"]), "rotate": bool(v["r"]), "thresholds": bool(v["t"])},
        only=METRIC_L2,
    ),
    row(r"ZnLattice(?P<M>\d+)x(?P<r2>\d+)_(?P<nbits>\d+)", "IndexLattice", "d M nbits r2"),
    row(SQ, "IndexScalarQuantizer", "d qtype metric"),
    row(PQ, "IndexPQ", "d M nbits=8 metric", then=polysemous),
    row(PQ_FAST + BLOCK, "IndexPQFastScan", "d M nbits=4 metric bbs=32"),
    row(f"RCQ{SIZES}{NORM}", "ResidualCoarseQuantizer", "d sizes metric"),
    row(f"RQ{SIZES}{NORM}", "IndexResidualQuantizer", "d sizes metric st"),
    row(rf"LSCQ(?P<M>\d+)x(?P<nbits>\d+){NORM}", "LocalSearchCoarseQuantizer", "d M nbits metric"),
    row(rf"LSQ(?P<M>\d+)x(?P<nbits>\d+){NORM}", "IndexLocalSearchQuantizer", "d M nbits metric st"),
    row(f"PRQ{SPLITS}{NORM}", "IndexProductResidualQuantizer", "d nsplits Msub nbits metric st"),
    row(f"PLSQ{SPLITS}{NORM}", "IndexProductLocalSearchQuantizer", "d nsplits Msub nbits metric st"),
    row(rf"RQ(?P<M>\d+)x4fs{BLOCK}{NORM}", "IndexResidualQuantizerFastScan", "d M nbits=4 metric st bbs=32"),
    row(rf"LSQ(?P<M>\d+)x4fs{BLOCK}{NORM}", "IndexLocalSearchQuantizerFastScan", "d M nbits=4 metric st bbs=32"),
    row(f"PRQ{SPLITS_FAST}{BLOCK}{NORM}", "IndexProductResidualQuantizerFastScan", "d nsplits Msub nbits=4 metric st bbs=32"),
    row(f"PLSQ{SPLITS_FAST}{BLOCK}{NORM}", "IndexProductLocalSearchQuantizerFastScan", "d nsplits Msub nbits=4 metric st bbs=32"),
    row(RABITQ, "IndexRaBitQ", "d metric bits=1"),
    row(EDEN, "IndexEDEN", "d metric bits=1 scale", also=eden_scale),
    row(RABITQ_FAST + BLOCK, "IndexRaBitQFastScan", "d metric bbs=32 bits=1"),
)

# What stands behind the comma (or underscore) of HNSW and NSG; an empty code is Flat.
HNSW = (
    row(r"Flat|", "IndexHNSWFlat", "d degree metric"),
    row(r"FlatPanorama(?P<levels>\d+)?", "IndexHNSWFlatPanorama", "d degree levels=8 metric"),
    row(PQ, "IndexHNSWPQ", "d M degree nbits=8", then=lambda made, v: polysemous(made.storage, v)),
    row(SQ, "IndexHNSWSQ", "d qtype degree metric"),
    row(RABITQ, "IndexHNSWRaBitQ", "d degree bits=1 metric"),
    row(
        r"(?P<ncent>\d+)\+PQ(?P<M>\d+)",
        "IndexHNSW2Level",
        "coarse ncent M degree",
        also=lambda v, span: {"coarse": class_named("IndexFlatL2", span)(v["d"])},
        then=lambda made, v: owner(made.storage.q1, v),
    ),
    row(
        r"2x(?P<bits>\d+)\+PQ(?P<M>\d+)",
        "IndexHNSW2Level",
        "coarse ncent M degree",
        also=lambda v, span: {
            "coarse": class_named("MultiIndexQuantizer", span)(v["d"], 2, v["bits"]),
            "ncent": 1 << (2 * v["bits"]),
        },
        then=lambda made, v: set_fields(own_fields=True, quantizer_trains_alone=1)(made.storage.q1, v),
    ),
)

NSG = (
    row(r"Flat|", "IndexNSGFlat", "d degree metric"),
    row(PQ, "IndexNSGPQ", "d M degree nbits=8", then=lambda made, v: polysemous(made.storage, v)),
    row(SQ, "IndexNSGSQ", "d qtype degree metric"),
)

MINMAX = (
    row(r"MinMax,(?P<inner>.*)", "IndexRowwiseMinMax", "inner", then=owner),
    row(r"MinMaxFP16,(?P<inner>.*)", "IndexRowwiseMinMaxFP16", "inner", then=owner),
)

# Coarse quantizers say how many lists there are; `two_layer` ones make an Index2Layer, not an IVF.
COARSE = (
    row(r"IVF(?P<nlist>\d+[kM]?)", "IndexFlat", "d metric"),
    row(
        r"IMI2x(?P<nbits>\d+)",
        "MultiIndexQuantizer",
        "d parts=2 nbits",
        also=lambda v, span: {"nlist": 1 << (2 * v["nbits"])},
        only=METRIC_L2,
    ),
    row(r"IVF(?P<nlist>\d+[kM]?)_HNSW(?P<degree>\d+)?", "IndexHNSWFlat", "d degree=32 metric"),
    row(r"IVF(?P<nlist>\d+[kM]?)_NSG(?P<degree>\d+)", "IndexNSGFlat", "d degree metric"),
    row(
        r"Residual(?P<M>\d+)x(?P<nbits>\d+)",
        "MultiIndexQuantizer",
        "d M nbits",
        also=lambda v, span: {"nlist": 1 << (v["M"] * v["nbits"]), "two_layer": True},
        only=METRIC_L2,
    ),
    row(r"Residual(?P<nlist>\d+)", "IndexFlatL2", "d", also=lambda v, span: {"two_layer": True}, only=METRIC_L2),
)
NESTED_COARSE = re.compile(r"IVF(?P<nlist>\d+[kM]?)\((?P<quantizer>.*)\)")

LISTS = "quantizer d nlist"


def spectral(made: Any, values: Values) -> None:
    """The transform and the thresholds of a spectral-hash index."""
    d, bits, span = values["d"], values["outdim"], values["span"]
    if values["vt"] == "ITQ":
        vt = class_named("ITQTransform", span)(d, bits, d != bits)
    else:
        vt = class_named("PCAMatrix", span)(d, bits, 0, values["vt"] == "PCAR")
    made.replace_vt(vt, True)
    if "threshold" in values:
        kind = {"g": "global", "c": "centroid", "m": "median"}[values["threshold"]]
        made.threshold_type = getattr(type(made), f"Thresh_{kind}")


CODES = (
    row(r"Flat", "IndexIVFFlat", f"{LISTS} metric own"),
    row(r"FlatDedup", "IndexIVFFlatDedup", f"{LISTS} metric own"),
    row(
        r"FlatPanorama(?P<levels>\d+)?(?:_(?P<batch>\d+))?",
        "IndexIVFFlatPanorama",
        f"{LISTS} levels=8 metric own batch=1024",
    ),
    row(SQ, "IndexIVFScalarQuantizer", f"{LISTS} qtype metric residual own", also=lambda v, span: {"residual": True}),
    row(PQ, "IndexIVFPQ", f"{LISTS} M nbits=8 metric own", then=polysemous),
    row(r"PQ(?P<M>\d+)\+(?P<M2>\d+)", "IndexIVFPQR", f"{LISTS} M nbits=8 M2 nbits2=8 own", only=METRIC_L2),
    row(PQ_FAST + "(?P<r>r?)" + BLOCK, "IndexIVFPQFastScan", f"{LISTS} M nbits=4 metric bbs=32 own", then=residual),
    row(f"RQ{SIZES}{NORM}", "IndexIVFResidualQuantizer", f"{LISTS} sizes metric st own"),
    row(f"LSQ{SIZES}{NORM}", "IndexIVFLocalSearchQuantizer", f"{LISTS} M nbits metric st own", also=codebooks),
    row(f"PRQ{SPLITS}{NORM}", "IndexIVFProductResidualQuantizer", f"{LISTS} nsplits Msub nbits metric st own"),
    row(f"PLSQ{SPLITS}{NORM}", "IndexIVFProductLocalSearchQuantizer", f"{LISTS} nsplits Msub nbits metric st own"),
    *(
        row(
            rf"{short}(?P<M>\d+)x4fs(?P<r>r?){BLOCK}{NORM}",
            f"IndexIVF{name}QuantizerFastScan",
            f"{LISTS} M nbits=4 metric st bbs=32 own",
            then=residual,
        )
        for short, name in (("RQ", "Residual"), ("LSQ", "LocalSearch"))
    ),
    *(
        row(
            f"{short}{SPLITS_FAST}(?P<r>r?){BLOCK}{NORM}",
            f"IndexIVFProduct{name}QuantizerFastScan",
            f"{LISTS} nsplits Msub nbits=4 metric st bbs=32 own",
            then=residual,
        )
        for short, name in (("PRQ", "Residual"), ("PLSQ", "LocalSearch"))
    ),
    row(
        r"(?P<vt>ITQ|PCAR|PCA)(?P<outdim>\d+)?,SH(?P<period>[-0-9.e]+)?(?P<threshold>[gcm])?",
        "IndexIVFSpectralHash",
        f"{LISTS} outdim period own",
        # A period this negative is FAISS's way to ask for plain thresholding.
        also=lambda v, span: {"outdim": v.get("outdim", v["d"]), "period": v.get("period", -1e10), "span": span},
        then=spectral,
    ),
    row(RABITQ, "IndexIVFRaBitQ", f"{LISTS} metric own bits=1"),
    row(EDEN, "IndexIVFEDEN", f"{LISTS} metric own bits=1 scale", also=eden_scale),
    row(RABITQ_FAST + BLOCK, "IndexIVFRaBitQFastScan", f"{LISTS} metric bbs=32 own bits=1"),
)

TWO_LAYER = (row(r"PQ(?P<M>\d+)(?:x(?P<nbits>\d+))?", "Index2Layer", "quantizer nlist M nbits=8"),)
