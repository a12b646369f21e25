"""How far draws are from N(0, I): moments, the spectrum of their covariance, quantiles, a discrepancy of kernels."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.mmd import mmd


@dataclass(frozen=True)
class Moments:
    r"""What each dimension of draws looks like; N(0, 1) has 0, 1, 0, 0.

    Attributes:
        mean: (k,). variance: (k,). skewness: (k,), :math:`m_3 / m_2^{3/2}`.
        kurtosis: (k,), the excess :math:`m_4 / m_2^2 - 3`. Both are NaN for a dimension that is constant.
        errors: of each of the four by name, its standard error if the draws are of N(0, 1).
    """

    mean: Tensor
    variance: Tensor
    skewness: Tensor
    kurtosis: Tensor
    errors: dict[str, float]

    def z(self) -> dict[str, Tensor]:
        """Each of the four, as its distance from that of N(0, 1) in standard errors, (k,)."""
        ideal = {"mean": 0.0, "variance": 1.0, "skewness": 0.0, "kurtosis": 0.0}
        return {name: (getattr(self, name) - value) / self.errors[name] for name, value in ideal.items()}


def moments(z: Tensor, data: int | None = None) -> Moments:
    r"""Give the first four moments of every dimension, and how far those of N(0, 1) would stray.

    .. math:: \mathrm{se} = \sqrt{c / n}, \quad c = 1, 2, 6, 24, \qquad 1 / n = 1 / \text{draws} + 1 / \text{data}

    Args:
        z: (n, k) draws, n at least 2.
        data: how many data the draws' mixture is of, if it is an aggregated posterior: codes that know their datum
            exactly are no more than so many independent draws, however often they are drawn. With it the errors are
            those of that worst case, without it those of n independent draws.

    Source: Fisher (1930), large n; Wang et al. (2018), Fig. 10, for the means and variances.

    >>> found = moments(torch.tensor([[-1.0], [1.0]]))
    >>> found.mean.item(), found.variance.item(), found.kurtosis.item()
    (0.0, 2.0, -2.0)
    """
    z = _draws(z)
    mean = z.mean(0)
    second, third, fourth = ((z - mean).pow(p).mean(0) for p in (2, 3, 4))
    share = 1 / len(z) + (0 if data is None else 1 / whole("data", data))
    errors = {n: math.sqrt(c * share) for n, c in (("mean", 1), ("variance", 2), ("skewness", 6), ("kurtosis", 24))}
    constant = second <= torch.finfo(z.dtype).eps * mean.square()
    second = second.masked_fill(constant, math.nan)
    return Moments(mean, z.var(0), third / second.pow(1.5), fourth / second.square() - 3, errors)


def spectrum(z: Tensor) -> Tensor:
    """Give the eigenvalues (which are the singular values) of the draws' covariance, (k,), largest first.

    >>> spectrum(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    tensor([2., 0.], dtype=torch.float64)
    """
    z = _draws(z)
    return torch.linalg.eigvalsh(torch.cov(z.T).reshape(z.shape[1], z.shape[1])).flip(0).clamp(min=0)


def gap(z: Tensor) -> float:
    r"""Say how far the draws' covariance S is from I: the root mean square of its eigenvalues' distances from 1.

    .. math:: \sqrt{\frac1k \sum_j (\lambda_j - 1)^2} = \lVert S - I \rVert_F / \sqrt{k}

    n draws of N(0, I) give :math:`\sqrt{(k + 1) / n}`, about. S3 compares singular values without saying how.

    >>> round(gap(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])), 6)
    1.0
    """
    return float((spectrum(z) - 1).square().mean().sqrt())


def quantiles(z: Tensor, points: int = 199) -> tuple[Tensor, Tensor]:
    r"""Give what a Q-Q plot against N(0, 1) shows: quantiles of the normal, and those of every dimension.

    .. math:: p_i = i / (m + 1), \quad i = 1 \dots m

    Args:
        z: (n, k). points: m, how many; those outside of 1 / n and 1 - 1 / n would be noise.

    Returns:
        (m,) and (m, k).

    Source: Wilk & Gnanadesikan (1968); the quantiles of draws are Hyndman & Fan's (1996) eighth.

    >>> [q.shape for q in quantiles(torch.randn(50, 3), points=9)]
    [torch.Size([9]), torch.Size([9, 3])]
    """
    z = _draws(z)
    p = torch.arange(1, whole("points", points, low=2) + 1, dtype=z.dtype) / (points + 1)
    found = np.quantile(z.cpu().numpy(), p.numpy(), axis=0, method="median_unbiased")
    return torch.distributions.Normal(0.0, 1.0).icdf(p), torch.as_tensor(found)


def quantile_error(z: Tensor, points: int = 199) -> Tensor:
    r"""Say how far each dimension's Q-Q plot is from the diagonal: the root mean square over its points, (k,).

    As the points grow dense, the 2-Wasserstein distance of the dimension from N(0, 1).

    >>> bool(quantile_error(torch.randn(4000, 1)) < 0.1 < 2.9 < quantile_error(3 + torch.randn(4000, 1)))
    True
    """
    normal, found = quantiles(z, points)
    return (found - normal[:, None]).square().mean(0).sqrt()


def mmd_to(
    z: Tensor,
    other: Tensor | None = None,
    *,
    kernel: str = "imq",
    block: int = 1000,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimate MMD^2 between draws and others, by default of N(0, I), with its standard error.

    The mean of :func:`~pyro_vaes.inference.mmd.mmd` over disjoint blocks of ``block`` draws: as unbiased as one of them
    all, and of a cost that is linear in the draws. The blocks' spread gives the error; with one block it is NaN.

    Args:
        z: (n, k) in random order. other: (m, k), likewise. kernel: of mmd. block: draws at a time.
        limit: take no more than so many of either, all by default. seed: of the normal draws.

    Raises:
        InputError: for fewer than 2 rows, or bad arguments of mmd.

    Source: Zaremba, Gretton & Blaschko (2013), "B-tests"; kernel and bandwidth: Tolstikhin et al. (2018).

    >>> z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> value, error = mmd_to(z, block=100)
    >>> abs(value) < 5 * error
    True
    """
    whole("seed", seed, low=0)
    z = _draws(z)[: None if limit is None else whole("limit", limit, low=2)]
    if other is None:
        other = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(seed)).to(z.device)
    other = _draws(other).to(z)
    n = min(len(z), len(other))
    block = min(whole("block", block, low=2), n)
    starts = range(0, n - block + 1, block)
    found = torch.stack([mmd(z[i : i + block], other[i : i + block], kernel) for i in starts])
    return float(found.mean()), float(found.std() / math.sqrt(len(found))) if len(found) > 1 else math.nan


def _draws(z: Tensor) -> Tensor:
    if not isinstance(z, Tensor) or z.dim() != 2 or len(z) < 2 or not z.shape[1]:
        raise InputError(
            f"draws are {tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__}: it must be (n, k)"
        )
    if z.is_complex() or not bool(torch.isfinite(z).all()):
        raise InputError("draws are not finite, real numbers everywhere")
    return z.detach().double()
