"""tsscompat against FAISS, in pairs, in one process, on the same indexes; answers are compared before anything is timed.

python benchmarks/run.py                         # all rows, about an hour on 2 cores
python benchmarks/run.py --quick                 # small and short
python benchmarks/run.py --rows 'PQ16|Flat' --steps search --nq 1 --budget 600
python benchmarks/run.py --rows '^SQ8' --steps train,search --update   # these anew, beside the rest of the last run
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tempfile
import time
from pathlib import Path

import cases
import faiss
import memory
import numpy as np
import report
import torch
from measure import Disagreement, Timing, agree, in_turn, once

import tsscompat

STEPS = ("search", "train", "add", "files", "memory")


def batches_of(queries: np.ndarray, nq: int) -> list[np.ndarray]:
    """Whole batches of queries, one after the other."""
    return [np.ascontiguousarray(queries[i : i + nq]) for i in range(0, len(queries) - nq + 1, nq)]


def searcher(index, batches: list[np.ndarray], k: int):
    """A call that searches the next batch each time: one query over and over would time what its vectors' cache lines cost once."""
    turn = itertools.cycle(batches)
    return lambda: index.search(next(turn), k)


class Run:
    """What was asked for, what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.deadline = time.monotonic() + options.budget
        self.timings: list[Timing] = []
        self.peaks: list[dict] = []
        self.refused: list[str] = []

    def spent(self) -> bool:
        return time.monotonic() > self.deadline

    def add(self, timing: Timing) -> None:
        self.timings.append(timing)
        print(report.line(timing), flush=True)

    def refuse(self, what: str, why: object) -> None:
        self.refused.append(f"{what}: {type(why).__name__ if isinstance(why, Exception) else ''} {why}")
        print(f"| {what} | not timed: {why} |", flush=True)

    def case(self, case: cases.Case) -> None:
        """All steps of one row."""
        x = cases.base(self.options.n, case)
        # FAISS trains once; both sides start from the file of that.
        reference = cases.make(faiss, case)
        train_s = once(lambda: reference.train(x))
        trained = cases.dump(faiss, case, reference)
        if "train" in self.options.steps and not reference_is_untrained(case):
            self.guarded(case, "train", lambda: self.train(case, x, trained, train_s))
        if "add" in self.options.steps:
            self.guarded(case, "add", lambda: self.adding(case, x, trained))
        reference.add(x)
        filled = cases.dump(faiss, case, reference)
        if "search" in self.options.steps:
            self.guarded(case, "search", lambda: self.search(case, filled))
        if "memory" in self.options.steps:
            self.guarded(case, "memory", lambda: self.memory(case, trained, filled))

    def guarded(self, case: cases.Case, step: str, call) -> None:
        try:
            call()
        except (Disagreement, RuntimeError, AttributeError, AssertionError) as error:
            self.refuse(f"{case.name}, {step}", error)

    def train(self, case: cases.Case, x: np.ndarray, trained: np.ndarray, train_s: float) -> None:
        """Training is timed once or twice: it takes seconds, and FAISS's run is the one that made the reference."""
        cases.make(tsscompat, compact(case)).train(x[:3000])  # kernels compiled
        times, theirs = [], [train_s]
        for turn in range(1 if train_s > 20 else 2):
            index = cases.make(tsscompat, case)
            times.append(once(lambda index=index: index.train(x)))
            if turn:
                theirs.append(once(lambda: cases.make(faiss, case).train(x)))
        share = self.trained_alike(case, x, trained, index)
        self.add(
            Timing(
                case.name,
                "train",
                float(np.median(theirs)),
                float(np.median(times)),
                len(times),
                agreement=share,
                note="recall ours/FAISS's",
            )
        )

    def trained_alike(self, case: cases.Case, x: np.ndarray, trained: np.ndarray, ours) -> float:
        """Our recall over FAISS's, each trained on its own, on part of the data; refuse a loss of over a hundredth."""
        theirs = cases.load(faiss, case, trained)
        part, q = x[:50_000], cases.queries(200, case)
        flat = faiss.IndexBinaryFlat(case.d) if case.binary else faiss.IndexFlat(case.d, getattr(faiss, case.metric))
        flat.add(part)
        truth = flat.search(q, 10)[1]
        shares = []
        for module, index in ((faiss, theirs), (tsscompat, ours)):
            index.add(part)
            cases.tune(module, index, case)
            found = index.search(q, 10)[1]
            shares.append(np.mean([len(np.intersect1d(t, f)) / 10 for t, f in zip(truth, found)]))
        if shares[1] < shares[0] - 0.015:
            raise Disagreement(f"recall {shares[1]:.3f}, FAISS's {shares[0]:.3f}")
        return float(shares[1] / shares[0])

    def adding(self, case: cases.Case, x: np.ndarray, trained: np.ndarray) -> None:
        """Adding all vectors to a trained, empty index, read anew for each run."""
        q = cases.queries(100, case)
        made = {}
        times: dict[str, list[float]] = {"faiss": [], "tsscompat": []}
        cases.load(tsscompat, case, trained).add(x[:1000])
        runs = 1 if case.ef_search else 3  # graphs are built for minutes
        for _ in range(runs):
            for name, module in (("faiss", faiss), ("tsscompat", tsscompat)):
                index = cases.load(module, case, trained)
                time.sleep(0.003)
                times[name].append(once(lambda index=index: index.add(x)))
                made[name] = index
        for name, module in (("faiss", faiss), ("tsscompat", tsscompat)):
            cases.tune(module, made[name], case)
        share = agree(made["faiss"].search(q, 10), made["tsscompat"].search(q, 10), 0.9 if case.ef_search else case.agreement)
        self.add(
            Timing(
                case.name, "add", float(np.median(times["faiss"])), float(np.median(times["tsscompat"])), runs, agreement=share
            )
        )

    def search(self, case: cases.Case, filled: np.ndarray) -> None:
        theirs, ours = cases.load(faiss, case, filled), cases.load(tsscompat, case, filled)
        cases.tune(faiss, theirs, case)
        cases.tune(tsscompat, ours, case)
        for nq, k in itertools.product(self.options.nq, self.options.k):
            if self.spent():
                self.refuse(f"{case.name}, search nq {nq} k {k}", "the time budget is used up")
                continue
            wide = cases.queries(max(nq, 512), case)
            # A single query is compared on a hundred of them, one at a time.
            pairs = [(theirs.search(b, k), ours.search(b, k)) for b in (np.split(wide[:100], 100) if nq == 1 else [wide[:nq]])]
            expected, got = (tuple(np.concatenate([p[side][i] for p in pairs]) for i in (0, 1)) for side in (0, 1))
            share = agree(expected, got, case.agreement)
            batches = batches_of(wide, nq)
            f, o, runs = in_turn(searcher(theirs, batches, k), searcher(ours, batches, k), self.options.seconds)
            self.add(Timing(case.name, "search", f, o, runs, nq=nq, k=k, agreement=share))

    def files(self) -> None:
        """Writing and reading 500 MB, of vectors in a row and of inverted lists."""
        n = self.options.file_mb * 1_000_000 // 512
        for key in ("Flat", "IVF256,Flat"):
            x = cases.vectors(n, 128, 3)
            source = faiss.index_factory(128, key)
            source.train(x[:20_000])
            source.add(x)
            ours = tsscompat.deserialize_index(faiss.serialize_index(source))
            with tempfile.TemporaryDirectory() as folder:
                one, two = f"{folder}/faiss", f"{folder}/ours"
                f, o, runs = in_turn(
                    lambda: faiss.write_index(source, one), lambda: tsscompat.write_index(ours, two), self.options.seconds * 2
                )
                if Path(one).read_bytes() != Path(two).read_bytes():
                    self.refuse(f"{key}, write", "the files differ")
                    continue
                note = f"{Path(one).stat().st_size / 1e6:.0f} MB; ours is synced and renamed"
                self.add(Timing(key, "write", f, o, runs, note=note))
                f, o, runs = in_turn(lambda: faiss.read_index(one), lambda: tsscompat.read_index(two), self.options.seconds * 2)
                self.add(Timing(key, "read", f, o, runs, note=note.partition(";")[0]))

    def memory(self, case: cases.Case, trained: np.ndarray, filled: np.ndarray) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            trained.tofile(folder / "trained.faiss")
            filled.tofile(folder / "filled.faiss")
            for step in memory.STEPS:
                if step == "train" and reference_is_untrained(case):
                    continue
                theirs, ours = (memory.measure(m, case, step, self.options.n, folder) for m in ("faiss", "tsscompat"))
                self.peaks.append(
                    {
                        "case": case.name,
                        "step": step,
                        "faiss": theirs[0],
                        "ours": ours[0],
                        "faiss_working": theirs[1],
                        "ours_working": ours[1],
                    }
                )
                print(report.peak(self.peaks[-1]), flush=True)


def reference_is_untrained(case: cases.Case) -> bool:
    """Whether there is nothing to train."""
    return bool(cases.make(faiss, case).is_trained)


def compact(case: cases.Case) -> cases.Case:
    """The same type with few lists, to load and compile what training needs."""
    key = re.sub(r"IVF\d+", "IVF16", case.key)
    return cases.Case(case.name, re.sub(r"(?<!O)PQ(\d+)(?!\d*x4fs)", r"PQ\1np", key), case.d, case.metric)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="a regular expression on the rows' names")
    parser.add_argument("--steps", default=",".join(STEPS), help="of %(default)s")
    parser.add_argument("--n", type=int, default=200_000, help="vectors in the index")
    parser.add_argument("--nq", type=int, nargs="*", default=cases.NQ)
    parser.add_argument("--k", type=int, nargs="*", default=cases.K)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each cell of a search")
    parser.add_argument("--file-mb", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=7200, help="seconds after which no further row is begun")
    parser.add_argument("--quick", action="store_true", help="20,000 vectors, half a second a cell, a file of 50 MB, no training")
    parser.add_argument("--update", action="store_true", help="keep what an earlier run left in --out of other rows and steps")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "cpu.json")
    options = parser.parse_args()
    if options.quick:
        options.n, options.seconds, options.file_mb = 20_000, 0.5, 50
        options.out = options.out.with_name("quick.json")
        options.steps = options.steps.replace("train,", "").replace("memory", "")
    options.steps = set(filter(None, options.steps.split(",")))
    return options


def main() -> int:
    options = parse()
    faiss.omp_set_num_threads(options.threads)
    tsscompat.omp_set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    run = Run(options)
    if options.update:
        run.timings, run.peaks = report.kept(options.out, options.steps, lambda name: bool(re.search(options.rows, name)))
    about = report.machine(options.threads)
    print(", ".join(f"{k} {v}" for k, v in about.items()), "", report.HEAD, sep="\n", flush=True)
    for case in cases.CASES:
        if not re.search(options.rows, case.name):
            continue
        if run.spent():
            run.refuse(case.name, "the time budget is used up")
            continue
        run.case(case)
        report.save(options.out, about, run.timings, run.peaks, run.refused)
    if "files" in options.steps and not run.spent():
        run.files()
    report.save(options.out, about, run.timings, run.peaks, run.refused)
    print("", *report.means(run.timings), *(f"not timed: {r}" for r in run.refused), sep="\n")
    try:
        from plot import draw

        print(draw(options.out))
    except ImportError:
        print("no picture: matplotlib is not installed")
    return 1 if run.refused else 0


if __name__ == "__main__":
    sys.exit(main())
