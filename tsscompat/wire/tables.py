"""Tables of fields: one table reads an object's state and writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tsscompat.wire.codecs import Codec, fourcc, write_fourcc
from tsscompat.wire.cursor import Reader, Writer

Condition = Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """One field: an attribute, how it is read, when it is there, and what is written where the object has no such attribute."""

    name: str
    codec: Codec
    when: Condition | None = None
    constant: Any = None

    def read(self, reader: Reader, obj: Any) -> None:
        if self.when is not None and not self.when(obj):
            return
        trail = reader.enter(self.name)
        value = self.codec.read(reader, obj)
        trail.pop()
        if self.constant is not None or value is obj:
            return
        held: Any = getattr(obj, self.name, None)
        if hasattr(value, "untyped_storage") and hasattr(held, "tensor"):
            if value is reader.lent:
                held.lend(value)
            else:
                held.tensor = value
        else:
            try:
                setattr(obj, self.name, value)
            except (TypeError, OverflowError, ValueError) as e:
                raise reader.error(str(e)) from None

    def write(self, writer: Writer, obj: Any) -> None:
        if self.when is None or self.when(obj):
            self.codec.write(writer, self.constant if self.constant is not None else getattr(obj, self.name), obj)


Table = tuple[Field, ...]


def fields(*rows: tuple[Any, ...]) -> Table:
    """A table from rows (name, codec[, when])."""
    return tuple(Field(*row) for row in rows)


def reserved(codec: Codec, value: Any) -> Field:
    """A field that is written as a constant and read over."""
    return Field("reserved", codec, None, value)


class Part:
    """A codec for an object that is a table of its own, held under a name."""

    def __init__(self, name: str, table: Table, finish: Callable[[Any, Reader], None] | None = None) -> None:
        self.name, self.table, self.finish = name, table, finish

    def read(self, reader: Reader, obj: Any) -> Any:
        held = getattr(obj, self.name)
        read_table(reader, self.table, held)
        if self.finish is not None:
            self.finish(held, reader)
        return held

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        write_table(writer, self.table, value)


def part(name: str, table: Table, finish: Callable[[Any, Reader], None] | None = None) -> Field:
    """A field that is an object with fields of its own."""
    return Field(name, Part(name, table, finish))


def read_table(reader: Reader, table: Table, obj: Any) -> None:
    """Fill an object from its fields."""
    for row in table:
        row.read(reader, obj)


def write_table(writer: Writer, table: Table, obj: Any) -> None:
    """Write an object's fields."""
    for row in table:
        row.write(writer, obj)


@dataclass(frozen=True)
class Section:
    """A tag, the class that it stands for, its fields, and what must be true and be worked out after reading."""

    tag: str
    cls: str
    table: Table
    finish: Callable[[Any, Reader], None] | None = None
    written: Condition | None = None  # which objects of the class are written under this tag; None with legacy=True: none
    legacy: bool = False


class Sections:
    """The sections of a kind of object (indexes, transforms), by tag and by class."""

    def __init__(self, kind: str, lookup: Callable[[str], type]) -> None:
        self.kind, self.lookup = kind, lookup
        self.by_tag: dict[str, Section] = {}
        self.by_class: dict[str, list[Section]] = {}

    def section(self, tag: str, cls: str, table: Table, **more: Any) -> None:
        """Add a section."""
        row = Section(tag, cls, table, **more)
        self.by_tag[tag] = row
        if not row.legacy:
            self.by_class.setdefault(cls, []).append(row)

    def read(self, reader: Reader, obj: Any = None) -> Any:
        """Read an object; the tag `null` is None."""
        tag = fourcc(reader)
        if tag == "null":
            return None
        row = self.by_tag.get(tag)
        if row is None:
            raise reader.error(f"{self.kind} type {tag!r} is not known")
        with reader.reading(tag):
            made = self.lookup(row.cls)()
            read_table(reader, row.table, made)
            if row.finish is not None:
                row.finish(made, reader)
        return made

    def write(self, writer: Writer, value: Any, obj: Any = None) -> None:
        """Write an object under the tag of its class, or the nearest class above it that has one."""
        if value is None:
            write_fourcc(writer, "null")
            return
        for cls in type(value).__mro__:
            for row in self.by_class.get(cls.__name__, ()):
                if row.written is None or row.written(value):
                    write_fourcc(writer, row.tag)
                    write_table(writer, row.table, value)
                    return
        raise TypeError(f"{self.kind} {type(value).__name__} cannot be written")
