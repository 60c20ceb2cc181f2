"""RaBitQ codes: the signs of a vector's difference to a center, factors that scale their product with a query, and further bits.

A code of d dimensions is: d bits of signs in whole bytes; the factors `add` and `multiply` in single precision; and with more than one
bit the factor `error`, nb_bits - 1 further bits of each dimension, and their factors `add` and `rescale`. With r = query - center, s the
signs as -1 and 1 and v the signs and further bits as odd multiples of a half,

    by signs:   add + |r|^2 - 2 * multiply * <s, r> / sqrt(d)    (L2; half of it subtracted from |query|^2 for inner products)
    by all:     |r|^2 or <query, center>, + add + rescale * <v, r>

are estimates of the distance. Queries are rounded to qb bits for products with signs.
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from tsscompat.kernels.accelerate import accelerated
from tsscompat.kernels.bits import pack, tail, unpack
from tsscompat.kernels.ivf import Range, Score, Top, nearest_lists, top_by_score, within_by_score
from tsscompat.kernels.ivf_few import Few
from tsscompat.kernels.ivf_lists import Ragged
from tsscompat.kernels.metrics import INNER_PRODUCT
from tsscompat.records import record

# The greatest code of 1 to 8 bits of a standard normal number, for the least squared error: FAISS's constants.
RADII = (0.79688, 1.49375, 2.05078, 2.50938, 2.91250, 3.26406, 3.59844, 3.91016)
# Where the search for a scale begins, as a share of where it ends, by the number of further bits: FAISS's constants.
STARTS = (0.0, 0.15, 0.20, 0.52, 0.59, 0.71, 0.75, 0.77, 0.81)
# How many codes are scored before the results so far are looked at, at first and at most.
FIRST_TILE, LAST_TILE = 64, 4096
EPSILON = torch.finfo(torch.float32).eps
# How many standard deviations of the estimate by signs its error factor covers.
DEVIATIONS = 1.9


@record
class Coder:
    """Codes of nb_bits bits around centers (one for each list, or one for all), and how queries are compared with them.

    qb: bits that queries are rounded to, 0: not. centered: rounded symmetrically around 0. filtered: codes of several bits are scored by
    all of them only where the estimate by signs, with its error, could still be among the results.
    """

    centers: Tensor
    nb_bits: int
    metric: int
    qb: int
    centered: bool
    filtered: bool = True


def parts(codes: Tensor, d: int, nb_bits: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of codes (n, code_size) the signs (n, d) as 0 and 1, their factors (n, 2 or 3), and the further bits with their factors (n, 2)."""
    signs, size, more = unpack(codes, d, 1), (d + 7) // 8, nb_bits - 1
    if not more:
        return signs, tail(codes, size).view(torch.float32), codes[:, :0], codes[:, :0]
    end = size + 12 + (d * more + 7) // 8
    factors = tail(codes[:, : size + 12], size).view(torch.float32)
    return signs, factors, unpack(tail(codes[:, :end], size + 12), d, more), tail(codes, end).view(torch.float32)


def rounded(r: Tensor, qb: int, centered: bool) -> Tensor:
    """What queries less their centers (n, d) stand for once they are rounded to qb bits, over the square root of d."""
    d, most = r.shape[1], (1 << qb) - 1
    root = torch.tensor(d, dtype=torch.float32, device=r.device).sqrt()
    if qb == 0:
        return r / root
    if centered:
        square = r.square().sum(1, keepdim=True)
        high = RADII[qb - 1] * (square / d).sqrt()
        low = -high
    else:
        low, high = r.amin(1, keepdim=True), r.amax(1, keepdim=True)
    step = (high - low) / most
    codes = torch.where(step > 0, ((r - low) * (1 / step) + 0.5).floor().clamp(0, most), 0)
    if not centered:
        return (step * codes + low) / root
    odd = 2 * codes - most
    return odd * (square / (odd.square().sum(1, keepdim=True) * d)).sqrt()


def estimates(asked: Tensor, center: Tensor, codes: Tensor, coder: Coder) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (b, m) of queries (b, m or 1, d) to codes (b, m, code_size) around centers: by signs, by all, the former's error."""
    d, ip, n = asked.shape[-1], coder.metric == INNER_PRODUCT, codes.shape[:2]
    signs, factors, extra, more = (t.view(*n, -1) for t in parts(codes.reshape(-1, codes.shape[-1]), d, coder.nb_bits))
    r = asked - center  # (b, m, d)
    square = r.square().sum(-1)
    turned = rounded(r.reshape(-1, d), coder.qb, coder.centered).view_as(r)
    plain = factors[..., 0] + square - 2 * factors[..., 1] * ((2 * signs - 1) * turned).sum(-1)
    plain = -0.5 * (plain - asked.square().sum(-1)) if ip else plain.clamp(min=0)
    if coder.nb_bits == 1:
        return plain, plain, torch.zeros_like(plain)
    values = (signs << (coder.nb_bits - 1)) + extra - ((1 << (coder.nb_bits - 1)) - 0.5)
    base = (asked * center).sum(-1) if ip else square
    full = base + more[..., 0] + more[..., 1] * (values * r).sum(-1)
    return plain, full if ip else full.clamp(min=0), factors[..., 2] * square.sqrt()


def _score(x: Tensor, coder: Coder, codes: Tensor, keys: Tensor, k: int, radius: float | None) -> Score:
    ip, centers = coder.metric == INNER_PRODUCT, coder.centers
    which = keys.reshape(-1).clamp(min=0) if centers.shape[0] > 1 else torch.zeros_like(keys.reshape(-1))

    def score(queries: Tensor, found: Tensor, pairs: Tensor) -> Tensor:
        plain, full, slack = estimates(x[queries][:, None], centers[which[pairs]], codes[found], coder)
        if coder.nb_bits == 1 or not coder.filtered:
            return full
        hopes = -plain - slack if ip else (plain - slack).clamp(min=0)
        if radius is not None:
            return torch.where(hopes < (-radius if ip else radius), full, float("nan"))
        return _kept(hopes, -full if ip else full, full, k)

    return score


def _kept(hopes: Tensor, costs: Tensor, values: Tensor, k: int) -> Tensor:
    """`values`, but NaN where what was hoped for was not under the k-th cost known at the time.

    FAISS looks at its heap before each code. Here that is done before the first and then whenever as many again have been seen, so that
    codes can be scored together; by then few more get past it.
    """
    best = hopes.new_full((hopes.shape[0], k), torch.finfo(torch.float32).max)
    kept, start = [], 0
    while start < hopes.shape[1]:
        stop = min(start + min(max(start, FIRST_TILE), LAST_TILE), hopes.shape[1])
        under = hopes[:, start:stop] < best[:, -1:]
        best = torch.cat([best, torch.where(under, costs[:, start:stop], float("inf"))], 1).topk(k, largest=False).values
        kept.append(torch.where(under, values[:, start:stop], float("nan")))
        start = stop
    return torch.cat([values[:, :0], *kept], 1)


@accelerated
def scan_rabitq(
    x: Tensor,
    coder: Coder,
    lists: Ragged,
    keys: Tensor,
    k: int,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Top:
    """The k best by the codes' estimates."""
    score = _score(x, coder, lists.codes, keys, k, None)
    return top_by_score(score, lists, keys, k, coder.metric == INNER_PRODUCT, 24 * x.shape[1], (allowed, limits, pairs))


@accelerated
def few_rabitq(x: Tensor, coder: Coder, nprobe: int, lists: Ragged, k: int) -> Few:
    """The k best in the nprobe nearest lists, whose centers are those of the codes, for few queries."""
    started = perf_counter()
    _, keys = nearest_lists(x, coder.centers, nprobe, coder.metric)
    spent = perf_counter() - started
    return *scan_rabitq(x, coder, lists, keys, k), spent


@accelerated
def within_rabitq(
    x: Tensor,
    coder: Coder,
    lists: Ragged,
    keys: Tensor,
    radius: float,
    allowed: Tensor | None = None,
    limits: Tensor | None = None,
    pairs: bool = False,
) -> Range:
    """All whose estimate is within a radius."""
    score = _score(x, coder, lists.codes, keys, 0, radius)
    return within_by_score(score, lists, keys, radius, coder.metric == INNER_PRODUCT, 24 * x.shape[1], (allowed, limits, pairs))


def _sign_factors(x: Tensor, centers: Tensor, metric: int, with_error: bool) -> Tensor:
    """The factors (n, 2, or 3 with the error) of the signs of vectors less their centers."""
    d = x.shape[1]
    square, own, absolute = (x.new_zeros(x.shape[0]) for _ in range(3))
    # One number after the other: the sums are stored.
    for column, center in zip(x.t().contiguous(), centers.expand_as(x).t().contiguous()):
        gap = column - center
        square += gap * gap
        own += column * column
        absolute += gap.abs()
    # Roots in double precision: those of vector libraries are not always rounded correctly.
    norm, root = square.double().sqrt().float(), 1 / torch.tensor(d, dtype=torch.float32, device=x.device).sqrt()
    cosine = absolute * torch.where(square < EPSILON, 1.0, 1 / norm) * root
    multiply = torch.where(cosine.abs() < EPSILON, 1.0, 1 / cosine) * norm
    add = square - own if metric == INNER_PRODUCT else square
    if not with_error:
        return torch.stack([add, multiply], 1)
    half = 0.5 * absolute
    ratio = square * (d * 0.25) / (half * half)
    error = norm * DEVIATIONS * ((ratio - 1) / max(1, d - 1)).sqrt()
    error = torch.where((half > EPSILON) & (ratio > 1), error, 0.0)
    return torch.stack([add, multiply, error if metric == INNER_PRODUCT else 2 * error], 1)


@accelerated
def sign_codes(x: Tensor, centers: Tensor, metric: int, with_error: bool) -> Tensor:
    """What codes begin with: the signs of vectors less their centers (n, d) or (1, d), and their factors, of which the error is a third."""
    signs = pack((x - centers > 0).to(torch.int32), 1)
    return torch.cat([signs, _sign_factors(x, centers, metric, with_error).view(torch.uint8)], 1)


@accelerated
def best_scales(sizes: Tensor, more: int) -> Tensor:
    """For rows of magnitudes (n, d) of norm 1, the scale t for which floor(t * row) + 1/2, of `more` bits, points most nearly like the row.

    Scales are tried where a number of the row passes to its next code, from the least to the greatest, in single precision: as FAISS does.
    """
    n, d = sizes.shape
    most = (1 << more) - 1
    last = torch.tensor(most + 10, dtype=torch.float32) / sizes.amax(1)
    first = last * torch.tensor(STARTS[more], dtype=torch.float32)
    codes = ((first[:, None] * sizes).double() + 1e-5).to(torch.int64)
    square, product = sizes.new_full((n,), d * 0.25), sizes.new_zeros(n)
    for code, size in zip(codes.t(), sizes.t()):
        square = square + (code * code + code).float()
        product = product + (code + 0.5) * size
    inverse = 1 / square.sqrt()
    # Each number passes to at least one more code, to those up to the greatest, and to none from `last` on.
    width = int((most - codes.amin()).clamp(min=1)) if codes.numel() else 1
    steps = codes[:, :, None] + 1 + torch.arange(width, device=sizes.device)
    times = steps.float() * (1 / sizes)[:, :, None]
    real = (steps <= torch.maximum(codes + 1, torch.tensor(most))[:, :, None]) & (times < last[:, None, None])
    times, order = torch.where(real, times, float("inf")).flatten(1).sort(dim=1, stable=True)
    steps, which = steps.flatten(1).gather(1, order).float(), order // width
    best, scale = sizes.new_zeros(n), sizes.new_zeros(n)
    for i in range(int(real.sum((1, 2)).max()) if n else 0):
        delta, before = 2 * steps[:, i], square
        square = square + delta
        product = product + sizes.gather(1, which[:, i : i + 1])[:, 0]
        before = square - delta
        inverse = inverse * (1 - 0.5 * delta / (before + delta * 0.5))
        value = product * inverse
        better = (value > best) & (times[:, i] < float("inf"))
        best, scale = torch.where(better, value, best), torch.where(better, times[:, i], scale)
    return scale
