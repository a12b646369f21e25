"""The evidence lower bound, site by site."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.meeting import average


class Loss(NamedTuple):
    """What an objective says about a batch, in nats per datum.

    Attributes:
        total: the scalar to minimise.
        terms: its parts by site; they sum to ``total``.
        bound: the bound on log p(x), without beta and the like; the number to show. Where the guide is a point mass
            (the autoencoders), the covariance is profiled (``indexed_ic_vae``) or the prior improper, it is the same
            sum but bounds nothing: compare it within one model only.
        seen: what else is worth a look, by name; part of no sum, and shown as it is.

    Source: Kingma & Welling (2014), Eq. 3, split by site.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> loss = pair(x)
    >>> sorted(loss.terms), bool(torch.isclose(loss.total, sum(loss.terms.values())))
    (['x', 'z'], True)
    """

    total: Tensor
    terms: dict[str, Tensor]
    bound: Tensor
    seen: Mapping[str, Tensor] = MappingProxyType({})


class Objective(Protocol):
    """Anything that maps a model, a guide and a batch to a :class:`Loss`.

    It may have a method ``finish``, which a fit calls once after the last step: see
    :func:`~pyro_vaes.inference.finish.finish`.

    Source: ours.

    >>> import pyro_vaes as pv
    >>> objective: pv.Objective = pv.ELBO(beta=4.0)
    """

    def __call__(
        self,
        model: nn.Module,
        guide: nn.Module,
        x: Tensor,
        y: Tensor | None = None,
        *,
        size: int | None = None,
    ) -> Loss: ...


def setting(value: float) -> Tensor:
    """Hold a number of an objective as a tensor.

    In double precision, to be rounded where it is used: so it is what was given, whatever the pair's own precision.
    """
    return torch.tensor(float(value), dtype=torch.float64)


class Settings(nn.Module):
    """Numbers by site, as buffers that no checkpoint holds: they are the objective's, not the parameters'.

    >>> Settings({"z": 0.5}).get("z")
    tensor(0.5000, dtype=torch.float64)
    """

    def __init__(self, values: Mapping[str, float]):
        super().__init__()
        self._names = {site: site.replace(".", "_") for site in values}
        for site, value in values.items():
            self.register_buffer(self._names[site], setting(value), persistent=False)

    def get(self, site: str) -> Tensor | None:
        return getattr(self, self._names[site]) if site in self._names else None


class ELBO(nn.Module):
    r"""The negative evidence lower bound by site, with analytic KL divergences where they exist.

    .. math:: \mathcal{L} = \frac{1}{N} \Big( \beta \sum_{\text{latent}} \mathrm{KL}[q \| p]
              - \sum_{\text{observed}} \mathbb{E}_q \log p \Big)

    Args:
        beta: weight of the KL terms, one number or one per site; 1 is the bound, 0 switches the prior off. It is
            held as a tensor, the setting ``objective.beta`` (or ``objective.beta.SITE``) of a pair, so that a schedule
            can change it while a compiled step runs.
        particles: L, draws of the guide per datum.
        sampled: latent sites whose KL is the sampled log q - log p even though a closed form exists. A site that the
            guide draws before one that the model draws it from is always sampled: see :func:`turned`.
        exact: latent sites w, discrete ones included, whose q is the model's exact posterior given x and the sites u
            drawn before: :math:`q(w | u, x) = p(w | u, x)`. By Bayes' rule
            :math:`\log p(x, w | u) - \log q(w | u, x) = \log p(x | u)` for *every* w. The draw is therefore taken as a
            constant, and the sampled terms add up to the marginal likelihood, its value and its gradient, without
            variance and without a score-function term. Nothing checks the claim: for another q the gradient is biased.
            No site of the guide may depend on w, and beta does not weigh it: its term is the data's.
        free_bits: lambda, in nats per entry of a code. An entry whose KL, averaged over the batch, is below it costs
            lambda all the same, so that nothing is gained by switching it off; a site whose entries have no closed
            form is taken as a whole. None switches it off. It is the setting ``objective.free_bits``, and like beta
            leaves the bound that is shown as it is.

    Every other latent site must be reparameterised (or a point mass); for others wrap one of Pyro's own estimators in
    :class:`~pyro_vaes.inference.stock.Stock`.

    Raises:
        InputError: for particles < 1, a negative beta, a beta of an exact site, a site that cannot be reparameterised.

    Source: Kingma & Welling (2014), Eq. 7 and 10; beta: Higgins et al. (2017), Eq. 4, where beta = 1 is the bound; free
    bits: Kingma et al. (2016), Eq. 15, with single entries as groups.

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> pair = l2_vae(data_dim=4, latent_dim=2, hidden=(5,))
    >>> loss = ELBO()(pair.model, pair.guide, torch.rand(3, 4))
    >>> sorted(loss.terms), bool(torch.isclose(sum(loss.terms.values()), loss.total))
    (['x', 'z'], True)
    """

    def __init__(
        self,
        beta: float | Mapping[str, float] = 1.0,
        particles: int = 1,
        sampled: Sequence[str] = (),
        exact: Sequence[str] = (),
        free_bits: float | None = None,
    ):
        whole("particles", particles)
        for value in beta.values() if isinstance(beta, Mapping) else [beta]:
            number("beta", value)
        for name, sites in (("sampled", sampled), ("exact", exact)):
            if isinstance(sites, str) or not isinstance(sites, Sequence):
                raise InputError(f"{name} is {sites!r}: it must be a list of sites")
        unnamed = [site for site in beta if not isinstance(site, str)] if isinstance(beta, Mapping) else []
        if unnamed:
            raise InputError(f"beta weighs {unnamed[0]!r}: its keys must be the names of sites")
        weighed = sorted(set(exact) & set(beta)) if isinstance(beta, Mapping) else []
        if weighed:
            raise InputError(f"beta weighs site {weighed[0]!r}, which is exact: its term is the data's")
        super().__init__()
        self._given, self.particles, self.sampled, self.exact = beta, particles, tuple(sampled), tuple(exact)
        self._free = None if free_bits is None else number("free_bits", free_bits)
        # They compare a mean over the batch with a number.
        self.meets = free_bits is not None
        if free_bits is not None:
            self.register_buffer("free_bits", setting(free_bits), persistent=False)
        if isinstance(beta, Mapping):
            self.beta = Settings(beta)
        else:
            self.register_buffer("beta", setting(beta), persistent=False)

    def __repr__(self) -> str:
        values = {
            "beta": (self._given, 1.0), "particles": (self.particles, 1), "sampled": (self.sampled, ()),
            "exact": (self.exact, ()), "free_bits": (self._free, None),
        }  # fmt: skip
        changed = [f"{k}={v!r}" for k, (v, default) in values.items() if v not in (default, {"z": default})]
        return f"ELBO({', '.join(changed)})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        q, p = traces(model, guide, x, y, size, self.particles, self.exact)
        return self.at(q, p, x, size)

    def at(self, q: poutine.Trace, p: poutine.Trace, x: Tensor, size: int | None = None) -> Loss:
        """The loss of two traces, for an objective that has more to say about them."""
        self._known([name for name, site in q.nodes.items() if site["type"] == "sample"])
        per_datum = 1.0 / ((size or len(x)) * self.particles)
        terms, bound = {}, torch.zeros((), dtype=x.dtype, device=x.device)
        drawn = {*self.sampled, *self.exact, *turned(q, p)}
        for name, site in p.nodes.items():
            if site["type"] != "sample" or (site["infer"] or {}).get("_deterministic"):
                continue
            exact = name in self.exact
            term = site_term(name, site, q.nodes.get(name), name in drawn, exact).sum() * per_datum
            bound = bound - term.detach()
            if name in q.nodes and not exact:
                term = self._weighted(name, self._floored(term, site, q.nodes[name], per_datum, name in drawn))
            terms[name] = term
        return Loss(torch.stack(list(terms.values())).sum(), terms, bound)

    def _known(self, sites: list[str]) -> None:
        """A site that is named and not there would silently be treated like any other."""
        given = self._given if isinstance(self._given, Mapping) else {}
        for name, named in (("exact", self.exact), ("beta", tuple(given))):
            for site in named:
                if site not in sites:
                    raise InputError(f"{name} names the site {site!r}, which the guide does not sample: it has {sites}")

    def _floored(self, term: Tensor, p_site: Any, q_site: Any, per_datum: float, sampled: bool) -> Tensor:
        """Let no entry of a code cost less than its free bits, and no site whose term is sampled as a whole."""
        if self._free is None:
            return term
        entries = term.reshape(1)
        try:
            kl = kl_divergence(q_site["fn"].base_dist, p_site["fn"].base_dist)
            mask = p_site["mask"][..., None] if isinstance(p_site["mask"], Tensor) else p_site["mask"]
            if not sampled and kl.shape == q_site["value"].shape:
                entries = scale_and_mask(kl, p_site["scale"], mask).flatten(0, -2).sum(0) * per_datum
        except (AttributeError, NotImplementedError):
            pass  # no closed form entry by entry
        entries = average(entries)
        free = self.free_bits.to(term.dtype) * (q_site["value"].shape[-1] / entries.shape[-1])
        return torch.maximum(entries, free).sum()

    def _weighted(self, site: str, term: Tensor) -> Tensor:
        beta = self.beta.get(site) if isinstance(self.beta, Settings) else self.beta
        return term if beta is None else term * beta.to(term.dtype)


def traces(
    model, guide, x, y, size, particles: int, constant: Sequence[str] = ()
) -> tuple[poutine.Trace, poutine.Trace]:
    """Run the guide, and the model at the guide's draws.

    Args:
        particles: draws per datum, along dimension -2, left of the data plate.
        constant: sites whose draw is cut from the parameters it was drawn with.
    """
    # Outside of the particles, whose plate shapes the draw.
    with _Constant(constant):
        q = trace_of(guide, x, y, size, particles)
    return q, trace_of(model, x, y, size, particles, at=q)


def trace_of(program, x, y, size, particles: int, at: poutine.Trace | None = None) -> poutine.Trace:
    """Run one program on a batch, with the draws of another trace where it has them."""
    if particles > 1:
        program = pyro.plate("particles", particles, dim=-2)(program)
    if at is not None:
        program = poutine.replay(program, trace=at)
    return prune_subsample_sites(poutine.trace(program).get_trace(x, y, size=size))


def turned(q: poutine.Trace, p: poutine.Trace) -> list[str]:
    r"""Name the latent sites that the guide draws before a site that the model draws earlier.

    For such a site the divergence at one draw of the others is not the bound's term: in
    :math:`q(z_1 | x) q(z_2 | z_1)` the expectation of :math:`\log q(z_1 | x) - \log p(z_1 | z_2)` is over both at
    once, and :math:`\mathrm{KL}[q(z_1 | x) \| p(z_1 | z_2)]` at a z_2 that came from z_1 is something else.

    >>> from pyro_vaes.variants import iwae_2
    >>> turned(*iwae_2(data_dim=4).traces())
    ['z_1']
    """
    order = {name: i for i, name in enumerate(q.nodes)}
    found, latest = [], -1
    for name in p.nodes:
        if name in order and p.nodes[name]["type"] == "sample":
            if order[name] < latest:
                found.append(name)
            latest = max(latest, order[name])
    return found


def sampled_sites(trace: poutine.Trace) -> list[tuple[str, Any]]:
    """The sites that have a density: not those that only record a value.

    >>> from pyro_vaes.variants import l2_vae
    >>> [name for name, _ in sampled_sites(l2_vae(4, 2, (3,)).traces()[1])]
    ['z', 'x']
    """
    return [
        (name, site)
        for name, site in cast(dict[str, Any], trace.nodes).items()
        if site["type"] == "sample" and not site["infer"].get("_deterministic")
    ]


def log_prob(site: Any) -> Tensor:
    """The log-density of a site per particle and datum: masked, and without any scale."""
    return scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])


class _Constant(Messenger):
    """Cut the gradient of a draw from the parameters it was drawn with."""

    def __init__(self, sites: Sequence[str]):
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg):
        if msg["name"] in self.sites and msg["value"] is None:
            msg["value"], msg["done"] = msg["fn"](*msg["args"], **msg["kwargs"]).detach(), True


def site_term(name: str, p_site: Any, q_site: Any, sampled: bool, exact: bool) -> Tensor:
    """One site's cost, scaled and masked by its plates: KL for a latent site, -log p for an observed one."""
    p_fn = p_site["fn"]
    if q_site is None:
        if not p_site["is_observed"]:
            raise InputError(f"the model samples site {name!r}, which the guide lacks")
        return scale_and_mask(-p_fn.log_prob(p_site["value"]), p_site["scale"], p_site["mask"])
    q_fn = q_site["fn"]
    if not (exact or q_fn.has_rsample):
        raise InputError(
            f"site {name!r} cannot be reparameterised ({type(q_fn).__name__}): use Stock(TraceGraph_ELBO())"
        )
    # Pyro registers KL(Delta || p) = -log p without the Delta's own log-density, which we need.
    is_point = isinstance(getattr(q_fn, "base_dist", q_fn), pyro.distributions.Delta)
    cost = None
    if not (sampled or is_point):
        try:
            cost = kl_divergence(q_fn, p_fn)
        except NotImplementedError:
            cost = None
    if cost is None:
        cost = q_fn.log_prob(q_site["value"]) - p_fn.log_prob(q_site["value"])
    return scale_and_mask(cost, p_site["scale"], p_site["mask"])
