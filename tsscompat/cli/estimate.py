"""`python -m tsscompat estimate FACTORY -d DIMENSION -n VECTORS`: what an index will weigh."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import tsscompat


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m tsscompat estimate", description=__doc__)
    parser.add_argument("index", help="a factory string")
    parser.add_argument("-d", "--dimension", type=int, required=True)
    parser.add_argument("-n", "--vectors", type=int, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    report = tsscompat.estimate_memory(options.index, d=options.dimension, n=options.vectors)
    print(json.dumps(report.as_dict(), indent=1) if options.json else report)
    return 0
