"""Indexes of bits: IndexLSH, flat, and IndexIVFSpectralHash, in lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import hashing
from tsscompat.algorithms.ivf import ListCodec
from tsscompat.algorithms.replays import RECORDERS
from tsscompat.arrays import Array, arrays_of, from_numpy, rows
from tsscompat.errors import FaissError, check
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import boolean, child, enum, integer, single, vector
from tsscompat.faiss_compat.base import Index
from tsscompat.faiss_compat.codes import IndexFlatCodes
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.ivf import IndexIVF
from tsscompat.faiss_compat.params import SearchParameters, SearchParametersIVF
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.pretransform import IndexPreTransform
from tsscompat.faiss_compat.transforms import LinearTransform, RandomRotationMatrix, VectorTransform
from tsscompat.faiss_compat.vectors import Float32Vector, UInt8Vector
from tsscompat.kernels import hamming
from tsscompat.kernels.signs import signs

# So many queries are answered without tensors.
_FEW = 32


class IndexLSH(IndexFlatCodes):
    """The signs of rotated vectors; distances count the signs that differ."""

    nbits = integer(0, "bits of a vector")
    rotate_data = boolean(True, "rotate at random before the signs are taken")
    train_thresholds = boolean(False, "take signs around medians of the training vectors")
    rrot = child(RandomRotationMatrix, "the rotation")
    thresholds = vector(Float32Vector, "the medians")

    def __init__(self, d: int = 0, nbits: int = 0, rotate_data: bool = True, train_thresholds: bool = False) -> None:
        super().__init__((nbits + 7) // 8, d, METRIC_L2)
        self.nbits, self.rotate_data, self.train_thresholds = nbits, rotate_data and d > 0, train_thresholds
        self.rrot = RandomRotationMatrix(d, nbits)
        self.is_trained = not train_thresholds
        if self.rotate_data:
            self.rrot.init(5)
        else:
            check(d >= nbits, "{} bits of {} dimensions that are not rotated", nbits, d)

    @property
    def bytes_per_vec(self) -> int:
        """code_size, under its old name."""
        return int(self.code_size)

    @property
    def bytes(self) -> UInt8Vector:
        """`codes`, as FAISS's stub calls them."""
        held: UInt8Vector = self.codes
        return held

    @bytes.setter
    def bytes(self, codes: Any) -> None:
        self.codes = codes

    def _compared(self, x: Tensor) -> Tensor:
        """What the signs are taken of."""
        x = self.rrot._apply(x) if self.rotate_data else x[:, : self.nbits]
        return x - self.thresholds.tensor if self.train_thresholds else x

    def apply_preprocess(self, n: Any = None, x: Any = None) -> Any:
        """What the signs are taken of (vectors rotated, cut, less the thresholds): of an array, or of (count, address) an address."""
        if isinstance(n, int):
            return Pointer(self._compared(behind(x, n, self.d).to(self.device)))
        batch = rows(n if x is None else x, self.d, self.device)
        return batch.give_back(self._compared(batch.tensor))

    def _train(self, x: Tensor) -> None:
        if self.train_thresholds:
            self.train_thresholds = False
            compared = self._compared(x)
            self.train_thresholds = True
            self.thresholds.tensor = hashing.medians(compared)
        self.is_trained = True

    def _sa_encode(self, x: Tensor) -> Tensor:
        check(self.is_trained, "IndexLSH must be trained before it encodes")
        return signs(self._compared(x))

    def _sa_decode(self, codes: Tensor) -> Tensor:
        x = hashing.of_signs(codes, self.nbits)
        if self.train_thresholds:
            x = x + self.thresholds.tensor
        if self.rotate_data:
            return self.rrot._reverse(x)
        return torch.nn.functional.pad(x, (0, self.d - self.nbits))

    def _search(self, x: Tensor, k: int, params: SearchParameters | None) -> tuple[Tensor, Tensor]:
        check(params is None, "search params not supported for this index")
        distances, labels = hamming.knn(self._sa_encode(x), self._rows, k)
        # Missing results: FAISS counts in whole numbers here, and the worst of them is the largest int.
        return distances.float(), labels

    def _search_arrays(self, x: Array, k: int) -> tuple[Array, Array] | None:
        kind = self.device.type
        if (
            x.shape[0] > _FEW
            or kind != "cpu"
            or kind in RECORDERS
            or not self.is_trained
            or not self.ntotal
            or not self.code_size
        ):
            return None
        size = self.ntotal * self.code_size
        codes = self._codes_of_array(x)
        found: Any = hamming.knn(codes, self.codes.array[:size].reshape(self.ntotal, self.code_size), k)
        if isinstance(found[0], Tensor):  # of the definition
            found = arrays_of(found)
        return found[0].astype(np.float32), found[1]

    def _codes_of_array(self, x: Array) -> Array:
        """The codes of vectors, both in arrays."""
        if self.rotate_data or self.train_thresholds:
            return self._sa_encode(from_numpy(x)).numpy()
        made: Any = signs(x if self.nbits == self.d else np.ascontiguousarray(x[:, : self.nbits]))
        return made.numpy() if isinstance(made, Tensor) else made

    def _add_arrays(self, x: Array, ids: Array | None) -> bool:
        if ids is not None:
            return False
        codes, size = self.codes, x.shape[0] * self.code_size
        made = self._codes_of_array(x)
        room, at = codes.extended(size)
        room[at : at + size] = made.reshape(-1)
        codes._n = at + size
        self.__dict__["ntotal"] += x.shape[0]
        self._drop_caches()
        return True

    def transfer_thresholds(self, vt: LinearTransform) -> None:
        """Let a transform before this index subtract the thresholds."""
        if not self.train_thresholds:
            return
        check(vt.d_out == self.nbits, "a transform to dimension {} before {} bits", vt.d_out, self.nbits)
        bias = vt.b.tensor if vt.have_bias else torch.zeros(self.nbits, device=self.device)
        vt.b.tensor = bias - self.thresholds.tensor
        vt.have_bias, self.train_thresholds = True, False
        self.thresholds.clear()


class IndexIVFSpectralHash(IndexIVF):
    """Lists of bits that say on which half of a wave transformed vectors lie."""

    Thresh_global, Thresh_centroid, Thresh_centroid_half, Thresh_median = range(4)

    vt = child(None, "the transform, to nbit dimensions")
    own_fields = boolean(False, "the transform is ours; ownership is Python's")
    nbit = integer(0, "bits of a vector")
    period = single(0.0, "length of a wave")
    threshold_type = enum(int, Thresh_global, "where waves begin: one of Thresh_*")
    trained = vector(Float32Vector, "where they begin in each list, nlist * nbit numbers, unless at 0")

    def __init__(
        self,
        quantizer: Index | None = None,
        d: int = 0,
        nlist: int = 0,
        nbit: int = 0,
        period: float = 0.0,
        own_invlists: bool = True,
    ) -> None:
        super().__init__(quantizer, d, nlist, (nbit + 7) // 8, METRIC_L2, own_invlists)
        self.by_residual = False
        if quantizer is None:
            return
        self.nbit, self.period, self.own_fields, self.is_trained = nbit, period, True, False
        self.vt = RandomRotationMatrix(d, nbit)
        self.vt.init(1234)

    def _train_encoder(self, x: Tensor, assign: Tensor | None) -> None:
        if not self.vt.is_trained:
            self.vt._train(x)
        check(not self.by_residual, "by_residual not supported for this index")
        if self.threshold_type == self.Thresh_median:
            groups = self._coarse()._assign(x, 1).reshape(-1)
            found = hashing.medians_of_groups(self.vt._apply(x), groups, self.nlist)
            # FAISS makes room for as many thresholds as there are training vectors, and writes them all.
            self.trained.tensor = torch.nn.functional.pad(found, (0, 0, 0, max(0, x.shape[0] - self.nlist))).reshape(-1)
        elif self.threshold_type != self.Thresh_global:
            found = self.vt._apply(self._coarse()._reconstruct_n(0, self.nlist))
            if self.threshold_type == self.Thresh_centroid_half:
                found = found - 0.25 * self.period
            self.trained.tensor = found.reshape(-1)

    def _thresholds(self) -> Tensor | None:
        if self.threshold_type == self.Thresh_global:
            return None
        return self.trained.tensor[: self.nlist * self.nbit].view(self.nlist, self.nbit)

    def _codec(self) -> hashing.Spectral:
        check(not self.by_residual, "by_residual not supported for this index")
        # In single precision, as FAISS holds it.
        frequency = float(2.0 / torch.tensor(self.period, dtype=torch.float32).double())
        return hashing.Spectral(self.vt._apply, frequency, self._thresholds())

    def _encode_vectors(self, x: Tensor, list_nos: Tensor) -> Tensor:
        check(self.is_trained, "IndexIVFSpectralHash must be trained before it encodes")
        return self._codec()._codes(x, list_nos[:, None]).masked_fill((list_nos < 0)[:, None], 0)

    def _list_codec(self, params: SearchParametersIVF | None) -> ListCodec:
        check(params is None or params.sel is None, "id selector not supported for this index")
        return self._codec()

    def replace_vt(self, vt: VectorTransform | IndexPreTransform | Any, own: bool = False) -> None:
        """Use another transform, or that of an index of one transform and an IndexLSH that only takes signs."""
        if isinstance(vt, IndexPreTransform):
            check(vt.chain.size() == 1, "expected one transform before the index, got {}", vt.chain.size())
            lsh = vt.index
            if not isinstance(lsh, IndexLSH):
                raise FaissError(f"final index should be LSH, got {type(lsh).__name__}")
            check(lsh.nbits == self.nbit, "an LSH of {} bits for {}", lsh.nbits, self.nbit)
            check(not lsh.rotate_data, "LSH sub-index must not rotate data")
            check(not lsh.train_thresholds, "LSH sub-index thresholds must already be trained")
            vt = vt.chain.at(0)
        fits = vt.d_out == self.nbit and vt.d_in == self.d
        check(fits, "a transform from {} to {} dimensions, expected {} to {}", vt.d_in, vt.d_out, self.d, self.nbit)
        self.vt, self.own_fields, self.threshold_type = vt, own, self.Thresh_global
        quantizer = self._coarse()
        self.is_trained = quantizer.is_trained and quantizer.ntotal == self.nlist and vt.is_trained


__all__ = ["IndexIVFSpectralHash", "IndexLSH"]
