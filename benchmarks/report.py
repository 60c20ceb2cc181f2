"""Tables for people and for machines, and what machine it was."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import Timing, geometric_mean

GROUPS = {"search": ("search",), "train and add": ("train", "add"), "files": ("write", "read")}


def machine(threads: int) -> dict[str, Any]:
    """The processor, the versions and the settings that the figures hold for."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor()
    )
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "numba", "faiss-cpu")}
    import tsscompat

    return {
        "processor": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "tsscompat": tsscompat.__version__,
        **versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def span(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"


def line(t: Timing) -> str:
    shape = f"nq {t.nq}, k {t.k}" if t.nq else ""
    return (
        f"| {t.case} | {t.step} | {shape} | {span(t.faiss_s)} | {span(t.ours_s)} | {t.ratio:.2f} | {t.agreement:.4f} | {t.note} |"
    )


HEAD = "| index | step | shape | FAISS | tsscompat | FAISS/ours | agreement | |\n|---|---|---|---:|---:|---:|---:|---|"


def means(timings: list[Timing]) -> list[str]:
    """The geometric mean of each group's ratios, and its worst row."""
    out = []
    for group, steps in GROUPS.items():
        chosen = [t for t in timings if t.step in steps]
        if chosen:
            worst = min(chosen, key=lambda t: t.ratio)
            shape = f", nq {worst.nq}, k {worst.k}" if worst.nq else ""
            mean = geometric_mean([t.ratio for t in chosen])
            out.append(
                f"{group}: geometric mean of FAISS/ours {mean:.2f}, least {worst.ratio:.2f} ({worst.case}, {worst.step}{shape})"
            )
    return out


def table(timings: list[Timing]) -> str:
    return "\n".join([HEAD, *map(line, timings)])


def peak(r: dict[str, Any]) -> str:
    """One row of the memory table."""
    mib = [f"{r[name] / 2**20:.0f}" for name in ("faiss", "ours", "faiss_working", "ours_working")]
    return f"| {r['case']} | {r['step']} | {mib[0]} | {mib[1]} | {r['ours'] / max(r['faiss'], 1):.2f} | {mib[2]} | {mib[3]} |"


def peaks(rows: list[dict[str, Any]]) -> str:
    """Peak memory beside FAISS's."""
    head = "| index | step | FAISS MiB | tsscompat MiB | ours/FAISS | beyond what was loaded: FAISS | tsscompat |"
    return "\n".join([head, "|---|---|---:|---:|---:|---:|---:|", *map(peak, rows)])


def kept(path: Path, steps: set[str], chosen: Callable[[str], bool]) -> tuple[list[Timing], list[dict[str, Any]]]:
    """The timings and the peaks of an earlier run that this one, of some steps of some rows, does not replace."""
    content = json.loads(path.read_text())
    files = {"write", "read"}
    fields = {f.name for f in dataclasses.fields(Timing) if f.init}
    timings = [
        Timing(**{name: value for name, value in row.items() if name in fields})
        for row in content["timings"]
        if not ("files" in steps if row["step"] in files else row["step"] in steps and chosen(row["case"]))
    ]
    return timings, [row for row in content["memory"] if not ("memory" in steps and chosen(row["case"]))]


def save(path: Path, about: dict[str, Any], timings: list[Timing], memory: list[dict[str, Any]], refused: list[str]) -> None:
    """All of it as JSON, and as the Markdown that the documentation shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(t) for t in timings]
    content = {"machine": about, "timings": rows, "memory": memory, "refused": refused, "means": means(timings)}
    path.write_text(json.dumps(content, indent=1) + "\n")
    parts = [
        ", ".join(f"{k} {v}" for k, v in about.items()),
        "\n".join(f"- {m}" for m in means(timings)),
        table(timings) if timings else "",
        peaks(memory) if memory else "",
        "\n".join(f"- not timed: {r}" for r in refused),
    ]
    path.with_suffix(".md").write_text("\n\n".join(p for p in parts if p) + "\n")
