"""The files in tests/golden: how FAISS made them, and how those of sections that it writes no more are put together.

`python tests/golden_files.py` makes them anew, and expected.json, which says what FAISS finds in each.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent / "golden"
D, N, K = 8, 40, 4
L1, IP = 2, 0


def vectors(n: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(5).standard_normal((8, D)) * 2
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(8, size=n)] + rng.standard_normal((n, D))).astype(np.float32)


def codes(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(n, 2), dtype=np.uint8)


def queries(index: Any) -> np.ndarray:
    """What is asked of an index, of vectors or of bits."""
    return codes(3, 9) if hasattr(index, "xb") or "Binary" in type(index).__name__ else vectors(3, 9)


def filled(index: Any, n: int = N) -> Any:
    binary = "Binary" in type(index).__name__
    make = codes if binary else vectors
    index.train(make(400, 1))
    if "IDMap" in type(index).__name__:
        index.add_with_ids(make(N, 2), np.arange(N) * 3 + 5)
    else:
        index.add(make(n, 2))
    return index


# Factory strings; with @IP or @L1 the metric.
KEYS = [
    "Flat",
    "Flat@IP",
    "Flat@L1",
    "LSH",
    "LSHrt",
    "PQ2x4np",
    "SQ8",
    "SQfp16",
    "SQ4",
    "IVF4,Flat",
    "IVF4,Flat@IP",
    "IVF4,SQ8",
    "IVF4,PQ2x4np",
    "IMI2x2,Flat",
    "HNSW4,Flat",
    "HNSW4,PQ2x4np",
    "HNSW4,SQ8",
    "HNSW4,4+PQ2",
    "IVF4,PQ2x4np,RFlat",
    "RR6,Flat",
    "PCA4,Flat",
    "PCAR4,Flat",
    "ITQ4,LSH",
    "OPQ2_4,PQ2x4np",
    "L2norm,Flat",
    "Pad12,Flat",
    "HR,Flat",
    "IDMap,Flat",
    "IDMap2,Flat",
    "Residual4,PQ2x4",
    "RQ2x4",
    "RQ2x4_Nfloat",
    "RQ2x4_Nqint8",
    "LSQ2x4",
    "PRQ2x1x4",
    "PLSQ2x1x4",
    "IVF4,RQ2x4",
    "IVF4,LSQ2x4",
    "IVF4,PRQ2x1x4",
    "IVF4,PLSQ2x1x4",
    "IVF4(RCQ2x1),Flat",
    "RaBitQ",
    "RaBitQ4",
    "IVF4,RaBitQ",
    "IVF4,RaBitQ4",
    "RaBitQfs",
    "RaBitQfs4",
    "IVF4,RaBitQfs",
    "IVF4,RaBitQfs4",
    "EDEN",
    "EDEN4",
    "IVF4,EDEN",
    "IVF4,EDEN4",
    "PQ2x4fs",
    "IVF4,PQ2x4fs",
    "IVF4,PQ2x4fsr",
    "RQ2x4fs_Nrq2x4",
    "LSQ2x4fs_Nlsq2x4",
    "PRQ2x1x4fs_Nrq2x4",
    "PLSQ2x1x4fs_Nlsq2x4",
    "IVF4,RQ2x4fs_Nrq2x4",
    "IVF4,LSQ2x4fs_Nlsq2x4",
    "IVF4,PRQ2x1x4fs_Nrq2x4",
    "IVF4,PLSQ2x1x4fs_Nlsq2x4",
    "FlatL2Panorama2_64",
    "FlatIPPanorama2_64@IP",
    "HNSW4,FlatPanorama2",
    "HNSW4,RaBitQ",
]
# Of these FAISS's files hold no vectors; NSG wants more of them.
TRAINED_KEYS = ["ZnLattice2x4_4", "RCQ2x2", "MinMax,SQ8", "MinMaxFP16,SQ8"]
NSG_KEYS = ["NSG4,Flat", "NSG4,PQ2x4np", "NSG4,SQ8"]
BINARY_KEYS = ["BFlat", "BIVF4", "BHNSW4", "BHash6", "BHash2x4", "BIVF4_HNSW4", "IDMap,BFlat", "IDMap2,BFlat"]


def _by_key(faiss: Any, key: str) -> Any:
    name, _, metric = key.partition("@")
    index = faiss.index_factory(D, name, {"": 1, "IP": 0, "L1": 2}[metric])
    return index


def _dedup(faiss: Any) -> Any:
    index = faiss.IndexIVFFlatDedup(faiss.IndexFlatL2(D), D, 4)
    index.train(vectors(400, 1))
    index.add(np.repeat(vectors(N // 2, 2), 2, 0))
    return index


def _hashed(faiss: Any) -> Any:
    index = faiss.IndexIVFSpectralHash(faiss.IndexFlatL2(D), D, 4, 16, 10.0)
    return filled(index)


def _cagra(faiss: Any) -> Any:
    return filled(faiss.IndexHNSWCagra(D, 4, 1, faiss.Float32))


def _independent(faiss: Any) -> Any:
    lists = faiss.index_factory(4, "IVF4,PQ2x4np")
    vt = faiss.PCAMatrix(D, 4)
    index = faiss.IndexIVFIndependentQuantizer(faiss.IndexFlatL2(D), lists, vt)
    return filled(index)


def _mapped(faiss: Any) -> Any:
    index = faiss.index_factory(D, "IVF4,Flat")
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    index.train(vectors(400, 1))
    index.add_with_ids(vectors(N, 2), np.arange(N) * 3 + 5)
    return index


def _refined(faiss: Any) -> Any:
    base, second = faiss.IndexFlatL2(D), faiss.IndexFlatL2Panorama(D, 2, 64)
    index = faiss.IndexRefinePanorama(base, second)
    return written(faiss, filled(index))  # before the parts are gone


def _panorama(faiss: Any, metric: int, batch: int = 64) -> Any:
    return filled(faiss.IndexIVFFlatPanorama(faiss.IndexFlat(D, metric), D, 2, 2, metric, True, batch))


def _two_pq(faiss: Any) -> Any:
    return filled(faiss.IndexIVFPQR(faiss.IndexFlatL2(D), D, 4, 2, 4, 2, 4))


def _from_float(faiss: Any) -> Any:
    return filled(faiss.IndexBinaryFromFloat(faiss.index_factory(16, "HNSW4,Flat")))


def _transforms(faiss: Any) -> Any:
    index = faiss.IndexPreTransform(faiss.IndexFlatL2(4))
    chain = [faiss.CenteringTransform(D), faiss.NormalizationTransform(D, 2.0), faiss.RemapDimensionsTransform(D, 4, True)]
    for vt in reversed(chain):
        index.prepend_transform(vt)
    return filled(index)


def _layered(faiss: Any) -> Any:
    """A graph over any storage."""
    storage = faiss.IndexFlatL2(D)
    return written(faiss, filled(faiss.IndexHNSW(storage, 4)))  # before the storage is gone


def _without_storage(faiss: Any) -> Any:
    index = filled(faiss.index_factory(D, "HNSW4,Flat"), 10)
    return faiss.serialize_index(index, faiss.IO_FLAG_SKIP_STORAGE).tobytes()


def _without_lists(faiss: Any) -> Any:
    index = _just_trained(faiss.index_factory(D, "IVF4,Flat"))
    index.replace_invlists(None)
    return index


def _just_trained(index: Any) -> Any:
    index.train(vectors(400, 1))
    return index


MADE: dict[str, Callable[[Any], Any]] = {
    "IVFFlatDedup": _dedup,
    "IVFSpectralHash": _hashed,
    "HNSWCagra": _cagra,
    "IVFIndependentQuantizer": _independent,
    "IVFFlat,hashtable": _mapped,
    "NNDescent": lambda faiss: filled(faiss.IndexNNDescentFlat(D, 6), 110),
    "IVFPQR": _two_pq,
    "IVFFlatPanorama": lambda faiss: _panorama(faiss, 1),
    "IVFFlatPanorama@IP": lambda faiss: _panorama(faiss, 0),
    "RefinePanorama": _refined,
    "BinaryFromFloat": _from_float,
    "Transforms": _transforms,
    "MultiIndexQuantizer": lambda faiss: _just_trained(faiss.MultiIndexQuantizer(D, 2, 2)),
    "HNSW": _layered,
    "HNSW,no storage": _without_storage,
    "IVFFlat,few": lambda faiss: filled(faiss.index_factory(D, "IVF16,Flat"), 5),
    "IVFFlat,no lists": _without_lists,
    "BinaryHNSWCagra": lambda faiss: filled(faiss.IndexBinaryHNSWCagra(16, 4)),
}


def written(faiss: Any, index: Any) -> bytes:
    """The bytes of an index."""
    if isinstance(index, bytes):
        return index
    write = faiss.serialize_index_binary if "Binary" in type(index).__name__ else faiss.serialize_index
    return write(index).tobytes()


# -- sections of old -------------------------------------------------------------------------------------------------------------


def _vector(items: bytes, unit: int) -> bytes:
    return struct.pack("<Q", len(items) // unit) + items


def _split_lists(faiss: Any, index: Any) -> tuple[list[bytes], list[bytes]]:
    lists = index.invlists
    sizes = [lists.list_size(i) for i in range(lists.nlist)]
    ids = [faiss.rev_swig_ptr(lists.get_ids(i), n).tobytes() if n else b"" for i, n in enumerate(sizes)]
    held = [faiss.rev_swig_ptr(lists.get_codes(i), n * lists.code_size).tobytes() if n else b"" for i, n in enumerate(sizes)]
    return ids, held


def _old_ivf(faiss: Any, tag: str, key: str, floats: bool = False) -> bytes:
    """An IVF file with a vector of ids for each list before the direct map, and one of codes for each in place of the lists."""
    index = _two_pq(faiss) if tag == "IvQR" else filled(faiss.index_factory(D, key))
    data = written(faiss, index)
    inner = written(faiss, index.quantizer)
    ids, held = _split_lists(faiss, index)
    front = data.index(inner) + len(inner)
    direct_map = data[front : front + 9]
    lists = data.index(b"ilar")
    own = data[front + 9 : lists].removesuffix(b"\1" if tag == "IvSQ" else b"")
    old_ids = b"".join(_vector(some, 8) for some in ids)
    old_codes = b"".join(_vector(some, 4 if floats else 1) for some in held)
    behind = 4 + 16 + 4 + 8 + 8 * index.nlist + sum(len(a) + len(b) for a, b in zip(ids, held))
    return tag.encode() + data[4:front] + old_ids + direct_map + own + old_codes + data[lists + behind :]


def _old_pq(faiss: Any, tag: bytes) -> bytes:
    """IxPo: another tag; IxPQ: without what says how to search."""
    data = written(faiss, filled(faiss.index_factory(D, "PQ2x4np")))
    return tag + (data[4:-9] if tag == b"IxPQ" else data[4:])


def _old_lsh(faiss: Any) -> bytes:
    """The bytes of a code counted by eights."""
    data = written(faiss, filled(faiss.IndexLSH(D, 64, True)))
    at = data.index(b"rrot") - 4
    assert struct.unpack("<i", data[at : at + 4]) == (8,)
    return b"IxHE" + data[4:at] + struct.pack("<i", 1) + data[at + 4 :]


def _old_rq(faiss: Any) -> bytes:
    """How it was trained comes before the codebooks."""
    data = written(faiss, filled(faiss.index_factory(D, "RQ2x4")))
    first = 37 + 8 + 8 + 8 + 2 * 8 + 1
    last = first + 8 + 4 * struct.unpack("<Q", data[first : first + 8])[0] + 12
    return b"IxRQ" + data[4:first] + data[last : last + 8] + data[first:last] + data[last + 8 :]


def _old_panorama(faiss: Any) -> bytes:
    """Batches of 128, which the file does not say."""
    data = written(faiss, _panorama(faiss, 1, 128))
    mark, lists = struct.pack("<QQ", 2, 128), data.index(b"ilp2")
    at = data.rindex(mark, 0, lists)
    front = b"IwPn" + data[4 : at + 8] + data[at + 16 : lists]
    return front + b"ilpn" + data[lists + 4 : lists + 28] + data[lists + 36 :]


def _old_pca(faiss: Any, tag: bytes) -> bytes:
    """PCA without epsilon, and before that without balanced bins either."""
    data = written(faiss, filled(faiss.index_factory(D, "PCA4,Flat")))
    at = data.index(b"Pcam")
    power, flag, bins = data[at + 4 : at + 8], data[at + 12 : at + 13], data[at + 13 : at + 17]
    return data[:at] + tag + power + flag + (bins if tag == b"PcAm" else b"") + data[at + 17 :]


def _old_sq(faiss: Any) -> bytes:
    """SQ lists that say nothing of residuals."""
    data = written(faiss, filled(faiss.index_factory(D, "IVF4,SQ8")))
    at = data.index(b"ilar")
    return data[: at - 1].replace(b"IwSq", b"IwSQ", 1) + data[at:]


def _old_cagra(faiss: Any) -> bytes:
    """Without the type of the numbers."""
    data = written(faiss, _cagra(faiss))
    header = 4 + 4 + 8 + 8 + 8 + 1 + 4
    return b"IHNc" + data[4 : header + 6] + data[header + 10 :]


def _old_eden(faiss: Any, key: str, old: bytes, new: bytes) -> bytes:
    """Without the kind of scale, which follows dimension, bytes of a code, metric and bits."""
    data = written(faiss, filled(faiss.index_factory(D, key)))
    at = data.index(new)
    index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    size = index.code_size - (8 if key.startswith("IVF") else 0)
    mark = struct.pack("<QQiQ", D, index.code_size, 1, 1), struct.pack("<QQiQ", D, size, 1, 1)
    here = next(data.index(m) + len(m) for m in mark if m in data)
    return data[:at] + old + data[at + 4 : here] + data[here + 4 :]


def _blocks_apart(blocks: bytes, signs: int, storage: int) -> tuple[bytes, np.ndarray]:
    """Of blocks of 32 RaBitQ codes the signs, and what stood apart, a row for each place."""
    table = np.frombuffer(blocks, np.uint8).reshape(-1, 32 * (signs + storage))
    return table[:, : 32 * signs].tobytes(), table[:, 32 * signs :].reshape(-1, storage)


def _old_rabitq(faiss: Any, key: str) -> bytes:
    """Factors and further bits of each vector before the blocks, which hold the signs alone."""
    index = filled(faiss.index_factory(D, key))
    data, storage = written(faiss, index), index.code_size - D // 8
    at = len(data) - index.codes.size() - 8
    signs, apart = _blocks_apart(data[at + 8 :], D // 8, storage)
    sizes = at - 28
    return b"Irfs" + data[4:sizes] + _vector(apart[:N].tobytes(), 1) + data[sizes:at] + _vector(signs, 1)


def _old_rabitq_lists(faiss: Any, key: str) -> bytes:
    """The same of all lists before them, in order of ids."""
    index = filled(faiss.index_factory(D, key))
    data, storage = written(faiss, index), index.code_size - D // 8
    lists = data.rindex(b"ilbl")
    at, apart, behind = lists + 36, np.zeros((N, storage), np.uint8), b""
    for _ in range(index.nlist):
        n = struct.unpack("<Q", data[at : at + 8])[0]
        ids = np.frombuffer(data[at + 8 : at + 8 + 8 * n], np.int64)
        start = at + 16 + 8 * n
        at = start + struct.unpack("<Q", data[start - 8 : start])[0]
        signs, rows = _blocks_apart(data[start:at], D // 8, storage)
        apart[ids] = rows[:n]
        behind += _vector(ids.tobytes(), 8) + _vector(signs, 1)
    assert at == len(data)
    sizes = data[lists : lists + 28] + struct.pack("<Q", 32 * D // 8)
    return b"Iwrf" + data[4:lists] + _vector(apart.tobytes(), 1) + sizes + behind


def old_files(faiss: Any) -> Iterator[tuple[str, bytes]]:
    """Sections that FAISS reads and writes no more."""
    yield "old,IvFl", _old_ivf(faiss, "IvFl", "IVF4,Flat", True)
    yield "old,IvFL", _old_ivf(faiss, "IvFL", "IVF4,Flat")
    yield "old,IvSQ", _old_ivf(faiss, "IvSQ", "IVF4,SQ8")
    yield "old,IvPQ", _old_ivf(faiss, "IvPQ", "IVF4,PQ2x4np")
    yield "old,IvQR", _old_ivf(faiss, "IvQR", "")
    yield "old,IwSQ", _old_sq(faiss)
    yield "old,IxPQ", _old_pq(faiss, b"IxPQ")
    yield "old,IxPo", _old_pq(faiss, b"IxPo")
    yield "old,IxHE", _old_lsh(faiss)
    yield "old,IxRQ", _old_rq(faiss)
    yield "old,IwPn", _old_panorama(faiss)
    yield "old,PcAm", _old_pca(faiss, b"PcAm")
    yield "old,PCAm", _old_pca(faiss, b"PCAm")
    yield "old,IHNc", _old_cagra(faiss)
    yield "old,IxEd", _old_eden(faiss, "EDEN", b"IxEd", b"IxEe")
    yield "old,IwEd", _old_eden(faiss, "IVF4,EDEN", b"IwEd", b"IwEe")
    yield "old,Irfs", _old_rabitq(faiss, "RaBitQfs")
    yield "old,Irfs4", _old_rabitq(faiss, "RaBitQfs4")
    yield "old,Iwrf", _old_rabitq_lists(faiss, "IVF4,RaBitQfs")
    yield "old,Iwrf4", _old_rabitq_lists(faiss, "IVF4,RaBitQfs4")


def found(faiss: Any, data: bytes) -> list[list[int]] | None:
    """The ids that a search of a file gives; None of what cannot be searched."""
    index = widened(read(faiss, data))
    if getattr(index, "invlists", index) is None or getattr(index, "storage", index) is None:
        return None  # nothing to search
    try:
        return index.search(queries(index), K)[1].tolist()
    except RuntimeError:  # not a searchable kind, or nothing to find
        return None


def read(faiss: Any, data: bytes) -> Any:
    """An index from its bytes, whichever kind it is."""
    array = np.frombuffer(data, np.uint8).copy()
    return faiss.deserialize_index_binary(array) if data[:2] == b"IB" else faiss.deserialize_index(array)


def widened(index: Any) -> Any:
    """The index, set to look into all of its lists."""
    if "IVF" in type(index).__name__ and hasattr(index, "nprobe"):
        index.nprobe = 4
    return index


def all_files(faiss: Any) -> Iterator[tuple[str, bytes]]:
    for key in KEYS:
        yield key, written(faiss, filled(_by_key(faiss, key)))
    for key in TRAINED_KEYS:
        yield key, written(faiss, _just_trained(_by_key(faiss, key)))
    for key in NSG_KEYS:
        yield key, written(faiss, filled(_by_key(faiss, key), 110))
    for key in BINARY_KEYS:
        yield key, written(faiss, filled(faiss.index_binary_factory(16, key)))
    for name, make in MADE.items():
        yield name, written(faiss, make(faiss))
    yield from old_files(faiss)


def main() -> None:
    import faiss

    HERE.mkdir(exist_ok=True)
    expected = {}
    for name, data in all_files(faiss):
        (HERE / f"{name}.faiss").write_bytes(data)
        expected[name] = found(faiss, data)
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(ids)}" for name, ids in sorted(expected.items()))
    (HERE / "expected.json").write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
