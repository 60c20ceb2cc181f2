"""Data to measure with: a synthetic set, and the usual public ones where their files are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from tsscompat.errors import expect
from tsscompat.faiss_compat.contrib.exhaustive_search import knn
from tsscompat.faiss_compat.contrib.vecs_io import bvecs_mmap, fvecs_mmap, ivecs_read
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2

Table = np.ndarray[Any, Any]

dataset_basedir = os.environ.get("TSSCOMPAT_DATASETS", "data") + "/"


def set_dataset_basedir(path: str) -> None:
    """Look for the files of public data sets under a folder (its name ends with a slash)."""
    global dataset_basedir
    dataset_basedir = path


class Dataset:
    """nb vectors to search, nq queries and nt training vectors of dimension d, with metric "L2" or "IP"."""

    def __init__(self) -> None:
        self.d = self.nq = self.nb = self.nt = -1
        self.metric = "L2"

    def get_queries(self) -> Table:
        raise NotImplementedError(f"{type(self).__name__} has no queries")

    def get_train(self, maxtrain: int | None = None) -> Table:
        raise NotImplementedError(f"{type(self).__name__} has no training vectors")

    def get_database(self) -> Table:
        raise NotImplementedError(f"{type(self).__name__} has no database")

    def get_groundtruth(self, k: int | None = None) -> Table:
        raise NotImplementedError(f"{type(self).__name__} has no ground truth")

    def get_groundtruth_range(self, thresh: float | None = None) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no ground truth for range search")

    def database_iterator(self, bs: int = 128, split: tuple[int, int] = (1, 0)) -> Iterator[Table]:
        """The database in batches; split = (n, i) gives the i-th of n parts."""
        xb = self.get_database()
        n, i = split
        stop = self.nb * (i + 1) // n
        for start in range(self.nb * i // n, stop, bs):
            yield np.asarray(xb[start : min(start + bs, stop)])

    def __str__(self) -> str:
        sizes = f"Q {self.nq} B {self.nb} T {self.nt}"
        return f"dataset in dimension {self.d}, with metric {self.metric}, size: {sizes}"

    def check_sizes(self) -> None:
        """Raise unless the tables have the sizes that are claimed."""
        expect(self.get_queries().shape == (self.nq, self.d), "queries of another shape")
        expect(self.nt <= 0 or self.get_train(maxtrain=123).shape == (123, self.d), "training vectors of another shape")
        expect(self.get_database().shape == (self.nb, self.d), "database of another shape")
        expect(self.get_groundtruth(k=13).shape == (self.nq, 13), "ground truth of another shape")


class SyntheticDataset(Dataset):
    """Vectors of about 10 intrinsic dimensions, folded into d: neither random nor easy. FAISS's very numbers for the same seed."""

    def __init__(self, d: int, nt: int, nb: int, nq: int, metric: str = "L2", seed: int = 1338) -> None:
        super().__init__()
        self.d, self.nt, self.nb, self.nq, self.metric = d, nt, nb, nq, metric
        draw = np.random.RandomState(seed)
        x = np.dot(draw.normal(size=(nb + nt + nq, 10)), draw.rand(10, d))
        x = np.sin(x * (draw.rand(d) * 4 + 0.1)).astype(np.float32)
        self.xt, self.xb, self.xq = x[:nt], x[nt : nt + nb], x[nt + nb :]

    def get_queries(self) -> Table:
        return self.xq

    def get_train(self, maxtrain: int | None = None) -> Table:
        return self.xt[: self.nt if maxtrain is None else maxtrain]

    def get_database(self) -> Table:
        return self.xb

    def get_groundtruth(self, k: int | None = 100) -> Table:
        metric = METRIC_L2 if self.metric == "L2" else METRIC_INNER_PRODUCT
        ids: Table = knn(self.xq, self.xb, 100 if k is None else k, metric)[1]
        return ids


class FileDataset(Dataset):
    """A data set in .fvecs, .bvecs and .ivecs files, read as they are used."""

    def __init__(self, folder: str, d: int, nt: int, nb: int, nq: int, files: tuple[str, str, str, str]) -> None:
        super().__init__()
        self.d, self.nt, self.nb, self.nq = d, nt, nb, nq
        self.basedir = dataset_basedir + folder + "/"
        self.queries, self.learn, self.base, self.truth = files

    def _mapped(self, name: str) -> Table:
        return (bvecs_mmap if name.endswith(".bvecs") else fvecs_mmap)(self.basedir + name)

    @staticmethod
    def _floats(x: Table) -> Table:
        return np.ascontiguousarray(x, dtype=np.float32)

    def get_queries(self) -> Table:
        return self._floats(self._mapped(self.queries))

    def get_train(self, maxtrain: int | None = None) -> Table:
        return self._floats(self._mapped(self.learn)[: self.nt if maxtrain is None else maxtrain])

    def get_database(self) -> Table:
        expect(self.nb <= 10**8, "dataset too large, use iterator")
        return self._floats(self._mapped(self.base)[: self.nb])

    def database_iterator(self, bs: int = 128, split: tuple[int, int] = (1, 0)) -> Iterator[Table]:
        xb = self._mapped(self.base)
        n, i = split
        stop = self.nb * (i + 1) // n
        for start in range(self.nb * i // n, stop, bs):
            yield self._floats(xb[start : min(start + bs, stop)])

    def get_groundtruth(self, k: int | None = None) -> Table:
        truth = ivecs_read(self.basedir + self.truth)
        expect(k is None or k <= truth.shape[1], "only {} neighbours are known", truth.shape[1])
        return truth if k is None else truth[:, :k]


def _texmex(short: str) -> tuple[str, str, str, str]:
    return (f"{short}_query.fvecs", f"{short}_learn.fvecs", f"{short}_base.fvecs", f"{short}_groundtruth.ivecs")


class DatasetSIFT1M(FileDataset):
    """ANN_SIFT1M of corpus-texmex.irisa.fr."""

    def __init__(self) -> None:
        super().__init__("sift1M", 128, 100_000, 1_000_000, 10_000, _texmex("sift"))


class DatasetGIST1M(FileDataset):
    """ANN_GIST1M of corpus-texmex.irisa.fr."""

    def __init__(self) -> None:
        super().__init__("gist1M", 960, 100_000, 1_000_000, 10_000, _texmex("gist"))


class DatasetBigANN(FileDataset):
    """ANN_SIFT1B of corpus-texmex.irisa.fr, or its first millions."""

    def __init__(self, nb_M: int = 1000) -> None:
        expect(nb_M in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), "there is no ground truth for {} millions", nb_M)
        names = ("bigann_query.bvecs", "bigann_learn.bvecs", "bigann_base.bvecs", f"gnd/idx_{nb_M}M.ivecs")
        super().__init__("bigann", 128, 10**8, nb_M * 10**6, 10_000, names)
        self.nb_M = nb_M


class DatasetDeep1B(FileDataset):
    """Deep1B, or its first vectors."""

    def __init__(self, nb: int = 10**9) -> None:
        names = {10**5: "100k", 10**6: "1M", 10**7: "10M", 10**8: "100M", 10**9: "1B"}
        expect(nb in names, "there is no ground truth for {} vectors", nb)
        files = ("deep1B_queries.fvecs", "learn.fvecs", "base.fvecs", f"deep{names.get(nb)}_groundtruth.ivecs")
        super().__init__("deep1b", 96, 358_480_000, nb, 10_000, files)


def dataset_from_name(dataset: str = "deep1M", download: bool = False) -> Dataset:
    """A public data set by name: sift1M, gist1M, bigann1M to bigann1B, deep100k to deep1B."""
    expect(not download, "nothing is downloaded: put the files under {}", dataset_basedir)
    if dataset == "sift1M":
        return DatasetSIFT1M()
    if dataset == "gist1M":
        return DatasetGIST1M()
    unit = {"k": 10**3, "M": 10**6, "B": 10**9}.get(dataset[-1:], 0)
    for name in ("bigann", "deep"):
        number = dataset.removeprefix(name)[:-1]
        if dataset.startswith(name) and unit and number.isdigit():
            n = int(number) * unit
            return DatasetBigANN(n // 10**6) if name == "bigann" else DatasetDeep1B(n)
    raise RuntimeError("unknown dataset " + dataset)
