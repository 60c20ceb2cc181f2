"""Bits of vectors: IndexLSH and IndexIVFSpectralHash, against FAISS."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import tsscompat

faiss = pytest.importorskip("faiss")


def vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


X, QUERIES = vectors(600, 24), vectors(9, 24, 1)


def made(f, *args):
    index = f.IndexLSH(24, *args)
    index.train(X)
    index.add(X)
    return index


@pytest.mark.parametrize("args", [(24, False), (10, False), (33, True), (24, True, True), (7, False, True)])
def test_lsh_is_faiss_lsh(args):
    theirs, native = made(faiss, *args), made(tsscompat, *args)
    read = tsscompat.deserialize_index(faiss.serialize_index(theirs))
    assert bytes(faiss.serialize_index(theirs)) == bytes(tsscompat.serialize_index(read))
    for mine in (read, native):
        for expected, got in zip(theirs.search(QUERIES, 8), mine.search(QUERIES, 8)):
            np.testing.assert_array_equal(expected, got)
    # FAISS leaves the dimensions that have no bits as they come.
    n = 24 if args[1] else args[0]
    if args[0] <= 24:  # more bits than dimensions cannot be turned back
        np.testing.assert_allclose(theirs.reconstruct_n(0, 5)[:, :n], read.reconstruct_n(0, 5)[:, :n], atol=1e-5)


def test_bits_that_are_not_rotated_must_be_there():
    with pytest.raises(RuntimeError):
        tsscompat.IndexLSH(8, 9, False)


def test_thresholds_go_to_a_transform():
    lsh = made(tsscompat, 24, False, True)
    codes, before = lsh.sa_encode(QUERIES), lsh.thresholds.tensor.clone()
    vt = tsscompat.LinearTransform(24, 24, False)
    vt.A.tensor = tsscompat.Float32Vector(np.eye(24, dtype=np.float32).ravel()).tensor
    vt.is_trained = True
    lsh.transfer_thresholds(vt)
    assert not lsh.train_thresholds and lsh.thresholds.size() == 0
    np.testing.assert_allclose(vt.b.tensor.numpy(), -before.numpy())
    np.testing.assert_array_equal(lsh.sa_encode(vt.apply(QUERIES)), codes)


def test_old_files_count_codes_in_words():
    index = faiss.IndexLSH(24, 64, True)
    index.add(X)
    data = bytes(faiss.serialize_index(index))
    at = data.index(struct.pack("<Qi", 0, 8)) + 8  # no thresholds, 8 bytes a code
    old = b"IxHE" + data[4:at] + struct.pack("<i", 1) + data[at + 4 :]
    read = tsscompat.deserialize_index(np.frombuffer(old, np.uint8))
    assert bytes(tsscompat.serialize_index(read)) == data
    with pytest.raises(RuntimeError):
        tsscompat.deserialize_index(np.frombuffer(b"IxHE" + data[4:], np.uint8))


@pytest.mark.parametrize("kind", range(4))
def test_spectral_hash_is_faiss_spectral_hash(kind):
    found = []
    for f in (faiss, tsscompat):
        quantizer = f.IndexFlatL2(24)
        index = f.IndexIVFSpectralHash(quantizer, 24, 16, 20, 1.5)
        index.threshold_type, index.nprobe = kind, 5
        index.train(X)
        index.add(X)
        found.append((index.search(QUERIES, 8)[0], *index.range_search(QUERIES, 6)[:1], index.sa_encode(QUERIES)))
    for expected, got in zip(*found):
        np.testing.assert_array_equal(expected, got)


def test_the_transform_can_be_replaced():
    index = tsscompat.index_factory(24, "IVF8,PCA10,SH2.5g")
    index.train(X)
    index.add(X)
    assert type(index.vt).__name__ == "PCAMatrix" and index.threshold_type == index.Thresh_global
    with pytest.raises(RuntimeError):
        index.replace_vt(tsscompat.RandomRotationMatrix(24, 9))
    encoder = tsscompat.index_factory(24, "ITQ10,LSH")
    encoder.train(X)
    index.replace_vt(encoder)
    assert index.vt is encoder.chain.at(0)
    with pytest.raises(RuntimeError):
        index.replace_vt(tsscompat.index_factory(24, "ITQ10,LSHt"))


def test_selectors_are_refused():
    index = tsscompat.index_factory(24, "IVF8,PCA10,SH2.5g")
    index.train(X)
    index.add(X)
    with pytest.raises(RuntimeError):
        index.search(QUERIES, 3, params=tsscompat.SearchParametersIVF(sel=tsscompat.IDSelectorRange(0, 5)))
    with pytest.raises(RuntimeError):
        made(tsscompat, 24).search(QUERIES, 3, params=tsscompat.SearchParameters())
