"""Advice: estimates within 5 % of what is then held, recommendations that keep their promises."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
import torch
from torch import Tensor

import tsscompat
from tsscompat.advice.recommend import _settings
from tsscompat.cli import main
from tsscompat.errors import ArgumentError, FaissError

D, N = 32, 12_000
KEYS = [
    "Flat",
    "SQ8",
    "PQ8np",
    "PQ8x4np",
    "HNSW16",
    "HNSW8,SQ8",
    "IVF64,Flat",
    "IVF64,SQ4",
    "IVF64,PQ8np",
    "IVF64_HNSW8,PQ8np",
    "IDMap,Flat",
    "PCA16,IVF64,Flat",
    "RR16,IVF64,PQ8x4np",
    "IVF64,PQ8np,RFlat",
]
# Types that are built of fewer vectors.
RARER = [
    "PQ8x4fs",
    "IVF16,PQ8x4fs",
    "IVF16,PQ8x4fsr",
    "RaBitQ",
    "RaBitQfs",
    "IVF16,RaBitQ4",
    "IVF16,RaBitQfs",
    "RQ3x4",
    "IVF16,RQ3x4",
    "IVF16,RQ3x4fs_Nrq2x4",
    "PRQ2x2x4",
    "NSG8",
    "HNSW8,PQ8x4np",
    "ITQ16,LSH",
    "OPQ8,IVF16,PQ8x4np",
    "IVF16,FlatPanorama4",
    "IMI2x4,PQ8x4np",
    "SQ8,Refine(SQfp16)",
    "BFlat",
    "BIVF16",
    "BHNSW8",
    "IDMap,BFlat",
]


def data(n: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(50, D, generator=torch.Generator().manual_seed(7))
    return centers[torch.randint(50, (n,), generator=draw)] + torch.randn(n, D, generator=draw)


def built(key: str, metric: int = tsscompat.METRIC_L2):
    index = tsscompat.index_factory(D, key, metric)
    index.train(data(N, 1))
    index.add_with_ids(data(N, 1), torch.arange(N)) if key.startswith("IDMap") else index.add(data(N, 1))
    return index


def held_by(index) -> int:
    """Bytes of the tensors that the garbage collector reaches from an index, each storage once: nothing of ours is asked."""
    waiting, seen, storages = [index], set(), {}
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif id(one) not in seen and not isinstance(one, (type, str, int, float)):
            seen.add(id(one))
            if isinstance(one, (dict, list, tuple)) or (
                type(one).__module__.startswith("tsscompat.") and hasattr(one, "__dict__")
            ):
                waiting += [r for r in gc.get_referents(one) if not isinstance(r, type)]
    return sum(storages.values())


@pytest.mark.parametrize("key", KEYS)
def test_an_estimate_is_within_5_percent(key):
    index = built(key)
    index.search(data(40, 3), 5)
    estimate, used = tsscompat.estimate_memory(key, d=D, n=N), index.memory_usage()
    assert estimate.total == pytest.approx(used.total, rel=0.05)
    assert used.total == held_by(index)
    for part in ("vectors", "codes", "ids", "graph"):
        assert estimate.parts[part] == pytest.approx(used.parts[part], rel=0.05), part
    assert used.n == N and used.per_vector == used.total / N and used.compression == 4 * N * D / used.total


@pytest.mark.parametrize("key", RARER)
def test_an_estimate_of_other_types_is_within_5_percent(key):
    # What 256 lists of a dozen entries have in reserve depends on how evenly they are filled: more entries there.
    n, binary = 12_000 if key.startswith("IMI") else 3000, "B" in key.split(",")[-1][:1]
    d = 256 if binary else D
    index = tsscompat.index_binary_factory(d, key) if binary else tsscompat.index_factory(d, key)
    x = torch.randint(0, 256, (n, 32), dtype=torch.uint8) if binary else data(n, 1)
    index.train(x)
    index.add_with_ids(x, torch.arange(n)) if key.startswith("IDMap") else index.add(x)
    index.search(x[:40], 5)
    estimate, used = tsscompat.estimate_memory(key, d=d, n=n), index.memory_usage()
    assert estimate.total == pytest.approx(used.total, rel=0.05)
    assert used.total == held_by(index)
    assert used.compression == (n * 32 if binary else 4 * n * D) / used.total
    assert estimate.parts["graph"] == pytest.approx(used.parts["graph"], rel=0.05)


@pytest.mark.parametrize("key", KEYS)
def test_an_estimate_without_tables_and_room_is_what_a_file_has(key):
    estimate = tsscompat.estimate_memory(key, d=D, n=N, searched=False)
    assert estimate.total - estimate.parts["room"] == pytest.approx(tsscompat.serialize_index(built(key)).nbytes, rel=0.05)


def test_of_many_vectors():
    report = tsscompat.estimate_memory("OPQ16,IVF4096,PQ16", d=1152, n=10_000_000)
    assert report.parts["codes"] == 160_000_000 and report.parts["ids"] == 80_000_000
    assert 24 < report.per_vector < 40 and report.compression > 100
    assert json.loads(json.dumps(report.as_dict()))["total"] == report.total and "codes" in str(report)
    with pytest.raises(FaissError):
        tsscompat.estimate_memory("PQ7", d=32, n=10)
    with pytest.raises(ArgumentError):
        tsscompat.estimate_memory("Flat", d=32, n=-1)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (5_000, 32), (1_000_000, 100), (100_000_000, 768), (20_000, 7)])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_recommendations_can_be_built(n, d, metric):
    answer = tsscompat.recommend(n, d, metric, recall=0.9)
    enough = [c.recall >= 0.9 for c in answer]
    assert enough == sorted(enough, reverse=True) and enough[0]
    for candidate in answer:
        assert tsscompat.index_factory(d, candidate.key).d == d
        assert candidate.memory == tsscompat.estimate_memory(candidate.key, d, n, {"l2": 1, "ip": 0}[metric]).total
    assert [c["key"] for c in json.loads(answer.to_json())["candidates"]] == [c.key for c in answer]
    assert all(c.key in answer.table() for c in answer)


def test_memory_is_a_limit():
    within = tsscompat.recommend(1_000_000, 128, memory=200 * 2**20, recall=0.9)
    assert all(c.memory <= 200 * 2**20 for c in within) and not any(c.key == "Flat" for c in within)
    with pytest.raises(FaissError, match="no index fits"):
        tsscompat.recommend(1_000_000, 128, memory=1000)
    for wrong in ({"n": 0}, {"d": 0}, {"recall": 1.5}, {"metric": "angle"}):
        with pytest.raises(ArgumentError):
            tsscompat.recommend(**{"n": 10, "d": 4, **wrong})


def test_training_sizes_are_warned_of():
    (candidate,) = [c for c in tsscompat.recommend(5000, 32) if c.key.endswith("PQ8np")]
    assert any("please provide at least 9984" in warning for warning in candidate.warnings)
    assert not any(c.warnings for c in tsscompat.recommend(1_000_000, 32))


@pytest.mark.parametrize(
    "key", ["IVF64,Flat", "OPQ8,IVF16,PQ8x6np", "IDMap,PQ4x4np", "HNSW8,PQ8x5np", "IVF32,PQ8+8", "IMI2x5,SQ8", "SQ8"]
)
def test_estimates_warn_of_what_training_warns_of(key, capfd):
    """For every number of vectors: as many centroids named, as many vectors wanted, as training says itself."""
    for n in (40, 300, 900, 2600):
        warned = tsscompat.estimate_memory(key, d=D, n=n).warnings
        capfd.readouterr()
        if any("should be" in text for text in warned):
            with pytest.raises(FaissError, match="training points"):
                tsscompat.index_factory(D, key).train(data(n, 1))
            continue
        tsscompat.index_factory(D, key).train(data(n, 1))
        said = {line.split("WARNING ")[1] for line in "\n".join(capfd.readouterr()).splitlines() if "WARNING clustering" in line}
        assert {text for text in warned if "clustering" in text} == said, n
    assert not tsscompat.estimate_memory(key, d=D, n=1_000_000).warnings
    assert "warning: " in str(tsscompat.estimate_memory("IVF64,Flat", d=D, n=100))


def test_what_is_recommended_fits_its_own_sizes():
    """nprobe is no more than nlist, codes fit d, and where training would refuse there is no recommendation."""
    for n, d in ((500, 7), (5_000, 30), (200_000, 100), (50_000_000, 768)):
        for candidate in tsscompat.recommend(n, d):
            index = tsscompat.index_factory(d, candidate.key)
            assert not any("should be" in text for text in candidate.warnings)
            if "nprobe" in candidate.parameters:
                lists = int(candidate.key.split("IVF")[1].split(",")[0].split("_")[0])
                assert 1 <= int(candidate.parameters.split("nprobe=")[1].split(",")[0]) <= lists <= n
                tsscompat.ParameterSpace().set_index_parameters(index, candidate.parameters)


def test_with_a_sample_it_measures(tmp_path):
    lines: list[str] = []
    answer = tsscompat.recommend(1200, D, recall=0.9, sample=data(1200, 1), progress=lines.append)
    assert answer.complete and all(c.measured for c in answer) and len(lines) == 2 * len(answer)
    best = answer[0]
    assert best.recall >= 0.9 and best.queries_per_second == max(c.queries_per_second for c in answer if c.recall >= 0.9)
    # What is promised holds on the vectors that were measured, by ParameterSpace's own setting.
    base, queries = data(1200, 1)[:-200], data(1200, 1)[-200:]
    index = tsscompat.index_factory(D, best.key)
    index.train(base)
    index.add(base)
    if best.parameters:
        tsscompat.ParameterSpace().set_index_parameters(index, best.parameters)
    truth, found = tsscompat.knn(queries, base, 10)[1], index.search(queries, 10)[1]
    assert float((truth[:, :, None] == found[:, None]).any(2).float().mean()) == pytest.approx(best.recall, abs=0.02)
    pytest.importorskip("matplotlib")
    answer.plot(str(tmp_path / "frontier.png"))
    assert (tmp_path / "frontier.png").stat().st_size > 1000


@pytest.mark.parametrize("key", ["IVF8,SQ8", "IVF8,PQ4x4np,RFlat", "OPQ8,IVF8,PQ8x4np,RFlat"])
def test_as_many_lists_are_probed_as_there_are(key):
    """Up to all, and no more, behind a refinement too; ParameterSpace takes each setting."""
    index, space = tsscompat.index_factory(D, key), tsscompat.ParameterSpace()
    tried = list(_settings(key, index))
    for setting in tried:
        space.set_index_parameters(index, setting)
    probes = [int(setting.split(",")[0].removeprefix("nprobe=")) for setting in tried]
    assert sorted(set(probes)) == [1, 4, 8] and probes == sorted(probes)


def test_cosine_measures_vectors_of_length_1():
    """Where lengths would rule the inner product, the frontier is that of directions."""
    x = data(700, 1) * torch.logspace(-2, 2, 700)[torch.randperm(700, generator=torch.Generator().manual_seed(3))][:, None]
    answers = [
        tsscompat.recommend(700, D, metric, sample=s, progress=None)
        for metric, s in (("cosine", x), ("ip", x / x.norm(dim=1)[:, None]))
    ]
    assert [p[:3] for p in answers[0].frontier] == [p[:3] for p in answers[1].frontier]
    assert any("SQ8" in p[0] and p[2] > 0.9 for p in answers[0].frontier)


def test_it_stops_when_time_is_up():
    lines: list[str] = []
    answer = tsscompat.recommend(6000, D, sample=data(6000, 1), seconds=0, progress=lines.append)
    assert not answer.complete and not any(c.measured for c in answer) and "time is up" in lines[-1]


def test_commands(tmp_path, capsys):
    assert main(["estimate", "IVF64,PQ8np", "-d", "32", "-n", "1000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["codes"] == 8000
    np.save(tmp_path / "sample.npy", data(900, 1).numpy())
    assert main(["recommend", "-n", "900", "-d", "32", "--memory", "1G", "--sample", str(tmp_path / "sample.npy")]) == 0
    assert "q/s" in capsys.readouterr().out
