"""What the bound is made of: reconstruction, what codes say of their data, and how far they are from the prior."""

import math
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.densities import (
    Code,
    Values,
    check_plate,
    exact_sites,
    family,
    log_terms,
    quietly,
    rehearsed,
    run,
    seed_at,
    total,
)
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.memory import Chunk
from pyro_vaes.pair import Pair


@dataclass(frozen=True)
class Decomposition:
    r"""Means over the data, in nats per datum; they add up exactly, because all are of the same draws.

    ``bound = reconstruction - kl`` and ``kl = information + marginal``.

    Attributes:
        bound: the evidence lower bound without beta and the like.
        reconstruction: :math:`\mathrm{E} \log p(x | z)`, exact sites integrated out.
        kl: :math:`\mathrm{E} \log q(z | x) - \log p(z)`.
        information: I(n; z), what a code says of which datum it belongs to; at most log N, and there it is
            too small a number, for want of data.
        marginal: KL of the aggregated posterior :math:`q(z) = \frac1N \sum_n q(z | x_n)` from the prior: what better
            priors could save.
        size: N.

    Source: Hoffman & Johnson (2016), "ELBO surgery", Eq. 8; Chen et al. (2018), Eq. 2.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.decompose(pair, x)
    >>> abs(found.bound - (found.reconstruction - found.kl)) < 1e-4
    True
    """

    bound: float
    reconstruction: float
    kl: float
    information: float
    marginal: float
    size: int


def decompose(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 1,
    chunk: int = 256,
    batch_size: int = 256,
    seed: int = 0,
) -> Decomposition:
    r"""Split the bound over all given data by the aggregated posterior.

    .. math:: \mathrm{KL} = \underbrace{\mathrm{E} \log \frac{q(z | x_n)}{q(z)}}_{I(n; z)}
              + \underbrace{\mathrm{E} \log \frac{q(z)}{p(z)}}_{\mathrm{KL}[q(z) \| p(z)]}

    The N draws are weighed under all N posteriors, ``chunk`` times ``batch_size`` pairs at a time: time grows with N^2.
    Any guide with a density will do. Sites that are exact, or a point mass given the code (the outlier of ``ic_vae``),
    belong to the reconstruction.

    Args:
        x: (N, d), N at least 2. y: conditions of a conditional pair. draws: of the guide per datum.
        chunk: draws at a time. batch_size: posteriors at a time. Where memory runs out they are halved, and the draws
            are others of the same estimator. seed: of the draws.

    Raises:
        InputError: for bad data or arguments, a guide whose code is a point mass, or a site outside of the data plate.

    Source: Hoffman & Johnson (2016), 2.

    >>> from pyro_vaes.variants import l2_vae
    >>> found = decompose(l2_vae(4, 2, (8,)), torch.rand(9, 4))
    >>> abs(found.kl - found.information - found.marginal) < 1e-9, found.information <= math.log(9)
    (True, True)
    """
    check_data(pair, x)
    y = check_condition(pair, x, y)
    for name, value in (("draws", draws), ("chunk", chunk), ("batch_size", batch_size)):
        whole(name, value)
    whole("seed", seed, low=0)
    if len(x) < 2:
        raise InputError("x holds one datum: an aggregated posterior needs two")
    code = _code(pair, x, y)
    with quietly(pair):
        posteriors = Chunk("batch_size", batch_size)

        def some(start: int, count: int) -> list[Tensor]:
            rows = slice(start, start + count)
            condition = None if y is None else y[rows]
            seed_at(seed, start)
            return [_sums(pair, code, as_batch(x[rows]), condition, x, y, posteriors) for _ in range(draws)]

        sums = torch.zeros(4, dtype=torch.float64)
        for parts in Chunk("chunk", chunk).over(len(x), some):
            for part in parts:
                sums += part
    data, prior, guide, aggregate = (sums / (len(x) * draws)).tolist()
    kl = guide - prior
    return Decomposition(data - kl, data, kl, guide - aggregate, aggregate - prior, len(x))


def _code(pair: Pair, x: Tensor, y: Tensor | None) -> Code:
    """The sites to weigh, and those that follow from them."""
    model, sites = rehearsed(pair, x, y)
    check_plate(model, sites)
    given = exact_sites(pair)
    follow = tuple(n for n, s in sites.items() if n in given or isinstance(family(s), dist.Delta))
    free = {n: tuple(s["fn"].event_shape) for n, s in sites.items() if n not in follow}
    if not free:
        raise InputError(f"{pair.name} has a point mass for a code: there is no posterior to aggregate")
    return Code(free, follow)


def _sums(pair: Pair, code: Code, x: Tensor, y: Tensor | None, all_x: Tensor, all_y: Any, at: Chunk) -> Tensor:
    """Sums over one chunk of log p(x | z), log p(z), log q(z | x) and log q(z)."""
    sites = run(pair.guide, x, y, 1, {})
    values = {name: sites[name]["value"] for name in code.free}
    terms = log_terms(pair, code, values, x, y)
    aggregate = _aggregated(pair, values, all_x, all_y, at)
    return torch.stack([terms.data.sum(), terms.prior.sum(), terms.guide.sum(), aggregate.sum()]).cpu()


def _aggregated(pair: Pair, values: Values, x: Tensor, y: Tensor | None, at: Chunk) -> Tensor:
    """log q(z) of codes (1, B, ...), (B,): the draws become particles, to be weighed under every posterior."""

    def some(start: int, size: int) -> Tensor:
        rows = as_batch(x[start : start + size])
        condition = None if y is None else y[start : start + size]
        spread = {n: v.movedim(0, 1).expand(v.shape[1], len(rows), *v.shape[2:]) for n, v in values.items()}
        count = next(iter(spread.values())).shape[0]
        return total(run(pair.guide, rows, condition, count, spread), values, count, rows).logsumexp(1)

    return torch.stack(at.over(len(x), some)).logsumexp(0) - math.log(len(x))
