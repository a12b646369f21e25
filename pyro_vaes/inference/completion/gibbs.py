"""Codes and missing entries in turns: pseudo-Gibbs, and Metropolis within Gibbs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vaes.inference.completion.chains import mixing
from pyro_vaes.inference.completion.field import Field, prior_sites
from pyro_vaes.inference.completion.seen import stand_in
from pyro_vaes.inference.densities import Values, run, seed_at, total


class Walked(NamedTuple):
    """Of all chains together: mean and standard deviation of gen(z), and the mean variance of an entry given z, each
    (B, d); draws of gen(z) and of x, (D, B, d); R-hat, ESS and the share of accepted proposals, (B,).
    """

    mean: Tensor
    sd: Tensor
    noise: Tensor
    clean: Tensor
    noisy: Tensor
    scores: dict[str, Tensor]


class _Place(NamedTuple):
    """Where the chains are: ``values`` of the code (1, C B, ...), and what stands in for missing entries, (C B, d)."""

    values: Values
    x: Tensor


def walk(
    field: Field, metropolis: bool, samples: int, chains: int, warmup: int, draws: int, where: tuple[int, ...]
) -> Walked:
    r"""Run chains of every datum at once: z from the guide at the filled-in datum, then the missing entries given z.

    .. math:: z' \sim q(z \mid x_{obs}, \tilde x_{mis}), \qquad
              \tilde x_{mis} \sim r(x_{mis} \mid z), \qquad
              \rho = \frac{p(z')\, p(x_{obs} | z')\, r(\tilde x_{mis} | z')\, q(z | x_{obs}, \tilde x_{mis})}
                          {p(z)\, p(x_{obs} | z)\, r(\tilde x_{mis} | z)\, q(z' | x_{obs}, \tilde x_{mis})}

    Pseudo-Gibbs takes every z'; ``metropolis`` takes it with probability min(1, rho), and then
    :math:`p(z | x_{obs}) r(x_{mis} | z)` is left as it is, whatever q is. r is the model's own p(x_mis | z), but for
    models that record an ordinary residual, where it is N(mu, scale^2): r is a device there, any density will do.

    Args:
        field: of B data. samples: kept over all chains. warmup: steps thrown away per chain; under ``metropolis`` all
            proposals are taken in the first half of them.

    Chain 1 starts from what the field holds at missing entries, the others from draws of the model.

    Source: Rezende, Mohamed & Wierstra (2014), on missing data; Mattei & Frellsen (2018), Alg. 1.
    """
    seed_at(*where)
    tall = _repeated(field, chains)
    place = _Place({}, _first(field, tall))
    steps = -(-samples // chains)
    keep = torch.linspace(0, steps - 1, draws).round().long().tolist()
    sums = [torch.zeros_like(tall.x, dtype=torch.float64) for _ in range(3)]
    history, clean, noisy = [], [], []
    accepted = torch.zeros(len(tall.x), dtype=torch.float64, device=tall.x.device)
    centre = None
    for step in range(-warmup, steps):
        place, taken, mean, fn = _step(tall, place, metropolis and bool(place.values) and step >= -(warmup // 2))
        if step < 0:
            continue
        accepted += taken.double()
        centre = mean.double() if centre is None else centre
        off = mean.double() - centre
        for total_, part in zip(sums, (off, off.square(), fn.variance.reshape(mean.shape).double()), strict=True):
            total_ += part
        history.append(torch.cat([v.reshape(len(tall.x), -1).double() for v in place.values.values()], -1))
        for d in [d for d, s in enumerate(keep) if s == step]:
            rows = slice((d % chains) * len(field.x), (d % chains + 1) * len(field.x))
            clean.append(mean[rows])
            noisy.append(place.x[rows])
    assert centre is not None
    return _gathered(field, chains, steps, centre, sums, history, torch.stack(clean), torch.stack(noisy), accepted)


def _step(field: Field, place: _Place, metropolis: bool) -> tuple[_Place, Tensor, Tensor, Any]:
    """One z and what it makes of the missing entries: the place, what was accepted (C B,), gen(z) and r."""
    layout, code = field.layout, (*field.layout.free, *field.layout.discrete)
    at = Field(field.pair, layout, place.x, field.y, field.seen)
    q = run(field.pair.guide, at.x, at.y, 1, {})
    values = {name: q[name]["value"] for name in code}
    taken = torch.ones(len(at.x), dtype=torch.bool, device=at.x.device)
    if metropolis:
        old = total(run(field.pair.guide, at.x, at.y, 1, place.values), code, 1, at.x)
        rise = _target(at, values) - _target(at, place.values) + old - total(q, code, 1, at.x)
        # Where both are impossible, or a number is none, the chain stays.
        taken = (torch.rand_like(rise).log() < rise.nan_to_num(nan=-torch.inf))[0]
        values = {
            name: torch.where(taken.reshape(1, -1, *[1] * (v.dim() - 2)), v, place.values[name])
            for name, v in values.items()
        }
    trace = at.model(values, 1)
    mean, fn = at.mean_of(trace, 1)[0], missing(trace)
    x = torch.where(field.seen, field.x, fn.sample().reshape(mean.shape))
    return _Place(values, x), taken, mean, fn


def _target(field: Field, values: Values) -> Tensor:
    """log p(code) p(x_obs | code) r(x_mis | code), (1, C B)."""
    found = field.at(values, 1)
    known = missing(found.trace).base_dist.log_prob(field.x)
    entries = torch.where(field.seen, found.entries, known)
    return found.prior + entries.double().sum(-1)


def missing(trace: Any) -> Any:
    """r(x_mis | z) of a run of the model; see :func:`~pyro_vaes.inference.completion.seen.stand_in`."""
    sites = {name: trace.nodes[name]["value"] for name in ("mu", "scale") if name in trace.nodes}
    return stand_in(sites, trace.nodes["x"]["fn"])


def _first(field: Field, tall: Field) -> Tensor:
    """What stands in for missing entries at the start, (C B, d): as given, then draws of the model."""
    sites = prior_sites(tall, 1, {})
    values = {name: sites[name]["value"] for name in (*field.layout.free, *field.layout.discrete)}
    x = torch.where(tall.seen, tall.x, missing(tall.model(values, 1)).sample().reshape(tall.x.shape))
    return torch.cat([field.x, x[len(field.x) :]])


def _repeated(field: Field, chains: int) -> Field:
    y = None if field.y is None else field.y.repeat(chains, 1)
    return Field(field.pair, field.layout, field.x.repeat(chains, 1), y, field.seen.repeat(chains, 1))


def _gathered(
    field: Field,
    chains: int,
    steps: int,
    centre: Tensor,
    sums: list[Tensor],
    history: list[Tensor],
    clean: Tensor,
    noisy: Tensor,
    accepted: Tensor,
) -> Walked:
    """All chains of a datum as one."""

    def over(rows: Tensor) -> Tensor:
        return rows.reshape(chains, len(field.x), -1).mean(0)

    first, second, noise = (part / steps for part in sums)
    mean = over(centre + first)
    # Within chains and between them.
    away = centre + first - mean.repeat(chains, 1)
    variance = over((second - first.square()).clamp(min=0)) + over(away.square())
    each = torch.stack(history).reshape(steps, chains, len(field.x), -1).permute(2, 1, 0, 3)
    scores = torch.tensor([mixing(one) for one in each], dtype=torch.float64, device=field.x.device)
    dtype = field.x.dtype
    rate = accepted.reshape(chains, -1).mean(0) / steps
    return Walked(
        mean.to(dtype),
        variance.sqrt().to(dtype),
        over(noise).to(dtype),
        clean,
        noisy,
        {"rhat": scores[:, 0], "ess": scores[:, 1], "accepted": rate},
    )
