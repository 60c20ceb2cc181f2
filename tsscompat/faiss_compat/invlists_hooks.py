"""The table of hooks by which files name kinds of inverted lists."""

from __future__ import annotations

from typing import Any

from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import Stated, text
from tsscompat.faiss_compat.invlists import InvertedLists


class InvertedListsIOHook(Stated):
    """How a kind of lists is named in files; sections/lists.py reads and writes them."""

    key = text("", "the tag")
    classname = text("", "the class")

    def __init__(self, key: str = "", classname: str = "") -> None:
        super().__init__()
        self.key, self.classname = key, classname

    @staticmethod
    def add_callback(cb: InvertedListsIOHook) -> None:
        """Enter a kind."""
        _HOOKS.append(cb)

    @staticmethod
    def print_callbacks() -> None:
        """Print the kinds."""
        print(f"registered {len(_HOOKS)} InvertedListsIOHooks:")
        for hook in _HOOKS:
            print(f"{int.from_bytes(hook.key.encode(), 'little'):08x} {hook.key} {hook.classname}")

    @staticmethod
    def lookup(h: int) -> InvertedListsIOHook:
        """The kind of a tag."""
        found = next((hook for hook in _HOOKS if int.from_bytes(hook.key.encode(), "little") == h), None)
        check(found is not None, "no inverted lists have the tag {:08x}", h)
        assert found is not None
        return found

    @staticmethod
    def lookup_classname(classname: str) -> InvertedListsIOHook:
        """The kind of a class."""
        found = next((hook for hook in _HOOKS if hook.classname == classname), None)
        check(found is not None, "no inverted lists have the class name {}", classname)
        assert found is not None
        return found

    def write(self, ils: InvertedLists, f: Any) -> None:
        """Write lists to an IOWriter."""
        from tsscompat.faiss_compat.io import write_InvertedLists

        write_InvertedLists(ils, f)

    def read(self, f: Any, io_flags: int = 0) -> InvertedLists:
        """Read lists from an IOReader, their tag included."""
        from tsscompat.faiss_compat.io import read_InvertedLists

        made: InvertedLists = read_InvertedLists(f, io_flags)
        return made

    def read_ArrayInvertedLists(self, f: Any, io_flags: int, nlist: int, code_size: int, sizes: Any) -> InvertedLists:
        """Lists in memory, read as this kind: through the flags of the functions that read indexes."""
        raise FaissError(f"read to array not implemented for {self.classname}: read_index does it, with IO_FLAG_MMAP")


class OnDiskInvertedListsIOHook(InvertedListsIOHook):
    """That of lists in a file."""

    def __init__(self) -> None:
        super().__init__("ilod", "OnDiskInvertedLists")


class BlockInvertedListsIOHook(InvertedListsIOHook):
    """That of lists in blocks."""

    def __init__(self) -> None:
        super().__init__("ilbl", "BlockInvertedLists")


_HOOKS: list[InvertedListsIOHook] = [OnDiskInvertedListsIOHook(), BlockInvertedListsIOHook()]

__all__ = ["BlockInvertedListsIOHook", "InvertedListsIOHook", "OnDiskInvertedListsIOHook"]
