"""Bidirectional Monte Carlo: on data that the model has drawn itself, log p(x) from below and from above."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, first_line, whole
from pyro_vaes.inference.annealed import Annealing, Path, adapted, backward, forward
from pyro_vaes.inference.densities import Code, check_continuous, examine, quietly, run, seed_at
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.inference.likelihood import LogLikelihood, importance_weights, summarise
from pyro_vaes.inference.memory import Chunk
from pyro_vaes.pair import Pair


@dataclass(frozen=True)
class Sandwich:
    """What :func:`sandwich` found, on data drawn from the model.

    Attributes:
        x: the data, (N, d).
        lower: per datum, log p(x) by annealed importance sampling forwards: below the truth on average, in nats.
        upper: per datum, by the same path backwards from the code that x was drawn with: above it on average.
        importance: what importance sampling from the guide says of the same data; None where it was not asked for.

    Source: Grosse, Ghahramani & Adams (2015); Wu et al. (2017).

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.sandwich(pair, 4, annealing=pv.Annealing(temperatures=5), chains=2, samples=10)
    >>> found.x.shape
    torch.Size([4, 4])
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    importance: LogLikelihood | None = None

    @property
    def gap(self) -> Tensor:
        """upper - lower, (N,): how far either may be off, up to chance."""
        return self.upper - self.lower

    @property
    def se(self) -> float:
        """Standard error of the mean gap, over data and chains; both means are known about as well."""
        return self.gap.std().item() / math.sqrt(len(self.x))

    @property
    def interval(self) -> tuple[float, float]:
        """Where the mean of log p(x) lies: mean lower - 1.96 se to mean upper + 1.96 se."""
        return self.lower.mean().item() - 1.96 * self.se, self.upper.mean().item() + 1.96 * self.se

    @property
    def shortfall(self) -> float:
        """mean upper - mean importance: at most so much does importance sampling miss, up to chance (NaN without)."""
        return math.nan if self.importance is None else self.upper.mean().item() - self.importance.mean


def sandwich(
    pair: Pair,
    size: int = 100,
    y: Tensor | None = None,
    *,
    annealing: Annealing | None = None,
    chains: int = 16,
    samples: int = 1000,
    chunk: int = 100,
    batch_size: int = 100,
    seed: int = 0,
) -> Sandwich:
    r"""Draw data with their codes from the model, and enclose their log p(x).

    .. math:: \mathrm{E} \log \frac1C \sum_c w_c \;\le\; \log p(x) \;\le\; -\mathrm{E} \log \frac1C \sum_c w'_c

    w walks from the start to p(z | x); w' walks back from z*, the code that x was drawn with, which is an exact draw of
    p(z | x). The chains of w' all begin at z*. The estimators' own errors on simulated data say what to expect on real
    data as far as the model's data resemble them, and no further.

    Args:
        size: N, how many data, at least 2. y: conditions of a conditional pair, labels (N,) or (N, c).
        annealing: the path, by default :class:`~pyro_vaes.inference.annealed.Annealing`'s own.
        chains: C, per datum, each way. samples: of importance sampling on the same data; 0 leaves it out.
        chunk: particles at a time, halved where memory runs out. batch_size: data at a time. seed: of everything drawn.

    Raises:
        InputError: for what :func:`~pyro_vaes.inference.likelihood.log_likelihood` refuses, and arguments out of range.

    Source: Grosse, Ghahramani & Adams (2015); Wu, Burda, Salakhutdinov & Grosse (2017), 4.

    >>> from pyro_vaes.variants import l2_vae
    >>> found = sandwich(l2_vae(4, 2, (8,)), 8, annealing=Annealing(temperatures=20, leapfrog=3), chains=4, samples=50)
    >>> found.gap.shape, abs(found.gap.mean().item()) < 0.2, abs(found.shortfall) < 0.3
    (torch.Size([8]), True, True)
    """
    for name, value in (("chains", chains), ("chunk", chunk), ("batch_size", batch_size)):
        whole(name, value)
    whole("size", size, low=2), whole("seed", seed, low=0), whole("samples", samples, low=0)
    if samples == 1:
        raise InputError("samples is 1: it must be 0, or at least 2")
    settings = Annealing.given(annealing)
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}")
    y = check_condition(pair, next(pair.parameters(), torch.empty(0)).new_empty(size, 1), y)
    code, x, truth = _simulated(pair, size, y, seed)
    lower, upper, parts = [], [], []
    at_a_time = Chunk("chunk", chunk)
    with quietly(pair):
        for start in range(0, size, batch_size):
            rows, where = slice(start, start + batch_size), (seed, start)
            condition = None if y is None else y[rows]
            path = Path(pair, code, x[rows], condition, settings.start)
            up, down = _both(path, truth[:, rows], settings, chains, at_a_time, where)
            lower.append(up.logsumexp(0) - math.log(chains))
            upper.append(math.log(chains) - down.logsumexp(0))
            if samples:
                parts.append(summarise(importance_weights(pair, x[rows], condition, samples, at_a_time, (*where, 4))))
    importance = LogLikelihood(*(torch.cat(c) for c in zip(*parts, strict=True))) if samples else None
    return Sandwich(x, torch.cat(lower), torch.cat(upper), importance)


def _simulated(pair: Pair, size: int, y: Tensor | None, seed: int) -> tuple[Code, Tensor, Tensor]:
    """Check the pair, then draw data and their codes, (1, N, k)."""
    with quietly(pair):
        seed_at(seed, size, 3)
        try:
            sites = run(pair.model, None, y, 1, {}, size=size)
        except (NotImplementedError, ValueError) as error:
            reason = first_line(error)
            raise InputError(f"{pair.name} has no normalised density to draw data from: {reason}") from error
        x = sites["x"]["value"].reshape(size, -1)
    code = examine(pair, x, y)
    check_continuous(pair, code, x, y)
    path = Path(pair, code, x, y, "prior")
    return code, x, path.state({name: sites[name]["value"] for name in code.free})


def _both(
    path: Path, truth: Tensor, settings: Annealing, chains: int, chunk: Chunk, where: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The log weights of both directions, (C, B) each."""
    _, steps = chunk.once(chains, lambda count: adapted(path, settings, count, where))

    def some(done: int, count: int) -> tuple[Tensor, Tensor]:
        seed_at(*where, done, 1)
        up = forward(path, path.draw(count), settings, steps)
        seed_at(*where, done, 5)
        return up, backward(path, truth.repeat(count, 1, 1), settings, steps)

    up, down = zip(*chunk.over(chains, some), strict=True)
    return torch.cat(up), torch.cat(down)
