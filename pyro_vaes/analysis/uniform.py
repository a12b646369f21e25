"""Are ranks uniform, are probabilities symmetric around a half? Exact tests, and bands to draw."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.errors import InputError

# Draws from the null. Smallest p-values are multiplied by the number of tests, so they must be resolved that finely.
FEWEST, PER_TEST, MOST = 4000, 400, 40_000


class Band(NamedTuple):
    """Where the ECDF of n uniform ranks stays as a whole, with a given probability.

    Attributes:
        at: i / cells for i = 1 .. cells - 1. low, high: bounds of ECDF - at, there.
    """

    at: np.ndarray
    low: np.ndarray
    high: np.ndarray


def uniformity(ranks: Tensor, cells: int, seed: int = 0) -> Tensor:
    r"""Test for each column whether ranks are uniform on 0 ... cells - 1; p-values (D,).

    .. math:: \gamma = 2 \min_i \min\{B(R_i; n, z_i),\ 1 - B(R_i - 1; n, z_i)\}, \qquad
              R_i = \#\{\text{rank} < i\},\quad z_i = i / \text{cells}

    with B the binomial distribution function; the p-value is the share of uniform samples whose gamma is as small.

    Args:
        ranks: (n, D), whole numbers. seed: of the samples.

    Source: Saeilynoja, Buerkner & Vehtari (2022), 2.2, Algorithm 1. The same gamma makes :func:`band`.

    >>> even = torch.arange(100)[:, None] % 20
    >>> p = uniformity(torch.cat([even, even // 2], 1), 20)
    >>> bool(p[0] > 0.5), bool(p[1] < 1e-3)
    (True, True)
    """
    n, tests = ranks.shape
    if not bool(((ranks >= 0) & (ranks < cells)).all()) or cells < 2:
        raise InputError(f"ranks must lie in 0 .. {cells - 1}, and there must be at least two of them")
    counts = torch.stack([torch.bincount(column, minlength=cells) for column in ranks.T.cpu()], 0).cumsum(1)[:, :-1]
    found = _tails(n, cells)[counts.numpy(), np.arange(cells - 1)].min(1)
    below = np.searchsorted(_null(n, cells, _trials(tests), seed), found * (1 + 1e-9), side="right")
    return torch.as_tensor((1 + below) / (1 + _trials(tests)))


def band(n: int, cells: int, level: float = 0.95, tests: int = 1, seed: int = 0) -> Band:
    """The simultaneous band of the ECDF of n uniform ranks, as a difference from uniform.

    Args:
        level: probability that ``tests`` independent ECDFs all stay within (Bonferroni).

    >>> found = band(200, 20)
    >>> found.at.shape, bool((found.low < 0).all()), bool((found.high > 0).all())
    ((19,), True, True)
    """
    from scipy.stats import binom

    gamma = float(np.quantile(_null(n, cells, _trials(tests), seed), (1 - level) / tests))
    at = np.arange(1, cells) / cells
    return Band(at, binom.ppf(gamma / 2, n, at) / n - at, binom.isf(gamma / 2, n, at) / n - at)


def ecdf_difference(ranks: Tensor, cells: int) -> np.ndarray:
    """ECDF minus uniform at i / cells, i = 1 ... cells - 1, of each column: (cells - 1, D).

    >>> ecdf_difference(torch.tensor([[0], [1], [2], [3]]), 4).tolist()
    [[0.0], [0.0], [0.0]]
    """
    counts = torch.stack([torch.bincount(column, minlength=cells) for column in ranks.T.cpu()], 1).cumsum(0)[:-1]
    found: np.ndarray = counts.numpy() / len(ranks) - np.arange(1, cells)[:, None] / cells
    return found


def symmetry(p: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""Test for each column whether probabilities are as often below 1/2 as above it, at every distance.

    .. math:: D = \sup_t |F_n(p \le t) - F_n(1 - p \le t)|

    the Kolmogorov-Smirnov distance of p and 1 - p. The two samples are one sample and its mirror image, so that the
    distribution of two independent samples, which the source takes, lets D be too large too often. Under symmetry the
    signs of p - 1/2 are fair coins given their sizes, and n D is the largest absolute value of a random walk: the
    p-value comes from walks of coins, and is exact.

    Args:
        p: (n, D), in [0, 1]; ties are ordered at random. seed: of the walks.

    Returns:
        D and its p-value, each (D,).

    Source: Yao, Vehtari, Simpson & Gelman (2018), 3.2, Algorithm 2; departs from it in the null, as said.

    >>> p = torch.linspace(0.01, 0.99, 100, dtype=torch.float64)[:, None]
    >>> statistic, p_value = symmetry(torch.cat([p, p**2], 1))
    >>> bool(p_value[0] > 0.5), bool(p_value[1] < 0.01)
    (True, True)
    """
    n, tests = p.shape
    rng = np.random.default_rng([seed, n])
    away = p.detach().cpu().double().numpy() - 0.5
    away = np.where(np.abs(away) < 1e-12, 0.0, away)
    # Neither which of two ties comes first nor the side of a half itself may say anything.
    signs = np.where(away == 0, rng.choice([-1.0, 1.0], away.shape), np.sign(away))
    order = np.lexsort((rng.random(away.shape), -np.abs(away).round(12)), axis=0)
    walk = np.abs(np.take_along_axis(signs, order, 0).cumsum(0)).max(0)
    below = np.searchsorted(-_walks(n, _trials(tests), seed), -walk, side="right")
    return torch.as_tensor(walk / n), torch.as_tensor((1 + below) / (1 + _trials(tests)))


def holm(p: Tensor) -> Tensor:
    """Adjust p-values (D,) so that all of them together are wrong as rarely as one would be.

    Source: Holm (1979).

    >>> holm(torch.tensor([0.01, 0.5, 0.04])).tolist()
    [0.0299..., 0.5, 0.0799...]
    """
    order = p.argsort()
    times = torch.arange(len(p), 0, -1, dtype=p.dtype, device=p.device)
    found = torch.empty_like(p)
    found[order] = (p[order] * times).cummax(0).values.clamp(max=1.0) if len(p) else p
    return found


def _trials(tests: int) -> int:
    return min(MOST, max(FEWEST, PER_TEST * tests))


@lru_cache(maxsize=8)
def _tails(n: int, cells: int) -> np.ndarray:
    """Twice the smaller binomial tail of every count at every point, (n + 1, cells - 1)."""
    from scipy.stats import binom

    counts, at = np.arange(n + 1)[:, None], np.arange(1, cells) / cells
    found: np.ndarray = 2 * np.minimum(binom.cdf(counts, n, at), binom.sf(counts - 1, n, at))
    return found


@lru_cache(maxsize=8)
def _null(n: int, cells: int, trials: int, seed: int) -> np.ndarray:
    """The gamma of uniform samples, sorted."""
    tails, rng = _tails(n, cells), np.random.default_rng([seed, n, cells])
    parts = []
    for start in range(0, trials, 2000):
        rows = min(2000, trials - start)
        counts = rng.multinomial(n, np.full(cells, 1 / cells), size=rows).cumsum(1)[:, :-1]
        parts.append(tails[counts, np.arange(cells - 1)].min(1))
    return np.sort(np.concatenate(parts))


@lru_cache(maxsize=8)
def _walks(n: int, trials: int, seed: int) -> np.ndarray:
    """The largest absolute value of fair walks of n steps, from the largest down."""
    rng, parts = np.random.default_rng([seed, n, 2]), []
    for start in range(0, trials, 2000):
        steps = rng.integers(0, 2, (min(2000, trials - start), n)) * 2 - 1
        parts.append(np.abs(steps.cumsum(1)).max(1))
    return np.sort(np.concatenate(parts))[::-1].astype(float)
