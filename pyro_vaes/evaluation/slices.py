"""The energies of robust PCA along a line: convex, induced autoencoder, VAE."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number
from pyro_vaes.inference.proposition1 import surrogate


class Line(NamedTuple):
    """A datum on its way through the column space: ``t`` (T,) is its first error, ``e`` (T, d) are all of them, ``z``
    (T, r) its codes, and ``low`` (T, d) = W z what is explained.
    """

    t: Tensor
    e: Tensor
    z: Tensor
    low: Tensor


def line(
    x: Tensor, W: Tensor, z: Tensor, direction: Tensor, *, reach: float, points: int = 801, beside: float = 0.0
) -> Line:
    r"""Move one datum's code so that its first error takes every value around its own.

    .. math:: z(t) = z - (t - e_1) u / (W u)_1, \qquad e(t) = x - W z(t), \quad\text{so that}\ e_1(t) = t

    Args:
        x: the datum (d,). W: (d, r). z: the code to start from (r,), direction: u (r,). reach: t lies within e_1 +-
            reach, on ``points`` even steps, at e_1 itself and wherever an error is exactly zero, where logarithms have
            their poles. beside: at e_1 +- this, too, so that the lowest point of a convex energy is known to be
            there to this: even steps alone would miss one between two of them.

    Raises:
        InputError: if the direction does not move the first entry.

    >>> one = line(torch.tensor([1.0, 0.0]), torch.ones(2, 1), torch.zeros(1), torch.ones(1), reach=2.0, points=3)
    >>> one.t, one.e[:, 1]
    (tensor([-1.,  0.,  1.,  3.]), tensor([-2., -1.,  0.,  2.]))
    """
    number("reach", reach, open_low=True), number("beside", beside, low=0)
    step = W @ direction
    if not bool(step[0].abs() > 1e-9):
        raise InputError("the direction does not move the first entry: take another")
    slope, error = step / step[0], x - W @ z
    zeros = error[0] - error / slope
    near = error[0] + beside * torch.tensor([-1.0, 0.0, 1.0], dtype=x.dtype)
    t = torch.cat([torch.linspace(-reach, reach, points, dtype=x.dtype) + error[0], zeros, near])
    t = t[(t - error[0]).abs() <= reach].unique()
    codes = z - (t - error[0])[:, None] * direction / step[0]
    # From the slope, not from the codes: what is zero must be zero to the last bit.
    e = error + (t - error[0])[:, None] * slope
    return Line(t, e, codes, x - e)


def convex_energy(on: Line, others: Tensor, sparse: Tensor, lam: float | None = None) -> Tensor:
    r"""The convex relaxation, :math:`\|L\|_* + \lambda \|E\|_1`, of the datum on the line and the other rows.

    Args:
        others: low-rank rows of all other data (n - 1, d). sparse: their errors (n - 1, d).
        lam: 1 / sqrt(max(n, d)) by default, as in :func:`~pyro_vaes.evaluation.rpca.rpca`.

    Source: Candes, Li, Ma & Wright (2011), Eq. 1.1.

    >>> on = line(torch.tensor([1.0, 0.0]), torch.ones(2, 1), torch.zeros(1), torch.ones(1), reach=2.0, points=3)
    >>> convex_energy(on, torch.zeros(1, 2), torch.zeros(1, 2), lam=1.0)
    tensor([5.8284, 2.4142, 1.0000, 7.8284])
    """
    n, d = len(others) + 1, others.shape[1]
    weight = 1 / math.sqrt(max(n, d)) if lam is None else lam
    matrices = torch.cat([on.low[:, None], others.expand(len(on.t), -1, -1)], 1)
    return torch.linalg.matrix_norm(matrices, "nuc") + weight * (on.e.abs().sum(1) + sparse.abs().sum())


def induced_energy(on: Line, floor: float) -> Tensor:
    r"""The induced autoencoder, :math:`\sum_j \frac12 \log(e_j^2 + \epsilon^2)`: one well per error that is zero.

    Source: S3 III; Wang et al. (2018), III-A, with a floor.

    >>> on = line(torch.tensor([1.0, 0.0]), torch.ones(2, 1), torch.zeros(1), torch.ones(1), reach=2.0, points=3)
    >>> induced_energy(on, 0.1).argmin().item()
    1
    """
    return 0.5 * (on.e.square() + number("floor", floor, open_low=True) ** 2).log().sum(1)


def vae_energy(on: Line, x: Tensor, W: Tensor, floor: float, iterations: int = 300) -> Tensor:
    r"""The affine VAE with a free variance per entry, its posterior's covariance and variances at their best.

    .. math:: \tfrac12 \min_{\Sigma, \Lambda} \big( F(z(t), \Sigma, \Lambda) + \epsilon^2 \mathrm{tr} \Lambda^{-1}
              \big) - \tfrac{d}{2}, \qquad \Lambda_{jj} = e_j^2 + w_j' \Sigma w_j + \epsilon^2, \quad
              \Sigma = (I + W' \Lambda^{-1} W)^{-1}

    by alternating, from a wide and from a narrow posterior, the lower of both. F is the bound of Proposition 1
    (:func:`~pyro_vaes.inference.proposition1.surrogate`), so this is at least the iC-VAE's own energy
    :math:`\mathrm{KL} + \sum_j \mathrm{E} \log |e_j|` there, up to a constant.

    Source: Wang et al. (2018), Eq. 30; Dai et al. (2018).

    >>> on = line(torch.tensor([1.0, 0.0]), torch.ones(2, 1), torch.zeros(1), torch.ones(1), reach=2.0, points=3)
    >>> vae_energy(on, torch.tensor([1.0, 0.0]), torch.ones(2, 1), 0.1).shape
    torch.Size([4])
    """
    x, W, z, square = x.double(), W.double(), on.z.double(), on.e.double().square() + floor**2
    eye, rows = torch.eye(W.shape[1], dtype=torch.float64), x.expand(len(on.t), -1)
    best = torch.full((len(on.t),), math.inf, dtype=torch.float64)
    for start in (1.0, floor**2):
        sigma = start * eye.expand(len(on.t), -1, -1)
        for _ in range(iterations):
            lam = square + torch.einsum("jk,tkl,jl->tj", W, sigma, W)
            sigma = torch.linalg.inv(eye + torch.einsum("jk,tj,jl->tkl", W, 1 / lam, W))
        value = surrogate(rows, W, torch.zeros_like(x), z, sigma, lam) + floor**2 * (1 / lam).sum(1)
        best = torch.minimum(best, value)
    return 0.5 * (best - len(x))


def local_minima(energy: Tensor, share: float = 1e-3) -> list[int]:
    """The positions of the local minima inside a slice that are deeper than a share of its range.

    >>> local_minima(torch.tensor([3.0, 1.0, 2.0, 0.0, 5.0]))
    [1, 3]
    """
    from scipy.signal import find_peaks

    depth = share * float(energy.max() - energy.min())
    return find_peaks(-energy.numpy(), prominence=max(depth, 1e-12))[0].tolist()
