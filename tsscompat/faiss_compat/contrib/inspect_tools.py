"""What is inside an index, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import Stated
from tsscompat.faiss_compat.transforms import LinearTransform
from tsscompat.faiss_compat.vector_arrays import copy_array_to_vector, rev_swig_ptr, vector_to_array

Table = np.ndarray[Any, Any]


def get_invlist(invlists: Any, l: int) -> tuple[Table, Table]:
    """The ids and codes of a list; of lists in blocks (blocks, bytes of a code, vectors of a block), as the blocks have them."""
    n = invlists.list_size(l)
    if invlists.code_size == invlists.INVALID_CODE_SIZE:
        per_block, size = invlists.n_per_block, invlists.block_size
        shape = (n + per_block - 1) // per_block, size // per_block, per_block
        blocks = rev_swig_ptr(invlists.get_codes(l), shape[0] * size).reshape(shape).copy()
        return rev_swig_ptr(invlists.get_ids(l), n).copy(), blocks
    if n == 0:
        return np.empty(0, dtype=np.int64), np.empty((0, invlists.code_size), dtype=np.uint8)
    ids = rev_swig_ptr(invlists.get_ids(l), n).copy()
    codes = rev_swig_ptr(invlists.get_codes(l), n * invlists.code_size).copy()
    return ids, codes.reshape(n, invlists.code_size)


def get_invlist_sizes(invlists: Any) -> Table:
    """How many entries each list has."""
    return np.array([invlists.list_size(i) for i in range(invlists.nlist)], dtype=np.int64)


def print_object_fields(obj: Any) -> None:
    """Print the state of an object."""
    check(isinstance(obj, Stated), "expected an object of this package, got {}", type(obj).__name__)
    for name in obj._declared:
        print(f"{name} = {getattr(obj, name, None)}")


def get_pq_centroids(pq: Any) -> Table:
    """The centroids of a product quantizer, (M, ksub, dsub)."""
    return vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)


def get_LinearTransform_matrix(pca: Any) -> tuple[Table, Table]:
    """Matrix and bias of a linear transform."""
    return vector_to_array(pca.A).reshape(pca.d_out, pca.d_in), vector_to_array(pca.b)


def make_LinearTransform_matrix(A: Table, b: Table | None = None) -> LinearTransform:
    """A linear transform of a matrix and, where given, a bias."""
    d_out, d_in = A.shape
    check(b is None or b.shape == (d_out,), "expected a bias of shape ({},)", d_out)
    lt = LinearTransform(d_in, d_out, b is not None)
    copy_array_to_vector(np.asarray(A, dtype=np.float32).ravel(), lt.A)
    if b is not None:
        copy_array_to_vector(np.asarray(b, dtype=np.float32), lt.b)
    lt.is_trained = True
    lt.set_is_orthonormal()
    return lt


def get_additive_quantizer_codebooks(aq: Any) -> list[Table]:
    """The codebooks of an additive quantizer."""
    codebooks = vector_to_array(aq.codebooks).reshape(-1, aq.d)
    bounds = vector_to_array(aq.codebook_offsets)
    return [codebooks[bounds[i] : bounds[i + 1]] for i in range(aq.M)]


def get_flat_data(index: Any) -> Table:
    """The vectors of a flat index."""
    return vector_to_array(index.codes).view(np.float32).reshape(index.ntotal, index.d)


def get_flat_codes(index_flat: Any) -> Table:
    """The codes of an index of flat codes."""
    return vector_to_array(index_flat.codes).reshape(index_flat.ntotal, index_flat.code_size)


def get_NSG_neighbors(nsg: Any) -> Table:
    """The neighbours of each vector in an NSG graph."""
    graph = nsg.get_final_graph()
    return rev_swig_ptr(graph.data, graph.N * graph.K).copy().reshape(graph.N, graph.K)
