"""The counters that FAISS keeps in global variables, and `cvar`, through which Python sees them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from tsscompat.faiss_compat.attributes import Stated, real, single, size_t


class Stats(Stated):
    """Counters that can be set back to zero and added up; counts that a GPU still works on are waited for when one is read."""

    def _add_later(self, names: tuple[str, ...], counts: Tensor) -> None:
        """Add counts that are on a device, without waiting for them."""
        waiting = self.__dict__.setdefault("_waiting", {})
        key = (names, counts.device)
        waiting[key] = waiting[key] + counts if key in waiting else counts

    def _added(self) -> None:
        """What follows from counters that have grown."""

    def __getattribute__(self, name: str) -> Any:
        if name[0] != "_":
            waiting = super().__getattribute__("__dict__").pop("_waiting", None)
            for (names, _), counts in (waiting or {}).items():
                for one, count in zip(names, counts.tolist()):
                    self.__dict__[one] += count
            if waiting:
                super().__getattribute__("_added")()
        return super().__getattribute__(name)

    def reset(self) -> None:
        """Set every counter to zero."""
        self.__dict__.pop("_waiting", None)
        for name in self._declared:
            if name not in ("thisown", "referenced_objects"):
                setattr(self, name, 0)

    def add(self, other: Stats) -> None:
        """Add another's counts to these."""
        for name in self._declared:
            if name not in ("thisown", "referenced_objects"):
                self.__dict__[name] += other.__dict__[name]


class IndexIVFStats(Stats):
    """What IVF searches did since the last reset."""

    nq = size_t(0, "queries run")
    nlist = size_t(0, "inverted lists scanned")
    ndis = size_t(0, "distances computed")
    nheap_updates = size_t(0, "times a result entered a heap")
    quantization_time = real(0.0, "milliseconds in coarse quantization")
    search_time = real(0.0, "milliseconds in scanning")


class IndexIVFPQStats(Stats):
    """What IVFPQ searches did since the last reset."""

    nrefine = size_t(0, "refines (IVFPQR)")
    n_hamming_pass = size_t(0, "codes that passed the polysemous filter")
    search_cycles = size_t(0)
    refine_cycles = size_t(0)


class IndexPQStats(Stats):
    """What PQ searches did since the last reset."""

    nq = size_t(0)
    ncode = size_t(0)
    n_hamming_pass = size_t(0)


class HNSWStats(Stats):
    """What HNSW searches did since the last reset."""

    n1 = size_t(0, "searches")
    n2 = size_t(0, "searches whose candidate list ran empty")
    ndis = size_t(0, "distances computed")
    nhops = size_t(0, "nodes expanded")

    def combine(self, other: Stats) -> None:
        """Add another's counts to these."""
        self.add(other)


class RaBitQStats(Stats):
    """What staged searches of multi-bit RaBitQ codes did since the last reset."""

    n_1bit = size_t(0, "codes scored by their signs")
    n_refine = size_t(0, "codes then scored by all of their bits")

    def refine_ratio(self) -> float:
        """How many of the codes seen were scored by all of their bits."""
        return self.n_refine / self.n_1bit if self.n_1bit else 0.0


class IndexBinaryHashStats(Stats):
    """What binary hash searches did since the last reset."""

    nq = size_t(0)
    n0 = size_t(0)
    nlist = size_t(0)
    ndis = size_t(0)


class IndexFastScanStats(Stats):
    """Cycle counters of fast-scan searches."""

    t0 = size_t(0)
    t1 = size_t(0)
    t2 = size_t(0)
    t3 = size_t(0)


class PanoramaStats(Stats):
    """How much of the vectors Panorama searches compared, in levels."""

    total_dims_scanned = size_t(0)
    total_dims = size_t(0)
    ratio_dims_scanned = single(1.0, "the first over the second")

    def _added(self) -> None:
        counted = self.__dict__
        counted["ratio_dims_scanned"] = counted["total_dims_scanned"] / counted["total_dims"] if counted["total_dims"] else 1.0

    def reset(self) -> None:
        """Set the counters to zero, and their ratio to 1."""
        super().reset()
        self.ratio_dims_scanned = 1.0

    def add(self, other: Stats) -> None:
        """Add another's counts to these."""
        super().add(other)
        self.ratio_dims_scanned = self.total_dims_scanned / self.total_dims if self.total_dims else 1.0


class _GlobalVariables:
    """FAISS's global variables; assigning to a name that FAISS does not have is an AttributeError."""

    def __init__(self) -> None:
        known: dict[str, Any] = {
            "indexIVF_stats": IndexIVFStats(),
            "indexIVFPQ_stats": IndexIVFPQStats(),
            "indexPQ_stats": IndexPQStats(),
            "hnsw_stats": HNSWStats(),
            "indexBinaryHash_stats": IndexBinaryHashStats(),
            "FastScan_stats": IndexFastScanStats(),
            "indexPanorama_stats": PanoramaStats(),
            "rabitq_stats": RaBitQStats(),
            # Where FAISS switches from loops to BLAS, the sizes of its blocks, and the k from which it collects by reservoir. What is
            # fastest here is chosen from shapes (kernels/numba/screen.py), with the answer of the loops; only a lowered threshold has an
            # effect, on IndexFlat.
            "distance_compute_blas_threshold": 128000,
            "distance_compute_blas_query_bs": 4096,
            "distance_compute_blas_database_bs": 1024,
            "distance_compute_min_k_reservoir": 100,
            "precomputed_table_max_bytes": 1 << 31,
            "index_ivfpq_add_core_o_bs": 32768,
            "index_factory_verbose": 0,
            "index_read_warn_on_null_invlists": True,
            "multi_index_quantizer_search_bs": 32768,
            "product_quantizer_compute_codes_bs": 256 * 1024,
            "index2layer_sa_encode_bs": 32768,
            "rowwise_minmax_sa_encode_bs": 16384,
            "rowwise_minmax_sa_decode_bs": 16384,
            "visited_table_hashset_threshold": 10000000,
            "hamming_batch_size": 65536,
            "bucket_sort_verbose": 0,
            "check_compatible_for_merge_expensive_check": True,
        }
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"FAISS has no global variable {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__:
            raise AttributeError(f"FAISS has no global variable {name!r}")
        self.__dict__[name] = value


cvar = _GlobalVariables()


def _of_cvar(name: str) -> Any:
    return property(lambda module: getattr(cvar, name), lambda module, value: setattr(cvar, name, value))


class Namespace(ModuleType):
    """A module with the global variables that FAISS's stub declares at the top level; reading and assigning there is cvar's."""

    distance_compute_blas_threshold = _of_cvar("distance_compute_blas_threshold")
    distance_compute_blas_query_bs = _of_cvar("distance_compute_blas_query_bs")
    distance_compute_blas_database_bs = _of_cvar("distance_compute_blas_database_bs")
    distance_compute_min_k_reservoir = _of_cvar("distance_compute_min_k_reservoir")
    index_factory_verbose = _of_cvar("index_factory_verbose")


__all__ = [
    "HNSWStats",
    "IndexBinaryHashStats",
    "IndexFastScanStats",
    "IndexIVFPQStats",
    "IndexIVFStats",
    "IndexPQStats",
    "PanoramaStats",
    "RaBitQStats",
    "cvar",
]
