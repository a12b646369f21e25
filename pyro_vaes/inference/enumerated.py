"""A discrete site summed out: the bound of every class, weighed with how likely the guide thinks it."""

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.inference.objective import Loss, sampled_sites, setting, site_term, trace_of, turned


class Enumerated(nn.Module):
    r"""The negative evidence lower bound with one discrete latent site y summed over, exactly.

    .. math:: \mathcal{U}(x) = \sum_y q(y \mid x) \big[ \mathcal{L}(x, y) - \log p(y) + \log q(y \mid x) \big],
              \qquad \mathcal{L}(x, y) = \mathbb{E}_{q(z | x, y)} \log \frac{q(z \mid x, y)}{p(z)\, p(x \mid y, z)}

    There is no draw of y, and so no score-function term: gradients reach q(y | x) through the sum. A datum whose y is
    known (the site is masked there) costs :math:`\mathcal{L}(x, y) - \log p(y)` at that y. Draws of z are made for
    every y; where y is known, all of them are at the known one, and are averaged.

    Args:
        site: the discrete site y, such as ``y_unobserved``, which Pyro's ``obs_mask`` makes of ``y``.
        classifier_weight: w >= 0, of :math:`-\log q(y \mid x)` where y is known, per such datum: the bound alone never
            shows q(y | x) a label. It is no part of p, of q or of the bound that is shown. The alpha of Kingma et al.
            is w times the number of labelled data; their alpha = 0.1 N is w = 0.1 / (share of labelled data).
        beta: weight of the KL terms, that of y included; 1 is the bound.
        particles: L, draws of z per datum and y.

    classifier_weight and beta are the settings ``objective.classifier_weight`` and ``objective.beta``, which a schedule
    may change. ``terms`` have an entry ``classifier`` where the model has observations of y.

    Raises:
        InputError: for numbers out of range, or a site that the guide lacks or that cannot be enumerated.

    Source: Kingma, Rezende, Mohamed & Welling (2014), Eq. 6 (known), 7 (unknown), 8 (their sum) and 9 (the classifier).

    >>> from pyro_vaes.variants import m2_vae
    >>> pair = m2_vae(data_dim=4, latent_dim=2, hidden=(5,), condition_dim=3)
    >>> sorted(pair(torch.ones(3, 4)).terms)
    ['classifier', 'x', 'y_observed', 'y_unobserved', 'z']
    """

    classifier_weight: Tensor
    beta: Tensor

    def __init__(
        self,
        site: str = "y_unobserved",
        classifier_weight: float = 0.0,
        beta: float = 1.0,
        particles: int = 1,
    ):
        whole("particles", particles)
        if not isinstance(site, str):
            raise InputError(f"site is {site!r}: it must be the name of one")
        self._given = number("classifier_weight", classifier_weight), number("beta", beta)
        super().__init__()
        self.site, self.particles = site, particles
        self.register_buffer("classifier_weight", setting(classifier_weight), persistent=False)
        self.register_buffer("beta", setting(beta), persistent=False)

    def __repr__(self) -> str:
        values = {
            "site": (self.site, "y_unobserved"), "classifier_weight": (self._given[0], 0.0),
            "beta": (self._given[1], 1.0), "particles": (self.particles, 1),
        }  # fmt: skip
        return f"Enumerated({', '.join(f'{k}={v!r}' for k, (v, default) in values.items() if v != default)})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        with _Every(self.site) as every:
            q = trace_of(guide, x, y, size, self.particles)
        if not every.found:
            names = [name for name, _ in sampled_sites(q)]
            raise InputError(f"the guide has no site {self.site!r} to sum over: it has {names}")
        p = trace_of(model, x, y, size, self.particles, at=q)
        per_datum = 1.0 / ((size or len(x)) * self.particles)
        weight, sampled = _weight(q.nodes[self.site]), turned(q, p)
        terms, bound = {}, torch.zeros((), dtype=x.dtype, device=x.device)
        for name, site in sampled_sites(p):
            if name == self.site:
                cost = _divergence(q.nodes[name], site)
            else:
                cost = site_term(name, site, q.nodes.get(name), name in sampled, False)
                # What does not depend on y is not summed over it.
                cost = (weight * cost).sum(0) if cost.dim() == weight.dim() else cost
            term = cost.sum() * per_datum
            bound = bound - term.detach()
            terms[name] = term * self.beta.to(term.dtype) if name in q.nodes else term
        known = p.nodes.get(f"{self.site.removesuffix('_unobserved')}_observed")
        if known is not None:
            cost = _classification(q.nodes[self.site], known).sum() * per_datum
            terms["classifier"] = cost * self.classifier_weight.to(cost.dtype)
        return Loss(torch.stack(list(terms.values())).sum(), terms, bound)


class _Every(Messenger):
    """Give a site all its values at once, along a new dimension left of all others."""

    def __init__(self, site: str):
        super().__init__()
        self.site, self.found = site, False

    def _pyro_sample(self, msg):
        if msg["name"] != self.site:
            return
        if not getattr(msg["fn"], "has_enumerate_support", False):
            raise InputError(
                f"site {self.site!r} cannot be summed over: {type(msg['fn']).__name__} has no end of values"
            )
        self.found = True
        msg["value"], msg["done"] = msg["fn"].enumerate_support(expand=False), True


def _weight(site: Any) -> Tensor:
    """q(y | x) per value and datum, (c, ..., B); 1/c where y is known, for there all values give the same."""
    q = site["fn"].log_prob(site["value"]).exp()
    # A known datum would pass the differences between its draws on to q(y | x), which has no part in its bound.
    return q if site["mask"] is None else torch.where(torch.as_tensor(site["mask"]), q, 1.0 / len(q))


def _divergence(q_site: Any, p_site: Any) -> Tensor:
    """KL[q(y | x) || p(y)] as a sum over y, where y is not known."""
    log_q, log_p = (site["fn"].log_prob(q_site["value"]) for site in (q_site, p_site))
    return scale_and_mask((log_q.exp() * (log_q - log_p)).sum(0), p_site["scale"], p_site["mask"])


def _classification(q_site: Any, known: Any) -> Tensor:
    """-log q(y | x) where y is known."""
    return scale_and_mask(-q_site["fn"].log_prob(known["value"]), known["scale"], known["mask"])
