"""FAISS's file format as tables: for every tag the class, its fields, and what must hold of them.

A row is `section(tag, class, fields)`. `finish` cross-checks the sizes that a file claims, so that whatever loads can be searched, and
works out what the file does not hold. A module a family; importing it enters its rows.
"""

from tsscompat.faiss_compat.sections import (  # noqa: F401 - their rows
    additive,
    additive_fastscan,
    codecs,
    eden,
    fastscan,
    flat,
    graphs,
    hashing,
    ivf,
    legacy,
    nsg,
    panorama,
    rabitq,
    rabitq_fastscan,
    transforms,
    wrappers,
)
from tsscompat.faiss_compat.sections.binary import binary
from tsscompat.faiss_compat.sections.common import PQ, finish_pq, index, transform
from tsscompat.faiss_compat.sections.lists import InvertedListsCodec

__all__ = ["PQ", "InvertedListsCodec", "binary", "finish_pq", "index", "transform"]
