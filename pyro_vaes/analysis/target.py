"""What an audit looks at: the posterior of a pair's code, as the model has it and as the guide has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vaes.distributions import Jeffreys
from pyro_vaes.errors import InputError
from pyro_vaes.inference.densities import (
    Values,
    check_plate,
    exact_sites,
    family,
    rehearsed,
    run,
    seed_at,
    total,
)
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.objective import sampled_sites
from pyro_vaes.inference.posterior import codes_at_mean, recorded
from pyro_vaes.inference.real_line import RealLine, support_of
from pyro_vaes.pair import Pair


class Sites(NamedTuple):
    """The latent sites of a pair, by what the guide makes of them.

    Attributes:
        code: sites that the guide draws, in the model's order: the code whose posterior is audited.
        points: sites that the guide puts on a point given the code, such as the outlier s = x - mu(z): they are
            profiled out, at that point.
        exact: sites whose q is their posterior given the others, such as the precisions of a Student t: they are
            integrated out.
        discrete: sites of the code that are classes or switches: no gradient moves them.
        point_mass: whether the guide puts a point on the code itself, and has no density there.
        normalised: whether p is a density. If not (a Jeffreys prior, a factor), log p(x) is known up to a constant per
            datum; posteriors, weights, k-hat and gaps are what they are.
    """

    code: dict[str, tuple[int, ...]]
    points: tuple[str, ...]
    exact: tuple[str, ...]
    discrete: tuple[str, ...]
    point_mass: bool
    normalised: bool


@dataclass(frozen=True)
class Drawn:
    """Draws of the guide, or of a chain, with what model and guide say of them.

    Attributes:
        values: site -> (S, B, ...), all latent sites, in the model's order.
        prior, data, guide: log p(code), log p(x | code) and log q(code | x), each (S, B), float64, in nats, with exact
            sites integrated out and points profiled out. ``guide`` is 0 where the guide is a point mass.
        mean: (S, B, d), the clean datum: the site ``mu`` where the model records one, else the likelihood's mean.
        scale: (S, B, d), an ordinary residual: the site ``scale``, else the likelihood's standard deviation.
    """

    values: Values
    prior: Tensor
    data: Tensor
    guide: Tensor
    mean: Tensor
    scale: Tensor

    @property
    def log_weights(self) -> Tensor:
        """log p(x, code) - log q(code | x), (S, B), float64."""
        return self.prior + self.data - self.guide


def look(pair: Pair, x: Tensor, y: Tensor | None = None) -> Sites:
    """Sort a pair's latent sites, without changing anything.

    Args:
        x: data that have been checked, (N, d). y: conditions as the pair takes them, (N, c), or None.

    Raises:
        InputError: for a pair without a latent site, or with one that all data share.

    >>> import torch
    >>> from pyro_vaes.variants import ic_vae
    >>> found = look(ic_vae(4, 2, (5,)), torch.rand(3, 4))
    >>> found.code, found.points, found.normalised
    ({'z': (2,)}, ('s',), False)
    """
    p, q = rehearsed(pair, x, y)
    check_plate(p, q)
    exact = tuple(name for name in exact_sites(pair) if name in q)
    deltas = [n for n, site in q.items() if n not in exact and isinstance(family(site), pyro.distributions.Delta)]
    drawn = [name for name in q if name not in exact and name not in deltas]
    # A guide of points only has one on the code itself; beside a drawn code, they follow from it.
    points = deltas if drawn else [n for n in deltas if isinstance(family(p[n]), Jeffreys)]
    code = [name for name in p if name in q and name not in exact and name not in points]
    if not code:
        raise InputError(f"{pair.name} has no code: there is no posterior to look at")
    improper = any(isinstance(family(s), Jeffreys) or type(family(s)).__name__ == "Unit" for s in p.values())
    return Sites(
        {name: tuple(p[name]["fn"].event_shape) for name in code},
        tuple(points),
        exact,
        tuple(name for name in code if support_of(p[name]).is_discrete),
        not drawn,
        not improper,
    )


class Target:
    r"""The posterior of a batch's code, :math:`p(z | x) \propto p(z) p(x | z)`, beside its guide, :math:`q(z | x)`.

    A state (R, B, k) holds the sites of the code one after the other, on the whole real line (see
    :class:`~pyro_vaes.inference.real_line.RealLine`). Call it inside of
    :func:`~pyro_vaes.inference.densities.quietly`, or use :func:`target`.

    Args:
        pair: with its modules in eval mode. x: (B, d), floats that have been checked. y: (B, c) as the pair takes it.
        sites: what :func:`look` found.
    """

    def __init__(self, pair: Pair, x: Tensor, y: Tensor | None, sites: Sites):
        self.pair, self.x, self.y, self.sites = pair, x, y, sites
        p, _ = rehearsed(pair, x, y)
        self.line = RealLine({name: p[name] for name in sites.code if name not in sites.discrete})

    def draw(self, draws: int, where: tuple[int, ...]) -> Drawn:
        """Draw from the guide, ``draws`` per datum; the random state is seeded at ``where``."""
        seed_at(*where)
        return self._at(run(self.pair.guide, self.x, self.y, draws, {}), draws)

    def at(self, values: Mapping[str, Tensor], guide: bool = True) -> Drawn:
        """Score given codes (S, B, ...), from a chain, say.

        Args:
            guide: False leaves log q out, for guides that can score their own draws only (most flows).

        Raises:
            NotImplementedError, KeyError: for such a guide.
        """
        draws = len(next(iter(values.values())))
        if not guide and not (self.sites.points or self.sites.exact):
            return self._at({name: {"value": v} for name, v in values.items()}, draws, scored=False)
        return self._at(run(self.pair.guide, self.x, self.y, draws, values), draws, scored=guide)

    def log_joint(self, state: Tensor) -> Tensor:
        """log p(x, code) as a density of states (R, B, k) on the real line; (R, B), float64, differentiable."""
        values, jacobian = self.line.values(state)
        found = self.at(values, guide=False)
        return found.prior + found.data + jacobian

    def log_guide(self, state: Tensor) -> Tensor:
        """log q(code | x) as a density of states (R, B, k) on the real line; (R, B), float64, differentiable."""
        values, jacobian = self.line.values(state)
        return total(run(self.pair.guide, self.x, self.y, len(state), values), self.sites.code, len(state), self.x) + (
            jacobian
        )

    def start(self) -> Tensor:
        """The guide's mean code, (1, B, k)."""
        means = codes_at_mean(self.pair, self.x, self.y)
        return self.line.state({name: means[name][None] for name in self.line.shapes})

    def generated(self, state: Tensor) -> Tensor:
        """The clean data of states, (R, B, d)."""
        return self.at(self.line.values(state)[0], guide=False).mean

    def only(self, rows: slice) -> "Target":
        """The target of some rows of the batch."""
        return Target(self.pair, self.x[rows], None if self.y is None else self.y[rows], self.sites)

    def _at(self, q: Mapping[str, Any], draws: int, scored: bool = True) -> Drawn:
        # An exact draw is a constant: log p(x, w | z) - log q(w | z, x) is log p(x | z) for every w. A point is not: it
        # moves with the code.
        given = {n: s["value"].detach() if n in self.sites.exact else s["value"] for n, s in q.items()}
        program = pyro.plate("particles", draws, dim=-2)(poutine.condition(self.pair.model, given))
        trace = prune_subsample_sites(poutine.trace(program).get_trace(self.x, self.y))
        p = dict(sampled_sites(trace))
        beside = {n: {**q[n], "value": given[n]} for n in (*self.sites.exact, *self.sites.points)}
        data = [name for name in p if name not in self.sites.code]
        guide = [] if self.sites.point_mass or not scored else self.sites.code
        shape = (draws, *self.x.shape)
        mean, scale = recorded(trace, "mu", "mean"), recorded(trace, "scale", "stddev")
        return Drawn(
            {name: given[name] for name in p if name in given},
            total(p, self.sites.code, draws, self.x),
            total(p, data, draws, self.x) - total(beside, beside, draws, self.x),
            total(q, guide, draws, self.x),
            mean.expand(shape),
            scale.expand(shape),
        )


def target(pair: Pair, x: Tensor, y: Tensor | None = None, *, continuous: bool = False) -> Target:
    """Check pair and data, and give the target of all of them as one batch.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. y: conditions, labels (N,) or (N, c), of a conditional pair.
        continuous: refuse discrete codes, which no gradient moves.

    Raises:
        InputError: for bad data, or a pair that cannot be looked at.

    >>> import torch
    >>> from pyro_vaes.inference.densities import quietly
    >>> from pyro_vaes.variants import l2_vae
    >>> pair = l2_vae(4, 2, (5,))
    >>> with quietly(pair):
    ...     drawn = target(pair, torch.rand(3, 4)).draw(10, (0,))
    >>> drawn.log_weights.shape, drawn.mean.shape
    (torch.Size([10, 3]), torch.Size([10, 3, 4]))
    """
    check_data(pair, x)
    y = check_condition(pair, x, y)
    sites = look(pair, x, y)
    if continuous and sites.discrete:
        hint = ": give y, the label of every datum" if pair.partial and y is not None else ""
        raise InputError(f"site {sites.discrete[0]!r} of {pair.name} is discrete, and no gradient moves it{hint}")
    return Target(pair, as_batch(x), y, sites)
