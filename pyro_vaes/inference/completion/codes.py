"""Codes of p(z | x_seen): where a search for the likeliest ends, by importance, and by NUTS."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_vaes.inference.completion.chains import chain, mixing
from pyro_vaes.inference.completion.descent import Descent, descend
from pyro_vaes.inference.completion.field import Cost, Field, prior_sites
from pyro_vaes.inference.completion.local import local
from pyro_vaes.inference.completion.weighing import pick, weigh
from pyro_vaes.inference.densities import run, seed_at
from pyro_vaes.inference.posterior import codes_at_mean


class Budget(Protocol):
    """How much is done for a datum; see :func:`~pyro_vaes.inference.complete.complete`."""

    @property
    def steps(self) -> int: ...
    @property
    def restarts(self) -> int: ...
    @property
    def draws(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def prior_share(self) -> float | None: ...
    @property
    def chains(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def chunk(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def progress(self) -> bool: ...


class Codes(NamedTuple):
    """Codes with weights (S, B) that sum to one, states (S, B, k); some drawn by them, (D, B, k); how good they are."""

    state: Tensor
    weights: Tensor
    picked: Tensor
    scores: dict[str, Any]


def search(field: Field, cost: Cost, budget: Budget, start: int) -> tuple[Tensor, Descent]:
    """The ends of all restarts, best first, (R, B, k); and how they were reached."""
    state = starts(field, budget.restarts, (budget.seed, start))
    found = descend(lambda z: field.energy(z, cost), state, budget.steps)
    ends = found.trace[-1].nan_to_num(nan=torch.inf)
    if not ends.amin(0).isfinite().all():
        raise ArithmeticError("a completion has no finite energy at any of its starts")
    order = ends.argsort(0)
    return found.z.gather(0, order[..., None].expand_as(found.z)), found


def by_importance(field: Field, ranked: Tensor, budget: Budget, start: int, believed: bool = True) -> Codes:
    """Weigh codes of the prior, the guide and the Gaussian at the mode.

    Args:
        ranked: from :func:`search`. believed: show the guide the most likely completion, not what the field holds.
    """
    near = local(field, ranked[0])
    if believed:
        # A grey half is no datum that the guide knows.
        shown = torch.where(field.seen, field.x, field.generated(ranked[:1])[0])
        field = Field(field.pair, field.layout, shown, field.y, field.seen)
    found = weigh(field, near, budget.samples, budget.prior_share, budget.chunk, (budget.seed, start, 5))
    state = pick(found, budget.draws, (budget.seed, start, 6))
    return Codes(found.state, found.weights, state, {"ess": found.ess, "khat": found.khat, "shares": found.shares})


def by_nuts(field: Field, ranked: Tensor, budget: Budget, start: int) -> Codes:
    """Run the chains of one datum after the other."""
    rows: Iterable[int] = range(len(field.x))
    if budget.progress:
        from tqdm import tqdm

        rows = tqdm(rows, unit="datum")
    each, kept = [], -(-budget.samples // budget.chains)
    near = local(field, ranked[0])
    for i in rows:
        one, spread = field.only(i), None if near is None else near.only(i)
        each.append(torch.stack([chain(one, spread, ranked[c % len(ranked), i], kept, budget.warmup, budget.depth,
                                       (budget.seed, start + i, 8, c)) for c in range(budget.chains)]))  # fmt: skip
    scores = torch.tensor([mixing(chains) for chains in each], dtype=torch.float64, device=field.x.device)
    # Draws in turns from all chains.
    state = torch.stack([chains.transpose(0, 1).flatten(0, 1) for chains in each], 1)
    weights = torch.full_like(state[..., 0], 1 / len(state), dtype=torch.float64)
    chosen = torch.linspace(0, len(state) - 1, budget.draws).round().long()
    return Codes(state, weights, state[chosen], {"rhat": scores[:, 0], "ess": scores[:, 1]})


def starts(field: Field, restarts: int, where: tuple[int, ...]) -> Tensor:
    """The guide's mean code, then by turns a draw of the guide and one of the prior: (R, B, k)."""
    means = codes_at_mean(field.pair, field.x, field.y)
    found = [field.state({name: means[name][None] for name in field.layout.free})]
    for r in range(1, restarts):
        # A seed each: more restarts begin where fewer did.
        seed_at(*where, 4, r)
        q = {name: site["value"] for name, site in run(field.pair.guide, field.x, field.y, 1, {}).items()}
        if r % 2 == 0:
            others = {name: value for name, value in q.items() if name not in field.layout.free}
            q = {name: site["value"] for name, site in prior_sites(field, 1, others).items()}
        found.append(field.state({name: q[name] for name in field.layout.free}))
    return torch.cat(found)
