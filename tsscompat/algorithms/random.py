"""FAISS's random streams, bit for bit.

FAISS draws from std::mt19937, which numpy's RandomState is too (its `bytes` are the raw 32-bit words), from SplitMix64, and, to seed
k-means, from std::mt19937_64 through libstdc++'s distributions. Long arrays are drawn in up to 1,024 blocks with seeds of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels.permute import swaps

_LOW31 = 0x7FFFFFFF
_LOW64 = (1 << 64) - 1


class RandomGenerator:
    """std::mt19937 with FAISS's ways of drawing from it."""

    def __init__(self, seed: int = 1234) -> None:
        self._seed = seed & 0xFFFFFFFF
        self._ahead: list[int] = []  # words drawn ahead for next(), last first

    @cached_property
    def _state(self) -> np.random.RandomState:
        """Made when first drawn from: it takes 1,300 us, and a graph that is read seldom draws."""
        return np.random.RandomState(self._seed)

    def restart(self, seed: int) -> None:
        """Begin anew from a seed: 8 us, where a new generator takes 1,300 us."""
        self._seed = seed & 0xFFFFFFFF
        if "_state" in self.__dict__:
            self._state.seed(self._seed)
        self._ahead = []

    def raw(self, n: int) -> np.ndarray:
        """The next n 32-bit words."""
        ahead = [self._ahead.pop() for _ in range(min(n, len(self._ahead)))]
        if len(ahead) == n:  # numpy draws a word to give no bytes
            return np.array(ahead, dtype=np.uint32)
        words = np.frombuffer(self._state.bytes(4 * (n - len(ahead))), dtype="<u4")
        return np.concatenate([np.array(ahead, dtype=np.uint32), words]) if ahead else words

    def words(self, n: int) -> Tensor:
        """The same as int32, of the same bits."""
        return torch.from_numpy(self.raw(n).view(np.int32).copy())

    def next(self) -> int:
        if not self._ahead:
            self._ahead = np.frombuffer(self._state.bytes(1024), dtype="<u4")[::-1].tolist()
        return self._ahead.pop()

    def rand_int(self, max: int | None = None) -> int:
        return self.next() & _LOW31 if max is None else self.next() % max

    def rand_int64(self) -> int:
        low = self.rand_int()
        return low | self.rand_int() << 31

    def rand_float(self) -> float:
        return float(np.float32(self.next())) / 4294967296.0

    def rand_double(self) -> float:
        return self.next() / 4294967295.0


class SplitMix64RandomGenerator:
    """SplitMix64 with FAISS's ways of drawing from it."""

    def __init__(self, seed: int = 1234) -> None:
        self._drawn = 0
        self._seed = seed & _LOW64

    def raw(self, n: int) -> np.ndarray:
        """The next n 64-bit words."""
        steps = np.arange(self._drawn + 1, self._drawn + n + 1, dtype=np.uint64)
        self._drawn += n
        z = np.uint64(self._seed) + steps * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def next(self) -> int:
        return int(self.raw(1)[0])

    def rand_int(self, max: int | None = None) -> int:
        return self.next() & _LOW31 if max is None else self.next() % max

    def rand_int64(self) -> int:
        return self.next() & 0x7FFFFFFFFFFFFFFF

    def rand_float(self) -> float:
        return float(np.float32(self.next()) / np.float32(18446744073709551616.0))

    def rand_double(self) -> float:
        return self.next() / 18446744073709551615.0


class MersenneTwister64:
    """std::mt19937_64 and the two libstdc++ distributions that seed k-means."""

    def __init__(self, seed: int) -> None:
        state = [seed & _LOW64]
        for i in range(1, 312):
            state.append((6364136223846793005 * (state[-1] ^ state[-1] >> 62) + i) & _LOW64)
        self._state, self._at = state, 312

    def _twist(self) -> None:
        state = self._state
        for i in range(312):
            y = (state[i] & 0xFFFFFFFF80000000) | (state[(i + 1) % 312] & 0x7FFFFFFF)
            state[i] = state[(i + 156) % 312] ^ (y >> 1) ^ (0xB5026F5AA96619E9 if y & 1 else 0)
        self._at = 0

    def next(self) -> int:
        if self._at == 312:
            self._twist()
        y = self._state[self._at]
        self._at += 1
        y ^= y >> 29 & 0x5555555555555555
        y ^= y << 17 & 0x71D67FFFEDA60000
        y ^= y << 37 & 0xFFF7EEE000000000
        return y ^ y >> 43

    def below(self, n: int) -> int:
        """uniform_int_distribution(0, n - 1): Lemire's rejection on the 128-bit product."""
        product = self.next() * n
        if product & _LOW64 < n:
            threshold = (_LOW64 + 1 - n) % n
            while product & _LOW64 < threshold:
                product = self.next() * n
        return product >> 64

    def real(self, high: float = 1.0) -> float:
        """uniform_real_distribution(0, high)."""
        canonical = self.next() / 18446744073709551616.0
        return (np.nextafter(1.0, 0.0) if canonical >= 1.0 else canonical) * high


def _blocks(n: int, seed: int) -> Iterator[tuple[RandomGenerator, int, int]]:
    """The blocks in which an array of n is drawn, with one generator that begins each of them anew."""
    count = 1 if n < 1024 else 1024
    generator = RandomGenerator(seed)
    a0, b0 = generator.rand_int(), generator.rand_int()
    for j in range(count):
        generator.restart(a0 + j * b0)
        yield generator, j * n // count, (j + 1) * n // count


def _fill(n: int, seed: int, dtype: type, draw: Callable[[RandomGenerator, int], np.ndarray]) -> Tensor:
    out: np.ndarray = np.empty(n, dtype=dtype)
    for generator, start, stop in _blocks(n, seed):
        out[start:stop] = draw(generator, stop - start)
    return torch.from_numpy(out)


def _int64s(generator: RandomGenerator, n: int) -> np.ndarray:
    words = generator.raw(2 * n).astype(np.int64) & _LOW31
    return words[0::2] | words[1::2] << 31


def _normals(generator: RandomGenerator, n: int) -> np.ndarray:
    """n normal draws by Marsaglia's polar method, two from each accepted pair."""
    pairs, found = (n + 1) // 2, []
    missing = pairs
    while missing > 0:
        # 4/pi pairs are drawn for each that is accepted; what is drawn too many is not used again, each block has its own generator.
        draws = 2.0 * (generator.raw(2 * (int(missing * 1.35) + 8)) / 4294967295.0) - 1
        a, b = draws[0::2], draws[1::2]
        s = a * a + b * b
        good = np.flatnonzero(s < 1.0)[:missing]
        scale = np.sqrt(-2.0 * np.log(s[good]) / s[good])
        found.append(np.stack([a[good] * scale, b[good] * scale], axis=1).reshape(-1))
        missing -= good.shape[0]
    return np.concatenate(found)[:n] if found else np.empty(0)


def float_rand(n: int, seed: int) -> Tensor:
    """n floats in [0, 1]."""
    return _fill(n, seed, np.float32, lambda g, m: g.raw(m).astype(np.float32) / np.float32(4294967296.0))


def float_randn(n: int, seed: int) -> Tensor:
    """n normally distributed floats."""
    return _fill(n, seed, np.float32, _normals)


def int64_rand(n: int, seed: int) -> Tensor:
    """n integers of 62 bits."""
    return _fill(n, seed, np.int64, _int64s)


def int64_rand_max(n: int, max: int, seed: int) -> Tensor:
    """n integers below max."""
    return _fill(n, seed, np.int64, lambda g, m: _int64s(g, m) % max)


def byte_rand(n: int, seed: int) -> Tensor:
    """n bytes."""
    return _fill(n, seed, np.uint8, lambda g, m: (_int64s(g, m) & 255).astype(np.uint8))


def rand_perm(n: int, seed: int) -> Tensor:
    """A permutation of 0..n-1."""
    if n == 0:
        return torch.empty(0, dtype=torch.int64)
    draws = np.zeros(n, dtype=np.int64)
    draws[: n - 1] = RandomGenerator(seed).raw(n - 1).astype(np.int64) % np.arange(n, 1, -1)
    return swaps(torch.from_numpy(draws))


def rand_perm_splitmix64(n: int, seed: int) -> Tensor:
    """A permutation of 0..n-1, drawn faster."""
    if n == 0:
        return torch.empty(0, dtype=torch.int64)
    draws = np.zeros(n, dtype=np.int64)
    draws[: n - 1] = (SplitMix64RandomGenerator(seed).raw(n - 1) % np.arange(n, 1, -1).astype(np.uint64)).astype(np.int64)
    return swaps(torch.from_numpy(draws))


def rand_smooth_vectors(n: int, d: int, seed: int) -> Tensor:
    """n vectors on a smooth surface of 10 dimensions bent into d."""
    low = float_randn(n * 10, seed).view(n, 10)
    x = low @ float_rand(10 * d, seed + 1).view(10, d)
    # The constants are doubles in FAISS, the sine is of a float.
    scales = (float_rand(d, seed + 2) * 4).double() + 0.1
    return (x.double() * scales).float().sin()
