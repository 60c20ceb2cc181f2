"""Search profiles: queries per second against recall, on clustered and on uniform data; exact profiles must answer bit for bit alike.

    python benchmarks/profiles.py [--vectors N] [--index IVF256,PQ16np]

Writes profiles.md and profiles.png into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tsscompat
from tsscompat import SearchParams

RESULTS = Path(__file__).resolve().parent / "results"
D, K, QUERIES = 64, 10, 500
PROBES = (4, 16, 64)


def data(kind: str, n: int, seed: int) -> Tensor:
    """Vectors around 500 centers, or anywhere in a cube."""
    draw = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        return torch.rand(n, D, generator=draw)
    centers = 2 * torch.randn(500, D, generator=torch.Generator().manual_seed(7))
    return centers[torch.randint(500, (n,), generator=draw)] + 0.3 * torch.randn(n, D, generator=draw)


def profiles(nprobe: int) -> dict[str, Any]:
    """What is compared, by name; None: a plain search."""
    return {
        "plain": tsscompat.SearchParametersIVF(nprobe=nprobe),
        "exact": SearchParams(nprobe=nprobe),
        "speed": SearchParams(profile="speed", nprobe=nprobe),
        "approx": SearchParams(profile="approx", nprobe=nprobe),
        "approx, residual_norm_asc": SearchParams(profile="approx", list_ordering="residual_norm_asc", nprobe=nprobe),
    }


def measured(index: Any, queries: Tensor, truth: Tensor, nprobe: int, rounds: int) -> list[tuple[str, float, float, float]]:
    """(profile, recall, queries a second, share of the codes visited), in turns, the best of several."""
    chosen, best = profiles(nprobe), dict.fromkeys(profiles(nprobe), float("inf"))
    answers = {name: index.search(queries, K, params=params) for name, params in chosen.items()}
    if not all(torch.equal(a, b) for a, b in zip(answers["plain"], answers["exact"])):
        raise AssertionError(f"the exact profile differs from a plain search at nprobe {nprobe}")
    for _ in range(rounds):
        for name, params in chosen.items():
            started = time.perf_counter()
            index.search(queries, K, params=params)
            best[name] = min(best[name], time.perf_counter() - started)
    rows = []
    for name, params in chosen.items():
        recall = float((truth[:, :, None] == answers[name][1][:, None]).any(2).float().mean())
        visited = 1.0
        if isinstance(params, SearchParams):
            index.search(queries, K, params=params)
            stats = index.last_search_stats
            visited = stats["codes_visited"] / max(1, stats["codes_in_lists"])
        rows.append((name, recall, len(queries) / best[name], visited))
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--index", nargs="+", default=["IVF256,Flat", "IVF256,PQ16np"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    lines = [
        f"{options.vectors:,} vectors of {D} dimensions, {QUERIES} queries at once, {K} neighbours;",
        f"{platform.machine()}, {threads} threads, torch {torch.__version__}.",
        "Ids and distances of `exact` equal those of `plain` bit for bit in each row.",
        "",
        "| data | index | nprobe | profile | recall | queries/s | to plain | codes visited |",
        "|---|---|---|---|---|---|---|---|",
    ]
    curves: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for kind in ("clustered", "uniform"):
        base, queries = data(kind, options.vectors, 2), data(kind, QUERIES, 3)
        truth = tsscompat.knn(queries, base, K)[1]
        for key in options.index:
            index = tsscompat.index_factory(D, key)
            index.train(base[:20_000])
            index.add(base)
            for nprobe in PROBES:
                rows = measured(index, queries, truth, nprobe, options.rounds)
                for name, recall, rate, visited in rows:
                    line = f"| {kind} | {key} | {nprobe} | {name} | {recall:.3f} | {rate:,.0f} | {rate / rows[0][2]:.2f} | {visited:.0%} |"
                    print(line, flush=True)
                    lines.append(line)
                    curves.setdefault((kind, key), {}).setdefault(name, []).append((recall, rate))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "profiles.md").write_text("\n".join(lines) + "\n")
    picture(curves)


def picture(curves: dict[tuple[str, str], dict[str, list[tuple[float, float]]]]) -> None:
    """A frame for each data set and index, a curve for each profile."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, frames = pyplot.subplots(1, len(curves), figsize=(4.2 * len(curves), 4), squeeze=False)
    for axes, ((kind, key), profiles_) in zip(frames[0], curves.items()):
        for name, points in profiles_.items():
            axes.plot(*zip(*points), marker="o", markersize=3, label=name)
        axes.set(title=f"{key}, {kind}", xlabel=f"recall of {K}", yscale="log")
    frames[0][0].set_ylabel("queries per second")
    frames[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "profiles.png", dpi=110)


if __name__ == "__main__":
    main()
