"""Indexes too large for memory, merged on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tsscompat.errors import expect
from tsscompat.faiss_compat.invlists import InvertedListsPtrVector
from tsscompat.faiss_compat.invlists_ondisk import OnDiskInvertedLists
from tsscompat.faiss_compat.io import read_index
from tsscompat.faiss_compat.io_streams import IO_FLAG_MMAP
from tsscompat.faiss_compat.ivf_pq import IndexIVFPQR
from tsscompat.faiss_compat.ivflib import extract_index_ivf


def merge_ondisk(trained_index: Any, shard_fnames: Sequence[str], ivfdata_fname: str, shift_ids: bool = False) -> None:
    """Fill a trained, empty index with the vectors of index files; its lists go to a file, and no shard's are read into memory."""
    expect(not isinstance(trained_index, IndexIVFPQR), "IndexIVFPQR is not supported as an on disk index")
    expect(trained_index.ntotal == 0, "works only on an empty index, this one holds {} vectors", trained_index.ntotal)
    ivf = extract_index_ivf(trained_index)
    parts = InvertedListsPtrVector(extract_index_ivf(read_index(name, IO_FLAG_MMAP)).invlists for name in shard_fnames)
    merged = OnDiskInvertedLists(ivf.nlist, ivf.code_size, ivfdata_fname)
    trained_index.ntotal = ivf.ntotal = merged.merge_from_multiple(parts.data(), parts.size(), shift_ids)
    ivf.replace_invlists(merged, True)


__all__ = ["merge_ondisk"]
