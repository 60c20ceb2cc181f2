"""The scalar codebooks of TurboQuant and EDEN: the values that represent normal numbers best, and the boundaries between them.

FAISS has them as tables. Those of 1 to 4 bits are Lloyd's fixed point, and that of 8 bits is what 2,000 of Lloyd's iterations from cells
of equal mass give, rounded to ten decimals: both are computed here. Those of 5 to 7 bits come from a numerical integration that stopped
up to 5e-5 short of the fixed point; they can only be quoted.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# The upper halves of the tables that cannot be computed; the lower halves mirror them.
_QUOTED: dict[int, tuple[float, ...]] = {
    5: (
        0.065889622,
        0.198051689,
        0.331378051,
        0.466699175,
        0.604933169,
        0.747135132,
        0.894564396,
        1.048782381,
        1.211803212,
        1.386338935,
        1.576226389,
        1.787231212,
        2.028725991,
        2.317736402,
        2.691115580,
        3.260726296,
    ),
    6: (
        0.033409456,
        0.100278122,
        0.167296610,
        0.234566570,
        0.302192289,
        0.370281933,
        0.438948801,
        0.508312759,
        0.578501846,
        0.649654245,
        0.721920472,
        0.795466053,
        0.870474868,
        0.947153093,
        1.025734313,
        1.106485960,
        1.189717571,
        1.275791622,
        1.365137897,
        1.458272960,
        1.555827466,
        1.658584711,
        1.767537148,
        1.883971899,
        2.009604895,
        2.146803022,
        2.298972741,
        2.471294741,
        2.672261701,
        2.917391465,
        3.240416640,
        3.744069024,
    ),
    7: (
        0.0168281432,
        0.0504907540,
        0.0841724199,
        0.1178859683,
        0.1516442630,
        0.1854602571,
        0.2193470834,
        0.2533180719,
        0.2873868062,
        0.3215671039,
        0.3558730751,
        0.3903192633,
        0.4249205524,
        0.4596922300,
        0.4946501816,
        0.5298108436,
        0.5651911956,
        0.6008089710,
        0.6366826614,
        0.6728315675,
        0.7092759461,
        0.7460371267,
        0.7831375376,
        0.8206007832,
        0.8584519396,
        0.8967176160,
        0.9354260758,
        0.9746074842,
        1.0142940678,
        1.0545204180,
        1.0953237719,
        1.1367442623,
        1.1788252655,
        1.2216138764,
        1.2651613787,
        1.3095237005,
        1.3547621051,
        1.4009441065,
        1.4481442522,
        1.4964451375,
        1.5459387009,
        1.5967277863,
        1.6489283062,
        1.7026711624,
        1.7581051607,
        1.8154009934,
        1.8747553268,
        1.9363967204,
        2.0005932434,
        2.0676621538,
        2.1379832427,
        2.2120164605,
        2.2903268705,
        2.3736203164,
        2.4627959085,
        2.5590234991,
        2.6638670226,
        2.7794919111,
        2.9090215274,
        3.0572161028,
        3.2318961828,
        3.4473810106,
        3.7348571054,
        4.1895219330,
    ),
}
# Lloyd's iterations of the table of 8 bits, which stops short of the fixed point by 0.07 at its ends.
_STEPS = 2000


def _density(at: Tensor) -> Tensor:
    return torch.where(at.isinf(), 0.0, (-0.5 * at.square()).exp() / (2 * torch.pi) ** 0.5)


def _centred(edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The means of the cells between the boundaries, which are all positive but the first, zero; densities at them, and masses."""
    bounds = torch.cat([edges, edges.new_full((1,), float("inf"))])
    density = _density(bounds)
    above = 0.5 * torch.special.erfc(bounds / 2**0.5)
    mass = -above.diff()
    return -density.diff() / mass, density, mass


def _between(values: Tensor) -> Tensor:
    """The boundaries of the cells of the upper half: zero, then the points midway between two values."""
    return torch.cat([values.new_zeros(1), 0.5 * (values[1:] + values[:-1])])


def _start(bits: int) -> Tensor:
    """The boundaries of cells of equal mass."""
    half = 1 << (bits - 1)
    edges: Tensor = 2**0.5 * torch.special.erfinv(torch.arange(half, dtype=torch.float64) / half)
    return edges


def _iterated(bits: int, steps: int) -> Tensor:
    edges = _start(bits)
    for _ in range(steps - 1):
        edges = _between(_centred(edges)[0])
    return _centred(edges)[0]


def _fixed_point(bits: int) -> Tensor:
    """The values that are the means of their cells: Lloyd's iterations, then Newton's method on the boundaries."""
    edges = _between(_iterated(bits, 200))
    if edges.shape[0] == 1:
        return _centred(edges)[0]
    for _ in range(20):
        values, density, mass = _centred(edges)
        # How a boundary moves the value above it and the value below it; the boundary at zero stays.
        above = density[1:-1] * (values[1:] - edges[1:]) / mass[1:]
        below = density[1:-1] * (edges[1:] - values[:-1]) / mass[:-1]
        slope = torch.diag(0.5 * (above + below) - 1)
        slope += torch.diag(0.5 * density[1:-2] * (values[1:-1] - edges[1:-1]) / mass[1:-1], -1)
        slope += torch.diag(0.5 * density[2:-1] * (edges[2:] - values[1:-1]) / mass[1:-1], 1)
        moved = edges[1:] - torch.linalg.solve(slope, _between(values)[1:] - edges[1:])
        edges = torch.cat([edges[:1], moved])
    return _centred(edges)[0]


@functools.cache
def _upper(bits: int) -> Tensor:
    """The positive values, in double precision."""
    if bits in _QUOTED:
        return torch.tensor(_QUOTED[bits], dtype=torch.float64)
    return _iterated(bits, _STEPS).mul(1e10).round().div(1e10) if bits == 8 else _fixed_point(bits)


def codebook(bits: int, d: int = 1) -> Tensor:
    """The 2**bits values, then the boundaries between them, for normal numbers of variance 1/d."""
    upper = _upper(bits)
    edges = _between(upper)
    if bits == 8:
        edges = edges.mul(1e10).round().div(1e10)
    table = torch.cat([-upper.flip(0), upper, -edges[1:].flip(0), edges]).float()
    return table * (1 / torch.tensor(d, dtype=torch.float32).sqrt())
