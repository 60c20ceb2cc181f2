"""FAISS's module-level constants."""

from __future__ import annotations

from tsscompat.errors import check

# The metrics of kernels/metrics.py, under FAISS's names.
METRIC_INNER_PRODUCT = 0
METRIC_L2 = 1
METRIC_L1 = 2
METRIC_Linf = 3
METRIC_Lp = 4
METRIC_Canberra = 20
METRIC_BrayCurtis = 21
METRIC_JensenShannon = 22
METRIC_Jaccard = 23
METRIC_NaNEuclidean = 24
METRIC_GOWER = 25
METRICS = (0, 1, 2, 3, 4, 20, 21, 22, 23, 24, 25)

MetricType = int

# NumericType of add_ex and friends.
Float32 = 0
Float16 = 1
UInt8 = 2
Int8 = 3
NumericType = int

# ApproxTopK_mode_t: how many of the best may be missed.
EXACT_TOPK = 0
APPROX_TOPK_BUCKETS_B32_D2, APPROX_TOPK_BUCKETS_B8_D3, APPROX_TOPK_BUCKETS_B16_D2, APPROX_TOPK_BUCKETS_B8_D2 = range(1, 5)


def is_similarity_metric(metric_type: int) -> bool:
    """Whether larger is better."""
    return metric_type in (METRIC_INNER_PRODUCT, METRIC_Jaccard)


def metric_type_from_int(x: int) -> int:
    """The metric of that number; a RuntimeError where there is none."""
    check(x in METRICS, "invalid metric type {}", x)
    return x


def metric_type_count() -> int:
    """How many metrics there are."""
    return len(METRICS)


def get_numeric_type_size(numeric_type: int) -> int:
    """Bytes of a number of a type."""
    sizes = {Float32: 4, Float16: 2, UInt8: 1, Int8: 1}
    check(numeric_type in sizes, "invalid numeric type {}", numeric_type)
    return sizes[numeric_type]


__all__ = [name for name in dict(globals()) if name.startswith(("METRIC_", "APPROX_TOPK_"))] + [
    "EXACT_TOPK",
    "Float16",
    "Float32",
    "Int8",
    "MetricType",
    "NumericType",
    "UInt8",
    "get_numeric_type_size",
    "is_similarity_metric",
    "metric_type_count",
    "metric_type_from_int",
]
