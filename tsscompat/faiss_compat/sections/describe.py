"""The format as a document, made from the tables: `python -m tsscompat.faiss_compat.sections.describe > docs/format.md`."""

from __future__ import annotations

import inspect
from typing import Any

from tsscompat.faiss_compat import sections
from tsscompat.wire.codecs import Items, Scalar
from tsscompat.wire.tables import Field, Part, Section, Sections

_SCALARS = {"i": "i32", "I": "u32", "q": "i64", "Q": "u64", "f": "f32", "d": "f64", "B": "u8"}

HEAD = """# FAISS's index files

Made from the tables in `tsscompat/faiss_compat/sections/`; do not edit.

An object is a tag of four letters and its fields, without padding, in little-endian order. `vector of x` is a count as u64 and so many x.
A `flag` is a byte, 0 or 1. `(if ...)` names the condition under which a field is there. An index within an index is written the same way,
tag first; the tag `null` is none. Every index begins with

| field | kind |
|---|---|
"""


def _sentence(thing: Any) -> str:
    """The first sentence that is said of a codec's class."""
    said = inspect.getdoc(type(thing)) or type(thing).__name__
    return said.split("\n\n")[0].replace("\n", " ").rstrip(".").replace("|", "&#124;")


def kind_of(field: Field) -> str:
    """What stands in a file for a field."""
    codec: Any = field.codec
    if isinstance(codec, Scalar):
        letter = codec.layout.format.lstrip("<")
        kind = "flag" if codec.convert is bool else _SCALARS[letter]
    elif isinstance(codec, Items):
        kind = f"vector of {str(codec.dtype).removeprefix('torch.')}"
        kind += f", counted by {codec.unit}" if codec.unit > 1 else ""
    elif isinstance(codec, Sections):
        kind = f"a{'n' if codec.kind[0] in 'aeiou' else ''} {codec.kind}"
    else:
        kind = _sentence(codec)
    if field.constant is not None:
        kind += f" = {field.constant}"
    return kind + (f" (if {field.when.__name__.replace('_', ' ').strip()})" if field.when is not None else "")


def rows(fields: tuple[Field, ...], within: str = "") -> list[tuple[str, str]]:
    """A name and a kind for each field, those of parts with the part's name before them."""
    found: list[tuple[str, str]] = []
    for field in fields:
        if isinstance(field.codec, Part):
            found += rows(field.codec.table, f"{within}{field.name}.")
        else:
            found.append((within + ("" if field.name == "this" else field.name), kind_of(field)))
    return found


def _table(fields: tuple[Field, ...]) -> str:
    return "".join(f"| {f'`{name}`' if name else ''} | {kind} |\n" for name, kind in rows(fields))


def _section(section: Section, header: tuple[Field, ...]) -> str:
    begins = section.table[: len(header)] == header
    own = section.table[len(header) :] if begins else section.table
    old = " (read, not written)" if section.legacy else ""
    about = "The header, then\n\n" if begins and own else ""
    listed = f"| field | kind |\n|---|---|\n{_table(own)}" if own else "The header only.\n"
    return f"### `{section.tag}`: {section.cls}{old}\n\n{about}{listed}\n"


def document() -> str:
    """The whole of it."""
    from tsscompat.faiss_compat.sections import binary as binary_sections
    from tsscompat.faiss_compat.sections.common import HEADER

    parts = [HEAD + _table(HEADER) + "\n"]
    for title, held, header in (
        ("Indexes", sections.index, HEADER),
        ("Binary indexes", binary_sections, ()),
        ("Transforms", sections.transform, ()),
    ):
        parts.append(f"## {title}\n\n")
        parts += [_section(section, header) for _, section in sorted(held.by_tag.items())]
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    print(document(), end="")
