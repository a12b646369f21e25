"""Codes of p(z | x_seen) by importance: drawn where they may be, and weighed by the seen entries alone."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.inference.completion.field import Field, prior_sites
from pyro_vaes.inference.completion.local import Local
from pyro_vaes.inference.densities import run, seed_at, total
from pyro_vaes.inference.pareto import khat


class Weighed(NamedTuple):
    """Codes (S, B, k) with normalised weights (S, B), float64; their ESS and k-hat, (B,); where the codes came from."""

    state: Tensor
    weights: Tensor
    ess: Tensor
    khat: Tensor
    shares: dict[str, float]


def weigh(
    field: Field, near: Local | None, samples: int, prior_share: float | None, chunk: int, where: tuple[int, ...]
) -> Weighed:
    r"""Draw codes from a mixture of three, and weigh all of them by the mixture's density.

    .. math:: w = \frac{p(z)\, p(x_{seen} | z)}{a\, p(z) + b\, q(z | \tilde x) + c\, \mathcal{N}(z; z^*, H^{-1})},
              \qquad a + b + c = 1

    The guide q at the filled-in data believes what was filled in, and is too sure; the Gaussian at the mode knows which
    entries were seen, but only one mode; the share a of the prior bounds the weights by the largest likelihood over a.

    Args:
        near: the Gaussian, or None. prior_share: a in [0, 1]; None for 1/4. What is left is split between the other
            two, where both are there: most flows cannot score a code that they have not drawn, and take no part.

    Raises:
        InputError: for an a that leaves such a guide without another to share with.

    Source: Hesterberg (1995) for the defensive mixture, Veach & Guibas (1995) for its fixed shares.
    """
    shares = _shares(field, near is not None, prior_share)
    counts = {name: round(share * samples) for name, share in shares.items()}
    first = max(counts, key=lambda name: counts[name])
    counts[first] += samples - sum(counts.values())
    shares = {name: count / samples for name, count in counts.items() if count}
    parts = [
        _some(field, near, name, count, shares, (*where, i, done))
        for i, name in enumerate(shares)
        for done, count in _chunks(counts[name], chunk)
    ]
    state, log_w = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if log_w.isnan().any():
        raise ArithmeticError("a weight of a completion is not a number")
    weights = (log_w - log_w.logsumexp(0)).exp()
    # Where no code has any mass all are as good: k-hat says so.
    weights = torch.where(weights.isfinite(), weights, 1 / samples)
    return Weighed(state, weights, 1 / weights.square().sum(0), khat(log_w.T).to(log_w.device), shares)


def _some(
    field: Field, near: Local | None, source: str, count: int, shares: dict[str, float], where: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Codes of one of the three, with their log weights."""
    seed_at(*where)
    free, sites = list(field.layout.free), dict[str, Any]()
    if source == "mode" and near is not None:
        state = near.normal().sample(torch.Size([count]))
    else:
        if source == "prior":
            sites = prior_sites(field, count, {})
        else:
            sites = run(field.pair.guide, field.x, field.y, count, {})
        state = field.state({name: sites[name]["value"] for name in free})
    terms = field.terms(state)
    if shares.get("prior") == 1:
        return state, terms.seen
    # Densities of codes on the whole real line: the Jacobian of a positive site is in the prior's already.
    values, jacobian = field.values(state)
    parts = [terms.prior + math.log(shares["prior"])] if "prior" in shares else []
    if "guide" in shares:
        q = sites if source == "guide" else run(field.pair.guide, field.x, field.y, count, values)
        parts.append(total(q, free, count, field.x) + jacobian + math.log(shares["guide"]))
    if "mode" in shares and near is not None:
        parts.append(near.normal().log_prob(state).double() + math.log(shares["mode"]))
    return state, terms.prior + terms.seen - torch.stack(parts).logsumexp(0)


def _shares(field: Field, near: bool, prior_share: float | None) -> dict[str, float]:
    """How many of the codes come from where."""
    guide, a = scores_codes(field), prior_share
    if not guide and not near and a not in (None, 0, 1):
        raise InputError(
            f"prior_share is {a}, but the guide of {field.pair.name} scores its own draws only: it must be 0 or 1"
        )
    a = (0.25 if guide or near else 0.0) if a is None else float(a)
    b = 0.0 if near and not guide else (1 - a) / 2 if near else 1 - a
    return {"prior": a, "guide": b, "mode": 1 - a - b}


def scores_codes(field: Field) -> bool:
    """Whether the guide knows the density of a code that it has not drawn."""
    sites, code = prior_sites(field, 2, {}), (*field.layout.free, *field.layout.discrete)
    try:
        values = {name: sites[name]["value"] for name in code}
        total(run(field.pair.guide, field.x, field.y, 2, values), code, 2, field.x)
    except (KeyError, NotImplementedError, InputError):
        return False
    return True


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
