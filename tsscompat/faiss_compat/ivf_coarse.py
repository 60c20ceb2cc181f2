"""The coarse quantizer of IVF indexes: what maps vectors to lists, how it is trained, how list numbers are written into codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.attributes import Stated, boolean, char, child, size_t
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.clustering import Clustering, ClusteringParameters
from tsscompat.faiss_compat.enums import METRIC_INNER_PRODUCT, METRIC_L2
from tsscompat.faiss_compat.flat import IndexFlatL2
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.super_clustering import SuperKMeans, SuperKMeansParameters


class Level1Quantizer(Stated):
    """The coarse quantizer: what maps vectors to lists."""

    quantizer = child(None, "the index of the lists' centroids")
    nlist = size_t(0, "number of lists")
    quantizer_trains_alone = char(0, "0: k-means with the quantizer; 1: it trains itself; 2: k-means, then add")
    own_fields = boolean(False)
    cp = child(ClusteringParameters, "of the k-means")
    clustering_index = child(None, "the index that k-means assigns with")

    def __init__(self, quantizer: Index | None = None, nlist: int = 0) -> None:
        super().__init__()
        self.quantizer, self.nlist = quantizer, nlist
        if quantizer is not None:
            self.cp.niter = 10

    def train_q1(self, n: int, x: Any, verbose: bool, metric_type: int) -> None:
        """Train the coarse quantizer (C signature)."""
        self._train_q1(behind(x, n, self._coarse().d), verbose, metric_type)

    def _coarse(self) -> Any:
        check(self.quantizer is not None, "there is no coarse quantizer")
        return self.quantizer

    def _train_q1(self, x: Tensor, verbose: bool, metric_type: int) -> None:
        """Make the quantizer hold nlist centroids, unless it does."""
        quantizer, how = self._coarse(), int(self.quantizer_trains_alone)
        if quantizer.is_trained and quantizer.ntotal == self.nlist:
            if verbose:
                print("coarse quantizer: trained already")
            return
        if verbose:
            print(f"coarse quantizer: training on {x.shape[0]} vectors of dimension {quantizer.d}")
        if how == 1:
            quantizer.verbose = verbose
            quantizer._train(x)
            check(
                quantizer.ntotal == self.nlist,
                "nlist {} not consistent with the quantizer's {} entries",
                self.nlist,
                quantizer.ntotal,
            )
            return
        if how == 0 and self.cp.use_super_kmeans:
            self._train_super(x)
            return
        clustering = Clustering(quantizer.d, self.nlist, self.cp)
        if how == 0:
            quantizer._reset()
            clustering.train(x, quantizer if self.clustering_index is None else self.clustering_index)
            if self.clustering_index is not None:
                quantizer._add(clustering.centroids.tensor.view(-1, quantizer.d), None)
            quantizer.is_trained = True
            return
        spherical = metric_type == METRIC_INNER_PRODUCT and self.cp.spherical
        check(
            metric_type == METRIC_L2 or spherical, "k-means on a flat index suits L2, or inner product with spherical centroids"
        )
        clustering.train(x, IndexFlatL2(quantizer.d).to(self.device) if self.clustering_index is None else self.clustering_index)
        centroids = clustering.centroids.tensor.view(-1, quantizer.d)
        if not quantizer.is_trained:
            quantizer._train(centroids)
        quantizer._add(centroids, None)

    def _train_super(self, x: Tensor) -> None:
        """The same with SuperKMeans, which assigns by itself."""
        check(
            self.clustering_index is None, "use_super_kmeans does not go with a clustering_index: SuperKMeans assigns by itself"
        )
        quantizer, cp = self._coarse(), SuperKMeansParameters()
        cp._take(self.cp)
        clustering = SuperKMeans(quantizer.d, self.nlist, cp)
        clustering._train(x)
        centroids = clustering.centroids.tensor.view(-1, quantizer.d)
        quantizer._reset()
        if not quantizer.is_trained:
            quantizer._train(centroids)
        quantizer._add(centroids, None)

    def coarse_code_size(self) -> int:
        """Bytes that a list number takes in a standalone code."""
        return (max(self.nlist - 1, 0).bit_length() + 7) // 8

    def _listno_codes(self, list_nos: Tensor) -> Tensor:
        """List numbers as little-endian bytes (n, coarse_code_size); 0 for list -1."""
        return list_nos.clamp(min=0).view(torch.uint8).view(-1, 8)[:, : self.coarse_code_size()]

    def _listnos(self, codes: Tensor) -> Tensor:
        """The list numbers at the start of standalone codes."""
        width = self.coarse_code_size()
        shifts = 8 * torch.arange(width, device=codes.device)
        list_nos = (codes[:, :width].to(torch.int64) << shifts).sum(1)
        check(bool((list_nos < self.nlist).all()), "a code names a list beyond the {} there are", self.nlist)
        return list_nos


class IndexIVFInterface(Level1Quantizer):
    """A coarse quantizer, and how many of its lists a search visits."""

    nprobe = size_t(1, "lists visited for each query")
    max_codes = size_t(0, "codes visited for each query at most (0: no limit)")

    def search_preassigned(self, *args: Any, **kwargs: Any) -> Any:
        raise FaissError(f"search_preassigned is not implemented for {type(self).__name__}")

    def range_search_preassigned(self, *args: Any, **kwargs: Any) -> Any:
        raise FaissError(f"range_search_preassigned is not implemented for {type(self).__name__}")


__all__ = ["IndexIVFInterface", "Level1Quantizer"]
