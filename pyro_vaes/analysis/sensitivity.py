"""Prior sensitivity by power-scaling: what a stronger or weaker prior would make of the posterior."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vaes.analysis.finding import Finding
from pyro_vaes.analysis.simulate import rows_at_once
from pyro_vaes.analysis.target import Drawn, Sites, Target, look
from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.inference.densities import quietly
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.pareto import FEWEST, smoothed
from pyro_vaes.pair import Pair

# Of the source: about the change of a standard normal whose mean moves by 0.3 standard deviations per doubling. And
# the k-hat above which weights are not to be trusted (Vehtari et al. 2024).
SENSITIVE, TRUSTED = 0.05, 0.7
# An entry whose posterior mean takes less than this share of its variance over the data says nothing of them.
IDLE = 0.02
QUESTION = "would another strength of the prior give another posterior?"


class Change(NamedTuple):
    """What scaling one part of the model does to each entry of the code, each (N, K).

    Attributes:
        distance: power-scaling sensitivity, the cumulative Jensen-Shannon distance from the posterior per doubling.
        mean, sd: change of the posterior mean and standard deviation per doubling, in the units of the code.
    """

    distance: Tensor
    mean: Tensor
    sd: Tensor


@dataclass(frozen=True)
class Sensitivity:
    """How posteriors of data answer to the strength of prior and likelihood.

    Attributes:
        pair: its name. names: of the K entries of the code.
        mean, sd: of the posterior, by smoothed weights, (N, K).
        prior, likelihood: the :class:`Change` where p(code)^alpha, or p(x | code)^alpha, takes the place of alpha = 1.
        khat: (N,), of the weights, the largest of those at all alphas: above 0.7 the row is not to be trusted.
        ess: (N,), effective draws, 1 / sum of squared weights.
    """

    pair: str
    names: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    prior: Change
    likelihood: Change
    khat: Tensor
    ess: Tensor

    @property
    def trusted(self) -> Tensor:
        """Rows whose weights can be trusted, (N,)."""
        return self.khat < TRUSTED

    @property
    def conflict(self) -> Tensor:
        """Entries that prior and likelihood both move: they may disagree, (N, K)."""
        return (self.prior.distance >= SENSITIVE) & (self.likelihood.distance >= SENSITIVE)

    @property
    def weak(self) -> Tensor:
        """Entries that the prior moves and the likelihood does not: the data say little of them, (N, K)."""
        return (self.prior.distance >= SENSITIVE) & (self.likelihood.distance < SENSITIVE)

    @property
    def idle(self) -> Tensor:
        """Entries that are the prior itself for all data, (K,).

        Their posterior means vary over trusted data by less than 2 % of their whole variance, once the variance that
        drawing leaves in a mean, sd^2 / ess, is taken off. One datum alone cannot show it: then none is.
        """
        rows = self.trusted
        if int(rows.sum()) < 2:
            return torch.zeros(len(self.names), dtype=torch.bool)
        within = self.sd[rows].square()
        between = self.mean[rows].var(0) - (within / self.ess[rows, None]).mean(0)
        return between < IDLE * (between + within.mean(0))

    def finding(self) -> Finding:
        """Say which dimensions the prior decides.

        Of each entry the middle datum counts, among those with k-hat below 0.7; ``not tested`` where these are fewer
        than half. ``caution`` if a prior of another strength moves an entry by 0.05 or more, be it because prior and
        data disagree or because the data say little; else ``good``. An :attr:`idle` entry (a pruned dimension) is the
        prior itself: named, and no fault, unless all are. Sensitivity is no error, so that nothing is ``bad``.
        """
        trusted = self.trusted
        share = float(trusted.double().mean())
        numbers: dict[str, Any] = {"data": len(trusted), "share with k-hat < 0.7": share}
        if share < 0.5:
            said = f"k-hat is above 0.7 for {100 * (1 - share):.0f} % of the data: weights of this guide cannot tell"
            return Finding("prior sensitivity", QUESTION, "not tested", said, numbers)
        prior = self.prior.distance[trusted].median(0).values
        likelihood = self.likelihood.distance[trusted].median(0).values
        idle = self.idle
        moved = ~idle & (prior >= SENSITIVE)
        numbers |= {
            "prior moves": [self.names[j] for j in moved.nonzero().flatten().tolist()],
            "pruned": [self.names[j] for j in idle.nonzero().flatten().tolist()],
            "prior": float(prior.max()), "likelihood": float(likelihood.max()),
            "share in conflict": float(self.conflict[trusted].double().mean()),
            "share all prior": float(self.weak[trusted].double().mean()),
        }  # fmt: skip
        pruned = f"; {int(idle.sum())} of {len(self.names)} dimensions are the prior itself" if bool(idle.any()) else ""
        if bool(idle.all()):
            said = "no dimension is moved by the data: the posterior is the prior, there is nothing to learn from codes"
            return Finding("prior sensitivity", QUESTION, "caution", said, numbers)
        if not bool(moved.any()):
            most = float(prior[~idle].max())
            said = f"the data decide: the prior's strength moves no dimension by 0.05 (at most {most:.3f}){pruned}"
            return Finding("prior sensitivity", QUESTION, "good", said, numbers)
        worst = int(torch.where(moved, prior, -1.0).argmax())
        shift = (self.prior.mean[trusted, worst].abs() / self.sd[trusted, worst]).median()
        said = (
            f"the prior pulls at {int(moved.sum())} of {len(self.names)} dimensions; a prior twice as strong moves the "
            f"mean of {self.names[worst]} by {float(shift):.2f} posterior standard deviations{pruned}"
        )
        return Finding("prior sensitivity", QUESTION, "caution", said, numbers)


def power_scaling(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 1000,
    step: float = 0.01,
    batch_size: int = 64,
    seed: int = 0,
) -> Sensitivity:
    r"""Scale the prior, and then the likelihood, by a power near one, and see how far each posterior moves.

    .. math:: w_\alpha(z) \propto \frac{p(z)^\alpha p(x | z)}{q(z | x)}, \qquad
              D = \frac{1}{2} \sum_\pm \frac{\mathrm{CJS}(p_1, p_{1 \pm h})}{|\log_2 (1 \pm h)|}

    Weights are Pareto-smoothed at alpha = 1 and multiplied by p^(alpha - 1), which is within a few parts in a hundred
    of one: smoothing at each alpha anew would put its own jumps, divided by h, into the derivative. k-hat is that of
    the weights at alpha, the largest of all. The derivatives of mean and standard deviation are exact for the weighted
    draws, d E[z] / d log2 alpha = log 2 Cov(z, log p).

    Args:
        x: (N, d). y: conditions. draws: of the guide per datum, at least 25. step: h, in (0, 0.5).
        batch_size: data at a time. seed: of the draws.

    Raises:
        InputError: for bad data, a guide that puts a point mass on the code, a code of classes alone, or arguments out
            of range.

    Source: Kallioinen, Paananen, Buerkner & Vehtari (2024), 2.2-2.4; they reweight draws of the posterior itself,
    ours come from the guide and carry its weights too.

    >>> from pyro_vaes.variants import l2_vae
    >>> found = power_scaling(l2_vae(4, 2, (5,)), torch.rand(3, 4), draws=200)
    >>> found.prior.distance.shape, found.names
    (torch.Size([3, 2]), ('z[0]', 'z[1]'))
    """
    whole("draws", draws, low=FEWEST), whole("batch_size", batch_size), whole("seed", seed, low=0)
    if not number("step", step, open_low=True) < 0.5:
        raise InputError(f"step is {step}: it must be below 0.5")
    check_data(pair, x)
    y = check_condition(pair, x, y)
    sites = look(pair, x, y)
    check_weights(pair, sites)
    names = _names(sites)
    if not names:
        raise InputError(f"the code of {pair.name} is classes alone: it has no mean that a prior could move")
    rows, parts = rows_at_once(batch_size, draws, x.shape[1]), []
    for start in range(0, len(x), rows):
        with quietly(pair):
            some = slice(start, start + rows)
            target = Target(pair, as_batch(x[some]), None if y is None else y[some], sites)
            parts.append(_batch(target.draw(draws, (seed, start)), sites, step))
    means, sds, priors, likelihoods, khats, sizes = zip(*parts, strict=True)
    return Sensitivity(
        pair.name,
        names,
        torch.cat(means),
        torch.cat(sds),
        _joined(priors),
        _joined(likelihoods),
        torch.cat(khats),
        torch.cat(sizes),
    )


def _joined(changes: Sequence[Change]) -> Change:
    return Change(*(torch.cat(c) for c in zip(*changes, strict=True)))


def check_weights(pair: Pair, sites: Sites) -> None:
    """Refuse a guide that has no importance weights."""
    if sites.point_mass:
        raise InputError(f"the guide of {pair.name} puts a point mass on the code: it has no importance weights")


def _names(sites: Sites) -> tuple[str, ...]:
    shapes = {name: torch.Size(s) for name, s in sites.code.items() if name not in sites.discrete}
    return tuple(f"{n}[{j}]" if s else n for n, s in shapes.items() for j in range(s.numel()))


def _batch(drawn: Drawn, sites: Sites, step: float) -> tuple[Tensor, Tensor, Change, Change, Tensor, Tensor]:
    flat = [drawn.values[n].flatten(2) if sites.code[n] else drawn.values[n][..., None] for n in sites.code
            if n not in sites.discrete]  # fmt: skip
    z = torch.cat(flat, -1).double().cpu()
    log_w, prior, data = (t.T.cpu() for t in (drawn.log_weights, drawn.prior, drawn.data))
    smooth, khat = smoothed(log_w)
    weights = smooth.exp().T
    mean = (weights[..., None] * z).sum(0)
    sd = (weights[..., None] * (z - mean).square()).sum(0).sqrt()
    changes = []
    for part in (prior, data):
        khat = torch.maximum(khat, torch.maximum(*(smoothed(log_w + h * part)[1] for h in (-step, step))))
        changes.append(_change(z, smooth.T, part.T, mean, sd, step))
    return mean, sd, changes[0], changes[1], khat, 1 / weights.square().sum(0)


def _change(z: Tensor, smooth: Tensor, part: Tensor, mean: Tensor, sd: Tensor, step: float) -> Change:
    weights = smooth.exp()
    away = (weights * (part - (weights * part).sum(0)))[..., None]
    moved = math.log(2) * (away * (z - mean)).sum(0)
    widened = math.log(2) * (away * (z - mean).square()).sum(0) / (2 * sd)
    order = z.argsort(0)
    ordered, base = z.gather(0, order), _along(weights, order)
    distance = torch.zeros_like(mean)
    for h in (-step, step):
        scaled = (smooth + h * part).softmax(0)
        distance += cumulative_jensen_shannon(ordered, base, _along(scaled, order)) / abs(math.log2(1 + h)) / 2
    return Change(distance, moved, widened)


def _along(weights: Tensor, order: Tensor) -> Tensor:
    """Weights (S, B) in the order of each entry, (S, B, K)."""
    return weights[..., None].expand(order.shape).gather(0, order)


def cumulative_jensen_shannon(z: Tensor, p: Tensor, q: Tensor) -> Tensor:
    r"""The distance of two weighted samples on the same points, in [0, 1].

    .. math:: \mathrm{CJS}^2(P \| Q) = \frac{1}{\int P + Q} \Big[ \int P \log_2 \frac{2 P}{P + Q}
              + \int Q \log_2 \frac{2 Q}{P + Q} \Big]

    with P, Q the distribution functions; the larger one of z and -z is taken, as the measure is not symmetric.

    Args:
        z: (S, ...), sorted along the first dimension. p, q: their weights, which sum to one along it.

    Source: Nguyen & Vreeken (2015); Kallioinen et al. (2024), 2.3. As ArviZ has it for equal p.

    >>> z, even = torch.arange(4.0).double(), torch.full((4,), 0.25).double()
    >>> bool(cumulative_jensen_shannon(z, even, even) == 0)
    True
    """
    width = z.diff(dim=0)
    below, beneath = p.cumsum(0)[:-1].clamp(0, 1), q.cumsum(0)[:-1].clamp(0, 1)
    return torch.maximum(_one_way(width, below, beneath), _one_way(width, 1 - below, 1 - beneath))


def _one_way(width: Tensor, below: Tensor, beneath: Tensor) -> Tensor:
    middle = (below + beneath) / 2

    def part(a: Tensor) -> Tensor:
        return (width * (torch.special.xlogy(a, a) - torch.special.xlogy(a, middle))).sum(0)

    bound = (width * (below + beneath)).sum(0)
    found = (part(below) + part(beneath)).clamp(min=0) / math.log(2)
    return torch.where(bound > 0, found / bound, 0.0).sqrt()
