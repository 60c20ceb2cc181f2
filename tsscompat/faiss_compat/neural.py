"""Neural codecs: layers that hold weights, QINCo made of them, and flat indexes of their codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsscompat.algorithms import qinco
from tsscompat.errors import FaissError, check, expect
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, anything, child, integer, size_t, vector
from tsscompat.faiss_compat.codes import IndexFlatCodes
from tsscompat.faiss_compat.enums import METRIC_L2
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector, Int32Vector, ObjectVector
from tsscompat.kernels import bits


class _Table(Stated):
    """A table of numbers."""

    shape = anything((0, 0))
    v: Any

    def __init__(self, n0: Any, n1: int | None = None, data: Any = None) -> None:
        """(n0, n1), of zeros or of what is behind a pointer; or of an array."""
        super().__init__()
        if n1 is None:
            given = torch.as_tensor(n0).detach()
            expect(given.ndim == 2, "expected a table, got shape {}", tuple(given.shape))
            expect(given.dtype == self.v.dtype, "expected numbers of {}, got {}", self.v.dtype, given.dtype)
            self.shape, self.v.tensor = tuple(given.shape), given.to(self.device).clone()
            return
        self.shape = (int(n0), int(n1))
        self.v.tensor = torch.zeros(self.numel(), dtype=self.v.dtype, device=self.device)
        if data is not None:
            self.v.tensor.copy_(behind(data, self.numel()))

    @property
    def _rows(self) -> Tensor:
        rows: Tensor = self.v.tensor.view(self.shape)
        return rows

    def numel(self) -> int:
        """How many numbers there are."""
        return int(self.shape[0] * self.shape[1])

    def data(self) -> Pointer:
        """Where they begin."""
        start: Pointer = self.v.data()
        return start

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy as an array."""
        array: np.ndarray[Any, Any] = self._rows.cpu().numpy().copy()
        return array

    def column(self, j: int) -> Any:
        """One column, as a table."""
        return type(self)(self._rows[:, j : j + 1])

    def __iadd__(self, other: Any) -> Any:
        check(self.shape == other.shape, "tables of shapes {} and {}", self.shape, other.shape)
        self.v.tensor.add_(other.v.tensor)
        return self


class Tensor2D(_Table):
    """A table of floats."""

    v = vector(Float32Vector)


class Int32Tensor2D(_Table):
    """A table of integers."""

    v = vector(Int32Vector)


def _weights(given: Any, *shape: int) -> Tensor:
    """A layer's weights, given as an array or a torch parameter."""
    tensor = given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.ascontiguousarray(given))
    expect(tuple(tensor.shape) == shape, "expected weights of shape {}, got {}", shape, tuple(tensor.shape))
    return tensor.to(torch.float32).clone()


class Linear(Stated):
    """y = W x + b."""

    in_features = size_t(0)
    out_features = size_t(0)
    weight = vector(Float32Vector, "out_features * in_features")
    bias = vector(Float32Vector, "out_features, or none")

    def __init__(self, in_features: Any, out_features: int | None = None, bias: bool = True) -> None:
        """Of sizes, with weights of 0, or of a torch.nn.Linear."""
        super().__init__()
        layer = in_features if out_features is None else None
        if layer is not None:
            in_features, out_features, bias = layer.in_features, layer.out_features, layer.bias is not None
        self.in_features, self.out_features = in_features, out_features
        self.weight.tensor = torch.zeros(self.in_features * self.out_features, device=self.device)
        self.bias.tensor = torch.zeros(self.out_features if bias else 0, device=self.device)
        if layer is not None:
            self.from_torch(layer)

    @property
    def _layer(self) -> tuple[Tensor, Tensor | None]:
        bias: Tensor | None = self.bias.tensor if self.bias.size() else None
        return self.weight.tensor.view(self.out_features, self.in_features), bias

    def from_torch(self, linear: Any) -> None:
        """Take the weights of a torch.nn.Linear."""
        self.from_array(linear.weight, linear.bias)

    def from_array(self, array: Any, bias: Any = None) -> None:
        """Take weights, and a bias where it is given."""
        self.weight.tensor = _weights(array, self.out_features, self.in_features).to(self.device)
        if bias is not None:
            self.bias.tensor = _weights(bias, self.out_features).to(self.device)

    def __call__(self, x: Tensor2D) -> Tensor2D:
        check(x.shape[1] == self.in_features, "a layer of {} features, given {}", self.in_features, x.shape[1])
        return Tensor2D(torch.nn.functional.linear(x._rows, *self._layer))


class Embedding(Stated):
    """A table of vectors."""

    num_embeddings = size_t(0)
    embedding_dim = size_t(0)
    weight = vector(Float32Vector, "num_embeddings * embedding_dim")

    def __init__(self, num_embeddings: Any, embedding_dim: int | None = None) -> None:
        """Of sizes, with vectors of 0, or of a torch.nn.Embedding."""
        super().__init__()
        table = num_embeddings if embedding_dim is None else None
        if table is not None:
            num_embeddings, embedding_dim = table.num_embeddings, table.embedding_dim
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight.tensor = torch.zeros(self.num_embeddings * self.embedding_dim, device=self.device)
        if table is not None:
            self.from_torch(table)

    @property
    def _rows(self) -> Tensor:
        rows: Tensor = self.weight.tensor.view(self.num_embeddings, self.embedding_dim)
        return rows

    def data(self) -> Pointer:
        """Where the vectors begin."""
        start: Pointer = self.weight.data()
        return start

    def from_torch(self, emb: Any) -> None:
        """Take the vectors of a torch.nn.Embedding."""
        self.from_array(emb.weight)

    def from_array(self, array: Any) -> None:
        """Take vectors."""
        self.weight.tensor = _weights(array, self.num_embeddings, self.embedding_dim).to(self.device)

    def _named(self, codes: Int32Tensor2D) -> Tensor:
        """The numbers in a table of one column, which must be there."""
        check(codes.shape[1] == 1, "expected one number for each vector, got {}", codes.shape[1])
        numbers = codes._rows[:, 0].to(torch.int64)
        check(bool(((numbers >= 0) & (numbers < self.num_embeddings)).all()), "a number beyond the {}", self.num_embeddings)
        return numbers

    def __call__(self, codes: Int32Tensor2D) -> Tensor2D:
        return Tensor2D(self._rows[self._named(codes)])


class FFN(Stated):
    """Two layers, and what is below 0 cut off between them."""

    linear1 = child(None)
    linear2 = child(None)

    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = Linear(d, h, False), Linear(h, d, False)

    def __call__(self, x: Tensor2D) -> Tensor2D:
        hidden: Tensor2D = self.linear1(x)
        hidden.v.tensor.relu_()
        made: Tensor2D = self.linear2(hidden)
        return made


class QINCoStep(Stated):
    """One step of QINCo."""

    d = integer(0)
    K = integer(0)
    L = integer(0)
    h = integer(0)
    codebook = child(None, "Embedding")
    MLPconcat = child(None, "Linear")
    residual_blocks = vector(ObjectVector, "L times FFN")

    def __init__(self, d: Any, K: int | None = None, L: int = 0, h: int = 0) -> None:
        """Of sizes, or of a torch module with such attributes."""
        super().__init__()
        step = d if K is None else None
        if step is not None:
            d, K, L, h = step.d, step.K, step.L, step.h
        self.d, self.K, self.L, self.h = d, K, L, h
        self.codebook, self.MLPconcat = Embedding(self.K, d), Linear(2 * d, d)
        self.residual_blocks = [FFN(d, h) for _ in range(L)]
        if step is not None:
            self.from_torch(step)

    def from_torch(self, step: Any) -> None:
        """Take a torch module's weights."""
        same = (step.d, step.K, step.L, step.h) == (self.d, self.K, self.L, self.h)
        expect(same, "the step's sizes differ from {}", (self.d, self.K, self.L, self.h))
        self.codebook.from_torch(step.codebook)
        self.MLPconcat.from_torch(step.MLPconcat)
        for own, block in zip(self.residual_blocks, step.residual_blocks):
            own.linear1.from_torch(block[0])
            own.linear2.from_torch(block[2])

    def get_residual_block(self, i: int) -> Any:
        """A block of two layers."""
        return self.residual_blocks[i]

    @property
    def _step(self) -> qinco.Step:
        blocks = tuple((block.linear1._layer, block.linear2._layer) for block in self.residual_blocks)
        return qinco.Step(self.codebook._rows, self.MLPconcat._layer, blocks)

    def decode(self, xhat: Tensor2D, codes: Int32Tensor2D) -> Tensor2D:
        """What codes add to what has been decoded."""
        check(xhat.shape[0] == codes.shape[0], "{} vectors and {} codes", xhat.shape[0], codes.shape[0])
        return Tensor2D(self._step.decode(xhat._rows, self.codebook._named(codes)))

    def encode(self, xhat: Tensor2D, x: Tensor2D, residuals: Tensor2D | None = None) -> Int32Tensor2D:
        """The codes that come nearest to x; what they add is written to `residuals`."""
        check(xhat.shape == x.shape and x.shape[1] == self.d, "vectors of shapes {} and {}", xhat.shape, x.shape)
        codes, added = self._step.encode(xhat._rows, x._rows)
        if residuals is not None:
            check(residuals.shape == x.shape, "expected room of shape {}, got {}", x.shape, residuals.shape)
            residuals.v.tensor.copy_(added.reshape(-1))
        return Int32Tensor2D(codes[:, None].to(torch.int32))


class NeuralNetCodec(Stated):
    """Something that turns vectors into M numbers each, and back."""

    d = integer(0)
    M = integer(0)

    def __init__(self, d: int, M: int) -> None:
        super().__init__()
        self.d, self.M = d, M

    def decode(self, codes: Int32Tensor2D) -> Tensor2D:
        """The vectors of codes."""
        check(codes.shape[1] == self.M, "codes of {} numbers, expected {}", codes.shape[1], self.M)
        return Tensor2D(self._decode(codes._rows.to(torch.int64)))

    def encode(self, x: Tensor2D) -> Int32Tensor2D:
        """The codes of vectors."""
        check(x.shape[1] == self.d, "vectors of dimension {}, expected {}", x.shape[1], self.d)
        return Int32Tensor2D(self._encode(x._rows).to(torch.int32))

    def _decode(self, codes: Tensor) -> Tensor:
        raise FaissError(f"{type(self).__name__} does not decode")

    def _encode(self, x: Tensor) -> Tensor:
        raise FaissError(f"{type(self).__name__} does not encode")


class QINCo(NeuralNetCodec):
    """A codebook and M - 1 steps, each with a codebook that it adapts to what has been decoded."""

    K = integer(0)
    L = integer(0)
    h = integer(0)
    codebook0 = child(None, "Embedding")
    steps = vector(ObjectVector, "M - 1 times QINCoStep")

    def __init__(self, d: Any, K: int | None = None, L: int = 0, M: int = 0, h: int = 0) -> None:
        """Of sizes, or of a torch module with such attributes."""
        net = d if K is None else None
        if net is not None:
            d, K, L, M, h = net.d, net.K, net.L, net.M, net.h
        super().__init__(d, M)
        self.K, self.L, self.h = K, L, h
        self.codebook0 = Embedding(self.K, d)
        self.steps = [QINCoStep(d, K, L, h) for _ in range(M - 1)]
        if net is not None:
            self.from_torch(net)

    def from_torch(self, qinco: Any) -> None:
        """Take a torch module's weights."""
        same = (qinco.d, qinco.K, qinco.L, qinco.M, qinco.h) == (self.d, self.K, self.L, self.M, self.h)
        expect(same, "the module's sizes differ from {}", (self.d, self.K, self.L, self.M, self.h))
        self.codebook0.from_torch(qinco.codebook0)
        for own, step in zip(self.steps, qinco.steps):
            own.from_torch(step)

    def get_step(self, i: int) -> Any:
        """A step."""
        return self.steps[i]

    def _decode(self, codes: Tensor) -> Tensor:
        check(bool(((codes >= 0) & (codes < self.K)).all()), "a number beyond the {} of a codebook", self.K)
        return qinco.decode(self.codebook0._rows, [step._step for step in self.steps], codes)

    def _encode(self, x: Tensor) -> Tensor:
        return qinco.encode(self.codebook0._rows, [step._step for step in self.steps], x)


class IndexNeuralNetCodec(IndexFlatCodes):
    """Codes of a network that was trained elsewhere."""

    net = child(None, "the codec")
    M = size_t(0, "numbers of a code")
    nbits = size_t(0, "bits of a number")

    def __init__(self, d: int = 0, M: int = 0, nbits: int = 0, metric: int = METRIC_L2) -> None:
        super().__init__((M * nbits + 7) // 8, d, metric)
        self.M, self.nbits = M, nbits
        self.is_trained = False

    def _codec(self) -> NeuralNetCodec:
        check(self.net is not None, "the index has no network")
        net: NeuralNetCodec = self.net
        return net

    def _train(self, x: Tensor) -> None:
        raise FaissError("networks are trained with PyTorch, not here")

    def _sa_encode(self, x: Tensor) -> Tensor:
        return bits.pack(self._codec()._encode(x), self.nbits)

    def _sa_decode(self, codes: Tensor) -> Tensor:
        return self._codec()._decode(bits.unpack(codes, self.M, self.nbits).to(torch.int64))


class IndexQINCo(IndexNeuralNetCodec):
    """Codes of QINCo."""

    qinco = child(None, "the codec")

    def __init__(self, d: int, M: int, nbits: int, L: int, h: int, metric: int = METRIC_L2) -> None:
        super().__init__(d, M, nbits, metric)
        self.qinco = QINCo(d, 1 << nbits, L, M, h)

    def _codec(self) -> NeuralNetCodec:
        net: NeuralNetCodec = self.qinco
        return net


__all__ = [
    "FFN",
    "Embedding",
    "IndexNeuralNetCodec",
    "IndexQINCo",
    "Int32Tensor2D",
    "Linear",
    "NeuralNetCodec",
    "QINCo",
    "QINCoStep",
    "Tensor2D",
]
