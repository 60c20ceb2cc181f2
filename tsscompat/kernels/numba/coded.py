"""Decoding of blocks of codes and search in them, compiled; the products are torch's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsscompat.kernels import coded
from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.metrics import is_similarity
from tsscompat.kernels.numba import screen
from tsscompat.kernels.numba.flat import SCREENED, centre_of, finish_heaps, fold_tile, moved, start_heaps
from tsscompat.kernels.numba.jit import jit
from tsscompat.kernels.numba.screen_codes import wins
from tsscompat.kernels.threads import run_blocks

F = np.float32
_EMPTY, _NO_NORMS = np.empty(0, np.bool_), np.empty(0, F)
# Decoded numbers held at once.
_TILE = 1 << 19
# Rows decoded by one thread at a time.
_GRAIN = 512


@jit
def _bytes(codes, lo, step, out, start, stop):  # type: ignore[no-untyped-def]
    for r in range(start, stop):
        row, values = codes[r], out[r]
        for j in range(lo.shape[0]):
            values[j] = lo[j] + step[j] * F(row[j])


@jit
def _nibbles(codes, lo, step, out, start, stop):  # type: ignore[no-untyped-def]
    half = lo.shape[0] // 2
    for r in range(start, stop):
        row, values = codes[r], out[r]
        for j in range(half):
            values[2 * j] = lo[2 * j] + step[2 * j] * F(row[j] & np.uint8(15))
            values[2 * j + 1] = lo[2 * j + 1] + step[2 * j + 1] * F(row[j] >> np.uint8(4))
        if lo.shape[0] % 2:
            values[2 * half] = lo[2 * half] + step[2 * half] * F(row[half] & np.uint8(15))


@jit
def _sixes(codes, lo, step, out, start, stop):  # type: ignore[no-untyped-def]
    """Four numbers are in three bytes. Written out again in ivf_affine.of_sixes: called from both, it costs a third more in each."""
    d = lo.shape[0]
    for r in range(start, stop):
        row, values = codes[r], out[r]
        for g in range(d // 4):
            word = (
                np.uint32(row[3 * g]) | (np.uint32(row[3 * g + 1]) << np.uint32(8)) | (np.uint32(row[3 * g + 2]) << np.uint32(16))
            )
            values[4 * g] = F(np.int32(word & np.uint32(63)))
            values[4 * g + 1] = F(np.int32((word >> np.uint32(6)) & np.uint32(63)))
            values[4 * g + 2] = F(np.int32((word >> np.uint32(12)) & np.uint32(63)))
            values[4 * g + 3] = F(np.int32((word >> np.uint32(18)) & np.uint32(63)))
        for j in range(d // 4 * 4, d):
            bit = 6 * j
            rest = np.int64(row[bit >> 3]) | (np.int64(row[min((bit >> 3) + 1, row.shape[0] - 1)]) << 8)
            values[j] = F((rest >> (bit & 7)) & 63)
        for j in range(d):
            values[j] = lo[j] + step[j] * values[j]


@jit
def _parts(codes, table, out, start, stop):  # type: ignore[no-untyped-def]
    m, _, dsub = table.shape
    for r in range(start, stop):
        row, values = codes[r], out[r]
        for p in range(m):
            centroid = table[p, row[p]]
            for j in range(dsub):
                values[p * dsub + j] = centroid[j]


@jit
def _square_sums(rows, out, start, stop):  # type: ignore[no-untyped-def]
    for r in range(start, stop):
        row, total = rows[r], F(0)
        for j in range(row.shape[0]):
            total += row[j] * row[j]
        out[r] = total


def _squares(rows: Tensor) -> np.ndarray:
    values, out = rows.contiguous().numpy(), np.empty(rows.shape[0], F)
    run_blocks(lambda a, b: _square_sums(values, out, a, b), out.shape[0], _GRAIN)
    return out


def worth_decoding(x: Tensor, bits: int, looked_up: bool) -> bool:
    # 200k x 128 on one core of a Xeon at 2.5 GHz: scalar codes of 8 bits are level at 8 queries (75 ms), product codes of 16 bytes at
    # 32 (150 ms).
    return x.shape[0] >= (40 if looked_up else 10)


def affine_rows(codes: Tensor, affine: Affine, out: Tensor) -> None:
    kernel = {8: _bytes, 6: _sixes, 4: _nibbles}.get(affine.bits)
    if kernel is None:
        return NotImplemented  # type: ignore[return-value]
    given = (codes.contiguous().numpy(), affine.lo.numpy(), affine.step.numpy(), out.numpy())
    run_blocks(lambda a, b: kernel(*given, a, b), codes.shape[0], _GRAIN)


def product_rows(codes: Tensor, centroids: Tensor, nbits: int, out: Tensor) -> None:
    if nbits != 8:
        return NotImplemented  # type: ignore[return-value]
    given = (codes.contiguous().numpy(), centroids.contiguous().numpy(), out.numpy())
    run_blocks(lambda a, b: _parts(*given, a, b), codes.shape[0], _GRAIN)


def knn_decoded(
    x: Tensor, codes: Tensor, decode: coded.Decode, k: int, metric: int, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    ip, mask, nq = is_similarity(metric), _EMPTY if allowed is None else allowed.contiguous().numpy(), x.shape[0]
    costs, labels = np.empty((nq, k), F), np.empty((nq, k), np.int64)
    start_heaps(costs, labels, ip)
    done = _screened(x, codes, decode, ip, mask, costs, labels) if nq >= SCREENED and wins() else 0
    if done < codes.shape[0]:
        _fold_products(x, codes, decode, ip, mask, costs, labels, done)
    run_blocks(lambda a, b: finish_heaps(costs, labels, ip, a, b), nq, max(1, 4096 // k))
    return coded.again(x, codes, decode, torch.from_numpy(labels), metric)


def _screened(
    x: Tensor, codes: Tensor, decode: coded.Decode, ip: bool, mask: np.ndarray, costs: np.ndarray, labels: np.ndarray
) -> int:
    """Enter codes into the heaps; returns how many were, see screen.py."""
    # Decoded rows take four times what their integers do, and there is the table of codes besides.
    step, n = max(screen.ROWS, screen.chunk_rows(x.shape[1]) // 8), codes.shape[0]
    room = torch.empty(min(step, n), x.shape[1])

    def rows_of(some: Tensor, out: Tensor) -> Tensor:
        run_blocks(lambda a, b: decode(some[a:b], out[a:b]), out.shape[0], _GRAIN)
        return out

    def enter_all(screened: screen.Screen) -> int:
        for start in range(0, n, step):
            block = rows_of(codes[start : start + step], room[: n - start])
            if not screened.enter(block, start, mask[start : start + step]):
                return start
        return n

    screened, rows = screen.Screen(x, ip, costs, labels), screen.sampled(n, costs.shape[1])
    if rows is not None:
        sample = rows_of(codes[rows], torch.empty(len(rows), x.shape[1]))
        screened.expect(sample, mask[rows] if mask.shape[0] else mask, n)
    return screened.fill(n, enter_all)


def _fold_products(
    x: Tensor, codes: Tensor, decode: coded.Decode, ip: bool, mask: np.ndarray, costs: np.ndarray, labels: np.ndarray, done: int
) -> None:
    """Enter the codes from `done` on into the heaps, by matrix products."""
    nq = x.shape[0]
    some = codes[:: max(1, codes.shape[0] // 64)]
    sample = torch.empty(some.shape[0], x.shape[1])
    decode(some, sample)
    centre = None if ip else centre_of(sample)
    x = moved(x, centre)
    x_norms, y_norms = (_NO_NORMS, _NO_NORMS) if ip else (_squares(x), np.empty(codes.shape[0], F))
    q_step = min(nq, 512)
    # A block of vectors and the products with a block of queries stay in the second-level caches.
    # Few queries leave little to do in a block: it is the threads' turns that cost then (100 queries: 124 ms, in larger blocks 72).
    tile_size = _TILE if nq > 128 else 8 * _TILE
    b_step = max(1024, min((1 << 21) // q_step, tile_size // max(1, x.shape[1])) & ~31)
    buffer, room = torch.empty(q_step * b_step), torch.empty(min(b_step, codes.shape[0]), x.shape[1])
    for start in range(done, codes.shape[0], b_step):
        block = room[: codes.shape[0] - start]
        n = block.shape[0]
        some, vectors = codes[start : start + n], block.numpy()

        def prepare(a: int, b: int) -> None:
            # One visit of a thread for both, while the rows are in its cache.
            decode(some[a:b], block[a:b])
            if centre is not None:
                block[a:b] -= centre
            if not ip:
                _square_sums(vectors, y_norms[start:], a, b)

        run_blocks(prepare, n, _GRAIN)
        for q in range(0, nq, q_step):
            queries = x[q : q + q_step]
            tile = torch.mm(queries, block.t(), out=buffer[: queries.shape[0] * n].view(-1, n)).numpy()
            held = x_norms[q : q + q_step], y_norms, start, mask, costs[q : q + q_step], labels[q : q + q_step]
            run_blocks(lambda a, b: fold_tile(tile, ip, *held, a, b), queries.shape[0], max(1, (1 << 16) // n))
