"""`python plot.py results/NAME.json`: the ratios as bars, beside the JSON as NAME.png. Needs matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def draw(path: Path) -> Path:
    """A panel for each group of steps, a bar for each row, a line where both sides are level."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    timings = json.loads(path.read_text())["timings"]
    panels = [("search", ("search",)), ("train, add, files", ("train", "add", "write", "read"))]
    chosen = [(title, [t for t in timings if t["step"] in steps]) for title, steps in panels]
    chosen = [(title, rows) for title, rows in chosen if rows]
    height = max((len(rows) for _, rows in chosen), default=0) * 0.2 + 1.5
    figure, axes = pyplot.subplots(1, max(1, len(chosen)), figsize=(8 * max(1, len(chosen)), height), squeeze=False)
    for axis, (title, rows) in zip(axes[0], chosen):
        labels = [f"{t['case']}  nq {t['nq']} k {t['k']}" if t["nq"] else f"{t['case']}  {t['step']}" for t in rows]
        ratios = [t["ratio"] for t in rows]
        axis.barh(labels, ratios, color=["#2a7f62" if r >= 1 else "#b5533c" for r in ratios])
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.invert_yaxis()
        axis.set_title(f"{title}: FAISS's time / tsscompat's")
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=110)
    return out


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
