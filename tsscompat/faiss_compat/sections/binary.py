"""Sections of binary indexes, with a registry of their own: their tags are not those of indexes of vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.faiss_compat import enums
from tsscompat.faiss_compat.sections.common import class_of, index, labels_within
from tsscompat.faiss_compat.sections.graphs import HNSW, finish_graph
from tsscompat.faiss_compat.sections.lists import LISTS, DirectMapCodec
from tsscompat.kernels.bitstream import read_groups, write_bits
from tsscompat.wire.codecs import flag, i32, i64, int64s, octets, u64
from tsscompat.wire.cursor import Reader, Writer
from tsscompat.wire.tables import Field, Sections, fields, part

binary = Sections("binary index", class_of)

HEADER = fields(("d", i32), ("code_size", i32), ("ntotal", i64), ("is_trained", flag), ("metric_type", i32))


def _check_header(obj: Any, reader: Reader) -> None:
    reader.check(0 < obj.d < 1 << 24 and obj.d % 8 == 0, "{} bits", obj.d)
    reader.check(obj.code_size == obj.d // 8, "codes of {} bytes for {} bits", obj.code_size, obj.d)
    reader.check(0 <= obj.ntotal < 1 << 40, "{} codes", obj.ntotal)
    reader.check(obj.metric_type in enums.METRICS, "metric {}", obj.metric_type)


def _inner(obj: Any, inner: Any, reader: Reader, kind: str = "IndexBinary") -> None:
    """What an index around another one relies on."""
    _check_header(obj, reader)
    reader.check(isinstance(inner, class_of(kind)), "expected an {} inside, got {}", kind, type(inner).__name__)
    reader.check(inner.d == obj.d, "an index of {} bits in one of {}", inner.d, obj.d)
    obj.own_fields = True


def _finish_flat(obj: Any, reader: Reader) -> None:
    _check_header(obj, reader)
    have, wanted = obj.xb.size(), obj.ntotal * obj.code_size
    reader.check(have == wanted, "{} bytes of codes, expected {}", have, wanted)


def _finish_ivf(obj: Any, reader: Reader) -> None:
    _inner(obj, obj.quantizer, reader)
    quantizer, lists = obj.quantizer, obj.invlists
    # FAISS writes shards of centroids with more of them than lists, or fewer, but then the lists are empty.
    held = 0 if lists is None else lists.compute_ntotal()
    reader.check(not held or quantizer.ntotal <= obj.nlist, "{} centroids for {} lists", quantizer.ntotal, obj.nlist)
    reader.check(not held or labels_within(quantizer, obj.nlist), "a coarse quantizer with numbers beyond {} lists", obj.nlist)
    if lists is not None:
        reader.check(lists.nlist == obj.nlist, "{} lists in an index of {}", lists.nlist, obj.nlist)
        reader.check(
            lists.code_size == obj.code_size, "codes of {} bytes in lists, {} in the index", lists.code_size, obj.code_size
        )
    obj.own_invlists = True


def _finish_from_float(obj: Any, reader: Reader) -> None:
    _inner(obj, obj.index, reader, "Index")
    reader.check(obj.index.ntotal == obj.ntotal, "{} codes, {} vectors", obj.ntotal, obj.index.ntotal)


def _finish_hnsw(obj: Any, reader: Reader) -> None:
    _inner(obj, obj.storage, reader, "IndexBinaryFlat")
    finish_graph(obj, reader)


def _finish_idmap(obj: Any, reader: Reader) -> None:
    _inner(obj, obj.index, reader)
    n = obj.index.ntotal
    reader.check(obj.ntotal == n == obj.id_map.size(), "{} codes, {} in the index, {} ids", obj.ntotal, n, obj.id_map.size())
    if hasattr(obj, "construct_rev_map"):
        obj.construct_rev_map()


def _mixed(keys: Tensor, sizes: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Key, size and ids of one group after another, and which of the numbers are keys."""
    starts = 2 * torch.arange(keys.shape[0]) + sizes.cumsum(0) - sizes
    is_id = torch.ones(2 * keys.shape[0] + ids.shape[0], dtype=torch.bool)
    values = torch.empty(is_id.shape[0], dtype=torch.int64)
    is_id[starts], is_id[starts + 1] = False, False
    values[starts], values[starts + 1], values[is_id] = keys, sizes, ids
    is_key = torch.zeros_like(is_id)
    is_key[starts] = True
    return values, is_key


def _on_cpu(*tensors: Tensor) -> list[Tensor]:
    return [tensor.cpu() for tensor in tensors]


class HashListsCodec:
    """Lists by hash: hashes and sizes as one stream of bits, then ids and codes of each list."""

    def read(self, reader: Reader, obj: Any) -> Any:
        _check_bits(obj, reader)
        count, size_bits, stream = _groups_head(reader, obj, u64, i32)
        reader.check(0 <= size_bits < 64 and (size_bits > 0 or not count), "list sizes of {} bits", size_bits)
        reader.check(stream.shape[0] >= -(-count * (obj.b + size_bits) // 8), "{} bytes for {} lists", stream.shape[0], count)
        keys, sizes, _ = read_groups(stream, count, obj.b, size_bits, 0, 0)
        reader.check(keys.shape[0] == count and keys.unique().shape[0] == count, "{} lists of {} hashes", count, keys.shape[0])
        reader.check(bool((sizes >= 0).all()) and int(sizes.sum()) == obj.ntotal, "lists that do not hold {} codes", obj.ntotal)
        table = obj.invlists
        for key, size in zip(keys, sizes.tolist()):
            ids, codes = int64s.read(reader, obj), octets.read(reader, obj)
            fits = ids.shape[0] == size and codes.shape[0] == size * obj.code_size
            reader.check(fits, "{} ids and {} bytes of codes in a list of {}", ids.shape[0], codes.shape[0], size)
            table.append(key.expand(size), ids, codes)
        return table

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        keys, sizes, order = value.by_arrival()
        ids, codes = value.ids.tensor[order], value.vecs.tensor.view(-1, obj.code_size)[order]
        keys, sizes, ids, codes = _on_cpu(keys, sizes, ids, codes)
        size_bits = int(sizes.max()).bit_length() if keys.shape[0] else 0
        u64.write(writer, keys.shape[0], obj)
        i32.write(writer, size_bits, obj)
        numbers = torch.stack([keys, sizes], 1).reshape(-1)
        octets.write(writer, write_bits(numbers, torch.tensor([obj.b, size_bits]).repeat(keys.shape[0])), obj)
        for some, rows in zip(ids.split(sizes.tolist()), codes.split(sizes.tolist())):
            int64s.write(writer, some, obj)
            octets.write(writer, rows.reshape(-1), obj)


class HashMapsCodec:
    """nhash maps, each a stream of bits: hash, number of ids, ids."""

    def read(self, reader: Reader, obj: Any) -> Any:
        reader.check(obj.nhash > 0 and obj.nhash * obj.b <= obj.d, "{} hashes of {} bits", obj.nhash, obj.b)
        _check_bits(obj, reader)
        reader.check_count(obj.nhash, "hashes")
        n = obj.ntotal
        tables = [class_of("HashTable")() for _ in range(obj.nhash)]
        for table in tables:
            id_bits, count, stream = _groups_head(reader, obj, i32, u64)
            reader.check(0 <= id_bits < 64, "ids of {} bits", id_bits)
            wanted = -(-(count * (obj.b + id_bits) + n * id_bits) // 8)
            reader.check(stream.shape[0] == wanted, "{} bytes for {} hashes, expected {}", stream.shape[0], count, wanted)
            keys, sizes, ids = read_groups(stream, count, obj.b, id_bits, id_bits, n)
            reader.check(keys.shape[0] == count and keys.unique().shape[0] == count, "{} of {} hashes", keys.shape[0], count)
            reader.check(bool((ids < n).all()), "an id beyond {}", n)
            table.append(torch.repeat_interleave(keys, sizes) if id_bits else keys[:0], ids)
        obj.maps.assign(tables)
        return obj.maps

    def write(self, writer: Writer, value: Any, obj: Any) -> None:
        for table in value:
            keys, sizes, order = table.by_arrival()
            keys, sizes, ids = _on_cpu(keys, sizes, table.ids.tensor[order])
            # As many bits as the largest id takes, as FAISS; more where a list's size would not fit, which FAISS writes but cannot read.
            id_bits = max(max(obj.ntotal - 1, 0).bit_length(), int(sizes.max()).bit_length() if keys.shape[0] else 0)
            values, is_key = _mixed(keys, sizes, ids)
            i32.write(writer, id_bits, obj)
            u64.write(writer, keys.shape[0], obj)
            octets.write(writer, write_bits(values, torch.where(is_key, obj.b, id_bits)), obj)


def _check_bits(obj: Any, reader: Reader) -> None:
    reader.check(0 < obj.b <= min(64, obj.d), "hashes of {} bits in codes of {}", obj.b, obj.d)


def _groups_head(reader: Reader, obj: Any, first: Any, second: Any) -> tuple[int, int, Tensor]:
    """Two counts and a stream of bits."""
    one, two = first.read(reader, obj), second.read(reader, obj)
    count = one if first is u64 else two
    reader.check(count < 1 << 40, "{} hashes", count)
    reader.check_count(count, "hashes")
    return one, two, octets.read(reader, obj)


def _finish_multi_hash(obj: Any, reader: Reader) -> None:
    _inner(obj, obj.storage, reader, "IndexBinaryFlat")
    reader.check(obj.storage.ntotal == obj.ntotal, "{} codes stored, expected {}", obj.storage.ntotal, obj.ntotal)


_NESTED = fields(("index", binary), ("id_map", int64s))
_GRAPH = (part("hnsw", HNSW), Field("storage", binary))
_CAGRA = fields(("keep_max_size_level0", flag), ("base_level_only", flag), ("num_base_level_search_entrypoints", i32))
_LISTS = fields(("nlist", u64), ("nprobe", u64), ("quantizer", binary), ("direct_map", DirectMapCodec()))

binary.section("IBxF", "IndexBinaryFlat", (*HEADER, *fields(("xb", octets))), finish=_finish_flat)
binary.section("IBwF", "IndexBinaryIVF", (*HEADER, *_LISTS, LISTS), finish=_finish_ivf)
binary.section("IBFf", "IndexBinaryFromFloat", (*HEADER, *fields(("index", index))), finish=_finish_from_float)
binary.section("IBHf", "IndexBinaryHNSW", (*HEADER, *_GRAPH), finish=_finish_hnsw)
binary.section("IBHc", "IndexBinaryHNSWCagra", (*HEADER, *_CAGRA, *_GRAPH), finish=_finish_hnsw)
binary.section("IBMp", "IndexBinaryIDMap", (*HEADER, *_NESTED), finish=_finish_idmap)
binary.section("IBM2", "IndexBinaryIDMap2", (*HEADER, *_NESTED), finish=_finish_idmap)
_HASH = (*HEADER, *fields(("b", i32), ("nflip", i32)), Field("invlists", HashListsCodec()))
binary.section("IBHh", "IndexBinaryHash", _HASH, finish=_check_header)
_MULTI = fields(("storage", binary), ("b", i32), ("nhash", i32), ("nflip", i32))
binary.section("IBHm", "IndexBinaryMultiHash", (*HEADER, *_MULTI, Field("maps", HashMapsCodec())), finish=_finish_multi_hash)
