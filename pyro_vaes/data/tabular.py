"""Dirt for tables: noise that is added to some cells of some rows, on the scale of each column."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pyro_vaes.data.corruption import Corrupted
from pyro_vaes.errors import InputError, unknown, whole
from pyro_vaes.tensors import NARROW, plain


def _gaussian(n: int, g: Generator) -> Tensor:
    return 5 * torch.randn(n, generator=g, dtype=torch.float64)


def _laplace(n: int, g: Generator) -> Tensor:
    # The difference of two exponential draws is a Laplace draw.
    e = torch.empty(2, n, dtype=torch.float64).exponential_(generator=g)
    return 4 * (e[0] - e[1])


def _lognormal(n: int, g: Generator) -> Tensor:
    return (0.75 * torch.randn(n, generator=g, dtype=torch.float64)).exp()


def _mixture(n: int, g: Generator) -> Tensor:
    sign = torch.where(torch.rand(n, generator=g, dtype=torch.float64) < 0.6, 1.0, -1.0)
    return 0.5 * sign + 3 * torch.randn(n, generator=g, dtype=torch.float64)


NOISES: dict[str, Callable[[int, Generator], Tensor]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "lognormal": _lognormal,
    "mixture": _mixture,
}


def corrupt_cells(x: Tensor, noise: str, rows: float, cells: float = 0.2, *, seed: int = 0) -> Corrupted:
    r"""Add noise to a share of the cells in a share of the rows.

    .. math:: x'_{ij} = x_{ij} + s_j\, \epsilon_{ij} \quad\text{in dirty cells}, \qquad s_j = \mathrm{sd}_i(x_{ij})

    with eps from ``gaussian`` N(0, 5^2), ``laplace`` Laplace(0, 4), ``lognormal`` exp N(0, 0.75^2), which is positive
    and often small, or ``mixture`` 0.6 N(0.5, 3^2) + 0.4 N(-0.5, 3^2).

    Exactly ``round(rows * N)`` rows are dirty, at least one where ``rows`` is positive, and in each exactly
    ``round(cells * d)`` cells, at least one. The mask is the same for every noise of a seed, and of two shares of rows
    the smaller is a part of the larger one.

    Args:
        x: clean table, shape (N, d), floating, finite, N >= 2.
        noise: gaussian, laplace, lognormal or mixture.
        rows, cells: shares, in [0, 1] and (0, 1].
        seed: of rows, cells and noise alike.

    Raises:
        InputError: for another noise, a share out of range, or a table that is not of this shape.

    Source: Eduardo, Nazabal, Williams & Sutton (2020), experiments; the numbers are those of the authors' code. Departs
    from it: the numbers of rows and cells are exact and at least one.

    >>> dirty = corrupt_cells(torch.randn(50, 10), "gaussian", 0.1)
    >>> dirty.mask.sum(1).unique(return_counts=True)
    (tensor([0, 2]), tensor([45,  5]))
    """
    whole("seed", seed, low=0)
    if not isinstance(noise, str) or noise not in NOISES:
        raise unknown("noise", str(noise), list(NOISES))
    for name, share, low in (("rows", rows, 0.0), ("cells", cells, 1e-12)):
        if not isinstance(share, int | float) or isinstance(share, bool) or not low <= share <= 1:
            raise InputError(f"{name} is {share!r}: it must be a share, {'in [0, 1]' if low == 0 else 'in (0, 1]'}")
    plain("x", x, 2, "a finite floating table (N, d), N at least 2")
    if len(x) < 2 or not x.shape[1] or x.dtype in NARROW or not x.is_floating_point() or not bool(x.isfinite().all()):
        raise InputError(f"x is {x.dtype} {tuple(x.shape)}: it must be a finite floating table (N, d), N at least 2")
    n, d = x.shape
    generator = torch.Generator().manual_seed(seed)
    dirty_rows = _at_least_one(rows, n) if rows else 0
    # All orders are drawn first, whatever the share: more rows are then the same rows and others.
    order = torch.randperm(n, generator=generator)[:dirty_rows]
    places = torch.rand(n, d, generator=generator).argsort(1)[order, : _at_least_one(cells, d)]
    mask = torch.zeros(n, d, dtype=torch.bool)
    mask[order[:, None], places] = True
    epsilon = NOISES[noise](n * d, generator).view(n, d)
    noisy = x.cpu().double() + x.cpu().double().std(0) * epsilon
    return Corrupted(torch.where(mask, noisy, x.cpu().double()).to(x), mask.to(x.device))


def _at_least_one(share: float, of: int) -> int:
    return max(1, round(share * of))
