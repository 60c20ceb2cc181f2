"""`python -m tsscompat COMMAND`: each command is a module here with a `main(arguments)`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "build, write, read and search an IVF-PQ index on synthetic vectors",
    "estimate": "what an index will weigh, by part",
    "recommend": "which index to build for so many vectors",
    "run": "run a script that says `import faiss` with tsscompat in its place",
}


def usage() -> str:
    """What can be asked for, a line each."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        ["usage: python -m tsscompat COMMAND ...", "", *(f"  {name:{width}}  {does}" for name, does in COMMANDS.items())]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    asked = list(sys.argv[1:] if arguments is None else arguments)
    if not asked or asked[0] in ("-h", "--help"):
        print(usage())
        return 0 if asked else 2
    if asked[0] not in COMMANDS:
        print(f"no command {asked[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"tsscompat.cli.{asked[0]}")
    return int(command.main(asked[1:]) or 0)
