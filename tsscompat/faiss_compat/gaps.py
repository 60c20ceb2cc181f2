"""Names of FAISS's Python stub that tsscompat does not have, with the reason: rows of a pattern and a sentence.

The rows drive the AttributeError of a missing name, the factory's errors and tests/test_namespace.py, which wants every name of the stub
to be either present or here, and every row here to be needed.
"""

from __future__ import annotations

import re
from typing import NoReturn

from tsscompat.errors import MissingError

GAPS: tuple[tuple[str, str], ...] = ((r".*SVS.*", "wraps Intel's SVS library, which FAISS's own wheel lacks too"),)

UNKNOWN = "FAISS has no such name, or it is internal to its C++"


class MissingName(MissingError, AttributeError):
    """A name of FAISS's that tsscompat does not have; an AttributeError, so that hasattr() keeps its meaning."""


def known_gap(name: str) -> str | None:
    """The reason of the first row that a name matches, if any."""
    return next((why for pattern, why in GAPS if re.fullmatch(pattern, name)), None)


def reason(name: str) -> str:
    """Why a name is missing."""
    return known_gap(name) or UNKNOWN


def missing(module: str, name: str) -> NoReturn:
    """What a module's __getattr__ does with a name that is not there."""
    why = known_gap(name)
    if why is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    raise MissingName(f"module {module!r} has no attribute {name!r}: {why}")


def absent(name: str) -> NoReturn:
    """The `__getattr__` of tsscompat's namespaces."""
    missing("tsscompat", name)
