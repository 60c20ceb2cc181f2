"""Search parameters: what one search uses in place of the index's own settings.

They are made with keywords, or made empty and filled: `SearchParametersIVF(nprobe=8, sel=selector)`.
"""

from __future__ import annotations

from typing import Any

from tsscompat.faiss_compat.attributes import Stated, boolean, byte, child, integer, single, size_t


class SearchParameters(Stated):
    """What every search takes: a selector of the ids to consider."""

    sel = child(None, "only ids that this selector has are considered")

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            if name not in self._declared:
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}")
            setattr(self, name, value)


class SearchParametersIVF(SearchParameters):
    """Parameters of a search in inverted lists."""

    nprobe = size_t(1, "lists visited for each query")
    max_codes = size_t(0, "codes visited for each query at most (0: no limit)")
    max_lists_num = size_t(0, "fast scan: lists visited at most (0: no limit)")
    ensure_topk_full = boolean(False, "small budgets still visit at least k codes")
    max_empty_result_buckets = size_t(0, "range search: stop after so many lists without a result (0: never)")
    quantizer_params = child(None, "parameters of the coarse quantizer's search")
    inverted_list_context = child(None, "handed to the inverted lists")


IVFSearchParameters = SearchParametersIVF


class IVFPQSearchParameters(SearchParametersIVF):
    """Parameters of a search in PQ-coded inverted lists."""

    scan_table_threshold = size_t(0, "lists shorter than this are scanned without a table")
    polysemous_ht = integer(0, "Hamming threshold of the polysemous filter (0: off)")


class IVFSQTurboQSearchParameters(SearchParametersIVF):
    """Parameters of a search in TurboQuant codes."""

    qb = byte(0, "bits that a query is rounded to for products with codes of one bit (0: none)")
    int_qjl = boolean(False, "its projection is rounded as well")


class RaBitQSearchParameters(SearchParameters):
    """Parameters of a search in RaBitQ codes."""

    qb = byte(4, "bits that queries are rounded to (0: none)")
    centered = boolean(False, "queries are rounded symmetrically around 0")


class IVFRaBitQSearchParameters(SearchParametersIVF):
    """Parameters of a search in RaBitQ-coded inverted lists."""

    qb = byte(4, "bits that queries are rounded to (0: none)")
    centered = boolean(False, "queries are rounded symmetrically around 0")


class SearchParametersHNSW(SearchParameters):
    """Parameters of a search in an HNSW graph."""

    efSearch = integer(16, "nodes explored")
    check_relative_distance = boolean(True, "stop when the candidates are worse than the results")
    bounded_queue = boolean(True, "keep at most efSearch candidates")


class SearchParametersPQ(SearchParameters):
    """Parameters of a search in PQ codes."""

    search_type = integer(0, "one of IndexPQ.ST_*")
    polysemous_ht = integer(0, "Hamming threshold of the polysemous filter")


class SearchParametersPreTransform(SearchParameters):
    """Parameters of the index behind the transforms."""

    index_params = child(None, "parameters of the wrapped index's search")


class IndexRefineSearchParameters(SearchParameters):
    """Parameters of a search with a second pass."""

    k_factor = single(1.0, "candidates for each result")
    base_index_params = child(None, "parameters of the first pass")


class SearchParametersResidualCoarseQuantizer(SearchParameters):
    """Parameters of a search in a residual coarse quantizer."""

    beam_factor = single(4.0, "beam size for each result (negative: exact)")


def search_params(params: SearchParameters | None) -> SearchParameters | None:
    """The parameters of a search as they came; what is something else is refused by its type."""
    if params is not None and not isinstance(params, SearchParameters):
        raise TypeError(f"expected search parameters, got {type(params).__name__}")
    return params


def selector_of(params: SearchParameters | None) -> Any:
    """The selector among the parameters of a search, if any."""
    return None if search_params(params) is None else params.sel  # type: ignore[union-attr]


__all__ = [
    "IVFPQSearchParameters",
    "IVFRaBitQSearchParameters",
    "IVFSQTurboQSearchParameters",
    "IVFSearchParameters",
    "IndexRefineSearchParameters",
    "RaBitQSearchParameters",
    "SearchParameters",
    "SearchParametersHNSW",
    "SearchParametersIVF",
    "SearchParametersPQ",
    "SearchParametersPreTransform",
    "SearchParametersResidualCoarseQuantizer",
]
