"""Scans of inverted lists: the compiled twins answer as the definitions do, whatever the lists, the masks and the limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsscompat.kernels import ivf, ivf_few, ivf_terms
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import FORMULAS, INNER_PRODUCT, L2

D, NLIST = 13, 20


def ragged(code_size: int, seed: int) -> Ragged:
    """Lists of 0 to 40 rows with unused rows, full of nonsense, between them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, 40, (NLIST,), generator=generator)
    sizes[0] = 0
    rooms = sizes + 5
    offsets = torch.cumsum(rooms, 0) - rooms
    rows = int(rooms.sum())
    codes = torch.randint(0, 256, (rows, code_size), dtype=torch.uint8, generator=generator)
    return Ragged(codes, torch.randperm(rows, generator=generator) * 3, offsets, sizes)


def of_floats(dtype: torch.dtype, seed: int) -> Ragged:
    lists = ragged(D * dtype.itemsize, seed)
    lists.codes.copy_(torch.randn(lists.codes.shape[0], D).to(dtype).view(torch.uint8))
    return lists


def same_top(one, other) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-4)
    assert (one[1] != other[1]).sum() <= 0.02 * one[1].numel(), "all but tied or nearly tied ids"
    assert one[2][:2] == other[2][:2], "lists visited and codes scored"


def same_range(one, other) -> None:
    assert one[0].tolist() == other[0].tolist()
    torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-4)
    assert one[2].tolist() == other[2].tolist()
    assert one[3][:2] == other[3][:2]


SCENES = st.fixed_dictionaries(
    {
        "nq": st.sampled_from([0, 1, 2, 7, 60]),
        "nprobe": st.integers(1, NLIST),
        "k": st.sampled_from([1, 5, 30, 900]),
        "seed": st.integers(0, 1000),
        "masked": st.booleans(),
        "limited": st.booleans(),
        "pairs": st.booleans(),
    }
)


def scene(draw, lists: Ragged):
    torch.manual_seed(draw["seed"])
    x = torch.randn(draw["nq"], D)
    keys = (
        torch.stack([torch.randperm(NLIST)[: draw["nprobe"]] for _ in range(draw["nq"])])
        if draw["nq"]
        else torch.empty(0, draw["nprobe"])
    )
    keys = torch.where(torch.rand(keys.shape) < 0.1, -1, keys.to(torch.int64))
    allowed = torch.rand(lists.ids.shape[0]) < 0.5 if draw["masked"] else None
    limits = torch.randint(0, 30, keys.shape) if draw["limited"] else None
    return x, keys, (allowed, limits, draw["pairs"])


@settings(max_examples=60)
@given(SCENES, st.sampled_from(sorted(FORMULAS)), st.floats(0.3, 3))
def test_vectors(draw, metric, spread):
    lists = of_floats(torch.float32, draw["seed"])
    if metric not in (INNER_PRODUCT, L2):
        lists.codes.copy_(torch.rand(lists.codes.shape[0], D).view(torch.uint8))
    x, keys, options = scene(draw, lists)
    x = x if metric in (INNER_PRODUCT, L2) else x.sigmoid()
    rows = lists.codes.view(torch.float32)
    top = (x, rows, lists, keys, draw["k"], metric, 1.5, *options)
    same_top(ivf.scan_flat(*top), ivf.scan_flat.definition(*top))
    radius = spread * (D if metric == L2 else 1)
    within = (x, rows, lists, keys, radius, metric, 1.5, *options)
    same_range(ivf.within_flat(*within), ivf.within_flat.definition(*within))


@settings(max_examples=60)
@given(
    SCENES,
    st.sampled_from([(8, 16), (8, 37), (4, 7), (4, 8), (5, 6), (12, 3), (16, 2)]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_tables(draw, shape, per_pair, with_terms, largest):
    nbits, parts = shape
    lists = ragged((nbits * parts + 7) // 8, draw["seed"])
    _, keys, options = scene(draw, lists)
    tables = torch.randn(keys.numel() if per_pair else draw["nq"], parts, 1 << nbits)
    given_ = (tables, torch.randn(keys.shape), torch.randn(lists.ids.shape[0]) if with_terms else None, nbits, lists, keys)
    same_top(
        ivf.scan_tables(*given_, draw["k"], largest, *options), ivf.scan_tables.definition(*given_, draw["k"], largest, *options)
    )
    same_range(ivf.within_tables(*given_, 0.5, largest, *options), ivf.within_tables.definition(*given_, 0.5, largest, *options))


def affine(bits: int) -> ivf.Affine:
    return (
        ivf.Affine(bits, torch.randn(D), torch.rand(D) * 0.1) if bits < 16 else ivf.Affine(bits, torch.empty(0), torch.empty(0))
    )


SIZES = {8: D, 6: (6 * D + 7) // 8, 4: (D + 1) // 2}


@settings(max_examples=60)
@given(SCENES, st.sampled_from([8, 6, 4, 16, 17]), st.sampled_from([L2, INNER_PRODUCT]), st.booleans())
def test_scalars(draw, bits, metric, residual):
    lists = (
        ragged(SIZES[bits], draw["seed"])
        if bits < 16
        else of_floats(torch.float16 if bits == 16 else torch.bfloat16, draw["seed"])
    )
    x, keys, options = scene(draw, lists)
    around = (torch.randn(NLIST, D), torch.randn(keys.shape)) if residual else (None, None)
    given_ = (x, affine(bits), *around, lists, keys)
    same_top(
        ivf.scan_affine(*given_, draw["k"], metric, *options), ivf.scan_affine.definition(*given_, draw["k"], metric, *options)
    )
    same_range(ivf.within_affine(*given_, 4.0, metric, *options), ivf.within_affine.definition(*given_, 4.0, metric, *options))


@settings(max_examples=30)
@given(
    st.sampled_from([1, 3, 17]),
    st.integers(1, NLIST + 4),
    st.sampled_from([L2, INNER_PRODUCT]),
    st.booleans(),
    st.integers(0, 99),
)
def test_few_queries_in_one_call(nq, nprobe, metric, residual, seed):
    torch.manual_seed(seed)
    x, centers = torch.randn(nq, D), torch.randn(NLIST, D)
    nprobe = min(nprobe, NLIST)
    lists = of_floats(torch.float32, seed)
    given_ = (x, centers, nprobe, lists.codes.view(torch.float32), lists, 9, metric)
    same_top(ivf_few.few_flat(*given_), ivf_few.few_flat.definition(*given_))
    lists = ragged(SIZES[8], seed)
    given_ = (x, centers, nprobe, affine(8), residual, lists, 9, metric)
    same_top(ivf_few.few_affine(*given_), ivf_few.few_affine.definition(*given_))
    lists = ragged(1, seed)
    terms = torch.randn(lists.ids.shape[0]) if residual else None
    given_ = (
        x,
        centers,
        nprobe,
        torch.randn(1, D, 256),
        8,
        not residual,
        -2.0,
        torch.randn(D) if residual else None,
        terms,
        lists,
        9,
        metric,
    )
    same_top(ivf_few.few_product(*given_), ivf_few.few_product.definition(*given_))


@pytest.mark.parametrize(("nbits", "parts", "d"), [(8, 1, 4), (8, 4, 16), (4, 3, 9), (10, 2, 6)])
def test_terms_tables_and_scores(nbits, parts, d):
    torch.manual_seed(1)
    lists = ragged((nbits * parts + 7) // 8, 4)
    centroids, centers = torch.randn(parts, 1 << nbits, d // parts), torch.randn(NLIST, d)
    one, other = torch.zeros(lists.ids.shape[0]), torch.zeros(lists.ids.shape[0])
    given_ = (lists.codes, centroids, nbits, centers, lists.offsets, lists.sizes)
    ivf_terms.product_terms(*given_, one)
    ivf_terms.product_terms.definition(*given_, other)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    x, transposed = torch.randn(5, d), centroids.permute(0, 2, 1).contiguous()
    for metric in (L2, INNER_PRODUCT):
        for shift in (None, torch.randn(d)):
            given_ = (x, transposed, shift, metric, -2.0)
            torch.testing.assert_close(
                ivf_terms.query_tables(*given_), ivf_terms.query_tables.definition(*given_), rtol=1e-4, atol=1e-4
            )
        keys = torch.randint(-1, NLIST, (5, 3))
        given_ = (x, centers, keys, metric)
        torch.testing.assert_close(
            ivf_terms.list_scores(*given_), ivf_terms.list_scores.definition(*given_), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
def test_an_answer_does_not_depend_on_its_batch(metric):
    lists = of_floats(torch.float32, 3)
    rows = lists.codes.view(torch.float32)
    x = torch.randn(300, D)
    keys = torch.stack([torch.randperm(NLIST)[:9] for _ in range(300)])
    together = ivf.scan_flat(x, rows, lists, keys, 5, metric)
    for i in range(0, 300, 37):
        alone = ivf.scan_flat(x[i : i + 1], rows, lists, keys[i : i + 1], 5, metric)
        assert torch.equal(alone[0][0], together[0][i]) and torch.equal(alone[1][0], together[1][i])
