"""The index types under test, a row each. A new type is a row here; every promise of test_conformance.py is then made of it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

D = 16
N_TRAIN, N_BASE, N_QUERY = 1200, 500, 8


def clusters(n: int, seed: int, d: int = D) -> np.ndarray:
    """Vectors around 20 centres, the way embeddings lie."""
    centres = np.random.default_rng(77).standard_normal((20, d)) * 2
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(20, size=n)] + rng.standard_normal((n, d))).astype(np.float32)


def directions(n: int, seed: int, d: int = D) -> np.ndarray:
    """Vectors of norm 1."""
    x = clusters(n, seed, d)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def positive(n: int, seed: int, d: int = D) -> np.ndarray:
    """Vectors in [0, 1]: histograms, for the metrics that want them."""
    x = np.abs(clusters(n, seed, d))
    return (x / x.max()).astype(np.float32)


@dataclass(frozen=True)
class Row:
    """How to make an index of one type, and what FAISS does not have for it.

    lacks: methods that FAISS refuses with RuntimeError. Beside FAISS's names:
    `sel` (a selector in the search parameters), `file` (a place in FAISS's file format), `empty` (an answer from an empty index), `parts`
    (vectors added after the first).
    avoid: what FAISS answers by ending the process, or leaves undefined: not asked of either.
    """

    name: str
    make: Callable[[ModuleType], Any]
    data: Callable[..., np.ndarray] = clusters
    lacks: frozenset[str] = frozenset()
    avoid: frozenset[str] = frozenset()
    params: Callable[..., Any] = lambda faiss, sel: faiss.SearchParameters(sel=sel)
    exhaustive: bool = True  # each stored vector is looked at, so that a search with k = ntotal gives all of them
    two_stage: bool = False  # candidates are ranked again by better distances, so that range and plain search differ
    padded: bool = True  # FAISS, too, gives missing results the worst of distances
    symmetric: bool = True  # what reconstruct gives is what distances are measured to
    apart: bool = False  # a graph is walked by other estimates than FAISS's: answers are as good, not the same
    passes_over: bool = False  # FAISS leaves out some codes by an estimate: its answers may lack a few of the best

    def __str__(self) -> str:
        return self.name


def row(
    name: str,
    key: str | None = None,
    /,
    *,
    d: int = D,
    metric: str = "METRIC_L2",
    tune: str = "",
    lacks: str = "",
    avoid: str = "",
    **more: Any,
) -> Row:
    """A row for a factory string; `tune` is assignments to make on the index, `index.` left out."""

    def make(faiss: ModuleType) -> Any:
        index = faiss.index_factory(d, key or name, getattr(faiss, metric))
        apply(faiss, index, tune)
        return index

    return Row(name, make, lacks=frozenset(lacks.split()), avoid=frozenset(avoid.split()), **more)


def apply(faiss: ModuleType, index: Any, tune: str) -> None:
    for assignment in filter(None, (t.strip() for t in tune.split(";"))):
        target, value = assignment.split("=", 1)
        *path, last = target.strip().split(".")
        owner = faiss.downcast_index(index)
        for name in path:
            owner = getattr(owner, name)
            if isinstance(owner, faiss.Index):
                owner = faiss.downcast_index(owner)
        setattr(owner, last, eval(value, {"faiss": faiss}))


def plain_params(faiss: ModuleType, sel: Any) -> Any:
    return faiss.SearchParameters(sel=sel)


def ivf_params(faiss: ModuleType, sel: Any, nprobe: int = 8) -> Any:
    return faiss.SearchParametersIVF(sel=sel, nprobe=nprobe)


def ivfpq_params(faiss: ModuleType, sel: Any) -> Any:
    return faiss.IVFPQSearchParameters(sel=sel, nprobe=8)


def rabitq_params(faiss: ModuleType, sel: Any) -> Any:
    return faiss.RaBitQSearchParameters(sel=sel, qb=8)


def ivf_rabitq_params(faiss: ModuleType, sel: Any) -> Any:
    return faiss.IVFRaBitQSearchParameters(sel=sel, nprobe=8, qb=8)


def hnsw_params(faiss: ModuleType, sel: Any) -> Any:
    return faiss.SearchParametersHNSW(sel=sel, efSearch=64)


def pretransform_params(inner: Callable[..., Any]) -> Callable[..., Any]:
    return lambda faiss, sel: faiss.SearchParametersPreTransform(index_params=inner(faiss, sel))


def refine_params(inner: Callable[..., Any]) -> Callable[..., Any]:
    return lambda faiss, sel: faiss.IndexRefineSearchParameters(k_factor=2, base_index_params=inner(faiss, sel))


def nn_descent(faiss: ModuleType) -> Any:
    index = faiss.IndexNNDescentFlat(D, 16)
    index.nndescent.search_L = 64
    return index


NO_IDS = "add_with_ids"
FLAT = NO_IDS
CODES = NO_IDS
PQ = f"{NO_IDS} sel"
# Sums of bytes stand for distances, not those of the vectors that reconstruct gives. FAISS reads blocks that it has emptied.
FAST_SCAN = {"lacks": f"{NO_IDS} sel range_search add_sa_codes", "avoid": "empty", "symmetric": False}
# FAISS takes codes for blocks when it adds them to lists in blocks; an index read from a file cannot decode: the process ends.
FAST_LISTS = {
    "lacks": "search_and_reconstruct",
    "avoid": "add_sa_codes reconstruct sa_encode",
    "symmetric": False,
    "two_stage": True,
    "padded": False,
}
# Local search begins at random for each batch.
RANDOM = "parts merge_from"
# FAISS reads the centroids of a coarse quantizer that has none.
RAW = "untrained"
GRAPH = f"{NO_IDS} remove_ids merge_from sa_encode add_sa_codes"
AT_ONCE = f"{GRAPH} range_search sel empty parts"
PRETRANSFORMED = "add_sa_codes"
REFINED = f"{NO_IDS} remove_ids merge_from add_sa_codes"
IVF = {"params": ivf_params}
IVFPQ = {"params": ivfpq_params}
ALL_LISTS = "nprobe = 8"
SPECTRAL = {"lacks": "sel reconstruct sa_encode", "avoid": "search_and_reconstruct clone"}


ROWS: list[Row] = [
    # -- Flat, all metrics
    row("Flat", lacks=FLAT),
    row("Flat-IP", "Flat", metric="METRIC_INNER_PRODUCT", lacks=FLAT),
    row("Flat-L1", "Flat", metric="METRIC_L1", lacks=FLAT),
    row("Flat-Linf", "Flat", metric="METRIC_Linf", lacks=FLAT),
    row("Flat-Lp", "Flat", metric="METRIC_Lp", tune="metric_arg = 1.5", lacks=FLAT),
    row("Flat-Canberra", "Flat", metric="METRIC_Canberra", lacks=FLAT),
    row("Flat-BrayCurtis", "Flat", metric="METRIC_BrayCurtis", data=positive, lacks=FLAT),
    row("Flat-JensenShannon", "Flat", metric="METRIC_JensenShannon", data=positive, lacks=FLAT),
    row("Flat-Jaccard", "Flat", metric="METRIC_Jaccard", data=positive, lacks=FLAT),
    # -- IVF
    row("IVF8,Flat", tune=ALL_LISTS, **IVF),
    row("IVF8,Flat-nprobe1", "IVF8,Flat", exhaustive=False, params=lambda faiss, sel: ivf_params(faiss, sel, 1)),
    row("IVF8,Flat-IP", "IVF8,Flat", metric="METRIC_INNER_PRODUCT", tune=ALL_LISTS, **IVF),
    row("IVF8,FlatDedup", tune=ALL_LISTS, lacks="range_search search_and_reconstruct reconstruct", **IVF),
    row("IVF8,PQ4np", tune=ALL_LISTS, **IVFPQ),
    row("IVF8,PQ4np-IP", "IVF8,PQ4np", metric="METRIC_INNER_PRODUCT", tune=ALL_LISTS, **IVFPQ),
    row("IVF8,PQ4np-raw", "IVF8,PQ4np", tune=f"{ALL_LISTS}; by_residual = False", **IVFPQ),
    row("IVF8,PQ4x4", tune=ALL_LISTS, **IVFPQ),
    row("IVF8,PQ8x6np", tune=ALL_LISTS, **IVFPQ),
    row("IVF8,PQ4+4", tune=ALL_LISTS, lacks="remove_ids sel", avoid="add_with_ids", two_stage=True, **IVFPQ),
    row("IVF8,SQ8", tune=ALL_LISTS, **IVF),
    row("IVF8,SQ4", tune=ALL_LISTS, **IVF),
    row("IVF8,SQ6-IP", "IVF8,SQ6", metric="METRIC_INNER_PRODUCT", tune=ALL_LISTS, **IVF),
    row("IVF8,SQfp16", tune=ALL_LISTS, **IVF),
    row("IVF8,SQtq4", tune=ALL_LISTS, symmetric=False, **IVF),
    row("IVF8,SQ0", tune=ALL_LISTS, **IVF),
    row("IVF8,EDEN4BIASED", tune=ALL_LISTS, **IVF),
    row("IVF8,PCAR12,SH3c", tune=ALL_LISTS, symmetric=False, **SPECTRAL, **IVF),
    row("IVF8,FlatPanorama5_64", tune=ALL_LISTS, avoid="merge_from clone", **IVF),
    row(
        "IVF8,RaBitQfs2",
        tune=ALL_LISTS,
        symmetric=False,
        two_stage=True,
        avoid="range_search search_and_reconstruct add_sa_codes",
        params=ivf_rabitq_params,
    ),
    row("IVF8,RaBitQ", tune=ALL_LISTS, symmetric=False, params=ivf_rabitq_params),
    row("IVF8,RaBitQ3", tune=ALL_LISTS, symmetric=False, two_stage=True, passes_over=True, params=ivf_rabitq_params),
    row("IVF8_HNSW8,Flat", tune=ALL_LISTS, **IVF),
    row("IVF8(SQ8),Flat", tune=ALL_LISTS, **IVF),
    row("IMI2x4,Flat", tune="nprobe = 64", exhaustive=False, **IVF),
    row("IMI2x4,PQ4np", tune="nprobe = 64", exhaustive=False, **IVFPQ),
    row("IVF8,PQ8x4fs", tune=ALL_LISTS, **FAST_LISTS, **IVF),
    row("IVF8,PQ8x4fs-IP", "IVF8,PQ8x4fs", metric="METRIC_INNER_PRODUCT", tune=ALL_LISTS, **FAST_LISTS, **IVF),
    row("IVF8,PQ8x4fsr", tune=ALL_LISTS, **FAST_LISTS, **IVF),
    row("IVF8,PQ8x4fsr-IP", "IVF8,PQ8x4fsr", metric="METRIC_INNER_PRODUCT", tune=ALL_LISTS, **FAST_LISTS, **IVF),
    # FAISS's packer of single codes knows blocks of 32 only.
    row("IVF8,PQ8x4fsr_64", tune=ALL_LISTS, **FAST_LISTS | {"avoid": f"{FAST_LISTS['avoid']} merge_from remove_ids"}, **IVF),
    # -- codes
    row("PQ8x4fs", **FAST_SCAN),
    row("RQ4x4fs_Nrq2x4", **FAST_SCAN),
    # With other than 1 list to visit FAISS's training reads behind its arrays.
    row("IVF8,RQ4x4fsr_Nrq2x4", exhaustive=False, **FAST_LISTS | {"lacks": "search_and_reconstruct sel"}, **IVF),
    row("PQ8x4fs-IP", "PQ8x4fs", metric="METRIC_INNER_PRODUCT", **FAST_SCAN),
    row("PQ4x4fs_64", **FAST_SCAN | {"avoid": "empty merge_from remove_ids reconstruct search_and_reconstruct"}),
    row(
        "PQ4-polysemous",
        "PQ4",
        tune="polysemous_training.n_iter = 2000; search_type = faiss.IndexPQ.ST_polysemous; polysemous_ht = 14",
        exhaustive=False,
        lacks=PQ,
    ),
    row("PQ4np-IP", "PQ4np", metric="METRIC_INNER_PRODUCT", lacks=PQ),
    row("PQ8x5np", lacks=PQ),
    row("PQ2x10np", lacks=PQ),
    row("PQ4np", lacks=PQ),
    row("SQ8", lacks=CODES),
    row("SQ8-IP", "SQ8", metric="METRIC_INNER_PRODUCT", lacks=CODES),
    row("SQ4", lacks=CODES),
    row("SQ6", lacks=CODES),
    row("SQfp16", lacks=CODES),
    row("SQbf16", lacks=CODES),
    row("SQtqmse4", data=directions, lacks=CODES),
    row("SQtq4", lacks=CODES, symmetric=False, two_stage=True),
    row("SQtq2-IP", "SQtq2", metric="METRIC_INNER_PRODUCT", lacks=CODES),
    row("EDEN2", lacks=CODES, symmetric=False),
    row("FlatL2Panorama4_512", avoid="clone", lacks=f"{CODES} add_sa_codes"),
    row("FlatIPPanorama3_512", metric="METRIC_INNER_PRODUCT", avoid="clone", lacks=f"{CODES} add_sa_codes"),
    row("RaBitQfs4", avoid="empty clone", lacks=f"{CODES} sel range_search add_sa_codes", symmetric=False, two_stage=True),
    row("LSHrt", lacks=f"{CODES} sel", symmetric=False, two_stage=True),
    row("RaBitQ", lacks=CODES, params=rabitq_params, symmetric=False),
    row(
        "RaBitQ4-IP",
        "RaBitQ4",
        metric="METRIC_INNER_PRODUCT",
        lacks=CODES,
        params=rabitq_params,
        symmetric=False,
        two_stage=True,
        passes_over=True,
    ),
    # -- additive codes
    row("RQ3x4", lacks=PQ),
    row("RQ2x4_1x3_Nqint8", lacks=PQ, two_stage=True, symmetric=False),
    row("RQ3x4_Ncqint4-IP", "RQ3x4_Ncqint4", metric="METRIC_INNER_PRODUCT", lacks=PQ),
    row("LSQ3x4_Nfloat", lacks=PQ, avoid=RANDOM),
    row("PRQ2x2x4_Nqint4", lacks=PQ, two_stage=True, symmetric=False),
    row("PLSQ2x2x4", lacks=PQ, avoid=RANDOM),
    row("IVF8,RQ3x4", tune=ALL_LISTS, lacks="sel", avoid=RAW, **IVF),
    row(
        "IVF8,RQ3x4_Nqint8-IP", "IVF8,RQ3x4_Nqint8", metric="METRIC_INNER_PRODUCT", tune=ALL_LISTS, lacks="sel", avoid=RAW, **IVF
    ),
    row("IVF16(RCQ2x2),RQ2x4_1x3", tune="nprobe = 16", lacks="sel", avoid=RAW, **IVF),
    # -- graphs
    row("HNSW8,Flat", lacks=GRAPH, exhaustive=False, params=hnsw_params),
    row("HNSW8,Flat-IP", "HNSW8,Flat", metric="METRIC_INNER_PRODUCT", lacks=GRAPH, exhaustive=False, params=hnsw_params),
    row("HNSW8,SQ8", lacks=GRAPH, exhaustive=False, params=hnsw_params),
    row("NSG8", tune="nsg.search_L = 64", lacks=AT_ONCE, avoid="beyond", exhaustive=False),
    row(
        "NSG8-IP",
        "NSG8",
        metric="METRIC_INNER_PRODUCT",
        tune="nsg.search_L = 64; build_type = 0",
        lacks=AT_ONCE,
        avoid="beyond",
        exhaustive=False,
    ),
    row("NSG8,SQ8", tune="nsg.search_L = 64", lacks=AT_ONCE, avoid="beyond", exhaustive=False),
    Row(
        "NNDescent",
        nn_descent,
        lacks=frozenset(AT_ONCE.split()),
        avoid=frozenset({"beyond"}),
        exhaustive=False,
    ),
    row("HNSW8,PQ4np", lacks=GRAPH, exhaustive=False, params=hnsw_params),
    row(
        "HNSW8,RaBitQ4",
        tune="storage.qb = 8",
        lacks=GRAPH,
        exhaustive=False,
        two_stage=True,
        symmetric=False,
        apart=True,
        params=hnsw_params,
    ),
    # -- wrappers
    row("IDMap,Flat", lacks="add reconstruct search_and_reconstruct sa_encode add_sa_codes"),
    row("IDMap2,Flat", lacks="add sa_encode add_sa_codes"),
    row("IDMap,SQ8", lacks="add reconstruct search_and_reconstruct sa_encode add_sa_codes"),
    row("PCA8,Flat", lacks=f"{FLAT} {PRETRANSFORMED}", params=pretransform_params(plain_params), symmetric=False),
    row(
        "L2norm,Flat", avoid="clone", lacks=f"{FLAT} {PRETRANSFORMED}", params=pretransform_params(plain_params), symmetric=False
    ),
    row("RR8,IVF8,Flat", tune="index.nprobe = 8", lacks=PRETRANSFORMED, params=pretransform_params(ivf_params), symmetric=False),
    row(
        "OPQ4_8,IVF8,PQ4np",
        tune="index.nprobe = 8",
        lacks=PRETRANSFORMED,
        params=pretransform_params(ivfpq_params),
        symmetric=False,
    ),
    row(
        "ITQ8,SQ8",
        avoid="clone",
        lacks=f"{CODES} {PRETRANSFORMED} reconstruct sa_encode search_and_reconstruct",
        params=pretransform_params(plain_params),
        symmetric=False,
    ),
    row("PCAR8,HNSW8,SQ8", lacks=GRAPH, exhaustive=False, params=pretransform_params(hnsw_params), symmetric=False),
    row(
        "IVF8,PQ4np,RFlat",
        tune="base_index.nprobe = 8; k_factor = 4",
        lacks=REFINED,
        params=refine_params(ivfpq_params),
        symmetric=False,
        two_stage=True,
    ),
    row(
        "SQ4,Refine(SQ8)", tune="k_factor = 2", lacks=REFINED, params=refine_params(plain_params), symmetric=False, two_stage=True
    ),
]


class Shelf:
    """What FAISS made of a row, trained and filled once, as the bytes of its file."""

    def __init__(self, of: Row) -> None:
        faiss = importlib.import_module("faiss")
        self.train, self.base, self.queries = of.data(N_TRAIN, 1), of.data(N_BASE, 2), of.data(N_QUERY, 3)
        self.ids = np.arange(N_BASE) * 3 + 1000 if "add" in of.lacks else np.arange(N_BASE)
        index = of.make(faiss)
        index.train(self.train)
        self.trained = faiss.serialize_index(index)
        fill(of, index, self.base, self.ids)
        self.filled = faiss.serialize_index(index)


@functools.cache
def shelf(of: Row) -> Shelf:
    return Shelf(of)


def fill(of: Row, index: Any, x: np.ndarray, ids: np.ndarray) -> None:
    """Add with the ids where the type wants them, else in order."""
    if "add" in of.lacks:
        index.add_with_ids(x, ids)
    else:
        index.add(x)


def trained(faiss: ModuleType, of: Row) -> Any:
    """The row's index, trained by FAISS, empty."""
    return faiss.deserialize_index(shelf(of).trained)


def filled(faiss: ModuleType, of: Row) -> Any:
    """The row's index, trained and filled by FAISS."""
    return faiss.deserialize_index(shelf(of).filled)
