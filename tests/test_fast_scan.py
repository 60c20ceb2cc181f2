"""Fast scan beside FAISS: the same blocks, the same tables of bytes, the same answers; what only tsscompat does."""

from __future__ import annotations

import copy
import pickle

import faiss
import numpy as np
import pytest
from cases import clusters
from compare import assert_same_neighbours, assert_same_ranges

import tsscompat

D, N = 16, 700
L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
TRAIN, BASE, QUERIES = clusters(900, 1), clusters(N, 2), clusters(9, 3)


def both(index):
    """An index of FAISS's and the same read by tsscompat."""
    return index, tsscompat.deserialize_index(faiss.serialize_index(index))


def plain(kind: str, metric: int = L2):
    index = faiss.index_factory(D, kind, metric)
    index.train(TRAIN)
    index.add(BASE)
    return index


@pytest.mark.parametrize("bbs", [32, 64])
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("parts", [8, 16])
def test_codes_are_packed_as_faiss_packs_them_and_searched_alike(parts, metric, bbs):
    theirs, ours = both(plain(f"PQ{parts}x4", metric))
    there, here = faiss.IndexPQFastScan(theirs, bbs), tsscompat.IndexPQFastScan(ours, bbs)
    np.testing.assert_array_equal(tsscompat.vector_to_array(here.codes), faiss.vector_to_array(there.codes))
    np.testing.assert_array_equal(here.reconstruct_n(0, N), ours.reconstruct_n(0, N))
    for implem in (0, 2, 3, 4, 14, 15, *((12, 13) if bbs == 32 else ())):
        there.implem = here.implem = implem
        for k in (1, 10, 40):
            assert_same_neighbours(there.search(QUERIES, k), here.search(QUERIES, k))
    for implem in (1, 5, 20):
        here.implem = implem
        with pytest.raises(RuntimeError):
            here.search(QUERIES, 3)


def test_the_original_codes_are_not_kept():
    ours = both(plain("PQ8x4"))[1]
    index = tsscompat.IndexPQFastScan(ours)
    assert index.orig_codes is not None
    del ours
    index.implem = 4
    assert index.orig_codes is None
    with pytest.raises(RuntimeError, match="was made from"):
        index.search(QUERIES, 3)


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("residual", [False, True])
def test_lists_are_searched_alike(metric, residual):
    quantizer = faiss.IndexFlat(D, metric)
    index = faiss.IndexIVFPQ(quantizer, D, 12, 8, 4, metric)
    index.by_residual = residual
    index.train(TRAIN)
    index.add(BASE)
    theirs, ours = both(index)
    there, here = faiss.IndexIVFPQFastScan(theirs), tsscompat.IndexIVFPQFastScan(ours)
    there.nprobe = here.nprobe = 5
    for table in (0, 1):
        if table and residual and metric == L2:
            there.precompute_table()
            here.precompute_table()
            assert here.use_precomputed_table == there.use_precomputed_table == 1
            ours_table, their_table = (
                m.AlignedTable_to_array(i.precomputed_table) for m, i in ((tsscompat, here), (faiss, there))
            )
            np.testing.assert_allclose(ours_table, their_table, rtol=1e-4, atol=1e-4)
        for implem in (0, 1, 2, 10, 11, 12, 13, 14, 15, 110, 112):
            there.implem = here.implem = implem
            assert_same_neighbours(there.search(QUERIES, 10), here.search(QUERIES, 10))
        # A batch is scanned list by list, a few queries are not.
        there.implem = here.implem = 0
        many = clusters(200, 5)
        assert_same_neighbours(there.search(many, 30), here.search(many, 30))
    keys = np.tile(np.array([[3, -1, 0, 7, 2]]), (len(QUERIES), 1))
    gaps = np.linspace(1, 2, keys.size, dtype=np.float32).reshape(keys.shape)
    assert_same_neighbours(there.search_preassigned(QUERIES, 6, keys, gaps), here.search_preassigned(QUERIES, 6, keys, gaps))


@pytest.mark.parametrize("metric", [L2, IP])
def test_of_ties_with_the_last_result_the_first_that_came_stay(metric):
    index = faiss.index_factory(D, "IVF8,PQ8x4fs", metric)
    index.train(TRAIN)
    # Every vector is there seven times, under ids in no order.
    ids = np.random.default_rng(4).permutation(7 * N)
    index.add_with_ids(np.tile(BASE, (7, 1)), ids)
    theirs, ours = both(index)
    theirs.nprobe = ours.nprobe = 5
    many = clusters(200, 5)
    for k in (21, 60, 300):
        (there, named), (here, labels) = theirs.search(many, k), ours.search(many, k)
        np.testing.assert_allclose(here, there, rtol=1e-5)
        np.testing.assert_array_equal(np.sort(labels), np.sort(named))


@pytest.mark.parametrize("metric", [L2, IP])
def test_ranges_agree_where_faiss_does_not_wrap_around(metric):
    theirs, ours = both(plain("IVF12,PQ8x4fs", metric))
    theirs.nprobe = ours.nprobe = 4
    distances = theirs.search(QUERIES, 12)[0]
    for q in range(len(QUERIES)):
        # FAISS counts in 16 bits: a radius nearer than a query's nearest gives it everything.
        radius = float(distances[q, 6])
        asked = QUERIES[q : q + 1]
        # On the radius itself a sum may fall to either side, and a unit of the sums is half a unit of distance.
        assert_same_ranges(theirs.range_search(asked, radius), ours.range_search(asked, radius), radius, 1e-3, 1.0)
    none = ours.range_search(QUERIES, -1e6 if metric == L2 else 1e9)
    assert none[0].tolist() == [0] * (len(QUERIES) + 1)
    every = ours.range_search(QUERIES[:1], 1e6 if metric == L2 else -1e9)
    reached = ours.search(QUERIES[:1], N)[1]
    assert set(every[2].tolist()) == set(reached[reached >= 0].tolist())


def test_limits_and_selectors_of_lists():
    ours = both(plain("IVF12,PQ8x4fs"))[1]
    sizes = np.array([ours.invlists.list_size(i) for i in range(12)])
    keys = ours.quantizer.search(QUERIES, 6)[1]
    for lists in (1, 2):
        params = tsscompat.SearchParametersIVF(nprobe=6, max_lists_num=lists)
        found = ours.search(QUERIES, 500, params=params)[1]
        np.testing.assert_array_equal((found >= 0).sum(1), sizes[keys[:, :lists]].sum(1))
    # A budget ends the search with the list that uses it up.
    budget = tsscompat.SearchParametersIVF(nprobe=6, max_codes=int(sizes[keys[0, 0]]) + 1)
    assert (ours.search(QUERIES[:1], 500, params=budget)[1] >= 0).sum() == sizes[keys[0, :2]].sum()
    few = tsscompat.SearchParametersIVF(nprobe=6, sel=tsscompat.IDSelectorRange(10, 30))
    found = ours.search(QUERIES, 20, params=few)[1]
    assert (found[found >= 0] >= 10).all() and (found < 30).all() and (found >= 0).any()
    ours.implem = 12
    with pytest.raises(RuntimeError):
        ours.search(QUERIES, 3, params=budget)
    with pytest.raises(RuntimeError):
        ours.range_search(QUERIES, 1.0, params=budget)


def test_lists_in_blocks_hold_what_lists_hold():
    index = both(plain("IVF12,PQ8x4fs"))[1]
    flat = tsscompat.index_factory(D, "IVF12,PQ8x4np")
    flat.quantizer, flat.pq, flat.is_trained, flat.by_residual = index.quantizer, index.pq, True, False
    flat.add(BASE)
    rng = np.random.default_rng(0)
    for _ in range(3):
        gone = rng.choice(N, 60, replace=False)
        more = clusters(50, int(gone[0]))
        for i in (index, flat):
            i.remove_ids(gone)
            i.add_with_ids(more, 1000 + np.arange(50) + int(gone[1]))
    assert index.ntotal == flat.ntotal
    for list_no in range(12):
        n = index.invlists.list_size(list_no)
        ids = [tsscompat.rev_swig_ptr(i.invlists.get_ids(list_no), n) for i in (index, flat)]
        np.testing.assert_array_equal(*ids)
        blocks = tsscompat.rev_swig_ptr(index.invlists.get_codes(list_no), -(-n // 32) * index.invlists.block_size)
        codes = tsscompat.rev_swig_ptr(flat.invlists.get_codes(list_no), n * 4).reshape(n, 4)
        packer = index.get_CodePacker()
        for i in range(0, n, 7):
            np.testing.assert_array_equal(packer.unpack_1(blocks.reshape(-1, packer.block_size), i), codes[i])
    for maps in (tsscompat.DirectMap.Hashtable, tsscompat.DirectMap.NoMap):
        index.set_direct_map_type(maps)
    for duplicate in (copy.deepcopy(index), pickle.loads(pickle.dumps(index)), tsscompat.clone_index(index)):
        np.testing.assert_array_equal(duplicate.search(QUERIES, 5)[1], index.search(QUERIES, 5)[1])


def test_one_vector_at_a_time():
    index, whole = (tsscompat.deserialize_index(faiss.serialize_index(plain("IVF12,PQ8x4fs_64"))) for _ in range(2))
    index.reset()
    for i in range(300):
        index.add(BASE[i : i + 1])
    whole.remove_ids(np.arange(300, N))
    index.nprobe = whole.nprobe = 12
    np.testing.assert_array_equal(index.search(QUERIES, 7)[0], whole.search(QUERIES, 7)[0])


@pytest.mark.parametrize(
    "key, metric",
    [("RQ4x4fs_Nrq2x4", L2), ("RQ5x4fs", IP), ("PRQ2x2x4fs_Nlsq2x4", L2), ("IVF8,RQ4x4fsr_Nrq2x4", L2), ("IVF8,PRQ2x2x4fsr", IP)],
)
def test_additive_codes(key, metric):
    theirs, ours = both(plain(key, metric))
    np.testing.assert_array_equal(tsscompat.serialize_index(ours), faiss.serialize_index(theirs))
    if key.startswith("IVF"):
        theirs.nprobe = ours.nprobe = 3
    for rescale in (False, True):
        # With an even number of parts FAISS scales both parts of the norm.
        theirs.rescale_norm = ours.rescale_norm = rescale
        theirs.norm_scale = ours.norm_scale = 3
        assert_same_neighbours(theirs.search(QUERIES, 10), ours.search(QUERIES, 10))


def test_wrong_kinds_are_refused():
    for make in (
        lambda: tsscompat.IndexPQFastScan(D, 8, 8),
        lambda: tsscompat.IndexPQFastScan(D, 8, 4, L2, 48),
        lambda: tsscompat.index_factory(D, "RQ4x4fs"),
        lambda: tsscompat.index_factory(D, "RQ4x4fs_Nrq2x4", IP),
        lambda: tsscompat.IndexIVFPQFastScan(tsscompat.IndexFlatL2(D), D, 4, 8, 4, tsscompat.METRIC_L1),
    ):
        with pytest.raises(RuntimeError):
            make()


@pytest.mark.parametrize("key", ["PQ8x4fs", "IVF12,PQ8x4fs"])
def test_hostile_files_are_refused(key):
    good = faiss.serialize_index(plain(key))
    refused = 0
    for at in range(0, len(good), max(1, len(good) // 300)):
        bad = good.copy()
        bad[at] ^= 0x81
        try:
            index = tsscompat.deserialize_index(bad)
            labels = index.search(QUERIES[:2], 4)[1]
            assert labels.shape == (2, 4)
        except RuntimeError:
            refused += 1
    assert refused
    with pytest.raises(RuntimeError):
        tsscompat.deserialize_index(good[:-1])
