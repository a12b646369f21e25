"""The aggregated posterior: where the codes of all data lie together, and which of their entries do anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import TransformedDistribution, constraints

from pyro_vaes.errors import InputError, said, unknown, whole
from pyro_vaes.inference.densities import exact_sites, family, quietly, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.posterior import codes_at_mean, decoded
from pyro_vaes.pair import Pair

ACTIVE = 0.01


@dataclass(frozen=True)
class Aggregated:
    r"""What :func:`aggregated` found at one site of the code.

    Attributes:
        site: its name.
        draws: (n, k), independent draws of :math:`q(z) = \frac1N \sum_i q(z | x_i)`, in random order.
        rows: (n,), the datum that each draw is a code of.
        mean: (N, k), :math:`\mathrm{E}_q z` of each datum.
        variance: (N, k), :math:`\sigma_z^2(x)` of each datum: 0 for a deterministic encoder. Near 0 the code knows its
            datum, near 1, the prior's, it knows nothing of it.
        activity: (k,), the variance over the data of the mean, with the noise of its estimate taken off.
        used: (k,), bool, True where the activity is above 0.01: the active units.

    Source: Hoffman & Johnson (2016), "ELBO surgery"; Wang et al. (2018), V-C, Fig. 8-10.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.aggregated(pair, x)
    >>> found.mean.shape, found.used.shape
    (torch.Size([6, 2]), torch.Size([2]))
    """

    site: str
    draws: Tensor
    rows: Tensor
    mean: Tensor
    variance: Tensor
    activity: Tensor
    used: Tensor


def aggregated(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    site: str | None = None,
    draws: int = 60_000,
    repeats: int = 32,
    batch_size: int = 512,
    seed: int = 0,
) -> Aggregated:
    r"""Draw from the aggregated posterior, and say what each datum's own is.

    .. math:: q(z) = \frac1N \sum_i q(z \mid x_i), \qquad i \sim \mathrm{Uniform}\{1 \dots N\},\; z \sim q(z \mid x_i)

    A dimension is *used* if :math:`\mathrm{Var}_x[\mathrm{E}_q z] > 0.01` (Burda, Grosse & Salakhutdinov 2016, 5.2),
    pruned otherwise. Mean and variance of a datum are those of the guide's distribution where that is the first site it
    draws and has them in closed form; elsewhere (a flow, a site that hangs on another) they are estimated from
    ``repeats`` draws, with the site's own moments within each draw where they are known.

    Args:
        x: (N, d), N at least 2. y: conditions of a conditional pair.
        site: of the code; by default the first real-valued one that the model draws, such as z, or z_L of a hierarchy.
        draws: n. batch_size: rows at a time. seed: of the draws.
        repeats: at least 2; a variance that is estimated from them alone has a relative error of
            sqrt(2 / (repeats - 1)), which blurs a histogram of variances.

    Raises:
        InputError: for bad data or arguments, a pair without a code of real numbers, or an unknown site.

    Source: Makhzani et al. (2015), Eq. 1; Wang et al. (2018), V-C. Their Eq. 25 integrates over the model's own p(x):
    what is meant, and taken here, are the data.

    >>> from pyro_vaes.variants import l2_vae
    >>> found = aggregated(l2_vae(4, 2, (8,)), torch.rand(9, 4), draws=100)
    >>> found.draws.shape, found.variance.shape, found.used.shape
    (torch.Size([100, 2]), torch.Size([9, 2]), torch.Size([2]))
    """
    check_data(pair, x)
    y = check_condition(pair, x, y)
    for name, value, low in (("draws", draws, 2), ("repeats", repeats, 2), ("batch_size", batch_size, 1)):
        whole(name, value, low=low)
    whole("seed", seed, low=0)
    if len(x) < 2:
        raise InputError("x holds one datum: an aggregated posterior needs two")
    site = code_site(pair, x, y, site)
    with quietly(pair):
        seed_at(seed)
        rows = torch.randint(len(x), (draws,)).to(x.device)
        found = []
        for start in range(0, draws, batch_size):
            seed_at(seed, 0, start)
            found.append(_flat(_guide(pair, x, y, rows[start : start + batch_size])[site]["value"]))
        parts = []
        for start in range(0, len(x), batch_size):
            seed_at(seed, 1, start)
            among = torch.arange(start, min(start + batch_size, len(x)), device=x.device)
            parts.append(_own(pair, x, y, among, site, repeats))
    mean, variance, noise = (torch.cat(column) for column in zip(*parts, strict=True))
    activity = mean.var(0) - noise.mean(0)
    return Aggregated(site, torch.cat(found), rows, mean, variance, activity, activity > ACTIVE)


def code_site(pair: Pair, x: Tensor, y: Tensor | None = None, site: str | None = None) -> str:
    """Give the site of the code that is asked for, or the first that the model draws.

    Raises:
        InputError: for a pair without a code of real numbers, or an unknown site.

    >>> from pyro_vaes.variants import ladder_vae
    >>> code_site(ladder_vae(data_dim=4), torch.ones(1, 4))
    'z_3'
    """
    check_data(pair, x, support=False)
    known = code_sites(pair, x, y)
    if not known:
        raise InputError(f"{pair.name} has no code of real numbers: there is no posterior to aggregate")
    if site is not None and site not in known:
        raise unknown("site", str(site), known)
    return known[0] if site is None else site


def prior_draws(pair: Pair, site: str, draws: int, y: Tensor | None = None, *, seed: int = 0) -> Tensor:
    """Draw the site from the model, (draws, k), under the given conditions, (draws, c), of a conditional pair.

    >>> from pyro_vaes.variants import l2_vae
    >>> prior_draws(l2_vae(4, 2, (8,)), "z", 5).shape
    torch.Size([5, 2])
    """
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}")
    whole("seed", seed, low=0)
    like = next(pair.parameters(), torch.empty(0))
    y = check_condition(pair, torch.empty(whole("draws", draws), 0, device=like.device), y)
    with quietly(pair):
        seed_at(seed)
        try:
            with _Until(site):
                pair.model(None, y, size=draws)
        except _Found as found:
            return _flat(found.value)
    raise InputError(f"the model of {pair.name} has no site {site!r}")


def traversal(
    pair: Pair,
    x: Tensor,
    dimension: int,
    span: Sequence[float] | Tensor,
    y: Tensor | None = None,
    *,
    site: str | None = None,
) -> Tensor:
    r"""Reconstruct one datum while one entry of its code moves and the others stay.

    .. math:: \mu(z), \qquad z_j = t \text{ for } t \text{ in span}, \quad z_{\ne j} = \mathrm{E}_q z_{\ne j}

    In a hierarchy the sites above the one that moves stay at the guide's means, and those below follow at the model's:
    held, they would hide the move, since x hangs on the lowest alone. One pass.

    Args:
        x: the datum, (d,) or (1, d). y: its condition. dimension: j, from 0. span: (n,) values of that entry.
        site: as in :func:`aggregated`.

    Returns:
        (n, d), the site ``mu`` or the likelihood's mean.

    Raises:
        InputError: for bad data, or a dimension that is not there.

    Source: the slides S3, III: no change along a pruned entry, a large one along a used one.

    >>> from pyro_vaes.variants import l2_vae
    >>> traversal(l2_vae(4, 2, (8,)), torch.rand(4), 1, [-1.0, 0.0, 1.0]).shape
    torch.Size([3, 4])
    """
    x = x[None] if isinstance(x, Tensor) and x.dim() == 1 else x
    check_data(pair, x)
    y = check_condition(pair, x, y)
    if len(x) != 1:
        raise InputError(f"x holds {len(x)} data: a traversal is of one")
    site = code_site(pair, x, y, site)
    with quietly(pair):
        try:
            span = torch.as_tensor(span, dtype=as_batch(x).dtype, device=x.device)
        except (TypeError, ValueError):
            raise InputError(f"span is {said(span)}: it must be a list of values") from None
        if span.dim() != 1 or not len(span) or not bool(span.isfinite().all()):
            raise InputError(f"span is {tuple(span.shape)}: it must be a list of finite values")
        batch = as_batch(x).expand(len(span), -1)
        condition = None if y is None else y.expand(len(span), -1)
        values = codes_at_mean(pair, batch, condition)
        code = _flat(values[site]).clone()
        if whole("dimension", dimension, low=0) >= code.shape[1]:
            raise InputError(f"dimension is {dimension}: {site!r} has {code.shape[1]}, from 0")
        code[:, dimension] = span
        values[site] = code.reshape(values[site].shape)
        known = code_sites(pair, x, y)
        for below in known[known.index(site) + 1 :]:
            del values[below]
        return decoded(pair, batch, condition, values)


class _Found(Exception):
    def __init__(self, value: Tensor):
        super().__init__()
        self.value = value


class _Until(Messenger):
    """Stop a program at a site: what comes after it may have an improper prior, which nobody can draw."""

    def __init__(self, site: str):
        super().__init__()
        self.site = site

    def _pyro_post_sample(self, msg):
        if msg["name"] == self.site:
            raise _Found(msg["value"])


def code_sites(pair: Pair, x: Tensor | None = None, y: Tensor | None = None) -> list[str]:
    """The real-valued latent sites of the data, in the model's order, without those that follow from others.

    Args:
        x: data, (N, d), by default draws of the model. y: their conditions.

    >>> from pyro_vaes.variants import t_vae
    >>> code_sites(t_vae(data_dim=4))
    ['z']
    """
    q, p = pair.traces(None if x is None else as_batch(x[:2]), y=None if y is None else y[:2])
    drawn = [name for name, site in q.nodes.items() if site["type"] == "sample" and not site["is_observed"]]
    follow = set(exact_sites(pair)) | {n for n in drawn[1:] if isinstance(family(q.nodes[n]), dist.Delta)}
    return [name for name in p.nodes if name in drawn and name not in follow and _is_real(p.nodes[name])]


def _is_real(site: Any) -> bool:
    support = site["fn"].support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real and any(frame.name == "data" for frame in site["cond_indep_stack"])


def _guide(pair: Pair, x: Tensor, y: Tensor | None, rows: Tensor) -> dict[str, Any]:
    condition = None if y is None else y[rows]
    sites = prune_subsample_sites(poutine.trace(pair.guide).get_trace(as_batch(x[rows]), condition)).nodes
    return {name: site for name, site in sites.items() if site["type"] == "sample"}


def _own(pair: Pair, x: Tensor, y: Tensor | None, rows: Tensor, site: str, repeats: int) -> tuple[Tensor, ...]:
    """Mean and variance of each datum's own posterior, and the variance that drawing has left in the mean."""
    means, variances = [], []
    for _ in range(repeats):
        sites = _guide(pair, x, y, rows)
        mean, variance = _own_moments(sites[site])
        means.append(_flat(mean))
        variances.append(_flat(variance))
        # The first site hangs on no other draw.
        if next(iter(sites)) == site and mean is not sites[site]["value"]:
            return means[0], variances[0], torch.zeros_like(means[0])
    mean, between = torch.stack(means).mean(0), torch.stack(means).var(0)
    return mean, torch.stack(variances).mean(0) + between, between / repeats


def _own_moments(site: Any) -> tuple[Tensor, Tensor]:
    """A site's mean and variance given the sites before it; or its value and 0 where they are not known."""
    try:
        if not isinstance(family(site), TransformedDistribution):  # whose ``mean`` its layers may bend away
            return site["fn"].mean, site["fn"].variance
    except (NotImplementedError, AttributeError):
        pass
    return site["value"], torch.zeros_like(site["value"])


def _flat(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)
