"""The types of search modules that tests go through, by name, and an index of each."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import tsscompat

D, N, K = 8, 300, 4
L2, IP = tsscompat.METRIC_L2, tsscompat.METRIC_INNER_PRODUCT
BIG = 1 << 40


def data(n: int, seed: int, d: int = D) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=draw) + torch.randint(3, (n, 1), generator=draw)


def rows_of(key: str, n: int, seed: int) -> Tensor:
    """Vectors, or codes of 32 bits, for an index of a factory string."""
    if "B" not in key.split(",")[-1][:1]:
        return data(n, seed)
    return torch.randint(256, (n, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@functools.cache
def built(key: str, metric: int = L2, tune: str = "") -> Any:
    """An index of N vectors, nprobe 2; ids beyond 32 bits where it takes ids."""
    named, binary = key.startswith("IDMap"), rows_of(key, 1, 1).dtype == torch.uint8
    index = tsscompat.index_binary_factory(32, key) if binary else tsscompat.index_factory(D, key, metric)
    for assignment in filter(None, tune.split(";")):
        name, value = assignment.split("=")
        setattr(index, name, eval(value))
    index.train(rows_of(key, N, 1))
    index.add_with_ids(rows_of(key, N, 2), torch.arange(N) + BIG) if named else index.add(rows_of(key, N, 2))
    return index


def asked_of(name: str, n: int) -> Tensor:
    """Queries for a type."""
    return rows_of(TYPES[name][0], n, 3)


# name -> (factory string, metric, settings): every class of modules, every codec, their nests.
TYPES: dict[str, tuple[str, int, str]] = {
    "Flat": ("Flat", L2, ""),
    "Flat-IP": ("Flat", IP, ""),
    "Flat-L1": ("Flat", tsscompat.METRIC_L1, ""),
    "Flat-Linf": ("Flat", tsscompat.METRIC_Linf, ""),
    "Flat-Lp": ("Flat", tsscompat.METRIC_Lp, "metric_arg=1.5"),
    "Flat-Canberra": ("Flat", tsscompat.METRIC_Canberra, ""),
    "Flat-BrayCurtis": ("Flat", tsscompat.METRIC_BrayCurtis, ""),
    "Flat-JensenShannon": ("Flat", tsscompat.METRIC_JensenShannon, ""),
    "Flat-Jaccard": ("Flat", tsscompat.METRIC_Jaccard, ""),
    "IVFFlat": ("IVF4,Flat", L2, "nprobe=2"),
    "IVFFlat-IP": ("IVF4,Flat", IP, "nprobe=2"),
    "IVFFlat-L1": ("IVF4,Flat", tsscompat.METRIC_L1, "nprobe=2"),
    "IVFPQ": ("IVF4,PQ2x4np", L2, "nprobe=2"),
    "IVFPQ-IP": ("IVF4,PQ2x4np", IP, "nprobe=2"),
    "IVFPQ-raw": ("IVF4,PQ4x3np", L2, "nprobe=2;by_residual=False"),
    "IVFSQ": ("IVF4,SQ8", L2, "nprobe=2"),
    "IVFSQ-IP": ("IVF4,SQ4", IP, "nprobe=2"),
    "IVFSQ-half": ("IVF4,SQfp16", L2, "nprobe=2"),
    "IVF of HNSW": ("IVF8_HNSW4,Flat", L2, "nprobe=2"),
    "IMI": ("IMI2x2,Flat", L2, "nprobe=5"),
    "PQ": ("PQ2x4np", L2, ""),
    "PQ-IP": ("PQ4x5np", IP, ""),
    "SQ8": ("SQ8", L2, ""),
    "SQ6-IP": ("SQ6", IP, ""),
    "SQ4": ("SQ4", L2, ""),
    "SQbf16": ("SQbf16", L2, ""),
    "SQtqmse4": ("SQtqmse4", L2, ""),
    "PQfs": ("PQ4x4fs", L2, ""),
    "PQfs-IP": ("PQ4x4fs", IP, ""),
    "IVFPQfs": ("IVF4,PQ4x4fs", L2, "nprobe=2"),
    "IVFPQfsr": ("IVF4,PQ4x4fsr", L2, "nprobe=2"),
    "IVFPQfsr-IP": ("IVF4,PQ4x4fsr", IP, "nprobe=2"),
    "RQfs": ("RQ2x4fs_Nrq2x4", L2, ""),
    "IVFRQfs": ("IVF4,RQ2x4fsr_Nrq2x4", L2, "nprobe=2"),
    "RQ": ("RQ2x4", L2, ""),
    "LSQ-IP": ("LSQ2x4", IP, ""),
    "IVFRQ": ("IVF4,RQ2x4", L2, "nprobe=2"),
    "IDMap": ("IDMap,Flat", L2, ""),
    "IDMap2": ("IDMap2,SQ8", IP, ""),
    "PCA": ("PCA4,Flat", L2, ""),
    "PreTransform": ("OPQ2_4,IVF4,PQ2x4np", L2, ""),
    "ITQ": ("ITQ4,SQ8", L2, ""),
    "Hadamard": ("HR,SQ8", L2, ""),
    "L2norm": ("L2norm,Flat", L2, ""),
    "Refine": ("SQ4,Refine(SQ8)", L2, "k_factor=3"),
    "RefineFlat": ("IVF4,SQ6,RFlat", IP, "k_factor=3"),
    "HNSW": ("HNSW4,Flat", L2, ""),
    "HNSW-IP": ("HNSW4,SQ8", IP, ""),
    "binary Flat": ("BFlat", L2, ""),
    "binary IVF": ("BIVF4", L2, "nprobe=2"),
    "binary HNSW": ("BHNSW4", L2, ""),
    "binary IDMap": ("IDMap,BFlat", L2, ""),
    "names of lists": ("IDMap,IVF4,SQ8", L2, ""),
    "names of refined lists of a rotation": ("IDMap2,OPQ2_4,IVF4,PQ2x4np,RFlat", L2, ""),
}
# A row of the table of docs/serving.md each.
KINDS = {
    "Flat": [name for name in TYPES if name.startswith("Flat")],
    "IVFFlat": ["IVFFlat", "IVFFlat-IP", "IVFFlat-L1"],
    "IVFPQ": ["IVFPQ", "IVFPQ-IP", "IVFPQ-raw"],
    "IVFSQ": ["IVFSQ", "IVFSQ-IP", "IVFSQ-half"],
    "PQ": ["PQ", "PQ-IP"],
    "SQ": ["SQ8", "SQ6-IP", "SQ4", "SQbf16", "SQtqmse4"],
    "PQ, RQ fast scan": ["PQfs", "PQfs-IP", "RQfs"],
    "IVF of fast scan": ["IVFPQfs", "IVFPQfsr", "IVFPQfsr-IP", "IVFRQfs"],
    "RQ, LSQ, IVF of RQ": ["RQ", "LSQ-IP", "IVFRQ"],
    "IDMap, IDMap2": ["IDMap", "IDMap2"],
    "PreTransform": ["PCA", "PreTransform", "ITQ", "Hadamard", "L2norm"],
    "Refine": ["Refine", "RefineFlat"],
    "HNSW": ["HNSW", "HNSW-IP"],
    "IVF of HNSW, of IMI": ["IVF of HNSW", "IMI"],
    "binary Flat, IVF, HNSW, IDMap": ["binary Flat", "binary IVF", "binary HNSW", "binary IDMap"],
    "nests of three to five": ["names of lists", "names of refined lists of a rotation"],
}
