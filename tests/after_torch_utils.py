"""What holds after `import faiss.contrib.torch_utils`, in FAISS and here: each check runs in a process of its own (test_torch_utils.py).

python after_torch_utils.py faiss | tsscompat      prints a JSON object: check -> null, or what went wrong
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback

import numpy as np
import torch

D = 8
X = torch.from_numpy(np.random.default_rng(0).standard_normal((200, D)).astype(np.float32))


def refused(call, *arguments, error=AssertionError, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"{call.__name__} took {[type(a).__name__ for a in arguments]}")


def made(faiss, key="Flat"):
    index = faiss.index_factory(D, key)
    index.train(X)
    index.add(X)
    return index


def check_reconstruct_gives_tensors(faiss):
    for key in ("Flat", "SQ8", "IDMap2,Flat", "PCA4,Flat", "HNSW4"):
        index = faiss.index_factory(D, key)
        index.train(X)
        if key.startswith("IDMap"):
            index.add_with_ids(X, torch.arange(200))
        else:
            index.add(X)
        one = index.reconstruct(3)
        assert type(one) is torch.Tensor and one.shape == (D,) and one.dtype == torch.float32
        filled = np.empty(D, dtype=np.float32)
        assert index.reconstruct(3, filled) is filled and np.array_equal(filled, one.numpy())
        assert np.array_equal(index.reconstruct_numpy(3), filled)
    assert torch.equal(made(faiss).reconstruct(3), X[3])


def check_reconstruct_n_gives_tensors(faiss):
    index = made(faiss)
    assert torch.equal(index.reconstruct_n(), X) and torch.equal(index.reconstruct_n(10, 5), X[10:15])
    assert torch.equal(index.reconstruct_n(ni=4), X[:4])
    assert np.array_equal(index.reconstruct_n_numpy(10, 5), X[10:15].numpy())
    filled = torch.empty(3, D)
    assert index.reconstruct_n(7, 3, filled) is filled and torch.equal(filled, X[7:10])
    refused(index.reconstruct, 3, torch.empty(D, dtype=torch.float64))
    refused(index.reconstruct_n, 0, 3, torch.empty(D, 3).t())
    refused(index.reconstruct, 200, error=RuntimeError)


def check_outputs_by_position(faiss):
    index = made(faiss, "IVF4,Flat")
    for kind in (torch.from_numpy, np.array):
        x = kind(X[:5].numpy())
        expected = index.search(x, 3)
        d, i = kind(np.zeros((5, 3), dtype=np.float32)), kind(np.zeros((5, 3), dtype=np.int64))
        found = index.search(x, 3, d, i)
        assert found[0] is d and found[1] is i
        assert all(np.array_equal(a, b) for a, b in zip(found, expected))
        r = kind(np.zeros((5, 3, D), dtype=np.float32))
        index.make_direct_map()
        assert np.array_equal(index.search_and_reconstruct(x, 3, d, i, r)[2][:, 0], X[:5])
        assert np.array_equal(r[:, 0], X[:5])
        labels = kind(np.zeros((5, 2), dtype=np.int64))
        assert index.assign(x, 2, labels) is labels and np.array_equal(labels[:, 0], np.arange(5))
    refused(index.search, X[:5], 3, torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.int32))
    refused(index.search, X[:5], 3, torch.zeros(5, 4), torch.zeros(5, 3, dtype=torch.int64))
    refused(index.search, X[:5], 3, np.zeros((5, 3), dtype=np.float32))


def check_a_tensor_is_contiguous_float32(faiss):
    index = made(faiss, "IVF4,Flat")
    turned = X.t().contiguous().t()
    for x in (turned, X.double(), X.long(), X.half()):
        for call in (index.add, index.train, lambda x: index.search(x, 3), lambda x: index.range_search(x, 1.0), index.assign):
            refused(call, *([x, 1] if call == index.assign else [x]))
    refused(index.add_with_ids, X, torch.arange(200, dtype=torch.int32))
    refused(index.add_with_ids, X, np.arange(200))
    assert index.ntotal == 200
    index.add(turned.numpy())
    assert index.ntotal == 400, "arrays of numpy may be strided"


def check_half_precision(faiss):
    index = made(faiss)
    index.add(X.half(), faiss.Float16)
    refused(index.add, X, faiss.Float16)
    assert torch.equal(index.reconstruct(205), X[5].half().float())


def check_range_search(faiss):
    index = made(faiss)
    lims, distances, labels = index.range_search(X[:5], 2.0)
    assert lims.dtype == labels.dtype == torch.int64 and distances.dtype == torch.float32
    theirs = index.range_search(X[:5].numpy(), 2.0)
    assert isinstance(theirs[0], np.ndarray) and np.array_equal(lims.numpy(), theirs[0].astype(np.int64))


def check_removal_takes_no_tensors(faiss):
    index = made(faiss)
    refused(index.remove_ids, torch.tensor([3]))
    assert index.remove_ids(np.array([3])) == 1 and index.remove_ids(faiss.IDSelectorRange(0, 2)) == 2
    lists = made(faiss, "IVF4,Flat")
    refused(lists.remove_ids, torch.tensor([3]))
    assert lists.remove_ids(np.array([3])) == 1


def check_lists_that_are_given(faiss):
    index = made(faiss, "IVF4,Flat")
    index.nprobe = 2
    coarse, keys = index.quantizer.search(X[:5], 2)
    d, i = torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.int64)
    found = index.search_preassigned(X[:5], 3, keys, coarse, D=d, I=i)
    assert found[1] is i and torch.equal(i, index.search(X[:5], 3)[1])
    refused(index.search_preassigned, X[:5], 3, keys.int(), coarse)
    theirs = index.search_preassigned(X[:5].numpy(), 3, keys.numpy(), coarse.numpy())
    assert np.array_equal(theirs[1], i)


def check_codes(faiss):
    index = made(faiss, "SQ8")
    codes = index.sa_encode(X)
    assert codes.dtype == torch.uint8 and np.array_equal(codes, index.sa_encode(X.numpy()))
    assert torch.equal(index.sa_decode(codes), torch.from_numpy(index.sa_decode(codes.numpy())))
    refused(index.sa_encode, X.double())
    refused(index.sa_decode, codes.int())


def check_vectors_are_replaced(faiss):
    index = made(faiss, "IVF4,Flat")
    index.set_direct_map_type(faiss.DirectMap.Array)
    index.update_vectors(torch.tensor([1, 2]), X[3:5])
    assert torch.equal(index.reconstruct_n(1, 2), X[3:5])
    refused(index.update_vectors, torch.tensor([1, 2], dtype=torch.int32), X[3:5])


def check_clustering_takes_any_tensor(faiss):
    turned = X.t().contiguous().t()
    means = faiss.Kmeans(D, 4, niter=3)
    means.train(turned)
    expected = means.assign(X.numpy())[1]
    assert np.array_equal(means.assign(turned)[1], expected) and np.array_equal(means.assign(turned.double())[1], expected)


def check_binary_indexes_and_wrong_calls_are_as_before(faiss):
    binary = faiss.IndexBinaryFlat(16)
    binary.add(np.zeros((3, 2), dtype=np.uint8))
    assert isinstance(binary.reconstruct(0), np.ndarray)
    index = made(faiss)
    refused(index.search, X[:5], 3, None, None, faiss.Float32, 1, error=TypeError)
    refused(index.search, X[:5], 3, x=X, error=TypeError)
    refused(index.search, X[:5], error=TypeError)


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    importlib.import_module(f"{sys.argv[1]}.contrib.torch_utils")
    outcome = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check(module)
                outcome[name] = None
            except Exception:
                outcome[name] = traceback.format_exc()
    print(json.dumps(outcome))
