"""RaBitQ: FAISS's codes and estimates, its files new and old, and what a search keeps."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import tsscompat

faiss = pytest.importorskip("faiss")
METRICS = [1, 0]


def vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def built(key: str, d: int, metric: int = 1, n: int = 700):
    index = faiss.index_factory(d, key, metric)
    x = vectors(n, d)
    index.train(x)
    index.add(x)
    return index


def ours(index):
    return tsscompat.deserialize_index(faiss.serialize_index(index))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nb_bits", [1, 2, 5, 9])
@pytest.mark.parametrize("d", [3, 32, 70])
def test_codes_are_faiss_codes(d, nb_bits, metric):
    x = vectors(200, d)
    x[5] = 0
    theirs, mine = (f.RaBitQuantizer(d, metric, nb_bits) for f in (faiss, tsscompat))
    assert mine.code_size == theirs.code_size
    expected, got = theirs.compute_codes(x), mine.compute_codes(x)
    size, more = (d + 7) // 8, nb_bits - 1
    assert (expected[:, :size] == got[:, :size]).all()
    start = size + (12 if more else 8)
    factors = (c[:, size:start].copy().view(np.float32) for c in (expected, got))
    np.testing.assert_allclose(*factors, rtol=1e-6, atol=1e-6)
    if more:
        stop = start + (d * more + 7) // 8
        # Norms are sums in another order: a number on the edge of two codes may fall either way.
        assert (expected[:, start:stop] == got[:, start:stop]).mean() > 0.99
    np.testing.assert_allclose(theirs.decode(expected), mine.decode(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nb_bits", [1, 4])
def test_estimates_are_faiss_estimates(nb_bits, metric):
    d, center = 36, vectors(1, 36, 3)[0]
    x, query = vectors(20, d), vectors(1, d, 1)
    quantizer = faiss.RaBitQuantizer(d, metric, nb_bits)
    codes = np.empty((20, quantizer.code_size), np.uint8)
    quantizer.compute_codes_core(faiss.swig_ptr(x), faiss.swig_ptr(codes), 20, faiss.swig_ptr(center))
    for qb in (0, 1, 4, 8):
        for centered in (False, True):
            found = []
            for f in (faiss, tsscompat):
                computer = f.RaBitQuantizer(d, metric, nb_bits).get_distance_computer(qb, f.swig_ptr(center), centered)
                computer.set_query(f.swig_ptr(query))
                found.append([computer.distance_to_code(f.swig_ptr(code)) for code in codes])
            np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("key", ["RaBitQ", "IVF8,RaBitQ"])
def test_one_bit_finds_what_faiss_finds(key, metric):
    index, queries = built(key, 40, metric), vectors(30, 40, 1)
    params = {"nprobe": 3} if "IVF" in key else {}
    for qb in (0, 3, 8):
        found = []
        for f, i in ((faiss, index), (tsscompat, ours(index))):
            kind = f.IVFRaBitQSearchParameters if params else f.RaBitQSearchParameters
            found.append(i.search(queries, 10, params=kind(qb=qb, centered=qb == 3, **params)))
        assert (found[0][1] == found[1][1]).mean() > 0.98
        np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_passed_over_is_not_more_than_in_faiss(metric):
    index, queries = built("RaBitQ4", 100, metric, 3000), vectors(50, 100, 1)
    expected, got = index.search(queries, 10)[0], ours(index).search(queries, 10)[0]
    sign = 1 if metric == 1 else -1
    assert (sign * got <= sign * expected + 1e-3).all()


@pytest.mark.parametrize("key", ["RaBitQfs", "RaBitQfs5", "IVF4,RaBitQfs", "IVF4,RaBitQfs3"])
def test_blocks_give_what_the_same_codes_give_one_after_the_other(key):
    d, x, queries = 37, vectors(300, 37), vectors(9, 37, 1)
    plain = tsscompat.index_factory(d, key.replace("fs", ""))
    plain.train(x)
    plain.add(x)
    plain.qb = 8
    kind = tsscompat.IndexIVFRaBitQFastScan if "IVF" in key else tsscompat.IndexRaBitQFastScan
    packed = kind(plain, 64)
    assert packed.bbs == 64 and packed.ntotal == 300
    expected, got = plain.search(queries, 5), packed.search(queries, 5)
    np.testing.assert_array_equal(expected[1], got[1])
    read = tsscompat.deserialize_index(tsscompat.serialize_index(packed))
    np.testing.assert_array_equal(read.search(queries, 5)[1], got[1])
    packed.add(x[:7])
    assert (packed.search(x[:7], 2)[1] == np.stack([np.arange(7), np.arange(300, 307)], 1)).all()


def split_factors(data: bytes, d: int, bbs: int, nb_bits: int, n: int) -> tuple[bytes, bytes]:
    """Blocks as FAISS once wrote them, and what stood apart of each vector."""
    quantizer, parts = faiss.RaBitQuantizer(d, 1, nb_bits), (d + 7) // 8
    storage = quantizer.code_size - (d + 7) // 8
    blocks = np.frombuffer(data, np.uint8).reshape(-1, bbs * (parts + storage))
    return blocks[:, : bbs * parts].tobytes(), blocks[:, bbs * parts :].reshape(-1, storage)[:n].tobytes()


@pytest.mark.parametrize("nb_bits", [1, 3])
def test_the_old_files_of_blocks_are_read(nb_bits):
    d, n, queries = 21, 75, vectors(5, 21, 1)
    index = built(f"RaBitQfs{nb_bits}", d, 1, n)
    whole = bytes(faiss.serialize_index(index))
    codes = faiss.vector_to_array(index.codes).tobytes()
    head = whole[: -len(codes) - 8]
    at = len(head) - 4 - 8 * 3  # bbs, ntotal2, M2, code_size
    packed, apart = split_factors(codes, d, 32, nb_bits, n)
    old = b"Irfs" + head[4:at] + struct.pack("<Q", len(apart)) + apart + head[at:] + struct.pack("<Q", len(packed)) + packed
    data = np.frombuffer(old, np.uint8)
    read = tsscompat.deserialize_index(data)
    np.testing.assert_array_equal(read.search(queries, 5)[1], ours(index).search(queries, 5)[1])
    assert bytes(tsscompat.serialize_index(read)) == whole == bytes(faiss.serialize_index(faiss.deserialize_index(data)))
    with pytest.raises(RuntimeError):
        tsscompat.deserialize_index(np.frombuffer(old.replace(apart, apart[:-8]), np.uint8))


def test_sizes_in_files_are_checked():
    data = bytes(faiss.serialize_index(built("RaBitQ", 16, 1, 20)))
    with pytest.raises(RuntimeError, match="9 bits"):
        tsscompat.deserialize_index(np.frombuffer(data[:-1] + b"\x09", np.uint8))
    size = data.index(struct.pack("<QQ", 16, 10)) + 8
    with pytest.raises(RuntimeError, match="11 bytes"):
        tsscompat.deserialize_index(np.frombuffer(data[:size] + struct.pack("<Q", 11) + data[size + 8 :], np.uint8))


@pytest.mark.parametrize("nb_bits", [1, 5])
def test_graphs_over_codes_find_what_all_codes_would(nb_bits):
    d, x, queries = 32, vectors(600, 32), vectors(20, 32, 1)
    graph = tsscompat.IndexHNSWRaBitQ(d, 16, nb_bits)
    graph.train(x)
    graph.add(x)
    graph.hnsw.efSearch = 200
    flat = graph.storage
    flat.qb = 0
    (expected, i), (got, j) = flat.search(queries, 5), graph.search(queries, 5)
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(i, j)]) > 4.5
    both = i == j
    np.testing.assert_allclose(got[both], expected[both], rtol=1e-4, atol=1e-3)
    read = tsscompat.deserialize_index(tsscompat.serialize_index(graph))
    np.testing.assert_array_equal(read.search(queries, 5)[1], j)
    with pytest.raises(RuntimeError, match="L2"):
        tsscompat.IndexHNSWRaBitQ(d, 16, nb_bits, 0)


@pytest.mark.parametrize("wrong", [0, 10])
def test_bits_beyond_the_range_are_refused(wrong):
    with pytest.raises(RuntimeError):
        tsscompat.IndexRaBitQ(8, 1, wrong)
    index = ours(built("RaBitQ", 8))
    index.qb = 9
    with pytest.raises(RuntimeError):
        index.search(vectors(1, 8), 1)
