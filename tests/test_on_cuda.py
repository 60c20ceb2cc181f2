"""Every index type on a GPU: no tensor of the host is mixed with one of the GPU's, CUDA has all operations, answers are the CPU's.

The GPU is that of pretended_cuda.py; Triton's kernels are turned off, so that it runs the definitions, and so are the CPU's twins.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import HERE, D, K, codes, queries, read, vectors, widened
from pretended_cuda import Missing, Mixed, OnCuda, PretendedCuda, Raced, cuda_functions

import tsscompat as faiss
from tsscompat import devices
from tsscompat.errors import FaissError
from tsscompat.kernels import accelerate

NAMES = sorted(path.stem for path in HERE.glob("*.faiss") if not path.stem.startswith("old,"))
# A walk is thousands of operations: less is asked of graphs.
GRAPHS = ("HNSW", "NSG", "NNDescent", "FromFloat")
# What each run of the tests goes through; all of it takes ten minutes of `nox -s placing`.
ALWAYS = (
    "Flat",
    "IVF4,Flat",
    "IVF4,PQ2x4np",
    "IVF4,SQ8",
    "SQ8",
    "PQ2x4np",
    "IDMap2,Flat",
    "BFlat",
    "BIVF4",
    "PCA4,Flat",
    "PQ2x4fs",
)
Step = tuple[str, Callable[[Any], Any]]


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    devices.default_device()  # before there seem to be GPUs
    monkeypatch.setattr(accelerate, "_device_type", lambda args, kwargs: "a kind of device that has no twins")
    monkeypatch.setenv("TSSCOMPAT_TWINS", "0")
    cuda_functions(monkeypatch)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # what is pretended holds for this thread
    with PretendedCuda() as pretended:
        yield pretended
    faiss.omp_set_num_threads(threads)


def plain(answer: Any) -> list[np.ndarray]:
    """The arrays of an answer."""
    if isinstance(answer, (tuple, list)):
        return [array for part in answer for array in plain(part)]
    return [] if answer is None else [np.asarray(answer.cpu() if isinstance(answer, torch.Tensor) else answer)]


def answered(call: Callable[[Any], Any], index: Any, expected: Any = None) -> Any:
    """What an index answers, or the type of the error that it raises, where that is expected or nothing is known of what is."""
    try:
        return plain(call(index))
    except (FaissError, AttributeError, TypeError, ValueError) as e:
        if expected is not None and expected is not type(e):
            raise
        return type(e)


def asked(step: str, call: Callable[[Any], Any], host: Any, placed: Any) -> Any:
    """What both answer, which must be alike."""
    expected = answered(call, host)
    assert_alike(expected, answered(call, placed, expected), step)
    return expected


def assert_alike(expected: Any, got: Any, where: str) -> None:
    if isinstance(expected, type) or isinstance(got, type):
        assert expected == got, where
        return
    assert len(expected) == len(got), where
    for one, other in zip(expected, got):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), where
        np.testing.assert_allclose(other.astype(np.float64), one.astype(np.float64), rtol=1e-4, atol=1e-4, err_msg=where)


def binary(index: Any) -> bool:
    return "Binary" in type(index).__name__


def there(index: Any, x: np.ndarray) -> torch.Tensor:
    """An array as a tensor where the index is."""
    return torch.from_numpy(x).to(index.device)


def params(index: Any, sel: Any) -> Any:
    name = type(index).__name__
    if "IVF" in name:
        return faiss.SearchParametersIVF(sel=sel, nprobe=3)
    if "HNSW" in name:
        return faiss.SearchParametersHNSW(sel=sel, efSearch=6)
    if "PreTransform" in name:
        return faiss.SearchParametersPreTransform(index_params=faiss.SearchParameters(sel=sel))
    return faiss.SearchParameters(sel=sel)


def by_id(index: Any) -> Any:
    """The index, able to find a vector by its id."""
    ivf = index if binary(index) else faiss.try_extract_index_ivf(index)
    if hasattr(ivf, "make_direct_map"):
        ivf.make_direct_map()
    return index


def through_a_file(index: Any, folder: Any) -> Any:
    path = str(folder / "index")
    write, get = (faiss.write_index_binary, faiss.read_index_binary) if binary(index) else (faiss.write_index, faiss.read_index)
    write(index, path)
    again = get(path, device=index.device)
    assert again.device == index.device
    return again


def searches(x: np.ndarray, radius: float) -> Iterator[Step]:
    yield "search", lambda index: index.search(x, K)
    yield "search for one tensor", lambda index: index.search(there(index, x[:1]), 2)
    yield "search with parameters", lambda index: index.search(x, K, params=params(index, None))
    yield "search of some", lambda index: index.search(x, K, params=params(index, faiss.IDSelectorBatch(np.arange(0, 40, 2))))
    yield "search beyond the end", lambda index: index.search(np.tile(x, (4, 1)), 45)
    yield "assign", lambda index: index.assign(x, 2)
    yield "range search", lambda index: index.range_search(x, radius)
    yield "search and reconstruct", lambda index: index.search_and_reconstruct(x, 3)
    yield "search and return codes", lambda index: index.search_and_return_codes(x, 3, include_listnos=True)
    yield "distances to some", lambda index: index.compute_distance_subset(x, np.array([[1, 2]] * len(x)))


def vectors_of(more: np.ndarray) -> Iterator[Step]:
    """What does not change an index but for its map."""
    yield "encode", lambda index: index.sa_encode(there(index, more))
    yield "decode", lambda index: index.sa_decode(index.sa_encode(more))
    yield "reconstruct", lambda index: by_id(index).reconstruct(5)
    yield "reconstruct several", lambda index: by_id(index).reconstruct_batch(np.array([5, 8]))
    yield "reconstruct a run", lambda index: by_id(index).reconstruct_n(1, 4)


def changes(x: np.ndarray, more: np.ndarray) -> Iterator[Step]:
    """Each followed by a search."""
    ids = np.arange(len(more)) + 1000
    yield "add", lambda index: index.add(more)
    yield "add tensors", lambda index: index.add_with_ids(there(index, more), there(index, ids))
    yield "add codes", lambda index: index.add_sa_codes(index.sa_encode(more), None)
    yield "add codes with ids", lambda index: index.add_sa_codes(index.sa_encode(more), ids + 50)
    yield "update", lambda index: by_id(index).update_vectors(np.array([5, 8]), more[:2])
    yield "remove ids", lambda index: index.remove_ids(np.array([1, 5, 8, 11]))
    yield "remove a range", lambda index: index.remove_ids(faiss.IDSelectorRange(3, 10))
    yield "merge", lambda index: index.merge_from(copy.deepcopy(index), 0)
    yield "permute", lambda index: index.permute_entries(np.random.RandomState(0).permutation(index.ntotal))
    yield "reset and add", lambda index: (index.reset(), index.add(more))


def copies(folder: Any) -> Iterator[Step]:
    clone = {True: faiss.clone_binary_index, False: faiss.clone_index}
    back = {True: faiss.index_binary_gpu_to_cpu, False: faiss.index_gpu_to_cpu}
    yield "deepcopy", copy.deepcopy
    yield "pickle", lambda index: pickle.loads(pickle.dumps(index))
    yield "clone", lambda index: clone[binary(index)](index)
    yield "file", lambda index: through_a_file(index, folder)
    yield "back", lambda index: back[binary(index)](copy.deepcopy(index))


@pytest.mark.parametrize("name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.placing) for name in NAMES])
def test_an_index_on_a_gpu_is_that_on_the_cpu(name, tmp_path):
    data = (HERE / f"{name}.faiss").read_bytes()
    host, placed = widened(read(faiss, data)), widened(read(faiss, data)).to(0)
    assert placed.device == torch.device("cuda", 0)
    graph = any(kind in name for kind in GRAPHS)
    x, make = queries(host)[: 1 if graph else None], codes if binary(host) else vectors
    found = answered(lambda index: index.search(x, 5)[0], host)
    radius = 0.0 if isinstance(found, type) else np.median(found[0][np.abs(found[0]) < 1e9])
    radius = int(radius) if binary(host) else float(radius)
    for step, call in [*searches(x, radius)][: 4 if graph else None]:
        asked(step, call, host, placed)
    for step, call in [*copies(tmp_path)][3 if graph else 0 :]:
        asked(step, lambda index: call(index).search(x[:1], 3), host, placed)
    if isinstance(found, type):
        return
    more = make(5, 17)
    for step, call in vectors_of(more):
        asked(step, call, host, placed)
    for step, call in [*changes(x, more)][: 1 if graph else None]:
        if step.startswith("add codes") and hasattr(host, "refine_codes"):
            continue  # codes of two stages do not come in one: FAISS reads behind its array then
        if not isinstance(asked(step, call, host, placed), type):
            assert host.ntotal == placed.ntotal and placed.device.type == "cuda"
            asked(f"search after {step}", lambda index: index.search(x[:2], 3), host, placed)


def test_what_is_pretended():
    ours, theirs = torch.ones(4, device="cuda"), torch.ones(4)
    assert isinstance(ours, OnCuda) and (ours.device.type, ours.is_cuda, ours.is_cpu) == ("cuda", True, False)
    assert (ours * 2).tolist() == [2.0] * 4 and type(ours.cpu()) is torch.Tensor and theirs.to("cuda:1").device.index == 1
    part = ours[1:3]
    part[:] = theirs[:2] * 5
    part.add_(1)
    assert ours.tolist() == [1.0, 6.0, 6.0, 1.0] and float(ours.sum()) == 14.0
    assert torch.where(ours > 1, ours, 0.0).device == ours.device and ours[torch.tensor([0])].device == ours.device
    assert ours.new_zeros(3).device == ours.device and torch.empty(2, device=ours.device, pin_memory=False).is_cuda
    for mixed in (
        lambda: ours + theirs,
        lambda: theirs[ours.long()],
        lambda: ours.index_select(0, torch.tensor([1])),
        lambda: ours + theirs.to("cuda:1"),
        lambda: torch.randperm(3, generator=torch.Generator(), device="cuda"),
        lambda: ours.__setitem__(torch.tensor([0, 1]), theirs[:2]),
    ):
        with pytest.raises(Mixed):
            mixed()
    with pytest.raises(TypeError, match="can't convert"):
        ours.numpy()
    with pytest.raises(Missing, match="mm of int64, int64"):
        ours.long()[None] @ ours.long()[:, None]
    with pytest.raises(Missing, match="uint16"):
        ours.to(torch.uint16) + 1
    assert ours.to(torch.uint16).view(torch.int16).tolist() == [1, 6, 6, 1]
    ours[torch.tensor([0, 0], device="cuda")] = torch.ones(2, device="cuda")
    with pytest.raises(Raced):
        ours[torch.tensor([0, 0], device="cuda")] = torch.arange(2.0, device="cuda")
    with pytest.raises(Raced):
        ours.scatter_(0, torch.tensor([2, 2], device="cuda"), torch.arange(2.0, device="cuda"))


@pytest.fixture
def everything_there():
    """New indexes are made on the GPU."""
    faiss.set_default_device("cuda")
    yield
    faiss.set_default_device("cpu")


def of_product_codes(**settings: Any) -> Any:
    index = faiss.IndexPQ(D, 2, 4)
    for name, value in settings.items():
        setattr(index if hasattr(index, name) else index.pq, name, value)
    return index


def several(kind: type, part: Callable[[], Any]) -> Any:
    made = kind(D, False)
    for _ in range(2):
        made.add_shard(part()) if hasattr(made, "add_shard") else made.addIndex(part())
    return made


def in_metric(metric: int) -> Any:
    quantizer = faiss.IndexFlat(D, metric)
    quantizer.metric_arg = 1.5
    index = faiss.IndexIVFFlat(quantizer, D, 3, metric)
    index.metric_arg, index.nprobe = 1.5, 3
    return index


def quick(key: str) -> Any:
    """An index of a factory string that does not train longer than a test must."""
    index = faiss.index_factory(D, key)
    for held in (index, getattr(index, "rq", None), getattr(index, "lsq", None), getattr(index, "pq", None)):
        for name, value in (("max_beam_size", 2), ("train_iters", 1), ("train_ils_iters", 1), ("encode_ils_iters", 1)):
            if hasattr(held, name):
                setattr(held, name, value)
        if hasattr(held, "cp"):
            held.cp.niter = 2
    return index


PQ = faiss.ProductQuantizer
KEYS = (
    *("PQ2x4np", "SQ4", "SQ6", "SQbf16", "SQ0", "SQtq2", "SQtqmse4", "LSHt", "LSHrt", "RaBitQ4", "RaBitQfs2", "EDEN2", "PQ4x4fs"),
    *("RQ2x3", "LSQ2x3", "PRQ2x1x3", "RQ2x3_Nqint4", "IVF3,Flat", "IVF3,PQ2x4np", "IVF3,SQ8", "IVF3,PQ4x4fsr", "IVF3,RaBitQ2"),
    *("PCA4,Flat", "PCAW4,Flat", "ITQ4,LSH", "HR,SQ4", "L2norm,Flat", "RR6,Flat", "Pad12,Flat", "IVF3,SQ4,RFlat", "MinMax,SQ8"),
    *(
        "IMI2x2,Flat",
        "IVF3_HNSW4,Flat",
        "IVF3(SQ8),Flat",
        "IVF3,FlatPanorama2_64",
        "IVF3,EDEN4",
        "IVF3,ITQ4,SH",
        "ZnLattice2x4_4",
    ),
)
MADE: dict[str, Callable[[], Any]] = {
    **{key: lambda key=key: quick(key) for key in KEYS},
    "OPQ": lambda: faiss.IndexPreTransform(quick_rotation(), faiss.IndexPQ(4, 2, 3)),
    "PQ, shared": lambda: of_product_codes(train_type=PQ.Train_shared),
    "PQ, hot start": lambda: of_product_codes(train_type=PQ.Train_hot_start),
    "PQ, hypercube": lambda: of_product_codes(train_type=PQ.Train_hypercube),
    "PQ, hypercube of PCA": lambda: of_product_codes(train_type=PQ.Train_hypercube_pca),
    "PQ, polysemous": lambda: of_product_codes(do_polysemous_training=True, search_type=faiss.IndexPQ.ST_polysemous),
    "PQ, symmetric": lambda: of_product_codes(search_type=faiss.IndexPQ.ST_SDC),
    "PQ, Hamming": lambda: of_product_codes(search_type=faiss.IndexPQ.ST_HE),
    "Shards": lambda: several(faiss.IndexShards, lambda: faiss.IndexFlatL2(D)),
    "Replicas": lambda: several(faiss.IndexReplicas, lambda: faiss.IndexFlatL2(D)),
    "2Layer": lambda: faiss.Index2Layer(faiss.IndexFlatL2(D), 3, 2, 4),
    "HNSW2Level": lambda: faiss.IndexHNSW2Level(faiss.IndexFlatL2(D), 3, 2, 4),
    "MultiIndex2": lambda: faiss.MultiIndexQuantizer2(D, 3, faiss.IndexFlatL2(D // 2), faiss.IndexFlatL2(D // 2)),
    "Lattice": lambda: faiss.IndexLattice(D, 2, 4, 4),
    "Random": lambda: faiss.IndexRandom(D),
    **{f"metric {m}": lambda m=m: in_metric(m) for m in (2, 3, 4, 20, 21, 22, 23, 24)},
}


def quick_rotation() -> Any:
    rotation = faiss.OPQMatrix(D, 2, 4)
    rotation.niter, rotation.niter_pq, rotation.niter_pq_0, rotation.pq = 2, 1, 2, PQ(4, 2, 3)
    return rotation


@pytest.mark.placing
@pytest.mark.parametrize("kind", MADE)
def test_an_index_is_trained_on_a_gpu(kind, everything_there):
    x = np.abs(vectors(60, 1))
    got = []
    for device in ("cpu", "cuda"):
        faiss.set_default_device(device)
        index = MADE[kind]()
        assert index.device.type == device
        given = there(index, np.ascontiguousarray(x[:, : index.d]))
        index.train(given)
        got += [answered(lambda index: index.add(given[:20]), index), answered(lambda index: index.sa_encode(given[:4]), index)]
        got.append(answered(lambda index: index.search(given[20:24], 3)[0], index))
        assert index.device.type == device
    for expected, found in zip(got[:3], got[3:]):
        assert_alike(expected, found, kind)
