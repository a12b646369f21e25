"""Data on a low-dimensional manifold with outlying entries: a problem whose answer is known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from pyro_vaes.errors import InputError, number, said, unknown, whole

KINDS = ("linear", "curved")


class Contaminated(NamedTuple):
    """Rows on a manifold, the same rows with outliers, and where those are: each (n, d)."""

    clean: Tensor
    dirty: Tensor
    mask: Tensor


def contaminated(
    n: int,
    d: int,
    rank: int,
    ratio: float,
    *,
    kind: str = "linear",
    units: int = 50,
    curvature: float = 2.0,
    magnitude: float = 3.0,
    generator: Generator,
) -> Contaminated:
    r"""Draw rows on a manifold of dimension ``rank``, and add an outlier to a share of the entries.

    .. math:: l = z A \ \text{(linear)} \quad\text{or}\quad l = \tanh(c\, z A + t) B \ \text{(curved)}, \qquad
              x_j = l_j + m_j u_j, \quad m_j \sim \mathrm{Bernoulli}(\rho), \ u_j \sim U(-a, a)

    with z ~ N(0, I_r) and t ~ N(0, I); A and B have independent Gaussian entries, of variance 1 / rows, and are the
    same for all rows of data, as t is. l is divided by the standard deviation of all its entries, so that a is in units
    of the data.

    Args:
        n: rows. d: entries of each. rank: r, the dimension of the manifold, at most d.
        ratio: rho, in [0, 1].
        kind: ``linear`` or ``curved``. units: tanh units, and curvature: c, of the curved one.
        magnitude: a > 0.
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: for sizes below 1, a rank above d, an unknown kind, or a number out of range.

    Source: the experiments of Dai, Wang, Aston, Hua & Wipf (2018), as the slides of S3 III show them; these name the
    axes only (outlier ratio, dimension of the manifold), all else is ours.

    >>> found = contaminated(100, 8, 2, 0.25, generator=torch.Generator().manual_seed(0))
    >>> torch.linalg.matrix_rank(found.clean).item(), torch.equal(found.clean[~found.mask], found.dirty[~found.mask])
    (2, True)
    """
    for name, size in (("n", n), ("d", d), ("rank", rank), ("units", units)):
        whole(name, size)
    if rank > d:
        raise InputError(f"rank is {rank}: it must be at most d, {d}")
    if not 0 <= number("ratio", ratio) <= 1:
        raise InputError(f"ratio is {ratio}: it must be between 0 and 1")
    number("curvature", curvature, open_low=True), number("magnitude", magnitude, open_low=True)
    if kind not in KINDS:
        raise unknown("kind", str(kind), KINDS)
    if n * d < 2:
        raise InputError("n and d are 1: a single entry has no standard deviation, in whose units the data are")
    if not isinstance(generator, Generator):
        raise InputError(f"generator is {said(generator)}: it must be a torch.Generator")

    def gaussian(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    z = gaussian(n, rank)
    if kind == "linear":
        clean = z @ gaussian(rank, d) / rank**0.5
    else:
        turned = curvature * z @ gaussian(rank, units) / rank**0.5 + gaussian(1, units)
        clean = turned.tanh() @ gaussian(units, d) / units**0.5
    clean = clean / clean.std(correction=0)
    mask = torch.rand(n, d, generator=generator) < ratio
    outlier = magnitude * (2 * torch.rand(n, d, generator=generator) - 1)
    return Contaminated(clean, torch.where(mask, clean + outlier, clean), mask)
