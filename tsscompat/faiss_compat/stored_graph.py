"""What indexes of a graph share: a storage index that holds the vectors, which the graph's walks read as floats."""

from __future__ import annotations

from torch import Tensor

from tsscompat.arrays import Array
from tsscompat.errors import check
from tsscompat.faiss_compat.attributes import boolean, child
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.computers import DistanceComputer
from tsscompat.faiss_compat.flat import IndexFlat
from tsscompat.faiss_compat.quantizers import ProductQuantizer, ScalarQuantizer
from tsscompat.faiss_compat.vectors import Float32Vector


class StoredGraph(Index):
    """A graph over the vectors of `storage`."""

    _caches: tuple[str, ...] = ("_decoded", "_rows")

    own_fields = boolean(False)
    storage = child(None, "holds the vectors")

    def _over(self, storage: Index) -> None:
        """Be a graph over a storage that is given."""
        super().__init__(storage.d, storage.metric_type)
        self.storage, self.metric_arg = storage, storage.metric_arg
        self.__dict__["_device"], self.__dict__["_gpu"] = storage.device, storage.getDevice()

    def _own(self, storage: Index) -> None:
        """Take on a storage of our own."""
        self.storage, self.own_fields, self.is_trained = storage, True, storage.is_trained
        self.metric_arg = storage.metric_arg

    @property
    def _arg(self) -> float:
        """The metric's argument: as in FAISS, it is the storage's that counts."""
        arg: float = self.metric_arg if self.storage is None else self.storage.metric_arg
        return arg

    def _need_storage(self) -> None:
        kind = type(self).__name__
        check(self.storage is not None, "this index has no storage of vectors: {}Flat and its kin make one", kind)

    def _vectors(self) -> Tensor:
        """The stored vectors as floats: the storage's own, or its codes decoded, which are kept."""
        self._need_storage()
        if isinstance(self.storage, IndexFlat):
            codes, rows = self.storage.codes, self.__dict__["_rows"]
            if rows is None or rows[0] is not codes._buffer or rows[1] != codes._n:
                rows = self._rows = codes._buffer, codes._n, self.storage._vectors
            vectors: Tensor = rows[2]
            return vectors
        kept, n = self.__dict__["_decoded"], self.storage.ntotal
        if kept is None or kept.size() > n * self.d:
            kept = self._decoded = Float32Vector(self.storage._reconstruct_n(0, n))
        held = kept.size() // max(1, self.d)
        if held < n:  # one at a time or many, each is decoded once
            kept.append(self.storage._reconstruct_n(held, n - held))
        decoded: Tensor = kept.tensor.view(n, self.d)
        return decoded

    def _train(self, x: Tensor) -> None:
        self._need_storage()
        self.storage._train(x)
        self.is_trained = True

    def _reconstruct(self, keys: Tensor) -> Tensor:
        self._need_storage()
        found: Tensor = self.storage._reconstruct(keys)
        return found

    def _reconstruct_array(self, key: int) -> Array | None:
        self._need_storage()
        found: Array | None = self.storage._reconstruct_array(key)
        return found

    def get_distance_computer(self) -> DistanceComputer:
        """Distances to single vectors, for a query set on it."""
        return DistanceComputer(self.storage)


class OverProductCodes(StoredGraph):
    """A graph over product codes, whose distances to each other are read from a table."""

    @property
    def pq(self) -> ProductQuantizer:
        """The storage's quantizer."""
        self._need_storage()
        made: ProductQuantizer = self.storage.pq
        return made

    def _train(self, x: Tensor) -> None:
        super()._train(x)
        self.pq.compute_sdc_table()


class OverScalarCodes(StoredGraph):
    """A graph over scalar-quantised vectors."""

    @property
    def sq(self) -> ScalarQuantizer:
        """The storage's quantizer."""
        self._need_storage()
        made: ScalarQuantizer = self.storage.sq
        return made
