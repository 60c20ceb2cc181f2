"""Modules of FAISS's own indexes, as FAISS's own process has them."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from cases import ROWS, filled, shelf
from compare import assert_same_neighbours

import tsscompat
from tsscompat.errors import FaissError

# What has no module: codes whose distances are estimates, vectors kept once, second codes, filters by Hamming distance.
WITHOUT = ("SQtq2", "SQtq4", "EDEN", "SQ0", "Dedup", "PQ4+4", "polysemous")


@pytest.mark.parametrize("row", [row for row in ROWS if not any(name in row.name for name in WITHOUT)], ids=str)
def test_a_module_answers_as_faiss(row):
    index, queries = filled(importlib.import_module("faiss"), row), shelf(row).queries
    try:
        module = tsscompat.from_faiss(index, k=5)
    except FaissError as e:
        pytest.skip(str(e))
    expected, got = index.search(queries, 5), module(torch.from_numpy(queries))
    assert_same_neighbours(expected, got, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("row", [row for row in ROWS if any(name in row.name for name in WITHOUT)], ids=str)
def test_what_has_no_module_says_so(row):
    with pytest.raises(FaissError, match="no module"):
        tsscompat.from_faiss(filled(tsscompat, row))


def test_ids_beyond_31_bits():
    faiss = importlib.import_module("faiss")
    x = np.random.default_rng(0).random((200, 8), dtype=np.float32)
    index = faiss.index_factory(8, "IVF4,Flat")
    index.train(x)
    index.add_with_ids(x, np.arange(200) + (1 << 40))
    assert tsscompat.from_faiss(index, k=1)(torch.from_numpy(x))[1][:, 0].tolist() == (np.arange(200) + (1 << 40)).tolist()
