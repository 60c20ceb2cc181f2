"""Lists in files, mapped files, files that what is read goes on using, and checksums beside files."""

from __future__ import annotations

import copy
import os
import pickle
import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsscompat

D, NLIST = 8, 12
BOTH = pytest.mark.parametrize("writer, reader", [(faiss, tsscompat), (tsscompat, faiss), (tsscompat, tsscompat)])


def vectors(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def trained(library, key: str = f"IVF{NLIST},Flat"):
    index = library.index_factory(D, key)
    index.train(vectors(600))
    index.nprobe = 5
    return index


def on_disk(library, index, path):
    lists = library.OnDiskInvertedLists(index.nlist, index.code_size, str(path))
    index.replace_invlists(lists)
    return lists


@pytest.mark.parametrize("key", [f"IVF{NLIST},Flat", f"IVF{NLIST},PQ4x4", f"IVF{NLIST},SQ8"])
def test_searches_give_what_lists_in_memory_give(tmp_path, key):
    whole = trained(tsscompat, key)
    index = copy.deepcopy(whole)
    on_disk(tsscompat, index, tmp_path / "lists")
    for part in np.split(vectors(500, 2), 5):
        whole.add(part)
        index.add(part)
    queries = vectors(40, 3)
    for nq in (1, 40):
        for ours, theirs in zip(index.search(queries[:nq], 7), whole.search(queries[:nq], 7)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(index.range_search(queries, 6.0), whole.range_search(queries, 6.0)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        index.search_and_reconstruct(queries, 3)[2], whole.search_and_reconstruct(queries, 3)[2], rtol=1e-5
    )
    chosen = tsscompat.SearchParametersIVF(nprobe=NLIST, sel=tsscompat.IDSelectorRange(50, 90))
    np.testing.assert_array_equal(index.search(queries, 3, params=chosen)[1], whole.search(queries, 3, params=chosen)[1])
    assert index.remove_ids(tsscompat.IDSelectorRange(100, 300)) == whole.remove_ids(tsscompat.IDSelectorRange(100, 300)) == 200
    np.testing.assert_array_equal(index.search(queries, 7)[1], whole.search(queries, 7)[1])


@BOTH
def test_files_cross(tmp_path, writer, reader):
    """Both the section and the lists' own file, also where they moved, were added to or are not to be written."""
    index = trained(writer)
    lists = on_disk(writer, index, tmp_path / "lists")  # FAISS's index does not keep it
    for part in np.split(vectors(400, 2), 8):
        index.add(part)
    expected = index.search(vectors(9, 3), 5)[1]
    path = str(tmp_path / "index")
    writer.write_index(index, path)
    del index, lists
    again = reader.read_index(path, reader.IO_FLAG_READ_ONLY)
    np.testing.assert_array_equal(again.search(vectors(9, 3), 5)[1], expected)
    if reader is tsscompat:  # FAISS ends the process
        with pytest.raises(RuntimeError):
            again.add(vectors(3))
    os.mkdir(tmp_path / "moved")
    for name in ("lists", "index"):
        os.rename(tmp_path / name, tmp_path / "moved" / name)
    path = str(tmp_path / "moved" / "index")
    with pytest.raises(RuntimeError):
        reader.read_index(path)
    again = reader.read_index(path, reader.IO_FLAG_ONDISK_SAME_DIR)
    np.testing.assert_array_equal(again.search(vectors(9, 3), 5)[1], expected)
    again.add(vectors(100, 5))
    assert (again.search(vectors(100, 5), 1)[1][:, 0] >= 0).all()
    assert reader.serialize_index(again).tobytes()[:8] == writer.serialize_index(trained(writer)).tobytes()[:8]


@pytest.mark.parametrize("library", [faiss, tsscompat])
def test_the_index_file_itself_can_be_mapped(tmp_path, library):
    index = library.IndexPreTransform(library.RandomRotationMatrix(D, D), trained(library))
    index.train(vectors(600))
    index.add(vectors(400, 2))
    path = str(tmp_path / "index")
    library.write_index(index, path)
    mapped = library.read_index(path, library.IO_FLAG_MMAP)
    lists = library.downcast_InvertedLists(library.extract_index_ivf(mapped).invlists)
    assert isinstance(lists, library.OnDiskInvertedLists) and lists.read_only
    np.testing.assert_array_equal(mapped.search(vectors(9, 3), 5)[1], index.search(vectors(9, 3), 5)[1])
    with pytest.raises(RuntimeError):
        library.deserialize_index(library.serialize_index(index), library.IO_FLAG_SKIP_IVF_DATA)
    if library is tsscompat:  # FAISS ends the process
        with pytest.raises(RuntimeError):
            mapped.add(vectors(2))


def test_a_mapped_index_is_written_whole(tmp_path):
    index = trained(tsscompat)
    index.add(vectors(400, 2))
    path = str(tmp_path / "index")
    tsscompat.write_index(index, path)
    mapped = tsscompat.read_index(path, tsscompat.IO_FLAG_MMAP)
    assert (tsscompat.serialize_index(mapped) == tsscompat.serialize_index(index)).all()
    again = pickle.loads(pickle.dumps(mapped))
    np.testing.assert_array_equal(again.search(vectors(9, 3), 5)[1], index.search(vectors(9, 3), 5)[1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=25))
def test_lists_grow_and_shrink_as_faiss_s(tmp_path_factory, steps):
    """Sizes, rooms, places and slots are FAISS's after any resizing, and what stays keeps its content."""
    folder = tmp_path_factory.mktemp("lists")
    ours, theirs = (library.OnDiskInvertedLists(4, 3, str(folder / library.__name__)) for library in (tsscompat, faiss))
    held: list[list[int]] = [[], [], [], []]
    for step, (list_no, size) in enumerate(steps):
        if size > len(held[list_no]):
            ids = np.arange(size - len(held[list_no])) + 1000 * step
            codes = np.tile((ids % 251).astype(np.uint8)[:, None], (1, 3))
            for library, lists in ((tsscompat, ours), (faiss, theirs)):
                lists.add_entries(list_no, len(ids), library.swig_ptr(ids), library.swig_ptr(codes))
            held[list_no] += ids.tolist()
        else:
            ours.resize(list_no, size), theirs.resize(list_no, size)
            del held[list_no][size:]
    assert ours.totsize == theirs.totsize
    for list_no, ids in enumerate(held):
        a, b = ours.lists.at(list_no), theirs.lists.at(list_no)
        assert (a.size, a.capacity, a.offset) == (b.size, b.capacity, b.offset)
        assert ours.get_ids(list_no).tensor.tolist() == ids
        assert ours.get_codes(list_no).tensor.view(-1, 3)[:, 1].tolist() == [i % 251 for i in ids]
    writer = faiss.VectorIOWriter()
    faiss.write_InvertedLists(theirs, writer)
    slots = tsscompat.VectorIOWriter()
    tsscompat.write_InvertedLists(ours, slots)
    name, other = (str(folder / library.__name__).encode() for library in (tsscompat, faiss))
    mine = bytes(tsscompat.vector_to_array(slots.data)).replace(len(name).to_bytes(8, "little") + name, b"?")
    assert mine == bytes(faiss.vector_to_array(writer.data)).replace(len(other).to_bytes(8, "little") + other, b"?")


def test_lists_of_many_files_become_one(tmp_path):
    index = trained(tsscompat)
    parts, expected = tsscompat.InvertedListsPtrVector(), trained(tsscompat)
    expected.add(vectors(300, 2))
    for i, part in enumerate(np.split(vectors(300, 2), 3)):
        one = trained(tsscompat)
        one.add(part)
        tsscompat.write_index(one, str(tmp_path / f"part{i}"))
        parts.push_back(tsscompat.read_index(str(tmp_path / f"part{i}"), tsscompat.IO_FLAG_MMAP).invlists)
    lists = tsscompat.OnDiskInvertedLists(NLIST, index.code_size, str(tmp_path / "all"))
    assert lists.merge_from_multiple(parts.data(), parts.size(), True) == 300
    index.replace_invlists(lists)
    index.ntotal = 300
    np.testing.assert_array_equal(index.search(vectors(9, 3), 5)[1], expected.search(vectors(9, 3), 5)[1])
    lists.prefetch_lists(np.arange(NLIST), NLIST)
    lists.crop_invlists(3, 5)
    assert lists.nlist == 2 and lists.list_size(0) == expected.invlists.list_size(3)
    with pytest.raises(RuntimeError):
        lists.merge_from_1(expected.invlists)


def test_threads_may_add_at_once(tmp_path):
    lists = tsscompat.OnDiskInvertedLists(NLIST, 4, str(tmp_path / "lists"))

    def work(start: int) -> None:
        for i in range(start, start + 100):
            lists.add_entry(i % NLIST, i, np.full(4, i % 256, dtype=np.uint8))

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert lists.compute_ntotal() == 400
    for list_no in range(NLIST):
        ids = lists.get_ids(list_no).tensor
        assert (lists.get_codes(list_no).tensor.view(-1, 4)[:, 2] == ids % 256).all() and (ids % NLIST == list_no).all()


@pytest.mark.parametrize("key", ["SQfp16", "Flat", "HNSW8,Flat", f"IVF{NLIST},Flat", "PQ4x4np", "LSH"])
def test_what_is_read_may_stay_where_it_is(tmp_path, key):
    if key == "LSH" and not hasattr(tsscompat, "IndexLSH"):
        pytest.skip("not there yet")
    index = faiss.index_factory(D, key)
    index.train(vectors(600))
    index.add(vectors(300, 2))
    path = str(tmp_path / "index")
    faiss.write_index(index, path)
    data = np.fromfile(path, np.uint8)
    expected = tsscompat.deserialize_index(data).search(vectors(9, 3), 5)
    for again in (
        tsscompat.read_index(path, tsscompat.IO_FLAG_MMAP_IFC),
        tsscompat.read_index(tsscompat.MappedFileIOReader(path)),
        tsscompat.read_index(tsscompat.ZeroCopyIOReader(tsscompat.swig_ptr(data), data.size)),
    ):
        for ours, theirs in zip(again.search(vectors(9, 3), 5), expected):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        again.add(vectors(5, 7))
        assert again.ntotal == 305
    assert (np.fromfile(path, np.uint8) == data).all()


def test_codes_lie_in_the_memory_given():
    index = tsscompat.IndexFlatL2(D)
    index.add(vectors(300))
    data = tsscompat.serialize_index(index).copy()
    again = tsscompat.read_index(tsscompat.ZeroCopyIOReader(tsscompat.swig_ptr(data), data.size))
    address = again.codes.tensor.data_ptr() - data.ctypes.data
    assert 0 < address < 100


def test_a_checksum_beside_the_file(tmp_path):
    index = trained(tsscompat)
    path = str(tmp_path / "index")
    tsscompat.write_index(index, path)
    assert not os.path.exists(path + ".sha256")
    with pytest.raises(RuntimeError):
        tsscompat.read_index(path, checksum=True)
    tsscompat.write_index(index, path, checksum=True)
    tsscompat.read_index(path)
    index.add(vectors(20))
    tsscompat.write_index(index, path)  # keeps what is there true
    assert tsscompat.read_index(path, checksum=True).ntotal == 20
    data = np.fromfile(path, np.uint8)
    data[-3] ^= 1
    data.tofile(path)
    with pytest.raises(RuntimeError, match="sha256"):
        tsscompat.read_index(path)
    assert tsscompat.read_index(path, checksum=False).ntotal == 20
    assert faiss.read_index(path).ntotal == 20
    tsscompat.write_index(index, path, checksum=False)
    assert not os.path.exists(path + ".sha256")


@pytest.mark.parametrize("change", ["size", "offset", "total", "slot", "name"])
def test_lists_that_claim_what_is_not_there_are_refused(tmp_path, change):
    index = trained(tsscompat)
    lists = on_disk(tsscompat, index, tmp_path / "lists")
    index.add(vectors(100))
    if change == "size":
        lists.lists.table[2] = lists.lists.table.new_tensor([900, 900, 0])
    elif change == "offset":
        lists.lists.at(3).offset = 1 << 62
    elif change == "total":
        lists.totsize += 1
    elif change == "slot":
        lists.slots.push_back(tsscompat.OnDiskSlot(0, 1 << 40))
    else:
        lists.filename = os.devnull
    with pytest.raises(RuntimeError):
        tsscompat.deserialize_index(tsscompat.serialize_index(index))


def test_hooks_name_the_kinds_of_lists(capsys):
    hook = tsscompat.InvertedListsIOHook.lookup(int.from_bytes(b"ilod", "little"))
    assert hook is tsscompat.InvertedListsIOHook.lookup_classname("OnDiskInvertedLists") and hook.key == "ilod"
    for wrong in (lambda: tsscompat.InvertedListsIOHook.lookup(1), lambda: tsscompat.InvertedListsIOHook.lookup_classname("x")):
        with pytest.raises(RuntimeError):
            wrong()
    tsscompat.InvertedListsIOHook.print_callbacks()
    assert "ilod" in capsys.readouterr().out
