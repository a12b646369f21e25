"""Why a guide's bound lies below log p(x): the approximation gap and the amortisation gap."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.analysis.evidence import Component, evidence, gaussian, guide_of, student
from pyro_vaes.analysis.near import Near, near
from pyro_vaes.analysis.optimal import FAMILIES, MOST_FULL, Gaussian, best_gaussian
from pyro_vaes.analysis.target import Target, target
from pyro_vaes.errors import InputError, unknown, whole
from pyro_vaes.finding import Finding
from pyro_vaes.inference.densities import quietly, rehearsed, run
from pyro_vaes.pair import Pair

QUESTION = "is the guide's family too narrow, or its network too weak?"
GOOD, BAD = 0.125, 0.5  # nats per entry of the code


@dataclass(frozen=True)
class Gaps:
    """What :func:`gaps` found, each (N,), float64, in nats, with Monte-Carlo standard errors.

    Attributes:
        log_z: log p(x), up to a constant per datum where ``normalised`` is False; the constant cancels in the gaps.
        best: the bound of q*, the best Gaussian of ``family`` for the datum. bound: the guide's.
        approximation: log Z - bound(q*) = KL(q* || p): what no guide of the family could do better.
        amortisation: bound(q*) - bound(q): what the network loses against a fit to the one datum.
        khat: of the weights that log Z comes from; above 0.7 log Z is too low, and so is the approximation gap.
        q: the Gaussian q*, states on the real line. family: ``"diagonal"`` or ``"full"``.
        same: whether the guide is of that family. If not, q* is no best guide: the two gaps still add up to KL(q || p),
            and the amortisation gap is negative where the guide's own family is the richer one.
        normalised: whether log Z is a log-likelihood.

    Source: Cremer, Li & Duvenaud (2018), Eq. 4.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.gaps(pair, x[:2])
    >>> found.approximation.shape, found.normalised
    (torch.Size([2]), True)
    """

    log_z: Tensor
    log_z_se: Tensor
    best: Tensor
    best_se: Tensor
    bound: Tensor
    bound_se: Tensor
    approximation: Tensor
    approximation_se: Tensor
    amortisation: Tensor
    amortisation_se: Tensor
    khat: Tensor
    q: Gaussian
    family: str
    same: bool
    normalised: bool

    @property
    def total(self) -> Tensor:
        """(N,), log Z - bound(q) = KL(q || p)."""
        return self.log_z - self.bound

    def finding(self) -> Finding:
        """``good`` for a median KL(q || p) of at most 1/8 nat per entry of the code, ``caution`` to 1/2, else ``bad``.

        They are what a bias of half a standard deviation, and of a whole one, in every entry would cost: b^2 / 2.
        """
        k = self.q.loc.shape[1]
        sound = ~(self.khat > 0.7)
        names = ("total", "approximation", "amortisation")
        middle = {name: float(getattr(self, name)[sound].median()) if sound.any() else math.nan for name in names}
        numbers: dict[str, Any] = {"data": len(self.khat), "sound": int(sound.sum()), "entries": k, **middle}
        if 2 * int(sound.sum()) < len(sound):
            why = f"log p(x) of {int((~sound).sum())} of {len(sound)} data cannot be estimated (k-hat > 0.7)"
            return Finding("gaps", QUESTION, "not tested", why, numbers)
        each = middle["total"] / k
        verdict = "good" if each <= GOOD else "caution" if each <= BAD else "bad"
        parts = middle["amortisation"], middle["approximation"]
        # Two medians that are nearly alike do not say which to mend first.
        larger = "both" if max(parts) < 1.5 * min(parts) else "amortisation" if parts[0] > parts[1] else "approximation"
        what = {
            "amortisation": "train longer, or widen the encoder",
            "both": "train longer or widen the encoder, and try a richer family of guides",
            "approximation": "a richer family of guides would help more than a better encoder",
        }[larger]
        said = (
            f"KL(q || p) {middle['total']:.2f} nats for {k} entries, of which approximation "
            f"{middle['approximation']:.2f}, amortisation {middle['amortisation']:.2f} (medians)"
        )
        return Finding("gaps", QUESTION, verdict, said + ("" if verdict == "good" else f": {what}"), numbers)


def gaps(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 1000,
    family: str = "diagonal",
    particles: int = 64,
    steps: int = 150,
    proposal: tuple[Tensor, Tensor] | None = None,
    batch_size: int = 16,
    chunk: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Gaps:
    r"""Split what the guide's bound lacks into what its family and what its network cannot do.

    .. math:: \log Z - \mathrm{L}[q_\phi] = \underbrace{\log Z - \mathrm{L}[q^*]}_{\text{approximation}} +
              \underbrace{\mathrm{L}[q^*] - \mathrm{L}[q_\phi]}_{\text{amortisation}}, \qquad
              \mathrm{L}[q] = \mathrm{E}_q \log \frac{p(x, z)}{q(z)}, \quad q^* = \arg\max_{q \in Q} \mathrm{L}[q]

    Q are the Gaussians on the real line, with a diagonal or a full covariance; see
    :func:`~pyro_vaes.analysis.optimal.best_gaussian`. log Z comes from importance sampling of a mixture (guide, q* and
    a Student t at Laplace's approximation, in equal shares; see :func:`~pyro_vaes.analysis.evidence.evidence`). Bounds
    and log Z are of draws that nothing was fitted to.

    Args:
        x: (N, d), in the pair's range. y: conditions of a conditional pair.
        draws: S, of each bound and of log Z, at least 2. family: ``"diagonal"`` or ``"full"``.
        particles: fixed draws that q* is fitted with. steps: of L-BFGS, at most.
        proposal: mean (N, k) and covariance (N, k, k) of the posterior on the real line, of NUTS say, for a Student t
            of their own in the mixture.
        batch_size, chunk: data and draws at a time. seed: of all draws. progress: show a bar.

    Raises:
        InputError: for bad data or arguments, a discrete code, and a guide that is a point mass: it has no bound.

    Source: Cremer, Li & Duvenaud (2018), Eq. 3 to 7. Departs from them: q* is fitted by L-BFGS with the noise fixed
    instead of Adam, log Z is weighed from a mixture instead of being the better of AIS and IWAE, and the full Gaussian
    takes the place of their flow.

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> found = gaps(l2_vae(4, 2, (5,)), torch.rand(3, 4), draws=100, steps=20)
    >>> bool((found.amortisation > 0).all()), bool(found.approximation.abs().max() < 0.2), found.same
    (True, True, True)
    """
    whole("draws", draws, low=2), whole("particles", particles, low=2), whole("steps", steps, low=0)
    whole("batch_size", batch_size), whole("chunk", chunk), whole("seed", seed, low=0)
    if family not in FAMILIES:
        raise unknown("family", str(family), list(FAMILIES))
    t = target(pair, x, y, continuous=True)
    if t.sites.point_mass:
        raise InputError(f"the guide of {pair.name} puts a point mass on its code: it has no bound, and so no gap")
    if family == "full" and t.line.size > MOST_FULL:
        raise InputError(
            f"the code of {pair.name} has {t.line.size} entries: a full Gaussian takes at most {MOST_FULL}"
        )
    if proposal is not None:
        proposal = _proposal(proposal, len(x), t.line.size)
    starts: Any = range(0, len(x), batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, unit="batch")
    columns = []
    with quietly(pair):
        diagonal = is_diagonal(t)
        for start in starts:
            rows = slice(start, start + batch_size)
            given = None if proposal is None else (proposal[0][rows], proposal[1][rows])
            columns.append(_batch(t.only(rows), (seed, start), draws, family, particles, steps, given, chunk, diagonal))
    joined = [torch.cat(parts).cpu() for parts in zip(*columns, strict=True)]
    return Gaps(*joined[:-2], q=Gaussian(*joined[-2:]), family=family, same=diagonal, normalised=t.sites.normalised)  # type: ignore[misc, arg-type]


def _proposal(given: Any, rows: int, size: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance as they were given, or a refusal."""
    shapes = (rows, size), (rows, size, size)
    fits = isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(part, Tensor) for part in given)
    if not fits or tuple(tuple(part.shape) for part in given) != shapes:
        raise InputError(f"proposal must be a mean and a covariance, tensors of shape {shapes[0]} and {shapes[1]}")
    mean, covariance = given
    if not bool(mean.isfinite().all()) or bool(torch.linalg.cholesky_ex(covariance.double()).info.any()):
        raise InputError("proposal has a mean that is not finite, or a covariance that is not positive definite")
    return mean, covariance


def is_diagonal(t: Target) -> bool:
    """Whether the guide's code is one site of independent Normals: a diagonal Gaussian, given x."""
    _, q = rehearsed(t.pair, t.x, t.y)
    sites = [q[name]["fn"] for name in t.sites.code]
    base = [getattr(fn, "base_dist", fn) for fn in sites]
    return len(sites) == 1 and type(base[0]).__name__ == "Normal"


def _batch(
    t: Target,
    where: tuple[int, ...],
    draws: int,
    family: str,
    particles: int,
    steps: int,
    proposal: tuple[Tensor, Tensor] | None,
    chunk: int,
    diagonal: bool,
) -> tuple[Tensor, ...]:
    white = near(t, where)
    guide = exact_moments(t) if diagonal else Gaussian(white.mean, torch.diag_embed(white.sd))
    q = best_gaussian(t, guide, white, family, particles, steps, (*where, 4), keep=diagonal)
    log_z, log_z_se, khat = evidence(t, _mixture(t, q, white, proposal), draws, chunk, (*where, 5))
    # One stream of noise: where both are Gaussians, what it does to one bound it does to the other.
    best = weights_of(t, q, draws, chunk, (*where, 6))
    if diagonal:
        own = weights_of(t, guide, draws, chunk, (*where, 6))
        lost_se = _se(best - own)
    else:
        own = torch.cat([t.draw(min(chunk, draws - done), (*where, 7, done)).log_weights
                         for done in range(0, draws, chunk)])  # fmt: skip
        lost_se = (_se(best).square() + _se(own).square()).sqrt()
    upper, lower = best.mean(0), own.mean(0)
    lacks_se = (log_z_se.square() + _se(best).square()).sqrt()
    return (log_z, log_z_se, upper, _se(best), lower, _se(own), log_z - upper, lacks_se, upper - lower, lost_se, khat,
            q.loc, q.scale)  # fmt: skip


def _se(log_w: Tensor) -> Tensor:
    return log_w.std(0) / math.sqrt(len(log_w))


def exact_moments(t: Target) -> Gaussian:
    """The diagonal Gaussian that the guide is."""
    site = run(t.pair.guide, t.x, t.y, 1, {})[next(iter(t.sites.code))]
    shape = (len(t.x), t.line.size)
    mean, sd = (site["fn"].mean[0], site["fn"].stddev[0])
    return Gaussian(mean.double().reshape(shape), torch.diag_embed(sd.double().reshape(shape)))


def weights_of(t: Target, q: Gaussian, draws: int, chunk: int, where: tuple[int, ...]) -> Tensor:
    """log p(x, z) - log q(z) of draws of a Gaussian, (S, B)."""
    part = gaussian(q)
    found = []
    for done in range(0, draws, chunk):
        state = part.draw(min(chunk, draws - done), (*where, done))
        found.append(t.log_joint(state.to(t.x.dtype)) - part.log_prob(state))
    return torch.cat(found)


def _mixture(t: Target, q: Gaussian, white: Near, proposal: tuple[Tensor, Tensor] | None) -> list[Component]:
    found = [gaussian(q)]
    own = guide_of(t)
    found += [own] if own is not None else []
    if white.by == "laplace":
        found.append(student(white.centre, white.scale))
    if proposal is not None:
        mean, covariance = (p.double().to(t.x.device) for p in proposal)
        found.append(student(mean, torch.linalg.cholesky(covariance)))
    return found
