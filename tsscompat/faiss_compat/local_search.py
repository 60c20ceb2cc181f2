"""LocalSearchQuantizer: codebooks that are trained together; codes are found by local search from random beginnings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tsscompat.algorithms import local_search
from tsscompat.algorithms.additive import Codebooks
from tsscompat.algorithms.blocks import squared_norms
from tsscompat.algorithms.draws import Draws
from tsscompat.algorithms.random import RandomGenerator
from tsscompat.errors import check
from tsscompat.faiss_compat.additive import AdditiveQuantizer
from tsscompat.faiss_compat.addresses import Pointer
from tsscompat.faiss_compat.attributes import Stated, boolean, child, integer, single, size_t, vector
from tsscompat.faiss_compat.pointers import behind
from tsscompat.faiss_compat.vectors import Float32Vector
from tsscompat.kernels.icm import icm


class LocalSearchQuantizer(AdditiveQuantizer):
    """M codebooks of K entries each."""

    K = size_t(1, "entries of a codebook")
    train_iters = size_t(25, "iterations of training")
    encode_ils_iters = size_t(16, "local searches in encoding")
    train_ils_iters = size_t(8, "local searches in training")
    icm_iters = size_t(4, "rounds over a code's numbers in a local search")
    p = single(0.5, "power with which the noise dies down")
    lambd = single(1e-2, "regularises the least squares of the codebooks")
    chunk_size = size_t(10000, "vectors encoded at a time")
    random_seed = integer(0x12345)
    nperts = size_t(4, "numbers of a code that are replaced before a local search")
    icm_encoder_factory = child(None, "makes what encodes; None: IcmEncoder")
    update_codebooks_with_double = boolean(True, "least squares in float64")

    def __init__(self, d: int = 0, M: int = 0, nbits: int = 0, search_type: int = 0) -> None:
        super().__init__(d, [nbits] * M, search_type)
        self.K = 1 << nbits

    @property
    def _size(self) -> int:
        return self.M * self.K

    # -- training -------------------------------------------------------------------------------------------------------------------

    def _train(self, x: Tensor) -> None:
        sizes = self._sizes
        check(
            sizes and set(sizes) == {sizes[0]} and 1 << sizes[0] == self.K, "K is {}, the codebooks have {} bits", self.K, sizes
        )
        check(x.shape[0] > 0, "no vectors to train on")
        self.nperts = min(self.nperts, self.M)
        n, draws = x.shape[0], Draws(self.random_seed)
        codes = draws.below(n * self.M, self.K).view(n, self.M).to(device=x.device, dtype=torch.int32)
        widths = local_search.deviations(x)
        self.codebooks.resize(self._size * self.d)
        for i in range(self.train_iters):
            self._fit(x, codes)
            heat = (1 - torch.tensor(i + 1.0) / self.train_iters).pow(self.p)
            self._perturb(heat, widths, draws)
            codes = self._searched(codes, x, draws, self.train_ils_iters)
            if self.verbose:
                print(f"iter {i}: obj = {float(local_search.errors(x, codes, self._books).mean()):g}")
        self.is_trained = True
        self._train_norm(squared_norms(self._sums(codes)))

    def _fit(self, x: Tensor, codes: Tensor) -> None:
        """The codebooks that suit codes best."""
        books = Codebooks(torch.empty(0, self.d), self._sizes)
        made = local_search.fitted(x, books.places(codes), self._size, self.lambd, self.update_codebooks_with_double)
        self.codebooks.tensor = made

    def _perturb(self, heat: Tensor | float, widths: Tensor, draws: Draws) -> None:
        self.codebooks.tensor = self._books.table + heat * local_search.noise(draws, self._size, widths) / self.M

    # -- encoding -------------------------------------------------------------------------------------------------------------------

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        draws = Draws(self.random_seed)
        codes = draws.below(x.shape[0] * self.M, self.K).view(-1, self.M).to(device=x.device, dtype=torch.int32)
        return self._searched(codes, x, draws, self.encode_ils_iters), None

    def _searched(self, codes: Tensor, x: Tensor, draws: Draws, searches: int) -> Tensor:
        """Codes after local searches, some vectors at a time."""
        encoder = IcmEncoder(self) if self.icm_encoder_factory is None else self.icm_encoder_factory.get(self)
        encoder.set_binary_term()
        chunks = zip(codes.split(self.chunk_size), x.split(self.chunk_size))
        found = [encoder._encode(some, part, draws, searches) for some, part in chunks]
        return torch.cat(found) if found else codes

    def _search_codes(self, codes: Tensor, x: Tensor, binaries: Tensor, draws: Draws, searches: int, verbose: bool) -> Tensor:
        check(self.nperts <= self.M, "nperts is {}, there are {} codebooks", self.nperts, self.M)
        codes, errors = local_search.searched(codes, x, self._books, binaries, draws, searches, self.icm_iters, self.nperts)
        if verbose:
            print(f"\tafter {searches} local searches: obj = {float(errors.mean()):g}")
        return codes

    # -- FAISS's C signatures ---------------------------------------------------------------------------------------------------------

    def _codes(self, codes: Any, n: int) -> Tensor:
        return behind(codes, n, self.M)

    def update_codebooks(self, x: Any, codes: Any, n: int) -> None:
        """The codebooks that suit codes best."""
        self._fit(behind(x, n, self.d).to(self.device), self._codes(codes, n).to(self.device))

    def perturb_codebooks(self, T: float, stddev: Any, gen: Any) -> None:
        """Add normal noise to the codebooks."""
        self._perturb(T, Float32Vector(stddev).tensor.to(self.device), draws_of(gen))

    def perturb_codes(self, codes: Any, n: int, gen: Any) -> None:
        """Replace some numbers of each code by random ones."""
        held = self._codes(codes, n)
        held.copy_(local_search.perturbed(held, draws_of(gen), self.nperts, self.K))

    def icm_encode(self, codes: Any, x: Any, n: int, ils_iters: int, gen: Any) -> None:
        """Improve codes by local searches."""
        held = self._codes(codes, n)
        held.copy_(self._searched(held.to(self.device), behind(x, n, self.d).to(self.device), draws_of(gen), ils_iters))

    def icm_encode_impl(self, codes: Any, x: Any, unaries: Any, gen: Any, n: int, ils_iters: int, verbose: bool) -> None:
        """The same for one chunk, given what compute_binary_terms wrote."""
        held, given = self._codes(codes, n), (behind(x, n, self.d).to(self.device), self._gram(unaries))
        held.copy_(self._search_codes(held.to(self.device), *given, draws_of(gen), ils_iters, verbose))

    def icm_encode_step(self, codes: Any, unaries: Any, binaries: Any, n: int, n_iters: int) -> None:
        """Rounds over the codes' numbers, given what compute_unary_terms and compute_binary_terms wrote."""
        check(self.M and self.K, "M and K must be nonzero")
        held, costs = self._codes(codes, n), behind(unaries, self.M, n, self.K).permute(1, 0, 2)
        held.copy_(icm(held, costs, self._gram(binaries).cpu(), n_iters))

    def _gram(self, binaries: Any) -> Tensor:
        """Binary terms (M, M, K, K) as a matrix."""
        terms = behind(binaries, self.M, self.M, self.K, self.K).to(self.device)
        return terms.permute(0, 2, 1, 3).reshape(self._size, self._size)

    def compute_binary_terms(self, binaries: Any) -> None:
        """Twice the inner products of all entries, (M, M, K, K)."""
        terms = local_search.binary_terms(self._books.table).view(self.M, self.K, self.M, self.K)
        behind(binaries, self.M, self.M, self.K, self.K).copy_(terms.permute(0, 2, 1, 3))

    def compute_unary_terms(self, x: Any, unaries: Any, n: int) -> None:
        """The entries' norms less twice their inner products with vectors, (M, n, K)."""
        terms = local_search.unary_terms(behind(x, n, self.d).to(self.device), self._books.table, self.M)
        behind(unaries, self.M, n, self.K).copy_(terms.permute(1, 0, 2))

    def evaluate(self, codes: Any, x: Any, n: int, objs: Any = None) -> float:
        """The mean squared error of codes; each vector's own is written where asked for."""
        errors = local_search.errors(behind(x, n, self.d).to(self.device), self._codes(codes, n).to(self.device), self._books)
        if objs is not None:
            behind(objs, n).copy_(errors)
        return float(errors.sum() / n)


def draws_of(gen: Any) -> Draws:
    """The draws of a RandomGenerator, of draws themselves or from a seed."""
    source = getattr(gen, "_generator", None)
    return gen if isinstance(gen, Draws) else Draws(source if isinstance(source, RandomGenerator) else gen)


class IcmEncoder(Stated):
    """Local search by iterated conditional modes."""

    binaries = vector(Float32Vector, "what compute_binary_terms writes")
    verbose = boolean(False)
    lsq = child(None, "the quantizer")

    def __init__(self, lsq: LocalSearchQuantizer) -> None:
        super().__init__()
        self.lsq = lsq
        self._gram: Tensor | None = None

    def set_binary_term(self) -> None:
        """Work out the binary terms of the quantizer's codebooks."""
        lsq: LocalSearchQuantizer = self.lsq
        self._gram = local_search.binary_terms(lsq._books.table)
        terms = self._gram.view(lsq.M, lsq.K, lsq.M, lsq.K)
        self.binaries.tensor = terms.permute(0, 2, 1, 3)

    def encode(self, codes: Any, x: Any, gen: Any, n: int, ils_iters: int) -> None:
        """Improve the codes of n vectors by local searches."""
        held = behind(codes, n, self.lsq.M)
        held.copy_(self._encode(held.to(self.lsq.device), behind(x, n, self.lsq.d).to(self.lsq.device), draws_of(gen), ils_iters))

    def _encode(self, codes: Tensor, x: Tensor, draws: Draws, searches: int) -> Tensor:
        lsq: LocalSearchQuantizer = self.lsq
        gram = lsq._gram(Pointer(self.binaries.tensor)) if self._gram is None else self._gram
        return lsq._search_codes(codes, x, gram, draws, searches, self.verbose)


class IcmEncoderFactory(Stated):
    """Makes encoders."""

    def get(self, lsq: LocalSearchQuantizer) -> IcmEncoder:
        """An encoder for a quantizer."""
        return IcmEncoder(lsq)


__all__ = ["IcmEncoder", "IcmEncoderFactory", "LocalSearchQuantizer"]
