"""Using an IVF index's parts by hand: entries and searches with the lists given, another quantizer, another order of lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsscompat.errors import expect
from tsscompat.faiss_compat.contrib.inspect_tools import get_invlist_sizes
from tsscompat.faiss_compat.downcast import kinds
from tsscompat.faiss_compat.pretransform import IndexPreTransform
from tsscompat.faiss_compat.vector_arrays import swig_ptr

Table = np.ndarray[Any, Any]


def _dimension(index_ivf: Any, x: Any) -> int:
    """The dimension of vectors or, for a binary index, of bit strings."""
    return int(x.shape[1]) * (8 if "IndexBinaryIVF" in kinds(index_ivf) else 1)


def _coarse(index_ivf: Any, x: Any, list_nos: Any, coarse_dis: Any) -> Any:
    """Coarse distances of the right shape, zeros where none are given; only IVFPQ with residuals needs true ones."""
    shape = (len(x), index_ivf.nprobe)
    expect(_dimension(index_ivf, x) == index_ivf.d, "expected dimension {}, got {}", index_ivf.d, _dimension(index_ivf, x))
    expect(tuple(list_nos.shape) == shape, "expected lists of shape {}, got {}", shape, tuple(list_nos.shape))
    if coarse_dis is None:
        return np.zeros(shape, dtype=np.int32 if "IndexBinaryIVF" in kinds(index_ivf) else np.float32)
    expect(tuple(coarse_dis.shape) == shape, "expected distances of shape {}, got {}", shape, tuple(coarse_dis.shape))
    return coarse_dis


def add_preassigned(index_ivf: Any, x: Any, a: Any, ids: Any = None) -> None:
    """Add vectors whose lists are known."""
    n = len(x)
    expect(tuple(a.shape) == (n,) and (ids is None or tuple(ids.shape) == (n,)), "expected lists and ids of shape ({},)", n)
    expect(_dimension(index_ivf, x) == index_ivf.d, "expected dimension {}, got {}", index_ivf.d, _dimension(index_ivf, x))
    index_ivf.add_core(n, swig_ptr(x), None if ids is None else swig_ptr(ids), swig_ptr(a))


def search_preassigned(index_ivf: Any, xq: Any, k: int, list_nos: Any, coarse_dis: Any = None) -> Any:
    """Search given lists, also behind a transform."""
    if isinstance(index_ivf, IndexPreTransform):
        expect(len(index_ivf.chain) == 1, "expected one transform, got {}", len(index_ivf.chain))
        xq, index_ivf = index_ivf.apply_chain(xq), index_ivf.index
    return index_ivf.search_preassigned(xq, k, list_nos, _coarse(index_ivf, xq, list_nos, coarse_dis))


def range_search_preassigned(index_ivf: Any, x: Any, radius: float, list_nos: Any, coarse_dis: Any = None) -> Any:
    """Range search in given lists."""
    return index_ivf.range_search_preassigned(x, radius, list_nos, _coarse(index_ivf, x, list_nos, coarse_dis))


def replace_ivf_quantizer(index_ivf: Any, new_quantizer: Any) -> Any:
    """Put another coarse quantizer in place, filled with the centroids if it is empty; returns the old one."""
    old = index_ivf.quantizer
    if new_quantizer.ntotal == 0:
        centroids = old.reconstruct_n()
        new_quantizer.train(centroids)
        new_quantizer.add(centroids)
    else:
        expect(new_quantizer.ntotal == index_ivf.nlist, "expected {} centroids, got {}", index_ivf.nlist, new_quantizer.ntotal)
    index_ivf.own_fields = False
    index_ivf.quantizer = new_quantizer
    return old


def permute_invlists(index_ivf: Any, perm: Table) -> None:
    """Renumber the lists, centroids included: list i becomes what list perm[i] was."""
    nlist = index_ivf.nlist
    order = np.ascontiguousarray(perm, dtype=np.int64)
    expect(order.shape == (nlist,) and index_ivf.quantizer.ntotal == nlist, "expected a permutation of {} lists", nlist)
    expect(bool((np.sort(order) == np.arange(nlist)).all()), "not a permutation")
    index_ivf.quantizer.permute_entries(order)
    index_ivf.invlists.permute_invlists(swig_ptr(order))


def sort_invlists_by_size(index_ivf: Any) -> None:
    """Renumber the lists by rising size."""
    permute_invlists(index_ivf, np.argsort(get_invlist_sizes(index_ivf.invlists)))
