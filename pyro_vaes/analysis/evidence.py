"""log Z of a posterior by importance sampling from a mixture of what is known of it."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vaes.analysis.optimal import Gaussian
from pyro_vaes.analysis.target import Target
from pyro_vaes.errors import InputError
from pyro_vaes.inference.densities import seed_at
from pyro_vaes.inference.likelihood import summarise

FREEDOM = 10.0  # degrees of a Student t: tails that dominate a Gaussian's, at a price of a few draws in 32 dimensions


class Component(NamedTuple):
    """A density of states (S, B, k) that can be drawn from.

    Attributes:
        draw: (draws, where) -> (S, B, k), float64. log_prob: (S, B, k) -> (S, B), float64.
    """

    draw: Callable[[int, tuple[int, ...]], Tensor]
    log_prob: Callable[[Tensor], Tensor]


def gaussian(q: Gaussian) -> Component:
    """N(loc, L L')."""
    return _of(dist.MultivariateNormal(q.loc, scale_tril=q.scale, validate_args=False))


def student(loc: Tensor, scale: Tensor) -> Component:
    """Student's t of ten degrees of freedom, (B, k) and (B, k, k)."""
    return _of(dist.MultivariateStudentT(loc.new_full(loc.shape[:1], FREEDOM), loc, scale, validate_args=False))


def guide_of(t: Target) -> Component | None:
    """The guide itself; None if it can score its own draws only, as most flows."""

    def draw(draws: int, where: tuple[int, ...]) -> Tensor:
        return t.line.state(t.draw(draws, where).values).double()

    def log_prob(state: Tensor) -> Tensor:
        return t.log_guide(state.to(t.x.dtype))

    try:
        log_prob(draw(1, (0,)))
    except (NotImplementedError, KeyError, InputError):
        return None
    return Component(draw, log_prob)


def evidence(
    t: Target, parts: Sequence[Component], draws: int, chunk: int, where: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Give log Z, its standard error and the k-hat of its weights, each (B,).

    .. math:: \hat Z = \frac{1}{S} \sum_{s} \frac{p(x, z_s)}{\frac{1}{M} \sum_m q_m(z_s)}

    The draws come from all M parts in equal numbers, and every one is weighed by the whole mixture, so that a part that
    has missed the posterior costs draws and no more.

    Source: Hesterberg (1995); Veach & Guibas (1995), the balance heuristic.
    """
    each = max(1, draws // len(parts))
    found = []
    for m, part in enumerate(parts):
        for done in range(0, each, chunk):
            state = part.draw(min(chunk, each - done), (*where, m, done))
            mixture = torch.stack([other.log_prob(state) for other in parts]).logsumexp(0) - math.log(len(parts))
            found.append(t.log_joint(state.to(t.x.dtype)) - mixture)
    return summarise(torch.cat(found).nan_to_num(nan=-torch.inf))


def _of(fn) -> Component:
    def draw(draws: int, where: tuple[int, ...]) -> Tensor:
        seed_at(*where)
        return fn.rsample((draws,))

    return Component(draw, fn.log_prob)
