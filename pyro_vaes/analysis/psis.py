"""Pareto-smoothed importance sampling: how far the guide is from the posterior, and what weights put right."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.analysis.target import Drawn, Target, target
from pyro_vaes.errors import InputError, called, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.densities import Values, quietly
from pyro_vaes.inference.pareto import FEWEST, smoothed
from pyro_vaes.pair import Pair

# Above it weights converge too slowly to be of use (Vehtari et al. 2024, 3.2.4); for S < 2200 their limit is lower.
LIMIT = 0.7
QUESTION = "do importance weights correct what the guide says?"
Function = Callable[[Drawn], Tensor]


@dataclass(frozen=True)
class Smoothed:
    """What :func:`psis` found; the N data in the order of x.

    Attributes:
        khat: (N,), Pareto's k-hat of the weights p(x, z) / q(z | x): below 0.5 good, up to 0.7 usable, above it the
            datum's guide misses mass that no weights bring back. 0 for constant weights: the guide is the posterior.
        ess: (N,), importance ESS, 1 / sum of the squared smoothed weights, between 1 and S.
        log_weights: (S, N), float64, smoothed, summing to one over the draws of each datum.
        raw: (S, N), float64, log p(x, z) - log q(z | x), in nats; up to a constant per datum for models without a
            normalised density.
        values: site -> (S, N, ...), the draws of all latent sites; None unless asked for.

    Source: Vehtari et al. (2024), "Pareto smoothed importance sampling".

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.psis(pair, x, draws=100)
    >>> found.khat.shape, found.log_weights.shape
    (torch.Size([6]), torch.Size([100, 6]))
    """

    khat: Tensor
    ess: Tensor
    log_weights: Tensor
    raw: Tensor
    values: Values | None = None

    @property
    def bad(self) -> list[int]:
        """The data whose k-hat is above 0.7, the worst first."""
        order = self.khat.nan_to_num(nan=-math.inf).argsort(descending=True).tolist()
        return [i for i in order if self.khat[i] > LIMIT]

    def finding(self) -> Finding:
        """``good`` up to 5 % of the data above 0.7, ``caution`` up to half of them, ``bad`` beyond.

        Five per cent, for k-hat is an estimate: one datum in twenty may lie above by chance. Beyond one half no average
        over the data is carried by data that can be trusted. Draws say nothing of where there are none: a guide that
        sits on one of two modes has a low k-hat and wrong means. R-hat of :func:`~pyro_vaes.analysis.nuts.nuts`, whose
        chains start elsewhere too, may see the other one.
        """
        known = int((~self.khat.isnan()).sum())
        numbers: dict[str, float | int] = {"data": len(self.khat), "above": len(self.bad), "draws": len(self.raw)}
        if not known:
            why = f"{len(self.raw)} draws are too few for a k-hat: take {FEWEST} or more, better 1000"
            return Finding("PSIS", QUESTION, "not tested", why, numbers)
        middle, ess = float(self.khat.median()), float(self.ess.median())
        numbers |= {"median_khat": middle, "median_ess": ess}
        share = len(self.bad) / known
        typical = f"median k-hat {middle:.2f}, ESS {ess:.0f} of {len(self.raw)}"
        if share <= 0.05:
            said = (
                f"k-hat <= 0.7 for {known - len(self.bad)} of {known} data ({typical}): reweighted means can be "
                "used, unless the guide misses a mode altogether"
            )
            return Finding("PSIS", QUESTION, "good", said, numbers)
        verdict = "caution" if share <= 0.5 else "bad"
        said = (
            f"k-hat > 0.7 for {len(self.bad)} of {known} data ({typical}): for those weights cannot put the guide "
            "right, use nuts"
        )
        return Finding("PSIS", QUESTION, verdict, said, numbers)


@dataclass(frozen=True)
class Reweighted:
    """What :func:`reweighted` found.

    Attributes:
        mean: (N, ...), float64, E[f | x] under the smoothed weights. se: (N, ...), its Monte-Carlo standard error,
            which means nothing where ``khat`` is above 0.7.
        plain: (N, ...), E[f] under the guide: what one would say without weights.
        khat: (N,).

    Source: Vehtari et al. (2024), "Pareto smoothed importance sampling".

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.reweighted(pair, x, lambda drawn: drawn.values["z"], draws=100)
    >>> found.mean.shape, found.plain.shape
    (torch.Size([6, 2]), torch.Size([6, 2]))
    """

    mean: Tensor
    se: Tensor
    plain: Tensor
    khat: Tensor


def psis(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 1000,
    batch_size: int = 100,
    chunk: int = 100,
    keep: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Smoothed:
    r"""Weigh draws of the guide by the posterior, datum by datum, and smooth the largest weights.

    .. math:: w_s = \frac{p(x, z_s)}{q(z_s | x)}, \qquad z_s \sim q(z | x), \quad s = 1 \dots S

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. y: conditions of a conditional pair, labels (N,) or (N, c).
        draws: S, at least 2; fewer than 25 give no k-hat. The limit of 0.7 is for 2200 and more; the source's,
            1 - 1 / log10 S, is 0.67 for 1000 and 0.63 for 500.
        batch_size, chunk: data and draws at a time. keep: give the draws themselves too.
        seed: of the draws; the same seed, batch_size and chunk give the same draws. progress: show a bar.

    Raises:
        InputError: for bad data or arguments, and for a guide that is a point mass: it has no weights.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024); for guides Yao, Vehtari, Simpson & Gelman (2018). Departs from
    them: one k-hat for each datum, where they have one for a whole posterior.

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> found = psis(l2_vae(4, 2, (5,)), torch.rand(3, 4), draws=200)
    >>> found.log_weights.exp().sum(0).round(decimals=6).tolist(), found.bad
    ([1.0, 1.0, 1.0], [1])
    """
    t = _checked(pair, x, y, draws, batch_size, chunk, seed)
    with quietly(pair):
        parts = [_weigh(part, start, draws, chunk, seed, keep) for start, part in _parts(t, batch_size, progress)]
    # A batch at a time: what smoothing needs on the way is as large as its weights.
    smooth = [_smooth(raw) for raw, _ in parts]
    log_w, raw = torch.cat([s[0] for s in smooth], 1), torch.cat([log_w for log_w, _ in parts], 1)
    khat, ess = (torch.cat([s[i] for s in smooth]) for i in (1, 2))
    values = {name: torch.cat([v[name] for _, v in parts], 1) for name in parts[0][1]} if keep else None
    return Smoothed(khat, ess, log_w, raw, values)


def reweighted(
    pair: Pair,
    x: Tensor,
    f: Function,
    y: Tensor | None = None,
    *,
    draws: int = 1000,
    batch_size: int = 100,
    chunk: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Reweighted:
    r"""Give the posterior expectation of any function of the code, from draws of the guide under smoothed weights.

    .. math:: \hat f = \sum_s \bar w_s f(z_s), \qquad \mathrm{se}^2 = \sum_s \bar w_s^2 (f(z_s) - \hat f)^2

    Draws are made twice from the same seeds, once to weigh and once to average, so that no more than ``chunk`` times
    ``batch_size`` of them are ever in memory.

    Args:
        f: draws (see :class:`~pyro_vaes.analysis.target.Drawn`) -> (S, B, ...), such as ``lambda drawn:
            drawn.values["z"]``, or ``lambda drawn: drawn.mean`` for the clean datum; draw by draw.
        The others: see :func:`psis`.

    Raises:
        InputError: as :func:`psis`, and where f does not give a number per draw and datum.

    Source: Vehtari et al. (2024), Eq. 3 and 6; Owen (2013), 9.2, for the standard error.

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> found = reweighted(l2_vae(4, 2, (5,)), torch.rand(3, 4), lambda drawn: drawn.values["z"], draws=200)
    >>> found.mean.shape, found.khat.shape
    (torch.Size([3, 2]), torch.Size([3]))
    """
    t = _checked(pair, x, y, draws, batch_size, chunk, seed)
    found = []
    with quietly(pair):
        for start, part in _parts(t, batch_size, progress):
            log_w, khat, _ = _smooth(_weigh(part, start, draws, chunk, seed, False)[0])
            found.append((*_averages(part, start, log_w.exp(), f, chunk, seed), khat))
    return Reweighted(*(torch.cat(columns) for columns in zip(*found, strict=True)))


def _checked(pair: Pair, x: Tensor, y: Tensor | None, draws: int, batch_size: int, chunk: int, seed: int) -> Target:
    whole("draws", draws, low=2, high=10**7), whole("batch_size", batch_size), whole("chunk", chunk)
    whole("seed", seed, low=0)
    t = target(pair, x, y)
    if t.sites.point_mass:
        raise InputError(f"the guide of {pair.name} puts a point mass on its code, which has no density: no weights")
    return t


def _parts(t: Target, batch_size: int, progress: bool) -> Iterator[tuple[int, Target]]:
    starts = range(0, len(t.x), batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, unit="batch")
    for start in starts:
        yield start, t.only(slice(start, start + batch_size))


def _chunks(t: Target, start: int, draws: int, chunk: int, seed: int) -> Iterator[Drawn]:
    for done in range(0, draws, chunk):
        yield t.draw(min(chunk, draws - done), (seed, start, done))


def _weigh(t: Target, start: int, draws: int, chunk: int, seed: int, keep: bool) -> tuple[Tensor, Values]:
    weights, values = [], []
    for drawn in _chunks(t, start, draws, chunk, seed):
        weights.append(drawn.log_weights.cpu())
        values.append({name: v.cpu() for name, v in drawn.values.items()} if keep else {})
    log_w = torch.cat(weights)
    if log_w.isnan().any():
        row = int(log_w.isnan().any(0).nonzero()[0])
        raise ArithmeticError(f"a weight of the datum at row {start + row} is not a number")
    return log_w, {name: torch.cat([v[name] for v in values]) for name in values[0]}


def _smooth(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_w, khat = smoothed(raw.T)
    return log_w.T, khat, (-(2 * log_w).logsumexp(1)).exp()


def _averages(t: Target, start: int, weights: Tensor, f: Function, chunk: int, seed: int) -> tuple[Tensor, ...]:
    """Mean, standard error and plain mean of f over the draws of one batch."""
    draws, done = len(weights), 0
    centre, sums = torch.empty(0), []
    for drawn in _chunks(t, start, draws, chunk, seed):
        value = _called(f, drawn)
        if not done:
            # Squares of deviations from somewhere near do not cancel.
            centre = value.mean(0)
        w = weights[done : done + len(value)].reshape(*value.shape[:2], *[1] * (value.dim() - 2))
        done += len(value)
        off = value - centre
        terms = (w * off, w.square() * off.square(), w.square() * off, w.square().expand_as(off), off)
        sums.append(torch.stack([term.sum(0) for term in terms]))
    mean, squares, cross, total, plain = torch.stack(sums).sum(0)
    variance = squares - 2 * mean * cross + mean.square() * total
    return centre + mean, variance.clamp(min=0).sqrt(), centre + plain / draws


def _called(f: Function, drawn: Drawn) -> Tensor:
    value = called("f", f, drawn)
    expected = tuple(drawn.prior.shape)
    if not isinstance(value, Tensor) or tuple(value.shape[:2]) != expected:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"f gives {shape}: it must give a tensor of a value per draw and datum, ({expected[0]}, "
                         f"{expected[1]}, ...)")  # fmt: skip
    if not bool(value.isfinite().all()):
        raise InputError("f is not finite everywhere: an average of it would be no number")
    return value.double().cpu()
