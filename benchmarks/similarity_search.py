"""Search modules beside torch-similarity-search 0.0.4, on its own scope: Flat, IVFFlat and IVFPQ, read from FAISS.

    pip install torch-similarity-search==0.0.4 faiss-cpu tsscompat && python benchmarks/similarity_search.py

First what each gets right, against FAISS's answers; then the time of one search, both in turns in one process, the best of several.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch_similarity_search as other

import tsscompat

D = 64


def vectors(n: int, seed: int, d: int = D) -> np.ndarray:
    """Vectors around 100 centres."""
    centres = np.random.default_rng(7).standard_normal((100, d))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(100, size=n)] + 0.7 * rng.standard_normal((n, d))).astype(np.float32)


def index_of(key: str, n: int = 2000, metric: int = faiss.METRIC_L2, ids: np.ndarray | None = None, **settings: Any) -> Any:
    """FAISS's index of a factory string."""
    # The other knows exhaustive search by the names IndexFlatL2 and IndexFlatIP only, which the factory does not use.
    index = faiss.IndexFlatL2(D) if key == "FlatL2" else faiss.index_factory(D, key, metric)
    for name, value in settings.items():
        setattr(index, name, value)
    index.train(vectors(max(n // 4, 4000), 1))
    index.add(vectors(n, 2)) if ids is None else index.add_with_ids(vectors(n, 2), ids)
    return index


def right(convert: Callable[[Any], Any], index: Any, k: int = 5, change: Callable[[Any], Any] = lambda m: m) -> str:
    """Whether a module, perhaps changed, finds what FAISS finds."""
    queries = vectors(50, 3)
    truth = index.search(queries, k)[1]
    try:
        found = change(convert(index))(torch.from_numpy(queries))[1].numpy()
    except Exception as e:
        return f"no: {type(e).__name__}: {str(e).strip().splitlines()[0][:60]}" if str(e).strip() else f"no: {type(e).__name__}"
    share = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(truth, found)])
    return "yes" if share > 0.999 else f"no: {share:.0%} of the neighbours"


def of_k(k: int) -> Callable[[Any], Any]:
    """Answers of k results."""
    return lambda module: lambda queries: module.search(queries, k)


def reloaded(module: Any) -> Any:
    """state_dict into a fresh module."""
    fresh = (
        module.fresh() if hasattr(module, "fresh") else type(module)(D, *((module.nlist,) if hasattr(module, "nlist") else ()))
    )
    fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    return of_k(5)(fresh)


def exported(module: Any) -> Any:
    """torch.export for batches of any size."""
    module.k = 5
    return torch.export.export(module, (torch.rand(2, D),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()


def scripted(module: Any) -> Any:
    """TorchScript, through a file."""
    with tempfile.TemporaryDirectory() as folder:
        torch.jit.script(module).save(str(Path(folder) / "m.pt"))
        return of_k(5)(torch.jit.load(str(Path(folder) / "m.pt")))


def probing(n: int) -> Callable[[Any], Any]:
    """The module's own nprobe set to n."""

    def change(module: Any) -> Any:
        module.nprobe = n
        return of_k(5)(module)

    return change


def cases() -> list[tuple[str, Any, Callable[[Any], Any]]]:
    """What is asked of both: a name, FAISS's index, what becomes of the module."""
    ip, big = faiss.METRIC_INNER_PRODUCT, np.arange(2000) + 2**40
    flat = faiss.IndexFlat(D, faiss.METRIC_L2)
    flat.add(vectors(2000, 2))
    l1 = faiss.IndexFlat(D, faiss.METRIC_L1)
    l1.add(vectors(2000, 2))
    return [
        ("IndexFlatL2", index_of("FlatL2"), of_k(5)),
        ("IndexFlat", flat, of_k(5)),
        ("IndexFlat, L1", l1, of_k(5)),
        ("IVFFlat, the index's nprobe", index_of("IVF32,Flat", nprobe=2), of_k(5)),
        ("IVFFlat, nprobe set", index_of("IVF32,Flat", nprobe=4), probing(4)),
        ("IVFFlat, ids beyond 2^31", index_of("IVF32,Flat", ids=big, nprobe=32), of_k(5)),
        ("IVFPQ", index_of("IVF32,PQ8np", nprobe=20), of_k(5)),
        ("IVFPQ, inner product", index_of("IVF32,PQ8np", metric=ip, nprobe=20), of_k(5)),
        ("IVFPQ, by_residual=False", index_of("IVF32,PQ8np", by_residual=False, nprobe=20), of_k(5)),
        ("IVFPQ of 4 bits", index_of("IVF32,PQ16x4np", nprobe=20), of_k(5)),
        ("eval()", index_of("IVF32,Flat", nprobe=20), lambda m: of_k(5)(m.eval())),
        ("state_dict into a fresh module", index_of("IVF32,Flat", nprobe=20), reloaded),
        ("TorchScript", index_of("IVF32,Flat", nprobe=20), scripted),
        ("torch.export", index_of("IVF32,Flat", nprobe=20), exported),
    ]


def share_from_scratch(made: Any) -> float:
    """The share of the true neighbours by inner product that an index finds which was trained and filled without FAISS."""
    base, queries = torch.from_numpy(vectors(4000, 2)), torch.from_numpy(vectors(50, 3))
    made.train(base)
    made.add(base)
    truth = (queries @ base.T).topk(5).indices
    found = torch.as_tensor(made.search(queries, 5)[1])
    return float((truth[:, :, None] == found[:, None]).any(2).float().mean())


def from_scratch() -> str:
    """IVFPQ by inner product of each one's own making."""
    ours = tsscompat.index_factory(D, "IVF32,PQ8np", faiss.METRIC_INNER_PRODUCT)
    ours.nprobe = 32
    shares = [share_from_scratch(made) for made in (other.IVFPQIndex(D, 32, 8, metric="ip", nprobe=32), ours)]
    return " | ".join(f"{share:.0%} of the true neighbours" for share in shares)


def seconds(searches: list[Callable[[], Any]], least: float) -> list[float]:
    """The best time of each of some searches that take turns for a while, five turns at least."""
    best, turns, end = [float("inf")] * len(searches), 0, time.perf_counter() + least
    while turns < 5 or time.perf_counter() < end:
        for i, search in enumerate(searches):
            started = time.perf_counter()
            search()
            best[i] = min(best[i], time.perf_counter() - started)
        turns += 1
    return best


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--vectors", type=int, default=100_000)
    options.add_argument("--seconds", type=float, default=1.0, help="for each pair of times measured")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    print("| case | torch-similarity-search | tsscompat |\n|---|---|---|")
    for name, index, change in cases():
        print(
            f"| {name} | {right(other.from_faiss, index, change=change)} | {right(tsscompat.from_faiss, index, change=change)} |"
        )
    print(f"| IVFPQ, inner product, from scratch | {from_scratch()} |")
    print("\n| ms a search | batch | torch-similarity-search | tsscompat | ratio |\n|---|---|---|---|---|")
    for key in ("FlatL2", "IVF256,Flat", "IVF256,PQ16np"):
        index = index_of(key, given.vectors)
        ours, theirs = tsscompat.from_faiss(index, k=10, nprobe=16), other.from_faiss(index)
        if key != "FlatL2":
            theirs.nprobe = 16
        for batch in (1, 16, 128):
            queries = torch.from_numpy(vectors(batch, 3))
            with torch.no_grad():
                a, b = seconds([lambda: theirs.search(queries, 10), lambda: ours.search(queries, 10)], given.seconds)
            print(f"| {key} | {batch} | {a * 1e3:.2f} | {b * 1e3:.2f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
