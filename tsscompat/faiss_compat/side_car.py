"""A file's checksum in a file beside it, as sha256sum writes it; FAISS's format has none."""

from __future__ import annotations

import hashlib
import os

from tsscompat.errors import FaissError, FormatError

_PIECE = 1 << 22


def name_of(path: str) -> str:
    """The file that holds the checksum of another."""
    return path + ".sha256"


def _digest(path: str) -> str:
    made = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            made.update(piece)
    return made.hexdigest()


def refresh(path: str, wanted: bool | None) -> None:
    """Write a file's checksum if it is wanted, or (None) if there is one already; remove it if it is not (False)."""
    side = name_of(path)
    try:
        if wanted or (wanted is None and os.path.isfile(side)):
            with open(side + ".new", "w", encoding="utf-8") as file:
                file.write(f"{_digest(path)}  {os.path.basename(path)}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(side + ".new", side)
        elif wanted is False and os.path.isfile(side):
            os.unlink(side)
    except OSError as e:
        raise FaissError(f"could not write {side}: {e.strerror}") from e


def verify(path: str, wanted: bool | None) -> None:
    """Raise unless a file matches its checksum; False: whatever that is, None: if there is one."""
    side = name_of(path)
    if wanted is False or (wanted is None and not os.path.isfile(side)) or not os.path.isfile(path):
        return
    try:
        with open(side, encoding="utf-8") as file:
            told = file.read(1024).split()[:1]
        found = _digest(path)
    except (OSError, UnicodeDecodeError) as e:
        raise FormatError(f"could not check {path} against {side}: {e}") from e
    if told != [found]:
        raise FormatError(f"{path} is not what was written: sha256 {found}, {side} says {' '.join(told) or 'nothing'}")
