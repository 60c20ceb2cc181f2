"""Factory strings: how many bytes a vector takes, and which string an index was made from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tsscompat.faiss_compat.downcast import kinds
from tsscompat.faiss_compat.eden import EDENScaleType_BIASED
from tsscompat.faiss_compat.quantizers import ScalarQuantizer

Sizes = Callable[[int, re.Match[str]], int]


def _of(piece: int) -> Sizes:
    """The size of what a group describes."""
    return lambda d, m: get_code_size(d, m[piece])


def _bits(bits: int) -> Sizes:
    return lambda d, m: (d * bits + 7) // 8


# The first pattern that matches the whole string says how many bytes a vector of dimension d takes.
_SIZES: tuple[tuple[str, Sizes], ...] = (
    (r"(.*),RFlat", lambda d, m: 4 * d + get_code_size(d, m[1])),
    (r"(.*),Refine\((.*)\)", lambda d, m: get_code_size(d, m[1]) + get_code_size(d, m[2])),
    (r"Flat", lambda d, m: 4 * d),
    (r"IVF\d+[kM]?(?:_HNSW\d*)?,(.*)", _of(1)),
    (r"IVF\d+[kM]?\(.*\),(.*)", _of(1)),
    (r"IMI\d+x\d+,(.*)", _of(1)),
    (r"PQ(\d+)(?:np)?", lambda d, m: int(m[1])),
    (r"PQ(\d+)x(\d+)(?:fsr?|np)?", lambda d, m: (int(m[1]) * int(m[2]) + 7) // 8),
    (r"PQ(\d+)\+(\d+)", lambda d, m: int(m[1]) + int(m[2])),
    # A vector's links at the base level; those above are few.
    (r"HNSW(\d+)(?:,Flat)?", lambda d, m: 4 * d + int(m[1]) * 2 * 4),
    (r"HNSW(\d+),(.*)", lambda d, m: get_code_size(d, m[2]) + int(m[1]) * 2 * 4),
    (r"SQ8(?:_direct|_direct_signed)?", _bits(8)),
    (r"SQ6", _bits(6)),
    (r"SQ4", _bits(4)),
    (r"SQ(?:fp|bf)16", _bits(16)),
    (r"PCAW?R?(\d+),(.*)", lambda d, m: get_code_size(int(m[1]), m[2])),
    (r"OPQ\d+_(\d+),(.*)", lambda d, m: get_code_size(int(m[1]), m[2])),
    (r"OPQ\d+,(.*)", _of(1)),
    (r"(?:RR|ITQ)(\d+),(.*)", lambda d, m: get_code_size(int(m[1]), m[2])),
)


def get_code_size(d: int, indexkey: str) -> int:
    """Bytes that a vector of dimension d takes in an index of that factory string."""
    for pattern, size in _SIZES:
        match = re.fullmatch(pattern, indexkey)
        if match:
            return size(d, match)
    raise RuntimeError("cannot parse " + indexkey)


def get_hnsw_M(index: Any) -> int:
    """The M that an HNSW graph was made with."""
    return int(index.hnsw.cum_nneighbor_per_level.at(1)) // 2


def _sq_name(qtype: int) -> str:
    """The factory's name of a scalar quantizer type; SQ8u and SQ4u are not the factory's, but FAISS's tool says so."""
    name = next(n for n, value in vars(ScalarQuantizer).items() if n.startswith("QT_") and value == qtype)[3:]
    name = re.sub(r"_uniform$", "u", name)
    name = re.sub(r"^(\d)bit_(tqmse|tq)$", r"\2\1", name)
    return "SQ" + re.sub(r"^(\d)bit", r"\1", name)


def _coarse_name(index: Any) -> str:
    quantizer, what = index.quantizer, kinds(index.quantizer)
    if "IndexFlat" in what:
        return f"IVF{index.nlist}"
    if "MultiIndexQuantizer" in what:
        return f"IMI{quantizer.pq.M}x{quantizer.pq.nbits}"
    if "IndexHNSW" in what:
        return f"IVF{index.nlist}_HNSW{get_hnsw_M(quantizer)}"
    return f"IVF{index.nlist}({reverse_index_factory(quantizer)})"


def _graph_name(index: Any) -> str:
    plain = index.storage is None or "IndexFlat" in kinds(index.storage)
    return f"HNSW{get_hnsw_M(index)}" + ("" if plain else f",{reverse_index_factory(index.storage)}")


def _chain_name(index: Any) -> str:
    if index.chain.size() != 1:
        raise NotImplementedError("only one transform can be told")
    step = index.chain.at(0)
    what = kinds(step)
    if "OPQMatrix" in what:
        name = f"OPQ{step.M}_{step.d_out}"
    elif "ITQTransform" in what:
        name = f"ITQ{step.itq.d_out}"
    elif "PCAMatrix" in what and step.eigen_power == 0:
        name = f"PCA{'R' if step.random_rotation else ''}{step.d_out}"
    else:
        raise NotImplementedError(f"no factory string of a {type(step).__name__} like this")
    return f"{name},{reverse_index_factory(index.index)}"


def _rabitq_name(index: Any) -> str:
    return "RaBitQ" + (str(index.rabitq.nb_bits) if index.rabitq.nb_bits != 1 else "")


def _eden_name(index: Any) -> str:
    bits = str(index.sq.bits) if index.sq.bits != 1 else ""
    return f"EDEN{bits}{'BIASED' if index.scale_type == EDENScaleType_BIASED else ''}"


# How an index of a class is called; subclasses stand before their bases.
_NAMES: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("IndexFlat", lambda i: "Flat"),
    ("IndexIVFFlat", lambda i: f"{_coarse_name(i)},Flat"),
    ("IndexIVFScalarQuantizer", lambda i: f"{_coarse_name(i)},{_sq_name(i.sq.qtype)}"),
    ("IndexIVFPQR", lambda i: f"{_coarse_name(i)},PQ{i.pq.M}+{i.refine_pq.M}"),
    ("IndexIVFPQ", lambda i: f"{_coarse_name(i)},PQ{i.pq.M}x{i.pq.nbits}"),
    ("IndexIVFPQFastScan", lambda i: f"{_coarse_name(i)},PQ{i.pq.M}x{i.pq.nbits}fs"),
    ("IndexIVFRaBitQ", lambda i: f"{_coarse_name(i)},{_rabitq_name(i)}"),
    ("IndexIVFEDEN", lambda i: f"{_coarse_name(i)},{_eden_name(i)}"),
    ("IndexPreTransform", _chain_name),
    ("IndexHNSW", _graph_name),
    ("IndexRefine", lambda i: f"{reverse_index_factory(i.base_index)},Refine({reverse_index_factory(i.refine_index)})"),
    ("IndexPQFastScan", lambda i: f"PQ{i.pq.M}x{i.pq.nbits}fs"),
    ("IndexPQ", lambda i: f"PQ{i.pq.M}x{i.pq.nbits}"),
    ("IndexLSH", lambda i: "LSH" + "r" * i.rotate_data + "t" * i.train_thresholds),
    ("IndexScalarQuantizer", lambda i: _sq_name(i.sq.qtype)),
    ("IndexRaBitQ", _rabitq_name),
    ("IndexEDEN", _eden_name),
    ("IndexIDMap2", lambda i: f"IDMap2,{reverse_index_factory(i.index)}"),
    ("IndexIDMap", lambda i: f"IDMap,{reverse_index_factory(i.index)}"),
)


def reverse_index_factory(index: Any) -> str:
    """The factory string that an index was made from, as far as it can be told."""
    what = kinds(index)
    for name, tell in _NAMES:
        if name in what:
            return tell(index)
    raise NotImplementedError(f"no factory string of a {type(index).__name__} is known")
