"""For each kernel, a function that draws its arguments with hypothesis' `draw`."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from kernel_inputs_binary import BINARY
from kernel_inputs_entries import INPUTS as ENTRIES
from kernel_inputs_fastscan import INPUTS as FAST_SCAN
from torch import Tensor

from tsscompat.algorithms.additive import Codebooks
from tsscompat.algorithms.hnsw import insertion_order
from tsscompat.algorithms.lattice import atoms, counts_of
from tsscompat.algorithms.rabitq import encode
from tsscompat.kernels import coded, flat, graph, graph_link, ivf_lists, lattice, nndescent, nsg
from tsscompat.kernels.ivf import Affine
from tsscompat.kernels.ivf_codebook import PLAIN, SCALED, TURBO, Codebook
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import CANBERRA, FORMULAS, GOWER, INNER_PRODUCT, L1, L2, LINF, LP, NAN_EUCLIDEAN
from tsscompat.kernels.panorama import Layout, lengths_left
from tsscompat.kernels.rabitq import Coder

D, NLIST = 13, 20
SIZES = {8: D, 6: (6 * D + 7) // 8, 4: (D + 1) // 2}
PRODUCTS = [(8, 16), (8, 37), (4, 7), (4, 8), (5, 6), (12, 3), (16, 2)]
BOTH = [L2, INNER_PRODUCT]


def one_of(draw, *values):
    return draw(st.sampled_from(values))


def seed(draw) -> None:
    torch.manual_seed(draw(st.integers(0, 1 << 20)))


def numbers(draw, *shape: int) -> Tensor:
    """Small whole numbers, whose distances are exact and often tied, or normal ones."""
    seed(draw)
    return torch.randint(-3, 4, shape).float() if draw(st.booleans()) else torch.randn(shape)


def maybe(draw, made: Tensor) -> Tensor | None:
    return made if draw(st.booleans()) else None


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


# -- rows and columns of numbers --------------------------------------------------------------------------------------------------


def vectors(draw, nx: int, ny: int, metric: int) -> tuple[Tensor, Tensor]:
    d = one_of(draw, 1, 4, 7, 32)
    x, y = numbers(draw, nx, d), numbers(draw, ny, d)
    if metric not in BOTH:
        x, y = torch.rand(nx, d), torch.rand(ny, d)
    if metric in (NAN_EUCLIDEAN, GOWER):
        x, y = (torch.where(torch.rand(t.shape) < 0.2, torch.nan, t) for t in (x, y))
    return x, y


def pairwise(draw):
    metric = one_of(draw, *FORMULAS)
    return *vectors(draw, one_of(draw, 0, 1, 5), one_of(draw, 0, 1, 33), metric), metric, 1.5


def knn(draw):
    metric, ny = one_of(draw, *BOTH, *FORMULAS), one_of(draw, 0, 1, 33, 150)
    x, y = vectors(draw, one_of(draw, 0, 1, 3, 5, 40), ny, metric)
    return x, y, draw(st.integers(1, 40)), metric, 1.5, maybe(draw, torch.rand(ny) < 0.5), maybe(draw, y.square().sum(1))


def within(draw):
    metric, ny = one_of(draw, *BOTH), one_of(draw, 0, 1, 33, 150)
    x, y = vectors(draw, one_of(draw, 0, 1, 3, 40), ny, metric)
    return x, y, draw(st.floats(0.3, 3)) * x.shape[1], metric, 0.0, maybe(draw, torch.rand(ny) < 0.5)


def nearest(draw):
    metric = one_of(draw, *BOTH)
    x, y = vectors(draw, one_of(draw, 0, 1, 3, 40), one_of(draw, 1, 33, 150), metric)
    return x, y, metric


def named_distances(draw):
    metric, ny = one_of(draw, *FORMULAS), one_of(draw, 1, 33)
    x, y = vectors(draw, one_of(draw, 0, 1, 5), ny, metric)
    return x, y, torch.randint(-1, ny, (x.shape[0], one_of(draw, 0, 1, 9))), metric, 1.5


def best_named(draw):
    x, y, labels, metric, _ = named_distances(draw)
    return x, y, torch.where(labels == 0, 40, labels), one_of(draw, 1, 5), metric


def select(draw):
    n, m = one_of(draw, 0, 1, 4), one_of(draw, 0, 1, 6, 70)
    values = numbers(draw, n, m)
    for odd in (torch.nan, torch.inf, -torch.inf):
        values = torch.where(torch.rand(n, m) < 0.05, odd, values)
    kind = one_of(draw, "columns", "shared", "own")
    ids = {
        "columns": None,
        "shared": torch.randperm(m),
        "own": torch.stack([torch.randperm(m) for _ in range(n)]) if n else torch.empty(0, m, dtype=torch.int64),
    }[kind]
    if ids is not None:
        ids = torch.where(torch.rand(ids.shape) < 0.1, -1, ids)
    return values, ids, draw(st.integers(1, m + 3)), draw(st.booleans())


def improve(draw):
    n, k, d, front = one_of(draw, 1, 20), one_of(draw, 1, 30), 40, 8
    seed(draw)
    x, y = torch.randn(n, d), torch.randn(k, d)
    shares = torch.arange(d + 1) / d
    bounds = shares + shares.sqrt() * draw(st.floats(0, 0.5))
    partial = (x[:, None, :front] - y[None, :, :front]).square().sum(-1)
    best = 2 * d * torch.rand(n) + d
    return x, y, partial, best, torch.full((n,), -1), bounds, front, one_of(draw, 8, 16, 64)


def segment_sums(draw):
    n, k = one_of(draw, 0, 1, 50), one_of(draw, 1, 7)
    return numbers(draw, n, one_of(draw, 1, 8)), torch.randint(0, k, (n,)), maybe(draw, torch.rand(n)), k


def donors(draw):
    """Sizes of clusters, which are empty, random words, tries made, points that are more than clusters."""
    seed(draw)
    k = one_of(draw, 3, 9)
    sizes = torch.randint(0, 3, (k,)).float() + torch.arange(k).eq(1) * one_of(draw, 0, 40)
    empty = (sizes == 0).nonzero()[:, 0]
    words = torch.randint(-(1 << 31), 1 << 31, (one_of(draw, 0, 7, 300),)).int()
    return sizes, empty, words, draw(st.integers(0, 10 * k - 1)), max(int(sizes.sum()) - k, 1)


def halve(draw):
    seed(draw)
    taken, given = draw(st.integers(0, 4)), torch.randint(0, 5, (4,))
    return numbers(draw, 9, one_of(draw, 1, 6)), torch.arange(5, 5 + taken), given[:taken]


def swaps(draw):
    n = one_of(draw, 0, 1, 40)
    seed(draw)
    return ((torch.rand(n) * (n - torch.arange(n))).long(),)


def least_sums(draw):
    parts, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    values = numbers(draw, one_of(draw, 0, 1, 5), parts, width)
    return values.sort(dim=2).values, draw(st.integers(1, width**parts))


def swapping(draw, n: int):
    """How to try swaps of n numbers: words, temperature, decay, where to begin, whether in one bit."""
    words = torch.randint(-(1 << 31), 1 << 31, (draw(st.integers(0, 60)), 3)).int()
    return words, 0.7, 0.9, maybe(draw, torch.randperm(n)), draw(st.booleans())


def anneal(draw):
    n = one_of(draw, 2, 4, 16)
    seed(draw)
    points = torch.randn(n, 3)
    wanted = (points[:, None] - points[None]).square().sum(-1).double()
    return wanted, (-wanted).exp(), *swapping(draw, n)


def anneal_order(draw):
    n = one_of(draw, 2, 4, 16)
    seed(draw)
    return torch.rand(n, n, n), *swapping(draw, n)


def order_gains(draw):
    n, queries, points = one_of(draw, 1, 4, 16), one_of(draw, 0, 1, 9), one_of(draw, 1, 2, 30)
    seed(draw)
    return torch.randint(0, n, (queries,)), torch.randint(0, n, (points,)), torch.rand(queries, points).argsort(1), n


def cuts(draw):
    n = draw(st.integers(1, 40))
    seed(draw)
    x = torch.randn(n, dtype=torch.float64).sort().values
    total, squares = (torch.cat([torch.zeros(1, dtype=torch.float64), y.cumsum(0)]) for y in (x, x * x))
    return total, squares, draw(st.integers(1, n))


# -- bytes ------------------------------------------------------------------------------------------------------------------------


def pack(draw):
    nbits = draw(st.integers(1, 16))
    seed(draw)
    return torch.randint(0, 1 << nbits, (one_of(draw, 0, 1, 9), draw(st.integers(1, 20))), dtype=torch.int32), nbits


def unpack(draw):
    m, nbits = draw(st.integers(1, 20)), draw(st.integers(1, 16))
    seed(draw)
    return bytes_of(one_of(draw, 0, 1, 9), (m * nbits + 7) // 8), m, nbits


def hamming(draw):
    size = one_of(draw, 1, 3, 8, 16, 20, 32, 64)
    seed(draw)
    x, y = bytes_of(one_of(draw, 0, 1, 5), size), bytes_of(one_of(draw, 0, 1, 33), size)
    y[: y.shape[0] // 2] &= 1  # bytes that are equal
    return x & 3, y & 3, draw(st.booleans())


def byte_hashes(draw):
    seed(draw)
    return (bytes_of(one_of(draw, 0, 1, 9), one_of(draw, 0, 1, 3, 8, 21)),)


# -- codes ------------------------------------------------------------------------------------------------------------------------


def parts(draw, nbits: int | None = None) -> Tensor:
    ksub = 1 << (one_of(draw, 4, 8) if nbits is None else nbits)
    return numbers(draw, one_of(draw, 1, 3, 8), ksub, one_of(draw, 1, 2, 4, 5, 8))


def nearest_parts(draw):
    centroids = parts(draw)
    return numbers(draw, one_of(draw, 0, 1, 30), centroids.shape[0] * centroids.shape[2]), centroids


def part_tables(draw):
    return *nearest_parts(draw), one_of(draw, *BOTH)


def affine(bits: int) -> Affine:
    if bits >= 16:
        return Affine(bits, torch.empty(0), torch.empty(0))
    return Affine(bits, torch.randn(D), torch.rand(D) * 0.1)


def of_floats(rows: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, D).to(dtype).view(torch.uint8)


def scalar_codes(bits: int, rows: int) -> Tensor:
    return bytes_of(rows, SIZES[bits]) if bits < 16 else of_floats(rows, torch.float16 if bits == 16 else torch.bfloat16)


def affine_rows(draw):
    n, bits = one_of(draw, 0, 1, 40), one_of(draw, 4, 6, 8, 16, 17)
    seed(draw)
    return scalar_codes(bits, n), affine(bits), torch.empty(n, D)


def product_rows(draw):
    nbits, n = one_of(draw, 4, 8), one_of(draw, 0, 1, 40)
    centroids = parts(draw, nbits)
    m = centroids.shape[0]
    return bytes_of(n, (m * nbits + 7) // 8), centroids, nbits, torch.empty(n, m * centroids.shape[2])


def knn_decoded(draw):
    n = one_of(draw, 1, 40, 300)
    seed(draw)
    codes, held = bytes_of(n, D), affine(8)
    allowed = maybe(draw, torch.rand(n) < 0.5)
    x = torch.randn(one_of(draw, 1, 12), D)

    def decode(some: Tensor, out: Tensor) -> None:
        coded.affine_rows(some, held, out)

    return x, codes, decode, draw(st.integers(1, 40)), one_of(draw, *BOTH), allowed


# -- inverted lists ---------------------------------------------------------------------------------------------------------------


def ragged(code_size: int) -> Ragged:
    """Lists of 0 to 40 rows with unused rows, full of nonsense, between them."""
    sizes = torch.randint(0, 40, (NLIST,))
    sizes[0] = 0
    rooms = sizes + 5
    rows = int(rooms.sum())
    return Ragged(bytes_of(rows, code_size), torch.randperm(rows) * 3, torch.cumsum(rooms, 0) - rooms, sizes)


def of_vectors(dtype: torch.dtype = torch.float32) -> Ragged:
    lists = ragged(D * dtype.itemsize)
    lists.codes.copy_(of_floats(lists.codes.shape[0], dtype))
    return lists


def scalar_lists(bits: int) -> Ragged:
    return ragged(SIZES[bits]) if bits < 16 else of_vectors(torch.float16 if bits == 16 else torch.bfloat16)


def probes(draw) -> tuple[Tensor, Tensor]:
    """Queries, and the lists that they probe."""
    nq, nprobe = one_of(draw, 0, 1, 2, 7, 60), draw(st.integers(1, NLIST))
    keys = torch.rand(nq, NLIST).argsort(1)[:, :nprobe]
    return torch.randn(nq, D), torch.where(torch.rand(keys.shape) < 0.1, -1, keys)


def limited(draw, lists: Ragged, keys: Tensor) -> tuple[Tensor | None, Tensor | None, bool]:
    """Masks, limits, and whether labels are pairs."""
    allowed = maybe(draw, torch.rand(lists.ids.shape[0]) < 0.5)
    return allowed, maybe(draw, torch.randint(0, 30, keys.shape)), draw(st.booleans())


def results(draw) -> int:
    return one_of(draw, 1, 5, 30, 900)


def _flat(draw):
    seed(draw)
    metric, lists = one_of(draw, *BOTH, *FORMULAS), of_vectors()
    x, keys = probes(draw)
    if metric not in BOTH:
        lists.codes.copy_(torch.rand(lists.codes.shape[0], D).view(torch.uint8))
        x = x.sigmoid()
    return (x, lists.codes.view(torch.float32), lists, keys), metric, limited(draw, lists, keys)


def scan_flat(draw):
    given, metric, options = _flat(draw)
    return *given, results(draw), metric, 1.5, *options


def within_flat(draw):
    given, metric, options = _flat(draw)
    return *given, draw(st.floats(0.3, 3)) * (D if metric == L2 else 1), metric, 1.5, *options


def _tables(draw):
    nbits, m = one_of(draw, *PRODUCTS)
    seed(draw)
    lists = ragged((nbits * m + 7) // 8 + one_of(draw, 0, 3))  # codes may end with what is no part
    x, keys = probes(draw)
    tables = torch.randn(one_of(draw, x.shape[0], keys.numel()), m, 1 << nbits)
    terms = maybe(draw, torch.randn(lists.ids.shape[0]))
    return (tables, torch.randn(keys.shape), terms, nbits), lists, keys, limited(draw, lists, keys)


def scan_tables(draw):
    given, lists, keys, options = _tables(draw)
    return *given, lists, keys, results(draw), draw(st.booleans()), *options


def within_tables(draw):
    given, lists, keys, options = _tables(draw)
    return *given, lists, keys, 0.5, draw(st.booleans()), *options


def scan_polysemous(draw):
    given, lists, keys, options = _tables(draw)
    size = lists.codes.shape[1]
    # A query's code for each list it probes; at random, half of the bits differ.
    return *given, bytes_of(keys.numel(), size), 4 * size, lists, keys, results(draw), draw(st.booleans()), *options


def _affine(draw):
    bits = one_of(draw, 8, 6, 4, 16, 17)
    seed(draw)
    lists = scalar_lists(bits)
    x, keys = probes(draw)
    around = (torch.randn(NLIST, D), torch.randn(keys.shape)) if draw(st.booleans()) else (None, None)
    return (x, affine(bits), *around, lists, keys), limited(draw, lists, keys)


def scan_affine(draw):
    given, options = _affine(draw)
    return *given, results(draw), one_of(draw, *BOTH), *options


def within_affine(draw):
    given, options = _affine(draw)
    return *given, 4.0, one_of(draw, *BOTH), *options


def _codebook(draw):
    kind, metric = one_of(draw, PLAIN, SCALED, TURBO), one_of(draw, *BOTH)
    bits = one_of(draw, 2, 3, 5) if kind == TURBO else one_of(draw, 1, 2, 3, 5, 8)
    seed(draw)
    codebook = Codebook(kind, bits, torch.randn(1 << bits))
    lists = ragged(((D + 7) // 8 * bits if kind == TURBO else (D * bits + 7) // 8) + 8 * (kind != PLAIN))
    if kind != PLAIN:
        lists.codes[:, -8:] = (0.5 + torch.rand(lists.codes.shape[0], 2)).view(torch.uint8)
    x, keys = probes(draw)
    centers = maybe(draw, torch.randn(NLIST, D)) if kind != TURBO else None
    base = maybe(draw, torch.randn(keys.shape) + 9) if metric == INNER_PRODUCT or kind != PLAIN else None
    x = torch.randn(x.shape[0], 2 * D + 2) if kind == TURBO else x
    return (x, codebook, centers, base, lists, keys), metric, limited(draw, lists, keys)


def scan_codebook(draw):
    given, metric, options = _codebook(draw)
    return *given, results(draw), metric, *options


def within_codebook(draw):
    given, metric, options = _codebook(draw)
    return *given, 6.0, metric, *options


def _rabitq(draw):
    nb_bits, metric, qb = one_of(draw, 1, 2, 5, 9), one_of(draw, *BOTH), one_of(draw, 0, 1, 4, 7)
    seed(draw)
    around = torch.randn(one_of(draw, 1, NLIST), D)
    lists = ragged(1)
    codes = encode(torch.randn(lists.ids.shape[0], D), torch.randn(D), metric, nb_bits)
    lists = Ragged(codes, lists.ids, lists.offsets, lists.sizes)
    x, keys = probes(draw)
    return (
        x,
        Coder(around, nb_bits, metric, qb, draw(st.booleans()), draw(st.booleans())),
        lists,
        keys,
        limited(draw, lists, keys),
    )


def scan_rabitq(draw):
    *given, options = _rabitq(draw)
    return *given, results(draw), *options


def few_rabitq(draw):
    x, coder, lists, *_ = _rabitq(draw)
    coder = Coder(torch.randn(NLIST, D), coder.nb_bits, coder.metric, coder.qb, coder.centered)
    return x, coder, draw(st.integers(1, NLIST)), lists, results(draw)


def within_rabitq(draw):
    *given, options = _rabitq(draw)
    return *given, 6.0, *options


def sign_codes(draw):
    n, d = one_of(draw, 0, 1, 9), one_of(draw, 1, 8, 30)
    x = numbers(draw, n, d)
    centers = x.clone() if draw(st.booleans()) else numbers(draw, one_of(draw, 1, n), d)
    return x, centers, one_of(draw, *BOTH), draw(st.booleans())


def best_scales(draw):
    seed(draw)
    sizes = torch.randn(one_of(draw, 0, 1, 9), one_of(draw, 1, 8, 30)).abs()
    return sizes / sizes.norm(dim=1, keepdim=True), draw(st.integers(1, 8))


def _levels(draw):
    given, metric, options = _flat(draw)
    x, rows, lists, keys = given
    metric, width = one_of(draw, *BOTH), one_of(draw, 1, 4, D)
    norms = Layout(D, -(-D // width), width, 1).norms(rows)
    return (x, rows, norms, lists, keys), (metric, width, one_of(draw, 1, 3, 100)), options


def _batches(draw):
    n, metric, masked = one_of(draw, 0, 1, 40, 100), one_of(draw, *BOTH), draw(st.booleans())
    width, batch = one_of(draw, 1, 4, D), one_of(draw, 1, 7, 16, 64)
    rows, layout = numbers(draw, n, D), Layout(D, -(-D // width), width, batch)
    allowed = torch.rand(n) < 0.5 if masked else None
    x = numbers(draw, draw(st.integers(0, 9)), D)
    return (x, layout.pack(rows), layout.pack_norms(layout.norms(rows)), n), (metric, layout, allowed)


def scan_batches(draw):
    given, how = _batches(draw)
    return *given, results(draw), *how


def within_batches(draw):
    given, how = _batches(draw)
    return *given, draw(st.floats(0.3, 3)) * (D if how[0] == L2 else 1), *how


def rank_levels(draw):
    metric, width = one_of(draw, *BOTH), one_of(draw, 1, 4, D)
    x, rows = numbers(draw, draw(st.integers(0, 9)), D), numbers(draw, 30, D)
    labels = torch.stack([torch.randperm(40)[:12] for _ in range(x.shape[0])]) if x.shape[0] else torch.empty(0, 12).long()
    return x, rows, lengths_left(rows, width), torch.where(labels < 30, labels, -1), results(draw), metric, width


def left_of_rows(draw):
    return numbers(draw, one_of(draw, 0, 1, 17, 40), D), draw(st.integers(1, D))


def scan_levels(draw):
    given, how, options = _levels(draw)
    return *given, results(draw), *how, *options


def within_levels(draw):
    given, how, options = _levels(draw)
    return *given, draw(st.floats(0.3, 3)) * (D if how[0] == L2 else 1), *how, *options


def lattice_tables(draw):
    return counts_of(draw(st.integers(1, 4)), draw(st.integers(1, 12)))


def lattice_points(draw, tables) -> Tensor:
    counts, before = tables
    return lattice.decode_points.definition(
        torch.randint(0, max(1, int(counts[-1, -1])), (one_of(draw, 0, 1, 9),)), counts, before
    )


def encode_points(draw):
    tables = lattice_tables(draw)
    points = lattice_points(draw, tables)
    return points + (torch.rand(points.shape) < 0.02), *tables


def decode_points(draw):
    tables = lattice_tables(draw)
    return torch.randint(0, max(1, int(tables[0][-1, -1])), (one_of(draw, 0, 1, 9),)), *tables


def nearest_points(draw):
    seed(draw)
    d, square = one_of(draw, 1, 4, 9), one_of(draw, 4, 9, 16)
    return torch.randn(one_of(draw, 0, 1, 9), d), torch.tensor(atoms(square, square, d), dtype=torch.float32)


def centers(draw) -> tuple[Tensor, Tensor, int]:
    """Few queries, the centers of the lists, and how many are probed."""
    seed(draw)
    return torch.randn(one_of(draw, 1, 3, 17), D), torch.randn(NLIST, D), draw(st.integers(1, NLIST))


def nearest_lists(draw):
    return *centers(draw), one_of(draw, *BOTH)


def few_flat(draw):
    given, lists = centers(draw), of_vectors()
    return *given, lists.codes.view(torch.float32), lists, 9, one_of(draw, *BOTH)


def few_affine(draw):
    bits = one_of(draw, 8, 6, 4, 16)
    return *centers(draw), affine(bits), draw(st.booleans()), scalar_lists(bits), 9, one_of(draw, *BOTH)


def in_lists(draw):
    """Vectors, centers, and the list of each vector, -1 among them."""
    n, d = one_of(draw, 0, 1, 3, 40), one_of(draw, 1, 8, 33)
    return numbers(draw, n, d), torch.randn(NLIST, d), torch.randint(-1, NLIST, (n,))


def _ranges(draw):
    d = one_of(draw, 1, 3, 16, 40)
    of_each = d if draw(st.booleans()) else 1
    low, extent = torch.randn(of_each) - 1, torch.rand(of_each) * 3
    extent[0] = one_of(draw, 0.0, float(extent[0]))
    return d, low, extent, one_of(draw, 255, 63, 15)


def steps_of(draw):
    seed(draw)
    d, low, extent, levels = _ranges(draw)
    x = torch.randn(one_of(draw, 0, 1, 30, 3000), d)
    x.view(-1)[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])[: x.numel()]
    return x, low, extent, levels


def middles_of(draw):
    seed(draw)
    d, low, extent, levels = _ranges(draw)
    return torch.randint(0, levels + 1, (one_of(draw, 0, 1, 30, 3000), d)).to(torch.uint8), low, extent, levels


def signs(draw):
    x = numbers(draw, one_of(draw, 0, 1, 30, 3000), one_of(draw, 1, 7, 8, 33))
    x.view(-1)[:2] = torch.tensor([float("nan"), -0.0])[: x.numel()]
    return (x,)


def few_levels(draw):
    given, lists, width = centers(draw), of_vectors(), one_of(draw, 1, 4, D)
    rows = lists.codes.view(torch.float32)
    norms = Layout(D, -(-D // width), width, 1).norms(rows)
    return *given, rows, norms, lists, 9, one_of(draw, *BOTH), width, one_of(draw, 1, 3, 100)


def few_product(draw):
    given, lists, residual = centers(draw), ragged(1), draw(st.booleans())
    shift, terms = (torch.randn(D), torch.randn(lists.ids.shape[0])) if residual else (None, None)
    return *given, torch.randn(1, D, 256), 8, not residual, -2.0, shift, terms, lists, 9, one_of(draw, *BOTH)


def scan_product(draw):
    nbits, m, dsub = one_of(draw, (8, 3, 4), (4, 7, 2), (5, 2, 3), (12, 2, 1))
    seed(draw)
    lists = ragged((nbits * m + 7) // 8)
    keys = probes(draw)[1]
    plain, d = draw(st.booleans()), m * dsub
    extra = (None, None) if plain else (torch.randn(d), maybe(draw, torch.randn(lists.ids.shape[0])))
    base = torch.zeros(keys.shape) if plain else torch.randn(keys.shape)
    given = (torch.randn(keys.shape[0], d), torch.randn(m, dsub, 1 << nbits), nbits, plain, 1.0 if plain else -2.0, *extra, base)
    return *given, lists, keys, results(draw), one_of(draw, *BOTH), *limited(draw, lists, keys)


def row_numbers(draw):
    seed(draw)
    labels = torch.randint(0, 3, (one_of(draw, 0, 1, 4), 3)) << 32 | torch.randint(0, 50, (1, 3))
    return torch.where(torch.rand(labels.shape) < 0.3, -1, labels), 50


def packed(draw):
    seed(draw)
    return (ragged(one_of(draw, 1, 3)),)


def unpacked(draw):
    (lists,) = packed(draw)
    raw = ivf_lists.packed(lists)
    n, width = int(lists.sizes.sum()), lists.codes.shape[1]
    return raw, lists.sizes, torch.empty(n, width, dtype=torch.uint8), torch.empty(n, dtype=torch.int64)


def append(draw):
    seed(draw)
    lists, n = ragged(3), one_of(draw, 0, 1, 4)
    rooms = lists.sizes + 5  # enough for all in one list: what happens when room runs out is the twin's own affair
    tail = torch.tensor([lists.ids.shape[0], 0])
    return lists, rooms, tail, torch.randint(-1, NLIST, (n,)), bytes_of(n, 3), torch.arange(n), torch.zeros(n, dtype=torch.int64)


def drop(draw):
    seed(draw)
    lists = ragged(3)
    some = lists.ids[torch.rand(lists.ids.shape[0]) < one_of(draw, 0.0, 0.02, 0.5)]
    return lists, torch.cat([some, torch.tensor([-7])[: draw(st.integers(0, 1))]]).sort().values


def product_terms(draw):
    nbits, m, dsub = one_of(draw, (8, 1, 4), (8, 4, 4), (4, 3, 3), (10, 2, 3))
    seed(draw)
    lists = ragged((nbits * m + 7) // 8)
    centroids, middles = torch.randn(m, 1 << nbits, dsub), torch.randn(NLIST, m * dsub)
    return lists.codes, centroids, nbits, middles, lists.offsets, lists.sizes, torch.zeros(lists.ids.shape[0])


def list_scores(draw):
    keys = torch.randint(-1, NLIST, (one_of(draw, 0, 1, 5), one_of(draw, 1, 3)))
    return numbers(draw, keys.shape[0], D), numbers(draw, NLIST, D), keys, one_of(draw, *BOTH)


def query_tables(draw):
    centroids = parts(draw)
    d = centroids.shape[0] * centroids.shape[2]
    x = numbers(draw, one_of(draw, 0, 1, 5), d)
    return x, centroids.permute(0, 2, 1).contiguous(), maybe(draw, torch.randn(d)), one_of(draw, *BOTH), -2.0


# -- graphs -----------------------------------------------------------------------------------------------------------------------


def unlinked(draw) -> tuple[Tensor, graph.Graph, Tensor, Tensor]:
    """Vectors, a graph of them without edges, and the order in which to link them; without ties, as walks part at those."""
    n, width = one_of(draw, 1, 2, 12, 24), 4
    seed(draw)
    levels = torch.where(torch.rand(n) < 0.2, 2, 1).int()
    ends = torch.tensor([0, 2 * width, 3 * width], dtype=torch.int32)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends.long()[levels.long()].cumsum(0)])
    edges = torch.full((int(offsets[-1]),), -1, dtype=torch.int32)
    return torch.randn(n, 6), graph.Graph(levels, offsets, edges, ends, -1, -1), *insertion_order(levels, 0, 0)


def detours(draw):
    n, degree = one_of(draw, 1, 5, 30), one_of(draw, 1, 3, 8)
    seed(draw)
    edges = torch.rand(n, max(n, degree)).argsort(1)[:, :degree]
    edges = torch.where((edges < n) & (torch.rand(n, 1) * degree + 1 > torch.arange(degree)), edges, -1)
    edges = edges.gather(1, (edges < 0).to(torch.uint8).sort(dim=1, stable=True).indices)
    first = draw(st.integers(0, n))
    return edges, first, draw(st.integers(first, n))


def build(draw):
    return *unlinked(draw), one_of(draw, 8, 20), one_of(draw, *BOTH), 0.0, draw(st.booleans())


def link_one(draw):
    rows, bare, _, _ = unlinked(draw)
    metric, node = one_of(draw, *BOTH), rows.shape[0] - 1
    first = graph.Graph(bare.levels[:node], bare.offsets[: rows.shape[0]], bare.neighbors, bare.ends, bare.entry, bare.top)
    entry, top = graph_link.build(rows[:node], first, *insertion_order(first.levels, 0, 0), 12, metric)
    tables = torch.cat([rows, rows[:3]]), bare.levels, bare.offsets, bare.neighbors, bare.ends
    return *tables, node, entry, top, one_of(draw, 8, 20), metric, 0.0, draw(st.booleans()), one_of(draw, 0.0, 0.2)


def walk(draw):
    rows, bare, order, groups = unlinked(draw)
    metric, n = one_of(draw, *BOTH), rows.shape[0]
    entry, top = graph_link.build(rows, bare, order, groups, 12, metric)
    linked = graph.Graph(bare.levels, bare.offsets, bare.neighbors, bare.ends, entry, top)
    ef, x = one_of(draw, 1, 5, 40), torch.randn(one_of(draw, 1, 4), 6)
    starts = maybe(draw, torch.rand(x.shape[0], n).argsort(1)[:, :2].contiguous())
    steps = graph.Walk(ef, ef, draw(st.booleans()))
    walked = one_of(draw, metric, metric, L1, LINF, LP, CANBERRA)
    return x, rows, linked, steps, draw(st.integers(1, 12)), walked, 1.5, maybe(draw, torch.rand(n) < 0.6), starts


def walk_levels(draw):
    x, rows, linked, steps, k, _, _, allowed, starts = walk(draw)
    width = one_of(draw, 1, 4, 6)
    return x, rows, lengths_left(rows, width), width, linked, steps, k, allowed, starts


def near_table(draw, least: int = 2) -> tuple[Tensor, Tensor, int]:
    """Vectors without ties, and a table of some near ones of each."""
    n = one_of(draw, least, 12, 40)
    seed(draw)
    rows, metric = torch.randn(n, 6), one_of(draw, *BOTH)
    near = torch.cdist(rows, rows).argsort(1)[:, 1 : 1 + one_of(draw, 1, 5)].int()
    return rows, torch.where(torch.rand(near.shape) < 0.1, -1, near), metric


def spread_link(draw):
    rows, near, metric = near_table(draw)
    starts = torch.randperm(rows.shape[0])[: one_of(draw, 1, 2, 8)]
    return rows, near, starts, one_of(draw, 2, 9), one_of(draw, 2, 30), one_of(draw, 1, 4), metric


def spread_link_back(draw):
    rows, *_, metric = given = spread_link(draw)
    return rows, *nsg.link.definition(*given), metric


def spread_reach(draw):
    edges = near_table(draw)[1]
    return edges, 0, torch.rand(edges.shape[0]) < 0.2


def descending(draw) -> tuple[Tensor, Tensor, Tensor, int]:
    """Vectors, and pools with three candidates of each, places free."""
    rows, _, metric = near_table(draw, 8)
    rows = torch.randint(-300, 300, rows.shape).float()  # whose distances are exact
    names = torch.rand(rows.shape[0], rows.shape[0]).fill_diagonal_(2).argsort(1)[:, :3]
    costs = flat.named_distances(rows, rows, names, metric) * (1 if metric == L2 else -1)
    pools = torch.full((rows.shape[0], 7), torch.iinfo(torch.int64).max)
    pools[:, :3] = nndescent.words(costs, names).sort(1, descending=True).values
    return rows, pools, torch.full((rows.shape[0],), 3, dtype=torch.int32), metric


def descent_join(draw):
    rows, pools, sizes, metric = descending(draw)
    new, old = (torch.randint(0, rows.shape[0], (rows.shape[0], w)).int() for w in (one_of(draw, 1, 4), one_of(draw, 0, 3)))
    new[torch.rand(new.shape[0]) < 0.2, -1] = -1
    return rows, pools, sizes, new, old, metric


def descent_draws(draw):
    rows, pools, sizes, new, old, metric = descent_join(draw)
    nndescent.join.definition(rows, pools, sizes, new, old, metric)
    return pools, sizes, torch.minimum(torch.randint(1, 6, sizes.shape), sizes).int(), one_of(draw, 1, 3)


def descent_sampled(draw):
    pools, sizes, reach, back = descent_draws(draw)
    words = torch.randint(-(1 << 31), 1 << 31, (nndescent.draws.definition(pools, sizes, reach, back),)).int()
    return pools, sizes, reach, int(reach.max()), back, words


# -- additive codes ---------------------------------------------------------------------------------------------------------------


def beam_codes(draw):
    nbits, d = one_of(draw, (4,), (8, 8, 8), (3, 7, 5), (1, 0, 6)), one_of(draw, 1, 5, 16)
    seed(draw)
    books = Codebooks(torch.randn(sum(1 << b for b in nbits), d), nbits)
    known = books.table.square().sum(1), 2 * books.cross()
    return torch.randn(one_of(draw, 0, 1, 35), d), books.table, nbits, one_of(draw, 1, 3, 8), one_of(draw, None, known)


def icm(draw):
    n, m, size, d = one_of(draw, 0, 1, 18), one_of(draw, 1, 3, 6), one_of(draw, 2, 16, 256), 8
    seed(draw)
    table = torch.randn(m * size, d)
    codes = torch.randint(0, size, (n, m), dtype=torch.int32)
    return codes, torch.randn(n, m, size), 2 * table @ table.t(), one_of(draw, 0, 1, 3)


def near_parts(draw) -> tuple:
    nlist, nq, nprobe, largest = draw(st.integers(1, 9)), draw(st.integers(0, 5)), draw(st.integers(1, 4)), draw(st.booleans())
    counts = torch.randint(0, 5, (nlist,), generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    first, n = torch.cat([counts.new_zeros(1), counts.cumsum(0)]), int(counts.sum())
    x, centers = numbers(draw, nq, D), numbers(draw, n, D)
    sizes, radii = torch.randint(1, 9, (n,)), torch.rand(n)
    keys, share = torch.randint(-1, nlist, (nq, nprobe)), maybe(draw, torch.randint(0, 20, (nq, nprobe)))
    bound = torch.randn(nq) if largest else 30 * torch.rand(nq)
    return x, keys, bound, share, first, centers, radii, sizes, largest


INPUTS = (
    BINARY
    | ENTRIES
    | FAST_SCAN
    | {
        "beam.beam_codes": beam_codes,
        "icm.icm": icm,
        "adsampling.improve": improve,
        "annealing.anneal": anneal,
        "annealing.anneal_order": anneal_order,
        "annealing.order_gains": order_gains,
        "bits.pack": pack,
        "bits.unpack": unpack,
        "coded.affine_rows": affine_rows,
        "coded.knn_decoded": knn_decoded,
        "coded.product_rows": product_rows,
        "detours.detours": detours,
        "flat.knn": knn,
        "flat.named_distances": named_distances,
        "flat.nearest": nearest,
        "flat.within": within,
        "graph_link.build": build,
        "graph_link.link_one": link_one,
        "graph.search": walk,
        "graph_levels.search_levels": walk_levels,
        "parts.near_parts": near_parts,
        "nndescent.draws": descent_draws,
        "nndescent.join": descent_join,
        "nndescent.sampled": descent_sampled,
        "nsg.link": spread_link,
        "nsg.link_back": spread_link_back,
        "nsg.reach": spread_reach,
        "halving.donors": donors,
        "halving.halve": halve,
        "hamming.hamming": hamming,
        "hashes.byte_hashes": byte_hashes,
        "intervals.cuts": cuts,
        "ivf.nearest_lists": nearest_lists,
        "ivf.residuals": in_lists,
        "ivf.scan_affine": scan_affine,
        "ivf.scan_flat": scan_flat,
        "ivf.scan_polysemous": scan_polysemous,
        "ivf.scan_tables": scan_tables,
        "ivf.within_affine": within_affine,
        "ivf.within_flat": within_flat,
        "ivf.within_tables": within_tables,
        "ivf_codebook.scan_codebook": scan_codebook,
        "ivf_codebook.within_codebook": within_codebook,
        "ivf_few.few_affine": few_affine,
        "ivf_few.few_flat": few_flat,
        "ivf_few.few_product": few_product,
        "ivf_lists.append": append,
        "ivf_lists.drop": drop,
        "ivf_lists.packed": packed,
        "ivf_lists.row_numbers": row_numbers,
        "ivf_lists.unpack": unpacked,
        "ivf_product.scan_product": scan_product,
        "ivf_terms.list_scores": list_scores,
        "ivf_terms.product_terms": product_terms,
        "ivf_terms.query_tables": query_tables,
        "lattice.decode_points": decode_points,
        "lattice.encode_points": encode_points,
        "lattice.nearest_points": nearest_points,
        "metrics.pairwise": pairwise,
        "named.best_named": best_named,
        "panorama.lengths_left": left_of_rows,
        "panorama.rank_levels": rank_levels,
        "panorama.scan_batches": scan_batches,
        "panorama.within_batches": within_batches,
        "panorama_lists.few_levels": few_levels,
        "panorama_lists.scan_levels": scan_levels,
        "panorama_lists.within_levels": within_levels,
        "permute.swaps": swaps,
        "pq.nearest_parts": nearest_parts,
        "pq.part_tables": part_tables,
        "rabitq.best_scales": best_scales,
        "rabitq.few_rabitq": few_rabitq,
        "rabitq.scan_rabitq": scan_rabitq,
        "rabitq.sign_codes": sign_codes,
        "rabitq.within_rabitq": within_rabitq,
        "scalar.middles_of": middles_of,
        "scalar.steps_of": steps_of,
        "segments.segment_sums": segment_sums,
        "select.select": select,
        "signs.signs": signs,
        "sums.least_sums": least_sums,
    }
)
