"""Stopping a long computation from outside: a question asked between blocks of work.

`ask_when(question)` makes every later `check()` raise once the question is answered with yes; None asks nothing any more.
"""

from __future__ import annotations

from collections.abc import Callable

from tsscompat.errors import FaissError

_question: Callable[[], bool] | None = None


def ask_when(question: Callable[[], bool] | None) -> None:
    """Set the question, for the whole process."""
    global _question
    _question = question


def interrupted() -> bool:
    """The answer now; a question that said yes is not asked again."""
    global _question
    if _question is None or not _question():
        return False
    _question = None
    return True


def check() -> None:
    """Raise if the computation is to stop."""
    if interrupted():
        raise FaissError("computation interrupted")
