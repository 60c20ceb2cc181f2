"""Additive quantizers against FAISS: codebooks from the same seeds, the same codes, norms and tables; their coarse quantizers and files."""

from __future__ import annotations

import struct

import faiss as oracle
import numpy as np
import pytest
import torch
from cases import clusters
from hypothesis import given, settings
from hypothesis import strategies as st
from tsscompat.contrib.inspect_tools import get_additive_quantizer_codebooks
from tsscompat.contrib.torch import quantization

import tsscompat
from tsscompat.algorithms import additive
from tsscompat.algorithms.draws import Draws

D = 8
AQ = oracle.AdditiveQuantizer
X, XQ = clusters(600, 1, D), clusters(20, 2, D)
SEARCH_TYPES = range(AQ.ST_count)
KINDS = {
    "RQ": lambda f, st=0: f.ResidualQuantizer(D, 3, 4, st),
    "LSQ": lambda f, st=0: f.LocalSearchQuantizer(D, 3, 4, st),
    "PRQ": lambda f, st=0: f.ProductResidualQuantizer(D, 2, 2, 4, st),
    "PLSQ": lambda f, st=0: f.ProductLocalSearchQuantizer(D, 2, 2, 4, st),
}


def trained(faiss, make, st=0):
    """A quantizer, trained without the rotation whose last bits depend on LAPACK."""
    aq = make(faiss, st)
    parts = [aq.subquantizer(i) for i in range(aq.nsplits)] if hasattr(aq, "nsplits") else [aq]
    for part in parts:
        part = faiss.downcast_AdditiveQuantizer(part) if faiss is oracle else part
        if hasattr(part, "train_type"):
            part.train_type = faiss.ResidualQuantizer.Train_default
        else:
            part.train_iters = 4
    aq.train(X)
    return aq


@pytest.mark.parametrize("kind", KINDS)
def test_codebooks_and_codes_are_those_of_faiss(kind):
    mine, theirs = trained(tsscompat, KINDS[kind]), trained(oracle, KINDS[kind])
    np.testing.assert_allclose(
        tsscompat.vector_to_array(mine.codebooks), oracle.vector_to_array(theirs.codebooks), rtol=1e-4, atol=1e-4
    )
    codes = theirs.compute_codes(X)
    assert (mine.compute_codes(X) == codes).all(axis=1).mean() > 0.99
    np.testing.assert_allclose(mine.decode(codes), theirs.decode(codes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flags", ["Train_progressive_dim", "Train_top_beam", "Train_refine_codebook"])
def test_ways_of_training_leave_no_more_than_plain_residuals(flags):
    errors = []
    for flag in (tsscompat.ResidualQuantizer.Train_default, getattr(tsscompat.ResidualQuantizer, flags)):
        rq = tsscompat.ResidualQuantizer(D, 3, 4)
        rq.train_type = flag
        rq.train(X)
        errors.append(((rq.decode(rq.compute_codes(X)) - X) ** 2).sum())
    assert errors[1] < errors[0] * (1.0 if flags == "Train_refine_codebook" else 1.1)


def test_codebooks_of_several_sizes():
    sizes = [5, 3, 4]
    mine = tsscompat.ResidualQuantizer(D, tsscompat.UInt64Vector(sizes), AQ.ST_norm_qint8)
    vector = oracle.UInt64Vector()
    oracle.copy_array_to_vector(np.array(sizes, np.uint64), vector)
    theirs = oracle.ResidualQuantizer(D, vector, AQ.ST_norm_qint8)
    for aq in (mine, theirs):
        aq.train_type = oracle.ResidualQuantizer.Train_default
        aq.train(X)
    assert (mine.tot_bits, mine.norm_bits, mine.code_size) == (theirs.tot_bits, theirs.norm_bits, theirs.code_size) == (20, 8, 3)
    assert list(mine.codebook_offsets) == [0, 32, 40, 56]
    assert (mine.compute_codes(X) == theirs.compute_codes(X)).all(axis=1).mean() > 0.99
    books = get_additive_quantizer_codebooks(mine)
    assert [len(book) for book in books] == [32, 8, 16]


@pytest.mark.parametrize("search_type", SEARCH_TYPES)
def test_norms_are_written_as_faiss_writes_them(search_type):
    mine, theirs = trained(tsscompat, KINDS["RQ"], search_type), trained(oracle, KINDS["RQ"], search_type)
    np.testing.assert_allclose([mine.norm_min, mine.norm_max], [theirs.norm_min, theirs.norm_max], rtol=1e-5)
    mine.norm_min, mine.norm_max = theirs.norm_min, theirs.norm_max
    mine.qnorm.reset()
    mine.qnorm.add(oracle.vector_to_array(theirs.qnorm.codes).view(np.float32).reshape(-1, 1))
    for norm in np.linspace(0.5 * theirs.norm_min, 1.1 * theirs.norm_max, 40).astype(np.float32).tolist():
        assert mine.encode_norm(norm) == theirs.encode_norm(norm)


def test_tables_and_nearest_sums():
    mine, theirs = trained(tsscompat, KINDS["RQ"]), trained(oracle, KINDS["RQ"])
    mine.codebooks.assign(oracle.vector_to_array(theirs.codebooks))
    found = []
    for f, aq in ((tsscompat, mine), (oracle, theirs)):
        tables = np.zeros((len(XQ), aq.total_codebook_size + 3), np.float32)
        aq.compute_LUT(len(XQ), f.swig_ptr(XQ), f.swig_ptr(tables), -2.0, tables.shape[1])
        norms, distances = np.zeros(1 << aq.tot_bits, np.float32), np.zeros((2, len(XQ), 5), np.float32)
        labels = np.zeros((2, len(XQ), 5), np.int64)
        aq.compute_centroid_norms(f.swig_ptr(norms))
        args = (len(XQ), f.swig_ptr(XQ), 5)
        aq.knn_centroids_inner_product(*args, f.swig_ptr(distances[0]), f.swig_ptr(labels[0]))
        aq.knn_centroids_L2(*args, f.swig_ptr(distances[1]), f.swig_ptr(labels[1]), f.swig_ptr(norms))
        found.append((tables, norms, distances, labels))
    for a, b in zip(found[0][:3], found[1][:3]):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(found[0][3], found[1][3])


@pytest.mark.parametrize("width", [1, 4, 100])
def test_beams_with_and_without_tables(width):
    mine, theirs = trained(tsscompat, KINDS["RQ"]), trained(oracle, KINDS["RQ"])
    mine.codebooks.assign(oracle.vector_to_array(theirs.codebooks))
    mine.compute_codebook_tables()
    np.testing.assert_allclose(
        tsscompat.vector_to_array(mine.codebook_cross_products),
        oracle.vector_to_array(theirs.codebook_cross_products),
        rtol=1e-4,
        atol=1e-4,
    )
    n, norms = len(XQ), (XQ**2).sum(1)
    found = []
    for f, aq in ((tsscompat, mine), (oracle, theirs)):
        sp, products = f.swig_ptr, np.zeros((n, aq.total_codebook_size), np.float32)
        aq.compute_LUT(n, sp(XQ), sp(products))
        codes, distances = np.zeros((2, n, width, 3), np.int32), np.zeros((2, n, width), np.float32)
        left = np.zeros((n, width, D), np.float32)
        aq.refine_beam(n, 1, sp(XQ), width, sp(codes[0]), sp(left), sp(distances[0]))
        aq.refine_beam_LUT(n, sp(norms), sp(products), width, sp(codes[1]), sp(distances[1]))
        found.append((codes, distances, left))
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)
    assert (found[0][0] == found[1][0]).all(axis=-1).mean() > 0.95


def test_a_quantizer_takes_over_anothers_codebooks():
    whole = trained(tsscompat, KINDS["RQ"])
    whole.max_beam_size = 1
    head, tail = tsscompat.ResidualQuantizer(D, 1, 4), tsscompat.ResidualQuantizer(D, 2, 4)
    head.initialize_from(whole)
    tail.initialize_from(whole, 1)
    first = head.compute_codes(X)
    rest = tail.compute_codes(X - head.decode(first))
    codes = whole.compute_codes(X)
    np.testing.assert_array_equal(codes[:, 0] & 15, first[:, 0])
    np.testing.assert_array_equal(codes[:, 0] >> 4, rest[:, 0] & 15)
    with pytest.raises(RuntimeError):
        tail.initialize_from(whole, 2)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_numbers_of_any_width_go_into_codes_and_back(data):
    nbits = tuple(data.draw(st.lists(st.integers(0, 31), min_size=1, max_size=6))) + data.draw(st.sampled_from([(), (4,), (32,)]))
    numbers = torch.stack([torch.randint(0, 1 << b, (5,)) for b in nbits], 1)
    codes = additive.join(numbers, nbits, (sum(nbits) + 7) // 8)
    assert codes.shape[1] == (sum(nbits) + 7) // 8
    assert torch.equal(additive.split(codes, nbits), numbers)


def test_draws_do_not_depend_on_how_they_are_asked_for():
    whole, parts = Draws(5), Draws(5)
    both = torch.cat([parts.below(3, 5), parts.below(4, 5)])
    assert torch.equal(whole.below(7, 5), both)
    one, other = Draws(9), Draws(9)
    normals = one.normals(50)
    apart = [other.normals(20), other.normals(30)]
    assert torch.equal(normals[0], torch.cat([part[0] for part in apart]))
    assert torch.equal(one.words(3), other.words(3)), "the streams stand at the same word"
    assert abs(float(torch.cat(Draws(1).normals(5000)).std()) - 1) < 0.05


def test_lists_made_of_a_quantizer_answer_as_its_flat_index():
    flat = tsscompat.IndexResidualQuantizer(D, 4, 4, tsscompat.METRIC_L2, AQ.ST_norm_float)
    flat.rq.train_type = 0
    flat.train(X)
    flat.add(X)
    ivf = tsscompat.ivf_residual_from_quantizer(flat.rq, 2)
    codes = tsscompat.vector_to_array(flat.codes).reshape(len(X), -1)
    tsscompat.ivf_residual_add_from_flat_codes(ivf, len(X), tsscompat.swig_ptr(codes), flat.code_size)
    ivf.nprobe = ivf.nlist
    expected, found = flat.search(XQ, 5), ivf.search(XQ, 5)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-3)
    assert (found[1] == expected[1]).mean() > 0.9
    np.testing.assert_allclose(ivf.reconstruct_n(0, 20), flat.reconstruct_n(0, 20), rtol=1e-5, atol=1e-5)


def test_wider_beams_find_nearer_sums():
    coarse = tsscompat.index_factory(D, "RCQ3x4")
    coarse.train(X)
    exact = tsscompat.knn(XQ, coarse.reconstruct_n(0, coarse.ntotal), 6)
    overlaps = []
    for factor in (1.0, 4.0, 30.0):
        params = tsscompat.SearchParametersResidualCoarseQuantizer(beam_factor=factor)
        overlaps.append((coarse.search(XQ, 6, params=params)[1][:, :, None] == exact[1][:, None]).any(2).mean())
    assert overlaps[0] <= overlaps[1] <= overlaps[2] and overlaps[2] > 0.95
    coarse.set_beam_factor(-1)
    distances, labels = coarse.search(XQ, 6)
    np.testing.assert_allclose(distances, exact[0], rtol=1e-3, atol=1e-3)
    assert (labels == exact[1]).mean() > 0.95
    with pytest.raises(RuntimeError):
        coarse.search(XQ, 6, params=tsscompat.SearchParameters())
    with pytest.raises(RuntimeError):
        coarse.add(XQ)


@pytest.mark.parametrize("search_type", ["_Nfloat", "_Nqint8", "_Nnone"])
def test_computers_and_scanners_say_what_searches_say(search_type):
    index = tsscompat.index_factory(D, f"RQ3x4{search_type}")
    lists = tsscompat.index_factory(D, f"IVF1,RQ3x4{search_type}")
    for made in (index, lists):
        made.train(X)
        made.add(X)
    distances, labels = index.search(XQ[:1], 3)
    computer = index.get_FlatCodesDistanceComputer()
    computer.set_query(tsscompat.swig_ptr(XQ[0]))
    np.testing.assert_allclose([computer(int(i)) for i in labels[0]], distances[0], rtol=1e-3, atol=1e-3)
    distances, labels = lists.search(XQ[:1], 3)
    scanner = lists.get_InvertedListScanner()
    scanner.set_query(tsscompat.swig_ptr(XQ[0]))
    scanner.set_list(0, 0.0)
    codes = tsscompat.rev_swig_ptr(lists.invlists.get_codes(0), len(X) * lists.code_size).reshape(len(X), -1)
    rows = [np.ascontiguousarray(codes[int(i)]) for i in labels[0]]
    found = [scanner.distance_to_code(tsscompat.swig_ptr(row)) for row in rows]
    np.testing.assert_allclose(found, distances[0], rtol=1e-3, atol=1e-3)


def test_an_old_section_is_read():
    index = oracle.index_factory(D, "RQ2x4")
    index.train(X)
    index.add(X[:50])
    rq, codes = index.rq, oracle.vector_to_array(index.codes)
    books = oracle.vector_to_array(rq.codebooks)
    old = b"IxRQ" + struct.pack("<iqqqBi", D, 50, 1 << 20, 1 << 20, 1, 1)
    old += struct.pack("<QQQQQBii", D, 2, 2, 4, 4, 1, rq.train_type, rq.max_beam_size)
    old += struct.pack("<Q", books.size) + books.tobytes() + struct.pack("<iff", 0, rq.norm_min, rq.norm_max)
    old += struct.pack("<QQ", index.code_size, codes.size) + codes.tobytes()
    data = np.frombuffer(old, np.uint8)
    expected = index.search(XQ, 4)
    for faiss in (oracle, tsscompat):
        found = faiss.deserialize_index(data).search(XQ, 4)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "name", "value"), [("RQ3x4", "max_beam_size", 0), ("LSQ3x4", "K", 8), ("LSQ3x4", "chunk_size", 0)]
)
def test_files_with_impossible_settings_are_refused(key, name, value):
    index = tsscompat.index_factory(D, key)
    if key.startswith("LSQ"):
        index.lsq.train_iters = 1
    index.train(X)
    setattr(index.aq, name, value)
    with pytest.raises(RuntimeError):
        tsscompat.deserialize_index(tsscompat.serialize_index(index))


def test_qinco_without_networks_is_a_residual_quantizer():
    rq = trained(tsscompat, KINDS["RQ"])
    rq.max_beam_size = 1
    index = tsscompat.IndexQINCo(D, 3, 4, 0, D)
    books = get_additive_quantizer_codebooks(rq)
    index.qinco.codebook0.from_array(books[0])
    for m in (1, 2):
        index.qinco.get_step(m - 1).codebook.from_array(books[m])
    index.is_trained = True
    codes = rq.compute_codes(X)
    np.testing.assert_array_equal(index.sa_encode(X), codes)
    np.testing.assert_allclose(index.sa_decode(codes), rq.decode(codes), rtol=1e-5, atol=1e-5)
    index.add(X)
    assert index.search(X[:3], 1)[1].shape == (3, 1)
    with pytest.raises(RuntimeError):
        index.train(X)


def test_a_step_of_qinco_computes_what_its_layers_say():
    torch.manual_seed(0)
    step = tsscompat.QINCoStep(D, 6, 2, 5)
    for layer in (step.MLPconcat, *(layer for block in step.residual_blocks for layer in (block.linear1, block.linear2))):
        layer.from_array(torch.randn(layer.out_features, layer.in_features).numpy())
    step.codebook.from_array(torch.randn(6, D).numpy())
    xhat, codes = torch.randn(9, D), torch.randint(0, 6, (9, 1), dtype=torch.int32)
    entries = step.codebook(tsscompat.Int32Tensor2D(codes))
    side_by_side = tsscompat.Tensor2D(torch.cat([torch.from_numpy(entries.numpy()), xhat], 1))
    entries += step.MLPconcat(side_by_side)
    for block in step.residual_blocks:
        entries += block(entries)
    decoded = step.decode(tsscompat.Tensor2D(xhat), tsscompat.Int32Tensor2D(codes))
    np.testing.assert_allclose(decoded.numpy(), entries.numpy(), rtol=1e-4, atol=1e-4)
    again = step.encode(tsscompat.Tensor2D(xhat), tsscompat.Tensor2D(xhat + torch.from_numpy(decoded.numpy())))
    np.testing.assert_array_equal(again.numpy(), codes.numpy())


def test_product_quantizers_on_tensors():
    x = torch.from_numpy(X)
    own = quantization.ProductQuantizer(D, 2, 8)
    own.train(x)
    codes = own.encode(x)
    assert codes.dtype == torch.uint8 and codes.shape == (len(X), 2)
    pq = tsscompat.ProductQuantizer(D, 2, 8)
    pq.train(X)
    error, reference = ((own.decode(codes) - x) ** 2).sum(), ((pq.decode(pq.compute_codes(X)) - X) ** 2).sum()
    assert float(error) < 1.1 * reference


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("search_type", ["decompress", "LUT_nonorm", "norm_float", "norm_qint8"])
@pytest.mark.parametrize("metric", ["L1", "Jaccard"])
def test_lists_score_codes_of_other_metrics_as_faiss_does(metric, search_type, residual):
    """By squared distances that leave the centroids out; of similarities, which they are not, the largest."""
    quantizer = oracle.IndexFlatL2(D)
    quantizer.add(X[:4])
    how = getattr(AQ, f"ST_{search_type}")
    index = oracle.IndexIVFResidualQuantizer(quantizer, D, 4, 2, 4, getattr(oracle, f"METRIC_{metric}"), how)
    index.by_residual, index.nprobe = residual, 2
    index.train(X)
    index.add(X)
    ours = tsscompat.deserialize_index(oracle.serialize_index(index))
    for some in (XQ[:1], XQ):
        expected = index.search(some, 5)[0]
        np.testing.assert_allclose(ours.search(some, 5)[0], expected, rtol=1e-4, atol=1e-3)
    radius = float(np.median(expected)) + 1e-3
    assert abs(int(ours.range_search(XQ, radius)[0][-1]) - int(index.range_search(XQ, radius)[0][-1])) <= 2
