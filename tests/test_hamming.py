"""Functions on binary codes and strings of bits, against FAISS's."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat


@given(st.integers(0, 2**20), st.integers(1, 40), st.integers(1, 30))
@settings(max_examples=20)
def test_knn_hamming(seed, size, k):
    rng, faiss = np.random.default_rng(seed), importlib.import_module("faiss")
    xb, xq = (rng.integers(0, 3, (n, size), dtype=np.uint8) for n in (90, 6))
    for variant in ("hc", "mc"):
        for a, b in zip(faiss.knn_hamming(xq, xb, k, variant), tsscompat.knn_hamming(xq, xb, k, variant)):
            np.testing.assert_array_equal(a, b)


@given(st.data())
@settings(max_examples=20)
def test_bit_strings_as_faiss_packs_them(data):
    faiss = importlib.import_module("faiss")
    widths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=9))
    rng = np.random.default_rng(len(widths))
    table = (rng.integers(0, 2**30, (11, len(widths))) & (2 ** np.array(widths) - 1)).astype(np.int32)
    packed = tsscompat.pack_bitstrings(table, widths)
    np.testing.assert_array_equal(packed, faiss.pack_bitstrings(table, widths))
    np.testing.assert_array_equal(tsscompat.unpack_bitstrings(packed, widths), table)
    same = tsscompat.pack_bitstrings(table, max(widths))
    np.testing.assert_array_equal(same, faiss.pack_bitstrings(table, max(widths)))
    wide = np.pad(same, ((0, 0), (0, 13)))
    np.testing.assert_array_equal(tsscompat.unpack_bitstrings(wide, len(widths), max(widths)), table)


def test_bits_are_written_and_read_one_number_after_another(faiss):
    buffer = np.zeros(20, np.uint8)
    writer = faiss.BitstringWriter(faiss.swig_ptr(buffer), 20)
    numbers = [(5, 3), (2**40 + 7, 41), (1, 1), (2**64 - 1, 64)]
    for number, width in numbers:
        writer.write(number, width)
    reader = faiss.BitstringReader(faiss.swig_ptr(buffer), 20)
    assert [reader.read(width) for _, width in numbers] == [number for number, _ in numbers]


def test_signs_and_bits(faiss):
    x = np.random.default_rng(0).standard_normal((3, 13)).astype(np.float32)
    b, back = np.zeros((3, 2), np.uint8), np.zeros((3, 13), np.float32)
    faiss.fvecs2bitvecs(faiss.swig_ptr(x), faiss.swig_ptr(b), 13, 3)
    np.testing.assert_array_equal(b, np.packbits(x >= 0, axis=1, bitorder="little"))
    faiss.bitvecs2fvecs(faiss.swig_ptr(b), faiss.swig_ptr(back), 13, 3)
    np.testing.assert_array_equal(back, np.where(x >= 0, 1, -1))
    hist = np.zeros(16, np.int32)
    faiss.bincode_hist(3, 16, faiss.swig_ptr(b), faiss.swig_ptr(hist))
    np.testing.assert_array_equal(hist, np.unpackbits(b, axis=1, bitorder="little").sum(0))
    assert faiss.popcount64(2**63 + 5) == 3


def test_code_sets_know_what_is_new(faiss):
    known = faiss.CodeSet(4)
    table = np.arange(20, dtype=np.uint8).reshape(5, 4)
    assert known.insert(table).all() and not known.insert(table[2:]).any()


@given(st.integers(0, 2**20), st.integers(1, 60))
@settings(max_examples=10)
def test_partitions_keep_the_best(seed, q):
    faiss, rng = importlib.import_module("faiss"), np.random.default_rng(seed)
    values, ids = rng.integers(0, 9, 60).astype(np.float32), np.arange(60)
    for name, best in (("CMax_float_partition_fuzzy", np.sort(values)[:q]), ("CMin_float_partition_fuzzy", np.sort(values)[-q:])):
        for module in (faiss, tsscompat):
            v, i = values.copy(), ids.copy()
            threshold = getattr(module, name)(module.swig_ptr(v), module.swig_ptr(i), 60, q, q, None)
            np.testing.assert_array_equal(v[:q], values[i[:q]])
            np.testing.assert_array_equal(np.sort(v[:q]), best)
            assert (best <= threshold).all() if "CMax" in name else (best >= threshold).all()


def test_hash_tables_are_laid_out_as_faiss_lays_them_out():
    tables, keys = [], np.array([7, -3, 10**12, 2**50, 4095, -(2**40)])
    for module in (importlib.import_module("faiss"), tsscompat):
        table, values, found = np.empty(2 << 13, np.int64), np.arange(6), np.empty(7, np.int64)
        module.hashtable_int64_to_int64_init(13, module.swig_ptr(table))
        module.hashtable_int64_to_int64_add(
            13, module.swig_ptr(table), 5, module.swig_ptr(keys[:5].copy()), module.swig_ptr(values)
        )
        asked = np.append(keys, 99)
        module.hashtable_int64_to_int64_lookup(13, module.swig_ptr(table), 7, module.swig_ptr(asked), module.swig_ptr(found))
        assert found.tolist() == [0, 1, 2, 3, 4, -1, -1]
        tables.append(table)
    np.testing.assert_array_equal(*tables)


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_tables_of_codes_of_any_size(size):
    rng = np.random.default_rng(size)
    a, b = (rng.integers(0, 256, (n, size), dtype=np.uint8) for n in (3, 5))
    for module in (importlib.import_module("faiss"), tsscompat):
        out = np.empty((3, 5), np.int32)
        module.hammings(module.swig_ptr(a), module.swig_ptr(b), 3, 5, size, module.swig_ptr(out))
        np.testing.assert_array_equal(out, np.unpackbits(a[:, None] ^ b, axis=2).sum(2))
