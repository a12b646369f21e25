"""Importance-weighted and Renyi bounds, datum by datum."""

import math
from collections.abc import Sequence

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number, unknown, whole
from pyro_vaes.inference.objective import Loss, log_prob, sampled_sites, trace_of, traces
from pyro_vaes.inference.tracing import swapped

ESTIMATORS = ("iwae", "stl", "dreg")


class ImportanceWeighted(nn.Module):
    r"""The negative importance-weighted bound, or Renyi's, with a log-mean-exp for every datum by itself.

    .. math:: \mathcal{L}_\alpha(x) = \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_{k=1}^{K} w_k^{1 - \alpha},
              \qquad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    The plate's scale stays outside of the logarithm. With normalised weights
    :math:`\tilde w_k \propto w_k^{1 - \alpha}` the bound is
    :math:`\sum_k \tilde w_k \log w_k - \frac{1}{1 - \alpha} \mathrm{KL}[\tilde w \,\|\, \tfrac1K]`: the terms of the
    sites are the first sum, site by site, and the term ``weights`` is the second.

    Args:
        particles: K, draws of the guide per datum, vectorised.
        alpha: 0 is the importance-weighted bound, 1 the ELBO (with sampled log q - log p); in between a looser bound
            that looks for more of the posterior's mass. The bound of the :class:`~pyro_vaes.inference.objective.Loss`
            is always that of alpha = 0.
        estimator: of the gradient. ``iwae`` differentiates the bound as it is. ``stl`` ("sticking the landing") drops
            the guide's direct score, whose expectation is zero for K = 1 and is *not* for K > 1: less variance, some
            bias. ``dreg`` is unbiased, and its signal-to-noise ratio for the guide's parameters does not fall with K;
            for alpha = 0 only.
        exact: sites whose q is their exact posterior, see :class:`~pyro_vaes.inference.objective.ELBO`; with ``iwae``
            only.

    Every site, of model and guide, must lie inside the data plate: weights of a site that all data share would make a
    bound per *batch* out of one per datum. A ``poutine.scale`` must scale all sites alike.

    Raises:
        InputError: for particles < 1, an unknown estimator, ``dreg`` with alpha other than 0, a site outside of the
            plate, a site that cannot be reparameterised, or sites of different scales.

    Source: Burda, Grosse & Salakhutdinov (2016), Eq. 8-14; Li & Turner (2016), Eq. 8 (alpha); Roeder, Wu & Duvenaud
    (2017) and Tucker, Lawson, Gu & Maddison (2019), Eq. 6 and 8 (``stl``, ``dreg``).

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> pair = l2_vae(data_dim=4, latent_dim=2, hidden=(5,))
    >>> loss = ImportanceWeighted(particles=3)(pair.model, pair.guide, torch.rand(3, 4))
    >>> sorted(loss.terms), bool(torch.isclose(sum(loss.terms.values()), loss.total))
    (['weights', 'x', 'z'], True)
    """

    def __init__(self, particles: int = 5, alpha: float = 0.0, estimator: str = "iwae", exact: Sequence[str] = ()):
        whole("particles", particles)
        number("alpha", alpha, low=-math.inf)
        if estimator not in ESTIMATORS:
            raise unknown("estimator", str(estimator), list(ESTIMATORS))
        if estimator == "dreg" and alpha != 0:
            raise InputError(f"alpha is {alpha}: the estimator dreg is for alpha = 0")
        if isinstance(exact, str) or not isinstance(exact, Sequence):
            raise InputError(f"exact is {exact!r}: it must be a list of sites")
        if exact and estimator != "iwae":
            raise InputError(f"estimator {estimator} has no exact sites: their q shares the model's parameters")
        super().__init__()
        self.particles, self.alpha, self.estimator, self.exact = particles, float(alpha), estimator, tuple(exact)

    def __repr__(self) -> str:
        values = {"alpha": (self.alpha, 0.0), "estimator": (self.estimator, "iwae"), "exact": (self.exact, ())}
        changed = [f"{k}={v!r}" for k, (v, default) in values.items() if v != default]
        return f"ImportanceWeighted({', '.join([f'particles={self.particles}', *changed])})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        q, p = traces(model, guide, x, y, size, self.particles, self.exact)
        scale = self._check(q, p, len(x)) / (size or len(x))
        weights, costs = self._weights(q, p)
        l_alpha, l_zero = self._bound(weights), log_mean_exp(weights)
        normalised = torch.softmax(weights.detach() * (1 - self.alpha), 0)
        terms = {name: (normalised * cost.detach()).sum() * scale for name, cost in costs.items()}
        terms["weights"] = -l_alpha.detach().sum() * scale - sum(terms.values())
        value = -l_alpha.sum() * scale
        if self.estimator != "iwae" and torch.is_grad_enabled():
            other = self._stl if self.estimator == "stl" else self._dreg
            surrogate = -other(model, guide, q, x, y, size).sum() * scale
            value = value.detach() + surrogate - surrogate.detach()
        return Loss(value, terms, (l_zero.sum() * scale).detach())

    def _bound(self, weights: Tensor) -> Tensor:
        if self.alpha == 1:
            return weights.mean(0)
        return log_mean_exp(weights * (1 - self.alpha)) / (1 - self.alpha)

    def _weights(self, q: poutine.Trace, p: poutine.Trace) -> tuple[Tensor, dict[str, Tensor]]:
        """Give log w, (K, B), and its parts by site, as costs."""
        costs = {}
        for name, site in sampled_sites(p):
            costs[name] = -log_prob(site)
            if name in q.nodes:
                costs[name] = costs[name] + log_prob(q.nodes[name])
        whole_cost = torch.stack(torch.broadcast_tensors(*costs.values())).sum(0)
        # One particle has no dimension of its own.
        return -whole_cost.reshape(self.particles, -1), {
            n: c.reshape(-1, whole_cost.shape[-1]) for n, c in costs.items()
        }

    def _stl(self, model, guide, q, x, y, size) -> Tensor:
        """log q as a function of the draw alone."""
        return self._bound(self._again(model, guide, q, x, y, size))

    def _dreg(self, model, guide, q, x, y, size) -> Tensor:
        """A function whose gradient is sum_k w~ dlog p/dtheta + sum_k w~^2 (dlog w/dz) (dz/dphi)."""
        leaves, names = q.copy(), [name for name, _ in sampled_sites(q)]
        for name in names:
            leaves.nodes[name] = dict(q.nodes[name], value=q.nodes[name]["value"].detach().requires_grad_())
        weights = self._again(model, guide, leaves, x, y, size)
        at = [leaves.nodes[name]["value"] for name in names]
        slopes = torch.autograd.grad(weights.sum(), at, retain_graph=True)
        normalised = torch.softmax(weights.detach(), 0)
        surrogate = (normalised * weights).sum(0)
        for name, slope in zip(names, slopes, strict=True):
            path = (slope * q.nodes[name]["value"]).reshape(*normalised.shape, -1).sum(-1)
            surrogate = surrogate + (normalised.square() * path).sum(0)
        return surrogate

    def _again(self, model, guide, q, x, y, size) -> Tensor:
        """log w at the draws of q, with the guide's parameters as constants."""
        learned = [p for p in {id(p): p for p in guide.parameters()}.values() if p.requires_grad]
        p = trace_of(model, x, y, size, self.particles, at=q)
        # Leaves of their own, which nobody asks for; a store of their own, or Pyro would hand out those of before.
        others = [p.detach().requires_grad_() for p in learned]
        with swapped(guide, learned, others), pyro.get_param_store().scope():
            fixed = trace_of(guide, x, y, size, self.particles, at=q)
        try:
            return self._weights(fixed, p)[0]
        except (KeyError, NotImplementedError):
            raise InputError(
                f"estimator {self.estimator} needs log q at a given draw, which this guide lacks"
            ) from None

    def _check(self, q: poutine.Trace, p: poutine.Trace, batch: int):
        """Refuse what a log-mean-exp per datum does not allow, and give the scale that all sites have."""
        scales, sites = [], [name for name, _ in sampled_sites(q)]
        for name in self.exact:
            if name not in sites:
                raise InputError(f"exact names the site {name!r}, which the guide does not sample: it has {sites}")
        for trace, whose in ((p, "model"), (q, "guide")):
            for name, site in sampled_sites(trace):
                if not any(frame.dim == -1 and frame.size == batch for frame in site["cond_indep_stack"]):
                    raise InputError(
                        f"site {name!r} of the {whose} is outside of the data plate: all data share it, and an "
                        "importance-weighted bound is one per datum"
                    )
                scales.append(site["scale"])
        for name, site in sampled_sites(q):
            if not (name in self.exact or site["fn"].has_rsample):
                raise InputError(f"site {name!r} cannot be reparameterised ({type(site['fn']).__name__})")
            if name not in p.nodes:
                raise InputError(f"the guide samples site {name!r}, which the model lacks")
        for scale in scales:
            if scale is not scales[0] and (isinstance(scale, Tensor) or scale != scales[0]):
                raise InputError(
                    "sites are scaled differently: what scales a site would end up inside of the logarithm"
                )
        return scales[0]


def log_mean_exp(weights: Tensor) -> Tensor:
    """The logarithm of the mean weight over particles: (K, B) -> (B,).

    >>> log_mean_exp(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    tensor([0., 1.])
    """
    return torch.logsumexp(weights, 0) - math.log(len(weights))
