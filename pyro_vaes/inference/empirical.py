"""A prior that is fitted after training: the moments of the codes that the data have."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.densities import quietly, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.priors import ChannelPrior
from pyro_vaes.pair import Pair

ROWS = 512
CODE = "z"


class EmpiricalPrior(ELBO):
    r"""The bound under N(0, I) while the pair is trained; then the prior becomes that of the codes, once.

    .. math:: \mathcal{L}\ \text{with}\ p(z) = \mathcal{N}(0, I); \qquad \text{then}\quad
              p(z) = \prod_k \mathcal{N}(z_k; \hat\mu_k, \hat\Sigma_k)

    The second step has no gradient and changes nothing but the prior: see :func:`fit_prior`. Training does it after its
    last step, before its last checkpoint (:func:`~pyro_vaes.inference.fit.fit` calls :meth:`finish`). What is shown on
    the way is the bound under N(0, I), what is measured afterwards that under the fitted prior. A pair that has been
    fitted before starts from the prior that it has then: for N(0, I) build it anew.

    Args:
        beta, particles, sampled, exact, free_bits: of :class:`~pyro_vaes.inference.objective.ELBO`.
        draws: codes per datum that the prior is fitted to.

    The model's prior must be a :class:`~pyro_vaes.models.priors.ChannelPrior`, its code the site ``z``.

    Source: Shang et al. (2017), 3.

    >>> EmpiricalPrior(draws=2)
    EmpiricalPrior(draws=2)
    """

    def __init__(
        self,
        beta: float | Mapping[str, float] = 1.0,
        particles: int = 1,
        sampled: Sequence[str] = (),
        exact: Sequence[str] = (),
        free_bits: float | None = None,
        draws: int = 1,
    ):
        super().__init__(beta, particles, sampled, exact, free_bits)
        self.draws = whole("draws", draws)
        # A covariance needs two codes.
        self.least_data = 2 if draws == 1 else 1

    def __repr__(self) -> str:
        inner = super().__repr__().removeprefix("ELBO(").removesuffix(")")
        own = [f"draws={self.draws}"] if self.draws != 1 else []
        return f"EmpiricalPrior({', '.join([inner] * bool(inner) + own)})"

    def finish(self, pair: Pair, parts: Iterable[tuple[Tensor, ...]], seed: int) -> None:
        """Fit the prior to the codes of all data, given as (x,) or (x, y), some rows at a time."""
        _place(pair, parts, self.draws, seed)


def fit_prior(
    pair: Pair, x: Tensor, y: Tensor | None = None, *, draws: int = 1, batch_size: int = ROWS, seed: int = 0
) -> None:
    r"""Give the prior of a pair the moments of the codes that the guide draws for data.

    .. math:: \hat\mu_k = \frac1N \sum_n z_k^n, \qquad
              \hat\Sigma_k = \frac{1}{N - 1} \sum_n (z_k^n - \hat\mu_k)(z_k^n - \hat\mu_k)^\top, \qquad
              z^n \sim q(z \mid x^n)

    Changes the buffers of ``pair.model.prior``, in place, and nothing else.

    Args:
        pair: its model has a :class:`~pyro_vaes.models.priors.ChannelPrior`; for other pairs see
            :func:`~pyro_vaes.variants.with_empirical_prior`.
        x: (N, d). y: conditions of a conditional pair. draws: codes per datum, each of which counts as one of N.
        batch_size: rows at a time. seed: of the draws.

    Raises:
        InputError: for bad data, fewer than two codes, codes that are not finite, or another prior.

    Source: Shang et al. (2017), 3, who do not say how many draws a datum has: one. Where the covariance is singular (N
    not above the cells of a channel), :meth:`~pyro_vaes.models.priors.ChannelPrior.place` says what is done.

    >>> from pyro_vaes.variants import empirical_cvae
    >>> pair = empirical_cvae(data_dim=64, latent_dim=32, hidden=(4,))
    >>> fit_prior(pair, (torch.rand(20, 64) > 0.5).float())
    >>> pair.model.prior.loc.shape
    torch.Size([2, 16])
    """
    check_data(pair, x)
    y = check_condition(pair, x, y)
    whole("draws", draws), whole("batch_size", batch_size), whole("seed", seed, low=0)
    parts = ((x[i : i + batch_size],) if y is None else (x[i : i + batch_size], y[i : i + batch_size])
             for i in range(0, len(x), batch_size))  # fmt: skip
    _place(pair, parts, draws, seed)


def _place(pair: Pair, parts: Iterable[tuple[Tensor, ...]], draws: int, seed: int) -> None:
    prior = getattr(pair.model, "prior", None)
    if not isinstance(prior, ChannelPrior):
        raise InputError(f"{pair.name} has a {type(prior).__name__} as its prior: a ChannelPrior can be fitted")
    with quietly(pair):
        mean, covariance = channel_moments(_codes(pair, parts, draws, seed), len(prior.loc))
        prior.place(mean, covariance)


def _codes(pair: Pair, parts: Iterable[tuple[Tensor, ...]], draws: int, seed: int) -> Iterable[Tensor]:
    for number, (x, *y) in enumerate(parts):
        for again in range(draws):
            # Also whatever draws the data themselves anew; before the first piece of it is asked for.
            seed_at(seed, number, again)
            q: Any = poutine.trace(pair.guide).get_trace(as_batch(x), *y).nodes
            if CODE not in q:
                raise InputError(f"{pair.name} has no site {CODE!r}: an empirical prior is of one code")
            yield q[CODE]["value"]


def channel_moments(codes: Iterable[Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Mean, (c, m), and covariance, (c, m, m), of every channel of codes (n, c m) that come part by part; float64.

    Raises:
        InputError: for fewer than two codes, or codes that are not finite.

    >>> mean, covariance = channel_moments([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 6.0]])], 1)
    >>> mean.tolist(), covariance.tolist()
    ([[2.0, 4.0]], [[[2.0, 4.0], [4.0, 8.0]]])
    """
    count, shift, total, squares = 0, None, torch.zeros(()), torch.zeros(())
    for part in codes:
        if not torch.isfinite(part).all():
            raise InputError("the guide draws codes that are not finite: no prior can be fitted to them")
        part = part.double().reshape(len(part), channels, -1)
        # Away from the mean, squares would cancel; the mean of the first part is near enough to it.
        shift = part.mean(0) if shift is None else shift
        part = part - shift
        count, total = count + len(part), total.to(part.device) + part.sum(0)
        squares = squares.to(part.device) + torch.einsum("nci,ncj->cij", part, part)
    if count < 2 or shift is None:
        raise InputError(f"{count} code{'s' * (count != 1)}: a covariance needs two")
    mean = total / count
    return shift + mean, (squares - count * mean[:, :, None] * mean[:, None]) / (count - 1)
