"""Predictive checks: does the model make data like these?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vaes.analysis.simulate import check_drawable, drawn_from_model, rows_at_once
from pyro_vaes.analysis.target import Sites, look
from pyro_vaes.analysis.uniform import holm, uniformity
from pyro_vaes.errors import InputError, called, functions_of, image_shape, unknown, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.densities import quietly, run, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.pair import Pair

Statistic = Callable[[Tensor], Tensor]
KINDS = ("posterior", "prior")

# Fixed beforehand: the right model is told off in one check of twenty, all statistics together, for kind ``posterior``
# in fewer (see predictive_check). Half of the spread between data is what is called a medium effect (Cohen 1988).
EXTREME, LARGE = 0.05, 0.5
QUESTION = "does the model make data like these?"


@dataclass(frozen=True)
class PredictiveCheck:
    """Statistics of data beside those of replicates.

    Attributes:
        pair: its name. kind: ``posterior`` (replicates of each datum, from its own code) or ``prior`` (of none).
        names: of the T statistics of a datum. observed: (T, N). replicated: (T, S, N).
        p: (T, N), two-sided p-values of each datum, 2 min(Pr(rep <= obs), Pr(rep >= obs)), ties counted half.
        set_names: of the statistics of the whole set: mean and standard deviation of each of the above, then those
            given. set_observed: (U,). set_replicated: (S, U). set_p: (U,), two-sided. effect: (U,), |observed - mean
            replicated| in standard deviations of the statistic between data; NaN for statistics of the set itself.
        uniform: (T,), for ``prior`` the p-value of the test that each datum's rank among replicates is uniform, as it
            is if the data come from the model; NaN for ``posterior``.
    """

    pair: str
    kind: str
    names: tuple[str, ...]
    observed: Tensor
    replicated: Tensor
    p: Tensor
    set_names: tuple[str, ...]
    set_observed: Tensor
    set_replicated: Tensor
    set_p: Tensor
    effect: Tensor
    uniform: Tensor

    def finding(self) -> Finding:
        """Say which statistics the model cannot make.

        Those of the whole set count: ``good`` if none has a two-sided p-value below 0.05, adjusted for their number
        (Holm); ``bad`` if one has, and observed and replicated differ by half of the spread between data; ``caution``
        for what lies between, of which large data sets are full; ``not tested`` where replicates are too few for such a
        p-value. The share of data that are extreme by themselves (p < 0.05) is told beside it.
        """
        extreme = holm(self.set_p) < EXTREME
        large = extreme & (self.effect > LARGE)
        share = (self.p < EXTREME).double().mean(1)
        count, least = len(self.set_p), round(len(self.set_p) / EXTREME)
        sizes = self.effect[self.effect.isfinite()].tolist()
        wrong = [self.set_names[j] for j in extreme.nonzero().flatten().tolist()]
        numbers: dict[str, Any] = {
            "kind": self.kind, "data": self.observed.shape[1], "extreme": wrong,
            "share of data with p < 0.05": float(share.max()) if len(share) else 0.0,
            "largest effect": max(sizes, default=None),
        }  # fmt: skip
        test = f"{self.kind} predictive"
        many = f"{self.observed.shape[1]} data"
        if len(self.set_replicated) < least:
            said = f"{len(self.set_replicated)} replicates cannot tell for {count} statistics: take {least} or more"
            return Finding(test, QUESTION, "not tested", said, numbers)
        if not wrong:
            said = f"none of {count} statistics of {many} tells them from replicates"
            if self.kind == "posterior" and len(share):
                said += f"; one by one, up to {float(share.max()):.0%} of the data are extreme (5% by chance)"
            return Finding(test, QUESTION, "good", said, numbers)
        j = int(torch.where(extreme, self.effect.nan_to_num(0.0), -1.0).argmax())
        known = bool(self.effect[j].isfinite())
        size = f", off by {float(self.effect[j]):.2g} times the spread between data" if known else ""
        said = (
            f"{len(wrong)} of {count} statistics are not the model's; {self.set_names[j]} is "
            f"{float(self.set_observed[j]):.3g} in {many}, {float(self.set_replicated[:, j].mean()):.3g} in replicates"
            f"{size}: do not read it off what the model draws"
        )
        return Finding(test, QUESTION, "bad" if bool(large.any()) else "caution", said, numbers)


def predictive_check(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    of_set: Mapping[str, Statistic] | None = None,
    kind: str = "posterior",
    draws: int = 400,
    shape: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> PredictiveCheck:
    r"""Compare statistics of data with those of data that the model makes.

    .. math:: z \sim q(z \mid x), \quad x^{rep} \sim p(x \mid z), \qquad
              p_T = \mathrm{Pr}\big(T(x^{rep}) \ge T(x)\big)

    Only the code is taken from the guide: outliers s, precisions w and every other site of an entry are drawn anew from
    their priors. (Kept, s = x - mu(z) would give x itself back.)

    Posterior-predictive p-values are conservative: the code has seen x, so that under the right model they gather
    around 1/2 and are small less often than they say (Meng 1994; Bayarri & Berger 2000). A small one means something; a
    middling one says little, unless the statistic is one that the code cannot adapt to. Those of kind ``prior`` are
    exact, and answer whether the model, not its reconstruction, is like the data.

    Args:
        x: (N, d). y: conditions.
        statistics: name -> T of a datum, (..., d) to (...); by default mean, sd, min, max, for values in [0, 1] the
            share above 1/2, and with ``shape`` the roughness, the mean |difference| of neighbouring pixels. Data that
            are 0 or 1 have the first and the last only: the others follow.
        of_set: name -> T of the whole set, (..., N, d) to (...), beside the mean and the standard deviation over data
            of each statistic of a datum.
        kind: ``posterior`` or ``prior``. draws: S, replicates; 20 times the statistics of the set, or more.
        shape: of an image, (H, W) or (C, H, W). batch_size: data at a time. seed: of the draws.

    Raises:
        InputError: for bad data, a model that cannot draw data (an improper prior, a factor), a statistic that gives
            another shape, or arguments out of range.

    Source: Gelman, Meng & Stern (1996); Gelman et al. (2013), 6.3.

    >>> from pyro_vaes.variants import l2_vae
    >>> found = predictive_check(l2_vae(4, 2, (5,)), torch.rand(9, 4), draws=50)
    >>> found.names, found.replicated.shape
    (('mean', 'sd', 'min', 'max', 'share > 0.5'), torch.Size([5, 50, 9]))
    """
    if kind not in KINDS:
        raise unknown("kind", str(kind), KINDS)
    whole("draws", draws, low=2), whole("batch_size", batch_size), whole("seed", seed, low=0)
    check_data(pair, x)
    y = check_condition(pair, x, y)
    check_drawable(pair, y)
    statistics = defaults(pair, x, shape) if statistics is None else functions_of("statistics", statistics)
    of_set = functions_of("of_set", {} if of_set is None else of_set)
    if not (statistics or of_set):
        raise InputError("there is no statistic: give one, or leave statistics out for the usual ones")
    observed = _all(statistics, as_batch(x), (len(x),))
    set_observed = _summaries(observed[:, None], as_batch(x)[None], of_set)[0]
    rows = rows_at_once(batch_size, 1, x.shape[1])
    # Statistics of the set take all data of a replicate at once.
    at_once = rows_at_once(draws, len(x), x.shape[1])
    sites, parts, sets = look(pair, x, y), [], []
    for first in range(0, draws, at_once):
        count = min(at_once, draws - first)
        with quietly(pair):
            replicates = torch.cat(list(_replicates(pair, x, y, sites, kind, count, rows, (seed, first))), 1)
        parts.append(_all(statistics, replicates, (count, len(x))))
        sets.append(_summaries(parts[-1], replicates, of_set))
    replicated, set_replicated = torch.cat(parts, 1), torch.cat(sets)
    spread = observed.std(1) if len(x) > 1 else torch.full((len(observed),), torch.nan, dtype=torch.float64)
    away = (set_observed - set_replicated.mean(0)).abs()
    effect = away / torch.cat([spread, spread, torch.full((len(of_set),), torch.nan, dtype=torch.float64)])
    return PredictiveCheck(
        pair.name,
        kind,
        tuple(statistics),
        observed,
        replicated,
        two_sided(observed, replicated.movedim(1, 0)),
        tuple([f"{word} of {n}" for word in ("mean", "spread") for n in statistics] + list(of_set)),
        set_observed,
        set_replicated,
        two_sided(set_observed, set_replicated),
        torch.where(away == 0, 0.0, effect),
        _uniform(observed, replicated, seed) if kind == "prior" else torch.full((len(observed),), torch.nan),
    )


def two_sided(observed: Tensor, replicated: Tensor) -> Tensor:
    """The two-sided p-values of values (...) among replicates (S, ...), ties counted half, never zero.

    >>> two_sided(torch.tensor([5.0]), torch.arange(9.0)[:, None])
    tensor([0.8000], dtype=torch.float64)
    """
    ties = (replicated == observed).sum(0).double() / 2
    low, high = (replicated < observed).sum(0) + ties, (replicated > observed).sum(0) + ties
    return (2 * (torch.minimum(low, high) + 0.5) / (len(replicated) + 1)).clamp(max=1.0)


def defaults(pair: Pair, x: Tensor, shape: Sequence[int] | None = None) -> dict[str, Statistic]:
    """The statistics of a datum that are taken where none are given.

    >>> from pyro_vaes.variants import vae
    >>> list(defaults(vae(4, 2, (5,)), torch.ones(3, 4), (2, 2)))
    ['mean', 'roughness']
    """
    support: Any = pair.traces()[1].nodes["x"]["fn"].support
    binary = getattr(support, "base_constraint", support) is constraints.boolean
    found: dict[str, Statistic] = {"mean": lambda a: a.mean(-1)}
    if not binary and x.shape[1] > 1:
        found |= {"sd": lambda a: a.std(-1), "min": lambda a: a.amin(-1), "max": lambda a: a.amax(-1)}
        if bool(((as_batch(x) >= 0) & (as_batch(x) <= 1)).all()):
            found["share > 0.5"] = lambda a: (a > 0.5).to(a.dtype).mean(-1)
    if shape is not None:
        size = image_shape(shape, x.shape[1])
        # A row of a table is no image, and one pixel has no neighbour.
        if len(size) > 1 and max(size[-2:]) > 1:
            found["roughness"] = lambda a: _roughness(a, size)
    return found


def _roughness(a: Tensor, size: tuple[int, ...]) -> Tensor:
    images = a.unflatten(-1, size)
    return torch.cat([images.diff(dim=dim).abs().flatten(-len(size)) for dim in (-1, -2)], -1).mean(-1)


def _replicates(
    pair: Pair, x: Tensor, y: Tensor | None, sites: Sites, kind: str, draws: int, rows: int, where: tuple[int, ...]
) -> Iterator[Tensor]:
    """New data (draws, B, d) for each batch."""
    for start in range(0, len(x), rows):
        batch = as_batch(x[start : start + rows])
        some = None if y is None else y[start : start + rows]
        seed_at(*where, start)
        code = {}
        if kind == "posterior":
            guess = run(pair.guide, batch, some, draws, {})
            code = {name: guess[name]["value"] for name in sites.code}
        yield drawn_from_model(pair, some, draws, len(batch), code)["x"]


def _all(statistics: Mapping[str, Statistic], data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Every statistic of data (..., N, d): (T, ..., N), float64."""
    found = [torch.empty(0, *shape, dtype=torch.float64)]
    for name, statistic in statistics.items():
        found.append(_checked(name, called(f"statistic {name!r}", statistic, data), shape)[None])
    return torch.cat(found)


def _summaries(each: Tensor, data: Tensor, of_set: Mapping[str, Statistic]) -> Tensor:
    """Statistics of the set, (S, U), of statistics of data (T, S, N) and the data themselves (S, N, d)."""
    spread = each.std(-1) if each.shape[-1] > 1 else torch.zeros(each.shape[:-1], dtype=each.dtype)
    given = [_checked(name, called(f"statistic {name!r}", f, data), (len(data),)) for name, f in of_set.items()]
    return torch.stack([*each.mean(-1), *spread, *given], -1)


def _checked(name: str, found: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"statistic {name!r} gives {what} where {shape} was to be: reduce the last dimensions only")
    if not bool(found.isfinite().all()):
        raise InputError(f"statistic {name!r} is not finite everywhere")
    return found.detach().double().cpu()


def _uniform(observed: Tensor, replicated: Tensor, seed: int) -> Tensor:
    below = (replicated < observed[:, None]).sum(1)
    ties = (replicated == observed[:, None]).sum(1)
    coin = torch.rand(below.shape, generator=torch.Generator().manual_seed(seed))
    return uniformity((below + (coin * (ties + 1)).long()).T, replicated.shape[1] + 1, seed)
