"""Codes of p(z | x_seen) by importance: from the guide and the prior, weighed by the seen entries alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.inference.completion.field import Field
from pyro_vaes.inference.densities import run, seed_at, total
from pyro_vaes.inference.pareto import khat


class Weighed(NamedTuple):
    """Codes (S, B, k) with normalised weights (S, B), float64; their ESS and k-hat, (B,).

    ``prior_share`` is the share of codes that came from the prior.
    """

    state: Tensor
    weights: Tensor
    ess: Tensor
    khat: Tensor
    prior_share: float


def weigh(field: Field, samples: int, share: float | None, chunk: int, where: tuple[int, ...]) -> Weighed:
    r"""Draw codes from the guide at the filled-in data and from the prior, and weigh all by the one mixture.

    .. math:: w = \frac{p(z)\, p(x_{seen} | z)}{(1 - a)\, q(z | \tilde x) + a\, p(z)}

    The share a of prior draws bounds the weights by the likelihood's largest value over a.

    Args:
        share: a in [0, 1]; None for 1/4, or 0 where the guide cannot score a code that it has not drawn (most flows).

    Raises:
        InputError: where a is given and the guide cannot.

    Source: Hesterberg (1995) for the defensive mixture, Veach & Guibas (1995) for its fixed shares.
    """
    a = _share(field, share)
    of_prior = round(a * samples)
    a = of_prior / samples
    parts = [
        _some(field, count, kind, a, (*where, kind, done))
        for kind, among in ((0, samples - of_prior), (1, of_prior))
        for done, count in _chunks(among, chunk)
    ]
    state, log_w = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if log_w.isnan().any():
        raise ArithmeticError("a weight of a completion is not a number")
    weights = (log_w - log_w.logsumexp(0)).exp()
    # Where no code has any mass all are as good: k-hat says so.
    weights = torch.where(weights.isfinite(), weights, 1 / samples)
    return Weighed(state, weights, 1 / weights.square().sum(0), khat(log_w.T).to(log_w.device), a)


def _some(field: Field, count: int, kind: int, a: float, where: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Codes of the guide (kind 0) or of the prior (1), with their log weights."""
    seed_at(*where)
    free = list(field.layout.free)
    sites = run(field.pair.model if kind else field.pair.guide, field.x, field.y, count, {})
    values = {name: sites[name]["value"] for name in free}
    state = field.state(values)
    terms = field.terms(state)
    # Densities of codes on the whole real line, all three: the Jacobian of a positive site is in the prior's.
    _, jacobian = field.values(state)
    if a == 1:
        return state, terms.seen
    q = run(field.pair.guide, field.x, field.y, count, values) if kind else sites
    guide = total(q, free, count, field.x) + jacobian
    if a == 0:
        return state, terms.prior + terms.seen - guide
    mixed = torch.logaddexp(guide + _log(1 - a), terms.prior + _log(a))
    return state, terms.prior + terms.seen - mixed


def _share(field: Field, share: float | None) -> float:
    if share in (0, 1):
        return float(share)
    sites = run(field.pair.model, field.x, field.y, 2, {})
    try:
        values = {name: sites[name]["value"] for name in field.layout.free}
        total(run(field.pair.guide, field.x, field.y, 2, values), field.layout.free, 2, field.x)
    except (KeyError, NotImplementedError, InputError):
        if share is None:
            return 0.0
        raise InputError(
            f"prior_share is {share}, but the guide of {field.pair.name} scores its own draws only: it must be 0 or 1"
        ) from None
    return 0.25 if share is None else share


def pick(weighed: Weighed, draws: int, where: tuple[int, ...]) -> Tensor:
    """Resample codes by their weights, (S', B, k), each datum by itself."""
    seed_at(*where)
    chosen = torch.multinomial(weighed.weights.T, draws, replacement=True).T
    return weighed.state.gather(0, chosen[..., None].expand(-1, -1, weighed.state.shape[-1]))


def moments(field: Field, state: Tensor, weights: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of gen(z) under normalised weights (S, B), each (B, d)."""
    first, second = (torch.zeros_like(field.x, dtype=torch.float64) for _ in range(2))
    # Deviations from one code's image, not raw values: their squares do not cancel.
    centre = field.generated(state[:1])[0].double()
    for done, count in _chunks(len(state), chunk):
        off = field.generated(state[done : done + count]).double() - centre
        w = weights[done : done + count, :, None]
        first, second = first + (w * off).sum(0), second + (w * off.square()).sum(0)
    sd = (second - first.square()).clamp(min=0).sqrt()
    return (centre + first).to(field.x.dtype), sd.to(field.x.dtype)


def _chunks(among: int, chunk: int) -> list[tuple[int, int]]:
    return [(done, min(chunk, among - done)) for done in range(0, among, chunk)]


def _log(a: float) -> float:
    return float(torch.tensor(a, dtype=torch.float64).log())
