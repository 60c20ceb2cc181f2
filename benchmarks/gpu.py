"""tsscompat on one GPU against FAISS's GPU build, its cuVS one, and flash-kmeans where they can be imported: one command, under 9 minutes.

python benchmarks/gpu.py                  # the sizes of docs/gpu.md
python benchmarks/gpu.py --tiny           # seconds, on a CPU too: shows that the command works, its times mean nothing
python benchmarks/gpu.py --rows 'Flat' --minutes 3

Each row is checked before it is timed: the exact ones against float32 distances, the others by their recall, which stands beside the time.
A peer that is not there, or that refuses an index, is named at the end with the reason, and in the JSON file.

Times are medians between CUDA events, data and answers on the GPU. A floor is the larger of a row's operations over the measured rate of
the unit that does them and its bytes over the measured bandwidth of a copy; `of floor` is the floor over the time.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gc
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_peers import Peers

import tsscompat
from tsscompat.algorithms.replays import MOST, RECORDERS
from tsscompat.kernels.accelerate import find_twin
from tsscompat.kernels.flat import nearest
from tsscompat.kernels.segments import segment_sums

RESULTS = Path(__file__).resolve().parent / "results"
K = 10
# Candidates that walks of a graph keep, and the recall for which they are chosen.
CANDIDATES, RECALL = (16, 24, 32, 48, 64, 96, 128, 192, 256, 512), 0.95


@dataclass(frozen=True)
class Sizes:
    """How much data, and which searches."""

    rows: int
    wide_rows: int
    large_rows: int
    dims: int
    wide: int
    nlist: int
    clusters: int
    batches: tuple[int, ...]
    probes: tuple[int, ...]


FULL = Sizes(1_000_000, 1_000_000, 10_000_000, 128, 768, 4096, 1024, (1, 16, 1000, 10_000), (1, 8, 32, 128))
TINY = Sizes(2000, 500, 3000, 32, 48, 16, 8, (1, 20), (1, 4))
RECIPES = ("Flat", "IVF{n},Flat", "IVF{n},PQ16x8", "IVF{n},PQ32x8", "IVF{n},PQ64x8", "IVF{n},PQ32x4")


@dataclass
class Row:
    """One measurement."""

    case: str
    nq: int
    k: int
    nprobe: int
    ms: float
    recall: float
    floor_ms: float
    peers_ms: dict[str, float] = field(default_factory=dict)
    peers_recall: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """The row as it is printed."""
        recalls = {name: self.peers_recall.get(name, 1.0) for name in self.peers_ms}
        ratios = "  ".join(f"{name} x{ms / self.ms:.2f} (recall {recalls[name]:.3f})" for name, ms in self.peers_ms.items())
        probes = f" nprobe {self.nprobe}" if self.nprobe else ""
        share = self.floor_ms / self.ms
        return f"{self.case:24} nq {self.nq:6}{probes:12} {self.ms:10.3f} ms  recall {self.recall:.4f}  of floor {share:6.1%}  {ratios}"


class Clock:
    """Times between CUDA events; by the wall where there is no GPU."""

    def __init__(self, device: torch.device, least: int, seconds: float) -> None:
        self.device, self.least, self.seconds = device, least, seconds

    def once(self, call: Callable[[], Any]) -> float:
        """Milliseconds of one call."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            call()
            return (time.perf_counter() - started) * 1e3
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    def median(self, call: Callable[[], Any]) -> float:
        """The median of several calls, after two that warm up."""
        self.once(call), self.once(call)
        times: list[float] = []
        deadline = time.monotonic() + self.seconds
        while len(times) < self.least or (len(times) < 100 and time.monotonic() < deadline):
            times.append(self.once(call))
        return statistics.median(times)


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches: bytes copied and operations of products, a second."""

    copy: float
    half: float
    single: float


def ceilings(clock: Clock, tiny: bool) -> Ceilings:
    """Measured with what torch brings: a copy, and products of random matrices."""
    n, m = (1 << 18, 256) if tiny else (1 << 29, 8192)
    source, target = torch.randn(n, device=clock.device), torch.empty(n, device=clock.device)
    copied = clock.median(lambda: target.copy_(source))
    source = target = torch.empty(0)
    rates = []
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(m, m, device=clock.device).to(dtype) for _ in range(2))
        rates.append(2 * m**3 / clock.median(lambda: a @ b) * 1e3)
    return Ceilings(8 * n / copied * 1e3, *rates)


def structured(n: int, d: int, device: torch.device, seed: int) -> torch.Tensor:
    """Vectors with structure: a few latent numbers, bent and mixed, with noise."""
    shape = torch.Generator(device=device).manual_seed(7)
    inner = max(4, d // 8)
    first, second = (torch.randn(a, b, device=device, generator=shape) for a, b in ((inner, 2 * inner), (2 * inner, d)))
    made = torch.empty(n, d, device=device)
    drawn = torch.Generator(device=device).manual_seed(seed)
    for i in range(0, n, 1 << 18):
        part = made[i : i + (1 << 18)]
        latent = torch.randn(part.shape[0], inner, device=device, generator=drawn)
        part.copy_((latent @ first / inner**0.5).sin() @ second + 0.1 * torch.randn(part.shape, device=device, generator=drawn))
    return made


def recall_of(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The share of the true neighbours that were found."""
    return float((found[:, :, None] == truth[:, None, :].to(found.device)).any(1).float().mean())


def exact(x: torch.Tensor, y: torch.Tensor, k: int) -> torch.Tensor:
    """The k nearest by float64 distances of candidates from float32 ones: what every answer is held against."""
    parts = []
    for i in range(0, x.shape[0], 256):
        block = x[i : i + 256]
        near = torch.cdist(block, y, compute_mode="use_mm_for_euclid_dist").topk(4 * k, 1, largest=False).indices
        distances = (y[near].double() - block[:, None].double()).square().sum(-1)
        parts.append(near.gather(1, distances.argsort(1)[:, :k]))
    return torch.cat(parts)


class Bench:
    """A run: what is measured, and until when."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sizes = TINY if options.tiny else FULL
        wanted = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(wanted)
        self.clock = Clock(self.device, 3 if options.tiny else 5, 0.05 if options.tiny else 0.4)
        self.deadline = time.monotonic() + 60 * options.minutes
        self.ceilings = ceilings(self.clock, options.tiny)
        self.peers = Peers(self.device)
        self.rows: list[Row] = []
        self.left_out: list[str] = []

    def wanted(self, case: str) -> bool:
        """Whether a case is asked for and there is time for it."""
        if not re.search(self.options.rows, case):
            return False
        if time.monotonic() > self.deadline:
            self.left_out.append(case)
            return False
        return True

    def floor(self, flops: float, n_bytes: float, rate: float) -> float:
        """Milliseconds that the machine needs at least."""
        return max(flops / rate, n_bytes / self.ceilings.copy) * 1e3

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(row.line(), flush=True)

    def indexes(self, labels: tuple[str, ...]) -> Iterator[tuple[str, Any, torch.Tensor, torch.Tensor]]:
        """Name, index, queries and truth of each case; data is made once for the cases that share it."""
        s = self.sizes
        some = (*RECIPES[:2], RECIPES[-1]) if self.options.tiny else RECIPES
        tables = {
            "1M": (s.rows, s.dims, some),
            "wide": (s.wide_rows, s.wide, some[:1]),
            "10M": (s.large_rows, s.dims, some[:3]),
        }
        for label in labels:
            n, d, recipes = tables[label]
            names = {f"{label} {recipe.format(n=s.nlist)}": recipe.format(n=s.nlist) for recipe in recipes}
            if not any(self.wanted(name) for name in names):
                continue
            y, x = structured(n, d, self.device, 1), structured(max(s.batches), d, self.device, 2)
            truth = exact(x, y, K)
            for name, recipe in names.items():
                if self.wanted(name):
                    index = tsscompat.index_factory(d, recipe).to(self.device)
                    index.train(y[: 64 * s.nlist])
                    for i in range(0, n, 1 << 20):
                        index.add(y[i : i + (1 << 20)])
                    yield name, index, x, truth
                    del index
                    gc.collect()
            del y

    def searches(self, name: str, index: Any, x: torch.Tensor, truth: torch.Tensor) -> None:
        """Check, then time, every batch and number of probes, ours and the peers'."""
        others = self.peers.indexes(name, index)
        lists = hasattr(index, "nprobe")
        # Of the large table the middle of the probes, for the time that it takes.
        probes = self.sizes.probes[1:-1] if name.startswith("10M") and len(self.sizes.probes) > 2 else self.sizes.probes
        for nprobe in probes if lists else (0,):
            for nq in self.sizes.batches:
                if not self.wanted(name):
                    return
                if lists:
                    for one in (index, *others.values()):
                        one.nprobe = nprobe
                asked = x[:nq].contiguous()
                found = index.search(asked, K)[1]
                row = Row(name, nq, K, nprobe, 0.0, recall_of(found, truth[:nq]), self.search_floor(index, nq, nprobe))
                if not lists and row.recall < 0.9999:
                    raise SystemExit(f"{name}, nq {nq}: exact search finds {row.recall:.5f} of the neighbours")
                row.ms = self.clock.median(lambda: index.search(asked, K))
                for peer, other in others.items():
                    self.compare(row, peer, other, asked, truth[:nq])
                if nq <= MOST and asked.device.type in RECORDERS:
                    row.peers_ms["unrecorded"], row.peers_recall["unrecorded"] = self.unrecorded(index, asked), row.recall
                self.add(row)

    def compare(self, row: Row, peer: str, other: Any, asked: torch.Tensor, truth: torch.Tensor, params: Any = None) -> None:
        """A peer's recall and time of the same search, beside ours."""

        def both() -> tuple[float, float]:
            call, ids = self.peers.search(other, asked, K, params)
            return recall_of(ids().clone(), truth), self.clock.median(call)

        found = self.peers.attempt(peer, f"{row.case} nq {row.nq}", both)
        if found is not None:
            row.peers_recall[peer], row.peers_ms[peer] = found

    def unrecorded(self, index: Any, asked: torch.Tensor) -> float:
        """Milliseconds of a search whose kernels are asked for one by one."""
        kept = dict(RECORDERS)
        RECORDERS.clear()
        try:
            return self.clock.median(lambda: index.search(asked, K))
        finally:
            RECORDERS.update(kept)

    def fetched(self) -> None:
        """Lists in the host's memory against the same lists on the device; the floor is the copying of those that are probed."""
        s, name = self.sizes, "1M fetched lists"
        if not self.wanted(name) or tsscompat.get_num_gpus() == 0:
            return
        y, x = structured(s.rows, s.dims, self.device, 1), structured(max(s.batches), s.dims, self.device, 2)
        truth, options = exact(x, y, K), tsscompat.GpuClonerOptions()
        options.memorySpace = tsscompat.MemorySpace_Unified
        index = tsscompat.index_factory(s.dims, f"IVF{s.nlist},Flat").to(self.device)
        index.train(y[: 64 * s.nlist])
        index.add(y)
        fetching = tsscompat.index_cpu_to_gpu(tsscompat.StandardGpuResources(), 0, index, options)
        per_byte = self.host_copy()
        index.nprobe = fetching.nprobe = nprobe = s.probes[len(s.probes) // 2]
        for nq in s.batches:
            asked = x[:nq].contiguous()
            recall, resident = (recall_of(one.search(asked, K)[1], truth[:nq]) for one in (fetching, index))
            if abs(recall - resident) > 1e-3:
                raise SystemExit(f"{name}, nq {nq}: recall {recall:.4f}, of resident lists {resident:.4f}")
            probed = index.quantizer.search(asked, nprobe)[1].unique()
            n_bytes = index.code_size * sum(index.get_list_size(int(one)) for one in probed.tolist())
            row = Row(name, nq, K, nprobe, self.clock.median(lambda: fetching.search(asked, K)), recall, n_bytes * per_byte)
            row.peers_ms["resident"], row.peers_recall["resident"] = self.clock.median(lambda: index.search(asked, K)), resident
            self.add(row)

    def search_floor(self, index: Any, nq: int, nprobe: int) -> float:
        """What a search must compute and read, if lists are shared by the queries that probe them."""
        scored = index.ntotal if not nprobe else index.ntotal * nprobe / index.nlist
        read = index.ntotal if not nprobe else min(index.ntotal, nq * scored)
        code = index.code_size + (8 if nprobe else 0)
        rate = self.ceilings.half if nq >= 16 else self.ceilings.single
        return self.floor(2.0 * nq * scored * index.d, read * code, rate)

    def host_copy(self) -> float:
        """Milliseconds that a byte takes from pinned memory of the host to the device."""
        host = torch.empty(1 << 20 if self.options.tiny else 1 << 28, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        room = torch.empty_like(host, device=self.device)
        return self.clock.median(lambda: room.copy_(host, non_blocking=True)) / host.nbytes

    def kmeans(self) -> None:
        """One iteration of k-means, assignment and sums: of vectors on the device, and of such as come from the host's pinned memory."""
        s, name = self.sizes, "k-means iteration"
        if not self.wanted(name):
            return
        y = structured(s.rows, s.dims, self.device, 1)
        centers = y[: s.clusters].clone()

        def step(rows: torch.Tensor) -> torch.Tensor:
            sums, held = segment_sums(rows, nearest(rows, centers)[1], None, s.clusters)
            return sums / held.clamp(min=1)[:, None]

        some = y[:1000]
        truth = torch.cdist(some.double(), centers.double()).argmin(1)
        agreed = float((nearest(some, centers)[1] == truth).float().mean())
        if agreed < 0.999:
            raise SystemExit(f"{name}: {agreed:.4f} of the vectors are assigned to the nearest centroid")
        least = self.floor(2.0 * s.rows * s.clusters * s.dims, 2.0 * y.nbytes, self.ceilings.half)
        host = y.cpu().pin_memory() if self.device.type == "cuda" else y
        from_host = {"device": (y, 0.0), "host": (host, self.host_copy() * y.nbytes)}
        for where, (rows, copied) in from_host.items():
            row = Row(f"{name}, {where} data", s.rows, s.clusters, 0, 0.0, agreed, max(least, copied))
            row.ms = self.clock.median(lambda: step(rows.to(self.device, non_blocking=True)))
            theirs = self.peers.attempt("flash-kmeans", row.case, lambda: self.clock.median(self.flash(rows)))
            if theirs is not None:
                row.peers_ms["flash-kmeans"] = theirs
            self.add(row)

    def flash(self, rows: torch.Tensor) -> Callable[[], Any]:
        """A call that makes flash-kmeans do one iteration."""
        try:
            from flash_kmeans import FlashKMeans
        except ImportError as why:
            raise RuntimeError(why) from why
        if self.device.type != "cuda":
            raise RuntimeError("runs on CUDA devices only")
        one = FlashKMeans(self.sizes.dims, self.sizes.clusters, niter=1, tol=0.0, device=torch.device("cuda", 0))
        return lambda: one.train(rows)

    def graph(self) -> None:
        """Searches of a CAGRA graph, with as many candidates as a recall of 0.95 takes; of cuVS's own graph likewise."""
        s, name = self.sizes, "CAGRA"
        if not self.wanted(name) or tsscompat.get_num_gpus() == 0:
            return
        y, x = structured(s.rows, s.dims, self.device, 1), structured(max(s.batches), s.dims, self.device, 2)
        truth = exact(x, y, K)
        index = tsscompat.GpuIndexCagra(tsscompat.StandardGpuResources(), s.dims)
        index.train(y)
        kept, params = enough(lambda p: index.search(x, K, params=p)[1], truth, ours_with)
        peer = self.peers.graph(index, y)
        theirs = None
        if peer is not None:
            ids = lambda p: self.peers.search(peer[1], x, K, p)[1]()  # noqa: E731
            theirs = self.peers.attempt(peer[0], name, lambda: enough(ids, truth, peer[2])[1])
        for nq in sorted({1, max(s.batches)}):
            asked = x[:nq].contiguous()
            recall = recall_of(index.search(asked, K, params=params)[1], truth[:nq])
            floor = self.floor(0.0, nq * kept * 4.0 * s.dims, 1.0)
            row = Row(f"{name} itopk {kept}", nq, K, 0, 0.0, recall, floor)
            row.ms = self.clock.median(lambda: index.search(asked, K, params=params))
            if peer is not None and theirs is not None:
                self.compare(row, peer[0], peer[1], asked, truth[:nq], theirs)
            self.add(row)

    def run(self) -> None:
        """Everything, the cases whose figures matter most first."""
        for name, index, x, truth in self.indexes(("1M",)):
            self.searches(name, index, x, truth)
        self.kmeans()
        self.graph()
        for name, index, x, truth in self.indexes(("wide", "10M")):
            self.searches(name, index, x, truth)
        self.fetched()


def ours_with(kept: int) -> Any:
    """Our parameters of a walk with so many candidates."""
    return tsscompat.SearchParametersCagra(itopk_size=kept)


def enough(ids: Callable[[Any], torch.Tensor], truth: torch.Tensor, parameters: Callable[[int], Any]) -> tuple[int, Any]:
    """The least candidates, and the parameters of them, with which a search finds enough of the neighbours; the most if none do."""
    for kept in CANDIDATES:
        params = parameters(kept)
        if recall_of(ids(params), truth) >= RECALL:
            break
    return kept, params


def environment(bench: Bench) -> dict[str, Any]:
    """What was measured on."""
    chip = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.processor() or platform.machine()
    twins = find_twin("tsscompat.kernels.flat", "knn", bench.device.type) is not None
    peers = {name: getattr(bench.peers.faiss, "__version__", "?") for name in bench.peers.names()}
    return {"chip": chip, "torch": torch.__version__, "compiled kernels": twins, "peers": peers, "tiny": bench.options.tiny}


def write(bench: Bench, name: str) -> list[Path]:
    """The JSON, the CSV and, where matplotlib is there, a picture."""
    out: Path = bench.options.out
    made = [out / f"{name}.json", out / f"{name}.csv"]
    rows = [dataclasses.asdict(row) for row in bench.rows]
    whole = environment(bench) | {
        "ceilings": dataclasses.asdict(bench.ceilings),
        "left out": sorted(set(bench.left_out)),
        "not compared": bench.peers.missing,
        "rows": rows,
    }
    made[0].write_text(json.dumps(whole, indent=1))
    with made[1].open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ["case", "nq", "k", "nprobe", "ms", "recall", "floor_ms", "of_floor", "peer", "peer_ms", "peer_recall", "ratio"]
        )
        for row in bench.rows:
            given = [row.case, row.nq, row.k, row.nprobe, row.ms, row.recall, row.floor_ms, row.floor_ms / row.ms]
            for peer, ms in (row.peers_ms or {"": float("nan")}).items():
                table.writerow([*given, peer, ms, row.peers_recall.get(peer, ""), ms / row.ms])
    try:
        import matplotlib
    except ImportError:
        return made
    matplotlib.use("Agg")
    return [*made, draw(bench.rows, out / f"{name}.png")]


def draw(rows: list[Row], path: Path) -> Path:
    """Each row's share of its floor, and its ratio to each peer."""
    from matplotlib import pyplot

    labels = [f"{row.case} nq {row.nq}" + (f" nprobe {row.nprobe}" if row.nprobe else "") for row in rows]
    peers = sorted({peer for row in rows for peer in row.peers_ms})
    figure, axes = pyplot.subplots(1, 1 + len(peers), figsize=(6 * (1 + len(peers)), 0.2 * len(rows) + 1.5), squeeze=False)
    axes[0][0].barh(labels, [row.floor_ms / row.ms for row in rows], color="#4c6f91")
    axes[0][0].set_title("share of the floor")
    for axis, peer in zip(axes[0][1:], peers):
        ratios = [row.peers_ms.get(peer, float("nan")) / row.ms for row in rows]
        axis.barh(labels, ratios, color=["#2a7f62" if ratio >= 1 else "#b5533c" for ratio in ratios])
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_title(f"{peer}'s time / tsscompat's")
    for axis in axes[0]:
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--device", help="a torch device; CUDA where there is one")
    parser.add_argument("--rows", default="", help="only cases that this pattern is found in")
    parser.add_argument("--minutes", type=float, default=8.5, help="no case begins after so long")
    parser.add_argument("--name", default="gpu", help="of the files that are written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where they are written")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device == "cpu" or not torch.cuda.is_available():
        os.environ.setdefault("TSSCOMPAT_VIRTUAL_GPUS", "1")  # so that every case runs
    bench = Bench(options)
    print(json.dumps(environment(bench) | dataclasses.asdict(bench.ceilings)))
    bench.run()
    for path in write(bench, bench.options.name):
        print(path)
    for line in dict.fromkeys(bench.peers.missing):
        print(f"not compared: {line}")
    if bench.left_out:
        print(f"left out for lack of time: {', '.join(sorted(set(bench.left_out)))}")


if __name__ == "__main__":
    main()
