"""log p(x), datum by datum, with what is known of the estimate's own error."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, unknown, whole
from pyro_vaes.inference.annealed import Annealing, annealed_weights
from pyro_vaes.inference.densities import check_continuous, draw_and_weigh, examine, quietly, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.inference.memory import Chunk
from pyro_vaes.inference.pareto import khat as pareto_khat
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.sharing import agree, columns
from pyro_vaes.pair import Pair

Weigh = Callable[[Tensor, "Tensor | None", int], Tensor]


@dataclass(frozen=True)
class LogLikelihood:
    """What :func:`log_likelihood` found, each of shape (N,), float64.

    Attributes:
        value: log p(x) in nats: the log of the mean weight. Its expectation lies below the truth, by about se^2 / 2.
        se: Monte-Carlo standard error of ``value``, by the delta method; it means nothing where ``khat`` is large.
        khat: Pareto's shape of the datum's largest weights; see :func:`~pyro_vaes.inference.pareto.khat`.

    Source: Burda, Grosse & Salakhutdinov (2016), Eq. 8; k-hat of Vehtari et al. (2024).

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.log_likelihood(pair, x, samples=50)
    >>> found.value.shape, found.khat.shape
    (torch.Size([6]), torch.Size([6]))
    """

    value: Tensor
    se: Tensor
    khat: Tensor

    @property
    def mean(self) -> float:
        """Mean of log p(x) over the data, in nats."""
        return self.value.mean().item()

    @property
    def mean_se(self) -> float:
        """Monte-Carlo standard error of ``mean``: of the estimator, for these data, not of the choice of data."""
        return math.sqrt(self.se.square().sum().item()) / len(self.se)

    @property
    def unreliable(self) -> float:
        """Share of the data whose ``khat`` is above 0.7; NaN where there are too few draws to say."""
        known = self.khat[~self.khat.isnan()]
        return (known > 0.7).double().mean().item() if len(known) else math.nan


def log_likelihood(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    samples: int | None = None,
    method: str = "is",
    annealing: Annealing | None = None,
    chunk: int = 100,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool = False,
    fabric: Any = None,
) -> LogLikelihood:
    r"""Estimate log p(x) of every datum by importance sampling, or by annealed importance sampling.

    .. math:: \log p(x) \approx \log \frac{1}{S} \sum_{s=1}^{S} w_s, \qquad
              w_s = \frac{p(x, z_s)}{q(z_s \mid x)}, \quad z_s \sim q(z \mid x)

    Every site of the two programs counts, unweighted: beta, the plate's scale and the like belong to the objective.
    Memory is bounded by ``chunk`` times ``batch_size`` passes through the networks and by ``samples`` times
    ``batch_size`` weights; sums run in float64.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. y: conditions of a conditional pair, labels (N,) or (N, c).
        samples: S, at least 2: draws per datum, 1000 by default; for ``"ais"`` chains per datum, 16 by default
            (too few for a k-hat, which is then infinite).
        method: ``"is"``, or ``"ais"`` for Hamiltonian transitions along a path to p(x, z).
        annealing: the path, for ``"ais"``; :class:`~pyro_vaes.inference.annealed.Annealing` has the settings.
        chunk: draws, or chains, at a time. batch_size: data at a time. Where memory runs out first the one is halved,
            down to 1, then the other, and a :class:`~pyro_vaes.errors.FaultWarning` says so.
        seed: of the draws; every batch and chunk has a stream of its own, made of the seed and of where it begins. The
            same seed, chunk and batch_size give the same numbers, others give other draws of the same estimator; so
            does a chunk that was halved, whose parts begin elsewhere.
        progress: show a bar.
        fabric: a launched ``lightning_fabric.Fabric`` of the strategy ``ddp``, on every rank: each takes its share of
            the batches, and all get the numbers that one process gives.

    Raises:
        InputError: for bad data or arguments, and for a pair without a density to weigh: a factor in the model, the
            Jeffreys prior (``ic_vae``, ``ric_vae``), a point mass in the guide, a site outside of the data plate.
        ArithmeticError: if a weight is not a number.
        MemoryError: if there is not enough for one draw of one datum.

    Source: Burda, Grosse & Salakhutdinov (2016), Eq. 8; Neal (2001); Wu, Burda, Salakhutdinov & Grosse (2017).

    >>> from pyro_vaes.variants import l2_vae
    >>> found = log_likelihood(l2_vae(4, 2, (8,)), torch.rand(3, 4), samples=50)
    >>> found.value.shape, bool((found.value < 0).all()), found.mean_se < 0.5
    (torch.Size([3]), True, True)
    """
    samples = check_numbers(samples, method, chunk, batch_size, seed)
    if annealing is not None and method != "ais":
        raise InputError("annealing belongs to method='ais'")
    settings, ranks = Annealing.given(annealing), Ranks.of(fabric)
    check_data(pair, x)
    y = check_condition(pair, x, y)
    code = examine(pair, x, y)
    at_a_time, rows_at_a_time = Chunk("chunk", chunk), Chunk("batch_size", batch_size)
    if method == "is":

        def weigh(rows: Tensor, condition: Tensor | None, start: int) -> Tensor:
            return importance_weights(pair, rows, condition, samples, at_a_time, (seed, start))
    else:
        check_continuous(pair, code, x, y)

        def weigh(rows: Tensor, condition: Tensor | None, start: int) -> Tensor:
            return annealed_weights(pair, code, rows, condition, settings, samples, at_a_time, (seed, start))

    def batch(start: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = slice(start, start + count)
        return summarise(weigh(as_batch(x[rows]), None if y is None else y[rows], start), start)

    agree(ranks, pair, x, y, samples=samples, method=method, path=repr(settings), sizes=[chunk, batch_size], seed=seed)
    with quietly(pair):
        return LogLikelihood(*columns(ranks, x, rows_at_a_time, batch, progress))


def check_numbers(samples: int | None, method: str, chunk: int, batch_size: int, seed: int) -> int:
    """Refuse numbers out of range, and give S."""
    if method not in ("is", "ais"):
        raise unknown("method", str(method), ["is", "ais"])
    whole("chunk", chunk), whole("batch_size", batch_size), whole("seed", seed, low=0)
    return whole("samples", (1000 if method == "is" else 16) if samples is None else samples, low=2)


def importance_weights(
    pair: Pair, x: Tensor, y: Tensor | None, samples: int, chunk: int | Chunk, where: tuple[int, ...]
) -> Tensor:
    """Give the log weights (S, B) of one batch, ``chunk`` draws at a time."""

    def some(done: int, count: int) -> Tensor:
        seed_at(*where, done)
        return draw_and_weigh(pair, x, y, count)

    return torch.cat(Chunk.of("chunk", chunk).over(samples, some))


def summarise(log_w: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    r"""Give value, standard error and k-hat of log weights (S, B).

    .. math:: \mathrm{se} = \frac{1}{\sqrt{S}} \frac{\mathrm{sd}(w)}{\bar w}
    """
    if log_w.isnan().any():
        row = int(log_w.isnan().any(0).nonzero()[0])
        raise ArithmeticError(f"a weight of the datum at row {start + row} is not a number")
    value = log_w.logsumexp(0) - math.log(len(log_w))
    se = (log_w - value).exp().std(0) / math.sqrt(len(log_w))
    # Without any mass there is no estimate, and no end to its error.
    se = torch.where(value.isfinite(), se, torch.inf)
    return value, se, pareto_khat(log_w.T).to(value.device)
