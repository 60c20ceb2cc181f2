"""`python -m tsscompat demo`: an IVF-PQ index from training to search, with what it costs and what it finds."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence

import torch
from torch import Tensor

import tsscompat

CHUNK = 20_000
K = 10


def synthetic(n: int, d: int, seed: int, centers: Tensor) -> Tensor:
    """Vectors around many centers of unequal size, on a subspace with some noise: about as hard to search as text embeddings."""
    draw = torch.Generator().manual_seed(seed)
    # Squaring the uniform draw makes some clusters far larger than others.
    which = (torch.rand(n, generator=draw).square() * len(centers)).long()
    return centers[which] + 0.5 * torch.randn(n, d, generator=draw)


def progress(label: str, done: int, total: int, started: float) -> None:
    """One line that is written over as the work goes on."""
    bar = "#" * (24 * done // total)
    end = "\n" if done >= total else ""
    print(f"\r{label:<8} [{bar:<24}] {done:>9,} / {total:,}  {time.perf_counter() - started:5.1f} s", end=end, flush=True)


def arguments_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The demo's options."""
    parser = argparse.ArgumentParser(prog="python -m tsscompat demo", description=__doc__)
    parser.add_argument("--vectors", type=int, default=200_000, help="how many to index (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=1_000, help="how many to search (default: %(default)s)")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--index", default="IVF512,PQ16np", help="a factory string (default: %(default)s)")
    parser.add_argument("--nprobe", type=int, default=16)
    parser.add_argument("--device", help="where it lives, for instance cuda (default: CUDA where there is one, else the CPU)")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, base: Tensor) -> tsscompat.Index:
    """A trained index that holds the base vectors."""
    index = tsscompat.index_factory(options.dimension, options.index)
    started = time.perf_counter()
    sample = base[:: max(1, len(base) // 100_000)]
    print(f"train    on {len(sample):,} vectors ...", end="", flush=True)
    index.train(sample)
    print(f"\rtrain    on {len(sample):,} vectors: {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    for start in range(0, len(base), CHUNK):
        index.add(base[start : start + CHUNK])
        progress("add", min(start + CHUNK, len(base)), len(base), started)
    return index


def through_a_file(index: tsscompat.Index) -> tuple[tsscompat.Index, int]:
    """The index written in FAISS's format and read back, and the size of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "demo.faiss")
        started = time.perf_counter()
        tsscompat.write_index(index, path)
        size = os.path.getsize(path)
        read = tsscompat.read_index(path)
    print(f"file     {size / 2**20:.1f} MiB written and read back: {time.perf_counter() - started:.2f} s")
    return read, size


def measure(index: tsscompat.Index, base: Tensor, queries: Tensor) -> tuple[float, float]:
    """Recall of the true ten nearest neighbours, and queries per second."""
    truth: Tensor = tsscompat.knn(queries, base, K)[1]
    index.search(queries[:64], K)  # compiled kernels are loaded at their first use
    times = []
    for _ in range(3):
        started = time.perf_counter()
        _, found = index.search(queries, K)
        times.append(time.perf_counter() - started)
    hits = (truth[:, :, None] == found[:, None, :]).any(dim=2).float().mean()
    return float(hits), len(queries) / min(times)


def main(arguments: Sequence[str] = ()) -> int:
    """Build, write, read, search, report."""
    options = arguments_of(arguments)
    if options.device:
        tsscompat.set_default_device(options.device)
    n, d = options.vectors, options.dimension
    print(f"{options.index} on {n:,} synthetic vectors of {d} dimensions, on {tsscompat.default_device()}")
    centers = 1.2 * torch.randn(2_000, d, generator=torch.Generator().manual_seed(7))
    base, queries = synthetic(n, d, 1, centers), synthetic(options.queries, d, 2, centers)
    index, size = through_a_file(build(options, base))
    ivf = tsscompat.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.nprobe = options.nprobe
    recall, rate = measure(index, base, queries)
    print(f"recall   {recall:.3f} of the true {K} nearest neighbours")
    print(f"speed    {rate:,.0f} queries per second, in batches of {options.queries:,}")
    print(f"memory   {size / n:.1f} bytes per vector, {4 * d} before")
    return 0
