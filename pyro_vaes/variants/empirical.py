"""Pairs whose prior is swapped after training for one that is fitted to their codes (Shang et al. 2017, 3)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor
from torch.distributions import Normal

from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.empirical import CODE, EmpiricalPrior, fit_prior
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.priors import ChannelPrior
from pyro_vaes.pair import Pair
from pyro_vaes.variants.channel import cvae_conv


def empirical_cvae(
    data_dim: int,
    latent_dim: int | None = None,
    hidden: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    draws: int = 1,
    sd: float | None = None,
    beta: float = 1.0,
) -> Pair:
    """p: channels z_k ~ N(mu_k, A_k A_k^T), N(0, I) until the last step, then x as in ``cvae_conv`` |
    q: that of ``cvae_conv`` | EmpiricalPrior() | S2 3 (empirical cVAE).

    A convolutional code keeps where things are, and N(0, I) knows nothing of it; a covariance between the cells of a
    channel does. It is fitted once, after the last step of :func:`~pyro_vaes.inference.fit.fit` and before the last
    checkpoint: see :func:`~pyro_vaes.inference.empirical.fit_prior`. Bound, likelihood and samples are then those of
    the fitted prior; a second ``fit`` starts from it too, and not from N(0, I): for that build the pair anew.
    ``draws``: codes per datum that it is fitted to. Other arguments: see ``conv_vae``.

    >>> empirical_cvae(data_dim=64, latent_dim=32, hidden=(4,)).model.prior.scale_tril.shape
    torch.Size([2, 16, 16])
    """
    objective = EmpiricalPrior(beta, draws=draws)
    plain = cvae_conv(data_dim, latent_dim, hidden, shape, sd, beta)
    channels, *cells = plain.model.decoder.lift[0].unflattened_size  # type: ignore[union-attr,index]
    height, width = cells
    plain.model.prior = ChannelPrior(channels, height * width)
    return Pair(plain.model, plain.guide, objective, range=plain.range, name="empirical_cvae")


def _is_prior(fn: Any, prior: StandardPrior) -> bool:
    """Whether a site's distribution is the prior itself, and not one around what another site says."""
    base = getattr(fn, "base_dist", fn)
    loc = getattr(base, "loc", None)
    return fn.event_shape == prior.loc.shape and loc is not None and bool((loc == prior.loc).all())


def with_empirical_prior(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    channels: int = 1,
    draws: int = 1,
    batch_size: int = 512,
    seed: int = 0,
) -> Pair:
    r"""Give a copy of a trained pair with another prior: a Gaussian that is fitted to the codes of data.

    .. math:: p(z) = \prod_{k=1}^{c} \mathcal{N}(z_k; \hat\mu_k, \hat\Sigma_k), \qquad z = (z_1, \dots, z_c)

    Args:
        pair: with one site ``z`` of N(0, I); it stays as it is.
        x, y, draws, batch_size, seed: see :func:`~pyro_vaes.inference.empirical.fit_prior`.
        channels: c, into which the code is cut: 1 gives all entries one covariance, as many as there are entries none
            at all, and for ``cvae_conv`` it is 64 unless its ``latent_dim`` says otherwise.

    Raises:
        InputError: for a pair with another code or prior, channels that do not divide the code, or bad data.

    Source: Shang et al. (2017), 3, the empirical cVAE.

    >>> import torch
    >>> from pyro_vaes.variants import l2_vae
    >>> fitted = with_empirical_prior(l2_vae(4, 2, (8,)), torch.rand(9, 4))
    >>> fitted.name, fitted.model(size=3).shape
    ('l2_vae with an empirical prior', torch.Size([3, 4]))
    """
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}")
    prior = getattr(pair.model, "prior", None)
    if not isinstance(prior, StandardPrior) or not issubclass(prior.family, Normal):
        raise InputError(f"{pair.name} has a {type(prior).__name__} as its prior: N(0, I) can be swapped")
    sites = pair.traces()[1].nodes
    if CODE not in sites or not _is_prior(sites[CODE]["fn"], prior):
        raise InputError(f"{pair.name} has no site {CODE!r} of its prior: an empirical prior is of one code")
    width = len(prior.loc)
    if width % whole("channels", channels):
        raise InputError(f"channels is {channels}: it must divide the {width} entries of the code")
    other = deepcopy(pair)
    other.model.prior = ChannelPrior(channels, width // channels).to(prior.loc)
    other.name = f"{pair.name} with an empirical prior"
    fit_prior(other, x, y, draws=draws, batch_size=batch_size, seed=seed)
    return other
