"""Outliers with uncertainty: the posterior of s = x - mu(z), entry by entry."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vaes.analysis.sensitivity import TRUSTED, check_weights
from pyro_vaes.analysis.simulate import rows_at_once
from pyro_vaes.analysis.target import Drawn, Sites, Target, look
from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.densities import family, quietly, run, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.outliers import TwoParts, log_clean, two_parts
from pyro_vaes.inference.pareto import FEWEST, smoothed
from pyro_vaes.pair import Pair

# Draws per datum that the reader of residuals is fitted to; all of them are read.
READ = 8
QUESTION = "where are the outliers, and how sure is that?"


class Moments(NamedTuple):
    """What draws say of every entry, each (N, d).

    Attributes:
        mean, sd, low, high: of s = x - mu(z), in the units of x; low and high end the central interval.
        clean_low, clean_high: the same interval of the clean value itself, mu(z) plus an ordinary residual.
        exceeds: probability that |s| is above ``threshold`` ordinary residuals.
        outlier: probability of being an outlier, as :func:`~pyro_vaes.inference.outliers.outlier_probability` has it.
    """

    mean: Tensor
    sd: Tensor
    low: Tensor
    high: Tensor
    clean_low: Tensor
    clean_high: Tensor
    exceeds: Tensor
    outlier: Tensor


@dataclass(frozen=True)
class OutlierPosterior:
    """The posterior of every entry's outlier, by the guide's draws and by its reweighted ones.

    Attributes:
        pair: its name. level: of the intervals. draws: of the guide per datum.
        guide: :class:`Moments` of the guide's draws. weighted: of the same draws, with smoothed importance weights;
            rows with k-hat above 0.7 are those of the guide.
        khat: (N,).
        clean: (N, d), the posterior mean of mu(z), weighted.
    """

    pair: str
    level: float
    draws: int
    guide: Moments
    weighted: Moments
    khat: Tensor
    clean: Tensor

    def finding(self) -> Finding:
        """Say whether the guide's uncertainty about outliers is that of the posterior.

        ``not tested`` where k-hat is above 0.7 for half of the data or more. Else the middle of sd(weighted) /
        sd(guide) over entries counts: ``good`` within 0.8 and 1.25, ``caution`` beyond, ``bad`` beyond 0.5 and 2, where
        an interval has another meaning.
        """
        trusted = self.khat < TRUSTED
        numbers: dict[str, Any] = {"data": len(trusted), "share with k-hat < 0.7": float(trusted.double().mean())}
        if float(trusted.double().mean()) <= 0.5:
            said = (
                f"k-hat is above 0.7 for {int((~trusted).sum())} of {len(trusted)} data: weights cannot say how sure "
                "outliers are; the guide's probabilities stand unaudited"
            )
            return Finding("outliers", QUESTION, "not tested", said, numbers)
        ratio = (self.weighted.sd[trusted] / self.guide.sd[trusted].clamp(min=1e-300)).median()
        flipped = ((self.weighted.outlier > 0.5) != (self.guide.outlier > 0.5))[trusted].double().mean()
        numbers |= {"sd, weighted / guide": float(ratio), "flags that change": float(flipped)}
        verdict = "good" if 0.8 <= ratio <= 1.25 else "caution" if 0.5 <= ratio <= 2 else "bad"
        end = "intervals of the guide can be used" if verdict == "good" else "use the weighted intervals"
        said = (
            f"weights make the spread of s {float(ratio):.2f} times the guide's and change "
            f"{100 * float(flipped):.1f} % of the flags: {end}"
        )
        return Finding("outliers", QUESTION, verdict, said, numbers)


def outlier_posterior(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 200,
    threshold: float = 2.0,
    level: float = 0.9,
    batch_size: int = 64,
    seed: int = 0,
) -> OutlierPosterior:
    r"""Give mean, spread, interval and probability of the outlier s of every entry.

    .. math:: s = x - \mu(z), \qquad z \sim q(z \mid x) \text{ with weights } p(z)\, p(x \mid z) / q(z \mid x)

    The probability of being an outlier is the model's own where it has one (``rvae``: 1 - pi), given each code and
    averaged; elsewhere residuals in ordinary units are read as a narrow and a broad Gaussian, fitted once to all
    entries together, as in :func:`~pyro_vaes.inference.outliers.clean_log_probability`. Beside it stands the share of
    draws in which |s| exceeds ``threshold`` ordinary residuals, as in :func:`~pyro_vaes.inference.posterior.clean`.

    One pass of the guide, for recurrent variants too: what comes out of several passes is no draw of a posterior. The
    clean value's interval adds a Gaussian residual of the recorded ``scale`` to mu(z); where the model's residual has
    heavier tails, it is too narrow for ordinary entries and right for those that are outliers.

    Args:
        x: (N, d), real. y: conditions. draws: at least 25. threshold: in ordinary residuals. level: of the intervals.
        batch_size: data at a time. seed: of the draws.

    Raises:
        InputError: for bad data, data that are 0 or 1, a guide that puts a point mass on the code, or arguments out of
            range.

    Source: ours.

    >>> from pyro_vaes.variants import t_vae
    >>> found = outlier_posterior(t_vae(4, 2, (5,)), torch.rand(3, 4), draws=50)
    >>> found.weighted.outlier.shape, bool((found.weighted.low <= found.weighted.high).all())
    (torch.Size([3, 4]), True)
    """
    whole("draws", draws, low=FEWEST), whole("batch_size", batch_size), whole("seed", seed, low=0)
    number("threshold", threshold, open_low=True)
    if not 0 < number("level", level) < 1:
        raise InputError(f"level is {level}: it must lie between 0 and 1")
    check_data(pair, x)
    y = check_condition(pair, x, y)
    support: Any = pair.traces()[1].nodes["x"]["fn"].support
    if getattr(support, "base_constraint", support) is constraints.boolean:
        raise InputError(f"the data of {pair.name} are 0 or 1: a residual of them has no size, and no outlier")
    sites = look(pair, x, y)
    check_weights(pair, sites)
    ask = _Ask(draws, threshold, level, rows_at_once(batch_size, 4 * draws, x.shape[1]), seed)
    parts = None if _knows(pair, x, y) else _reader(pair, x, y, sites, ask)
    found = [_batch(target, start, ask, parts) for start, target in _targets(pair, x, y, sites, ask.rows)]
    guide, weighted = (Moments(*(torch.cat(c) for c in zip(*(f[i] for f in found), strict=True))) for i in (0, 1))
    khat = torch.cat([f[2] for f in found])
    return OutlierPosterior(pair.name, level, draws, guide, weighted, khat, as_batch(x).double().cpu() - weighted.mean)


class _Ask(NamedTuple):
    draws: int
    threshold: float
    level: float
    rows: int
    seed: int


def _targets(pair: Pair, x: Tensor, y: Tensor | None, sites: Sites, rows: int) -> Iterator[tuple[int, Target]]:
    for start in range(0, len(x), rows):
        some = slice(start, start + rows)
        with quietly(pair):
            yield start, Target(pair, as_batch(x[some]), None if y is None else y[some], sites)


def _knows(pair: Pair, x: Tensor, y: Tensor | None) -> bool:
    """Whether the guide has a switch for every entry."""
    with quietly(pair):
        site = run(pair.guide, as_batch(x[:1]), None if y is None else y[:1], 1, {}).get("w")
    return site is not None and isinstance(family(site), dist.Bernoulli)


def _reader(pair: Pair, x: Tensor, y: Tensor | None, sites: Sites, ask: _Ask) -> TwoParts:
    """The reader of residuals, fitted to a few draws of every datum."""
    residuals = []
    for start, target in _targets(pair, x, y, sites, ask.rows):
        drawn = target.draw(READ, (ask.seed, start, 1))
        residuals.append((target.x - drawn.mean).double() / drawn.scale)
    return two_parts(torch.cat(residuals, 1).cpu())


def _batch(target: Target, start: int, ask: _Ask, parts: TwoParts | None) -> tuple[Moments, Moments, Tensor]:
    drawn = target.draw(ask.draws, (ask.seed, start, 0))
    smooth, khat = smoothed(drawn.log_weights.T)
    even = torch.full_like(smooth, 1 / ask.draws)
    # Where weights cannot be trusted, those of the guide are the better ones.
    weights = torch.where((khat < TRUSTED)[:, None], smooth.exp(), even)
    s, scale = (target.x - drawn.mean).cpu(), drawn.scale.cpu()
    seed_at(ask.seed, start, 2)
    clean = drawn.mean.cpu() + scale * torch.randn_like(s)
    s, exceeds = s.double(), (s.abs() > ask.threshold * scale).double()
    outlier = -torch.expm1((log_clean(s / scale, parts) if parts else _log_pi(target, drawn)).clamp(max=0.0))
    both = [_moments(s, w.T, exceeds, outlier) for w in (even, weights)]
    ends = ((1 - ask.level) / 2, (1 + ask.level) / 2)
    of_s, of_clean = ([*_by(values.to(clean.dtype), even.T, weights.T, ends)] for values in (s, clean))
    guide, weighted = (
        Moments(*m[:2], *q, *c, *m[2:]) for m, q, c in zip(both, of_s, of_clean, strict=True)
    )  # fmt: skip
    return guide, weighted, khat


def _log_pi(target: Target, drawn: Drawn) -> Tensor:
    code = {name: drawn.values[name] for name in target.sites.code}
    site = family(run(target.pair.guide, target.x, target.y, len(drawn.prior), code)["w"])
    return torch.nn.functional.logsigmoid(site.logits.double()).cpu()


def _moments(s: Tensor, weights: Tensor, exceeds: Tensor, outlier: Tensor) -> list[Tensor]:
    """Mean, sd and the two probabilities of draws (S, B, d) with weights (S, B)."""
    mean = torch.einsum("sb,sbd->bd", weights, s)
    sd = torch.einsum("sb,sbd->bd", weights, (s - mean).square()).sqrt()
    return [mean, sd, *(torch.einsum("sb,sbd->bd", weights, a).clamp(0, 1) for a in (exceeds, outlier))]


def _by(values: Tensor, even: Tensor, weights: Tensor, at: tuple[float, ...]) -> Iterator[list[Tensor]]:
    """Quantiles by each of two weights: sorting takes the time, and is done once."""
    ordered, order = values.permute(1, 2, 0).contiguous().sort(-1)
    for w in (even, weights):
        yield _at_shares(ordered, w.T[:, None].expand(order.shape).gather(-1, order), at)


def quantiles(values: Tensor, weights: Tensor, at: tuple[float, ...]) -> list[Tensor]:
    """Quantiles of weighted draws: values (S, B, d), weights (S, B) that sum to one; each (B, d).

    The smallest value whose weight and that of all below reach the share.

    >>> [q.item() for q in quantiles(torch.arange(10.0).reshape(10, 1, 1), torch.full((10, 1), 0.1), (0.45, 0.95))]
    [4.0, 9.0]
    """
    ordered, order = values.permute(1, 2, 0).sort(-1)
    return _at_shares(ordered, weights.T[:, None].expand(order.shape).gather(-1, order), at)


def _at_shares(ordered: Tensor, weights: Tensor, at: tuple[float, ...]) -> list[Tensor]:
    reached = weights.cumsum(-1)
    found = []
    for share in at:
        # Sums of weights end a rounding error below what they should.
        place = (reached < share - 1e-9).sum(-1, keepdim=True).clamp(max=ordered.shape[-1] - 1)
        found.append(ordered.gather(-1, place)[..., 0].double())
    return found
