"""complete(pair, x, mask): the hidden entries of data, from the seen ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vaes.errors import InputError, number, said, unknown, whole
from pyro_vaes.inference.completion.codes import by_importance, by_nuts, search
from pyro_vaes.inference.completion.field import Cost, Field
from pyro_vaes.inference.completion.judge import judge_of
from pyro_vaes.inference.completion.seen import checked, filling
from pyro_vaes.inference.completion.sites import METHODS, Layout, layout
from pyro_vaes.inference.completion.weighing import moments
from pyro_vaes.inference.densities import quietly
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.pair import Pair

# NUTS takes a datum at a time, and minutes for a large network.
MOST_BY_NUTS = 64


@dataclass(frozen=True)
class Completed:
    """What :func:`complete` found. Seen entries are those of x in every image here, bit for bit.

    Attributes:
        mean: (B, d), the completion: for ``optimise`` gen(z*), else the posterior mean of gen(z) given the seen
            entries.
        draws: (S, B, d), completions: one for ``optimise``, else draws of the posterior.
        sd: (B, d), the posterior standard deviation of gen(z), 0 where seen: how unsure the completion is; NaN where
            hidden for ``optimise``, which does not know.
        z: site -> (S, B, ...), the codes of ``draws``.
        energy: (B,), the energy of the best code that the line search found.
        trace: (T + 1, B), the energies on the way there, which never rise.
        restarts: (R, B), where every restart ended.
        ess, khat, rhat: (B,), how good draws are, NaN where that does not apply. ``importance``: the effective
            sample size of the weights and Pareto's k-hat, above 0.7 of which the draws are not to be trusted.
            ``nuts``: the smallest effective sample size and the largest R-hat of all entries of a code.
        shares: of the codes that were weighed, how many came from the prior, the guide and the Gaussian at the mode.

    Source: Shang et al. (2017), Eq. 5 for the line search; the other methods name theirs.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> seen = torch.tensor([1.0, 1.0, 0.0, 0.0])
    >>> found = pv.complete(pair, x, seen)
    >>> bool((found.mean[:, :2] == x[:, :2]).all())
    True
    """

    mean: Tensor
    draws: Tensor
    sd: Tensor
    z: dict[str, Tensor]
    energy: Tensor
    trace: Tensor
    restarts: Tensor
    ess: Tensor
    khat: Tensor
    rhat: Tensor
    shares: dict[str, float] = attribute(default_factory=dict)


class _Plan(NamedTuple):
    """The arguments of :func:`complete` that concern no data."""

    method: str
    cost: Cost
    steps: int
    restarts: int
    draws: int
    samples: int
    prior_share: float | None
    chains: int
    warmup: int
    depth: int
    noise: bool
    chunk: int
    seed: int
    progress: bool


def complete(
    pair: Pair,
    x: Tensor,
    mask: Any,
    y: Tensor | None = None,
    *,
    method: str = "optimise",
    gamma: float | None = None,
    tau: float = 0.0,
    discriminator: nn.Module | None = None,
    steps: int = 100,
    restarts: int = 4,
    draws: int = 16,
    samples: int = 1000,
    prior_share: float | None = None,
    chains: int = 4,
    warmup: int = 200,
    depth: int = 6,
    noise: bool = False,
    fill: Tensor | None = None,
    chunk: int = 50,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Completed:
    r"""Complete data of which some entries are hidden. THE MASK IS 1 WHERE x IS SEEN, 0 WHERE IT IS HIDDEN.

    .. math:: \hat x = x \odot m + \mathrm{gen}(z) \odot (1 - m), \qquad
              E(z) = \|m \odot (\mathrm{gen}(z) - x)\|^2 - \gamma \log p(z) + \tau \log(1 - D(\mathrm{gen}(z)))

    gen(z) is the clean datum that the model makes of a code: the site ``mu`` if it records one, else the mean of its
    likelihood. ``optimise`` minimises E over z. ``importance`` and ``nuts`` draw z from its posterior given the seen
    entries, :math:`p(z | x_m) \propto p(z) \prod_{j: m_j = 1} p(x_j | z)`.

    Args:
        x: (B, d), in the pair's range, or uint8 pixels. Hidden entries are never read, and may be NaN.
        mask: (d,) or (B, d), 1 seen and 0 hidden. y: conditions, labels (B,) or (B, c), of a conditional pair.
        method: ``"optimise"``, ``"importance"`` or ``"nuts"``.
        gamma: None, the default, takes :math:`-\log p(x_m | z) - \log p(z)`, the pair's own negative log joint in
            nats, whose minimum is the MAP code given the seen entries; for a Normal likelihood of standard deviation
            sd it is Eq. 5 with gamma = 2 sd^2, over 2 sd^2. A number of at least 0 takes the squares of Eq. 5,
            whatever the likelihood; pairs without a normalised density (``ic_vae``) have only these. On pixels in
            [-1, 1], as the paper's, squares are four times those on [0, 1], and so is gamma.
        tau: at least 0, the weight of the discriminator's part (0: no part). In nats where gamma is None.
        discriminator: D, a module (n, d) -> logits (n,), above 0 for real; by default the objective's own, if it has
            one for data and not for codes.
        steps: of L-BFGS, at most. restarts: from the guide's mean code, then by turns from its draws and the prior's.
        draws: S, completions that the samplers give.
        samples: codes that are weighed (``importance``), or kept over all chains (``nuts``).
        prior_share: in [0, 1], of weighed codes that come from the prior; see
            :func:`~pyro_vaes.inference.completion.weighing.weigh` for that, and for where the others come from.
        chains, warmup, depth: of NUTS: chains per datum, steps thrown away per chain, largest depth of a tree.
        noise: draws are of x itself instead of gen(z), with the likelihood's noise; sd and mean remain those of gen(z).
        fill: (d,) or (B, d), what the guide is shown at hidden entries before a completion is known; by default the
            mean of 64 draws of the model. A guide that was trained on corrupted input is shown the filled-in data too.
        chunk: codes at a time. batch_size: data at a time. seed: of everything drawn; progress: show a bar.

    For ``importance`` the guide is shown the completion of ``optimise``. It believes it, hidden entries and all, so
    that it is surer of the code than the seen entries alone allow; up to 128 entries of a code a Gaussian at the mode,
    with the curvature there, proposes codes too, and sets the scale for NUTS. k-hat and R-hat say where all that is not
    enough. Draws of one mode know nothing of others that neither restarts nor chains have found.
    In a hierarchy log p(z) is that of all codes, as z_1 given z_2. A positive code is moved as its logarithm, and its
    density is that of the logarithm.

    Raises:
        InputError: for bad data, masks or arguments, and for a pair that cannot be completed: a discrete code, a
            likelihood that is no density entry by entry, a point mass in the guide (``importance``), more than 64 data
            (``nuts``).

    Source: Shang, Sohn, Akata & Tian (2017), 4.3, Eq. 5. Departs from it: the sign of the prior's term (as printed the
    minimum lies at infinitely unlikely codes); gamma and tau, which it does not give; the line search; and the two
    samplers, which it has not.

    >>> from pyro_vaes.variants import gaussian_vae
    >>> x = torch.tensor([[0.5, 0.25, torch.nan, torch.nan]])
    >>> found = complete(gaussian_vae(4, 2, (5,)), x, [1, 1, 0, 0], steps=5)
    >>> found.mean.isfinite().all().item(), found.mean[0, :2].tolist(), found.trace.shape[1]
    (True, [0.5, 0.25], 1)
    """
    if method not in METHODS:
        raise unknown("method", str(method), METHODS)
    cost = _cost(method, gamma, tau)
    plan = _Plan(method, cost, steps, restarts, draws, samples, prior_share, chains, warmup, depth, noise, chunk, seed,
                 progress)  # fmt: skip
    _check(plan, batch_size)
    rows, seen = checked(pair, x, mask)
    if method == "nuts" and len(rows) > MOST_BY_NUTS:
        raise InputError(f"x holds {len(rows)} data: nuts takes a datum at a time, and at most {MOST_BY_NUTS}")
    y = check_condition(pair, rows, y)
    sites = layout(pair, rows, y, method, squares=cost.gamma is not None)
    with quietly(pair):
        if tau:
            plan = plan._replace(cost=cost._replace(discriminator=judge_of(pair, discriminator)))
        rows = torch.where(seen, rows, filling(pair, rows, y, fill, seed))
        parts = [
            _batch(pair, sites, plan, *batch)
            for batch in _batches(rows, seen, y, batch_size, progress and method != "nuts")
        ]
    return _joined(parts)


def _cost(method: str, gamma: float | None, tau: float) -> Cost:
    if method != "optimise" and (gamma is not None or tau != 0):
        raise InputError(f"gamma and tau are of method 'optimise': {method!r} takes the pair's own likelihood")
    return Cost(None if gamma is None else number("gamma", gamma), number("tau", tau), None)


def _check(plan: _Plan, batch_size: int) -> None:
    for name in ("restarts", "draws", "chains", "warmup", "chunk"):
        whole(name, getattr(plan, name), high=10**6)
    whole("batch_size", batch_size), whole("seed", plan.seed, low=0), whole("steps", plan.steps, low=0)
    whole("samples", plan.samples, low=max(2, plan.chains if plan.method == "nuts" else 2), high=10**7)
    whole("depth", plan.depth, high=12)
    if plan.prior_share is not None and not 0 <= number("prior_share", plan.prior_share) <= 1:
        raise InputError(f"prior_share is {plan.prior_share}: it must lie in [0, 1]")
    if not isinstance(plan.noise, bool):
        raise InputError(f"noise is {said(plan.noise)}: it must be True or False")
    if plan.noise and plan.method == "optimise":
        raise InputError("noise is of posterior draws: method 'optimise' has none")


def _batches(
    x: Tensor, seen: Tensor, y: Tensor | None, batch_size: int, progress: bool
) -> Iterator[tuple[int, Tensor, Tensor | None, Tensor]]:
    starts = range(0, len(x), batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, unit="batch")
    for start in starts:
        rows = slice(start, start + batch_size)
        yield start, x[rows], None if y is None else y[rows], seen[rows]


def _batch(pair: Pair, sites: Layout, plan: _Plan, start: int, x: Tensor, y: Tensor | None, seen: Tensor) -> Completed:
    field = Field(pair, sites, x, y, seen)
    ranked, found = search(field, plan.cost, plan, start)
    best = found.trace[-1].nan_to_num(nan=torch.inf).argmin(0)
    trace = found.trace.gather(1, best[None, None].expand(len(found.trace), 1, -1))[:, 0]
    state, mean, sd, scores = _drawn(field, ranked, plan, start)
    images = field.noisy(state, (plan.seed, start, 7)) if plan.noise else field.generated(state)
    nothing = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    return Completed(
        torch.where(seen, x, mean),
        torch.where(seen, x, images),
        torch.where(seen, 0.0, sd),
        field.values(state)[0],
        trace[-1],
        trace,
        found.trace[-1].nan_to_num(nan=torch.inf),
        **({"ess": nothing, "khat": nothing, "rhat": nothing} | scores),
    )


def _drawn(field: Field, ranked: Tensor, plan: _Plan, start: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Codes, mean and standard deviation of gen(z), and how good they are."""
    if plan.method == "optimise":
        mean = field.generated(ranked[:1])[0]
        return ranked[:1], mean, torch.full_like(mean, torch.nan), {}
    found = (by_importance if plan.method == "importance" else by_nuts)(field, ranked, plan, start)
    mean, sd = moments(field, found.state, found.weights, plan.chunk)
    return found.picked, mean, sd, found.scores


def _joined(parts: list[Completed]) -> Completed:
    """Batches side by side; a trace that ended early stays where it ended."""
    longest = max(len(part.trace) for part in parts)
    traces = [torch.cat([p.trace, p.trace[-1:].expand(longest - len(p.trace), -1)]) for p in parts]
    along = {"draws": 1, "restarts": 1}
    columns = {
        name: torch.cat([getattr(p, name) for p in parts], along.get(name, 0))
        for name in ("mean", "draws", "sd", "energy", "restarts", "ess", "khat", "rhat")
    }
    z = {name: torch.cat([p.z[name] for p in parts], 1) for name in parts[0].z}
    return Completed(**columns, z=z, trace=torch.cat(traces, 1), shares=parts[0].shares)
