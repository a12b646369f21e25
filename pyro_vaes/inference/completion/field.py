"""The terms of Eq. 5 at given codes: what the seen entries say of a code, what the prior does, what it generates."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import Delta
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Independent
from torch.nn.functional import softplus

from pyro_vaes.inference.completion.sites import Layout
from pyro_vaes.inference.densities import Values, log_prob, run, sampled_sites, seed_at
from pyro_vaes.inference.posterior import AtMean, recorded
from pyro_vaes.pair import Pair, _Representative


class Terms(NamedTuple):
    """At R codes of B data each: ``prior`` log p(z) and ``seen`` log p(x_seen | z), (R, B); ``mean`` gen(z), (R, B, d).

    The density ``prior`` is that of the codes on the whole real line, see :class:`Field`.
    """

    prior: Tensor
    seen: Tensor
    mean: Tensor


class Scored(NamedTuple):
    """At sites of a code: ``prior`` log p(code), (R, B); ``entries`` log p(x_j | code) of all entries, (R, B, d);
    ``mean`` gen(z), (R, B, d); and the model's trace.
    """

    prior: Tensor
    entries: Tensor
    mean: Tensor
    trace: poutine.Trace


class Cost(NamedTuple):
    """What is minimised: gamma None is -log p(x_seen | z) - log p(z), a number Eq. 5's squares; tau D's part."""

    gamma: float | None
    tau: float
    discriminator: Callable[[Tensor], Tensor] | None


class Field:
    r"""Score codes of a batch by its seen entries.

    A state (R, B, k) holds the free sites one after the other, each mapped to the whole real line: a positive site as
    its logarithm, with the Jacobian in its density. A site of the guide that is exact and has one value per entry of x
    is integrated out, entry by entry: :math:`\log p(x_j, w_j | z) - \log q(w_j | z, x_j) = \log p(x_j | z)` for every
    w_j, of which the hidden ones are left out.

    Args:
        x: (B, d), with something in the hidden entries that the guide may look at. seen: (B, d), bool.
    """

    def __init__(self, pair: Pair, layout: Layout, x: Tensor, y: Tensor | None, seen: Tensor):
        self.pair, self.layout, self.x, self.y, self.seen = pair, layout, x, y, seen
        self.line = layout.line

    def values(self, state: Tensor) -> tuple[Values, Tensor]:
        """The free sites of a state, and the log-Jacobian, (R, B)."""
        return self.line.values(state)

    def state(self, values: Values) -> Tensor:
        """The other way round: sites (R, B, ...) to a state (R, B, k)."""
        return self.line.state(values)

    def terms(self, state: Tensor) -> Terms:
        values, jacobian = self.values(state)
        found = self.at(values, len(state))
        prior, seen = found.prior + jacobian, torch.where(self.seen, found.entries.double(), 0.0).sum(-1)
        return Terms(prior.expand(state.shape[:-1]), seen.expand(state.shape[:-1]), found.mean)

    def at(self, values: Mapping[str, Tensor], codes: int) -> "Scored":
        """What model and guide say of given sites (R, B, ...) of the code, discrete ones included."""
        q = run(self.pair.guide, self.x, self.y, codes, values) if self.layout.beside else {}
        beside = answers(self.layout, q)
        trace = self.model({**values, **{name: site["value"] for name, site in beside.items()}}, codes)
        p: dict[str, Any] = dict(sampled_sites(trace))
        zero = torch.zeros((), dtype=torch.float64, device=self.x.device)
        prior = sum((log_prob(p[name]).double() for name in values), zero)
        return Scored(prior, entries(self.layout, p, beside), self.mean_of(trace, codes), trace)

    def model(self, values: Values, codes: int) -> poutine.Trace:
        """Run the model at given sites, with all others at their means."""
        program = pyro.plate("particles", codes, dim=-2)(poutine.condition(self.pair.model, dict(values)))
        with AtMean():
            return prune_subsample_sites(poutine.trace(program).get_trace(self.x, self.y))

    def mean_of(self, trace: poutine.Trace, codes: int) -> Tensor:
        return recorded(trace, "mu", "mean").expand(codes, *self.x.shape)

    def generated(self, state: Tensor) -> Tensor:
        """gen(z), (R, B, d)."""
        return self.mean_of(self.model(self.values(state)[0], len(state)), len(state))

    def noisy(self, state: Tensor, where: tuple[int, ...]) -> Tensor:
        """Draws of x itself given codes, (R, B, d); what is no code is drawn from the model too."""
        seed_at(*where)
        return run(self.pair.model, self.x, self.y, len(state), self.values(state)[0])["x"]["fn"].sample()

    def only(self, i: int) -> "Field":
        """The field of one datum."""
        rows = slice(i, i + 1)
        y = None if self.y is None else self.y[rows]
        return Field(self.pair, self.layout, self.x[rows], y, self.seen[rows])

    def energy(self, state: Tensor, cost: Cost) -> Tensor:
        r"""Eq. 5 with the sign of its prior mended, or the negative log joint; (R, B), float64."""
        if cost.gamma is None:
            terms = self.terms(state)
            energy, mean = -terms.seen - terms.prior, terms.mean
        else:
            energy, mean = self._squares(state, cost.gamma)
        if cost.tau and cost.discriminator is not None:
            logits = cost.discriminator(mean.reshape(-1, mean.shape[-1])).reshape(energy.shape)
            # log(1 - D) of logits l is -softplus(l).
            energy = energy - cost.tau * softplus(logits).double()
        return energy

    def _squares(self, state: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        values, jacobian = self.values(state)
        trace = self.model(values, len(state))
        p: dict[str, Any] = dict(sampled_sites(trace))
        prior = sum((log_prob(p[name]).double() for name in self.layout.free), jacobian)
        mean = self.mean_of(trace, len(state))
        squares = torch.where(self.seen, (mean - self.x).double().square(), 0.0).sum(-1)
        return squares - gamma * prior, mean


def prior_sites(field: Field, codes: int, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model's sites, drawn; an outlier whose prior is improper is at its mean."""
    with _Representative():
        return run(field.pair.model, field.x, field.y, codes, values)


def answers(layout: Layout, q: Mapping[str, Any]) -> dict[str, Any]:
    """The guide's sites beside the code: exact draws as constants; points, which move with the code, as they are."""
    return {
        name: {**q[name], "value": q[name]["value"] if name in layout.points else q[name]["value"].detach()}
        for name in layout.beside
    }


def entries(layout: Layout, p: Mapping[str, Any], beside: Mapping[str, Any]) -> Tensor:
    """log p(x_j | code) of every entry, up to a constant where that is a kernel: exact sites are integrated out, points
    profiled out.

    Args:
        p: the model's sites at the values of ``beside``, the guide's sites beside the code.
    """
    found = _entries(p["x"])
    for name in layout.factors:
        found = found + _entries(p[name])
    for name, site in beside.items():
        found = found + _entries(p[name]) - _entries(site)
    return found


def _entries(site: Any) -> Tensor:
    """The log-density of a site entry by entry; that of a point mass in equal parts."""
    fn = site["fn"]
    if isinstance(fn, Delta):
        return (fn.log_density / fn.event_shape[-1])[..., None].expand(site["value"].shape)
    assert isinstance(fn, Independent)  # the layout has looked
    return fn.base_dist.log_prob(site["value"])
