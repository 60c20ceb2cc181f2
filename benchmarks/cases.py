"""What is measured: a row per index type, and the synthetic data."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

K = (10, 100)
NQ = (1, 16, 1000)


@dataclass(frozen=True)
class Case:
    """One index type: a factory string, and what is set on it before a search."""

    name: str
    key: str
    d: int = 128
    metric: str = "METRIC_L2"
    nprobe: int = 0
    ef_search: int = 0
    k_factor: int = 0
    # How often FAISS and we must name the same neighbour: exact distances leave ties and rounding, a graph walk a little more.
    agreement: float = 0.99

    @property
    def binary(self) -> bool:
        """Whether it is an index of binary codes."""
        return self.key.startswith("B")


CASES = [
    Case("Flat L2", "Flat"),
    Case("Flat IP", "Flat", metric="METRIC_INNER_PRODUCT"),
    Case("IVF1024,Flat", "IVF1024,Flat", nprobe=16),
    Case("IVF1024,PQ16 L2", "IVF1024,PQ16", nprobe=16),
    Case("IVF1024,PQ16 IP", "IVF1024,PQ16", metric="METRIC_INNER_PRODUCT", nprobe=16),
    Case("OPQ16_64,IVF1024,PQ16", "OPQ16_64,IVF1024,PQ16", nprobe=16),
    Case("IVF1024,SQ8", "IVF1024,SQ8", nprobe=16),
    Case("SQ8", "SQ8"),
    Case("PQ16", "PQ16"),
    Case("PQ32x4fs", "PQ32x4fs"),
    Case("IVF1024,PQ32x4fs", "IVF1024,PQ32x4fs", nprobe=16),
    Case("RQ8x8_Nqint8", "RQ8x8_Nqint8"),
    Case("HNSW32", "HNSW32", ef_search=64, agreement=0.97),
    Case("NSG32", "NSG32", ef_search=64, agreement=0.97),
    Case("IVF1024_HNSW32,Flat", "IVF1024_HNSW32,Flat", nprobe=16, agreement=0.97),
    Case("IVF1024,PQ16,RFlat", "IVF1024,PQ16,RFlat", nprobe=16, k_factor=4),
    Case("Flat L2 768", "Flat", d=768),
    Case("IVF1024,Flat 768", "IVF1024,Flat", d=768, nprobe=16),
    Case("IVF1024,RaBitQ", "IVF1024,RaBitQ", nprobe=16),
    Case("LSH", "LSH256r"),
    Case("FlatL2Panorama8", "PCA128,FlatL2Panorama8"),
    Case("FlatL2Panorama8 768", "PCA768,FlatL2Panorama8", d=768),
    Case("IVF1024,FlatPanorama8", "PCA128,IVF1024,FlatPanorama8", nprobe=16),
    Case("binary Flat", "BFlat", d=256),
    Case("binary IVF1024", "BIVF1024", d=256, nprobe=16),
]


@functools.lru_cache(maxsize=4)
def vectors(n: int, d: int, seed: int) -> np.ndarray:
    """Clustered vectors: 2,000 centers of unequal weight in the space, noise about half as large around them."""
    centers = np.random.default_rng(7).standard_normal((2000, d), dtype=np.float32)
    rng = np.random.default_rng(seed)
    which = (rng.random(n) ** 2 * len(centers)).astype(int)
    x = rng.standard_normal((n, d), dtype=np.float32)
    x *= 0.5
    x += centers[which]
    return x


def _data(n: int, case: Case, seed: int) -> np.ndarray:
    x = vectors(n, case.d, seed)
    return np.packbits(x > 0, axis=1) if case.binary else x


def base(n: int, case: Case) -> np.ndarray:
    return _data(n, case, 1)


def queries(n: int, case: Case) -> np.ndarray:
    return _data(n, case, 2)


def dump(module, case: Case, index) -> np.ndarray:
    """The index's file."""
    return module.serialize_index_binary(index) if case.binary else module.serialize_index(index)


def load(module, case: Case, data: np.ndarray):
    """The index of a file."""
    return module.deserialize_index_binary(data) if case.binary else module.deserialize_index(data)


def tune(module, index, case: Case) -> None:
    """Set what the case asks for, on whichever part of the index has it."""
    if case.k_factor:
        refine = module.downcast_index(index)
        refine.k_factor = case.k_factor
        index = refine.base_index
    if case.binary and case.nprobe:
        index.nprobe = case.nprobe
    elif case.nprobe:
        module.extract_index_ivf(index).nprobe = case.nprobe
    if case.ef_search:
        graph = module.downcast_index(index)
        if hasattr(graph, "nsg"):
            graph.nsg.search_L = case.ef_search
        else:
            graph.hnsw.efSearch = case.ef_search


def make(module, case: Case):
    """The case's index, untrained."""
    if case.binary:
        return module.index_binary_factory(case.d, case.key)
    return module.index_factory(case.d, case.key, getattr(module, case.metric))
