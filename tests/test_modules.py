"""Indexes as nn.Modules: what they promise, without FAISS. What goes through which route is in test_module_routes.py."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from compare import assert_same_neighbours
from module_types import BIG, TYPES, D, K, N, built, data
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tsscompat
from tsscompat.errors import FaissError, FormatError
from tsscompat.kernels import fastscan as kernels
from tsscompat.kernels.metrics import FORMULAS
from tsscompat.modules import from_spec, load
from tsscompat.modules.distances import order_of
from tsscompat.modules.fastscan import rounded
from tsscompat.modules.structures import Lists

pytestmark = pytest.mark.usefixtures("without_faiss")


def test_sources(tmp_path):
    """A path, bytes and an index give the same module."""
    index = built(*TYPES["IVFPQ"])
    path = tmp_path / "index.faiss"
    tsscompat.write_index(index, str(path))
    expected = index.module(k=K)(data(5, 3))
    for source in (path, str(path), path.read_bytes(), index):
        got = tsscompat.from_faiss(source, k=K)(data(5, 3))
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    with pytest.raises(FaissError, match="expected an index"):
        tsscompat.from_faiss(3)
    with pytest.raises(FaissError, match="no module"):
        tsscompat.from_faiss(tsscompat.index_factory(D, "IVF4,FlatDedup"))


@pytest.mark.parametrize("name", ["IVFFlat", "PreTransform", "HNSW", "RefineFlat"])
def test_settings_are_given_or_fixed(name):
    """k, nprobe and efSearch of a call, of the module, of the index."""
    index, queries = built(*TYPES[name]), data(6, 4)
    own = index.module()
    for k, effort in ((1, 1), (7, 3), (N + 5, 4)):
        fixed = index.module(k=k, nprobe=effort, efSearch=max(8, 4 * effort))
        given = own.search(queries, k, nprobe=effort, efSearch=max(8, 4 * effort))
        assert torch.equal(fixed(queries)[1], given[1]) and torch.equal(fixed(queries)[0], given[0])
        assert given[1].shape == (6, k) and given[1].dtype == torch.int64
        space = tsscompat.ParameterSpace()
        twin = tsscompat.clone_index(index)
        space.set_index_parameter(
            twin, "efSearch" if name == "HNSW" else "nprobe", max(8, 4 * effort) if name == "HNSW" else effort
        )
        assert_same_neighbours(twin.search(queries, k), given, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Flat", "IVFFlat", "IVFPQ", "SQ8", "HNSW", "PCA"])
def test_half_precision_and_modes(name):
    """half() keeps distances right to half precision, even where squared norms would not fit; train() and eval() change nothing."""
    scale = 100.0
    index = tsscompat.index_factory(D, TYPES[name][0], TYPES[name][1])
    index.train(scale * data(N, 1))
    index.add(scale * data(N, 2))
    module, queries = index.module(k=K), scale * data(5, 3)
    expected = module(queries)
    for mode in (module.train(), module.eval()):
        assert torch.equal(mode(queries)[1], expected[1])
    half = module.half()
    assert all(t.dtype != torch.float32 for n, t in half.state_dict().items() if n.rsplit(".", 1)[-1] in ("rows", "centroids"))
    distances, labels = half(queries.half())
    assert distances.dtype == torch.float32 and (labels >= 0).all() and distances.isfinite().all()
    assert float((distances - expected[0]).abs().max()) <= 0.02 * float(expected[0].abs().max())


def test_behind_a_model_in_one_sequential(tmp_path):
    """An embedding model and an index are one module, and one exported program."""
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, D), built(*TYPES["IVFFlat"]).module(k=K)).eval()
    texts = torch.rand(6, 3)
    expected = model[-1](model[:3](texts))
    held = torch.export.export(model, (texts[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert torch.equal(held.module()(texts)[1], expected[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.jit.script(model)(texts)[1], expected[1])


@pytest.mark.parametrize(
    "name", ["Flat", "Flat-IP", "Flat-L1", "IVFFlat", "IVFPQ", "PQ", "PreTransform", "RefineFlat", "HNSW", "IDMap"]
)
def test_gradients_reach_the_queries(name):
    """Of each distance: the gradient that autograd finds for the vector that the index stores."""
    index, queries = built(*TYPES[name]), data(5, 3).requires_grad_()
    distances, labels = index.module().search(queries, 3, grad=True)
    distances.sum().backward()
    found = queries.grad
    again = queries.detach().clone().requires_grad_()
    inner, x = index, again
    if name == "PreTransform":
        inner, x = index.index, again @ index.chain.at(0)._matrix.t()
    elif name == "RefineFlat":
        inner = index.refine_index
    elif name == "IDMap":
        inner, labels = index.index, labels - BIG
    if hasattr(inner, "make_direct_map"):
        inner.make_direct_map()
    vectors = inner.reconstruct_batch(labels.flatten()).view(5, 3, -1)
    FORMULAS[index.metric_type](x[:, None], vectors, 0.0).sum().backward()
    torch.testing.assert_close(found, again.grad, rtol=1e-3, atol=1e-4)
    assert not index.module().search(queries, 3)[0].requires_grad


@pytest.mark.parametrize("key", ["BFlat", "BIVF4", "BHNSW4", "IDMap,BFlat"])
def test_binary_codes(key):
    """Distances are exact whole numbers; ids may differ where they are tied."""
    base = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (N, 4), dtype=np.uint8))
    queries = base[:6] ^ 5
    index = tsscompat.index_binary_factory(32, "BFlat" if "," in key else key)
    index = tsscompat.IndexBinaryIDMap(index) if "," in key else index
    index.train(base)
    index.add_with_ids(base, torch.arange(N) + BIG) if "," in key else index.add(base)
    if hasattr(index, "nprobe"):
        index.nprobe = 2
    expected, module = index.search(queries, K), index.module(k=K)
    of_bytes = tsscompat.from_faiss(tsscompat.serialize_index_binary(index).tobytes(), k=K)
    for search in (module, of_bytes):
        distances, labels = search(queries)
        assert distances.dtype == torch.int32 and torch.equal(distances, expected[0])
        assert_same_neighbours(expected, (distances, labels))


@pytest.mark.parametrize("name", ["PQfs", "PQfs-IP", "IVFPQfsr", "IVFPQfsr-IP"])
def test_gradients_of_a_fast_scan_are_those_of_what_it_rounds(name):
    """Distances are the index's, rounded; their gradients are those of the distances to what the codes stand for."""
    index, queries = built(*TYPES[name]), data(5, 3).requires_grad_()
    distances, labels = index.module().search(queries, 3, grad=True)
    distances.sum().backward()
    again = queries.detach().clone().requires_grad_()
    if "IVF" in name:
        index.make_direct_map()
    vectors = index.reconstruct_batch(labels.flatten()).view(5, 3, -1)
    FORMULAS[index.metric_type](again[:, None], vectors, 0.0).sum().backward()
    torch.testing.assert_close(queries.grad, again.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("parts", "norms", "weight"), [(4, 0, 1), (5, 2, 3)])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["a table a query", "a table a probe"])
def test_tables_are_rounded_as_the_kernel_rounds_them(parts, norms, weight, shape):
    draw = torch.Generator().manual_seed(parts)
    tables, biases = torch.randn(20, *shape, parts, 16, generator=draw), torch.randn(20, 3, generator=draw)
    expected = kernels.quantize(tables, biases, norms, weight if norms else 0)
    there = torch.ones(20, 3, dtype=torch.bool)
    got = rounded(tables if shape else tables[:, None], biases, there, norms, weight)
    assert torch.equal(got[0].reshape(-1, parts, 16), expected.whole()[:, :parts]) and torch.equal(
        got[1], expected.biases.float()
    )
    assert torch.equal(got[2], expected.scale) and torch.equal(got[3], expected.start)


@pytest.mark.parametrize("name", ["Flat", "Flat-IP", "IVFFlat", "IVFFlat-IP", "IDMap", "PCA", "RefineFlat", "HNSW", "IVFSQ-half"])
def test_gradients_reach_stored_vectors(name):
    """The gradient of a stored vector is that of the distances of which it is an end."""
    module, queries = built(*TYPES[name]).module(), data(5, 3)
    inner, x = module, queries
    if name == "PCA":
        inner, x = module.index, module.chain[0](queries)
    elif name in ("IDMap", "RefineFlat"):
        inner = module.index if name == "IDMap" else module.refine
    rows = inner.codec.rows.requires_grad_()
    distances, labels = module.search(queries, 3, grad=True)
    distances.sum().backward()
    places = labels - BIG if name == "IDMap" else labels
    if "IVF" in name:
        places = (inner.ids == labels[..., None]).long().argmax(-1)
    again = rows.detach().clone().float().requires_grad_()
    stored = again[places]
    if name == "IVFSQ-half":
        stored = stored + inner.coarse.vectors((inner.offsets[1:] <= places[..., None]).sum(-1))
    FORMULAS[module.metric](x[:, None], stored, 0.0).sum().backward()
    torch.testing.assert_close(rows.grad.float(), again.grad, rtol=1e-3, atol=1e-2 if "half" in name else 1e-4)
    assert 3 <= int((rows.grad.abs().sum(1) > 0).sum()) <= 15
    assert not module.search(queries, 3)[0].requires_grad


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, Tensor) and one._base is None:
                self.elements = max(self.elements, one.numel())
        return out


@pytest.mark.parametrize("key", ["IVF4,Flat", "IVF4,PQ2x4np", "IVF4,SQ8"])
def test_no_search_gathers_everything(key):
    """All lists of a large index for a batch: no tensor comes near batch x rows x d numbers."""
    n, batch = 40_000, 64
    index = tsscompat.index_factory(D, key)
    index.train(data(2000, 1))
    index.add(data(n, 2))
    module = index.module(nprobe=4)
    with Largest() as largest:
        module(data(batch, 3))
    assert 0 < largest.elements <= 2 * module.STEP < batch * n * D / 2


@pytest.mark.parametrize("key", ["IVF4,Flat", "IVF4,PQ2x4np", "IVF4,SQ8", "IVF4,PQ4x4fs", "IVF4,RQ2x4"])
def test_one_query_gathers_no_more_than_a_step(key, monkeypatch):
    """A query of its own looks at its rows at once where they fit a step, else page by page, with the same answer."""
    index = tsscompat.index_factory(D, key)
    index.train(data(600, 1))
    index.add(data(20_000, 2))
    module, queries = index.module(k=K, nprobe=3), data(3, 3)
    expected = [module(query[None]) for query in queries]
    monkeypatch.setattr(Lists, "STEP", 1 << 13)
    for query, whole in zip(queries, expected):
        with Largest() as largest:
            distances, labels = module(query[None])
        assert 0 < largest.elements <= 2 * module.STEP
        assert torch.equal(labels, whole[1]) and torch.equal(distances, whole[0])


def test_equal_numbers_stay_in_order_when_traced():
    """Programs order ties as they come, also where torch's sort does not."""
    torch._dynamo.reset()
    traced = torch.compile(order_of, fullgraph=True, dynamic=True, backend="eager")
    for columns in (2, 18, 40, 300):
        x = torch.randint(4, (30, columns), generator=torch.Generator().manual_seed(columns))
        for values in (x, x.float(), torch.where(x == 3, float("inf"), x.float())):
            assert torch.equal(traced(values), torch.sort(values, dim=1, stable=True)[1])


@pytest.mark.parametrize("key", ["Flat", "IVF4,Flat"])
def test_traced_ties_are_in_order_of_id(key):
    """Each vector is there twice; 20 results."""
    torch._dynamo.reset()
    index = tsscompat.index_factory(D, key)
    index.train(data(N, 1))
    index.add(data(N, 2).repeat(2, 1))
    expected = index.search(data(6, 3), 20)
    search = torch.compile(index.module(k=20), fullgraph=True, dynamic=True, backend="eager")
    labels = search(data(6, 3))[1]
    assert torch.equal(labels, expected[1]) and (expected[0][:, ::2] == expected[0][:, 1::2]).all()


@pytest.mark.parametrize(
    "key", ["Flat", "IVF4,Flat", "HNSW4", "PQ2x4np", "PQ4x4fs", "IVF4,PQ4x4fs", "IVF4,RQ2x4fs_Nrq2x4", "IDMap,SQ8"]
)
def test_an_empty_index(key):
    index = tsscompat.index_factory(D, key)
    index.train(data(N, 1))
    distances, labels = index.module(k=2)(data(3, 3))
    assert (labels == -1).all() and (distances == torch.finfo(torch.float32).max).all()


def test_files_are_checked(tmp_path):
    torch.save({"format": "other"}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="was not written"):
        load(tmp_path / "a.pt")
    floats = {"type": "Floats", "settings": {}, "parts": {}}
    for spec in (None, {"type": "os.system"}, {**floats, "type": "Named"}, {**floats, "parts": {"other": floats}}):
        with pytest.raises(FormatError):
            from_spec(spec)


def test_the_numpy_door_stays_shut():
    """A module takes tensors; an index takes arrays."""
    with pytest.raises((TypeError, AttributeError)):
        built(*TYPES["Flat"]).module()(np.zeros((1, D), np.float32))
