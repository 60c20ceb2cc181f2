"""`python -m tsscompat recommend -n VECTORS -d DIMENSION`: which index to build; with a sample (.npy), measured on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

import tsscompat


def _bytes(text: str) -> int:
    """A number of bytes, perhaps with k, M or G behind it."""
    unit = {"k": 10, "M": 20, "G": 30}.get(text[-1:], 0)
    return int(float(text[:-1] if unit else text) * 2**unit)


def main(arguments: Sequence[str] = ()) -> int:
    """Print the candidates."""
    parser = argparse.ArgumentParser(prog="python -m tsscompat recommend", description=__doc__)
    parser.add_argument("-n", "--vectors", type=int, required=True)
    parser.add_argument("-d", "--dimension", type=int, required=True)
    parser.add_argument("--metric", default="l2", choices=["l2", "ip", "cosine"])
    parser.add_argument("--memory", type=_bytes, help="bytes, or with k, M, G behind the number")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--sample", help="a .npy file of some of the vectors")
    parser.add_argument("--seconds", type=float, help="time to measure for")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", help="a picture to write")
    options = parser.parse_args(arguments)
    answer = tsscompat.recommend(
        options.vectors,
        options.dimension,
        options.metric,
        memory=options.memory,
        recall=options.recall,
        sample=None if options.sample is None else np.load(options.sample),
        seconds=options.seconds,
        progress=lambda text: print(text, file=sys.stderr),
    )
    print(answer.to_json() if options.json else answer)
    if options.plot:
        answer.plot(options.plot)
    return 0
