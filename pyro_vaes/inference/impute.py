"""impute(pair, x): the missing entries of data, drawn given the observed ones."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number, room, said, unknown, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.completion.codes import Codes, by_importance, by_nuts, search
from pyro_vaes.inference.completion.field import Cost, Field
from pyro_vaes.inference.completion.gibbs import missing, walk
from pyro_vaes.inference.completion.seen import filling, observed
from pyro_vaes.inference.completion.sites import Layout, layout
from pyro_vaes.inference.completion.weighing import scores_codes
from pyro_vaes.inference.densities import quietly, seed_at
from pyro_vaes.inference.guard import as_batch, check_condition
from pyro_vaes.pair import Pair

METHODS = ("importance", "metropolis", "gibbs", "nuts", "optimise")
# NUTS takes a datum at a time, and minutes for a large network.
MOST_BY_NUTS = 64
KHAT, RHAT, FEW = 0.7, 1.05, 0.1


@dataclass(frozen=True)
class Imputed:
    """What :func:`impute` found. Observed entries are those of x in every image here, bit for bit.

    Attributes:
        mean: (N, d), the posterior mean of missing entries; for ``optimise`` gen(z) at the likeliest code.
        sd: (N, d), their posterior standard deviation, with the noise of an entry or without as was asked for; 0 where
            observed, NaN where missing for ``optimise``, which does not know.
        draws: (S, N, d), data with their missing entries drawn together.
        observed: (N, d), True where observed.
        ess, khat, rhat, accepted: (N,), how good the draws are, NaN where that does not apply, as for whole data.
            ``importance``: effective sample size and k-hat. Chains: the largest R-hat and smallest effective sample
            size of all entries of a code; the share of proposals that ``metropolis`` took.
        method: as given.

    Source: that of the method, see :func:`impute`.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> x[0, 1] = torch.nan
    >>> found = pv.impute(pair, x)
    >>> found.mean.shape, bool(found.observed[0, 1])
    (torch.Size([6, 4]), False)
    """

    mean: Tensor
    sd: Tensor
    draws: Tensor
    observed: Tensor
    ess: Tensor
    khat: Tensor
    rhat: Tensor
    accepted: Tensor
    method: str

    def finding(self) -> Finding:
        """Say whether the imputations follow the model's posterior.

        ``importance`` goes by k-hat, 0.7 (Vehtari et al., 2024); ``metropolis`` and ``nuts`` by R-hat, 1.05, the limit
        for short chains (Vehtari et al., 2021, ask for 1.01 of long ones). Good if no datum is above it, caution if at
        most a tenth are, else bad. Pseudo-Gibbs is never good, and ``optimise`` draws nothing. None of it says whether
        the model is right.

        >>> from pyro_vaes.variants import l2_vae
        >>> found = impute(l2_vae(3, 2, (4,)), torch.tensor([[0.5, torch.nan, 0.25]]), method="optimise", steps=2)
        >>> found.finding().verdict
        'not tested'
        """
        rows = ~self.observed.all(1)
        n, asked = int(rows.sum()), "do imputed values follow the model's posterior?"

        def verdict(kind: str, words: str, **numbers: Any) -> Finding:
            return Finding("imputation", asked, kind, words, {"method": self.method, "data": n, **numbers})

        if not n:
            return verdict("not tested", "nothing was missing")
        if self.method == "optimise":
            return verdict("not tested", "one likeliest value each, without its uncertainty: use importance for draws")
        score, limit = (self.khat[rows], KHAT) if self.method == "importance" else (self.rhat[rows], RHAT)
        name = "k-hat" if self.method == "importance" else "R-hat"
        if score.isnan().all():
            return verdict("not tested", f"too few draws for {name}: take more samples")
        above = int((~(score <= limit)).sum())
        worst = float(score.nan_to_num(nan=torch.inf).max())
        numbers = {"above": above, "limit": limit, "worst": worst}
        if self.method == "gibbs":
            mixed = f"{name} above {limit} for {above} of {n} data"
            words = f"pseudo-Gibbs is right only where the guide is exact, which {name} cannot see ({mixed}): "
            return verdict("caution" if above <= FEW * n else "bad", words + "use metropolis", **numbers)
        kind = "good" if not above else "caution" if above <= FEW * n else "bad"
        if not above:
            own = " (of codes sought for each datum, not only the guide's)" if name == "k-hat" else ""
            said = f"{name} at most {worst:.2f} for all {n} data with missing entries{own}: draws and sd can be used"
            return verdict(kind, said, **numbers)
        other = "metropolis or nuts" if self.method == "importance" else "more samples"
        return verdict(kind, f"{name} above {limit} for {above} of {n} data: for these use {other}", **numbers)


class _Plan(NamedTuple):
    """The arguments of :func:`impute` that concern no data."""

    method: str
    draws: int
    samples: int
    chains: int
    warmup: int
    noise: bool
    steps: int
    restarts: int
    prior_share: float | None
    depth: int
    chunk: int
    seed: int
    progress: bool


class _Part(NamedTuple):
    """What was found for a batch: (B, d), (B, d), (S, B, d), and (B,) by name."""

    mean: Tensor
    sd: Tensor
    draws: Tensor
    scores: dict[str, Tensor]


def impute(
    pair: Pair,
    x: Tensor,
    mask: Any = None,
    y: Tensor | None = None,
    *,
    method: str = "importance",
    draws: int = 16,
    samples: int = 1000,
    chains: int = 4,
    warmup: int = 200,
    noise: bool = True,
    steps: int = 100,
    restarts: int = 4,
    prior_share: float | None = None,
    depth: int = 6,
    fill: Tensor | None = None,
    chunk: int = 50,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Imputed:
    r"""Draw the missing entries of data given the observed ones. NaN is missing; A MASK IS 1 WHERE x IS OBSERVED.

    .. math:: p(x_{mis} \mid x_{obs}) = \int p(x_{mis} \mid z)\, p(z \mid x_{obs})\, \mathrm{d}z, \qquad
              p(z | x_{obs}) \propto p(z) \prod_{j: m_j = 1} p(x_j | z)

    =============  =====================================================  ==============================
    method         how z is drawn                                         targets p(z | x_obs)
    =============  =====================================================  ==============================
    importance     codes of prior, guide and a Gaussian at the mode,      yes, where k-hat is below 0.7
                   weighed by the observed entries
    metropolis     z and x_mis in turns; z from the guide at the          yes, for any guide; slow where
                   filled-in datum, accepted or refused                   the guide is far off
    gibbs          the same, and every z is taken (pseudo-Gibbs)          only for an exact guide
    nuts           Hamiltonian chains, a datum at a time: the reference   yes, where R-hat is near 1
    optimise       the likeliest code; one value, no uncertainty          its mode
    =============  =====================================================  ==============================

    ``complete`` is for images of which a region is hidden, with costs to choose from; the searches and weights are the
    same. Pairs that it refuses are taken here: the posterior of a code needs no normalised density, so that outliers
    (``ic_vae``) and covariances (``indexed_ic_vae``) are profiled out at observed entries, and codes with classes
    (``m2_vae``) are for ``gibbs`` and ``metropolis``. In models with outliers, observed ones count for little, and what
    is imputed is clean: N(mu, scale^2), with the model's size of an ordinary residual.

    A datum with nothing missing comes back bit for bit; one with everything missing is drawn from the model.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels. Missing entries are never read.
        mask: (d,) or (N, d), 1 observed and 0 missing, beside NaN; None: NaN only.
        y: conditions, labels (N,) or (N, c), of a conditional pair.
        draws: S, imputed data that are kept. samples: codes that are weighed, or kept over all chains.
        chains, warmup: of the chains; warmup steps of each are thrown away.
        noise: draws and sd are of x itself; False: of its mean given the code, gen(z).
        steps, restarts, prior_share, depth: as of :func:`~pyro_vaes.inference.complete.complete`.
        fill: (d,) or (N, d), what the guide is shown at missing entries at first; by default the fill of
            :class:`~pyro_vaes.inference.masked.Masked` where the pair was trained with it, else the mean of the model.
        chunk: codes at a time. batch_size: data at a time. seed: of everything drawn; progress: show a bar.

    Raises:
        InputError: for bad data, masks or arguments, and for a pair that a method cannot serve: a likelihood that is no
            density entry by entry, a point mass for a code (``importance``, ``metropolis``), a guide that cannot score
            a given code (``metropolis``), classes in the code (the others), more than 64 data (``nuts``).

    Source: Rezende, Mohamed & Wierstra (2014), on missing data (pseudo-Gibbs); Mattei & Frellsen (2018), Alg. 1
    (Metropolis within Gibbs); Mattei & Frellsen (2019), 3, for weights from a guide trained with missing entries.

    >>> from pyro_vaes.variants import l2_vae
    >>> x = torch.tensor([[0.5, torch.nan, 0.25], [0.1, 0.2, 0.3]])
    >>> found = impute(l2_vae(3, 2, (4,)), x, method="gibbs", samples=40, warmup=10)
    >>> found.mean.isfinite().all().item(), found.mean[1].tolist() == x[1].tolist(), found.draws.shape
    (True, True, torch.Size([16, 2, 3]))
    """
    if method not in METHODS:
        raise unknown("method", str(method), METHODS)
    plan = _Plan(
        method, draws, samples, chains, warmup, noise, steps, restarts, prior_share, depth, chunk, seed, progress
    )
    _check(plan, batch_size)
    rows, seen = observed(pair, x, mask)
    y = check_condition(pair, rows, y)
    sites = layout(pair, rows, y, method, kernels=True, classes=method in ("gibbs", "metropolis"))
    if fill is not None:
        filling(pair, rows, y, fill, seed)
    holes = (~seen.all(1)).nonzero()[:, 0]
    if method == "nuts" and len(holes) > MOST_BY_NUTS:
        raise InputError(
            f"{len(holes)} data have missing entries: nuts takes a datum at a time, {MOST_BY_NUTS} at most"
        )
    code = sum(math.prod(shape) for shape in sites.free.values())
    kept = min(batch_size, len(holes)) * samples * (16 * code + 64) + 8 * draws * rows.numel()
    room(f"{samples:,} samples and {draws:,} draws of {len(holes):,} data", kept, "take fewer")
    some = rows[holes], seen[holes], None if y is None else y[holes]
    parts = []
    with quietly(pair):
        if len(holes):
            guess, own = _guess(pair, fill if fill is None or fill.dim() == 1 else fill[holes], *some, seed)
            filled = torch.where(some[1], some[0], guess)
            parts = list(_parts(pair, sites, plan, own, filled, some[1], some[2], batch_size))
    return _whole(as_batch(x), seen, holes, plan, parts)


def _check(plan: _Plan, batch_size: int) -> None:
    for name in ("restarts", "draws", "chains", "chunk"):
        whole(name, getattr(plan, name), high=10**6)
    whole("warmup", plan.warmup, low=1 if plan.method == "nuts" else 2, high=10**6)
    whole("batch_size", batch_size), whole("seed", plan.seed, low=0), whole("steps", plan.steps, low=0)
    whole("samples", plan.samples, low=max(2, plan.chains), high=10**7)
    whole("depth", plan.depth, high=12)
    if plan.prior_share is not None and not 0 <= number("prior_share", plan.prior_share) <= 1:
        raise InputError(f"prior_share is {plan.prior_share}: it must lie in [0, 1]")
    if not isinstance(plan.noise, bool):
        raise InputError(f"noise is {said(plan.noise)}: it must be True or False")


def _guess(
    pair: Pair, fill: Tensor | None, x: Tensor, seen: Tensor, y: Tensor | None, seed: int
) -> tuple[Tensor, bool]:
    """What stands in for missing entries at first, and whether the guide knows it from its training."""
    known = getattr(pair.objective, "missing_fill", None)
    if fill is None and known is not None:
        return known.to(x).expand(x.shape), True
    return filling(pair, x, y, fill, seed), False


def _parts(pair: Pair, sites: Layout, plan: _Plan, own: bool, x: Tensor, seen: Tensor, y: Any, batch_size: int):
    starts: Any = range(0, len(x), batch_size)
    if plan.progress and plan.method != "nuts":
        from tqdm import tqdm

        starts = tqdm(starts, unit="batch")
    for start in starts:
        rows = slice(start, start + batch_size)
        field = Field(pair, sites, x[rows], None if y is None else y[rows], seen[rows])
        if plan.method in ("gibbs", "metropolis"):
            yield _walked(field, plan, start)
        else:
            yield _weighed(field, plan, start, own)


def _walked(field: Field, plan: _Plan, start: int) -> _Part:
    metropolis = plan.method == "metropolis"
    if metropolis and not scores_codes(field):
        raise InputError(f"the guide of {field.pair.name} scores its own draws only: use importance, gibbs or nuts")
    where = (plan.seed, start, 10)
    found = walk(field, metropolis, plan.samples, plan.chains, plan.warmup, plan.draws, where)
    sd = (found.sd.square() + found.noise).sqrt() if plan.noise else found.sd
    scores = found.scores if metropolis else {n: s for n, s in found.scores.items() if n != "accepted"}
    return _Part(found.mean, sd, found.noisy if plan.noise else found.clean, scores)


def _weighed(field: Field, plan: _Plan, start: int, own: bool) -> _Part:
    ranked, _ = search(field, Cost(None, 0.0, None), plan, start)
    if plan.method == "optimise":
        mean = field.generated(ranked[:1])[0]
        return _Part(mean, torch.full_like(mean, torch.nan), _images(field, ranked[:1], plan._replace(noise=False)), {})
    if plan.method == "importance":
        found = by_importance(field, ranked, plan, start, believed=not own)
    else:
        found = by_nuts(field, ranked, plan, start)
    seed_at(plan.seed, start, 7)
    scores = {name: score for name, score in found.scores.items() if name != "shares"}
    return _Part(*_moments(field, found, plan), _images(field, found.picked, plan), scores)


def _images(field: Field, state: Tensor, plan: _Plan) -> Tensor:
    """What codes (S, B, k) make of the entries, a few at a time, (S, B, d)."""
    found = []
    for part in state.split(plan.chunk):
        trace = field.model(field.values(part)[0], len(part))
        mean = field.mean_of(trace, len(part))
        found.append(missing(trace).sample().reshape(mean.shape) if plan.noise else mean)
    return torch.cat(found)


def _moments(field: Field, found: Codes, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of missing entries under weighed codes, each (B, d)."""
    first, second, noise = (torch.zeros_like(field.x, dtype=torch.float64) for _ in range(3))
    # Deviations from one code's image, not raw values: their squares do not cancel.
    centre = field.generated(found.state[:1])[0].double()
    for state, weights in zip(found.state.split(plan.chunk), found.weights.split(plan.chunk), strict=True):
        trace = field.model(field.values(state)[0], len(state))
        off, w = field.mean_of(trace, len(state)).double() - centre, weights[..., None]
        first, second = first + (w * off).sum(0), second + (w * off.square()).sum(0)
        noise = noise + (w * missing(trace).variance.expand(off.shape).double()).sum(0)
    variance = (second - first.square()).clamp(min=0) + (noise if plan.noise else 0.0)
    return (centre + first).to(field.x.dtype), variance.sqrt().to(field.x.dtype)


def _whole(x: Tensor, seen: Tensor, holes: Tensor, plan: _Plan, parts: list[_Part]) -> Imputed:
    """All data, those with nothing missing as they were."""
    count = 1 if plan.method == "optimise" else plan.draws
    mean, sd, draws = x.clone(), torch.zeros_like(x), x.expand(count, *x.shape).clone()
    nothing = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    scores = {name: nothing.clone() for name in ("ess", "khat", "rhat", "accepted")}
    if parts:
        known = seen[holes]
        mean[holes] = torch.where(known, x[holes], torch.cat([p.mean for p in parts]))
        sd[holes] = torch.where(known, 0.0, torch.cat([p.sd for p in parts]))
        draws[:, holes] = torch.where(known, x[holes], torch.cat([p.draws for p in parts], 1))
        for name in parts[0].scores:
            scores[name][holes] = torch.cat([p.scores[name] for p in parts]).to(x.device)
    return Imputed(mean, sd, draws, seen, **scores, method=plan.method)
